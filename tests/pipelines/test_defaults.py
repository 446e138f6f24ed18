"""`apply_lml(pipe)` and nothing else, on every kind of pipeline."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
from diffusers import (
    DDIMScheduler,
    DDPMScheduler,
    FlowMatchEulerDiscreteScheduler,
    UniPCMultistepScheduler,
)

from lmlangevin import LMLError, apply_lml, remove_lml, with_lml
from pipeline_matrix import DEFAULTS, OWN, Cell
from tiny_pipelines import KINDS

Run = Callable[..., torch.Tensor]
Loaded = Callable[..., Any]
Notices = Callable[[], list[str]]


def test_what_each_kind_gets(kind: str, loaded: Loaded, run: Run, notices: Notices) -> None:
    entry, default = KINDS[kind], DEFAULTS[kind]
    steps = Cell(kind, OWN, entry.prediction_type).steps
    pipe = loaded(kind)
    own = type(pipe.scheduler)
    config = {key: value for key, value in pipe.scheduler.config.items() if key[0] != "_"}
    plain = run(pipe, entry, steps=steps)
    assert apply_lml(pipe) is pipe
    said = notices()
    assert sum(default.notice in notice for notice in said) == 1 and all("\n" not in notice for notice in said)
    assert any("scheduler=" in notice or "gain=" in notice for notice in said)  # the remedy
    scheduler = pipe.scheduler
    assert type(scheduler) is with_lml(getattr(diffusers, default.scheduler))
    assert (scheduler.config.control, scheduler.config.gain) == (default.control, default.gain)
    first, second = run(pipe, entry, steps=steps), run(pipe, entry, steps=steps)
    assert torch.equal(first, second) and first.isfinite().all()
    assert torch.equal(first, plain) == (default.gain == 0)
    remove_lml(pipe)
    assert type(pipe.scheduler) is own
    assert {key: value for key, value in pipe.scheduler.config.items() if key[0] != "_"}.items() >= config.items()
    assert torch.equal(run(pipe, entry, steps=steps), plain)


# DDPM: a sampler that draws noise -------------------------------------------------------------------------------------


def test_ddim_stands_in_for_ddpm(loaded: Loaded, notices: Notices) -> None:
    pipe = loaded("ddpm")
    before = pipe.scheduler.config
    apply_lml(pipe)
    assert [notice for notice in notices() if "DDIMScheduler" in notice and "remove_lml gives it back" in notice]
    for key in ("beta_start", "beta_end", "beta_schedule", "clip_sample", "prediction_type", "num_train_timesteps"):
        assert pipe.scheduler.config[key] == before[key]
    # Applied again it is chosen again; with settings of one's own the pipeline's scheduler is kept, as in a first call.
    assert type(apply_lml(pipe).scheduler) is with_lml(DDIMScheduler)
    apply_lml(pipe, gain=0.2)
    assert type(pipe.scheduler) is with_lml(DDPMScheduler) and pipe.scheduler.config.gain == 0.2
    assert type(remove_lml(pipe).scheduler) is DDPMScheduler
    apply_lml(pipe)
    assert type(remove_lml(apply_lml(pipe, scheduler="dpmpp-2m", gain=0.1)).scheduler) is DDPMScheduler


@pytest.mark.parametrize(
    ("keys", "gain"),
    [({"gain": 0.3}, 0.3), ({"kappa": 0.3}, None), ({"rank": 2}, 0.0), ({"control": "constant"}, 0.0)],
    ids=str,
)
def test_an_own_setting_keeps_ddpm(keys: dict[str, Any], gain: float | None, loaded: Loaded, notices: Notices) -> None:
    pipe = apply_lml(loaded("ddpm"), **keys)
    assert type(pipe.scheduler) is with_lml(DDPMScheduler) and pipe.scheduler.config.gain == gain
    assert any("No gain was measured for DDPMScheduler" in notice for notice in notices()) == (gain == 0)
    assert type(remove_lml(pipe).scheduler) is DDPMScheduler


def test_a_named_ddpm_is_kept(loaded: Loaded) -> None:
    assert type(apply_lml(loaded("ddpm"), scheduler=DDPMScheduler).scheduler) is with_lml(DDPMScheduler)


@pytest.mark.parametrize("variance", ["learned", "learned_range"])
def test_ddim_cannot_read_a_learned_variance(variance: str, loaded: Loaded) -> None:
    pipe = apply_lml(loaded("ddpm", variance_type=variance))
    assert type(pipe.scheduler) is with_lml(DDPMScheduler) and pipe.scheduler.config.gain == 0


def test_ddpm_of_other_pipelines_is_kept(loaded: Loaded, notices: Notices) -> None:
    """Whether DDIM may stand in for it was measured on unconditional pixel models alone."""
    pipe = loaded("sd15")
    pipe.scheduler = DDPMScheduler.from_config(pipe.scheduler.config)
    apply_lml(pipe)
    assert type(pipe.scheduler) is with_lml(DDPMScheduler) and pipe.scheduler.config.gain == 0
    assert len(notices()) == 1 and "scheduler='ddim'" in notices()[0]


def test_what_was_chosen_is_saved(loaded: Loaded, run: Run, tmp_path: Path) -> None:
    pipe = apply_lml(loaded("ddpm"))
    image = run(pipe, KINDS["ddpm"])
    pipe.save_pretrained(tmp_path)
    again: Any = diffusers.DiffusionPipeline.from_pretrained(tmp_path)
    again.set_progress_bar_config(disable=True)
    assert type(again.scheduler) is with_lml(DDIMScheduler) and again.scheduler.config.gain == DEFAULTS["ddpm"].gain
    assert torch.allclose(run(again, KINDS["ddpm"]), image, atol=1e-4)
    assert type(remove_lml(again).scheduler) is DDIMScheduler  # what it stood in for is not saved


@pytest.mark.parametrize("name", ["unipc", "deis", "pndm", "euler"])
def test_the_loop_of_ddpm_takes_few_samplers(name: str, loaded: Loaded) -> None:
    pipe = loaded("ddpm")
    before = pipe.scheduler
    with pytest.raises(LMLError, match="passes a generator to every step and scales no input; give 'ddim'"):
        apply_lml(pipe, scheduler=name)
    assert pipe.scheduler is before


# Flows ----------------------------------------------------------------------------------------------------------------


def test_an_unmeasured_flow_sampler_is_left_as_it_is(loaded: Loaded, notices: Notices) -> None:
    for kind, name in (("wan", None), ("sd3", "flow-unipc"), ("flux", "flow-dpmpp-2m")):
        config = apply_lml(loaded(kind), scheduler=name).scheduler.config
        assert (config.gain, config.preset, config.control) == (0.0, None, "constant")
    assert len(notices()) == 3 and all("scheduler='flow-euler', which was measured" in said for said in notices())


def test_the_shift_goes_with_the_model(loaded: Loaded) -> None:
    euler = apply_lml(loaded("wan"), scheduler="flow-euler").scheduler
    assert isinstance(euler, FlowMatchEulerDiscreteScheduler) and euler.config.shift == 3.0
    assert euler.config.gain == 0.35 and euler.config.preset.endswith("/FlowMatchEulerDiscreteScheduler/flow/halved")
    euler.set_timesteps(4)
    expected = FlowMatchEulerDiscreteScheduler(shift=3.0)
    expected.set_timesteps(4)
    assert torch.equal(euler.sigmas, expected.sigmas)
    unipc = apply_lml(loaded("sd3"), scheduler="flow-unipc").scheduler
    assert isinstance(unipc, UniPCMultistepScheduler) and unipc.config.flow_shift == 3.0


@pytest.mark.parametrize("kind", [name for name, kind in KINDS.items() if kind.flow])
@pytest.mark.parametrize("control", ["constant", "adaptive"])
def test_flows_with_either_control(kind: str, control: str, loaded: Loaded, run: Run) -> None:
    entry = KINDS[kind]
    pipe = loaded(kind)
    plain = run(pipe, entry, steps=8)
    apply_lml(pipe, control=control, gain=0.35 if control == "constant" else None, record=True)
    first = run(pipe, entry, steps=8)
    assert first.isfinite().all() and not torch.equal(first, plain)
    assert torch.equal(run(pipe, entry, steps=8), first) and len(pipe.scheduler.lml_history) == 8

"""Configurations there and back, presets resolved and kept, saving, pickling, copying."""

from __future__ import annotations

import copy
import json
import pickle
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
from diffusers import (
    DDIMScheduler,
    DEISMultistepScheduler,
    DPMSolverMultistepScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    PNDMScheduler,
    UniPCMultistepScheduler,
)

from lmlangevin import LMLError, with_lml
from lmlangevin.schedulers import find_preset, presets
from lmlangevin.schedulers.mixin import LML_DEFAULTS

DDIM_LML: Any = with_lml(DDIMScheduler)
DPM_LML: Any = with_lml(DPMSolverMultistepScheduler)


def disk(config: Any) -> dict[str, Any]:
    """A configuration as it comes back from a file: nothing is known to be a default."""
    return json.loads(json.dumps({k: v for k, v in config.items() if k != "_use_default_values"}))


# Presets ------------------------------------------------------------------------------------------------------------


def test_a_preset_is_resolved_and_labelled(table: Any) -> None:
    made = DDIM_LML()
    assert (made.config.gain, made.config.preset) == (0.5, "test-1/DDIMScheduler/leading")
    assert DDIM_LML(timestep_spacing="trailing").config.gain == 0.25
    assert DPM_LML(use_lu_lambdas=True).config.gain == -0.125
    flow: Any = with_lml(FlowMatchEulerDiscreteScheduler)
    assert flow().config.gain == 0.875 and flow(use_karras_sigmas=True).config.gain == 0.21875
    assert find_preset(DDIMScheduler, DDIMScheduler().config).gain == 0.5
    half = find_preset(DDIMScheduler, DDIMScheduler().config, halved=True)
    assert half == (0.25, "test-1/DDIMScheduler/leading/halved")


def test_an_unmeasured_combination_asks_for_a_gain(table: Any) -> None:
    with pytest.raises(LMLError, match="no preset was measured for PNDMScheduler on the trailing grid; give gain="):
        with_lml(PNDMScheduler)(skip_prk_steps=True, timestep_spacing="trailing")
    assert (
        with_lml(PNDMScheduler)(lml_enabled=False, skip_prk_steps=True, timestep_spacing="trailing").config.gain is None
    )
    made = with_lml(PNDMScheduler)(gain=0.3, skip_prk_steps=True, timestep_spacing="trailing")
    assert (made.config.gain, made.config.preset) == (0.3, None)


@pytest.mark.parametrize(
    "keys", [{"kappa": 0.5}, {"damping": 2.0}, {"kappa": -0.1, "damping": 3.0}, {"gain": 0.9}], ids=str
)
@pytest.mark.parametrize("stored", [False, True])
def test_what_the_user_gives_wins_over_the_preset(table: Any, keys: dict[str, Any], stored: bool) -> None:
    assert DDIM_LML(**keys).config.preset is None
    config = DDIM_LML().config
    made = DDIM_LML.from_config(disk(config) if stored else config, **keys)
    assert made.config.preset is None
    assert {k: made.config[k] for k in ("gain", "kappa", "damping")} == {
        "gain": None, "kappa": None, "damping": None, **keys
    }  # fmt: skip
    made.set_timesteps(3)
    assert made.config.preset is None


@pytest.mark.parametrize("stored", [False, True])
def test_an_explicit_gain_survives_another_grid(table: Any, stored: bool) -> None:
    config = DDIM_LML(gain=0.9).config
    made = DDIM_LML.from_config(disk(config) if stored else config, timestep_spacing="trailing")
    assert (made.config.gain, made.config.preset) == (0.9, None)
    other = DPM_LML.from_config(disk(config) if stored else config)
    assert (other.config.gain, other.config.preset) == (0.9, None)


def test_an_explicit_gain_together_with_another_grid(table: Any) -> None:
    made = DDIM_LML.from_config(DDIM_LML().config, gain=0.9, timestep_spacing="trailing")
    assert (made.config.gain, made.config.preset) == (0.9, None)


def test_an_explicit_gain_together_with_another_grid_on_a_stored_configuration(table: Any) -> None:
    made = DDIM_LML.from_config(disk(DDIM_LML().config), gain=0.9, timestep_spacing="trailing")
    assert (made.config.gain, made.config.preset) == (0.9, None)


@pytest.mark.parametrize("stored", [False, True])
def test_another_grid_or_sampler_finds_its_own_preset(table: Any, stored: bool) -> None:
    config = DDIM_LML().config
    config = disk(config) if stored else config
    assert DDIM_LML.from_config(config, timestep_spacing="trailing").config.gain == 0.25
    other = DPM_LML.from_config(config)
    assert other.config.preset == f"test-1/DPMSolverMultistepScheduler-dpmsolver++-2/{other.config.timestep_spacing}"
    karras = DPM_LML.from_config(config, use_karras_sigmas=True)
    assert (karras.config.gain, karras.config.preset[-6:]) == (0, "karras")
    back = DDIM_LML.from_config(disk(karras.config) if stored else karras.config, timestep_spacing="linspace")
    assert back.config.gain == 0.125


@pytest.mark.parametrize("stored", [False, True])
def test_halved_stays_halved(table: Any, stored: bool) -> None:
    half = find_preset(DDIMScheduler, DDIMScheduler().config, halved=True)
    config = DDIM_LML(gain=half.gain, preset=half.label).config
    assert (config.gain, config.preset) == (0.25, "test-1/DDIMScheduler/leading/halved")
    config = disk(config) if stored else config
    again = DDIM_LML.from_config(config)
    assert (again.config.gain, again.config.preset) == (0.25, "test-1/DDIMScheduler/leading/halved")
    moved = DDIM_LML.from_config(config, timestep_spacing="trailing")
    assert (moved.config.gain, moved.config.preset) == (0.125, "test-1/DDIMScheduler/trailing/halved")


def test_a_stored_preset_of_an_older_table_is_kept(table: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Saved resolved: a pipeline samples tomorrow as it does today."""
    config = disk(DDIM_LML().config)
    monkeypatch.setattr(presets, "_table", lambda: {"version": "test-2", "gains": {"DDIMScheduler": {"leading": 0.8}}})
    kept = DDIM_LML.from_config(config)
    assert (kept.config.gain, kept.config.preset) == (0.5, "test-1/DDIMScheduler/leading")
    kept.set_timesteps(4)
    assert kept.config.gain == 0.5
    fresh = DDIM_LML()
    assert (fresh.config.gain, fresh.config.preset) == (0.8, "test-2/DDIMScheduler/leading")


def test_a_gain_changed_later_loses_the_label(table: Any) -> None:
    made = DDIM_LML()
    made.register_to_config(gain=0.9)
    made.set_timesteps(4)
    assert (made.config.gain, made.config.preset) == (0.9, None)
    assert made._lml_settings.config.gain == 0.9


def test_a_custom_controller_needs_no_preset(table: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from lmlangevin.core import Damping, damping

    monkeypatch.setitem(damping._CONTROLLERS, "test-saving", (lambda history, config: Damping(0.5, 1.0), 1))
    made: Any = with_lml(PNDMScheduler)(skip_prk_steps=True, timestep_spacing="trailing", control="test-saving")
    assert (made.config.gain, made.config.preset) == (None, None)
    made.set_timesteps(3)


# Between classes ----------------------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:.*algorithm_types dpmsolver:FutureWarning")
@pytest.mark.parametrize("stored", [False, True])
def test_there_and_back(sampler: Any, stored: bool) -> None:
    plain = sampler.build()
    made = with_lml(sampler.base).from_config(disk(plain.config) if stored else plain.config, kappa=0.5, damping=1.0)
    for key, value in plain.config.items():
        assert key[0] == "_" or made.config[key] == value, key
    assert (made.config.kappa, made.config.damping, made.config.gain) == (0.5, 1.0, None)
    back = sampler.base.from_config(disk(made.config) if stored else made.config)
    assert type(back) is sampler.base
    assert {k: v for k, v in back.config.items() if k[0] != "_" and k not in LML_DEFAULTS} == {
        k: v for k, v in plain.config.items() if k[0] != "_"
    }
    again = with_lml(sampler.base).from_config(disk(back.config) if stored else back.config)
    assert (again.config.kappa, again.config.damping) == (0.5, 1.0)


@pytest.mark.parametrize("stored", [False, True])
@pytest.mark.parametrize(
    ("source", "target"),
    [
        (UniPCMultistepScheduler(use_karras_sigmas=False), EulerDiscreteScheduler),
        (DDIMScheduler(), DEISMultistepScheduler),
        (DEISMultistepScheduler(), UniPCMultistepScheduler),
        (PNDMScheduler(), DDIMScheduler),
        (EulerDiscreteScheduler(), UniPCMultistepScheduler),
    ],
    ids=lambda value: getattr(value, "__name__", type(value).__name__),
)
def test_a_gain_of_its_own_on_another_sampler_s_configuration(source: Any, target: Any, stored: bool, run: Any) -> None:
    config = disk(source.config) if stored else source.config
    made, base = with_lml(target).from_config(config, gain=0.2), target.from_config(config)
    assert made.config.gain == 0.2
    for key, value in base.config.items():
        assert key[0] == "_" or made.config[key] == value, key
    assert run(made, 4)[-1].isfinite().all()
    assert made.config.gain == 0.2


@pytest.mark.parametrize("stored", [False, True])
@pytest.mark.parametrize(
    ("source", "target", "key"),
    [
        (PNDMScheduler(), DDIMScheduler, "DDIMScheduler/leading"),
        (EulerDiscreteScheduler(timestep_spacing="linspace"), DDIMScheduler, "DDIMScheduler/linspace"),
        pytest.param(
            DPMSolverMultistepScheduler(timestep_spacing="leading"),
            DDIMScheduler,
            "DDIMScheduler/leading",
        ),
        pytest.param(EulerDiscreteScheduler(use_karras_sigmas=True), DDIMScheduler, "DDIMScheduler/linspace"),
        pytest.param(UniPCMultistepScheduler(), EulerDiscreteScheduler, "EulerDiscreteScheduler/linspace"),
        pytest.param(
            DPMSolverMultistepScheduler(use_lu_lambdas=True),
            UniPCMultistepScheduler,
            "UniPCMultistepScheduler-2/linspace",
        ),
        pytest.param(DDIMScheduler(), FlowMatchEulerDiscreteScheduler, "FlowMatchEulerDiscreteScheduler/flow"),
    ],
    ids=lambda value: value if isinstance(value, str) else getattr(value, "__name__", type(value).__name__),
)
def test_a_preset_on_another_sampler_s_configuration(
    source: Any, target: Any, key: str, stored: bool, table: Any
) -> None:
    config = dict(source.config)
    if stored or "timestep_spacing" in config:
        config = disk(config)  # as pipelines have it: every key counts as given
    made = with_lml(target).from_config(config)
    label = f"test-1/{key}"
    assert made.config.preset == label
    made.set_timesteps(4)
    assert made.config.preset == label


def test_hidden_keys_of_a_configuration_are_kept(table: Any) -> None:
    """diffusers keeps what other classes may need, such as PNDM's skip_prk_steps under DDIM."""
    config = disk(PNDMScheduler(skip_prk_steps=True).config)
    made = DDIM_LML.from_config(config, gain=0.2)
    assert made.config.skip_prk_steps is True
    back = PNDMScheduler.from_config(made.config)
    assert back.config.skip_prk_steps is True


# Files --------------------------------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:.*algorithm_types dpmsolver:FutureWarning")
def test_save_and_load_a_scheduler(sampler: Any, run: Any, tmp_path: Path) -> None:
    made = sampler.build({"gain": 0.3, "rank": 2, "record": True})
    made.save_pretrained(tmp_path)
    stored = json.loads((tmp_path / "scheduler_config.json").read_text())
    assert stored["_class_name"] == f"{sampler.class_name.replace('Scheduler', 'LMLScheduler')}"
    assert stored["gain"] == 0.3 and stored["rank"] == 2 and stored["lml_enabled"] is True
    loaded = type(made).from_pretrained(tmp_path)
    assert type(loaded) is type(made)
    assert {k: v for k, v in loaded.config.items() if k[0] != "_"} == {
        k: v for k, v in made.config.items() if k[0] != "_"
    }
    assert torch.equal(run(loaded)[-1], run(made)[-1])
    plain = sampler.base.from_pretrained(tmp_path)
    assert type(plain) is sampler.base
    assert torch.equal(run(plain)[-1], run(sampler.build())[-1])


def test_a_preset_is_saved_resolved(table: Any, tmp_path: Path) -> None:
    DDIM_LML().save_pretrained(tmp_path)
    stored = json.loads((tmp_path / "scheduler_config.json").read_text())
    assert (stored["gain"], stored["preset"]) == (0.5, "test-1/DDIMScheduler/leading")


def test_pickle_and_deepcopy_before_and_within_a_run(sampler: Any, run: Any) -> None:
    made = sampler.build({"gain": 0.3})
    for clone in (pickle.loads(pickle.dumps(made)), copy.deepcopy(made)):
        assert type(clone) is type(made) and clone.config == made.config
        assert torch.equal(run(clone)[-1], run(made)[-1])
    made.set_timesteps(6)
    x = torch.randn(1, 3, 4, 4, generator=torch.Generator().manual_seed(0))

    def step(scheduler: Any, x: torch.Tensor, i: int) -> torch.Tensor:
        t = scheduler.timesteps[i]
        if hasattr(scheduler, "scale_model_input"):
            scheduler.scale_model_input(x, t)
        return scheduler.step(torch.sin(2 * x), t, x).prev_sample

    for i in range(3):
        x = step(made, x, i)
    clones = [pickle.loads(pickle.dumps(made)), copy.deepcopy(made)]
    want = step(made, x, 3)
    assert all(torch.equal(step(clone, x, 3), want) for clone in clones)


@pytest.mark.timeout(120)
def test_a_whole_pipeline_in_a_fresh_process(tmp_path: Path) -> None:
    """A process that says `import lmlangevin` and no more; diffusers asks the module for the class by its name."""
    from diffusers import DDPMPipeline, UNet2DModel

    torch.manual_seed(0)
    unet = UNet2DModel(
        sample_size=8,
        layers_per_block=1,
        block_out_channels=(8, 8),
        down_block_types=("DownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "UpBlock2D"),
        norm_num_groups=4,
    )
    pipe: Any = DDPMPipeline(unet, DDIM_LML(gain=0.5, clip_sample=False))
    pipe.set_progress_bar_config(disable=True)
    image = pipe(num_inference_steps=4, generator=torch.Generator().manual_seed(1), output_type="np").images
    pipe.save_pretrained(tmp_path / "pipe")
    index = json.loads((tmp_path / "pipe" / "model_index.json").read_text())
    assert index["scheduler"] == ["lmlangevin", "DDIMLMLScheduler"]
    code = f"""
        import numpy, torch
        import lmlangevin
        from diffusers import DiffusionPipeline
        pipe = DiffusionPipeline.from_pretrained({str(tmp_path / "pipe")!r})
        assert type(pipe.scheduler).__name__ == "DDIMLMLScheduler" and pipe.scheduler.config.gain == 0.5
        pipe.set_progress_bar_config(disable=True)
        torch.set_num_threads({torch.get_num_threads()})
        image = pipe(num_inference_steps=4, generator=torch.Generator().manual_seed(1), output_type="np").images
        numpy.save({str(tmp_path / "image.npy")!r}, image)
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, timeout=110)
    assert done.returncode == 0, done.stderr
    import numpy as np

    # Another process may split the work of a convolution differently: equal to rounding, not to the bit.
    np.testing.assert_allclose(np.load(tmp_path / "image.npy"), image, rtol=0, atol=1e-5)
    pipe.scheduler = DDIMScheduler(clip_sample=False)
    plain = pipe(num_inference_steps=4, generator=torch.Generator().manual_seed(1), output_type="np").images
    assert abs(plain - image).max() > 1e-3
    assert diffusers.DiffusionPipeline.from_pretrained(tmp_path / "pipe").scheduler.config.gain == 0.5

"""The sampler that a model comes with: taken as it is, or refused in words."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import diffusers
import pytest

from lmlangevin import LMLError, apply_lml
from lmlangevin.generation import GenerateConfig, generate
from lmlangevin.generation.model_folder import own_sampler
from lmlangevin.generation.sampling import without_known_warnings
from lmlangevin.schedulers.names import SCHEDULERS, build_scheduler, find_scheduler, own_name

Swap = Callable[[Path, Any], Path]

SD = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
FLOW = {"use_flow_sigmas": True, "prediction_type": "flow_prediction"}

# As they come with models: class, settings, and the name that lml generate gives them.
OWN = [
    ("PNDMScheduler", {**SD, "skip_prk_steps": True, "set_alpha_to_one": False, "steps_offset": 1}, "pndm"),
    ("PNDMScheduler", SD, "PNDMScheduler"),
    ("DDPMScheduler", {"variance_type": "learned_range"}, "DDPMScheduler"),
    ("DPMSolverMultistepScheduler", {**SD, "use_karras_sigmas": True}, "dpmpp-2m"),
    ("DPMSolverMultistepScheduler", {**SD, "solver_type": "heun", "solver_order": 3}, "dpmpp-3m"),
    ("DPMSolverMultistepScheduler", {**SD, "algorithm_type": "sde-dpmsolver++"}, "sde-dpmpp-2m"),
    (
        "DPMSolverMultistepScheduler",
        {**SD, "algorithm_type": "dpmsolver", "final_sigmas_type": "sigma_min"},
        "DPMSolverMultistepScheduler",
    ),
    ("DPMSolverMultistepScheduler", {**FLOW, "flow_shift": 5.0}, "flow-dpmpp-2m"),
    ("DPMSolverMultistepScheduler", {**FLOW, "solver_order": 3}, "flow-DPMSolverMultistepScheduler"),
    ("UniPCMultistepScheduler", {**SD, "solver_order": 3}, "UniPCMultistepScheduler"),
    ("UniPCMultistepScheduler", {**FLOW, "solver_order": 3}, "flow-unipc"),
    ("DEISMultistepScheduler", {**SD, "solver_order": 2}, "deis"),
    ("DEISMultistepScheduler", {**SD, "solver_order": 3}, "DEISMultistepScheduler"),
    ("EulerAncestralDiscreteScheduler", SD, "EulerAncestralDiscreteScheduler"),
    ("HeunDiscreteScheduler", {**SD, "use_karras_sigmas": True}, "heun"),
    ("LMSDiscreteScheduler", SD, "LMSDiscreteScheduler"),
    ("EDMEulerScheduler", {}, "EDMEulerScheduler"),
    ("LCMScheduler", SD, "LCMScheduler"),
    ("FlowMatchEulerDiscreteScheduler", {"shift": 3.0, "use_dynamic_shifting": True}, "flow-euler"),
    ("FlowMatchHeunDiscreteScheduler", {"shift": 3.0}, "flow-heun"),
    ("FlowMatchLCMScheduler", {}, "FlowMatchLCMScheduler"),
]  # fmt: skip


def settings(scheduler: Any) -> dict[str, Any]:
    return {key: value for key, value in scheduler.config.items() if key[0] != "_"}


@pytest.mark.parametrize(("name", "config", "expected"), OWN, ids=[f"{row[2]}-{i}" for i, row in enumerate(OWN)])
def test_a_model_s_own_sampler_is_built_as_it_was_saved(
    name: str, config: dict[str, Any], expected: str, tmp_path: Path
) -> None:
    with without_known_warnings():
        own = getattr(diffusers, name)(**config)
        own.save_pretrained(tmp_path / "scheduler")
        found = own_sampler(str(tmp_path))
        assert found is not None and found.name == expected
        made = build_scheduler(found.name, own.config)
    assert type(made) is type(own) and settings(made) == settings(own)
    assert find_scheduler(found.name).flow == (expected.startswith("flow-") or name.startswith("FlowMatch"))


def test_every_name_is_that_of_its_own_sampler() -> None:
    for name, entry in SCHEDULERS.items():
        with without_known_warnings():
            own = build_scheduler(name, {"num_train_timesteps": 1000})
            assert own_name(entry.class_name, own.config) == name


@pytest.mark.parametrize("name", [
    *SCHEDULERS, "PNDMScheduler", "EulerAncestralDiscreteScheduler", "LMSDiscreteScheduler", "LCMScheduler",
    "DPMSolverSinglestepScheduler", "EDMEulerScheduler", "IPNDMScheduler", "MiniMaxH3Scheduler",
])  # fmt: skip
def test_the_cost_of_a_sampler_is_known_by_its_name(name: str) -> None:
    entry = find_scheduler(name)
    for steps in (5, 8):
        with without_known_warnings():
            scheduler = build_scheduler(name, {"num_train_timesteps": 1000})
            scheduler.set_timesteps(steps)
        assert len(scheduler.timesteps) == entry.evaluations(steps), name


def test_what_is_no_scheduler_is_no_name(tmp_path: Path) -> None:
    for name in (
        "SchedulerMixin",
        "UNet2DModel",
        "flow-EulerAncestralDiscreteScheduler",
        "flow-ddim",
        "AmusedScheduler",
    ):
        with pytest.raises(LMLError, match=f"scheduler='{name}' is unknown; give one of ddim, .*a scheduler class"):
            find_scheduler(name)
    (tmp_path / "scheduler").mkdir()
    (tmp_path / "scheduler" / "scheduler_config.json").write_text('{"_class_name": "MineScheduler"}')
    with pytest.raises(LMLError, match="scheduler='MineScheduler' is unknown"):
        own_sampler(str(tmp_path))


@pytest.fixture
def swap(tmp_path: Path) -> Swap:
    """Return a copy of a pipeline's folder with another scheduler."""

    def make(folder: Path, scheduler: Any) -> Path:
        target = tmp_path / type(scheduler).__name__
        shutil.copytree(folder, target)
        shutil.rmtree(target / "scheduler")
        scheduler.save_pretrained(target / "scheduler")
        index = json.loads((target / "model_index.json").read_text())
        index["scheduler"] = ["diffusers", type(scheduler).__name__]
        (target / "model_index.json").write_text(json.dumps(index))
        return target

    return make


def job(model: Path, out: Path, **given: Any) -> GenerateConfig:
    return GenerateConfig(out=out, model=str(model), **{"steps": 2, "num_images": 1} | given)


@pytest.mark.parametrize(
    ("scheduler", "other"),
    [
        (diffusers.EDMDPMSolverMultistepScheduler(), "ddim"),
        (diffusers.LCMScheduler(), "ddim"),
        (diffusers.TCDScheduler(), "dpmpp-2m"),
        (diffusers.FlowMatchLCMScheduler(), "flow-euler"),
        (diffusers.FlowMatchHeunDiscreteScheduler(), None),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_apply_lml_refuses_generate_refuses_in_the_same_words(
    scheduler: Any, other: str | None, pixel_pipeline: Path, swap: Swap, tmp_path: Path
) -> None:
    folder, out = swap(pixel_pipeline, scheduler), tmp_path / "out"
    pipe: Any = diffusers.DDPMPipeline(None, scheduler)  # type: ignore[arg-type]
    with pytest.raises(LMLError) as applied:
        apply_lml(pipe, gain=0.2)
    with pytest.raises(LMLError) as asked:
        generate(job(folder, out))
    name = type(scheduler).__name__
    words = str(applied.value).removeprefix(f"base={name} cannot be corrected: ")
    assert str(asked.value).endswith(f" cannot be corrected: {words}") and words != str(applied.value)
    if other is not None:
        # Nor is another sampler a way around it, with LML or without.
        with pytest.raises(LMLError) as applied_other:
            apply_lml(pipe, scheduler=other, gain=0.2)
        with pytest.raises(LMLError) as asked_other:
            generate(job(folder, out, scheduler=other))
        assert str(applied_other.value) == str(applied.value)
        assert str(asked_other.value) == f"scheduler={name!r} cannot be corrected: {words}"
        with pytest.raises(LMLError, match=f"scheduler='{other}' is not for .* comes with {name}"):
            generate(job(folder, out, scheduler=other, lml=False))
    assert not out.exists()


@pytest.mark.parametrize(
    ("scheduler", "nfe"),
    [
        (diffusers.LCMScheduler(), 2),
        (diffusers.HeunDiscreteScheduler(), 3),
        (diffusers.DPMSolverMultistepScheduler(algorithm_type="sde-dpmsolver++", solver_order=1), 2),
        (diffusers.DDPMScheduler(), 2),
    ],
    ids=lambda value: type(value).__name__,
)
def test_without_lml_the_own_sampler_samples(
    scheduler: Any, nfe: int, pixel_pipeline: Path, swap: Swap, tmp_path: Path
) -> None:
    config = job(swap(pixel_pipeline, scheduler), tmp_path / "out", lml=False)
    [run] = generate(config).runs.values()
    assert type(run.scheduler) is type(scheduler) and settings(run.scheduler) == settings(scheduler)
    assert run.nfe == nfe
    # The manifest's settings are the same job again.
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert GenerateConfig(out=tmp_path / "out", **manifest["config"]) == config


def test_with_lml_too(pixel_pipeline: Path, swap: Swap, tmp_path: Path) -> None:
    ancestral = swap(pixel_pipeline, diffusers.EulerAncestralDiscreteScheduler())
    result = generate(job(ancestral, tmp_path / "a"))
    made = result.runs["images"].scheduler
    assert isinstance(made, diffusers.EulerAncestralDiscreteScheduler) and made.config.gain == 0
    assert sum("No gain was measured for EulerAncestralDiscreteScheduler" in note for note in result.notes) == 1


def test_ddim_takes_the_place_of_ddpm_and_says_so(pixel_pipeline: Path, tmp_path: Path) -> None:
    result = generate(job(pixel_pipeline, tmp_path / "a"))
    made = result.runs["images"].scheduler
    assert isinstance(made, diffusers.DDIMScheduler) and made.config.preset
    assert sum("Give --scheduler DDPMScheduler to keep it" in note for note in result.notes) == 1
    for given in ({"lml": False}, {"scheduler": "DDPMScheduler", "control": "constant"}):
        assert job(pixel_pipeline, tmp_path / "b", **given).scheduler == "DDPMScheduler"
    assert not job(pixel_pipeline, tmp_path / "b", scheduler="ddim").notes

"""The runs of a job, and the sampler of each, built and checked before anything is written."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

import torch

from lmlangevin.core.damping import CONSTANT
from lmlangevin.core.errors import LMLError
from lmlangevin.generation.config import GenerateConfig
from lmlangevin.generation.ledger import Totals
from lmlangevin.generation.manifest import run_names
from lmlangevin.generation.models import LoadedModel
from lmlangevin.generation.sampling import without_known_warnings


@dataclass
class RunResult:
    """One run of a sampler over all seeds of a job.

    Attributes:
        name: `"plain"`, `"lml"` and perhaps `"release"` of a comparison, otherwise `"images"`.
        scheduler: The sampler.
        nfe: Network evaluations of each image, guidance apart.
        guidance_evaluations: Further evaluations of each image that guidance cost.
        seconds: Time spent sampling, without writing and measuring, added up over interruptions and processes.
        non_finite: Images in which a value was not finite.
        frechet_distance: To the reference of the model; None where it was not measured.
        timesteps: The sampler's.
        corrections: For each step the mean gain, the mean rotation in radians and the share of images left alone.
    """

    name: str
    scheduler: Any
    nfe: int = 0
    guidance_evaluations: int = 0
    seconds: float = 0.0
    non_finite: int = 0
    frechet_distance: float | None = None
    timesteps: list[float] = field(default_factory=list)
    corrections: list[dict[str, Any]] = field(default_factory=list)

    @property
    def gain(self) -> float | None:
        """The gain of the sampler's configuration; None for a plain one, or one that was given kappa."""
        return self.scheduler.config.get("gain")

    def fill(self, totals: Totals, frechet_distance: float | None) -> None:
        """Take over what was counted and measured."""
        self.nfe = totals.nfe
        self.guidance_evaluations = totals.guidance_evaluations
        self.seconds = totals.seconds
        self.non_finite = totals.non_finite
        self.timesteps = totals.timesteps
        self.corrections = totals.corrections
        self.frechet_distance = frechet_distance

    def describe_sampler(self) -> dict[str, Any]:
        """Return what the manifest says of the sampler, known before it has run."""
        return {
            "scheduler_class": type(self.scheduler).__name__,
            "scheduler_config": json.loads(self.scheduler.to_json_string()),
        }

    def describe(self, count: int) -> dict[str, Any]:
        """Return what the manifest says of this run when it is done."""
        return self.describe_sampler() | {
            "timesteps": self.timesteps,
            "nfe": self.nfe,
            "guidance_evaluations": self.guidance_evaluations,
            "seconds": round(self.seconds, 3),
            "images_per_second": round(count / self.seconds, 3) if self.seconds else None,
            "non_finite_images": self.non_finite,
            "frechet_distance": self.frechet_distance,
            "corrections": self.corrections,
        }


def plan_runs(config: GenerateConfig, model: LoadedModel, notes: list[str]) -> list[RunResult]:
    """Build the sampler of each run, and see that it accepts the number of steps.

    Args:
        config: The job.
        model: Its model.
        notes: Lines that a user should read are added here.

    Raises:
        LMLError: If a sampler cannot be built as asked.
    """
    if config.langevin_steps and model.shape is None:
        raise LMLError(
            f"langevin_steps={config.langevin_steps} is for unconditional pixel models; model={config.model!r} is a "
            f"{model.family}; leave it out, or give another model."
        )
    runs = []
    if config.lml and model.pipeline is not None:
        from lmlangevin.schedulers.distilled import distilled_notice

        notice = distilled_notice(model.pipeline, config.model, config.lora)
        notes += [] if notice is None else [notice]
    with without_known_warnings():
        for name in run_names(config):
            if name == "release":
                scheduler = _build_release(config, model)
            else:
                scheduler = _build(config, model, notes, with_lml=config.lml and name != "plain")
            try:
                # A pipeline may compute its own grid (mu, sigmas) when it runs.
                if model.shape is not None:
                    scheduler.set_timesteps(config.steps)
            except LMLError:
                raise
            except (ValueError, IndexError) as error:
                reason = " ".join(str(error).split())
                raise LMLError(
                    f"steps={config.steps} is refused by {config.scheduler} ({reason}); give another number of steps."
                ) from error
            runs.append(RunResult(name, scheduler))
    return runs


def _build(config: GenerateConfig, model: LoadedModel, notes: list[str], *, with_lml: bool) -> Any:
    from lmlangevin.schedulers.names import build_scheduler

    overrides = _overrides(config, model)
    plain = build_scheduler(config.scheduler, model.scheduler_config, grid=config.grid, lml=None, **overrides)
    if not with_lml:
        return plain
    keys = config.lml_keys()
    if config.control is None:
        keys["control"] = _default_control(config, model, plain)
    if config.calibration is not None:
        keys |= {"calibrated_steps": _calibrated_steps(config, model, plain, notes)}
    by_preset = keys["control"] == CONSTANT and config.gain is None and config.kappa is None and config.damping is None
    if by_preset:
        keys |= _preset_keys(config, model, plain, notes)
    return build_scheduler(config.scheduler, model.scheduler_config, grid=config.grid, lml=keys, **overrides)


def _preset_keys(config: GenerateConfig, model: LoadedModel, plain: Any, notes: list[str]) -> dict[str, Any]:
    """Return the gain of a sampler for which none was given, and tell what a user should know of it."""
    from lmlangevin.schedulers.choice import default_preset
    from lmlangevin.schedulers.names import find_scheduler

    preset = default_preset(plain, measured=model.measured)
    others = "flow-euler" if find_scheduler(config.scheduler).flow else "deis or euler"
    if preset is None:
        notes.append(
            f"No gain was measured for {config.scheduler} on this grid, so it is the plain sampler. Give --gain to try "
            f"one, or another scheduler such as {others}."
        )
        return {"gain": 0.0}
    if preset.gain == 0:
        notes.append(
            f"The measured gain of {config.scheduler} on this grid is 0, which is the plain sampler. Give --gain to "
            f"try one, or another scheduler such as {others}."
        )
    elif not model.measured:
        notes.append(
            f"The presets were measured on unconditional pixel models; {model.family} gets half of its scheduler's, "
            f"gain {preset.gain:g}. Give --gain to choose it yourself."
        )
    return {"gain": preset.gain, "preset": preset.label}


def _default_control(config: GenerateConfig, model: LoadedModel, plain: Any) -> str:
    from lmlangevin.schedulers.choice import default_control

    return default_control(plain, measured=model.measured and not config.chosen)


def _build_release(config: GenerateConfig, model: LoadedModel) -> Any:
    from lmlangevin.schedulers.names import build_scheduler
    from lmlangevin.schedulers.release import release_scheduler

    dtype, _, damping = str(config.release).partition("@")
    keys = {"gain": 1.0, "placement": "reference"}
    scheduler = build_scheduler(
        config.scheduler, model.scheduler_config, grid=config.grid, lml=keys, **_overrides(config, model)
    )
    return release_scheduler(scheduler, float(damping), getattr(torch, dtype))


def _overrides(config: GenerateConfig, model: LoadedModel) -> dict[str, Any]:
    """Return the scheduler's configuration keys that a job sets beside its grid."""
    from lmlangevin.schedulers.names import find_scheduler

    if config.flow_shift is None:
        return {}
    overrides: dict[str, Any] = {find_scheduler(config.scheduler).shift_key: config.flow_shift}
    if model.scheduler_config.get("use_dynamic_shifting"):
        # Shift by the image's size would take the place of the number that was given.
        overrides["use_dynamic_shifting"] = False
    return overrides


def _calibrated_steps(config: GenerateConfig, model: LoadedModel, plain: Any, notes: list[str]) -> dict[str, Any]:
    """Return the schedule of a job's calibration, which must be one of this model and sampler."""
    from lmlangevin.schedulers.calibrations import adapters_notice, fingerprint, load_calibration

    fitted = load_calibration(str(config.calibration))
    now = fingerprint(
        model.networks[0],
        plain,
        steps=fitted.schedule.steps,
        guidance_scale=config.guidance_scale,
        own_grid=fitted.schedule.sigmas is not None,
    )
    fitted.check(now)
    words = adapters_notice(model.networks[0])
    notes += [] if words is None else [words]
    return fitted.schedule.to_config()

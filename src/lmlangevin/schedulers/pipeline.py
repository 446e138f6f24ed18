"""`apply_lml` and `remove_lml`: the LML version of a pipeline's own scheduler, and back."""

from __future__ import annotations

import inspect
import logging
from pathlib import Path
from typing import Any

import diffusers

from lmlangevin.core import LMLError
from lmlangevin.core.damping import CALIBRATED, CONSTANT
from lmlangevin.schedulers.calibrations import (
    CalibrationFile,
    adapters_notice,
    fingerprint,
    load_calibration,
    network_of,
    shipped_calibrations,
)
from lmlangevin.schedulers.choice import default_control, default_preset, measured_sister, sister_words
from lmlangevin.schedulers.distilled import distilled_notice
from lmlangevin.schedulers.factory import refusal_of, with_lml
from lmlangevin.schedulers.mixin import LML_DEFAULTS, LMLSchedulerMixin
from lmlangevin.schedulers.names import find_scheduler, sampler_config
from lmlangevin.schedulers.noise import is_flow, would_be_flow
from lmlangevin.schedulers.presets import Preset
from lmlangevin.schedulers.refused import refusal

logger = logging.getLogger("lmlangevin")

_MEASURED_PIPELINES = ("DDPMPipeline", "DDIMPipeline")
"""Unconditional pixel models, which the presets and the adaptive control were measured on."""

_noticed = False


def apply_lml(
    pipe: Any,
    *,
    gain: float | None = None,
    kappa: float | None = None,
    damping: float | None = None,
    damping_mode: str = "relative",
    placement: str = "score",
    rank: int = 1,
    control: str | None = None,
    calibration: str | Path | None = None,
    guidance_scale: float | None = None,
    record: bool = False,
    scheduler: str | type | None = None,
) -> Any:
    """Give a diffusers pipeline the LML version of its scheduler. Nothing else of the pipeline changes.

        pipe = StableDiffusionPipeline.from_pretrained(...)
        apply_lml(pipe)
        pipe("a photo of a fox", num_inference_steps=8)

    Args:
        pipe: A pipeline with a `scheduler`. A scheduler that is an LML one already is set anew.
        gain: The correction's strength, one number, with `control="constant"`. Without `gain` and `kappa` that takes
            the measured preset of the scheduler and its time grid; for guided, latent and other pipelines that it was
            not measured on, half of it; and 0, with a notice, for a scheduler that was not measured at all.
        kappa: The paper's kappa, in [-1, 1], in place of `gain`.
        damping: The paper's damping, relative to ||b||^2 unless `damping_mode="absolute"`.
        damping_mode: `"relative"` or `"absolute"`.
        placement: `"score"` corrects the prediction before the solver sees it; `"reference"` is the paper's.
        rank: Number of previous predictions used.
        control: `"constant"`, `"adaptive"` (chooses the correction by itself), `"calibrated"` (a schedule that was
            fitted, see `calibration`), or a controller of your own. None is `"adaptive"` for unconditional pixel
            models and solvers that it works with, unless any of the settings above is given, and `"constant"`
            otherwise.
        calibration: With `control="calibrated"`: a file that `lml calibrate` wrote, or the name of one that comes with
            the package. The scheduler becomes the one that it was fitted for.
        guidance_scale: With a calibration: what the pipeline will be called with, to be compared with what was
            calibrated. None compares nothing; a pipeline does not tell its scheduler.
        record: Whether to keep each step's `LMLInfo` on `pipe.scheduler.lml_history`.
        scheduler: Another sampler than the pipeline's own: a short name such as `"dpmpp-2m"` (see `lml info`), or a
            diffusers class or its name. None keeps the pipeline's own, but for one case: where nothing at all is chosen
            and an unconditional pixel model comes with `DDPMScheduler`, which draws noise and was not measured,
            `DDIMScheduler` takes its place, with a notice. `remove_lml` gives the first one back.

    Returns:
        The pipeline, for chaining.

    Raises:
        LMLError: If the pipeline has no scheduler or is known to be unsafe with one that keeps a history (see
            `REFUSED_PIPELINES`), for a sampler that does not fit its model, for a setting out of range, or for a
            calibration of something else.
    """
    family = type(pipe).__name__
    reason = refusal(type(pipe))
    if reason is not None:
        raise LMLError(f"pipe={family} is not supported: {reason}; use another pipeline.")
    current = _scheduler_of(pipe)
    chosen = gain is not None or kappa is not None or damping is not None or placement != "score" or rank != 1
    measured = family in _MEASURED_PIPELINES
    fitted = _read_calibration(control, calibration, guidance_scale)
    if fitted is not None and scheduler is None:
        scheduler = getattr(diffusers, fitted.fingerprint["scheduler_class"])
    # From what the pipeline came with, whatever was applied before: one sampler's own keys would make another of the
    # next.
    own, config = _own(current)
    of_own = refusal_of(own)
    if of_own is not None and of_own.of_model:
        raise of_own.error(f"base={own.__name__}")
    base, overrides = _choose(own, config, scheduler)
    alone = measured and not chosen and control is None and scheduler is None
    sister = measured_sister(base, config) if alone else None
    base = sister or base
    _check_flow(family, would_be_flow(own, config), base, {**config, **overrides})
    plain = base.from_config(config, **overrides)
    if scheduler is not None:
        _check_pixel_loop(pipe, plain)
    if control is None:
        control = default_control(plain, measured=measured and not chosen)
    settings: dict[str, Any] = {
        "gain": gain,
        "kappa": kappa,
        "damping": damping,
        "damping_mode": damping_mode,
        "placement": placement,
        "rank": rank,
        "control": control,
        "record": record,
    }
    cls = with_lml(base)
    if fitted is not None:
        settings["calibrated_steps"] = fitted.schedule.to_config()
        _check_calibration(pipe, plain, fitted, guidance_scale)
    by_preset = (
        control == CONSTANT and gain is None and kappa is None and damping is None and damping_mode == "relative"
    )
    preset = default_preset(plain, measured=measured) if by_preset else None
    if by_preset:
        settings |= {"gain": 0.0} if preset is None else {"gain": preset.gain, "preset": preset.label}
    pipe.scheduler = cls.from_config(config, **overrides, **settings)
    if scheduler is not None or sister is not None:
        pipe.scheduler._lml_replaced = own, config
    if sister is not None:
        words = sister_words(own, sister, keep=f"scheduler={own.__name__} or a gain")
        logger.warning("%s remove_lml gives it back.", words)
    if by_preset:
        _notice_preset(family, plain, preset, halved=not measured)
    notice = distilled_notice(pipe)
    if notice is not None:
        logger.warning(notice)
    return pipe


def _read_calibration(
    control: str | None, calibration: str | Path | None, guidance_scale: float | None
) -> CalibrationFile | None:
    if control != CALIBRATED:
        for name, value in (("calibration", calibration), ("guidance_scale", guidance_scale)):
            if value is not None:
                raise LMLError(
                    f"{name}={str(value)!r} has no meaning with control={control!r}; give control='calibrated'."
                )
        return None
    if calibration is None:
        raise LMLError(
            "control='calibrated' needs calibration=: a file that lml calibrate wrote, or one of "
            f"{', '.join(shipped_calibrations())}."
        )
    return load_calibration(calibration)


def _check_calibration(pipe: Any, plain: Any, fitted: CalibrationFile, guidance_scale: float | None) -> None:
    """Refuse a calibration of something else. The number of steps is checked when a run is planned."""
    steps = fitted.fingerprint["steps"]
    own_grid = fitted.schedule.sigmas is not None
    now = fingerprint(network_of(pipe), plain, steps=steps, guidance_scale=guidance_scale, own_grid=own_grid)
    fitted.check(now, unknown=("guidance_scale",) if guidance_scale is None else ())
    words = adapters_notice(network_of(pipe))
    if words is not None:
        logger.warning(words)
    if guidance_scale is None and fitted.fingerprint["guidance_scale"] is not None:
        logger.warning(
            "The schedule was calibrated with guidance_scale=%g; call the pipeline with the same.",
            fitted.fingerprint["guidance_scale"],
        )


def remove_lml(pipe: Any) -> Any:
    """Give a pipeline back the plain scheduler that its LML one was made from; a plain one stays as it is.

    Where `apply_lml` put another sampler in its place, `scheduler=` or by itself, the first one comes back, unless the
    pipeline was saved and loaded in between.

    Args:
        pipe: A diffusers pipeline.

    Returns:
        The pipeline, for chaining.

    Raises:
        LMLError: If it has no scheduler.
    """
    current = _scheduler_of(pipe)
    if isinstance(current, LMLSchedulerMixin):
        base, config = _own(current)
        pipe.scheduler = base.from_config(config)
    return pipe


def _own(current: Any) -> tuple[Any, dict[str, Any]]:
    """Return the class and the configuration of the plain scheduler that a pipeline came with."""
    replaced = getattr(current, "_lml_replaced", None)
    return replaced or (getattr(current, "_lml_base", type(current)), _without_lml(current.config))


def _scheduler_of(pipe: Any) -> Any:
    current = getattr(pipe, "scheduler", None)
    if current is None or not hasattr(current, "from_config"):
        raise LMLError(f"pipe={type(pipe).__name__} has no diffusers scheduler; give a diffusers pipeline.")
    return current


def _choose(own: Any, config: Any, scheduler: str | type | None) -> tuple[Any, dict[str, Any]]:
    if isinstance(scheduler, str):
        entry = find_scheduler(scheduler)
        return entry.base, sampler_config(entry, config)
    base = own if scheduler is None else scheduler
    if isinstance(base, type) and not hasattr(base, "from_config"):
        raise LMLError(f"scheduler={base.__name__} is no diffusers scheduler; give its class or a short name.")
    if not isinstance(base, type):
        raise LMLError(
            f"scheduler={type(base).__name__}(...) is an object; give its class or a short name, or set pipe.scheduler "
            "to it first."
        )
    return (base._lml_base if issubclass(base, LMLSchedulerMixin) else base), {}


def _check_flow(family: str, own: bool, base: Any, config: dict[str, Any]) -> None:
    """Refuse a sampler of flows for a model of noise, and one of noise for a flow, which is what `own` says."""
    flow, name = would_be_flow(base, config), base.__name__
    if flow and not own:
        raise LMLError(
            f"scheduler={name} samples flow-matching models, and the model of this {family} predicts noise; "
            "give 'ddim', 'dpmpp-2m' or 'unipc'."
        )
    if own and not flow:
        raise LMLError(
            f"scheduler={name} samples models that predict noise, and the model of this {family} predicts a "
            "flow velocity; give 'flow-euler', 'flow-dpmpp-2m' or 'flow-unipc'."
        )
    both = "use_flow_sigmas" in inspect.signature(base.__init__).parameters
    if flow and both and config.get("algorithm_type") in ("dpmsolver", "sde-dpmsolver"):
        raise LMLError(
            f"algorithm_type={config['algorithm_type']!r} of {name} takes no flow velocity, which the model "
            f"of this {family} predicts; give 'flow-dpmpp-2m'."
        )


def _check_pixel_loop(pipe: Any, plain: Any) -> None:
    """Refuse what the loop of `DDPMPipeline` cannot drive: it passes a generator to every step and scales no input."""
    if not any(kin.__name__ == "DDPMPipeline" for kin in type(pipe).__mro__):
        return
    if "generator" not in inspect.signature(plain.step).parameters or hasattr(plain, "is_scale_input_called"):
        raise LMLError(
            f"scheduler={type(plain).__name__} does not fit the loop of DDPMPipeline, which passes a generator to "
            "every step and scales no input; give 'ddim' or 'dpmpp-2m', or use lml generate, whose loop takes any."
        )


def _without_lml(config: Any) -> dict[str, Any]:
    # Keys that nobody chose stay named under "_use_default_values": diffusers leaves those to the next class.
    return {key: value for key, value in config.items() if key not in LML_DEFAULTS}


def _notice_preset(family: str, plain: Any, preset: Preset | None, *, halved: bool) -> None:
    """Say what a user who chose no gain gets: half of a preset (once a process), or no correction."""
    global _noticed
    name, other = type(plain).__name__, "flow-euler" if is_flow(plain) else "ddim"
    if preset is None:
        logger.warning(
            "No gain was measured for %s on its time grid, so the pipeline samples as before. Give gain=, for example "
            "0.2, and compare, or scheduler=%r, which was measured.",
            name,
            other,
        )
    elif preset.gain == 0:
        logger.warning(
            "The measured gain of %s on its time grid is 0, so the pipeline samples as before. Give gain= to try one, "
            "or scheduler=%r, whose measured gain is not.",
            name,
            other,
        )
    elif halved and not _noticed:
        _noticed = True
        logger.warning(
            "The presets were measured on unconditional pixel models; %s gets half of its scheduler's, gain=%g. "
            "Give gain= to choose it yourself.",
            family,
            preset.gain,
        )

"""`apply_lml` and `remove_lml`: the LML version of a pipeline's own scheduler, and back."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import diffusers

from lmlangevin.core import LMLError
from lmlangevin.core.damping import CALIBRATED, CONSTANT
from lmlangevin.schedulers.calibrations import (
    CalibrationFile,
    fingerprint,
    load_calibration,
    network_of,
    shipped_calibrations,
)
from lmlangevin.schedulers.choice import default_control
from lmlangevin.schedulers.factory import with_lml
from lmlangevin.schedulers.mixin import LML_DEFAULTS, LMLSchedulerMixin
from lmlangevin.schedulers.names import find_scheduler, sampler_config
from lmlangevin.schedulers.presets import find_preset

logger = logging.getLogger("lmlangevin")

_MEASURED_PIPELINES = ("DDPMPipeline", "DDIMPipeline")
"""Unconditional pixel models, which the presets and the adaptive control were measured on."""

_UNSAFE_PIPELINES = {
    "LEditsPP": "it inverts images with a scheduler step of its own",
    "Cosmos": "it calls the scheduler twice a timestep",
}

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
            not measured on, half of it.
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
            diffusers class.

    Returns:
        The pipeline, for chaining.

    Raises:
        LMLError: If the pipeline has no scheduler or is known to be unsafe with one that keeps a history, for a
            setting out of range, or for a calibration of something else.
    """
    family = type(pipe).__name__
    reason = next((why for name, why in _UNSAFE_PIPELINES.items() if family.startswith(name)), None)
    if reason is not None:
        raise LMLError(f"pipe={family} is not supported: {reason}, which breaks LML's history; use another pipeline.")
    current = getattr(pipe, "scheduler", None)
    if current is None or not hasattr(current, "from_config"):
        raise LMLError(f"pipe={family} has no diffusers scheduler; give a diffusers pipeline.")
    chosen = gain is not None or kappa is not None or damping is not None or placement != "score" or rank != 1
    unmeasured = family not in _MEASURED_PIPELINES
    fitted = _read_calibration(control, calibration, guidance_scale)
    if fitted is not None and scheduler is None:
        scheduler = getattr(diffusers, fitted.fingerprint["scheduler_class"])
    base, overrides = _choose(current, scheduler)
    config = _without_lml(current.config)
    _check_flow(family, current, base, {**config, **overrides})
    if control is None:
        control = default_control(base.from_config(config, **overrides), measured=not (chosen or unmeasured))
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
        _check_calibration(pipe, base.from_config(config, **overrides), fitted, guidance_scale)
    by_preset = control == CONSTANT and gain is None and kappa is None and damping is None
    if by_preset and unmeasured:
        plain = base.from_config(config, **overrides)
        half = find_preset(base, plain.config, halved=True)
        settings |= {"gain": half.gain, "preset": half.label}
        _notice_halving(family, half.gain)
    pipe.scheduler = cls.from_config(config, **overrides, **settings)
    if by_preset and pipe.scheduler.config.gain == 0:
        logger.warning(
            "The measured gain of %s on its time grid is 0, so the pipeline samples as before. Give gain= to try one, "
            "or another scheduler such as 'deis' or 'euler'.",
            base.__name__,
        )
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
    if guidance_scale is None and fitted.fingerprint["guidance_scale"] is not None:
        logger.warning(
            "The schedule was calibrated with guidance_scale=%g; call the pipeline with the same.",
            fitted.fingerprint["guidance_scale"],
        )


def remove_lml(pipe: Any) -> Any:
    """Give a pipeline back the plain scheduler that its LML one was made from; a plain one stays as it is.

    Args:
        pipe: A diffusers pipeline.

    Returns:
        The pipeline, for chaining.
    """
    current = pipe.scheduler
    if isinstance(current, LMLSchedulerMixin):
        base: Any = current._lml_base
        pipe.scheduler = base.from_config(_without_lml(current.config))
    return pipe


def _choose(current: Any, scheduler: str | type | None) -> tuple[Any, dict[str, Any]]:
    if isinstance(scheduler, str):
        entry = find_scheduler(scheduler)
        return entry.base, sampler_config(entry, current.config)
    base = type(current) if scheduler is None else scheduler
    if not isinstance(base, type):
        raise LMLError(
            f"scheduler={type(base).__name__}(...) is an object; give its class or a short name, or set pipe.scheduler "
            "to it first."
        )
    return (base._lml_base if issubclass(base, LMLSchedulerMixin) else base), {}


def is_flow(scheduler: Any) -> bool:
    """Return whether a scheduler says that its model predicts a flow velocity."""
    names = [kin.__name__ for kin in type(scheduler).__mro__]
    return any(name.startswith("FlowMatch") for name in names) or _flow_config(scheduler.config)


def _flow_config(config: Any) -> bool:
    return config.get("prediction_type") == "flow_prediction" or bool(config.get("use_flow_sigmas"))


def _check_flow(family: str, current: Any, base: type, config: Any) -> None:
    flow = any(kin.__name__.startswith("FlowMatch") for kin in base.__mro__) or _flow_config(config)
    if flow and not is_flow(current):
        raise LMLError(
            f"scheduler={base.__name__} samples flow-matching models, and the model of this {family} predicts noise; "
            "give 'ddim', 'dpmpp-2m' or 'unipc'."
        )
    if is_flow(current) and not flow:
        raise LMLError(
            f"scheduler={base.__name__} samples models that predict noise, and the model of this {family} predicts a "
            "flow velocity; give 'flow-euler'."
        )


def _without_lml(config: Any) -> dict[str, Any]:
    kept = {key: value for key, value in config.items() if key not in LML_DEFAULTS}
    # Keys that nobody chose are left to the next class's own defaults, as diffusers' from_config does.
    kept["_use_default_values"] = [key for key in config.get("_use_default_values", []) if key not in LML_DEFAULTS]
    return kept


def _notice_halving(family: str, gain: float) -> None:
    global _noticed
    if not _noticed:
        _noticed = True
        logger.warning(
            "The presets were measured on unconditional pixel models; %s gets half of its scheduler's, gain=%g. "
            "Give gain= to choose it yourself.",
            family,
            gain,
        )

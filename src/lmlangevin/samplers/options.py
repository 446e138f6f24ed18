"""The options of the samplers: read and checked once, before the model is called."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypedDict

from lmlangevin.core import CalibratedSchedule, LMLConfig, LMLError, LMLInfo
from lmlangevin.core.config import DampingMode
from lmlangevin.core.damping import CALIBRATED, CONSTANT

EULER, DPMPP_2M = "sample_lml_euler", "sample_lml_dpmpp_2m"

DEFAULT_GAINS = {EULER: 0.35, DPMPP_2M: 0.0}
"""The gain of a sampler whose user gave none: half of the preset on the Karras grid (docs/presets.md), as latent and
guided models get it everywhere in this package."""

_SAME_LEVEL = 1e-4
"""Relative difference up to which a sigma is the calibrated one; well above what float32 rounds."""


class SamplerOptions(TypedDict, total=False):
    """What the samplers take beyond k-diffusion's arguments; all of it may be left out.

    Attributes:
        gain: The correction's strength in one number; 0 is k-diffusion's sampler, bit for bit. Default
            `DEFAULT_GAINS`.
        kappa: With `damping` the paper's two numbers, in place of `gain`; in [-1, 1].
        damping: Above 0; relative to the squared norm of the factor unless `damping_mode` says otherwise.
        damping_mode: `"relative"` (default), or `"absolute"` for the paper's lambda.
        rank: How many previous predictions the low-rank factor holds, 1 (default) to 16.
        control: Who chooses the gain: `"constant"` (default), `"adaptive"`, `"calibrated"`, or the name of a
            registered damping controller.
        schedule: The schedule of `control="calibrated"`: a `CalibratedSchedule`, or the mapping its `to_config` gives.
        record: A list; the `LMLInfo` of every step is appended to it.
        flow: Whether the model is a flow, x = (1 - sigma) x0 + sigma noise. Default: whether ComfyUI's model says so.
    """

    gain: float | None
    kappa: float | None
    damping: float | None
    damping_mode: DampingMode
    rank: int
    control: str
    schedule: CalibratedSchedule | Mapping[str, Any] | None
    record: list[LMLInfo] | None
    flow: bool | None


@dataclass(frozen=True)
class Settings:
    """The options, checked.

    Attributes:
        config: The correction's settings.
        schedule: The schedule of `control="calibrated"`, None with any other.
        record: Where the steps' infos go, if anywhere.
        flow: What the caller says about the model; None leaves it to the model.
        defaulted: Whether the gain is the sampler's default and not the caller's choice.
    """

    config: LMLConfig
    schedule: CalibratedSchedule | None
    record: list[LMLInfo] | None
    flow: bool | None
    defaulted: bool


def read_options(sampler: str, options: Mapping[str, Any], levels: Sequence[float]) -> Settings:
    """Check the options of a run.

    Args:
        sampler: The name of the sampler, for its default and for messages.
        options: What the caller gave, see `SamplerOptions`.
        levels: The run's sigmas, each once.

    Raises:
        LMLError: For an unknown name, a value out of range, or options that contradict each other or the sigmas.
    """
    known = tuple(SamplerOptions.__annotations__)
    unknown = [name for name in options if name not in known]
    if unknown:
        raise LMLError(f"{', '.join(unknown)}: {sampler} has no such option; give only {', '.join(known)}.")
    given: dict[str, Any] = {name: options[name] for name in known if options.get(name) is not None}
    for name, kind, remedy in (("record", list, "a list"), ("flow", bool, "True, False or None")):
        if name in given and not isinstance(given[name], kind):
            raise LMLError(f"{name}={given[name]!r} is a {type(given[name]).__name__}; give {remedy}.")
    control = given.get("control", CONSTANT)
    defaulted = control == CONSTANT and not given.keys() & {"gain", "kappa", "damping", "damping_mode"}
    config = LMLConfig(
        gain=DEFAULT_GAINS[sampler] if defaulted else given.get("gain"),
        kappa=given.get("kappa"),
        damping=given.get("damping"),
        damping_mode=given.get("damping_mode", "relative"),
        rank=given.get("rank", 1),
        control=control,
    )
    schedule = _read_schedule(sampler, control, given.get("schedule"), levels)
    return Settings(config, schedule, given.get("record"), given.get("flow"), defaulted)


def _read_schedule(sampler: str, control: str, given: Any, levels: Sequence[float]) -> CalibratedSchedule | None:
    """Return the schedule, if it is one of exactly these steps."""
    if (control == CALIBRATED) != (given is not None):
        raise LMLError(
            f"control={control!r} with schedule={'None' if given is None else '...'}: the two go together; give both, "
            "as in control='calibrated', schedule=load_calibration(FILE).schedule, or neither."
        )
    if given is None:
        return None
    if not isinstance(given, CalibratedSchedule | Mapping):
        raise LMLError(
            f"schedule={given!r} is a {type(given).__name__}; give a CalibratedSchedule, such as "
            "load_calibration(FILE).schedule, or the mapping that its to_config gives."
        )
    schedule = given if isinstance(given, CalibratedSchedule) else CalibratedSchedule.from_config(given)
    steps = len(levels) - 1
    if steps < 1:
        return None  # no step, and nothing to calibrate
    if schedule.steps != steps:
        raise LMLError(
            f"sigmas has {steps} steps and the schedule was calibrated for {schedule.steps}; give sigmas of "
            f"{schedule.steps + 1} values, or a schedule of {steps} steps."
        )
    if schedule.sigmas is None:
        return schedule
    if sampler != EULER:
        raise LMLError(f"schedule has a time grid, which was fitted to Euler's steps, not {sampler}'s; call {EULER}.")
    for i, (level, calibrated) in enumerate(zip(levels, schedule.sigmas, strict=True)):
        if not math.isclose(level, calibrated, rel_tol=_SAME_LEVEL):
            raise LMLError(
                f"sigmas[{i}] is {level:.6g} and the schedule was calibrated at {calibrated:.6g}; give "
                "sigmas=torch.tensor(schedule.sigmas)."
            )
    return schedule

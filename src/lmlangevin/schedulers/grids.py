"""The time grid of a calibrated schedule, set on schedulers that take one."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, TypeAlias

import torch
from diffusers.schedulers.scheduling_euler_discrete import EulerDiscreteScheduler
from diffusers.schedulers.scheduling_flow_match_euler_discrete import FlowMatchEulerDiscreteScheduler

from lmlangevin.core import CalibratedSchedule, LMLError

GridSetter: TypeAlias = "Callable[[Any, Any, CalibratedSchedule, dict[str, Any]], Any]"


def grid_setter(base: type) -> GridSetter | None:
    """Return what sets levels on schedulers of a class, None where it takes none.

    Only first-order solvers on exactly the levels that were fitted serve here. DPMSolverMultistep and UniPC round
    timesteps to whole numbers, DDIM, PNDM and DEIS place them by themselves.
    """
    if issubclass(base, EulerDiscreteScheduler):
        return _set_euler
    if issubclass(base, FlowMatchEulerDiscreteScheduler):
        return _set_flow
    return None


def set_calibrated_timesteps(
    scheduler: Any, parent: Any, schedule: CalibratedSchedule, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Any:
    """Plan a run on a calibrated schedule: the counterpart of `set_timesteps`.

    Args:
        scheduler: The LML scheduler.
        parent: Its base class, whose `set_timesteps` does the work.
        schedule: The schedule.
        args: What `set_timesteps` was called with.
        kwargs: The same, by name.

    Raises:
        LMLError: If the run has another number of steps than was calibrated, or a grid of its own.
    """
    bound = inspect.signature(parent.set_timesteps).bind(scheduler, *args, **kwargs)
    given = {name: value for name, value in bound.arguments.items() if name != "self" and value is not None}
    setter = grid_setter(parent) if schedule.sigmas is not None else None
    if setter is not None:
        flow = setter is _set_flow
        # Flow pipelines always pass the sigmas of their own default grid; other pipelines those that the user chose.
        for name in ("timesteps",) if flow else ("timesteps", "sigmas"):
            if name in given:
                raise LMLError(
                    f"{name} is given, and a calibrated schedule has a time grid of its own; leave {name} out, or "
                    "give control='constant'."
                )
        own = given.pop("sigmas", None)
        _check_steps(given.get("num_inference_steps", len(own) if own is not None else None), schedule)
        return setter(scheduler, parent, schedule, given)
    result = parent.set_timesteps(scheduler, *args, **kwargs)
    _check_steps(len(scheduler.timesteps), schedule, calls=True)
    return result


def _check_steps(steps: Any, schedule: CalibratedSchedule, *, calls: bool = False) -> None:
    if steps is not None and steps != schedule.steps:
        name = "number of calls of step" if calls else "num_inference_steps"
        raise LMLError(
            f"{name} is {steps}, and the schedule was calibrated for {schedule.steps}; give {schedule.steps}, or a "
            "calibration for the other number."
        )


def _set_euler(scheduler: Any, parent: Any, schedule: CalibratedSchedule, given: dict[str, Any]) -> Any:
    return parent.set_timesteps(scheduler, sigmas=list(schedule.levels), device=given.get("device"))


def _set_flow(scheduler: Any, parent: Any, schedule: CalibratedSchedule, given: dict[str, Any]) -> Any:
    if scheduler.config.invert_sigmas:
        raise LMLError("control='calibrated' does not know inverted sigmas; give control='constant'.")
    # The base plans first, for all that it sets beside the levels; then come the fitted ones, which it would shift.
    result = parent.set_timesteps(scheduler, **given | {"num_inference_steps": schedule.steps})
    like = scheduler.sigmas
    scheduler.sigmas = torch.tensor(schedule.levels, dtype=like.dtype, device=like.device)
    times = scheduler.sigmas[:-1] * scheduler.config.num_train_timesteps
    scheduler.timesteps = times.to(scheduler.timesteps.device, scheduler.timesteps.dtype)
    return result

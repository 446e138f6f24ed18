"""The levels of a run as numbers on the host, so that no step waits for a device to learn where it is.

The adaptive control works in y = x / alpha and s = sigma / alpha, where every sampling ODE is dy/ds = n; a flow's
x = (1 - s) x0 + s eps obeys it as it is, with its velocity for n.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from lmlangevin.core import LARGEST_FLOW_SIGMA, LMLError, flow_log_ratio
from lmlangevin.schedulers.noise import FLOW, carries_ratio, configured, is_flow, prediction_kind


class Level(NamedTuple):
    """Where a step is.

    Attributes:
        value: s: sigma / alpha, or a flow's sigma.
        log: Logarithm of the noise-to-signal ratio; -inf at s = 0.
        scale: What the sample is divided by to give y.
    """

    value: float
    log: float
    scale: float


def run_levels(scheduler: Any) -> list[Level]:
    """Return the level of every timestep of a run, and behind them the one that the last step ends at.

    Args:
        scheduler: A scheduler whose `set_timesteps` was called.

    Raises:
        LMLError: If the scheduler has neither `sigmas` nor `alphas_cumprod`, or counts its sigmas upwards.
    """
    name = getattr(scheduler, "_lml_base", type(scheduler)).__name__
    if configured(scheduler, "invert_sigmas"):
        raise LMLError(f"control='adaptive' does not know the inverted sigmas of {name}; give control='constant'.")
    if hasattr(scheduler, "sigmas") and hasattr(scheduler, "step_index"):
        ratios = [float(value) for value in scheduler.sigmas.tolist()]
        flow = is_flow(scheduler)
        if flow and prediction_kind(scheduler) == FLOW:
            return [Level(r, flow_log_ratio(r), 1.0) for r in ratios]
        if flow:
            return [Level(r / _signal(r), flow_log_ratio(r), _signal(r)) for r in ratios]
        carried = carries_ratio(scheduler)
        return [Level(r, _log(r), 1.0 if carried else 1 / math.sqrt(1 + r * r)) for r in ratios]
    if hasattr(scheduler, "alphas_cumprod"):
        table, final = scheduler.alphas_cumprod, getattr(scheduler, "final_alpha_cumprod", torch.tensor(1.0))
        timesteps = [int(t) for t in scheduler.timesteps.tolist()]
        abar = [float(table[t]) for t in timesteps] + [float(final)]
        if not all(abar):
            raise LMLError(
                f"control='adaptive' cannot begin at zero signal, as {name} does here (rescale_betas_zero_snr); give "
                "control='constant', or another grid than the trailing one."
            )
        return [Level(math.sqrt((1 - a) / a), _log(math.sqrt((1 - a) / a)), math.sqrt(a)) for a in abar]
    raise LMLError(f"control='adaptive' cannot read the noise levels of {name}; give control='constant'.")


def find_index(timesteps: Tensor, planned: Sequence[float], timestep: Any, expected: int | None = None) -> int | None:
    """Return the position of a timestep in a run's plan, None for one that is not planned.

    A timestep is usually a view into the scheduler's own, whose offset says it without waiting for a device.

    Args:
        timesteps: The scheduler's, as they were planned.
        planned: The same as numbers on the host.
        timestep: What `step` was called with: a number, or a tensor of one number or of one a sample.
        expected: The position that comes next, which decides between equal timesteps; None where a run begins.
    """
    if isinstance(timestep, Tensor):
        if timestep.untyped_storage().data_ptr() == timesteps.untyped_storage().data_ptr():
            behind = int(timestep.storage_offset() - timesteps.storage_offset())
            index, between = divmod(behind, int(timesteps.stride(0)) or 1)
            return index if not between and 0 <= index < len(planned) else None
        if expected is not None and timestep.device.type != "cpu":
            return expected  # its value would have to be waited for
        timestep = timestep.flatten()[0]
    value = float(timestep)
    if expected is not None and expected < len(planned) and planned[expected] == value:
        return expected
    return next((k for k, other in enumerate(planned) if other == value), None)


class _DrewNoise(Exception):  # noqa: N818 - control flow, and no error
    pass


class _NoRandomNumbers(TorchDispatchMode):
    """Stops at the first operator that draws random numbers, before it moves a generator; of this thread alone."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if torch.Tag.nondeterministic_seeded in func.tags:
            raise _DrewNoise
        return func(*args, **(kwargs or {}))


def response(scheduler: Any, step: Any, timesteps: Sequence[Any] | Tensor) -> float | None:
    """Return what the first step of a run makes of a sample of zero and a prediction of one.

    Args:
        scheduler: The scheduler, after `set_timesteps`; a copy of it is stepped.
        step: The unbound step of its base.
        timesteps: The run's timesteps.

    Returns:
        The new sample; None for a step that draws noise. No generator is moved.
    """
    probe = copy.deepcopy(scheduler)
    probe.timesteps = torch.as_tensor(timesteps).cpu()
    if isinstance(getattr(probe, "sigmas", None), Tensor):
        probe.sigmas = probe.sigmas.cpu()
    zero = torch.zeros(1, 1, 1, 1)
    if hasattr(probe, "scale_model_input"):  # some bases warn of a step without it
        zero = probe.scale_model_input(zero, probe.timesteps[0])
    try:
        with _NoRandomNumbers():
            out = step(probe, torch.ones_like(zero), probe.timesteps[0], zero)
    except _DrewNoise:
        return None
    return float(out[0])


def draws_noise(scheduler: Any, step: Any, timesteps: Sequence[Any] | Tensor) -> bool:
    """Return whether a solver's step draws noise; the arguments are those of `response`."""
    return response(scheduler, step, timesteps) is None


def _log(ratio: float) -> float:
    return math.log(ratio) if ratio > 0 else -math.inf


def _signal(sigma: float) -> float:
    return 1 - min(sigma, LARGEST_FLOW_SIGMA)

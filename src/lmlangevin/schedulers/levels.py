"""The levels of a run as numbers on the host, so that no step waits for a device to learn where it is.

The adaptive control works in y = x / alpha and s = sigma / alpha, where every sampling ODE is dy/ds = n; a flow's
x = (1 - s) x0 + s eps obeys it as it is, with its velocity for n.
"""

from __future__ import annotations

import copy
import inspect
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from lmlangevin.core import LARGEST_FLOW_SIGMA, LMLError, flow_log_ratio


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
    if scheduler.config.get("invert_sigmas"):
        raise LMLError(f"control='adaptive' does not know the inverted sigmas of {name}; give control='constant'.")
    if hasattr(scheduler, "sigmas") and hasattr(scheduler, "step_index"):
        ratios = [float(value) for value in scheduler.sigmas.tolist()]
        flow = bool(scheduler.config.get("use_flow_sigmas")) or "FlowMatch" in name
        if flow and getattr(scheduler.config, "prediction_type", "flow_prediction") == "flow_prediction":
            return [Level(r, flow_log_ratio(r), 1.0) for r in ratios]
        if flow:
            return [Level(r / _signal(r), flow_log_ratio(r), _signal(r)) for r in ratios]
        carries_ratio = hasattr(scheduler, "is_scale_input_called")
        return [Level(r, _log(r), 1.0 if carries_ratio else 1 / math.sqrt(1 + r * r)) for r in ratios]
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


def find_index(timesteps: Tensor, planned: Sequence[float], timestep: Any) -> int:
    """Return the position of a run's first timestep in its plan: 0, or later where a pipeline starts from an image.

    A timestep is usually a view into the scheduler's own, whose offset says it without waiting for a device.

    Args:
        timesteps: The scheduler's.
        planned: The same as numbers on the host.
        timestep: What `step` was called with.
    """
    if isinstance(timestep, Tensor) and timestep.numel() == 1:
        if timestep.untyped_storage().data_ptr() == timesteps.untyped_storage().data_ptr():
            return int(timestep.storage_offset() - timesteps.storage_offset())
    value = float(timestep)
    return next((k for k, other in enumerate(planned) if other == value), 0)


def draws_noise(scheduler: Any, step: Any, timesteps: Sequence[Any] | Tensor) -> bool:
    """Return whether a solver's step injects noise: whether it turns zeros into anything else.

    Args:
        scheduler: The scheduler, after `set_timesteps`; a copy of it is stepped.
        step: The unbound step of its base.
        timesteps: The run's timesteps.
    """
    probe = copy.deepcopy(scheduler)
    probe.timesteps = torch.as_tensor(timesteps).cpu()
    if isinstance(getattr(probe, "sigmas", None), Tensor):
        probe.sigmas = probe.sigmas.cpu()
    zeros = torch.zeros(1, 1, 1, 1)
    takes = inspect.signature(step).parameters
    extra = {"generator": torch.Generator()} if "generator" in takes else {}
    # The probe must not move the global generator, which the user's own noise may come from.
    with torch.random.fork_rng(devices=[]):
        if hasattr(probe, "scale_model_input"):  # some bases warn of a step without it
            zeros = probe.scale_model_input(zeros, probe.timesteps[0])
        out = step(probe, zeros, probe.timesteps[0], zeros, **extra)
    return bool((out[0] != 0).any())


def _log(ratio: float) -> float:
    return math.log(ratio) if ratio > 0 else -math.inf


def _signal(sigma: float) -> float:
    return 1 - min(sigma, LARGEST_FLOW_SIGMA)

"""From what a network predicts to the noise that LML corrects, and back.

LML's n is the noise of a variance-preserving model or the velocity of a flow. A v- or x0-prediction is the same
knowledge in other coordinates, so it is corrected as the noise it implies: two equivalent models give equal images.
"""

from __future__ import annotations

import copy
import functools
import inspect
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

FLOW = "flow_prediction"

DIRECT = ("epsilon", FLOW)
"""Prediction types that are themselves what LML corrects."""

LARGEST_SIGMA = 1.001
"""Largest sigma of a flow, with what float32 may round."""


def is_flow(scheduler: Any) -> bool:
    """Return whether a scheduler samples flows, x = (1 - s) x0 + s eps.

    A class that takes `use_flow_sigmas` samples what its configuration says. Any other class samples one kind of model:
    flows, if it keeps its levels as `sigmas` within [0, 1] and has no table of alphas. Names of classes are not asked.

    Args:
        scheduler: A diffusers scheduler, with LML or without, planned or not.
    """
    configured_flow = _configured_flow(type(scheduler), scheduler.config)
    if configured_flow is not None:
        return configured_flow
    if hasattr(scheduler, "alphas") or hasattr(scheduler, "alphas_cumprod") or not hasattr(scheduler, "sigmas"):
        return False
    if scheduler.sigmas is None:
        scheduler = copy.deepcopy(scheduler)
        scheduler.set_timesteps(4)
    sigmas = torch.as_tensor(scheduler.sigmas)
    return bool((sigmas >= 0).all()) and bool((sigmas <= LARGEST_SIGMA).all())


def would_be_flow(base: Any, config: Mapping[str, Any]) -> bool:
    """Return whether a scheduler class samples flows with a configuration, which it may refuse to be built from.

    Args:
        base: A diffusers scheduler class.
        config: The configuration.
    """
    configured_flow = _configured_flow(base, config)
    return is_flow(base.from_config(config)) if configured_flow is None else configured_flow


def _configured_flow(cls: type, config: Mapping[str, Any]) -> bool | None:
    """Return what a configuration says, None for a class that samples one kind of model whatever it says."""
    if "use_flow_sigmas" not in _accepted(cls):
        return None
    return bool(config.get("use_flow_sigmas")) or config.get("prediction_type") == FLOW


def prediction_kind(scheduler: Any) -> str:
    """Return what a scheduler's model predicts, in diffusers' words: `"epsilon"`, `"v_prediction"`, ...

    Args:
        scheduler: A diffusers scheduler, with LML or without.
    """
    return configured(scheduler, "prediction_type") or (FLOW if is_flow(scheduler) else "epsilon")


def configured(scheduler: Any, key: str) -> Any:
    """Return a key of a scheduler's configuration, None where its class does not take the key.

    diffusers keeps the keys of other classes in a configuration, for those that are made from it later.
    """
    return scheduler.config.get(key) if key in _accepted(type(scheduler)) else None


@functools.cache
def _accepted(cls: type) -> frozenset[str]:
    """Return the configuration keys of a class.

    A subclass may hand arguments on to its base without naming them, so that the bases are asked as well.
    """
    return frozenset(name for kin in cls.__mro__ for name in inspect.signature(kin.__init__).parameters)


def alpha_bar(scheduler: Any, timestep: Any) -> Tensor:
    """Return the cumulative alpha of a timestep, 1 (or the final alpha) below 0, without waiting for a device.

    Args:
        scheduler: A scheduler that indexes `alphas_cumprod` by timestep (DDIM, PNDM and their kin).
        timestep: A Python number or a 0-dimensional tensor on any device.

    Returns:
        A 0-dimensional tensor on the timestep's device (CPU for a number).
    """
    table = scheduler.alphas_cumprod
    final = getattr(scheduler, "final_alpha_cumprod", torch.tensor(1.0))
    if not isinstance(timestep, Tensor):
        return table[int(timestep)] if timestep >= 0 else final
    # take() and where() stay on the device, where table[timestep] would read the index back.
    device = timestep.device
    index = timestep.to(torch.long)
    value = torch.take(table.to(device, non_blocking=True), index.clamp_min(0))
    return torch.where(index >= 0, value, final.to(device, non_blocking=True))


def level_index(scheduler: Any, timestep: Any) -> int:
    """Return the index of a step's level in `sigmas`, for a scheduler that counts its steps by itself.

    Args:
        scheduler: A scheduler with a `step_index`.
        timestep: The step's timestep, which says where a run begins.
    """
    if scheduler.step_index is None and hasattr(scheduler, "_init_step_index"):
        # The base does this at the top of its step; done here it is not done twice.
        scheduler._init_step_index(timestep)
    if scheduler.step_index is not None:
        return scheduler.step_index
    begin = scheduler.begin_index
    return scheduler.index_for_timestep(timestep) if begin is None else begin


def carries_ratio(scheduler: Any) -> bool:
    """Return whether a solver's sample is y = x / alpha, as in the Euler, LMS, Heun and KDPM2 families, and not x."""
    return hasattr(scheduler, "is_scale_input_called") or hasattr(scheduler, "state_in_first_order")


def signal_and_noise(scheduler: Any, timestep: Any, sample: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return (alpha, sigma, x) with x = alpha x0 + sigma eps the noised sample of this step.

    Solvers of the Euler family carry x / alpha as their sample; it is rescaled here.
    """
    if not hasattr(scheduler, "step_index"):
        abar = alpha_bar(scheduler, timestep)
        return abar.sqrt(), (1 - abar).sqrt(), sample
    ratio = scheduler.sigmas[level_index(scheduler, timestep)]
    if is_flow(scheduler):
        return 1 - ratio, ratio, sample
    alpha = torch.rsqrt(1 + ratio * ratio)
    return alpha, ratio * alpha, sample * alpha if carries_ratio(scheduler) else sample


def noise_coordinates(
    scheduler: Any, prediction: Tensor, timestep: Any, sample: Tensor
) -> tuple[Tensor, Tensor | float]:
    """Express a prediction as noise.

    Args:
        scheduler: The LML scheduler, for its prediction type and noise schedule.
        prediction: The network's output, (batch, *event).
        timestep: The step's timestep.
        sample: The solver's sample, of the same shape.

    Returns:
        The noise n, and the factor f such that a change of n by dn changes the prediction by f * dn.
    """
    kind = configured(scheduler, "prediction_type")
    if kind is None or kind in DIRECT:
        return prediction, 1.0
    alpha, sigma, x = signal_and_noise(scheduler, timestep, sample)
    wide = torch.promote_types(prediction.dtype, torch.float32)
    prediction, x = prediction.to(wide), x.to(wide)
    if kind == "v_prediction":
        return alpha * prediction + sigma * x, 1 / alpha
    return (x - alpha * prediction) / sigma, -sigma / alpha


def prediction_from_noise(scheduler: Any, n: Tensor, timestep: Any, sample: Tensor) -> Tensor:
    """Return the prediction that implies a noise: the inverse of `noise_coordinates`, for a sample that may have moved.

    Args:
        scheduler: The LML scheduler.
        n: The noise, or a flow's velocity, (batch, *event).
        timestep: The step's timestep.
        sample: The solver's sample that the prediction is to belong to, of the same shape.
    """
    kind = configured(scheduler, "prediction_type")
    if kind is None or kind in DIRECT:
        return n
    alpha, sigma, x = signal_and_noise(scheduler, timestep, sample)
    return (n - sigma * x) / alpha if kind == "v_prediction" else (x - sigma * n) / alpha

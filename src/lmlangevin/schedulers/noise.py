"""From what a network predicts to the noise that LML corrects, and back.

LML's n is the noise of a variance-preserving model or the velocity of a flow. A v- or x0-prediction is the same
knowledge in other coordinates, so it is corrected as the noise it implies: two equivalent models give equal images.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

DIRECT = ("epsilon", "flow_prediction")
"""Prediction types that are themselves what LML corrects."""


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


def signal_and_noise(scheduler: Any, timestep: Any, sample: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return (alpha, sigma, x) with x = alpha x0 + sigma eps the noised sample of this step.

    Solvers of the Euler family carry x / alpha as their sample; it is rescaled here.
    """
    if not hasattr(scheduler, "step_index"):
        abar = alpha_bar(scheduler, timestep)
        return abar.sqrt(), (1 - abar).sqrt(), sample
    if scheduler.step_index is None:
        # The base does this at the top of its step; done here it is not done twice.
        scheduler._init_step_index(timestep)
    ratio = scheduler.sigmas[scheduler.step_index]
    if scheduler.config.get("use_flow_sigmas"):
        return 1 - ratio, ratio, sample
    alpha = torch.rsqrt(1 + ratio * ratio)
    carries_ratio = hasattr(scheduler, "is_scale_input_called")
    return alpha, ratio * alpha, sample * alpha if carries_ratio else sample


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
    kind = getattr(scheduler.config, "prediction_type", "epsilon")
    if kind in DIRECT:
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
    kind = getattr(scheduler.config, "prediction_type", "epsilon")
    if kind in DIRECT:
        return n
    alpha, sigma, x = signal_and_noise(scheduler, timestep, sample)
    return (n - sigma * x) / alpha if kind == "v_prediction" else (x - sigma * n) / alpha

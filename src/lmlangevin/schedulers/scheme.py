"""diffusers' solvers as linear schemes, read off by running each once on basis vectors."""

from __future__ import annotations

import copy
from typing import Any

import torch

from lmlangevin.core import LinearScheme, LMLError
from lmlangevin.schedulers.levels import draws_noise, run_levels
from lmlangevin.schedulers.noise import LARGEST_SIGMA, configured, is_flow

_NOT_LINEAR = {
    "clip_sample": "clips the data prediction",
    "thresholding": "thresholds the data prediction",
}
_ROUNDING = 2e-6
"""What float32 tables of alphas leave of a coefficient of 1."""


def scheme_of(scheduler: Any, num_inference_steps: int, **grid: Any) -> LinearScheme:
    """Return the linear scheme of a deterministic diffusers scheduler.

    Args:
        scheduler: A plain diffusers scheduler, planned or not; it is left as it is.
        num_inference_steps: Steps, as for `set_timesteps`.
        grid: Further arguments of `set_timesteps`, such as `sigmas` or `mu`.

    Returns:
        The scheme, in the coordinates of `core.LinearScheme`; its first level is the scheduler's own. Where a scheduler
        ends above s = 0 (`set_alpha_to_one=False`, `final_sigmas_type="sigma_min"`), so does the scheme, and the image
        is y / sqrt(1 + s^2) there.

    Raises:
        LMLError: If the scheduler has LML, draws noise, clips or thresholds, or plans a flow above s = 1.
    """
    name = type(scheduler).__name__
    if hasattr(scheduler, "_lml_base"):
        raise LMLError(f"scheduler={name} has LML; give the plain scheduler, {scheduler._lml_base.__name__}.")
    for key, what in _NOT_LINEAR.items():
        if configured(scheduler, key):
            raise LMLError(f"scheduler={name} {what}, which is not linear; give one with {key}=False.")
    probe = copy.deepcopy(scheduler)
    if not is_flow(probe) and configured(probe, "prediction_type") not in (None, "epsilon"):
        probe = type(scheduler).from_config(scheduler.config, prediction_type="epsilon")
    probe.set_timesteps(num_inference_steps, device="cpu", **grid)
    if draws_noise(probe, type(probe).step, probe.timesteps):
        raise LMLError(f"scheduler={name} draws noise in its steps; give a deterministic one, such as DDIMScheduler.")
    levels = run_levels(probe)
    if is_flow(probe) and max(level.value for level in levels) > LARGEST_SIGMA:
        raise LMLError(f"scheduler={name} plans a flow's levels above 1 on this grid; give another grid.")
    count = len(probe.timesteps)
    basis = torch.eye(count + 1, dtype=torch.float64).view(count + 1, count + 1, 1, 1, 1)
    x = basis[0] * levels[0].scale
    rows, start = [], []
    for k, t in enumerate(probe.timesteps):
        if hasattr(probe, "scale_model_input"):  # some bases warn of a step without it
            probe.scale_model_input(x, t)
        x = probe.step(basis[k + 1], t, x, return_dict=False)[0].to(torch.float64)
        y = (x / levels[k + 1].scale).flatten().tolist()
        start.append(1.0 if abs(y[0] - 1) < _ROUNDING else y[0])
        rows.append(tuple(y[1 : k + 2]))
    return LinearScheme(tuple(level.value for level in levels), tuple(rows), tuple(start))

"""High-accuracy solutions of the probability-flow ODE of an analytic model: what samplers are measured against."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from lmlangevin.core.errors import LMLError
from lmlangevin.reference.gaussian_mixture import GaussianMixture
from lmlangevin.reference.model import linear_alphas_cumprod

DEFAULT_STEPS = 40


def runge_kutta(
    slope: Callable[[Tensor, float], Tensor],
    y: Tensor,
    grid: Tensor,
    progress: Callable[[int, int], None] | None = None,
) -> Tensor:
    """Classical fourth-order Runge-Kutta on dy/ds = slope(y, s), 4 evaluations a step.

    Args:
        slope: right-hand side.
        y: value at grid[0], any shape.
        grid: (n + 1,) values of s.
        progress: called as progress(steps done, n) after each step.

    Returns:
        The value at grid[-1], shape and dtype of y.
    """
    points = grid.tolist()
    for i, (start, end) in enumerate(zip(points[:-1], points[1:], strict=True)):
        h = end - start
        k1 = slope(y, start)
        k2 = slope(y + h / 2 * k1, start + h / 2)
        k3 = slope(y + h / 2 * k2, start + h / 2)
        k4 = slope(y + h * k3, end)
        y = y + h / 6 * (k1 + 2 * k2 + 2 * k3 + k4)
        if progress is not None:
            progress(i + 1, len(points) - 1)
    return y


def converged_solution(
    mixture: GaussianMixture,
    noise: Tensor,
    *,
    path: str = "vp",
    steps: int = DEFAULT_STEPS,
    alphas_cumprod: Tensor | None = None,
    start: float | None = None,
    end: float = 0.0,
    progress: Callable[[int, int], None] | None = None,
) -> Tensor:
    """Solve the probability-flow ODE of the mixture from pure noise to sigma = 0.

    The variance-preserving path starts at x_T = noise with the noise level of the last timestep and is solved in
    y = x/alpha, s = sigma/alpha, where dy/ds = E[eps | x]. The flow path starts at x = noise, sigma = 1 (alpha = 0)
    and is solved in dx/dsigma = E[eps - x0 | x]. Both grids are uniform in log(sigma/alpha), except for the last
    step, which goes to 0 from a tenth of the least standard deviation that the mixture has in any direction: the
    solution is smooth there, so that one Runge-Kutta step serves.

    On the embedded mixture (16 seeds, float32, against float64 with 160 steps) the RMSE is 4e-5 with 30 steps and
    1.3e-5 with the default of 40 on the VP path, 1.4e-5 and 4e-6 on the flow path.

    Args:
        mixture: the data distribution.
        noise: (B, *event_shape), standard normal, any float dtype.
        path: "vp" (default) or "flow".
        steps: Runge-Kutta steps, 4 evaluations each, at least 4.
        alphas_cumprod: (T,) of the variance-preserving path; default 1000 linear betas. Only its end matters.
        start: sigma/alpha that the noise belongs to, on the VP path; default that of the last timestep.
        end: sigma/alpha to stop at, on the VP path, below start; default 0. There the sample x (not x / alpha) is
            returned.
        progress: called as progress(steps done, steps) after each step.

    Returns:
        x0 in the shape and dtype of noise; the state is kept in the mixture's dtype or that of noise, the wider.

    Raises:
        LMLError: on another path, too few steps, or ends that do not fit it.
    """
    if path not in ("vp", "flow"):
        raise LMLError(f"path is {path!r}; give 'vp' or 'flow'")
    if steps < 4:
        raise LMLError(f"steps is {steps}; give 4 or more")
    if path == "flow" and (start is not None or end):
        raise LMLError(f"start is {start}, end is {end}; the flow path goes from 1 to 0, so leave them out")
    if end < 0 or (start is not None and start <= end):
        raise LMLError(f"start is {start}, end is {end}; give 0 <= end < start")
    state = noise.to(torch.promote_types(noise.dtype, mixture.dtype))
    least = 0.1 * math.sqrt(mixture.variances.min().item())
    if path == "vp":
        first = start
        if first is None:
            last = (linear_alphas_cumprod() if alphas_cumprod is None else alphas_cumprod)[-1].item()
            first = math.sqrt((1 - last) / last)
        if end >= least:
            grid = _log_spaced(first, end, steps + 1)
        else:
            grid = torch.cat([_log_spaced(first, least, steps), torch.full((1,), end, dtype=torch.float64)])

        def epsilon(y: Tensor, s: float) -> Tensor:
            # Evaluated in x, not in y: y is as large as s where the noise rules, x never is.
            alpha = 1 / math.sqrt(1 + s * s)
            return mixture.epsilon(alpha * y, alpha, s * alpha)

        solved = runge_kutta(epsilon, state * math.sqrt(1 + first**2), grid, progress)
        return (solved / math.sqrt(1 + end**2)).to(noise.dtype)
    ratios = _log_spaced(100.0, least, steps - 1)
    edge = torch.ones(1, dtype=torch.float64)
    grid = torch.cat([edge, ratios / (1 + ratios), 0 * edge])
    return runge_kutta(mixture.velocity, state, grid, progress).to(noise.dtype)


def _log_spaced(first: float, last: float, count: int) -> Tensor:
    grid = torch.linspace(math.log(first), math.log(last), count, dtype=torch.float64)
    return grid.exp()

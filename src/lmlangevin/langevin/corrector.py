"""Langevin steps between the steps of a sampler, at the noise level that it has reached: predictor and corrector.

At x = alpha x0 + sigma eps the score is s = -n / sigma, n the prediction of the noise, and the curvature of the log
density is I / sigma^2 less a term that only the data's own directions have. So H is measured in that unit,

    H = (I + B B^T / lambda) / sigma^2,        x' = x + eps H^-1 s + sqrt(2 eps) H^-1/2 xi,

and eps has none. B holds differences of the run's predictions at earlier levels, b_j = n_{j+1} - n_j, which is what
LML's b = n + kappa (n_j - n) tends to, but for its length, as kappa grows. The predictions themselves must not be in
it: n is almost the same at the next level, and a geometry that is stiff along the score itself takes from the drift
and not from the noise, so that a few steps raise the noise level (docs/langevin.md has by how much).

H is made before the level is entered and does not change there. The chain is not adjusted: a network has no density.

Reference: Song et al., arXiv:2011.13456, for the isotropic one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from lmlangevin.core.operator import DampedLowRank
from lmlangevin.core.passes import scaled

DAMPING = 1.0
"""mu with lambda = mu tr(B^T B) / r: moves along a difference are shortened to between a half and all."""


def difference_geometry(predictions: Sequence[Tensor]) -> DampedLowRank | None:
    """Build sigma^2 H, but for the factor lambda, from a run's predictions.

    Args:
        predictions: Noise predictions at the levels behind, newest first, each (batch, *event).

    Returns:
        B B^T + lambda I with r = len(predictions) - 1 differences; None from one prediction or none, for the identity.
    """
    pairs = zip(predictions[:-1], predictions[1:], strict=True)
    differences = [older - newer for newer, older in pairs]
    return DampedLowRank(differences, DAMPING) if differences else None


def langevin_step(
    x: Tensor, n: Tensor, noise: Tensor, geometry: DampedLowRank | None, *, sigma: float, step_size: float
) -> Tensor:
    """Take one step at a noise level.

    Args:
        x: The sample, (batch, *event), in whatever coordinates have noise of deviation `sigma` in it.
        n: The prediction of the noise at x, of the same shape.
        noise: Standard normal, of the same shape.
        geometry: What `difference_geometry` returned.
        sigma: The level, above 0.
        step_size: eps, in units of sigma^2: after 1 / eps steps the noise is another one.

    Returns:
        The sample, in x's dtype.
    """
    dtype = x.dtype
    # lambda has the square of the predictions' units, too much for half types.
    x, n, noise = (t.to(torch.promote_types(t.dtype, torch.float32)) for t in (x, n, noise))
    if geometry is not None:
        lam = scaled(geometry.damping, x)
        n = lam * geometry.solve(n)
        noise = lam.sqrt() * geometry.inverse_sqrt_matvec(noise)
    return (x - step_size * sigma * n + math.sqrt(2 * step_size) * sigma * noise).to(dtype)


def correct_level(
    predict: Callable[[Tensor], Tensor],
    draw: Callable[[], Tensor],
    x: Tensor,
    geometry: DampedLowRank | None,
    *,
    sigma: float,
    step_size: float,
    steps: int,
) -> Tensor:
    """Take so many steps at a noise level: one evaluation of `predict` each.

    Args:
        predict: The noise in a sample of this level, (batch, *event) -> the same.
        draw: A standard normal of x's shape, a new one every time.
        x: The sample.
        geometry: As in `langevin_step`; the same for all steps.
        sigma: As in `langevin_step`.
        step_size: As in `langevin_step`.
        steps: K.
    """
    for _ in range(steps):
        x = langevin_step(x, predict(x), draw(), geometry, sigma=sigma, step_size=step_size)
    return x

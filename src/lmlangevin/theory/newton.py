"""The exact damped Newton direction, which LML's low-rank factor stands in for, by conjugate gradients."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from lmlangevin.core.errors import LMLError
from lmlangevin.theory.flow import ProbabilityFlow


class Solution(NamedTuple):
    """What `conjugate_gradient` found.

    Attributes:
        x: (B, *event): the solution, or where `indefinite` the last iterate before that was seen (0 at first).
        residual: (B,): ||b - A x|| / ||b||.
        indefinite: (B,) bool: a direction p with <p, A p> <= 0 was met.
        iterations: Products with A made.
    """

    x: Tensor
    residual: Tensor
    indefinite: Tensor
    iterations: int


def _dot(a: Tensor, b: Tensor) -> Tensor:
    return torch.linalg.vecdot(a.flatten(1).double(), b.flatten(1).double())


def conjugate_gradient(
    product: Callable[[Tensor], Tensor], rhs: Tensor, *, tolerance: float = 1e-6, most: int = 200
) -> Solution:
    """Solve A x = b for symmetric positive definite A, for every sample by itself (Hestenes and Stiefel, 1952).

    Args:
        product: v -> A v, (B, *event) -> the same.
        rhs: b, (B, *event).
        tolerance: Relative residual to stop at, for all samples.
        most: Most iterations.

    Returns:
        A `Solution`. A sample in which A shows not to be positive definite keeps the iterate it had.
    """
    column = (-1,) + (1,) * (rhs.ndim - 1)
    x, residual, direction = torch.zeros_like(rhs), rhs.clone(), rhs.clone()
    norm2 = start = _dot(rhs, rhs)
    indefinite = torch.zeros_like(start, dtype=torch.bool)
    done = start == 0
    iterations = 0
    while iterations < most and not bool(done.all()):
        image = product(direction)
        iterations += 1
        bend = _dot(direction, image)
        indefinite |= ~done & (bend <= 0)
        done = done | indefinite
        length = torch.where(done, 0, norm2 / bend).to(rhs.dtype).view(column)
        x = x + length * direction
        residual = residual - length * image
        smaller = _dot(residual, residual)
        share = torch.where(done, 0, smaller / norm2).to(rhs.dtype).view(column)
        direction, norm2 = residual + share * direction, smaller
        done = done | (norm2 <= tolerance**2 * start)
    return Solution(x, torch.where(start > 0, (norm2 / start).sqrt(), 0), indefinite, iterations)


class Newton(NamedTuple):
    """A damped Newton direction.

    Attributes:
        direction: (B, *event): ||n|| x / ||x|| with (J + lambda I) x = n.
        damping: (B,): lambda, raised where what was asked for left J + lambda I indefinite.
        products: Hessian-vector products made of a sample, at most.
    """

    direction: Tensor
    damping: Tensor
    products: int


def damped_newton(flow: ProbabilityFlow, y: Tensor, s: float, damping: float, *, tolerance: float = 1e-4) -> Newton:
    """Solve (J + lambda I) x = n, the exact Hessian in the place of LML's, and restore the norm of n.

    Between the modes of a mixture J has negative eigenvalues. As in Levenberg's and Marquardt's method, lambda is
    raised, by factors of 4 and for the samples concerned, until conjugate gradients meet no negative curvature.

    Args:
        flow: The mixture's flow.
        y: (B, *event_shape).
        s: Noise-to-signal ratio, above 0.
        damping: lambda to start from, in units of J, in which 1 is the curvature of the noise alone; above 0.
        tolerance: Relative residual of the solve.

    Returns:
        The direction, and the damping that it took.

    Raises:
        LMLError: If the damping is not above 0.
    """
    if not damping > 0:
        raise LMLError(f"damping is {damping}; give a number above 0.")
    n = flow.slope(y, s)
    x = torch.empty_like(n)
    lam = torch.full((len(y),), damping, dtype=torch.float64, device=y.device)
    todo, products = torch.arange(len(y), device=y.device), 0
    while len(todo):
        some, own = y[todo], lam[todo].to(y.dtype).view((-1,) + (1,) * (y.ndim - 1))

        def product(v: Tensor, some: Tensor = some, own: Tensor = own) -> Tensor:
            return flow.product(some, s, v) + own * v

        solution = conjugate_gradient(product, n[todo], tolerance=tolerance)
        x[todo] = solution.x
        products += solution.iterations
        todo = todo[solution.indefinite]
        lam[todo] *= 4
    return Newton(with_norm_of(n, x), lam, products)


def with_norm_of(n: Tensor, x: Tensor) -> Tensor:
    """Return x scaled to the norm of n, for every sample by itself: (B, *event), the same -> the same."""
    scale = (_dot(n, n) / _dot(x, x)).sqrt().to(x.dtype)
    return x * scale.view((-1,) + (1,) * (x.ndim - 1))


def angle(a: Tensor, b: Tensor) -> Tensor:
    """Return the angle between two vectors of every sample, in radians: (B, *event), the same -> (B,), float64.

    By the half-angle of the unit vectors' difference and sum, which is accurate for small angles, where the arc cosine
    is not.
    """
    a, b = (v.flatten(1).double() for v in (a, b))
    a, b = a / a.norm(dim=1, keepdim=True), b / b.norm(dim=1, keepdim=True)
    return 2 * torch.atan2((a - b).norm(dim=1), (a + b).norm(dim=1))

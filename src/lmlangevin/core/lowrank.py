"""The damped low-rank solve, in the form that does not cancel.

With previous predictions n_1..n_r (newest first), D_j = n_j - n and b_j = n + kappa D_j, the operator is
H = B B^T + lambda I (arXiv:2505.24222; rank r is the same with more columns). Split every D_j into a part along n
and a part across it, D_j = a_j n + P_j with <n, P_j> = 0. Then b_j = beta_j n + kappa P_j, beta_j = 1 + kappa a_j,
and with the Gram matrix G = P^T P, by the Woodbury identity,

    H^-1 n   is parallel to   n - sum_j g_j P_j,     g = kappa ||n||^2 (lambda I + kappa^2 G)^-1 beta.

The textbook form n - B (lambda I + B^T B)^-1 B^T n subtracts two nearly equal vectors as lambda falls, and loses all
digits of the difference in float32 at the dampings of the paper; here n is kept, and only the small part is computed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor


class Solve(NamedTuple):
    """The solution's direction with the norm of n restored, and how it came about.

    Attributes:
        direction: (batch, *event), in the dtype that the solve computed in; undefined where `identity`.
        gain: (batch, r): the coefficients g_j.
        angle: (batch,): the angle between n and the direction, in radians.
        identity: (batch,) bool: no direction could be formed, n itself is the answer.
    """

    direction: Tensor
    gain: Tensor
    angle: Tensor
    identity: Tensor


def scalar_dtype(device: torch.device) -> torch.dtype:
    """Return the dtype of per-sample scalars: float64, or float32 where the device has nothing wider."""
    return torch.float32 if device.type == "mps" else torch.float64


def _dot(a: Tensor, b: Tensor) -> Tensor:
    return torch.linalg.vecdot(a.flatten(1), b.flatten(1)).to(scalar_dtype(a.device))


def _per_sample(value: float | Tensor, like: Tensor) -> Tensor:
    # torch.full and not torch.tensor: copying a host number to a GPU would wait for the device.
    if isinstance(value, Tensor):
        return value.to(device=like.device, dtype=like.dtype).expand_as(like)
    return torch.full_like(like, value)


def _solve_spd(matrix: list[list[Tensor]], rhs: list[Tensor]) -> list[Tensor]:
    """Solve a small symmetric positive definite system for every sample, by elimination without pivots.

    Entries are tensors of shape (batch,). Elimination of such a matrix is stable without pivoting, and unrolled like
    this it has no error check that would wait for the device; for r = 1 it is one division.
    """
    r = len(rhs)
    a = [row[:] for row in matrix]
    x = rhs[:]
    for k in range(r):
        for i in range(k + 1, r):
            factor = a[i][k] / a[k][k]
            for j in range(k + 1, r):
                a[i][j] = a[i][j] - factor * a[k][j]
            x[i] = x[i] - factor * x[k]
    for k in reversed(range(r)):
        for j in range(k + 1, r):
            x[k] = x[k] - a[k][j] * x[j]
        x[k] = x[k] / a[k][k]
    return x


def solve(
    n: Tensor, previous: Sequence[Tensor], kappa: float | Tensor, damping: float | Tensor, *, absolute: bool
) -> Solve:
    """Solve H d = n for the direction of d and restore the norm of n.

    Args:
        n: Prediction, (batch, *event), floating point. Half types are computed in float32.
        previous: r >= 1 earlier predictions, newest first, each of n's shape.
        kappa: Mixing share, a number or (batch,).
        damping: mu with lambda = mu tr(B^T B) / r, or lambda itself if `absolute`; a number or (batch,).
        absolute: Whether `damping` is lambda itself.

    Returns:
        A `Solve`; no value in it was read by the host.
    """
    work = torch.promote_types(n.dtype, torch.float32)
    n = n.to(work)
    norm2 = _dot(n, n)
    kappa = _per_sample(kappa, norm2)
    damping = _per_sample(damping, norm2)
    column = (-1,) + (1,) * (n.ndim - 1)

    # All in units of ||n||^2 from here, so that nothing under- or overflows with the size of the image.
    across, along = [], []
    for earlier in previous:
        difference = earlier.to(work) - n
        a = _dot(n, difference) / norm2
        # A second pass over D_j, and not ||D||^2 - <n,D>^2 / ||n||^2, which cancels where D is nearly parallel to n.
        across.append(difference.addcmul_(n, a.to(work).view(column), value=-1))
        along.append(a)
    r = len(across)
    gram = [[norm2] * r for _ in range(r)]
    for i in range(r):
        for j in range(i + 1):
            gram[i][j] = gram[j][i] = _dot(across[i], across[j]) / norm2
    beta = [1 + kappa * a for a in along]
    if absolute:
        lam = damping / norm2
    else:
        lam = damping * sum(b * b + kappa * kappa * gram[j][j] for j, b in enumerate(beta)) / r

    matrix = [[kappa * kappa * gram[i][j] + (lam if i == j else 0) for j in range(r)] for i in range(r)]
    gain = [kappa * z for z in _solve_spd(matrix, beta)]
    tangent2 = sum(gain[i] * gain[j] * gram[i][j] for i in range(r) for j in range(r))
    tangent2 = torch.as_tensor(tangent2).clamp_min(0)
    scale = torch.rsqrt(1 + tangent2)

    direction = n
    for g, p in zip(gain, across, strict=True):
        direction = torch.addcmul(direction, p, g.to(work).view(column), value=-1)
    direction = direction * scale.to(work).view(column)
    gains = torch.stack(gain, dim=1)
    # One test catches everything: a zero norm, an overflow and a NaN in any input all end in one of these scalars.
    # Below the smallest norm the squares of the elements lose digits to underflow, and the norm could not be restored.
    smallest = torch.finfo(work).tiny * 2**24
    valid = (norm2 > smallest) & torch.isfinite(norm2) & torch.isfinite(tangent2) & torch.isfinite(gains).all(dim=1)
    return Solve(direction, gains, torch.atan(tangent2.sqrt()), ~valid | (kappa == 0))

"""The damped low-rank solve, in the form that does not cancel.

With previous predictions n_1..n_r (newest first), D_j = n_j - n and b_j = n + kappa D_j, the operator is
H = B B^T + lambda I (arXiv:2505.24222; rank r is the same with more columns). Split every D_j into a part along n
and a part across it, D_j = a_j n + P_j with <n, P_j> = 0. Then b_j = beta_j n + kappa P_j, beta_j = 1 + kappa a_j,
and with the Gram matrix G = P^T P, by the Woodbury identity,

    H^-1 n   is parallel to   n - sum_j g_j P_j,     g = kappa ||n||^2 (lambda I + kappa^2 G)^-1 beta.

The textbook form n - B (lambda I + B^T B)^-1 B^T n subtracts two nearly equal vectors as lambda falls, and loses all
digits of the difference in float32 at the dampings of the paper; here n is kept, and only the small part is computed.
`operator.DampedLowRank` is H for any other vector.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from lmlangevin.core.passes import Passes, column, sum_of, takes_gradients

LEAST_DAMPING = 1e-4
"""Smallest mu of a rank above 1 in float32. Of factors that lie on a line, as those of a steadily turning prediction
nearly do, less would make large multiples cancel, and the length of what is left would be rounding."""


class Solve(NamedTuple):
    """The solution's direction with the norm of n restored, and how it came about.

    Attributes:
        direction: (batch, *event), in n's dtype; n itself where `identity`.
        gain: (batch, r): the coefficients g_j.
        angle: (batch,): the angle between n and the direction, in radians.
        identity: (batch,) bool: no direction could be formed, n itself is the answer.
        copy: A copy of n, where one was asked for.
    """

    direction: Tensor
    gain: Tensor
    angle: Tensor
    identity: Tensor
    copy: Tensor | None


def per_sample(value: float | Tensor, like: Tensor) -> Tensor:
    """Return a number, or one value a sample, as a tensor like `like`, (batch,)."""
    # torch.full and not torch.tensor: copying a host number to a GPU would wait for the device.
    if isinstance(value, Tensor):
        return value.to(device=like.device, dtype=like.dtype).expand_as(like)
    return torch.full_like(like, value)


def _number(value: float | Tensor, like: Tensor) -> float | Tensor:
    """Return one value a sample, or the number that is everyone's, which needs no tensor."""
    return per_sample(value, like) if isinstance(value, Tensor) else float(value)


def factors(n: Tensor, previous: Sequence[Tensor], kappa: float | Tensor) -> list[Tensor]:
    """Return the columns b_j = n + kappa (n_j - n) of B, each (batch, *event); `solve` does without forming them."""
    if isinstance(kappa, Tensor) and kappa.ndim:
        kappa = kappa.view((-1,) + (1,) * (n.ndim - 1)).to(n)
    return [n + kappa * (p - n) for p in previous]


def marquardt(damping: float | Tensor, trace: Tensor, rank: int) -> Tensor:
    """Return lambda = mu tr(B^T B) / r, Marquardt's scaling of the damping, (batch,)."""
    return trace * (damping / rank)


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
    n: Tensor,
    previous: Sequence[Tensor],
    kappa: float | Tensor,
    damping: float | Tensor,
    *,
    absolute: bool,
    out: Tensor | None = None,
    copy: bool = False,
) -> Solve:
    """Solve H d = n for the direction of d and restore the norm of n.

    Gradients pass to every tensor; where `identity`, that of the direction to n is the identity.

    Args:
        n: Prediction, (batch, *event), floating point. Half types are computed in float32.
        previous: r >= 1 earlier predictions, newest first, each of n's shape.
        kappa: Mixing share, a number or (batch,).
        damping: mu with lambda = mu tr(B^T B) / r, or lambda itself if `absolute`; a number or (batch,).
        absolute: Whether `damping` is lambda itself.
        out: Where to write the direction; may be n itself.
        copy: Whether to return a copy of n, written in the same pass.

    Returns:
        A `Solve`; no value in it was read by the host.
    """
    if not takes_gradients((n, *previous, kappa, damping)):
        return _solve(n, previous, kappa, damping, absolute=absolute, out=out, copy=copy)
    with torch.no_grad():
        keep = _solve(n, previous, kappa, damping, absolute=absolute).identity

    def tame(value: Any, like: Tensor = keep) -> Any:
        # A sample that is kept has no finite way to its direction, and gradients would come back on it as NaN.
        return torch.where(column(keep, like), 1, value) if isinstance(value, Tensor) else value

    found = _solve(tame(n, n), [tame(p, n) for p in previous], tame(kappa), tame(damping), absolute=absolute)
    direction = torch.where(column(keep, n), n, found.direction)
    direction = direction if out is None else out.copy_(direction)
    return found._replace(direction=direction, identity=keep, copy=n.clone() if copy else None)


def _solve(
    n: Tensor,
    previous: Sequence[Tensor],
    kappa: float | Tensor,
    damping: float | Tensor,
    *,
    absolute: bool,
    out: Tensor | None = None,
    copy: bool = False,
) -> Solve:
    """`solve`, but for the gradients of samples that are kept."""
    passes = Passes(n, previous)
    norm2, along, gram = passes.moments()
    kappa, damping = _number(kappa, norm2), _number(damping, norm2)
    r = len(along)
    # In units of ||n||^2, so that nothing under- or overflows with the size of the image, and with b / kappa for b:
    # H = kappa^2 (B B^T + lambda I). A kappa of 0 leaves infinities, and what comes of them is found below.
    share = kappa.reciprocal() if isinstance(kappa, Tensor) else 1 / kappa if kappa else math.inf
    beta = [a + share for a in along]
    trace = sum_of(torch.addcmul(gram[j][j], b, b) for j, b in enumerate(beta))
    lam = share * share * damping / norm2 if absolute else marquardt(damping, trace, r)
    if r > 1 and n.dtype != torch.float64:
        lam = torch.maximum(lam, marquardt(LEAST_DAMPING, trace, r))

    gain = _solve_spd([[gram[i][j] + lam if i == j else gram[i][j] for j in range(r)] for i in range(r)], beta)
    gain = [torch.where(gram[j][j] == 0, 0, g) for j, g in enumerate(gain)]
    tangent2 = sum_of(gain[i] * gain[j] * gram[i][j] for i in range(r) for j in range(r)).clamp_min(0)
    scale = torch.rsqrt(1 + tangent2)
    # One test catches everything: a zero norm, an overflow and a NaN in any input all end in one of these scalars, and
    # then in their sum. Below the smallest norm the squares of the elements lose digits to underflow, and the norm
    # could not be restored.
    smallest = torch.finfo(torch.promote_types(n.dtype, torch.float32)).tiny * 2**24
    turned = [scale * g for g in gain]
    identity = ~((norm2 > smallest) & (norm2 + tangent2 < math.inf))
    direction, kept = passes.write(scale, turned, identity, out=out, copy=copy)
    return Solve(direction, torch.stack(gain, dim=1), torch.atan(tangent2.sqrt()), identity, kept)

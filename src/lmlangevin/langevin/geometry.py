"""From a chain's history to its geometry H = B B^T + lambda I.

Two kinds of factors, both of curvature, so that H has the units of -grad^2 log p, and 1 is a long step.

*Secants* (the default). A move dx of the chain changes its score by -P dx, with P = -grad^2 log p averaged along the
move. From m moves X = (dx_1 ... dx_m) and Y = P X,

    B B^T = Y (X^T Y)^-1 Y^T,

which is the only matrix of rank m with the range of Y that satisfies all secant equations B B^T X = Y, and lies
between 0 and P. Moves of an isotropic chain are mostly noise, the same in every direction; this is then the randomised
Nystroem approximation of P, which is near the best one of rank m where the largest curvatures stand out.

*Scores*, as LML has them (arXiv:2505.24222): b_j = kappa s_j + (1 - kappa) s from the score s and earlier ones s_j.
With kappa = 1 and s_j from the invariant distribution, the mean of b_j b_j^T is E[s s^T] = E[-grad^2 log p], Fisher's
information: the same matrix, but estimated with a random error that secants do not have.

Either way the m columns are compressed to the r directions of largest curvature, and lambda is the largest curvature
that was left out (or mu tr(B^T B) / r, as in the core, where a damping mu is given).

References: Frangella, Tropp & Udell, arXiv:2110.02820, for the Nystroem approximation as a preconditioner; Titsias,
arXiv:2305.14442, for Fisher's information as that of MALA.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from lmlangevin.core.errors import LMLError
from lmlangevin.core.lowrank import factors as lml_factors
from lmlangevin.core.operator import DampedLowRank
from lmlangevin.core.passes import scalar_dtype

SMALLEST_COSINE = 1e-3
"""A direction counts as curved where its curvature is this share of what the change of the score could give at most.

Below it the change is across the move, as where curvatures of both signs meet, and dividing by the little that is along
it would invent a curvature. For a constant P of condition number k the share is 2 / sqrt(k) or more, so this drops none
up to k = 4e6.
"""

SMALLEST_SHARE = 1e-6
"""A direction is spanned by the moves where their squares along it, each move of length 1, sum to more than this."""


def isotropic(like: Tensor) -> DampedLowRank:
    """Return H = I for a batch of the shape (batch, *event)."""
    return DampedLowRank((torch.zeros_like(like),), 1.0, absolute=True)


def secant_geometry(
    moves: Sequence[Tensor], changes: Sequence[Tensor], rank: int, damping: float | None = None
) -> DampedLowRank:
    """Build H from moves of the chains and the changes of the score that they made.

    Args:
        moves: m moves dx, each (batch, *event). One that is not finite is passed over, for its chain.
        changes: The m changes s(x + dx) - s(x), of the same shape.
        rank: r, the directions kept, 1 to m.
        damping: mu with lambda = mu tr(B^T B) / r; None is the largest curvature left out, or the smallest kept where
            none is, or 1 where nothing has any.

    Returns:
        The operator, of rank r at most. Directions of negative curvature have none of their own in it.

    Raises:
        LMLError: If the numbers of moves, changes and directions do not fit.
    """
    _check(moves, changes, rank)
    first = moves[0]
    x, y = _stack(moves), -_stack(changes)
    length = torch.linalg.vector_norm(x, dim=2, keepdim=True)
    good = ((length > 0) & length.isfinite() & y.isfinite().all(dim=2, keepdim=True)).expand_as(x)
    # Moves of one length: the moves of a chain that adapts its step differ by orders of magnitude.
    x, y = (torch.where(good, t / length, 0) for t in (x, y))
    # The same span by orthonormal moves; a direction that is hardly in it would amplify rounding.
    gram, vectors = torch.linalg.eigh(x @ x.mT)
    spanned = (gram > SMALLEST_SHARE)[..., None]
    x, y = (torch.where(spanned, vectors.mT @ t / gram.abs().sqrt()[..., None], 0) for t in (x, y))
    along = x @ y.mT
    curvature, vectors = torch.linalg.eigh((along + along.mT) / 2)
    y = vectors.mT @ y
    curved = (curvature > SMALLEST_COSINE * torch.linalg.vector_norm(y, dim=2)) & (curvature > 0)
    columns = torch.where(curved[..., None], y / curvature.clamp_min(torch.finfo(y.dtype).tiny).sqrt()[..., None], 0)
    return _compressed(columns, rank, damping, first)


def score_geometry(
    scores: Sequence[Tensor], rank: int, *, kappa: float = 1.0, damping: float | None = None
) -> DampedLowRank:
    """Build H from scores alone, LML's way.

    Args:
        scores: m + 1 scores, newest first, each (batch, *event).
        rank: r, the directions kept, 1 to m.
        kappa: Share of the earlier score in each factor; see `LMLConfig`.
        damping: As in `secant_geometry`.

    Returns:
        The operator: with rank = m and a damping it is that of `DampedLowRank.of_predictions`, but for a factor 1 / m.

    Raises:
        LMLError: If the numbers of scores and directions do not fit.
    """
    _check(scores[1:], scores[1:], rank)
    columns = _stack(lml_factors(scores[0], scores[1:], kappa)) / len(scores[1:]) ** 0.5
    usable = columns.isfinite().all(dim=2, keepdim=True)
    return _compressed(torch.where(usable, columns, 0), rank, damping, scores[0])


def _compressed(columns: Tensor, rank: int, damping: float | None, like: Tensor) -> DampedLowRank:
    """Return the operator of the r largest directions of B B^T, for B given as rows (batch, m, D)."""
    products = columns @ columns.mT
    # One chain whose products overflow must not stop the others; it gets no direction.
    usable = products.isfinite().flatten(1).all(dim=1)[:, None, None]
    columns, products = (torch.where(usable, value, 0) for value in (columns, products))
    squares, vectors = (t.flip(-1) for t in torch.linalg.eigh(products))
    kept = (vectors[..., :rank].mT @ columns).to(like.dtype).view(len(like), rank, *like.shape[1:])
    if damping is not None:
        return DampedLowRank(kept.unbind(1), damping)
    # What is smaller is rounding.
    floor = torch.finfo(squares.dtype).eps * squares.shape[1] * squares[:, :1]
    there = torch.where(squares > floor, squares, torch.inf)
    least = there[:, :rank].amin(dim=1)
    left_out = there[:, rank] if squares.shape[1] > rank else torch.full_like(least, torch.inf)
    lam = torch.where(left_out.isfinite(), left_out, least)
    return DampedLowRank(kept.unbind(1), torch.where(lam.isfinite(), lam, 1), absolute=True)


def _stack(tensors: Sequence[Tensor]) -> Tensor:
    """Return tensors (batch, *event) as (batch, m, D) in the dtype of scalars."""
    return torch.stack([t.flatten(1) for t in tensors], dim=1).to(scalar_dtype(tensors[0].device))


def _check(moves: Sequence[Tensor], changes: Sequence[Tensor], rank: int) -> None:
    if len(moves) != len(changes):
        raise LMLError(f"changes has {len(changes)} entries for {len(moves)} moves; give one a move.")
    if isinstance(rank, bool) or not isinstance(rank, int) or not 1 <= rank <= len(moves):
        raise LMLError(f"rank={rank!r} does not fit a history of {len(moves)}; give a whole number from 1 to that.")

"""The damped low-rank operator H = B B^T + lambda I itself, for every sample by itself.

`lowrank.solve` needs H for one product only, the direction of H^-1 n for the n that the factors are made of, and has
a closed form for it. Here H is applied to any vector, and so are its inverse and its square roots, as Langevin
dynamics and the theory need them (arXiv:2505.24222; docs/theory.md). Both take their factors from `lowrank.factors`
and their damping from `lowrank.marquardt`; ||n|| H^-1 n / ||H^-1 n|| is the same by either.

How. With an orthonormal eigenbasis E of B B^T, eigenvalues s_i^2, every function of H is

    f(H) v = sum_i f(lambda + s_i^2) e_i <e_i, v>  +  f(lambda) (v - E E^T v).

The two parts are orthogonal, so that nothing cancels between them, however small lambda is. The textbook form
(v - B (lambda I + B^T B)^-1 B^T v) / lambda subtracts nearly equal vectors instead. E and s come from B = Q R and the
singular values of the r x r matrix R, never from B^T B: that squares the condition number, and eigenvalues below
eps ||B||^2 would be rounding, while lambda may be as small as 1e-12 ||B||^2.

Accuracy. Q R is B to within eps ||B||, for factors in any position, parallel or zero: so what is computed belongs to
an H whose factors are off by that much. With u = eps of the working dtype and rho = ||B|| / sqrt(lambda), at most
sqrt(r / mu), the errors are therefore, up to a modest constant and relative to the norm of the operator times ||v||,

    matvec: u      sqrt_matvec: u      solve, inverse_sqrt_matvec: u (1 + rho)

and u (D + r rho) + 1e-15 |log det H| for `logdet`; how parallel the factors are does not enter. Relative to a result
that is itself small, which H^-1 v is for a v in the span of the factors, the error of `solve` is u (1 + rho)^2, the
condition number of H. That is where the closed form of `lowrank.solve` is better: it knows n and the factors'
differences before they were rounded.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from lmlangevin.core.config import LMLConfig
from lmlangevin.core.errors import LMLError
from lmlangevin.core.lowrank import factors as factors_of
from lmlangevin.core.lowrank import marquardt, per_sample
from lmlangevin.core.passes import cut_to_range, scalar_dtype

_SWEEPS = 8
"""Sweeps of Jacobi rotations. They converge quadratically; 16 nearly parallel factors take 6 to float64's rounding."""


class DampedLowRank:
    """H = B B^T + lambda I with factors B = (b_1 ... b_r), one operator a sample.

        H = DampedLowRank((b1, b2), damping=0.1)
        x = H.solve(v)                                  # (batch, *event) -> (batch, *event)

    Products are computed in float32 or wider and returned in v's dtype; per-sample scalars are float64 (float32 on
    Apple's backend, which has no float64). Nothing is read back from the device, and a sample that holds a NaN gives
    NaN in its own results alone.

    Range: factors may have any size that their dtype holds. Only the roots of H's eigenvalues are kept, which are no
    larger than ||H||^1/2, so that no square of them is formed where v is multiplied. Of a product that the dtype does
    not hold, every part is cut to what it does: it is finite, and no more than that. `excess`, `damping` and `dense`,
    which are squares, are 0 or infinite where the dtype of scalars does not hold them.

    Args:
        factors: The r >= 1 columns b_j, each (batch, *event), one shape, floating dtype and device. They may be
            parallel or zero, and r may exceed the number of elements.
        damping: mu with lambda = mu tr(B^T B) / r, dimensionless, above 0; a number or (batch,). For a sample whose
            factors are all zero that is no scale, and lambda is 1: H is the identity there.
        absolute: Whether `damping` is lambda itself.

    Attributes:
        basis: (batch, r, *event), orthonormal eigenvectors e_i, in float32 or wider; zero where B has a lower rank.
        singular: (batch, r), s_i >= 0: the eigenvalues of H are lambda + s_i^2 on `basis` and lambda across it.
        root: (batch,), the square root of lambda.

    Raises:
        LMLError: For factors that are no such columns, or a damping out of range. Values of tensors are not checked:
            that would wait for the device.

    Reference:
        arXiv:2505.24222. Orthogonalising twice: Giraud et al. (2005), doi:10.1007/s00211-005-0615-4.
    """

    basis: Tensor
    singular: Tensor
    root: Tensor

    def __init__(self, factors: Sequence[Tensor], damping: float | Tensor, *, absolute: bool = False) -> None:
        factors = tuple(factors)
        _check(factors, damping)
        first = factors[0]
        work = torch.promote_types(first.dtype, torch.float32)
        columns = torch.stack([factor.to(work).flatten(1) for factor in factors], dim=1)
        # In units of each sample's largest element, so that no square under- or overflows.
        unit = columns.abs().amax(dim=(1, 2))
        unit = torch.where(unit > 0, unit, 1)
        columns = columns / unit[:, None, None]
        wide = scalar_dtype(first.device)
        size = unit.to(wide)
        trace = columns.square().sum(dim=(1, 2), dtype=wide)
        basis, triangle = _orthogonalise(columns)
        squares, rotation = _diagonalise(triangle)
        self.basis = (rotation.to(work) @ basis).view(len(first), len(factors), *first.shape[1:])
        self.singular = squares.sqrt() * size[:, None]
        lam = per_sample(damping, trace)
        if absolute:
            self.root = lam.sqrt()
        else:
            self.root = torch.where(trace == 0, 1, marquardt(lam, trace, len(factors)).sqrt() * size)

    @property
    def excess(self) -> Tensor:
        """(batch, r), s_i^2: what the eigenvalues of H on `basis` have beyond lambda."""
        return self.singular.square()

    @property
    def damping(self) -> Tensor:
        """(batch,), lambda."""
        return self.root.square()

    @classmethod
    def of_predictions(
        cls,
        prediction: Tensor,
        previous: Sequence[Tensor],
        *,
        kappa: float | Tensor,
        damping: float | Tensor,
        absolute: bool = False,
    ) -> DampedLowRank:
        """Build LML's operator: b_j = kappa n_j + (1 - kappa) n from a prediction n and earlier ones n_j.

        Args:
            prediction: n, (batch, *event), floating point.
            previous: r >= 1 earlier predictions, newest first, of its shape, dtype and device.
            kappa: Mixing share, a number or (batch,).
            damping: As for the class.
            absolute: As for the class.

        Returns:
            The operator whose solve of n `lm_direction` gives for r = 1, but for its norm. The factors are rounded to
            n's dtype (float32 for half types): of what distinguishes them from n, kappa (n_j - n), the digits below
            that are lost.

        Raises:
            LMLError: As for the class.
        """
        _check((prediction, *previous), damping)
        work = torch.promote_types(prediction.dtype, torch.float32)
        wide = [tensor.to(work) for tensor in (prediction, *previous)]
        return cls(factors_of(wide[0], wide[1:], kappa), damping, absolute=absolute)

    def matvec(self, v: Tensor) -> Tensor:
        """Return H v: (batch, *event) -> the same, in v's dtype."""
        return self._apply(v, lambda root: root, 2)

    def solve(self, v: Tensor) -> Tensor:
        """Return H^-1 v: (batch, *event) -> the same, in v's dtype."""
        return self._apply(v, torch.reciprocal, 2)

    def sqrt_matvec(self, v: Tensor) -> Tensor:
        """Return H^1/2 v with the symmetric square root: (batch, *event) -> the same, in v's dtype."""
        return self._apply(v, lambda root: root, 1)

    def inverse_sqrt_matvec(self, v: Tensor) -> Tensor:
        """Return H^-1/2 v with the symmetric root, of covariance H^-1 for a standard normal v; in v's dtype."""
        return self._apply(v, torch.reciprocal, 1)

    def logdet(self) -> Tensor:
        """Return log det H of every sample, (batch,), in the dtype of scalars."""
        size, rank = math.prod(self.basis.shape[2:]), self.singular.shape[1]
        return 2 * (self._roots().log().sum(1) + (size - rank) * self.root.log())

    def dense(self) -> Tensor:
        """Return H as a matrix, (batch, D, D), in the dtype of scalars; for small D (tests and theory)."""
        flat = self.basis.flatten(2).to(self.singular.dtype)
        identity = torch.eye(flat.shape[2], dtype=flat.dtype, device=flat.device)
        return torch.einsum("brd,br,bre->bde", flat, self.excess, flat) + self.damping[:, None, None] * identity

    def _roots(self) -> Tensor:
        """Return the roots of the eigenvalues on `basis`, (batch, r)."""
        return torch.hypot(self.root[:, None], self.singular)

    def _apply(self, v: Tensor, f: Callable[[Tensor], Tensor], times: int) -> Tensor:
        """Return f(H^1/2)^times v for a function f of the roots of the eigenvalues."""
        shape = (self.basis.shape[0], *self.basis.shape[2:])
        if v.shape != shape or not v.is_floating_point():
            raise LMLError(f"v is a {v.dtype} tensor of shape {tuple(v.shape)}; give a floating-point one of {shape}.")
        work = torch.promote_types(v.dtype, self.basis.dtype)
        basis = self.basis.flatten(2).to(work)
        along, across = _split(basis, v.to(work).flatten(1))
        # Infinity times a part that is 0 would be NaN, and so would the sum of two of either sign: each part gets no
        # more than its share of what the dtype holds.
        most = torch.finfo(work).max
        share = most / (2 + self.singular.shape[1])
        for _ in range(times):
            along = (along * f(self._roots()).clamp(max=most).to(work)).clamp(-share, share)
            across = (across * f(self.root)[:, None].clamp(max=most).to(work)).clamp(-share, share)
        d = torch.einsum("br,brd->bd", along, basis) + across
        return cut_to_range(d, v.dtype).view(shape).to(v.dtype)


def _check(factors: Sequence[Tensor], damping: float | Tensor) -> None:
    if not factors:
        raise LMLError("factors is empty; give one tensor of shape (batch, *event) or more.")
    first = factors[0]
    for j, factor in enumerate(factors):
        if not isinstance(factor, Tensor) or not factor.is_floating_point() or factor.ndim < 2:
            got = f"a {factor.dtype} {tuple(factor.shape)}" if isinstance(factor, Tensor) else type(factor).__name__
            raise LMLError(f"factor {j} is {got}; give a floating-point tensor of shape (batch, *event).")
        if (factor.shape, factor.dtype, factor.device) != (first.shape, first.dtype, first.device):
            raise LMLError(
                f"factor {j} has shape {tuple(factor.shape)}, {factor.dtype} on {factor.device}, factor 0 has "
                f"{tuple(first.shape)}, {first.dtype} on {first.device}; give factors that match."
            )
    if not isinstance(damping, Tensor):
        LMLConfig(damping=damping)
    elif damping.shape not in ((), first.shape[:1]):
        raise LMLError(
            f"damping has shape {tuple(damping.shape)} for a batch of {len(first)}; give a number, or one value a "
            "sample."
        )


def _split(basis: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    """Split v (batch, D) into coefficients in an orthonormal basis (batch, k, D) and what is across it.

    Twice: what the first pass leaves of v along the basis is rounding, which counts where little of v is across.
    """
    along = torch.einsum("bkd,bd->bk", basis, v)
    across = v - torch.einsum("bk,bkd->bd", along, basis)
    rest = torch.einsum("bkd,bd->bk", basis, across)
    return along + rest, across - torch.einsum("bk,bkd->bd", rest, basis)


def _orthogonalise(columns: Tensor) -> tuple[Tensor, Tensor]:
    """Return orthonormal q_i and R with b_j = sum_i q_i R_ij, by Gram-Schmidt with every projection done twice.

    Args:
        columns: b_j, (batch, r, D).

    Returns:
        q, (batch, r, D), zero where b_j lies in the span of those before it, to rounding; R, (batch, r, r), in the
        dtype of scalars.
    """
    batch, r, _ = columns.shape
    wide = scalar_dtype(columns.device)
    eps = torch.finfo(columns.dtype).eps
    basis = torch.zeros_like(columns)
    triangle = torch.zeros(batch, r, r, dtype=wide, device=columns.device)
    for j in range(r):
        column = columns[:, j]
        along, across = _split(basis[:, :j], column)
        norm = torch.linalg.vector_norm(across, dim=1)
        # Less than this is left by rounding alone, in no particular direction; dropping it changes b_j by that little.
        kept = norm > 8 * eps * torch.linalg.vector_norm(column, dim=1)
        # A NaN compares false; it must not be dropped with the zeros.
        kept = kept | ~torch.isfinite(norm)
        basis[:, j] = torch.where(kept[:, None], across / norm[:, None], 0)
        triangle[:, :j, j] = along.to(wide)
        triangle[:, j, j] = torch.where(kept, norm, 0).to(wide)
    return basis, triangle


def _diagonalise(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """Return s^2 (batch, r) and the orthogonal W (batch, r, r) with W M M^T W^T = diag(s^2), for M (batch, r, r).

    One-sided Jacobi: rotations of pairs of rows of M until all rows are orthogonal; W collects the rotations. It finds
    small singular values as accurately as large ones, and has no error check that would wait for the device or refuse
    a batch for one sample, as torch.linalg.svd and eigh have.
    """
    r = matrix.shape[1]
    eps = torch.finfo(matrix.dtype).eps
    identity = torch.eye(r, dtype=matrix.dtype, device=matrix.device).expand_as(matrix)
    rows = list(torch.cat([matrix, identity], dim=2).unbind(1))
    for _ in range(_SWEEPS if r > 1 else 0):
        for p in range(r - 1):
            for q in range(p + 1, r):
                x, y = rows[p], rows[q]
                xx, yy, xy = (torch.linalg.vecdot(a[:, :r], b[:, :r]) for a, b in ((x, x), (y, y), (x, y)))
                # The smaller of the two angles that make the rows orthogonal; none where they are so to rounding.
                ratio = (yy - xx) / (2 * xy)
                tangent = torch.copysign(torch.ones_like(ratio), ratio) / (ratio.abs() + torch.hypot(ratio, ratio**0))
                tangent = torch.where(xy.abs() > eps * (xx * yy).sqrt(), tangent, 0)
                cosine = torch.rsqrt(1 + tangent.square())
                c, s = cosine[:, None], (cosine * tangent)[:, None]
                rows[p], rows[q] = c * x - s * y, s * x + c * y
    turned = torch.stack(rows, dim=1)
    return turned[..., :r].square().sum(2), turned[..., r:]

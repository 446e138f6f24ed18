"""How well M = c (I + b b^T / (mu ||b||^2)), LML's operator up to a factor, approximates a symmetric matrix A.

Everything is in the eigenbasis of A: its eigenvalues a_i, and the shares w_i = <e_i, b>^2 / ||b||^2 of the factor on
its eigenvectors. LML fixes M up to the scale c, which cannot change the direction of M^-1 n, so c is chosen for the
best fit, once for each norm. docs/theory.md proves the bounds.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

_BISECTIONS, _SECTIONS = 55, 9


class Fit(NamedTuple):
    """The best scale and what is left.

    Attributes:
        scale: c.
        error: ||A - M|| / ||A|| in the same norm.
    """

    scale: float
    error: float


def frobenius_fit(values: Tensor, shares: Tensor, mu: float) -> Fit:
    """Fit M to A in the Frobenius norm, in closed form.

    Args:
        values: Eigenvalues of A, (D,), float64.
        shares: w, (D,), adding up to 1.
        mu: Relative damping of LML, above 0; infinity leaves the identity.

    Returns:
        The best scale c >= 0 and the relative error.
    """
    inner = values.sum() + (shares @ values) / mu
    square = len(values) + 2 / mu + 1 / mu**2
    scale = (inner / square).clamp_min(0)
    left = values.square().sum() - 2 * scale * inner + scale.square() * square
    return Fit(float(scale), float((left.clamp_min(0) / values.square().sum()).sqrt()))


def operator_error(values: Tensor, shares: Tensor, mu: float, scale: float) -> float:
    """Return ||A - c (I + b b^T / (mu ||b||^2))||_2 for a scale c >= 0; arguments as for `frobenius_fit`."""
    return float(_operator_errors(values, shares, mu, values.new_tensor([scale])))


def operator_fit(values: Tensor, shares: Tensor, mu: float) -> Fit:
    """Fit M to A in the operator norm; see `frobenius_fit`. The error is convex in c, so an interval is narrowed."""
    largest = float(values.abs().amax())
    # ||A - M|| >= c - ||A||, so no c above 2 ||A|| is better than c = 0.
    low, high = 0.0, 2 * largest
    for _ in range(_SECTIONS):
        scales = torch.linspace(low, high, 33, dtype=values.dtype).tolist()
        best = int(_operator_errors(values, shares, mu, values.new_tensor(scales)).argmin())
        low, high = scales[max(best - 1, 0)], scales[min(best + 1, 32)]
    scale = (low + high) / 2
    return Fit(scale, operator_error(values, shares, mu, scale) / largest)


def _operator_errors(values: Tensor, shares: Tensor, mu: float, scales: Tensor) -> Tensor:
    """Return the errors at several scales, (k,).

    The eigenvalues of a diagonal matrix minus one of rank one interlace the diagonal's; the extreme ones are found by
    bisection of the secular equation size * sum_i w_i / (a_i - t) = 1 (Golub, 1973).
    """
    sizes = scales / mu
    ordered = values.sort().values
    least, most = ordered[0].expand_as(sizes), ordered[-1].expand_as(sizes)
    second = ordered[-2].expand_as(sizes) if len(ordered) > 1 else most - sizes
    low, high = torch.stack([least - sizes, second]), torch.stack([least, most])
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        terms = torch.where(shares > 0, shares / (values - middle[..., None]), 0)
        above = sizes * terms.sum(-1) > 1
        low, high = torch.where(above, low, middle), torch.where(above, middle, high)
    return ((low + high) / 2 - scales).abs().amax(0)


def operator_bound(values: Tensor, shares: Tensor, mu: float, scale: float) -> float:
    """Return the upper bound of `operator_error` that needs two eigenvalues and one angle.

    With A - c I = E, |e_1| >= |e_2| >= ... the sizes of its eigenvalues, theta the angle between b and the eigenvector
    of e_1, and a = c / mu,

        ||A - M||_2 <= |e_2| + ||e_1 u u^T - a b b^T / ||b||^2||_2,

    and the last norm is max |(e_1 - a) +- sqrt((e_1 - a)^2 + 4 e_1 a sin^2 theta)| / 2.
    """
    shifted = values - scale
    order = shifted.abs().argsort(descending=True)
    first = shifted[order[0]]
    rest = shifted[order[1]].abs() if len(values) > 1 else torch.zeros_like(first)
    sine2 = (1 - shares[order[0]]).clamp(0, 1)
    size = scale / mu
    middle = first - size
    root = (middle.square() + 4 * first * size * sine2).clamp_min(0).sqrt()
    return float(rest + (middle.abs() + root) / 2)


def operator_floor(values: Tensor, rank: int) -> float:
    """Return the least ||A - (c I + R)||_2 over all c and all positive semidefinite R of at most that rank.

    It is (a_(r+1) - a_min) / 2 with the eigenvalues sorted from the largest: such an R, as every B B^T is, can lower
    nothing but the r largest eigenvalues of what is left. Rank 0 is the identity alone.
    """
    ordered = values.sort(descending=True).values
    return float(ordered[min(rank, len(ordered) - 1)] - ordered[-1]) / 2


def frobenius_floor(values: Tensor, rank: int) -> float:
    """Return the least ||A - (c I + R)||_F over the same c and R: the spread of the D - r smallest eigenvalues."""
    rest = values.sort(descending=True).values[min(rank, len(values) - 1) :]
    return float((rest - rest.mean()).norm())

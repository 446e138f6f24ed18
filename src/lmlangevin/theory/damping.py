"""What the damping does to a direction: u(lambda) = x / ||x|| with x = (A + lambda I)^-1 n, A symmetric.

docs/theory.md proves, as long as A + lambda I is positive definite:

    the angle from u(lambda) to u(lambda_0) grows with lambda above lambda_0, and the angle to n falls;
    u is Lipschitz in log lambda;  u -> n / ||n|| as lambda -> infinity, at a rate;
    u -> the part of n in the lowest eigenspace of A that n reaches, as A + lambda I loses definiteness.

Here are the bounds and the limit. For LML, A = b b^T with eigenvalues ||b||^2 and 0.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from lmlangevin.core.errors import LMLError
from lmlangevin.core.operator import DampedLowRank


def largest_angle(least: float, most: float, lam: float) -> float:
    """Return the largest angle between n and (A + lambda I)^-1 n over all n, in radians.

    Args:
        least: Smallest eigenvalue of A.
        most: Largest eigenvalue of A.
        lam: lambda, above -least.

    Returns:
        arcsin((most - least) / (most + least + 2 lambda)), which some n attains (Kantorovich, 1948). For LML of rank
        one with relative damping mu it is arcsin(1 / (1 + 2 mu)).

    Raises:
        LMLError: If A + lambda I is not positive definite.
    """
    if not lam > -least:
        raise LMLError(f"lam is {lam} where A has the eigenvalue {least}; give a larger one.")
    return math.asin(min(1.0, (most - least) / (most + least + 2 * lam)))


def log_lipschitz(least: float, most: float, lam: float) -> float:
    """Return a bound on ||d u / d log lambda||: half the spread of lambda / (a + lambda) over the spectrum.

    Args:
        least: Smallest eigenvalue of A.
        most: Largest eigenvalue of A.
        lam: lambda > 0, above -least.

    Returns:
        The bound; at most 1/2 for a positive semidefinite A, whatever its size and dimension.
    """
    return (lam / (least + lam) - lam / (most + lam)) / 2


def undamped_direction(operator: DampedLowRank, n: Tensor, tolerance: float = 1e-6) -> Tensor:
    """Return the limit of H^-1 n / ||H^-1 n|| as the damping of H = B B^T + lambda I goes to 0.

    Args:
        operator: Any operator with the factors B; its damping does not matter.
        n: (batch, *event), not 0.
        tolerance: Where n's part across the factors is smaller than so much of n, n counts as in their span.

    Returns:
        (batch, *event), of norm 1: the part of n across the factors; or (B B^T)^+ n for an n in their span.
    """
    basis, flat = operator.basis.flatten(2).double(), n.flatten(1).double()
    along = torch.einsum("brd,bd->br", basis, flat)
    across = flat - torch.einsum("br,brd->bd", along, basis)
    excess = operator.excess.double()
    inverse = torch.where(excess > 0, 1 / excess, 0)
    inside = torch.einsum("br,brd->bd", along * inverse, basis)
    spanned = across.norm(dim=1, keepdim=True) <= tolerance * flat.norm(dim=1, keepdim=True)
    limit = torch.where(spanned, inside, across)
    return (limit / limit.norm(dim=1, keepdim=True)).view(n.shape).to(n.dtype)

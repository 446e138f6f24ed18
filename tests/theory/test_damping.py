"""The damped direction as a function of lambda: monotone, continuous, with its limits and their rates."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor

from lmlangevin.core import DampedLowRank, lm_direction
from lmlangevin.core.errors import LMLError
from lmlangevin.core.lowrank import solve
from lmlangevin.theory import angle, largest_angle, log_lipschitz, undamped_direction

SIZE = 6


def factors_and_n(seed: int, rank: int, spanned: bool) -> tuple[list[Tensor], Tensor]:
    g = torch.Generator().manual_seed(seed)
    factors = [torch.randn(1, SIZE, generator=g, dtype=torch.float64) for _ in range(rank)]
    coefficients = torch.randn(rank, generator=g, dtype=torch.float64)
    inside = sum((c * b for c, b in zip(coefficients, factors, strict=True)), torch.zeros(1, SIZE).double())
    n = inside if spanned else torch.randn(1, SIZE, generator=g, dtype=torch.float64)
    return factors, n


def direction(factors: list[Tensor], lam: float, n: Tensor) -> Tensor:
    return DampedLowRank(factors, lam, absolute=True).solve(n)


@settings(max_examples=80, deadline=None, derandomize=True)
@given(
    seed=st.integers(0, 10**6),
    rank=st.integers(1, 3),
    spanned=st.booleans(),
    logs=st.lists(st.floats(-6, 6), min_size=3, max_size=3).map(sorted),
)
def test_monotone_and_continuous(seed: int, rank: int, spanned: bool, logs: list[float]) -> None:
    factors, n = factors_and_n(seed, rank, spanned)
    assume(float(n.norm()) > 0.1)
    low, middle, high = (10.0**power for power in logs)
    d = {lam: direction(factors, lam, n) for lam in (low, middle, high)}
    limit = undamped_direction(DampedLowRank(factors, 1.0), n)
    noise = 1e-8
    # The distance to the undamped direction, and to any less damped one, falls with lambda.
    for reference in (limit, d[low]):
        assert float(angle(d[middle], reference)) <= float(angle(d[high], reference)) + noise
    # The angle to n rises.
    assert float(angle(d[middle], n)) >= float(angle(d[high], n)) - noise
    # Lipschitz in log lambda.
    excess = DampedLowRank(factors, 1.0).excess
    steepest = log_lipschitz(0.0, float(excess.amax()), middle)  # which falls as lambda grows
    assert float(angle(d[middle], d[high])) <= steepest * math.log(high / middle) + noise
    assert steepest <= 0.5


@settings(max_examples=60, deadline=None, derandomize=True)
@given(seed=st.integers(0, 10**6), rank=st.integers(1, 3), spanned=st.booleans(), power=st.floats(-6, 6))
def test_the_limits_have_their_rates(seed: int, rank: int, spanned: bool, power: float) -> None:
    factors, n = factors_and_n(seed, rank, spanned)
    assume(float(n.norm()) > 0.1)
    lam = 10.0**power
    operator = DampedLowRank(factors, lam, absolute=True)
    d = operator.solve(n)
    most, positive = float(operator.excess.amax()), float(operator.excess.amin())
    assert float(angle(d, n)) <= largest_angle(0.0, most, lam) + 1e-8
    limit = undamped_direction(operator, n)
    along = torch.einsum("brd,bd->br", operator.basis, n)
    within = float((along / n.norm()).square().sum())
    if spanned:
        # All of n is in the span: every eigenvalue that n reaches is at least `positive`.
        bound = math.asin(min(1.0, (most - positive) / (most + positive + 2 * positive * most / lam)))
        assert float(angle(d, limit)) <= bound + 1e-8
    else:
        bound = math.atan(lam / (positive + lam) * math.sqrt(within / (1 - within)))
        assert float(angle(d, limit)) <= bound + 1e-8


def test_the_undamped_limit_is_reached() -> None:
    for spanned in (False, True):
        factors, n = factors_and_n(80, 2, spanned)
        d = direction(factors, 1e-6, n)
        assert float(angle(d, undamped_direction(DampedLowRank(factors, 1.0), n))) < 1e-5
    far = direction(factors, 1e9, n)
    assert float(angle(far, n)) < 1e-7


@pytest.mark.parametrize("mu", [1e-3, 0.1, 1.0, 20.0])
def test_some_n_is_turned_by_the_largest_angle(mu: float) -> None:
    """arcsin(1 / (1 + 2 mu)), at n with shares sqrt(1 + mu) : sqrt(mu) on the factor and across it."""
    across, along = torch.eye(SIZE, dtype=torch.float64)[:2, None]
    n = math.sqrt(1 + mu) * along + math.sqrt(mu) * across
    d = DampedLowRank([along], mu).solve(n)
    want = math.asin(1 / (1 + 2 * mu))
    assert float(angle(d, n)) == pytest.approx(want, rel=1e-9)
    assert largest_angle(0.0, 1.0, mu) == pytest.approx(want, rel=1e-12)
    # And LML from a previous prediction cannot turn further, whatever it is.
    g = torch.Generator().manual_seed(81)
    m = torch.randn(500, SIZE, generator=g, dtype=torch.float64)
    found = solve(m, [m + 3 * torch.randn(500, SIZE, generator=g, dtype=torch.float64)], 0.7, mu, absolute=False)
    assert found.angle.max() <= want + 1e-12 and found.angle.max() > 0.5 * want


def test_the_exact_hessian_obeys_the_same_bounds(make_flow: Any, draw: Any) -> None:
    """Also where it is indefinite, for damping that lifts it."""
    flow = make_flow(82, components=2)
    y, s = draw(flow, 83, 1.0), 1.0
    y[0] = flow.mixture.means.mean(0)
    n = flow.slope(y, s)
    values, axes = torch.linalg.eigh(flow.matrix(y, s))
    assert values.min() < 0
    for k in range(len(y)):
        least, most = float(values[k, 0]), float(values[k, -1])
        weights = axes[k].T @ n[k]
        lams = [max(0.0, -least) + 10.0**power for power in torch.linspace(-4, 4, 33).tolist()]
        found = [(axes[k] @ (weights / (values[k] + lam)))[None] for lam in lams]
        to_n = [float(angle(d, n[k : k + 1])) for d in found]
        to_first = [float(angle(d, found[0])) for d in found]
        assert all(b <= a + 1e-8 for a, b in zip(to_n[:-1], to_n[1:], strict=True))
        assert all(b >= a - 1e-8 for a, b in zip(to_first[:-1], to_first[1:], strict=True))
        for turned, lam in zip(to_n, lams, strict=True):
            assert turned <= largest_angle(least, most, lam) + 1e-8


@pytest.mark.parametrize("mu", [1e-6, 1e-2, 1.0, 1e6])
def test_kappa_zero_is_the_identity_at_every_damping(mu: float) -> None:
    """b = n is an eigenvector of H, so H^-1 n is parallel to n: for the operator to rounding, in LML bit for bit."""
    g = torch.Generator().manual_seed(84)
    n, previous = torch.randn(2, 3, SIZE, generator=g, dtype=torch.float64)
    assert lm_direction(n, previous, kappa=0.0, damping=mu) is n
    d = DampedLowRank.of_predictions(n, [previous], kappa=0.0, damping=mu).solve(n)
    assert float(angle(d, n).max()) < 1e-15 * (1 + 10 / mu)
    # And it is approached continuously.
    angles = [float(angle(lm_direction(n, previous, kappa=k, damping=1.0), n).max()) for k in (1e-1, 1e-3, 1e-5, 1e-7)]
    assert all(b < 0.02 * a for a, b in zip(angles[:-1], angles[1:], strict=True))


def test_a_damping_that_does_not_lift_the_matrix_is_refused() -> None:
    with pytest.raises(LMLError, match="lam is 0.2 where A has the eigenvalue -0.3"):
        largest_angle(-0.3, 1.0, 0.2)

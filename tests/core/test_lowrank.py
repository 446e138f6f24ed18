"""The stable solve against a dense one: 40-digit arithmetic for small D, float64 linear algebra for larger."""

from __future__ import annotations

import math
from collections.abc import Sequence

import mpmath
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from lmlangevin.core.lowrank import solve

SHAPES = [(37,), (6, 7), (2, 5, 5), (2, 3, 4, 4)]


def factors(n: Tensor, previous: Sequence[Tensor], kappa: float) -> Tensor:
    """Columns b_j of one sample, (D, r), float64."""
    return torch.stack([kappa * p.double() + (1 - kappa) * n.double() for p in previous], dim=1)


def dense(n: Tensor, previous: Sequence[Tensor], kappa: float, mu: float, absolute: bool = False) -> Tensor:
    """||n|| H^-1 n / ||H^-1 n|| of one flat sample with the D x D matrix H, in float64."""
    b = factors(n, previous, kappa)
    lam = mu if absolute else mu * float((b * b).sum()) / len(previous)
    h = b @ b.T + lam * torch.eye(len(n), dtype=torch.float64)
    x = torch.linalg.solve(h, n.double())
    return n.double().norm() * x / x.norm()


def exact(n: Tensor, previous: Sequence[Tensor], kappa: float, mu: float, absolute: bool = False) -> Tensor:
    """The same in 40 digits, from the exact values of the given tensors; rounded to float64 at the end."""
    with mpmath.workdps(40):
        nn = mpmath.matrix([mpmath.mpf(float(v)) for v in n])
        k = mpmath.mpf(kappa)
        columns = [
            [k * mpmath.mpf(float(v)) + (1 - k) * mpmath.mpf(float(w)) for v, w in zip(p, n, strict=True)]
            for p in previous
        ]
        d = len(nn)
        total = mpmath.fsum(v * v for c in columns for v in c)
        lam = mpmath.mpf(mu) * (1 if absolute else total / len(columns))
        h = mpmath.matrix(d, d)
        for i in range(d):
            for j in range(d):
                h[i, j] = mpmath.fsum(c[i] * c[j] for c in columns) + (lam if i == j else 0)
        x = mpmath.lu_solve(h, nn)
        scale = mpmath.norm(nn) / mpmath.norm(x)
        return torch.tensor([float(v * scale) for v in x], dtype=torch.float64)


def tolerance(n: Tensor, previous: Tensor, kappa: float, mu: float, eps: float) -> float:
    """Relative error that a backward-stable rank-one solve may have, as a function of mu and delta.

    With delta = ||D_perp|| / ||n||, beta = <n, b> / ||n||^2 and rho = kappa delta / beta, the tangent of the angle is
    t = rho / (mu + rho^2 (1 + mu)), at most 1 / (2 sqrt(mu (1 + mu))). A relative error e of rho turns d by at most
    e t / (1 + t^2), and e is eps (1 + |kappa a|) / |beta| from beta plus eps (1 + |a|) / delta from rounding D_perp.
    """
    n, previous = n.double(), previous.double()
    difference = previous - n
    a = float(n @ difference / (n @ n))
    delta = float((difference - a * n).norm() / n.norm())
    beta = 1 + kappa * a
    if delta == 0 or beta == 0 or kappa == 0:
        return 16 * eps
    rho = abs(kappa * delta / beta)
    t = rho / (mu + rho * rho * (1 + mu))
    relative = (1 + abs(kappa * a) + abs(kappa) * delta) / abs(beta) + (1 + abs(a)) / delta + 1
    return 16 * eps * (1 + t / math.sqrt(1 + t * t) * relative)


def batch(seed: int, shape: Sequence[int], ranks: int, dtype: torch.dtype) -> tuple[Tensor, list[Tensor]]:
    g = torch.Generator().manual_seed(seed)
    n = torch.randn(3, *shape, generator=g, dtype=torch.float64)
    previous = [n + 0.4 * (j + 1) * torch.randn(3, *shape, generator=g, dtype=torch.float64) for j in range(ranks)]
    return n.to(dtype), [p.to(dtype) for p in previous]


def relative_error(got: Tensor, want: Tensor) -> float:
    return float((got.double().flatten() - want).norm() / want.norm())


@pytest.mark.parametrize("rank", [1, 2, 3, 4])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("kappa", [-1.0, -0.3, 0.001, 0.5, 1.0])
def test_agrees_with_a_dense_solve(rank: int, shape: tuple[int, ...], kappa: float) -> None:
    seed = rank * 1000 + len(shape) * 100 + round(kappa * 10)
    for dtype, dampings in (
        (torch.float32, (1e-4, 1e-2, 1.0, 30.0, 1e6)),
        (torch.float64, (1e-4, 1e-2, 1.0, 30.0, 1e6)),
    ):
        n, previous = batch(seed, shape, rank, dtype)
        eps = torch.finfo(dtype).eps
        for mu in dampings:
            solved = solve(n, previous, kappa, mu, absolute=False)
            assert not solved.identity.any()
            for i in range(3):
                want = dense(n[i].flatten(), [p[i].flatten() for p in previous], kappa, mu)
                # The dense oracle itself loses cond(H) = (1 + rank / mu) float64 digits.
                allowed = 16 * eps * (1 + rank / mu**0.5) + 64 * 2.3e-16 * (1 + rank / mu)
                assert relative_error(solved.direction[i], want) <= allowed, (dtype, mu)


@settings(max_examples=120, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
@given(
    seed=st.integers(0, 10**6),
    size=st.integers(2, 7),
    kappa=st.floats(-1, 1).filter(lambda k: abs(k) > 1e-4),
    log_mu=st.floats(-10, 6),
    log_distance=st.floats(-6, 1),
    along=st.floats(-3, 3),
    double=st.booleans(),
)
def test_rank_one_against_40_digits(
    seed: int, size: int, kappa: float, log_mu: float, log_distance: float, along: float, double: bool
) -> None:
    """Near-parallel previous predictions (distance 1e-6) included; float32 from mu = 1e-4, float64 from 1e-10."""
    dtype = torch.float64 if double else torch.float32
    mu = 10.0 ** (log_mu if double else max(log_mu, -4.0))
    g = torch.Generator().manual_seed(seed)
    n = torch.randn(size, generator=g, dtype=torch.float64).to(dtype)
    previous = (along * n + 10**log_distance * torch.randn(size, generator=g, dtype=torch.float64)).to(dtype)
    solved = solve(n[None], [previous[None]], kappa, mu, absolute=False)
    if solved.identity.item():
        # Allowed only where there is nothing to solve: b = 0, to rounding.
        b = factors(n, [previous], kappa)
        assert b.norm() <= 1e-6 * n.norm()
        return
    want = exact(n, [previous], kappa, mu)
    error = relative_error(solved.direction, want)
    assert error <= tolerance(n, previous, kappa, mu, torch.finfo(dtype).eps)


@settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
@given(
    seed=st.integers(0, 10**6),
    rank=st.integers(2, 4),
    kappa=st.floats(0.01, 1),
    sign=st.sampled_from([-1, 1]),
    log_mu=st.floats(-4, 6),
    double=st.booleans(),
)
def test_rank_r_against_40_digits(seed: int, rank: int, kappa: float, sign: int, log_mu: float, double: bool) -> None:
    dtype = torch.float64 if double else torch.float32
    kappa, mu = sign * kappa, 10.0**log_mu
    g = torch.Generator().manual_seed(seed)
    n = torch.randn(6, generator=g, dtype=torch.float64)
    previous = [(n + torch.randn(6, generator=g, dtype=torch.float64)).to(dtype) for _ in range(rank)]
    n = n.to(dtype)
    solved = solve(n[None], [p[None] for p in previous], kappa, mu, absolute=False)
    want = exact(n, previous, kappa, mu)
    beta = factors(n, previous, kappa).T @ n.double() / (n.double() @ n.double())
    eps = torch.finfo(dtype).eps
    # t = tan(angle) is at most sqrt(r / mu) / 2, and its relative error at most eps / (mu |beta|) elementwise.
    allowed = 64 * eps * (1 + (rank / mu) ** 0.5) * (1 + 1 / float(beta.norm()))
    assert relative_error(solved.direction, want) <= allowed


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("mu", [1e-4, 1e-2, 1.0])
@pytest.mark.parametrize("rank", [2, 3, 4])
def test_near_duplicate_previous_predictions(dtype: torch.dtype, mu: float, rank: int) -> None:
    """A Gram matrix that is singular to rounding: only the damping keeps the system solvable."""
    g = torch.Generator().manual_seed(77 + rank)
    n = torch.randn(7, generator=g, dtype=torch.float64).to(dtype)
    first = (n + torch.randn(7, generator=g, dtype=torch.float64)).to(dtype)
    for spread in (0.0, 1e-7, 1e-4):
        previous = [(first + spread * j * torch.randn(7, generator=g, dtype=dtype)).to(dtype) for j in range(rank)]
        solved = solve(n[None], [p[None] for p in previous], 0.5, mu, absolute=False)
        assert not solved.identity.item()
        want = exact(n, previous, 0.5, mu)
        eps = torch.finfo(dtype).eps
        assert relative_error(solved.direction, want) <= 64 * eps * (1 + rank / mu), spread


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("rank", [1, 2, 3])
def test_absolute_damping_against_dense(dtype: torch.dtype, rank: int) -> None:
    n, previous = batch(910 + rank, (5, 6), rank, dtype)
    for lam in (1e-3, 0.7, 30.0, 1e4):
        solved = solve(n, previous, 0.6, lam, absolute=True)
        for i in range(3):
            want = dense(n[i].flatten(), [p[i].flatten() for p in previous], 0.6, lam, absolute=True)
            mu = lam / float(factors(n[i].flatten(), [previous[0][i].flatten()], 0.6).norm() ** 2)
            allowed = 16 * torch.finfo(dtype).eps * (1 + rank / mu**0.5) + 64 * 2.3e-16 * (1 + rank / mu)
            assert relative_error(solved.direction[i], want) <= allowed


def test_gain_and_angle_are_those_of_the_closed_form() -> None:
    n, previous = batch(5, (4, 4), 1, torch.float64)
    kappa, mu = 0.7, 0.3
    solved = solve(n, previous, kappa, mu, absolute=False)
    for i in range(3):
        v, p = n[i].flatten(), previous[0][i].flatten()
        difference = p - v
        across = difference - v * (v @ difference) / (v @ v)
        b = v + kappa * difference
        gain = kappa * (v @ b) / (mu * (b @ b) + kappa**2 * (across @ across))
        assert solved.gain[i, 0].item() == pytest.approx(gain.item(), rel=1e-12)
        tangent = abs(gain) * across.norm() / v.norm()
        assert solved.angle[i].item() == pytest.approx(math.atan(tangent.item()), rel=1e-12)


def test_the_angle_falls_as_the_damping_grows() -> None:
    """By t = rho / (mu + rho^2 (1 + mu))."""
    n, previous = batch(6, (30,), 1, torch.float64)
    angles = [solve(n, previous, 0.5, 10.0**e, absolute=False).angle for e in range(-10, 7)]
    for larger, smaller in zip(angles[1:], angles[:-1], strict=True):
        assert (larger < smaller).all()


def test_tensor_damping_and_kappa_are_per_sample() -> None:
    n, previous = batch(8, (3, 4, 4), 2, torch.float32)
    kappa = torch.tensor([0.5, -0.2, 0.9])
    mu = torch.tensor([0.1, 2.0, 30.0], dtype=torch.float64)
    together = solve(n, previous, kappa, mu, absolute=False)
    for i in range(3):
        one = solve(n[i : i + 1], [p[i : i + 1] for p in previous], kappa[i].item(), mu[i].item(), absolute=False)
        torch.testing.assert_close(together.direction[i], one.direction[0], rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(together.gain[i], one.gain[0], rtol=1e-5, atol=1e-8)


def test_inputs_are_not_written_to() -> None:
    for dtype in (torch.float16, torch.float32, torch.float64):
        n, previous = batch(9, (5, 5), 3, dtype)
        before = [t.clone() for t in (n, *previous)]
        solve(n, previous, 0.5, 0.01, absolute=False)
        assert all(torch.equal(a, b) for a, b in zip(before, (n, *previous), strict=True))

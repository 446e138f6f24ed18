"""The exact damped Newton direction, and that it turns the prediction the wrong way."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from lmlangevin.core.errors import LMLError
from lmlangevin.reference import converged_solution, load_analytic
from lmlangevin.theory import (
    ProbabilityFlow,
    angle,
    conjugate_gradient,
    damped_newton,
    gaussian_slope,
    gaussian_solution,
    integrate,
    lml,
    log_linear_gain,
    plain,
    rotate,
    second_order_gain,
    with_norm_of,
)


def across(v: Tensor, n: Tensor) -> Tensor:
    return v - n * ((v * n).sum(1, keepdim=True) / (n * n).sum(1, keepdim=True))


def test_conjugate_gradients_solve_every_sample() -> None:
    g = torch.Generator().manual_seed(60)
    root = torch.randn(4, 9, 9, generator=g, dtype=torch.float64)
    matrix = root @ root.mT + torch.tensor([0.01, 0.1, 1.0, 10.0]).view(4, 1, 1) * torch.eye(9, dtype=torch.float64)
    rhs = torch.randn(4, 3, 3, generator=g, dtype=torch.float64)
    rhs[2] = 0
    found = conjugate_gradient(
        lambda v: torch.einsum("bij,bj->bi", matrix, v.flatten(1)).view_as(v), rhs, tolerance=1e-10
    )
    want = torch.linalg.solve(matrix, rhs.flatten(1)).view_as(rhs)
    torch.testing.assert_close(found.x, want, rtol=1e-6, atol=1e-7)
    assert (found.residual <= 1e-10).all() and not found.indefinite.any()


def test_negative_curvature_is_seen_and_stays_with_its_sample() -> None:
    values = torch.tensor([[1.0, 2.0, 3.0], [1.0, -2.0, 3.0]], dtype=torch.float64)
    rhs = torch.ones(2, 3, dtype=torch.float64)
    found = conjugate_gradient(lambda v: values * v, rhs, tolerance=1e-12)
    assert found.indefinite.tolist() == [False, True]
    torch.testing.assert_close(found.x[0], 1 / values[0])
    assert found.x[1].isfinite().all()


@pytest.mark.parametrize("damping", [0.3, 2.0])
def test_the_direction_is_that_of_a_dense_solve(make_flow: Any, draw: Any, damping: float) -> None:
    flow = make_flow(61)
    s = 0.3
    y = draw(flow, 62, s)
    found = damped_newton(flow, y, s, damping, tolerance=1e-10)
    n = flow.slope(y, s)
    lifted = flow.matrix(y, s) + found.damping[:, None, None] * torch.eye(12, dtype=torch.float64)
    assert (torch.linalg.eigvalsh(lifted) > 0).all()
    torch.testing.assert_close(found.direction, with_norm_of(n, torch.linalg.solve(lifted, n)), rtol=1e-6, atol=1e-7)
    with pytest.raises(LMLError, match="damping is 0"):
        damped_newton(flow, y, s, 0)


def test_the_damping_is_raised_where_the_hessian_is_indefinite(make_flow: Any) -> None:
    """Half way between two distant modes the curvature along their difference is far below zero."""
    flow = make_flow(63, components=2)
    middle = flow.mixture.means.mean(0)[None]
    far = flow.mixture.means[:1]
    s = 0.5
    # Off the symmetric point, so that the score has a part along the negative direction.
    y = torch.cat([middle + 0.01 * (far - middle), far])
    least = torch.linalg.eigvalsh(flow.matrix(y, s))[:, 0]
    assert least[0] < -0.2 < 0 < least[1]
    found = damped_newton(flow, y, s, 0.1)
    assert found.damping[0] + least[0] > 0 and found.damping[1] == 0.1


def test_undamped_newton_moves_a_gaussian_along_its_ray() -> None:
    """J^-1 n = (y - m) / s: every step rescales y - m, and no direction is given the variance of the data."""
    g = torch.Generator().manual_seed(64)
    variances, centre = torch.tensor([4.0, 1.0, 0.01], dtype=torch.float64), torch.tensor([1.0, -2.0, 0.5]).double()
    slope = gaussian_slope(variances, centre)
    y = start = centre + 20 * torch.randn(6, 3, generator=g, dtype=torch.float64)
    grid = torch.tensor([20.0, 8.0, 3.0, 1.0, 0.3, 0.1], dtype=torch.float64).tolist()
    for s, later in zip(grid[:-1], grid[1:], strict=True):
        n = slope(y, s)
        y = y + (later - s) * with_norm_of(n, n * (variances + s * s) / s**2)
    # Parallel up to sign; the true solution is not.
    assert (torch.sin(angle(y - centre, start - centre)) < 1e-7).all()
    solution = gaussian_solution(start, 20.0, 0.1, variances, centre)
    assert (torch.sin(angle(solution - centre, start - centre)) > 0.1).any()


def test_for_a_gaussian_newton_turns_against_the_trajectory() -> None:
    """LML's turn tends to +(|h| / 2s) (J n)_perp, which is the trajectory's, and Newton's to -(J n)_perp / lambda."""
    g = torch.Generator().manual_seed(65)
    variances, centre = torch.logspace(-2, 1, 7, dtype=torch.float64), torch.zeros(7, dtype=torch.float64)
    slope = gaussian_slope(variances, centre)
    s, h, lam = 1.0, 1e-4, 1e5
    y = (variances + s * s).sqrt() * torch.randn(20, 7, generator=g, dtype=torch.float64)
    earlier = gaussian_solution(y, s, s + h, variances, centre)
    n, previous = slope(y, s), slope(earlier, s + h)
    hessian = s * s / (variances + s * s)
    product = across(hessian * n, n)
    turned = across(rotate(n, previous, second_order_gain((s + h, s, s - h))), n)
    torch.testing.assert_close(turned, h / (2 * s) * product, rtol=1e-2, atol=1e-9)
    newton = across(with_norm_of(n, n / (hessian + lam)), n)
    torch.testing.assert_close(newton, -product / lam, rtol=1e-2, atol=1e-10)
    assert (angle(turned, newton) > math.radians(179)).all()


@settings(max_examples=100, deadline=None, derandomize=True)
@given(
    seed=st.integers(0, 10**6),
    log_damping=st.floats(-6, 6),
    log_later=st.floats(-4, -0.01),
    log_earlier=st.floats(0.01, 3),
    log_gain=st.floats(-3, 2),
)
def test_for_a_gaussian_lml_turns_to_the_solution_and_newton_away_always(
    seed: int, log_damping: float, log_later: float, log_earlier: float, log_gain: float
) -> None:
    """For every damping, every step and every history on the trajectory (docs/theory.md); and so Newton is farther."""
    g = torch.Generator().manual_seed(seed)
    variances = 10 ** (2 * torch.randn(7, generator=g, dtype=torch.float64))
    centre = torch.zeros(7, dtype=torch.float64)
    slope, s = gaussian_slope(variances, centre), 1.0
    y = (variances + s * s).sqrt() * torch.randn(4, 7, generator=g, dtype=torch.float64)
    later, earlier = 10**log_later, 10**log_earlier
    n = slope(y, s)
    previous = slope(gaussian_solution(y, s, earlier, variances, centre), earlier)
    secant = (gaussian_solution(y, s, later, variances, centre) - y) / (later - s)
    newton = with_norm_of(n, n / (s * s / (variances + s * s) + 10**log_damping))
    turned = rotate(n, previous, 10**log_gain)
    wanted = across(secant, n)
    size = 1e-9 * n.norm(dim=1) * secant.norm(dim=1)
    assert ((across(newton, n) * wanted).sum(1) <= size).all()
    assert ((across(turned, n) * wanted).sum(1) >= -size).all()
    assert (angle(newton, secant) >= angle(n, secant) - 1e-9).all()


def test_newton_makes_sampling_of_the_analytic_model_worse_and_lml_better() -> None:
    mixture = load_analytic()
    flow = ProbabilityFlow(mixture)
    noise = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(66))
    with torch.inference_mode():
        target = converged_solution(mixture, noise, steps=14, start=150.0)
        grid = torch.cat([torch.linspace(math.log(150), math.log(0.01), 8).exp(), torch.zeros(1)]).double()
        y = noise * math.sqrt(1 + 150.0**2)
        errors = {}
        for name, rule in (("plain", plain), ("lml", lml(0.7)), ("log", lml(log_linear_gain))):
            errors[name] = float((integrate(flow.slope, y, grid, rule) - target).square().mean().sqrt())
        for s, later in zip(grid[:-1].tolist(), grid[1:].tolist(), strict=True):
            y = y + (later - s) * damped_newton(flow, y, s, 1.0, tolerance=1e-2).direction
        errors["newton"] = float((y - target).square().mean().sqrt())
    assert errors["newton"] > 1.3 * errors["plain"]
    assert errors["lml"] < 0.6 * errors["plain"] and errors["log"] < 0.8 * errors["plain"]


def test_small_angles_are_accurate() -> None:
    a = torch.tensor([[1.0, 0.0]], dtype=torch.float64)
    for tilt in (1e-12, 1e-6, 0.5, 3.0):
        b = torch.tensor([[math.cos(tilt), math.sin(tilt)]], dtype=torch.float64)
        assert float(angle(a, 3 * b)) == pytest.approx(tilt, rel=1e-6)

"""LML as an extrapolation: its exact form, its local error, and its measured order against closed forms."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from lmlangevin.core.lowrank import solve
from lmlangevin.core.scheduled import combine
from lmlangevin.theory import (
    Rule,
    adams_bashforth,
    after,
    angle,
    gaussian_slope,
    gaussian_solution,
    integrate,
    lml,
    lml_forecast,
    log_linear_gain,
    plain,
    rotate,
    second_order_gain,
)

VARIANCES = torch.logspace(-2, 0.5, 8, dtype=torch.float64)
CENTRE = torch.linspace(-1, 1, 8, dtype=torch.float64)
SLOPE = gaussian_slope(VARIANCES, CENTRE)
FIRST, LAST = 10.0, 0.1


def start(seed: int, count: int = 16) -> Tensor:
    g = torch.Generator().manual_seed(seed)
    return CENTRE + (VARIANCES + FIRST**2).sqrt() * torch.randn(count, 8, generator=g, dtype=torch.float64)


def log_grid(sizes: Tensor) -> Tensor:
    place = torch.cat([sizes.new_zeros(1), sizes.cumsum(0)]) / sizes.sum()
    return (math.log(FIRST) + place * math.log(LAST / FIRST)).exp()


def uneven(steps: int) -> Tensor:
    """Steps in log s of one and two units in turn: h / h' does not tend to 1."""
    return log_grid(torch.tensor([1.0, 2.0], dtype=torch.float64).repeat(steps // 2))


def uniform(steps: int) -> Tensor:
    return log_grid(torch.ones(steps, dtype=torch.float64))


def order(
    make: Callable[[], Rule], grid: Callable[[int], Tensor], error: Callable[[Tensor], float] | None = None
) -> float:
    """Return log2 of how the error falls from 256 to 512 steps."""
    y = start(90)
    exact = gaussian_solution(y, FIRST, LAST, VARIANCES, CENTRE)
    measure = error or (lambda difference: float(difference.norm()))
    coarse, fine = (measure(integrate(SLOPE, y, grid(n), make()) - exact) for n in (256, 512))
    return math.log2(coarse / fine)


def test_rotate_is_lml_with_the_gain_that_it_reports() -> None:
    g = torch.Generator().manual_seed(91)
    n, previous = torch.randn(2, 1, 3, 5, generator=g, dtype=torch.float64)
    for kappa, mu in ((0.5, 1.0), (-0.3, 0.1), (1e-3, 2e-3)):
        solved = solve(n, [previous], kappa, mu, absolute=False)
        torch.testing.assert_close(rotate(n, previous, float(solved.gain[0, 0])), solved.direction)
    assert float(rotate(n, previous, 0.9).norm()) == pytest.approx(float(n.norm()), rel=1e-12)


def test_the_gains_by_hand() -> None:
    assert second_order_gain((4.0, 3.0, 2.0)) == 0.5
    assert second_order_gain((4.0, 2.0, 1.0)) == 0.25
    # n = a + b log s: its mean over [1, e] is a + b [s log s - s] / (e - 1) = a + b / (e - 1).
    levels = (math.e**3, math.e, 1.0)
    wanted = 1 - 1 / (math.e - 1)  # in units of b, below n_i = a + b, whose difference to n_{i-1} is 2 b
    assert log_linear_gain(levels) == pytest.approx(wanted / 2, rel=1e-12)
    assert log_linear_gain((math.e, 1.0, 0.0)) == pytest.approx(1.0)
    for h in (1e-2, 1e-3):
        close = (1 + 2 * h, 1.0, 1 - h)
        assert log_linear_gain(close) == pytest.approx(second_order_gain(close), abs=2 * h)


ORDERS: dict[str, tuple[Callable[[], Rule], Callable[[int], Tensor], float]] = {
    "plain": (lambda: plain, uneven, 1),
    "a constant gain, uneven grid": (lambda: lml_forecast(lambda levels: 0.5), uneven, 1),
    # Steps h, 2h in turn want 1/4 and 1; 5/8 errs as much above as below, (h^2 + 4 h^2) / (2 (2 h^2 + 2 h^2)).
    "a constant gain whose errors cancel, uneven grid": (lambda: lml_forecast(lambda levels: 0.625), uneven, 2),
    "a constant gain of one half, uniform grid": (lambda: lml_forecast(lambda levels: 0.5), uniform, 2),
    "the norm kept": (lambda: lml(second_order_gain), uneven, 1),
    "the norm forecast": (lambda: lml_forecast(second_order_gain), uneven, 2),
    "the norm forecast, log-linear gain": (lambda: lml_forecast(log_linear_gain), uneven, 2),
    "Adams-Bashforth": (lambda: adams_bashforth, uneven, 2),
    "a fixed gain before a second-order solver": (lambda: after(adams_bashforth, lml(0.3)), uneven, 1),
    "gain 0 before a second-order solver": (lambda: after(adams_bashforth, lml(0.0)), uneven, 2),
}


@pytest.mark.parametrize("name", ORDERS)
def test_order_of_convergence_on_a_gaussian(name: str) -> None:
    make, grid, want = ORDERS[name]
    assert order(make, grid) == pytest.approx(want, abs=0.12)


@pytest.mark.parametrize("gain", [second_order_gain, log_linear_gain])
def test_norm_keeping_lml_is_of_second_order_where_the_norm_is_constant(gain: Any) -> None:
    """A slope that turns at a constant length: dn/ds = W n with W skew. The solution is a matrix exponential."""
    g = torch.Generator().manual_seed(92)
    root = torch.randn(6, 6, generator=g, dtype=torch.float64)
    skew = 0.3 * (root - root.T)
    n0 = torch.randn(1, 6, generator=g, dtype=torch.float64)

    def slope(y: Tensor, s: float) -> Tensor:
        return n0 @ torch.linalg.matrix_exp(s * skew).T

    y = torch.zeros(1, 6, dtype=torch.float64)
    exact = (
        n0 @ (torch.linalg.solve(skew, torch.linalg.matrix_exp(LAST * skew) - torch.linalg.matrix_exp(FIRST * skew))).T
    )
    for rule, want in ((lml(gain), 2), (plain, 1)):
        coarse, fine = (float((integrate(slope, y, uneven(n), rule) - exact).norm()) for n in (512, 1024))
        assert math.log2(coarse / fine) == pytest.approx(want, abs=0.12)


def test_the_local_error_is_along_n_where_the_norm_changes() -> None:
    """One step from exact values: error / h^2 -> (1/2) n d||n||/ds / ||n||; plain has dn/ds / 2."""
    s, h = 1.0, -1e-4
    y = gaussian_solution(start(93), FIRST, s, VARIANCES, CENTRE)
    earlier, later = (gaussian_solution(y, s, t, VARIANCES, CENTRE) for t in (s - 2 * h, s + h))
    n, previous = SLOPE(y, s), SLOPE(earlier, s - 2 * h)
    slope_of_n = n * VARIANCES / (s * (VARIANCES + s * s))
    along = n * ((n * slope_of_n).sum(1, keepdim=True) / n.square().sum(1, keepdim=True))
    kept = (later - y - h * rotate(n, previous, second_order_gain((s - 2 * h, s, s + h)))) / h**2
    torch.testing.assert_close(kept, along / 2, rtol=1e-2, atol=2e-3)
    torch.testing.assert_close((later - y - h * n) / h**2, slope_of_n / 2, rtol=1e-2, atol=2e-3)
    assert (along.norm(dim=1) > 0.1 * slope_of_n.norm(dim=1)).all()


def test_the_rules_of_the_package_are_these(make_flow: Any, draw: Any) -> None:
    """A calibrated schedule with these gains is Adams-Bashforth; with restored norms it turns as LML does."""
    flow = make_flow(94)
    levels = (1.0, 0.6, 0.4)
    y = draw(flow, 95, 1.0)
    previous = flow.slope(y, 1.0)
    n = flow.slope(y - 0.4 * previous, 0.6)
    gain = second_order_gain(levels)
    torch.testing.assert_close(
        combine(n, [previous], [gain], restore_norm=False)[0], adams_bashforth(n, previous, levels)
    )
    restored = combine(n, [previous], [gain], restore_norm=True)[0]
    assert float(angle(restored - n, rotate(n, previous, gain) - n).max()) < 0.2


def test_the_gaussian_solution_solves_its_ode(make_flow: Any, draw: Any) -> None:
    flow = make_flow(96, components=1, size=5, rank=4)
    u, mixture = flow.mixture.basis[0], flow.mixture
    full = torch.linalg.qr(torch.cat([u, torch.eye(5, dtype=torch.float64)[:, :1]], 1))[0]
    variances = torch.cat([mixture.excess[0], torch.zeros(1, dtype=torch.float64)]) + mixture.variances[0]
    y = draw(flow, 97, 3.0)
    want = flow.advance(y, 3.0, 0.2, steps=200)
    found = gaussian_solution(y @ full, 3.0, 0.2, variances, mixture.means[0] @ full) @ full.T
    torch.testing.assert_close(found, want, rtol=1e-7, atol=1e-7)
    slope = gaussian_slope(variances, mixture.means[0] @ full)
    torch.testing.assert_close(slope(y @ full, 3.0) @ full.T, flow.slope(y, 3.0), rtol=1e-9, atol=1e-9)

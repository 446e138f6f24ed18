"""LML as an extrapolation: first-order samplers in y = x / alpha, s = sigma / alpha, and the gain of second order.

Euler's method on dy/ds = n(y, s), which is DDIM, takes y_{i+1} = y_i + h_i d_i with d_i = n_i. A rule makes d_i from
n_i, the prediction before it and their levels; `lml` keeps the norm of n_i, `adams_bashforth` does not.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TypeAlias

import torch
from torch import Tensor

Levels: TypeAlias = tuple[float, float, float]
"""(s_{i-1}, s_i, s_{i+1}): where the prediction before, this one and the next belong to."""

Rule: TypeAlias = Callable[[Tensor, Tensor, Levels], Tensor]
"""(n_i, n_{i-1}, levels) -> d_i."""

Gain: TypeAlias = Callable[[Levels], float]
"""levels -> g, the gain of a step."""


def second_order_gain(levels: Levels) -> float:
    """Return g_i = h_i / (2 h_{i-1}), h_i = s_{i+1} - s_i: n changes linearly in s, as Adams and Bashforth assume.

    It turns n_i to the mean direction over the next step, to second order. On a uniform grid it is 1/2.
    """
    earlier, now, later = levels
    return (later - now) / (2 * (now - earlier))


def log_linear_gain(levels: Levels) -> float:
    """Return the gain for an n that changes linearly in log s, the mean of which over the next step is wanted.

    With rho = s_{i+1} / s_i it is (1 + rho log rho / (1 - rho)) / log(s_{i-1} / s_i). It agrees with
    `second_order_gain` as steps shrink, and is larger where levels fall by large factors; s_{i+1} may be 0.
    """
    earlier, now, later = levels
    rho = later / now
    mean = 1 + rho * math.log(rho) / (1 - rho) if rho > 0 else 1.0
    return mean / math.log(earlier / now)


def rotate(n: Tensor, previous: Tensor, gain: float) -> Tensor:
    """Return LML's direction with an exact gain, (n - g D_perp) / sqrt(1 + g^2 ||D_perp||^2 / ||n||^2), D = n_1 - n.

    Args:
        n: (batch, *event), not 0.
        previous: n_1, of n's shape.
        gain: g.

    Returns:
        (batch, *event), with the norm of n, in n's dtype.
    """
    flat, difference = n.flatten(1), (previous - n).flatten(1)
    norm2 = torch.linalg.vecdot(flat, flat)[:, None]
    across = difference - flat * (torch.linalg.vecdot(flat, difference)[:, None] / norm2)
    tangent2 = gain**2 * torch.linalg.vecdot(across, across)[:, None] / norm2
    return ((flat - gain * across) / (1 + tangent2).sqrt()).view(n.shape)


def plain(n: Tensor, previous: Tensor, levels: Levels) -> Tensor:
    """Euler's rule: d = n."""
    return n


def adams_bashforth(n: Tensor, previous: Tensor, levels: Levels) -> Tensor:
    """The second-order rule of two predictions on any grid: d = n - g (n_1 - n) with `second_order_gain`."""
    return n - second_order_gain(levels) * (previous - n)


def lml(gain: float | Gain) -> Rule:
    """Return LML's rule with a constant gain, or one that depends on the levels (`second_order_gain`)."""

    def rule(n: Tensor, previous: Tensor, levels: Levels) -> Tensor:
        return rotate(n, previous, gain(levels) if callable(gain) else gain)

    return rule


def lml_forecast(gain: Gain) -> Rule:
    """Return LML's rule with the length extrapolated as the direction is: ||d|| = ||n|| + g (||n|| - ||n_1||).

    Norm-preserving LML is of second order across n and of first order along it, where the norm changes; with a
    second-order gain this rule is of second order.
    """

    def rule(n: Tensor, previous: Tensor, levels: Levels) -> Tensor:
        g = gain(levels)
        factor = 1 + g * (1 - previous.flatten(1).norm(dim=1) / n.flatten(1).norm(dim=1))
        return rotate(n, previous, g) * factor.view((-1,) + (1,) * (n.ndim - 1))

    return rule


def after(base: Rule, correction: Rule) -> Rule:
    """Return the rule of a solver, `base`, whose predictions are corrected before it sees them.

    The solver's history is then one of corrected predictions, which the rule keeps: make one for every run.
    """
    history: list[Tensor] = []

    def rule(n: Tensor, previous: Tensor, levels: Levels) -> Tensor:
        d = correction(n, previous, levels)
        earlier = history.pop() if history else previous
        history.append(d)
        return base(d, earlier, levels)

    return rule


def integrate(slope: Callable[[Tensor, float], Tensor], y: Tensor, grid: Tensor, rule: Rule = plain) -> Tensor:
    """Run a first-order sampler over a grid, one evaluation a step; the first step is Euler's.

    Args:
        slope: n(y, s).
        y: The state at grid[0], (batch, *event).
        grid: s_0 > s_1 > ... (or rising), of any spacing; float64.
        rule: What is made of each prediction; Euler's by default.

    Returns:
        The state at grid[-1].
    """
    points = grid.tolist()
    previous = None
    for i, (now, later) in enumerate(zip(points[:-1], points[1:], strict=True)):
        n = slope(y, now)
        d = n if previous is None else rule(n, previous, (points[i - 1], now, later))
        y, previous = y + (later - now) * d, n
    return y


def gaussian_solution(y: Tensor, start: float, s: float, variances: Tensor, mean: Tensor) -> Tensor:
    """Return the exact trajectory for a Gaussian N(mean, diag(variances)) of data.

    y_j(s) = m_j + (y_j(s_0) - m_j) sqrt((v_j + s^2) / (v_j + s_0^2)).

    Args:
        y: State at `start`, (batch, D).
        start: s_0.
        s: Where to, 0 or more.
        variances: v, (D,), 0 or more.
        mean: m, (D,).
    """
    return mean + (y - mean) * ((variances + s * s) / (variances + start * start)).sqrt()


def gaussian_slope(variances: Tensor, mean: Tensor) -> Callable[[Tensor, float], Tensor]:
    """Return n(y, s) = s (y - m) / (v + s^2) of the same Gaussian."""

    def slope(y: Tensor, s: float) -> Tensor:
        return s * (y - mean) / (variances + s * s)

    return slope

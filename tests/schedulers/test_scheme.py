"""Every deterministic solver is a linear scheme: read off diffusers' own code, and run without it."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import diffusers
import pytest
import torch
from torch import Tensor

from lmlangevin.core import CalibratedSchedule, LinearScheme, LMLError, run_scheme
from lmlangevin.generation.models import FLOW_CONFIG, VP_CONFIG
from lmlangevin.generation.sampling import without_known_warnings
from lmlangevin.schedulers import SCHEDULERS, build_scheduler, scheme_of, with_lml
from lmlangevin.schedulers.levels import run_levels
from lmlangevin.schedulers.names import SIGMA_GRIDS, VP_GRIDS, grid_config
from lmlangevin.schedulers.noise import is_flow

NAMES = [name for name, entry in SCHEDULERS.items() if not entry.stochastic]
# diffusers' own images of flows are not numbers on these grids.
NOT_A_NUMBER = {("flow-dpmpp-2m", grid) for grid in SIGMA_GRIDS}
NOT_A_NUMBER |= {("flow-unipc", grid) for grid in ("exponential", "beta")}
Predict = Callable[[Tensor, float], Tensor]


def grids(name: str) -> list[str | None]:
    found: list[str | None] = [None]
    for grid in (*VP_GRIDS, *SIGMA_GRIDS):
        try:
            grid_config(SCHEDULERS[name], grid)
        except LMLError:
            continue
        found.append(grid)
    return found


def build(name: str, grid: str | None = None, **keys: Any) -> Any:
    with without_known_warnings():
        return build_scheduler(name, FLOW_CONFIG if SCHEDULERS[name].flow else VP_CONFIG, grid=grid, **keys)


def curved(seed: int) -> Predict:
    """A smooth, nonlinear prediction of unit size at every level."""
    mix = torch.randn((6, 6), generator=torch.Generator().manual_seed(seed), dtype=torch.float64) / 3

    def predict(y: Tensor, s: float) -> Tensor:
        return torch.tanh(y.double() @ mix / math.sqrt(1 + s * s) + math.sin(3 * math.atan(s))).to(y.dtype)

    return predict


def solve(scheduler: Any, steps: int, noise: Tensor, predict: Predict) -> Tensor:
    """Run diffusers' own steps on predictions at the scheduler's levels; returns y at the last of them."""
    with without_known_warnings():
        scheduler.set_timesteps(steps)
    levels = run_levels(scheduler)
    x = noise * math.sqrt(1 + levels[0].value ** 2) * levels[0].scale
    if is_flow(scheduler):
        x = noise * levels[0].value
    for k, t in enumerate(scheduler.timesteps):
        if hasattr(scheduler, "scale_model_input"):
            scheduler.scale_model_input(x, t)
        n = predict((x / levels[k].scale).flatten(1), levels[k].value).view_as(x)
        x = scheduler.step(n, t, x, return_dict=False)[0]
    return x / levels[-1].scale


@pytest.mark.parametrize("name", NAMES)
def test_a_solver_and_its_scheme_agree_on_every_grid(name: str) -> None:
    noise = torch.randn((2, 6, 1, 1), generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    for index, grid in enumerate(grids(name)):
        for steps in (5, 8, 13, 20) if grid is None else ((5, 6, 8, 10)[index % 4],):
            predict = curved(steps)
            with without_known_warnings():
                if (name, grid) in NOT_A_NUMBER:
                    with pytest.raises(LMLError, match="plans a flow's levels above 1 on this grid"):
                        scheme_of(build(name, grid), steps)
                    continue
                scheme = scheme_of(build(name, grid), steps)
            start = scheme.levels[0] if SCHEDULERS[name].flow else math.sqrt(1 + scheme.levels[0] ** 2)
            made = run_scheme(predict, (noise * start).flatten(1), scheme)
            exact = solve(build(name, grid), steps, noise, predict).flatten(1)
            assert (made - exact).abs().max() <= 1e-5 * start, (grid, steps)


@pytest.mark.parametrize("name", [name for name in NAMES if name not in ("heun", "flow-heun")])
def test_schemes_are_consistent(name: str) -> None:
    """A constant prediction is integrated exactly, whatever the solver."""
    with without_known_warnings():
        scheme = scheme_of(build(name), 8)
    assert max(scheme.moment_defects(0)) < 1e-5
    assert scheme.evaluations == len(scheme.levels) - 1 == (9 if name == "pndm" else 8)


def test_schemes_of_textbook_solvers() -> None:
    """DDIM is Euler; DPM-Solver++(2M) ends as Euler does, and has two predictions an increment before."""
    euler = scheme_of(build("ddim", "trailing"), 4)
    for k, row in enumerate(euler.increments):
        assert row[:k] == pytest.approx([0.0] * k, abs=1e-5)
        assert row[k] == pytest.approx(euler.levels[k + 1] - euler.levels[k], rel=1e-5)
    heun = scheme_of(build("heun"), 3)
    assert heun.evaluations == 5
    first, second = heun.matrix[:2]
    step = heun.levels[1] - heun.levels[0]
    assert first == pytest.approx([step], rel=1e-5) and second == pytest.approx([step / 2, step / 2], rel=1e-5)


@pytest.mark.parametrize("order", [1, 2, 3])
def test_moments_tell_the_order_of_a_scheme(order: int) -> None:
    """Adams-Bashforth of an order integrates polynomials below it, once it has as many predictions, and no others."""
    levels = [5.0, 3.1, 2.2, 1.4, 0.7, 0.2, 0.0]
    scheme = LinearScheme.from_increments(levels, [_adams(levels, k, order) for k in range(6)])
    assert max(scheme.moment_defects(0)) < 1e-12
    for k, row in enumerate(scheme.increments[order - 1 :], start=order - 1):
        for m in range(order + 1):
            exact = (levels[k + 1] ** (m + 1) - levels[k] ** (m + 1)) / (m + 1)
            made = sum(c * s**m for c, s in zip(row, levels, strict=False))
            assert (abs(made - exact) < 1e-9) == (m < order)


def _adams(levels: list[float], k: int, order: int) -> list[float]:
    """Adams-Bashforth weights of a step, by exact integration of the interpolating polynomial."""
    used = list(range(max(0, k - order + 1), k + 1))
    row = [0.0] * (k + 1)
    vander = torch.tensor([[levels[j] ** m for j in used] for m in range(len(used))], dtype=torch.float64)
    moments = torch.tensor(
        [(levels[k + 1] ** (m + 1) - levels[k] ** (m + 1)) / (m + 1) for m in range(len(used))], dtype=torch.float64
    )
    for j, weight in zip(used, torch.linalg.solve(vander, moments).tolist(), strict=True):
        row[j] = weight
    return row


def test_a_calibrated_schedule_is_a_scheme() -> None:
    schedule = CalibratedSchedule((9.0, 4.0, 1.5, 0.0), ((0.0, 0.0), (0.4, 0.0), (-0.2, 0.1)))
    scheme = LinearScheme.from_schedule(schedule)
    predict = curved(5)
    y = torch.randn((3, 6), generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    seen, by_hand = [], y
    for k, gains in enumerate(schedule.gains):
        n = predict(by_hand, schedule.levels[k])
        d = n - sum((g * (p - n) for g, p in zip(gains, reversed(seen), strict=False)), torch.zeros_like(n))
        by_hand = by_hand + (schedule.levels[k + 1] - schedule.levels[k]) * d
        seen.append(n)
    assert (run_scheme(predict, y, scheme) - by_hand).abs().max() < 1e-12
    with pytest.raises(LMLError, match="restored norm is not linear"):
        LinearScheme.from_schedule(CalibratedSchedule((1.0, 0.0), ((0.0,),), restore_norm=True))


def test_increments_and_configurations_come_back() -> None:
    scheme = scheme_of(build("unipc"), 6)
    again = LinearScheme.from_increments(scheme.levels, scheme.increments)
    for a, b in zip(scheme.matrix, again.matrix, strict=True):
        assert a == pytest.approx(b, abs=1e-12)
    assert LinearScheme.from_config(scheme.to_config()) == scheme


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_sums_are_wide_and_the_callers_dtype_comes_back(dtype: torch.dtype) -> None:
    scheme = scheme_of(build("dpmpp-2m", "trailing"), 10)
    y = torch.randn((2, 6), generator=torch.Generator().manual_seed(4)) * scheme.levels[0]
    made = run_scheme(curved(1), y.to(dtype), scheme)
    assert made.dtype == dtype
    exact = run_scheme(curved(1), y.to(dtype).double(), scheme)
    assert (made.double() - exact).abs().max() < 40 * torch.finfo(dtype).eps * exact.abs().max() + 1e-3


@pytest.mark.parametrize(
    ("scheduler", "remedy"),
    [
        (lambda: build("sde-dpmpp-2m"), "draws noise in its steps"),
        (lambda: diffusers.EulerAncestralDiscreteScheduler(), "draws noise in its steps"),
        (lambda: diffusers.DDIMScheduler(), "clips the data prediction"),
        (lambda: build("dpmpp-2m", thresholding=True), "thresholds the data prediction"),
        (lambda: with_lml(diffusers.DDIMScheduler)(clip_sample=False), "give the plain scheduler, DDIMScheduler"),
    ],
)
def test_what_is_not_linear_is_refused_by_name(scheduler: Callable[[], Any], remedy: str) -> None:
    with pytest.raises(LMLError, match=remedy):
        scheme_of(scheduler(), 6)


@pytest.mark.parametrize(
    ("levels", "matrix", "remedy"),
    [
        ((1.0,), (), "give two numbers or more"),
        ((1.0, -0.5), ((1.0,),), "of 0 or more"),
        ((1.0, 0.0), ((1.0, 2.0),), "rows of 1, 2"),
        ((1.0, 0.0), ((math.nan,),), "give a finite number"),
        ((1.0, 0.0), "x", "one row of numbers an evaluation"),
    ],
)
def test_bad_schemes_are_refused(levels: Any, matrix: Any, remedy: str) -> None:
    with pytest.raises(LMLError, match=remedy):
        LinearScheme(levels, matrix)


def test_a_scheduler_is_left_as_it_was() -> None:
    scheduler = build("unipc")
    scheduler.set_timesteps(7)
    before = scheduler.timesteps.clone()
    scheme_of(scheduler, 12)
    assert torch.equal(scheduler.timesteps, before) and scheduler.step_index is None

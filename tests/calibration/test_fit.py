"""The fit: lower errors on seeds that it never saw, a plan that is kept, and going on where it stopped."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from lmlangevin.calibration import FirstOrderStudent, FitOptions, fit
from lmlangevin.calibration.fit import damped_step, normal_equations, planned_evaluations
from lmlangevin.calibration.start import initial_schedule
from lmlangevin.calibration.teacher import solve_teacher
from lmlangevin.core import LMLError

SMAX = 80.0


def problem(model: Any, count: int, seed: int, *, flow: bool = False) -> tuple[Tensor, Tensor]:
    y = torch.randn(count, 6, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    smax = 1.0 if flow else SMAX
    y = y if flow else y * (1 + SMAX**2) ** 0.5
    return y, solve_teacher(model, y, smax=smax, steps=120, flow=flow)


def error_of(model: Any, schedule: Any, y: Tensor, target: Tensor, *, flow: bool = False) -> float:
    student = FirstOrderStudent(
        model, y, steps=schedule.steps, rank=schedule.rank, smax=1.0 if flow else SMAX, flow=flow
    )
    student.begin(limit=10**6)
    made = student.final(student.run(schedule, slice(0, len(y))))
    # The median: a sample near the ridge between the two blobs can end in the other one.
    return float((made - target).square().mean(dim=1).median().sqrt())


@pytest.mark.parametrize("flow", [False, True])
def test_seeds_that_were_never_seen_come_closer_to_the_teacher(blobs: Any, flow: bool) -> None:
    model, smax = blobs(flow), 1.0 if flow else SMAX
    y, target = problem(model, 48, 1, flow=flow)
    student = FirstOrderStudent(model, y, steps=5, rank=2, smax=smax, flow=flow)
    result = fit(student, target, initial_schedule(5, 2, smax=smax, flow=flow), options=FitOptions(iterations=15))
    fresh, truth = problem(model, 48, 2, flow=flow)
    before = error_of(model, result.initial, fresh, truth, flow=flow)
    after = error_of(model, result.schedule, fresh, truth, flow=flow)
    assert after < 0.5 * before
    assert result.evaluations <= result.planned
    assert result.history[result.best].heldout_error == min(entry.heldout_error or 9 for entry in result.history)
    assert result.as_dict()["fit_error"]["after"] < result.as_dict()["fit_error"]["before"]


def test_the_plan_is_an_upper_bound_that_is_reached(blobs: Any) -> None:
    y, target = problem(blobs(), 8, 3)
    student = FirstOrderStudent(blobs(), y, steps=4, rank=2, smax=SMAX)
    options = FitOptions(iterations=1, trials=1)
    seen: list[tuple[int, int]] = []
    result = fit(
        student, target, initial_schedule(4, 2, smax=SMAX), options=options, progress=lambda *a: seen.append(a)
    )
    assert result.evaluations == result.planned == planned_evaluations(student, options)
    assert seen[-1] == (result.planned, result.planned)
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)


def test_the_best_of_several_starts_is_taken(blobs: Any) -> None:
    y, target = problem(blobs(), 12, 4)
    student = FirstOrderStudent(blobs(), y, steps=4, rank=1, smax=SMAX)
    starts = [initial_schedule(4, 1, smax=SMAX, smin=smin) for smin in (0.0001, 0.05, 5.0)]
    result = fit(student, target, starts, options=FitOptions(iterations=1))
    assert result.initial.levels == pytest.approx(starts[1].levels)


def test_an_interrupted_fit_ends_where_one_that_was_not_does(blobs: Any, tmp_path: Path) -> None:
    y, target = problem(blobs(), 12, 5)
    initial, options = initial_schedule(4, 2, smax=SMAX), FitOptions(iterations=8)

    def make() -> FirstOrderStudent:
        return FirstOrderStudent(blobs(), y, steps=4, rank=2, smax=SMAX)

    whole = fit(make(), target, initial, options=options)

    class Stop(Exception):
        pass

    path, limit = tmp_path / "fit.json", whole.history[3].evaluations + 1

    def stop(done: int, total: int) -> None:
        if done >= limit:
            raise Stop

    with pytest.raises(Stop):
        fit(make(), target, initial, options=options, progress=stop, checkpoint=path)
    again = fit(make(), target, initial, options=options, checkpoint=path)
    assert again.schedule == whole.schedule
    assert [e.fit_error for e in again.history] == [e.fit_error for e in whole.history]
    assert whole.evaluations < again.evaluations <= again.planned
    with pytest.raises(LMLError, match="of another fit"):
        fit(make(), target + 0.1, initial, options=options, checkpoint=path)


def test_the_damped_step_solves_marquardts_equations() -> None:
    g = torch.Generator().manual_seed(6)
    slopes = torch.randn(5, 400, generator=g, dtype=torch.float64)
    residual = torch.randn(400, generator=g, dtype=torch.float64)
    normal, gradient = normal_equations(slopes, residual)
    assert torch.allclose(normal, slopes @ slopes.T / 400)
    step = damped_step(normal, gradient, 0.3)
    dense = torch.linalg.solve(normal + 0.3 * torch.diag(normal.diagonal()), -gradient)
    assert torch.allclose(step, dense, rtol=1e-6)
    # A number without any effect stays where it is.
    slopes[2] = 0
    assert damped_step(*normal_equations(slopes, residual), 0.3)[2] == 0


def test_a_strong_prior_holds_the_schedule(blobs: Any) -> None:
    y, target = problem(blobs(), 12, 7)
    changes = []
    for prior in (1e-3, 10.0):
        student = FirstOrderStudent(blobs(), y, steps=4, rank=1, smax=SMAX)
        result = fit(student, target, initial_schedule(4, 1, smax=SMAX), options=FitOptions(iterations=6, prior=prior))
        before, after = (torch.tensor(student.pack(s)) for s in (result.initial, result.schedule))
        changes.append(float((after - before).norm()))
    assert changes[1] < 0.01 * changes[0]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"iterations": 0}, "iterations is 0"),
        ({"trials": 1.5}, "trials is 1.5"),
        ({"heldout": 1.0}, "heldout is 1.0"),
        ({"prior": -1.0}, "prior is -1.0"),
        ({"difference": 0.0}, "difference is 0.0"),
        ({"batch_size": 0}, "batch_size is 0"),
    ],
)
def test_options_out_of_range_are_refused(given: dict[str, Any], message: str) -> None:
    with pytest.raises(LMLError, match=message):
        FitOptions(**given)


def test_what_does_not_fit_together_is_refused(blobs: Any) -> None:
    y, target = problem(blobs(), 4, 8)
    student = FirstOrderStudent(blobs(), y, steps=4, rank=1, smax=SMAX)
    initial = initial_schedule(4, 1, smax=SMAX)
    with pytest.raises(LMLError, match="give two that match"):
        fit(student, target[:2], initial)
    with pytest.raises(LMLError, match="initial has steps 5"):
        fit(student, target, initial_schedule(5, 1, smax=SMAX))
    with pytest.raises(LMLError, match="initial gives an error of nan"):
        fit(student, target * float("nan"), initial)
    with pytest.raises(LMLError, match="give more seeds"):
        fit(student, target, initial, options=FitOptions(heldout=0.99))

"""The samplers that are fitted: derivatives against differences, evaluations counted, solvers equal to their own."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from lmlangevin.calibration import FirstOrderStudent, SolverStudent
from lmlangevin.calibration.firstorder import Counted
from lmlangevin.calibration.start import initial_schedule
from lmlangevin.calibration.teacher import solve_teacher
from lmlangevin.core import CalibratedSchedule, LMLError
from lmlangevin.schedulers.names import build_scheduler

SMAX = 80.0


def test_the_teacher_is_the_closed_form(gaussian: Any, starts: Tensor) -> None:
    errors = []
    for steps in (30, 60):
        made = solve_teacher(gaussian, starts, smax=SMAX, steps=steps)
        exact = gaussian.solution(starts, SMAX)
        errors.append(float((made - exact).norm() / exact.norm()))
    assert errors[1] < 2e-3
    assert errors[1] < errors[0] / 2


@pytest.mark.parametrize("flow", [False, True])
@pytest.mark.parametrize(("rank", "restore"), [(0, False), (1, True), (2, False), (2, True), (4, False)])
def test_the_derivatives_are_those_of_central_differences(
    blobs: Any, starts: Tensor, flow: bool, rank: int, restore: bool
) -> None:
    smax = 1.0 if flow else SMAX
    y = starts / (1 + SMAX**2) ** 0.5 if flow else starts
    student = FirstOrderStudent(blobs(flow), y, steps=5, rank=rank, smax=smax, flow=flow, restore_norm=restore)
    schedule = initial_schedule(5, rank, smax=smax, flow=flow, restore_norm=restore)
    vector, everyone = student.pack(schedule), slice(0, len(y))
    assert student.pack(student.unpack(vector)) == pytest.approx(vector)
    counter = student.begin(limit=10**6)
    run = student.run(schedule, everyone)
    before = counter.evaluations
    raw = student.slopes(run, slice(2, 6), schedule, 1e-6)
    assert counter.evaluations - before == student.jacobian_cost * 4
    made = torch.einsum("ij,i...->j...", student.chain(vector), raw)
    for i in range(student.size):
        ends = []
        for sign in (1, -1):
            changed = [value + sign * 1e-5 * (i == j) for j, value in enumerate(vector)]
            ends.append(student.final(student.run(student.unpack(changed), everyone))[2:6])
        assert torch.allclose(made[i], (ends[0] - ends[1]) / 2e-5, rtol=2e-3, atol=2e-4), i


def test_a_run_is_counted_and_its_first_prediction_kept(blobs: Any, starts: Tensor) -> None:
    student = FirstOrderStudent(blobs(), starts, steps=4, rank=1, smax=SMAX)
    schedule = initial_schedule(4, 1, smax=SMAX)
    counter = student.begin(limit=1000, batch_size=3)
    student.run(schedule, slice(0, 8))
    assert counter.evaluations == 4 * 8
    student.run(schedule, slice(0, 8))
    assert counter.evaluations == 4 * 8 + student.run_cost * 8


def test_rows_say_which_seed_a_sample_belongs_to(starts: Tensor) -> None:
    seen: list[tuple[Tensor, list[int]]] = []

    def predict(y: Tensor, s: float, rows: Any) -> Tensor:
        # A model with a condition of its own for every seed.
        scale = torch.tensor([0.2 + 0.1 * row for row in rows], dtype=y.dtype)[:, None]
        seen.append((y, list(rows)))
        return s * y / (scale + s * s)

    student = FirstOrderStudent(predict, starts, steps=3, rank=1, smax=SMAX)
    schedule = initial_schedule(3, 1, smax=SMAX)
    student.begin(limit=10**6, batch_size=5)
    run = student.run(schedule, slice(3, 8))
    slopes = student.slopes(run, slice(1, 4), schedule, 1e-6)
    # Seeds 4, 5 and 6 alone give the same.
    alone = student.run(schedule, slice(4, 7))
    assert torch.allclose(alone.states[-1], run.states[-1][1:4])
    assert torch.allclose(student.slopes(alone, slice(0, 3), schedule, 1e-6), slopes, atol=1e-6)
    assert all(len(y) == len(rows) <= 5 for y, rows in seen)


@pytest.mark.parametrize("name", ["ddim", "dpmpp-2m", "dpmpp-3m", "unipc", "deis", "pndm", "euler"])
def test_a_solver_without_gains_is_the_solver(blobs: Any, starts: Tensor, name: str) -> None:
    model, student = blobs(), solver_student(blobs(), starts, name)
    scheduler = student._build(None)
    x = starts * (1.0 if name == "euler" else (1 + student._levels[0].value ** 2) ** -0.5)
    for k, t in enumerate(scheduler.timesteps):
        level = student._levels[k]
        n = model(x / level.scale, level.value, range(len(x)))
        x = scheduler.step(n, t, x, return_dict=False)[0]
    run = student.run(student.initial(), slice(0, 8))
    assert torch.allclose(student.final(run), x, rtol=1e-5, atol=1e-5)
    assert student.steps == len(scheduler.timesteps)


@pytest.mark.parametrize("name", ["ddim", "dpmpp-2m", "unipc", "pndm"])
def test_a_solvers_derivatives_are_differences(blobs: Any, starts: Tensor, name: str) -> None:
    student = solver_student(blobs(), starts, name)
    vector = [0.1 * (-1) ** i for i in range(student.size)]
    schedule = student.unpack(vector)
    counter = student.begin(limit=10**6)
    run = student.run(schedule, slice(0, 8))
    before = counter.evaluations
    made = student.slopes(run, slice(1, 5), schedule, 1e-3)
    assert counter.evaluations - before == student.jacobian_cost * 4
    for i in range(student.size):
        ends = []
        for sign in (1, -1):
            changed = [value + sign * 1e-3 * (i == j) for j, value in enumerate(vector)]
            ends.append(student.final(student.run(student.unpack(changed), slice(0, 8)))[1:5])
        assert torch.allclose(made[i], (ends[0] - ends[1]) / 2e-3, rtol=0.05, atol=0.02), i


def solver_student(model: Any, starts: Tensor, name: str) -> SolverStudent:
    config = {"num_train_timesteps": 1000, "clip_sample": False}

    def build(schedule: CalibratedSchedule | None) -> Any:
        lml = None if schedule is None else {"control": "calibrated", "calibrated_steps": schedule.to_config()}
        scheduler = build_scheduler(name, config, lml=lml)
        scheduler.set_timesteps(5)
        return scheduler

    return SolverStudent(model, starts, build, rank=2)


def test_more_evaluations_than_were_planned_are_a_mistake(gaussian: Any, starts: Tensor) -> None:
    counted = Counted(gaussian, limit=10)
    counted(starts, 1.0, range(8))
    with pytest.raises(LMLError, match="limit is 10"):
        counted(starts, 1.0, range(8))
    with pytest.raises(LMLError, match="predict returned the shape"):
        Counted(lambda y, s, rows: y[:1], limit=100)(starts, 1.0, range(8))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"steps": 1}, "steps is 1"),
        ({"start": torch.zeros(3, dtype=torch.float64)}, "shape \\(3,\\)"),
        ({"start": torch.zeros(3, 2, dtype=torch.float16)}, "float16"),
    ],
)
def test_what_is_no_student_is_refused(blobs: Any, starts: Tensor, change: dict[str, Any], message: str) -> None:
    given = {"start": starts, "steps": 4, **change}
    with pytest.raises(LMLError, match=message):
        FirstOrderStudent(blobs(), given["start"], steps=given["steps"], rank=1, smax=SMAX)


def test_a_schedule_of_another_start_is_refused(blobs: Any, starts: Tensor) -> None:
    student = FirstOrderStudent(blobs(), starts, steps=4, rank=1, smax=SMAX)
    with pytest.raises(LMLError, match="starts from 50.0"):
        student.pack(initial_schedule(4, 1, smax=50.0))

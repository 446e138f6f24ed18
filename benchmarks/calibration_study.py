"""What a calibration needs and where it stays good, on the analytic model: `python benchmarks/calibration_study.py`.

Every row is one fit of a schedule of 8 steps, or a use of one, with the RMSE to the fine solution on 256 seeds that no
fit saw: how many seeds are enough, from nothing and from the fit of 10 steps that comes with the package; what the
grid, the gains and their rank bring; a greedy fit; other lengths, other guidance scales, and another model. Rows that
are in the result file already are not made again.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from _common import RESULTS, embedded_network, save
from lmlangevin.calibration import FirstOrderStudent, FitOptions, find_calibration, fit
from lmlangevin.calibration.firstorder import run_student
from lmlangevin.calibration.predictors import NetworkPredictor
from lmlangevin.calibration.start import initial_schedule
from lmlangevin.calibration.teacher import solve_teacher
from lmlangevin.core import CalibratedSchedule
from lmlangevin.generation.models import VP_CONFIG
from lmlangevin.reference import AnalyticModel, GaussianMixture, load_analytic

NAME = "calibration_study"
FIRST_SEED = 8_000_000
TEST_SEED = 8_100_000
TESTS = 256
STEPS = 8
SEEDS = 64
RANK = 2
TEACHER_STEPS = 120
ITERATIONS = 25
SMIN = 0.03
GUIDANCE = (1.0, 2.0, 4.0, 7.5)
CONDITION = 4
"""Components of the mixture that make up the condition of the guided model."""


class Guided:
    """Classifier-free guidance between two exact models: the mixture, and a few of its components as the condition."""

    def __init__(self, mixture: GaussianMixture, scale: float) -> None:
        few = slice(0, CONDITION)
        part = GaussianMixture(
            mixture.weights[few] / mixture.weights[few].sum(),
            mixture.means[few],
            mixture.basis[few],
            mixture.excess[few],
            mixture.variances[few],
            mixture.event_shape,
        )
        self.models, self._scale = (mixture, part), scale

    def __call__(self, y: Tensor, s: float, rows: Sequence[int]) -> Tensor:
        """Return the guided noise of y at s."""
        del rows
        alpha = (1 + s * s) ** -0.5
        bare, full = (model.epsilon((alpha * y).float(), alpha, s * alpha).to(y.dtype) for model in self.models)
        return bare + self._scale * (full - bare)


class Study:
    """The rows that are known, and how new ones are made."""

    def __init__(self, limit: set[str]) -> None:
        self.path = RESULTS / f"{NAME}.json"
        self.rows: dict[str, dict[str, Any]] = {}
        if self.path.exists():
            self.rows = json.loads(self.path.read_text(encoding="utf-8"))["rows"]
        self._limit = limit
        self.mixture = load_analytic()
        self.plain = NetworkPredictor(AnalyticModel(self.mixture), VP_CONFIG, (3, 32, 32), flow=False)
        self._targets: dict[tuple[Any, ...], tuple[Tensor, Tensor]] = {}

    def predict(self, guidance: float | None) -> Any:
        """Return the model, plain or guided."""
        return self.plain if guidance is None else Guided(self.mixture, guidance)

    def data(self, first: int, count: int, guidance: float | None = None) -> tuple[Tensor, Tensor]:
        """Return starts and fine solutions of seeds, float64."""
        key = (first, count, guidance)
        if key not in self._targets:
            y = self.plain.start(range(first, first + count), range(count)).double()
            with torch.inference_mode():
                target = solve_teacher(
                    self.predict(guidance), y, smax=self.plain.smax, steps=TEACHER_STEPS, batch_size=64
                )
            self._targets[key] = y, target
        return self._targets[key]

    def error(self, schedule: CalibratedSchedule, guidance: float | None = None) -> float:
        """Return the RMSE of a schedule on the test seeds."""
        y, target = self.data(TEST_SEED, TESTS, guidance)
        with torch.inference_mode():
            made = run_student(self.predict(guidance), y, schedule).states[-1]
        return float((made - target).square().mean().sqrt())

    def fitted(
        self,
        *,
        steps: int = STEPS,
        rank: int = RANK,
        seeds: int = SEEDS,
        guidance: float | None = None,
        student: type[FirstOrderStudent] = FirstOrderStudent,
        restore: bool = False,
        neighbour: CalibratedSchedule | None = None,
    ) -> dict[str, Any]:
        """Fit a schedule and return its row."""
        y, target = self.data(FIRST_SEED, seeds, guidance)
        began = time.perf_counter()
        model = student(self.predict(guidance), y, steps=steps, rank=rank, smax=self.plain.smax, restore_norm=restore)
        start = initial_schedule(
            steps, rank, smax=self.plain.smax, smin=SMIN, restore_norm=restore, neighbour=neighbour
        )
        options = FitOptions(iterations=ITERATIONS, patience=10, batch_size=64)
        with torch.inference_mode():
            result = fit(model, target, start, options=options)
        return {
            "steps": steps,
            "rank": rank,
            "seeds": seeds,
            "guidance_scale": guidance,
            "before": self.error(result.initial, guidance),
            "rmse": self.error(result.schedule, guidance),
            "fit_error": result.history[result.best].fit_error,
            "evaluations": result.evaluations,
            "seconds": round(time.perf_counter() - began, 1),
            "schedule": result.schedule.to_config(),
        }

    def row(self, key: str, make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """Make a row unless it is known."""
        if key not in self.rows and (not self._limit or key.split(":")[0] in self._limit):
            self.rows[key] = make()
            payload = {"first_seed": FIRST_SEED, "test_seed": TEST_SEED, "tests": TESTS, "teacher_steps": TEACHER_STEPS}
            save(self.path, payload | {"rows": self.rows})
            print(key, {k: v for k, v in self.rows[key].items() if k != "schedule"}, flush=True)
        return self.rows.get(key, {})

    def schedule(self, key: str) -> CalibratedSchedule:
        """Return the schedule of a known row."""
        return CalibratedSchedule.from_config(self.rows[key]["schedule"])


class GainsAlone(FirstOrderStudent):
    """The grid stays as it is: no derivatives by levels."""

    def chain(self, vector: Sequence[float]) -> Tensor:
        """See `Student.chain`."""
        matrix = super().chain(vector)
        matrix[:, : self.steps - 1] = 0
        return matrix


def greedy(study: Study, steps: int) -> dict[str, Any]:
    """Fit step by step: every step's gains by least squares to the fine solution at its end, on the initial grid."""
    y, _ = study.data(FIRST_SEED, SEEDS)
    start = initial_schedule(steps, RANK, smax=study.plain.smax, smin=SMIN)
    levels, gains, seen = start.levels, [], []
    position, exact, rows = y, y, range(len(y))
    with torch.inference_mode():
        for s, end in zip(levels[:-1], levels[1:], strict=True):
            exact = _between(study.plain, exact, s, end)
            n = study.plain(position, s, rows)
            columns = torch.stack([(before - n).flatten() for before in seen[::-1][:RANK]]) if seen else None
            row = [0.0] * RANK
            d = n
            if columns is not None:
                missed = (exact - position - (end - s) * n).flatten() / -(end - s)
                solved = torch.linalg.lstsq(columns @ columns.T, (columns @ missed)[:, None]).solution[:, 0]
                row = [*solved.tolist(), *[0.0] * (RANK - len(solved))]
                d = n - (solved @ columns).view_as(n)
            gains.append(tuple(row))
            position = position + (end - s) * d
            seen.append(n)
    schedule = CalibratedSchedule(levels, tuple(gains))
    return {"steps": steps, "rank": RANK, "seeds": SEEDS, "before": study.error(start), "rmse": study.error(schedule),
            "schedule": schedule.to_config()}  # fmt: skip


def _between(predict: Any, y: Tensor, start: float, end: float, count: int = 24) -> Tensor:
    """Solve from one level to another, finely, with Adams-Bashforth."""
    low = end if end > 0 else 0.01
    levels = [start * (low / start) ** (k / count) for k in range(count + 1)] + ([0.0] if end == 0 else [])
    from lmlangevin.calibration.start import adams_bashforth

    seen: list[Tensor] = []
    for k, (s, following) in enumerate(zip(levels[:-1], levels[1:], strict=True)):
        n = predict(y, s, range(len(y)))
        order = min(2, k)
        weights = adams_bashforth([levels[k - j] for j in range(order + 1)], following, flow=False)
        d = n - sum((g * (before - n) for g, before in zip(weights, seen[::-1], strict=False)), torch.zeros_like(n))
        y = y + (following - s) * d
        seen.append(n)
    return y


def main() -> None:
    """Make the rows that are missing."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("only", nargs="*", help="groups of rows: seeds, warm, parts, greedy, lengths, guidance, model")
    study = Study(set(parser.parse_args().only))
    torch.set_num_threads(1)
    ten = find_calibration("analytic-cifar10", 10)
    for seeds in (8, 16, 32, 64, 128):
        study.row(f"seeds:{seeds}", lambda n=seeds: study.fitted(seeds=n))
        if ten is not None:
            study.row(f"warm:{seeds}", lambda n=seeds, near=ten.schedule: study.fitted(seeds=n, neighbour=near))
    for rank in (0, 1, 2, 3):
        study.row(f"parts:rank {rank}", lambda r=rank: study.fitted(rank=r))
    study.row("parts:norm restored", lambda: study.fitted(restore=True))
    study.row("parts:gains alone", lambda: study.fitted(student=GainsAlone))
    study.row("greedy:8", lambda: greedy(study, STEPS))
    smax = study.plain.smax
    known = study.row("warm:128", dict)
    if known:
        eight = study.schedule("warm:128")
        for steps in (6, 7, 9, 10, 12):
            made = initial_schedule(steps, RANK, smax=smax, neighbour=eight)
            study.row(f"lengths:{steps}", lambda m=made, n=steps: {"steps": n, "rmse": study.error(m)})
    for scale in GUIDANCE:
        study.row(f"guidance:{scale:g}", lambda w=scale: study.fitted(guidance=w))
    for fitted in GUIDANCE:
        if f"guidance:{fitted:g}" in study.rows:
            made = study.schedule(f"guidance:{fitted:g}")
            for used in GUIDANCE:
                row = {"fitted_at": fitted, "used_at": used}
                study.row(f"guidance:{fitted:g} used at {used:g}",
                          lambda m=made, w=used, r=row: r | {"rmse": study.error(m, w)})  # fmt: skip
    if known:
        study.row("model:embedded", lambda: on_the_network(study))


def on_the_network(study: Study) -> dict[str, Any]:
    """Use the analytic model's schedule on the embedded network, and the other way round."""
    network = NetworkPredictor(embedded_network(), VP_CONFIG, (3, 32, 32), flow=False)
    y = network.start(range(TEST_SEED, TEST_SEED + 64), range(64)).double()
    own = find_calibration("embedded", STEPS)
    row: dict[str, Any] = {"steps": STEPS, "seeds": 64}
    with torch.inference_mode():
        target = solve_teacher(network, y, smax=network.smax, steps=60, batch_size=32)
        start = initial_schedule(STEPS, RANK, smax=network.smax, smin=SMIN)
        for name, schedule in (("before", start), ("analytic", study.schedule("warm:128")),
                               ("own", own.schedule if own else None)):  # fmt: skip
            if schedule is not None:
                made = run_student(network, y, schedule).states[-1]
                row[name] = float((made - target).square().mean().sqrt())
    if own is not None:
        row["back"] = study.error(own.schedule)
    return row


if __name__ == "__main__":
    main()

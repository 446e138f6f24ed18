"""The few-step samplers that a fit moves the coefficients of."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from lmlangevin.calibration.firstorder import (
    Coefficients,
    Counted,
    Predict,
    Trajectory,
    jacobian,
    jacobian_evaluations,
    run_student,
)
from lmlangevin.core.errors import LMLError
from lmlangevin.core.scheduled import CalibratedSchedule


class Student(ABC):
    """A sampler on given seeds, as a function of the numbers of a schedule.

    Args:
        predict: n of y at s.
        start: y at the first level, (seeds, *event), float32 or float64; everything is computed in that dtype.
        steps: Network evaluations of a sample.
        rank: Gains a step.

    Attributes:
        size: How many numbers are free.
    """

    size: int

    def __init__(self, predict: Predict, start: Tensor, steps: int, rank: int) -> None:
        if start.ndim < 2 or start.dtype not in (torch.float32, torch.float64):
            raise LMLError(
                f"start is a {start.dtype} tensor of shape {tuple(start.shape)}; give (seeds, *event) of float32 or "
                "float64."
            )
        if isinstance(steps, bool) or not isinstance(steps, int) or steps < 2:
            raise LMLError(f"steps is {steps!r}; give 2 or more: one step has nothing to fit.")
        self.start, self.steps, self.rank = start, steps, rank
        self._predict, self._first = predict, None
        self.counted: Callable[[Tensor, float, Sequence[int]], Tensor] = predict

    def begin(
        self,
        *,
        limit: int,
        spent: int = 0,
        batch_size: int | None = None,
        progress: Callable[[int, int], None] | None = None,
    ) -> Counted:
        """Count evaluations from here on; see `Counted`. Returns the counter."""
        counter = Counted(self._predict, batch_size=batch_size, limit=limit, progress=progress, spent=spent)
        self.counted, self._first = counter, None
        return counter

    @property
    def run_cost(self) -> int:
        """Evaluations of one more run of a sample; the first prediction, which no coefficient moves, is kept."""
        return self.steps - 1

    @property
    @abstractmethod
    def jacobian_cost(self) -> int:
        """Evaluations of a sample's derivatives."""

    @abstractmethod
    def pack(self, schedule: CalibratedSchedule) -> list[float]:
        """Return the free numbers of a schedule."""

    @abstractmethod
    def unpack(self, vector: Sequence[float]) -> CalibratedSchedule:
        """Return the schedule of free numbers; LMLError where there is none."""

    @abstractmethod
    def run(self, schedule: CalibratedSchedule, which: slice) -> Any:
        """Sample some of the seeds; what comes back is for `final` and `slopes`."""

    @abstractmethod
    def final(self, run: Any) -> Tensor:
        """Return the final states of a run, (batch, *event)."""

    @abstractmethod
    def slopes(self, run: Any, part: slice, schedule: CalibratedSchedule, difference: float) -> Tensor:
        """Return d(final state)/d(free numbers) of a part of a run, (size, batch, *event)."""

    def chain(self, vector: Sequence[float]) -> Tensor:
        """Return d(numbers that `slopes` differentiates by)/d(free numbers), (size, size) float64."""
        del vector
        return torch.eye(self.size, dtype=torch.float64)

    def first(self, level: float) -> Tensor:
        """Return the predictions at the start, asked for once."""
        if self._first is None:
            self._first = self.counted(self.start, level, range(len(self.start)))
        return self._first


class FirstOrderStudent(Student):
    """The sampler of a `CalibratedSchedule` with a grid of its own: grid and gains are free.

    Args:
        predict: n of y at s: the noise at x = y / sqrt(1 + s^2), or a flow's velocity at x = y.
        start: y at the first level.
        steps: Steps, 2 or more.
        rank: Gains a step.
        smax: The first level.
        flow: Whether s is a flow's, in (0, 1].
        restore_norm: Whether every direction gets the norm of the prediction.
    """

    def __init__(
        self,
        predict: Predict,
        start: Tensor,
        *,
        steps: int,
        rank: int,
        smax: float,
        flow: bool = False,
        restore_norm: bool = False,
    ) -> None:
        super().__init__(predict, start, steps, rank)
        self.smax, self.flow, self.restore_norm = smax, flow, restore_norm
        self._coefficients = Coefficients(steps, rank, smax=smax, flow=flow, restore_norm=restore_norm)
        self.size = self._coefficients.size

    @property
    def jacobian_cost(self) -> int:
        """See `jacobian_evaluations`."""
        return jacobian_evaluations(self.steps, self.rank)

    def pack(self, schedule: CalibratedSchedule) -> list[float]:
        """See `Coefficients.pack`."""
        if abs(schedule.levels[0] / self.smax - 1) > 1e-6:
            raise LMLError(
                f"smax is {self.smax!r} and the schedule starts from {schedule.levels[0]!r}; give the same level."
            )
        return self._coefficients.pack(schedule)

    def unpack(self, vector: Sequence[float]) -> CalibratedSchedule:
        """See `Coefficients.unpack`."""
        return self._coefficients.unpack(vector)

    def chain(self, vector: Sequence[float]) -> Tensor:
        """See `Coefficients.chain`."""
        return self._coefficients.chain(vector)

    def run(self, schedule: CalibratedSchedule, which: slice) -> Trajectory:
        """See `run_student`."""
        rows = range(len(self.start))[which]
        return run_student(self.counted, self.start[which], schedule, self.first(self.smax)[which], rows)

    def final(self, run: Trajectory) -> Tensor:
        """The last state."""
        return run.states[-1]

    def slopes(self, run: Trajectory, part: slice, schedule: CalibratedSchedule, difference: float) -> Tensor:
        """See `jacobian`."""
        return jacobian(self.counted, run.part(part), schedule, flow=self.flow, difference=difference)


class SolverRun(NamedTuple):
    """A run of a solver: its final states and the predictions of all its steps, (batch, *event) each, and its rows."""

    states: Tensor
    predictions: list[Tensor]
    rows: Sequence[int]


class SolverStudent(Student):
    """Any diffusers scheduler on its own time grid: the gains of its steps are free.

    Args:
        predict: n of y at s.
        start: y at the first level.
        build: Returns the LML scheduler of a schedule, planned and ready for the first step.
        rank: Gains a step.
        restore_norm: Whether every direction gets the norm of the prediction.
    """

    def __init__(
        self,
        predict: Predict,
        start: Tensor,
        build: Callable[[CalibratedSchedule | None], Any],
        *,
        rank: int,
        restore_norm: bool = False,
    ) -> None:
        from lmlangevin.schedulers.levels import run_levels

        plain = build(None)
        self._build, self.restore_norm = build, restore_norm
        self._levels = run_levels(plain)
        super().__init__(predict, start, len(plain.timesteps), rank)
        self._places = [(k, j) for k in range(self.steps) for j in range(min(rank, k))]
        self.size = len(self._places)

    @property
    def jacobian_cost(self) -> int:
        """Every gain runs the steps behind it once more."""
        return sum(self.steps - 1 - k for k, _ in self._places)

    def initial(self) -> CalibratedSchedule:
        """Return the plain solver: all gains 0."""
        return self.unpack([0.0] * self.size)

    def pack(self, schedule: CalibratedSchedule) -> list[float]:
        """Return the gains that have an earlier prediction."""
        return [schedule.gains[k][j] for k, j in self._places]

    def unpack(self, vector: Sequence[float]) -> CalibratedSchedule:
        """The inverse of `pack`."""
        gains = [[0.0] * self.rank for _ in range(self.steps)]
        for (k, j), gain in zip(self._places, vector, strict=True):
            gains[k][j] = gain
        return CalibratedSchedule(None, tuple(map(tuple, gains)), self.restore_norm)

    def run(self, schedule: CalibratedSchedule, which: slice) -> SolverRun:
        """Run the solver."""
        first = self.first(self._levels[0].value)[which]
        return self._solve(schedule, self.start[which], range(len(self.start))[which], [first])

    def final(self, run: SolverRun) -> Tensor:
        """The last state."""
        return run.states

    def slopes(self, run: SolverRun, part: slice, schedule: CalibratedSchedule, difference: float) -> Tensor:
        """Forward differences; the predictions before the changed step are those of the run."""
        base, rows = run.states[part], run.rows[part]
        start = self.start[rows.start : rows.stop] if isinstance(rows, range) else self.start[list(rows)]
        vector, columns = self.pack(schedule), []
        for i, (k, _) in enumerate(self._places):
            changed = [value + difference * (i == j) for j, value in enumerate(vector)]
            known = [n[part] for n in run.predictions[: k + 1]]
            columns.append((self._solve(self.unpack(changed), start, rows, known).states - base) / difference)
        return torch.stack(columns)

    def _solve(
        self, schedule: CalibratedSchedule, y: Tensor, rows: Sequence[int], known: Sequence[Tensor]
    ) -> SolverRun:
        """Run the solver; its first predictions are `known`."""
        from lmlangevin.schedulers.noise import prediction_from_noise

        scheduler, predictions = self._build(schedule), []
        x = y * self._levels[0].scale
        for k, t in enumerate(scheduler.timesteps):
            level = self._levels[k]
            n = known[k] if k < len(known) else self.counted(x / level.scale, level.value, rows)
            predictions.append(n)
            x = scheduler.step(prediction_from_noise(scheduler, n, t, x), t, x, return_dict=False)[0]
        return SolverRun(x, predictions, rows)

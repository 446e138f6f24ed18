"""The few-step sampler as a function of its coefficients: run, differentiated and counted."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from lmlangevin.calibration.start import level, log_level
from lmlangevin.core.errors import LMLError
from lmlangevin.core.scheduled import CalibratedSchedule, combine

Predict = Callable[[Tensor, float, Sequence[int]], Tensor]
"""n of y at a level s: (batch, *event), float, rows -> (batch, *event).

`rows` says which of the calibration's seeds every sample belongs to: its prompt, in a text-to-image model.
"""


class Counted:
    """A prediction that counts: one sample through the network is one evaluation.

    Args:
        predict: n of y at s.
        batch_size: The most samples of one call; None for no limit.
        limit: The most evaluations in all; one more is a mistake of the plan and is refused.
        progress: Called as progress(evaluations done, limit) after every call.
        spent: Evaluations that were counted before.
    """

    def __init__(
        self,
        predict: Predict,
        *,
        batch_size: int | None = None,
        limit: int,
        progress: Callable[[int, int], None] | None = None,
        spent: int = 0,
    ) -> None:
        self._predict, self._batch_size, self._progress = predict, batch_size, progress
        self.limit, self.evaluations = limit, spent

    def __call__(self, y: Tensor, s: float, rows: Sequence[int]) -> Tensor:
        """Return n of y at s, in y's dtype.

        Raises:
            LMLError: If the prediction has another shape, or the limit is passed.
        """
        parts = []
        size = self._batch_size or max(len(y), 1)
        for first in range(0, max(len(y), 1), size):
            part = y[first : first + size]
            if self.evaluations + len(part) > self.limit:
                raise LMLError(f"limit is {self.limit} evaluations, and more are asked for; plan for more.")
            n = self._predict(part, s, rows[first : first + size])
            if n.shape != part.shape:
                raise LMLError(f"predict returned the shape {tuple(n.shape)}; give that of y, {tuple(part.shape)}.")
            # Cloned: a compiled network may write its next output where this one is.
            parts.append(n.detach().to(y.dtype, copy=True))
            self.evaluations += len(part)
            if self._progress is not None:
                self._progress(self.evaluations, self.limit)
        return torch.cat(parts) if len(parts) != 1 else parts[0]


class Coefficients:
    """The free numbers of a schedule as one vector: the logarithms of the n-1 spacings of u(s), then the gains.

    Spacings are exponentials, so no step of a fit can break the order of the levels. The first level and the last, 0,
    are fixed; gains that have no earlier prediction are none of the numbers.

    Args:
        steps: Number of steps.
        rank: Gains a step.
        smax: The first level.
        flow: Whether s is a flow's.
        restore_norm: As in the schedule.
    """

    def __init__(self, steps: int, rank: int, *, smax: float, flow: bool, restore_norm: bool) -> None:
        self.steps, self.rank, self.smax, self.flow, self.restore_norm = steps, rank, smax, flow, restore_norm
        self.places = [(k, j) for k in range(steps) for j in range(min(rank, k))]
        self.size = steps - 1 + len(self.places)

    def pack(self, schedule: CalibratedSchedule) -> list[float]:
        """Return the vector of a schedule with as many steps and gains."""
        us = [log_level(s, flow=self.flow) for s in schedule.levels[:-1]]
        spacings = [math.log(a - b) for a, b in zip(us[:-1], us[1:], strict=True)]
        return spacings + [schedule.gains[k][j] for k, j in self.places]

    def unpack(self, vector: Sequence[float]) -> CalibratedSchedule:
        """Return the schedule of a vector.

        Raises:
            LMLError: If levels fall together or out of range, which a step that is too long can do.
        """
        u, sigmas = log_level(self.smax, flow=self.flow), [self.smax]
        for spacing in vector[: self.steps - 1]:
            # An exponent of 50 is out of range for every level; math.exp would overflow further on.
            u -= math.exp(min(spacing, 50.0))
            sigmas.append(level(max(u, -700.0), flow=self.flow))
        gains = [[0.0] * self.rank for _ in range(self.steps)]
        for (k, j), gain in zip(self.places, vector[self.steps - 1 :], strict=True):
            gains[k][j] = gain
        return CalibratedSchedule((*sigmas, 0.0), tuple(map(tuple, gains)), self.restore_norm)

    def chain(self, vector: Sequence[float]) -> Tensor:
        """Return d(u_1..u_{n-1}, gains)/d(vector), (size, size) float64: u_k falls by every spacing before it."""
        matrix = torch.eye(self.size, dtype=torch.float64)
        for i in range(self.steps - 1):
            matrix[i : self.steps - 1, i] = -math.exp(vector[i])
        return matrix


class Trajectory(NamedTuple):
    """A run: states y_0..y_n, the predictions n_0..n_{n-1} at all but the last, each (batch, *event), and its rows."""

    states: list[Tensor]
    predictions: list[Tensor]
    rows: Sequence[int]

    def part(self, which: slice) -> Trajectory:
        """Return the run of some of the samples."""
        return Trajectory([y[which] for y in self.states], [n[which] for n in self.predictions], self.rows[which])


def run_student(
    predict: Predict,
    start: Tensor,
    schedule: CalibratedSchedule,
    first: Tensor | None = None,
    rows: Sequence[int] | None = None,
) -> Trajectory:
    """Sample with a schedule.

    Args:
        predict: n of y at s.
        start: y_0, (batch, *event).
        schedule: The schedule.
        first: The prediction at y_0 if it is known: a fit moves neither y_0 nor s_0, and asks for it once.
        rows: Which seeds these are; by default the first ones.

    Returns:
        The run; its last state is at s = 0. steps evaluations a sample, one less with `first`.
    """
    states, predictions = [start], []
    rows = range(len(start)) if rows is None else rows
    for k, (s, end) in enumerate(zip(schedule.levels[:-1], schedule.levels[1:], strict=True)):
        n = first if first is not None and k == 0 else predict(states[k], s, rows)
        states.append(states[k] + (end - s) * _direction(n, predictions, schedule, k))
        predictions.append(n)
    return Trajectory(states, predictions, rows)


def jacobian(
    predict: Predict, base: Trajectory, schedule: CalibratedSchedule, *, flow: bool, difference: float = 1e-3
) -> Tensor:
    """Differentiate the final state by the levels' u_1..u_{n-1} and the gains, by forward differences.

    What is changed at step k leaves everything before it as it was, so only the steps after k run again; the last
    step's gains cost nothing. All coefficients of one step run as one batch.

    Args:
        predict: n of y at s.
        base: The run at the schedule.
        schedule: Where to differentiate.
        flow: Whether s is a flow's.
        difference: The change of u or of a gain.

    Returns:
        (size, batch, *event) in the order of `Coefficients`; `jacobian_evaluations` evaluations a sample.
    """
    levels: dict[int, Tensor] = {}
    gains: dict[tuple[int, int], Tensor] = {}
    for k in range(schedule.steps):
        changed = []
        moved = None
        if k < schedule.steps - 1:
            u = log_level(schedule.levels[k + 1], flow=flow)
            moved = level(u + difference, flow=flow)
            d = _direction(base.predictions[k], base.predictions[:k], schedule, k)
            changed.append(base.states[k] + (moved - schedule.levels[k]) * d)
        places = range(min(schedule.rank, k))
        for j in places:
            row = list(schedule.gains[k])
            row[j] += difference
            d = _direction(base.predictions[k], base.predictions[:k], schedule, k, row)
            changed.append(base.states[k] + (schedule.levels[k + 1] - schedule.levels[k]) * d)
        if not changed:
            continue
        finals = _tail(predict, torch.stack(changed), base, schedule, k, moved)
        slopes = (finals - base.states[-1]) / difference
        if moved is not None:
            levels[k + 1] = slopes[0]
        for j, slope in zip(places, slopes[0 if moved is None else 1 :], strict=True):
            gains[k, j] = slope
    return torch.stack([*levels.values(), *gains.values()])


def jacobian_evaluations(steps: int, rank: int) -> int:
    """Return the evaluations a sample that `jacobian` takes."""
    return sum((1 + min(rank, k)) * (steps - 1 - k) for k in range(steps - 1))


def _tail(
    predict: Predict,
    changed: Tensor,
    base: Trajectory,
    schedule: CalibratedSchedule,
    k: int,
    moved: float | None,
) -> Tensor:
    """Run on from changed states y_{k+1}, (members, batch, *event), to their final states.

    The first member has the level `moved` in place of s_{k+1}, if there is one.
    """
    members, batch = changed.shape[:2]
    y = changed.flatten(0, 1)
    rows = [*base.rows] * members
    earlier = [n.repeat(members, *[1] * (n.ndim - 1)) for n in base.predictions[max(0, k + 1 - schedule.rank) : k + 1]]
    for i in range(k + 1, schedule.steps):
        s, end = schedule.levels[i], schedule.levels[i + 1]
        if i == k + 1 and moved is not None:
            n = predict(y[:batch], moved, rows[:batch])
            n = torch.cat([n, predict(y[batch:], s, rows[batch:])]) if members > 1 else n
            length = torch.full((members * batch, *[1] * (y.ndim - 1)), end - s, dtype=y.dtype, device=y.device)
            length[:batch] = end - moved
        else:
            n, length = predict(y, s, rows), end - s
        y = y + length * _direction(n, earlier, schedule, i)
        earlier = [*earlier, n][-max(schedule.rank, 1) :]
    return y.unflatten(0, (members, batch))


def _direction(
    n: Tensor, earlier: Sequence[Tensor], schedule: CalibratedSchedule, k: int, row: Sequence[float] | None = None
) -> Tensor:
    """Return d_k; `earlier` is oldest first, as a run collects it."""
    gains = schedule.gains[k] if row is None else row
    if not gains:
        return n
    return combine(n, earlier[::-1][: len(gains)], gains, restore_norm=schedule.restore_norm)[0]

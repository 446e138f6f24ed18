"""Linear schemes: one representation of every deterministic solver.

In y = x / alpha and s = sigma / alpha (a flow: y = x, s = sigma) every sampling ODE is dy/ds = n, and a solver without
noise is linear in where it starts and in the predictions:

    y_k = a_k y_0 + sum_{j<k} B_kj n_j,        n_j the prediction at (y_j, s_j),

with a_k = 1 unless the solver misplaces its levels (diffusers' DDIM on grids that are not even). Euler,
Adams-Bashforth, DEIS, DPM-Solver, UniPC, PNDM, Runge-Kutta and a calibrated schedule differ in B and s alone.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lmlangevin.core.errors import LMLError
from lmlangevin.core.scheduled import CalibratedSchedule, check_keys, read_numbers


@dataclass(frozen=True)
class LinearScheme:
    """A deterministic solver of dy/ds = n with n network evaluations.

    Args:
        levels: s_0, ..., s_n: where each prediction is made, and last where the result lies; n + 1 numbers of 0 or
            more. They need not fall: solvers with inner stages come back to a level.
        matrix: Row k - 1 has the k coefficients B_k0, ..., B_k,k-1 of y_k.
        start: a_1, ..., a_n, the coefficients of y_0; None is 1 for all.

    Raises:
        LMLError: For numbers that are not finite, a level below 0, or rows of other lengths.
    """

    levels: tuple[float, ...]
    matrix: tuple[tuple[float, ...], ...]
    start: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        levels = read_numbers("levels", self.levels)
        if len(levels) < 2 or min(levels) < 0:
            raise LMLError(f"levels is {self.levels!r}; give two numbers or more, of 0 or more.")
        if isinstance(self.matrix, str | bytes) or not isinstance(self.matrix, Sequence):
            raise LMLError(f"matrix is {self.matrix!r}; give one row of numbers an evaluation.")
        rows = tuple(read_numbers(f"matrix[{k}]", row) for k, row in enumerate(self.matrix))
        if [len(row) for row in rows] != list(range(1, len(levels))):
            raise LMLError(
                f"matrix has rows of {[len(row) for row in rows]} numbers for {len(levels)} levels; give rows of 1, 2, "
                f"..., {len(levels) - 1}."
            )
        if self.start is not None:
            start = read_numbers("start", self.start)
            if len(start) != len(rows):
                raise LMLError(f"start has {len(start)} numbers; give {len(rows)}, or leave it out.")
            object.__setattr__(self, "start", start if any(a != 1 for a in start) else None)
        object.__setattr__(self, "levels", levels)
        object.__setattr__(self, "matrix", rows)

    @property
    def evaluations(self) -> int:
        """Number of network evaluations, n."""
        return len(self.matrix)

    @property
    def increments(self) -> tuple[tuple[float, ...], ...]:
        """C_kj = B_kj - B_{k-1,j}, in the form of `matrix`: y_k = y_{k-1} + sum_j C_kj n_j."""
        before: tuple[float, ...] = ()
        found = []
        for row in self.matrix:
            found.append(tuple(b - a for a, b in itertools.zip_longest(before, row, fillvalue=0.0)))
            before = row
        return tuple(found)

    @classmethod
    def from_increments(cls, levels: Sequence[float], increments: Sequence[Sequence[float]]) -> LinearScheme:
        """Make a scheme from `levels` and `increments`."""
        rows: list[tuple[float, ...]] = []
        for row in increments:
            before = rows[-1] if rows else ()
            rows.append(tuple(a + b for a, b in itertools.zip_longest(before, row, fillvalue=0.0)))
        return cls(tuple(levels), tuple(rows))

    @classmethod
    def from_schedule(cls, schedule: CalibratedSchedule) -> LinearScheme:
        """Return the scheme of a calibrated schedule with a grid of its own and free norms.

        Raises:
            LMLError: If it has no grid, or restores the norm of every d, which is not linear.
        """
        if schedule.restore_norm:
            raise LMLError("restore_norm is True: a restored norm is not linear; give a schedule with free norms.")
        levels = schedule.levels
        rows = []
        for k, gains in enumerate(schedule.gains):
            step = levels[k + 1] - levels[k]
            row = [0.0] * k + [step * (1 + sum(gains[:k]))]
            for j, gain in enumerate(gains[:k], start=1):
                row[k - j] -= step * gain
            rows.append(row)
        return cls.from_increments(levels, rows)

    def moment_defects(self, order: int) -> tuple[float, ...]:
        """Return how far each y_k is from exact for n = s^order, relative to the distance from s_0.

        Order 0 is consistency. A scheme whose defects of order 0 to p - 1 vanish is exact for predictions that are
        polynomials of degree p - 1 in s. A level that is s_0 itself has defect 0.
        """
        found = []
        for k, row in enumerate(self.matrix, start=1):
            exact = (self.levels[k] ** (order + 1) - self.levels[0] ** (order + 1)) / (order + 1)
            made = sum(b * s**order for b, s in zip(row, self.levels, strict=False))
            found.append(abs(made - exact) / abs(exact) if exact else 0.0)
        return tuple(found)

    def to_config(self) -> dict[str, Any]:
        """Return plain JSON values, from which `from_config` makes an equal scheme."""
        start = None if self.start is None else list(self.start)
        return {"levels": list(self.levels), "matrix": [list(row) for row in self.matrix], "start": start}

    @classmethod
    def from_config(cls, config: Any) -> LinearScheme:
        """Make a scheme from what `to_config` returned.

        Raises:
            LMLError: If a key is missing or unknown, or a value does not fit.
        """
        if not isinstance(config, Mapping):
            raise LMLError(f"config is {config!r}; give a mapping with levels, matrix, start.")
        check_keys("config", config, ("levels", "matrix", "start"))
        return cls(config["levels"], config["matrix"], config["start"])


def run_scheme(predict: Callable[[Tensor, float], Tensor], y: Tensor, scheme: LinearScheme) -> Tensor:
    """Solve dy/ds = n by a scheme.

    Args:
        predict: Called as `predict(y, s)` with y of the given shape and dtype and s a number; returns n of y's shape.
        y: y_0 at `scheme.levels[0]`, (batch, *event), any float dtype. For a variance-preserving model it is standard
            normal noise times sqrt(1 + s_0^2), for a flow that begins at s = 1 the noise itself.
        scheme: The scheme.

    Returns:
        y at `scheme.levels[-1]`, of y's dtype; sums are taken in float32 or wider. At s = 0 it is the image.

    Raises:
        LMLError: If `y` is not a floating-point tensor.
    """
    if not isinstance(y, Tensor) or not y.is_floating_point():
        raise LMLError(f"y is {getattr(y, 'dtype', type(y).__name__)}; give a floating-point tensor.")
    wide = torch.promote_types(y.dtype, torch.float32)
    state = y.to(wide)
    predictions: list[Tensor] = []
    increments = scheme.increments
    own = scheme.start or (1.0,) * scheme.evaluations
    # The last row that needs each prediction, after which it is let go.
    last = [max((k for k, row in enumerate(increments) if len(row) > j and row[j]), default=j)
            for j in range(scheme.evaluations)]  # fmt: skip
    for k, (row, s) in enumerate(zip(increments, scheme.levels, strict=False)):
        predictions.append(predict(state.to(y.dtype), s).to(wide))
        if (drift := own[k] - (own[k - 1] if k else 1.0)) != 0:
            state = torch.add(state, y.to(wide), alpha=drift)
        for j, weight in enumerate(row):
            if weight:
                state = torch.add(state, predictions[j], alpha=weight)
            if last[j] == k:
                predictions[j] = predictions[j].new_empty(0)
    return state.to(y.dtype)

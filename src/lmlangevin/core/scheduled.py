"""Scheduled control: gains that were fitted for every step of a run before it, by `lmlangevin.calibration`.

The direction is LML's with one gain a column, d = n - sum_j g_j (n_{i-j} - n). Its norm can be restored, as the paper
does, or left as it comes: a fit that may change the length of d reaches a lower error, because n shortens along the
trajectory and a step is meant to follow its mean over the interval, not its value at the start.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lmlangevin.core.config import MAX_RANK
from lmlangevin.core.correction import LMLInfo, LMLState, check_prediction, continues, untouched
from lmlangevin.core.errors import LMLError
from lmlangevin.core.passes import column, cut_to_range, scalar_dtype, scaled, sum_of, takes_gradients, turn

_KEYS = ("sigmas", "gains", "restore_norm")


def _levels(values: Any) -> tuple[float, ...]:
    """Return levels that fall to 0, or say what is wrong with `values`."""
    sigmas = read_numbers("sigmas", values)
    if len(sigmas) < 2:
        raise LMLError(f"sigmas has {len(sigmas)} values; give one a step and the final 0, two or more.")
    if sigmas[-1] != 0:
        raise LMLError(f"sigmas ends at {sigmas[-1]!r}; give 0 as its last value.")
    for i, (high, low) in enumerate(zip(sigmas[:-1], sigmas[1:], strict=True)):
        if not high > low:
            raise LMLError(f"sigmas[{i + 1}] is {low!r} after {high!r}; give levels that fall at every step.")
    return sigmas


def read_numbers(name: str, values: Any) -> tuple[float, ...]:
    """Return finite floats, or say which of `values` is none."""
    if isinstance(values, str | bytes) or not isinstance(values, Sequence):
        raise LMLError(f"{name} is {values!r}; give a sequence of numbers.")
    for i, value in enumerate(values):
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            raise LMLError(f"{name}[{i}] is {value!r}; give a finite number.")
    return tuple(float(value) for value in values)


@dataclass(frozen=True)
class CalibratedSchedule:
    """The time grid and the gains of a few-step sampler, fitted together.

    In y = x / alpha and s = sigma / alpha (a flow: y = x, s = sigma) the sampler is, with predictions n,

        y_{k+1} = y_k + (s_{k+1} - s_k) d_k,     d_k = n_k - sum_j g_{k,j} (n_{k-j} - n_k),

    which `combine` and a first-order scheduler (Euler) execute.

    Args:
        sigmas: s_0 > s_1 > ... > s_steps = 0: the level of every step, and the final 0. None leaves the grid to the
            scheduler; the gains are then applied before whatever solver it is.
        gains: One row a step, each with the same number r of gains, newest first; 0 where no earlier prediction
            exists. r is 0 for the plain sampler on a fitted grid.
        restore_norm: Whether every d_k gets the norm of n_k.

    Raises:
        LMLError: For a value that fits none of this; the message names the argument, the value and the remedy.
    """

    sigmas: tuple[float, ...] | None
    gains: tuple[tuple[float, ...], ...]
    restore_norm: bool = False

    def __post_init__(self) -> None:
        sigmas = None if self.sigmas is None else _levels(self.sigmas)
        if isinstance(self.gains, str | bytes) or not isinstance(self.gains, Sequence) or not self.gains:
            raise LMLError(f"gains is {self.gains!r}; give one row of numbers a step.")
        rows = tuple(read_numbers(f"gains[{i}]", row) for i, row in enumerate(self.gains))
        if sigmas is not None and len(rows) != len(sigmas) - 1:
            raise LMLError(f"gains has {len(rows)} rows for {len(sigmas) - 1} steps; give one row a step.")
        rank = len(rows[0])
        if rank > MAX_RANK:
            raise LMLError(f"gains has rows of {rank} numbers; give {MAX_RANK} or fewer.")
        for i, row in enumerate(rows):
            if len(row) != rank:
                raise LMLError(f"gains[{i}] has {len(row)} numbers and gains[0] has {rank}; give as many in every row.")
            if any(row[i:]):
                raise LMLError(f"gains[{i}] is {list(row)}, but step {i} has {i} earlier predictions; give 0 beyond.")
        if not isinstance(self.restore_norm, bool):
            raise LMLError(f"restore_norm is {self.restore_norm!r}; give true or false.")
        object.__setattr__(self, "sigmas", sigmas)
        object.__setattr__(self, "gains", rows)

    @property
    def levels(self) -> tuple[float, ...]:
        """The sigmas of a schedule that has a grid of its own.

        Raises:
            LMLError: If it has none.
        """
        if self.sigmas is None:
            raise LMLError("sigmas is None: this schedule leaves the grid to its scheduler; give one with sigmas.")
        return self.sigmas

    @property
    def steps(self) -> int:
        """Number of steps, which is that of network evaluations."""
        return len(self.gains)

    @property
    def rank(self) -> int:
        """Number r of gains in a row."""
        return len(self.gains[0])

    def to_config(self) -> dict[str, Any]:
        """Return plain JSON values, from which `from_config` makes an equal schedule."""
        return {
            "sigmas": None if self.sigmas is None else list(self.sigmas),
            "gains": [list(row) for row in self.gains],
            "restore_norm": self.restore_norm,
        }

    @classmethod
    def from_config(cls, config: Any) -> CalibratedSchedule:
        """Make a schedule from what `to_config` returned.

        Raises:
            LMLError: If a key is missing or unknown, or a value does not fit.
        """
        if not isinstance(config, Mapping):
            raise LMLError(f"config is {config!r}; give a mapping with {', '.join(_KEYS)}.")
        check_keys("config", config, _KEYS)
        return cls(config["sigmas"], config["gains"], config["restore_norm"])


def combine(
    prediction: Tensor, previous: Sequence[Tensor], gains: Sequence[float], *, restore_norm: bool
) -> tuple[Tensor, LMLInfo]:
    """Turn a prediction away from earlier ones by given gains.

    Args:
        prediction: n, (batch, *event), floating point; half types are computed in float32.
        previous: Earlier uncorrected predictions, newest first, each of n's shape.
        gains: One number for each of `previous`; further ones are ignored, as is a gain of 0.
        restore_norm: Whether d gets the norm of n, for every sample by itself.

    Returns:
        d in n's shape and dtype (`prediction` itself where every gain is 0 or nothing came before), and what was done.
    """
    columns = [float(gain) for gain, _ in zip(gains, previous, strict=False)]
    if not any(columns):
        return prediction, untouched(prediction, max(1, len(columns)))
    wide = scalar_dtype(prediction.device)
    row = torch.stack([torch.full((prediction.shape[0],), g, dtype=wide, device=prediction.device) for g in columns], 1)
    work = torch.promote_types(prediction.dtype, torch.float32)
    n = prediction.to(work)
    change = sum_of(gain * (n - p.to(work)) for gain, p in zip(columns, previous, strict=False) if gain)
    angle, stretch = turn(n.detach(), change.detach())
    usable = torch.isfinite(stretch + stretch.reciprocal())
    d = n + change
    if restore_norm:
        if takes_gradients((d,)):
            # What is not usable is cut before it is divided by, or its gradient would be NaN, and not 0.
            chosen = column(usable, n)
            stretch = turn(torch.where(chosen, n, 1), torch.where(chosen, change, 0))[1]
        d = d * scaled(stretch.reciprocal(), n)
    d = torch.where(column(usable, n), cut_to_range(d, prediction.dtype), n).to(prediction.dtype)
    angle = torch.where(usable, angle, 0)
    return d, LMLInfo(row.masked_fill(~usable[:, None], 0), angle, ~usable)


def correct_scheduled(
    prediction: Tensor, state: LMLState, schedule: CalibratedSchedule, index: int
) -> tuple[Tensor, LMLState, LMLInfo]:
    """Correct the prediction of one step by the gains of a calibrated schedule; the counterpart of `correct`.

    Args:
        prediction: The network's prediction, (batch, *event), any float dtype.
        state: What the step before returned, `LMLState()` on the first. A prediction of another shape, dtype or
            device starts a new run.
        schedule: The schedule.
        index: Which of its steps this is, from 0.

    Returns:
        The corrected prediction, the next state and what was done. Nothing is read back from the device. Gradients
        pass to this prediction, and not to earlier ones.

    Raises:
        LMLError: If the prediction is not a floating-point tensor of shape (batch, *event), or `index` is no step of
            the schedule.
    """
    check_prediction(prediction)
    if isinstance(index, bool) or not isinstance(index, int) or not 0 <= index < schedule.steps:
        raise LMLError(
            f"index={index!r} is no step of this schedule; give a whole number from 0 to {schedule.steps - 1}."
        )
    if state.previous and not continues(prediction, state.previous[0]):
        state = LMLState()
    row = schedule.gains[index]
    if state.previous:
        corrected, info = combine(prediction, state.previous, row, restore_norm=schedule.restore_norm)
    else:
        corrected, info = prediction, untouched(prediction, 1)
    info = LMLInfo(*(value.detach() for value in info))
    kept = schedule.rank
    previous = (prediction.detach().clone(), *state.previous)[:kept] if kept else ()
    return corrected, LMLState(previous, (info,), state.step + 1), info


def check_keys(name: str, given: Mapping[str, Any], known: Sequence[str]) -> None:
    """Refuse a mapping that has not exactly the known keys; `name` is what the message calls it."""
    missing = [key for key in known if key not in given]
    unknown = [str(key) for key in given if key not in known]
    if missing or unknown:
        wrong = [f"lacks {', '.join(missing)}"] * bool(missing) + [f"has {', '.join(unknown)}"] * bool(unknown)
        raise LMLError(f"{name} {' and '.join(wrong)}; give {', '.join(known)}.")

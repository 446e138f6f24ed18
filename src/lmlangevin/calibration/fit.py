"""The fit of a schedule to a teacher's final states, by Levenberg-Marquardt.

The error that is made smaller is

    mean over the fitted seeds and elements of (y_n - teacher)^2  +  prior^2 |c - c_initial|^2

over the free numbers c of a `Student`. Every iteration differentiates the final states once and solves the damped
normal equations, with Marquardt's scaling of the damping, until a step lowers the error. The direction
(`normal_equations`, `damped_step`) knows nothing of how the damping is chosen (`fit`). Derivatives are differences of
runs, so any network serves, compiled or offloaded, and they cost no memory. Broyden's update in place of every other
Jacobian, and the geodesic acceleration of steps, were tried: neither reached a lower error for as many evaluations.

Part of the seeds is kept out of the error. What is returned is the iterate with the least error on those, and a fit
that has not improved on them for a while stops: a schedule can learn its seeds by heart.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lmlangevin.calibration.checkpoint import FitState, Iteration, fit_key, read_checkpoint, write_checkpoint
from lmlangevin.calibration.students import Student
from lmlangevin.core.errors import LMLError
from lmlangevin.core.scheduled import CalibratedSchedule

LARGEST_CHANGE = 1.0
"""The most that one step may change the logarithm of a spacing or a gain: far from linear beyond."""


@dataclass(frozen=True)
class FitOptions:
    """How a fit is made.

    Args:
        iterations: The most iterations, 1 or more.
        trials: The most steps that an iteration tries, with growing damping, 1 or more.
        heldout: Share of the seeds, the last ones, that is kept out of the error, from 0 to below 1. With 0 the last
            iterate is returned.
        patience: Iterations without a lower held-out error after which the fit stops.
        tolerance: The fit stops where three iterations together lower its error (root mean square) by less than this
            share.
        prior: Weight of the pull towards the initial numbers: a change of 1 in one of them counts as much as this
            root mean square error.
        difference: Change of a number for the finite differences. 1e-3 suits float32 predictions.
        damping: The first damping, in units of the diagonal of the normal equations.
        batch_size: The most samples of one call of the network; None for no limit.

    Raises:
        LMLError: For a value out of range.
    """

    iterations: int = 30
    trials: int = 5
    heldout: float = 0.25
    patience: int = 5
    tolerance: float = 1e-3
    prior: float = 1e-3
    difference: float = 1e-3
    damping: float = 1e-2
    batch_size: int | None = None

    def __post_init__(self) -> None:
        for name in ("iterations", "trials", "patience", "batch_size"):
            value = getattr(self, name)
            if name == "batch_size" and value is None:
                continue
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise LMLError(f"{name} is {value!r}; give a whole number of 1 or more.")
        for name, low in (("tolerance", "0 or more"), ("prior", "0 or more"), ("difference", ""), ("damping", "")):
            value = getattr(self, name)
            if not (math.isfinite(value) and (value > 0 or (low and value == 0))):
                raise LMLError(f"{name} is {value!r}; give a number of {low or 'more than 0'}.")
        if not 0 <= self.heldout < 1:
            raise LMLError(f"heldout is {self.heldout!r}; give a share from 0 to below 1.")

    def split(self, seeds: int) -> tuple[int, int]:
        """Return how many seeds are fitted and how many are held out.

        Raises:
            LMLError: If none would be left to fit.
        """
        held = math.ceil(self.heldout * seeds)
        if seeds - held < 1:
            raise LMLError(f"start has {seeds} seeds and {held} are held out; give more seeds or a smaller heldout.")
        return seeds - held, held


@dataclass(frozen=True)
class FitResult:
    """What a fit came to.

    Attributes:
        schedule: The best iterate: the least error on held-out seeds, or the last one without any.
        initial: The schedule that it started from.
        history: The iterates, the initial one first.
        best: Index of the best one.
        evaluations: Network evaluations spent, those of interrupted attempts included as far as a checkpoint knew.
        planned: What was planned at most.
        stopped: Why it ended.
    """

    schedule: CalibratedSchedule
    initial: CalibratedSchedule
    history: tuple[Iteration, ...]
    best: int
    evaluations: int
    planned: int
    stopped: str

    def as_dict(self) -> dict[str, Any]:
        """Return the errors and the effort as JSON takes them, for `CalibrationFile.fit`."""
        before, after = self.history[0], self.history[self.best]
        return {
            "fit_error": {"before": before.fit_error, "after": after.fit_error},
            "heldout_error": {"before": before.heldout_error, "after": after.heldout_error},
            "evaluations": self.evaluations,
            "evaluations_planned": self.planned,
            "iterations": len(self.history) - 1,
            "best_iteration": self.best,
            "stopped": self.stopped,
        }


def planned_evaluations(student: Student, options: FitOptions, *, starts: int = 1, resumes: int = 0) -> int:
    """Return the most network evaluations that a fit can take; the teacher's are not among them.

    Args:
        student: What is fitted.
        options: How.
        starts: Number of schedules to choose the first one from.
        resumes: How often it went on from a checkpoint; each time the current iterate is run once more.
    """
    seeds = len(student.start)
    fitted, held = options.split(seeds)
    iteration = student.jacobian_cost * fitted + student.run_cost * (options.trials * fitted + held)
    once = seeds + student.run_cost * (starts * fitted + held)
    return once + options.iterations * iteration + resumes * (seeds + student.run_cost * fitted)


def jacobian_of(
    student: Student, run: Any, schedule: CalibratedSchedule, vector: Tensor, options: FitOptions
) -> Tensor:
    """Return J: the derivatives of a run's final states by the free numbers, (size, elements).

    Args:
        student: What is fitted.
        run: Its run at the schedule.
        schedule: Where to differentiate.
        vector: The free numbers of the schedule, (size,) float64.
        options: Those of the fit; `batch_size` seeds are differentiated at once.
    """
    batch = len(student.final(run))
    size = options.batch_size or batch
    parts = [
        student.slopes(run, slice(first, first + size), schedule, options.difference).flatten(1)
        for first in range(0, batch, size)
    ]
    slopes = torch.cat(parts, dim=1)
    chain = student.chain(vector.tolist())
    return chain.T.to(slopes.device, slopes.dtype) @ slopes


def normal_equations(slopes: Tensor, residual: Tensor) -> tuple[Tensor, Tensor]:
    """Return J^T J and J^T r of the mean square error, (size, size) and (size,) float64."""
    size = len(slopes)
    normal, gradient = torch.zeros(size, size, dtype=torch.float64), torch.zeros(size, dtype=torch.float64)
    # Sums in float64: the normal equations square the condition number. In blocks, for the sake of memory.
    for block, r in zip(slopes.split(_BLOCK, dim=1), residual.split(_BLOCK), strict=True):
        wide = block.double()
        normal += (wide @ wide.T).cpu()
        gradient += (wide @ r.double()).cpu()
    return normal / residual.numel(), gradient / residual.numel()


_BLOCK = 2**18


def damped_step(normal: Tensor, gradient: Tensor, damping: float) -> Tensor:
    """Solve (N + damping diag N) step = -gradient, (size,) float64; coefficients without any effect stay."""
    diagonal = normal.diagonal()
    scale = torch.rsqrt(torch.where(diagonal > 0, diagonal, 1))
    scaled = normal * scale[:, None] * scale + (damping + _ROUNDING) * torch.eye(len(normal), dtype=normal.dtype)
    return -scale * torch.linalg.solve(scaled, scale * gradient)


_ROUNDING = 1e-10
"""Added to the damping, so that two coefficients of equal effect leave the equations solvable."""


def fit(
    student: Student,
    target: Tensor,
    initial: CalibratedSchedule | Sequence[CalibratedSchedule],
    *,
    options: FitOptions = FitOptions(),
    progress: Callable[[int, int], None] | None = None,
    checkpoint: str | Path | None = None,
) -> FitResult:
    """Fit a schedule to a teacher's final states.

    Args:
        student: The sampler on its seeds. Seeds are in no order that matters, or the held-out ones, which are the
            last, are not like the others.
        target: The teacher's states at s = 0, the shape and dtype of `student.start`.
        initial: The schedule to start from, or several: the one with the least error on the fitted seeds is taken.
        options: How the fit is made.
        progress: Called as progress(evaluations done, evaluations planned) after every call of the network.
        checkpoint: A file that is written after every iteration. If it is there, the fit goes on from it; it must be
            of the same fit.

    Returns:
        A `FitResult`.

    Raises:
        LMLError: For arguments that do not fit each other, an error that is not finite at the start, or a checkpoint
            of another fit.
    """
    starts = [initial] if isinstance(initial, CalibratedSchedule) else list(initial)
    _check(student, target, starts)
    fitted, held = options.split(len(target))
    fit_part, held_part = slice(0, fitted), slice(fitted, fitted + held)

    key = (
        fit_key(student.start, target, [start.to_config() for start in starts], asdict(options))
        if checkpoint is not None
        else ""
    )
    state = read_checkpoint(checkpoint, key) if checkpoint is not None and Path(checkpoint).exists() else None
    resumes = 0 if state is None else state.resumes + 1
    planned = planned_evaluations(student, options, starts=len(starts), resumes=resumes)
    spent = 0 if state is None else state.history[-1].evaluations
    counter = student.begin(limit=planned, spent=spent, batch_size=options.batch_size, progress=progress)

    def run(schedule: CalibratedSchedule, which: slice) -> tuple[Any, float]:
        made = student.run(schedule, which)
        return made, float((student.final(made) - target[which]).double().square().mean())

    def entry_of(schedule: CalibratedSchedule, error: float, damping: float) -> Iteration:
        heldout = math.sqrt(run(schedule, held_part)[1]) if held else None
        return Iteration(math.sqrt(error), heldout, damping, counter.evaluations)

    if state is None:
        runs = [run(start, fit_part) for start in starts]
        chosen = min(range(len(starts)), key=lambda i: runs[i][1] if math.isfinite(runs[i][1]) else math.inf)
        schedule, (current, error) = starts[chosen], runs[chosen]
        if not math.isfinite(error):
            raise LMLError(f"initial gives an error of {error!r}; give a schedule whose samples are finite.")
        entry = entry_of(schedule, error, options.damping)
        vector = student.pack(schedule)
        state = FitState(vector, options.damping, [entry], 0, vector, vector, 0)
    else:
        state = state._replace(resumes=resumes)
        schedule = student.unpack(state.vector)
        current, error = run(schedule, fit_part)
    origin = torch.tensor(state.origin, dtype=torch.float64)

    def pull(vector: Tensor) -> float:
        return options.prior**2 * float((vector - origin).square().sum())

    stopped = _stop(state, options, held)
    while not stopped:
        vector = torch.tensor(state.vector, dtype=torch.float64)
        slopes = jacobian_of(student, current, schedule, vector, options)
        normal, gradient = normal_equations(slopes, (student.final(current) - target[fit_part]).flatten())
        normal = normal + options.prior**2 * torch.eye(len(vector), dtype=torch.float64)
        gradient = gradient + options.prior**2 * (vector - origin)
        before, damping, growth = error + pull(vector), state.damping, 4.0
        for _ in range(options.trials):
            step = damped_step(normal, gradient, damping)
            step = step * min(1.0, LARGEST_CHANGE / max(float(step.abs().max()), 1e-300))
            promised = -float(2 * gradient @ step + step @ normal @ step)
            proposal = _schedule_at(student, vector + step)
            if proposal is not None:
                trial, trial_error = run(proposal, fit_part)
                gained = before - trial_error - pull(vector + step)
                if math.isfinite(trial_error) and gained > 0:
                    break
            damping, growth = damping * growth, 2 * growth
        else:
            stopped = "no step lowers the error"
            break
        # Nielsen's rule: the damping falls by as much as the model was right.
        damping *= max(1 / 5, 1 - (2 * min(gained / promised, 1.0) - 1) ** 3)
        schedule, current, error = proposal, trial, trial_error
        state = state.advanced((vector + step).tolist(), entry_of(schedule, error, damping))
        if checkpoint is not None:
            write_checkpoint(checkpoint, key, state)
        stopped = _stop(state, options, held)
    best = student.unpack(state.best_vector)
    return FitResult(
        best, student.unpack(state.origin), tuple(state.history), state.best, counter.evaluations, planned, stopped
    )


def _check(student: Student, target: Tensor, starts: Sequence[CalibratedSchedule]) -> None:
    start = student.start
    if start.shape != target.shape or start.dtype != target.dtype:
        raise LMLError(
            f"target is {target.dtype} of shape {tuple(target.shape)} and start {start.dtype} of {tuple(start.shape)}; "
            "give two that match."
        )
    for initial in starts:
        for name in ("steps", "rank"):
            if getattr(student, name) != getattr(initial, name):
                raise LMLError(
                    f"initial has {name} {getattr(initial, name)} and the student {getattr(student, name)}; give the "
                    "same."
                )


def _schedule_at(student: Student, vector: Tensor) -> CalibratedSchedule | None:
    """Return the schedule, or None where a step went so far that there is none."""
    try:
        return student.unpack(vector.tolist())
    except LMLError:
        return None


def _stop(state: FitState, options: FitOptions, held: int) -> str:
    """Return why a fit ends here; empty if it goes on."""
    done, errors = len(state.history) - 1, [entry.fit_error for entry in state.history]
    if done >= _STALL and errors[-1] > (1 - options.tolerance) * errors[-1 - _STALL]:
        return "the error falls no further"
    if held and done - state.best >= options.patience:
        return "the held-out error rises"
    return "all iterations are done" if done >= options.iterations else ""


_STALL = 3
"""Iterations over which the error must fall: a fit often creeps through a bend and then falls again."""

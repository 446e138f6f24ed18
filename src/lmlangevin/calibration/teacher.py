"""The teacher: the same ODE, solved so finely that what a few steps miss is all of the difference."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from lmlangevin.calibration.firstorder import Counted, Predict, run_student
from lmlangevin.calibration.start import initial_schedule

TEACHER_STEPS = 60
TEACHER_RANK = 2
VP_TEACHER_SMIN = 0.01
"""About the least level that models of the usual schedules were trained at."""
FLOW_TEACHER_SMIN = 0.005


def solve_teacher(
    predict: Predict,
    start: Tensor,
    *,
    smax: float,
    steps: int = TEACHER_STEPS,
    flow: bool = False,
    batch_size: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Tensor:
    """Return the converged final states.

    The solver is the student's own with Adams-Bashforth gains of rank 2, third order in log s. On the analytic model
    its RMSE to the Runge-Kutta solution is 4e-4 with 60 steps.

    Args:
        predict: n of y at s.
        start: y at the first level, (seeds, *event).
        smax: The first level.
        steps: Steps, one evaluation a sample each.
        flow: Whether s is a flow's.
        batch_size: The most samples of one call; None for no limit.
        progress: Called as progress(evaluations done, evaluations in all).

    Returns:
        y at s = 0, the shape of `start`.
    """
    smin = FLOW_TEACHER_SMIN if flow else VP_TEACHER_SMIN
    schedule = initial_schedule(steps, TEACHER_RANK, smax=smax, smin=smin, flow=flow)
    counted = Counted(predict, batch_size=batch_size, limit=steps * len(start), progress=progress)
    return run_student(counted, start, schedule).states[-1]

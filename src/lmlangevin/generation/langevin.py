"""The checks of `--langevin-steps`, before anything is loaded; `corrector` takes the steps."""

from __future__ import annotations

from lmlangevin.core.damping import ADAPTIVE, CALIBRATED
from lmlangevin.core.errors import LMLError

SAMPLERS = (
    "ddim", "dpmpp-1", "dpmpp-2m", "dpmpp-3m", "sde-dpmpp-2m", "deis", "euler", "flow-euler", "flow-dpmpp-2m",
)  # fmt: skip
"""Samplers that go on from the sample they are given.

UniPC and PNDM keep one of their own, Heun is between two, and DPM-Solver-3 extrapolates second differences of the
noise, which is another one after a Langevin step.
"""

DEFAULT_STEP_SIZE = 0.2
MOST_STEPS = 1000


def checked_step_size(count: int, size: float | None, scheduler: str, control: str | None) -> float | None:
    """Return the size of a job's Langevin steps, None where it has none.

    Args:
        count: Langevin steps at a level.
        size: Their size, None for the default.
        scheduler: Short name of the sampler.
        control: That of LML, None for the default.

    Raises:
        LMLError: For a value out of range, and for what Langevin steps do not go with.
    """
    if isinstance(count, bool) or not isinstance(count, int) or not 0 <= count <= MOST_STEPS:
        raise LMLError(
            f"langevin_steps={count!r} is out of range; give a whole number from 0 to {MOST_STEPS}, such as 1."
        )
    if not count:
        if size is not None:
            raise LMLError(f"langevin_step_size={size!r} has no effect without langevin_steps; give both.")
        return None
    number = not isinstance(size, bool) and isinstance(size, int | float)
    if size is not None and not (number and 0 < size < 1):
        raise LMLError(f"langevin_step_size={size!r} is out of range; give a number inside (0, 1), such as 0.2.")
    if scheduler not in SAMPLERS:
        raise LMLError(
            f"langevin_steps={count} with scheduler={scheduler!r}, which does not go on from a sample that was moved "
            f"between its steps; give one of {', '.join(SAMPLERS)}."
        )
    if control in (ADAPTIVE, CALIBRATED):
        raise LMLError(
            f"langevin_steps={count} and control={control!r}, which takes every move for the solver's, exclude each "
            "other; give control='constant'."
        )
    return DEFAULT_STEP_SIZE if size is None else float(size)


def evaluations(steps: int, langevin_steps: int) -> int:
    """Return the network evaluations of so many steps with Langevin steps between each two, guidance apart."""
    return steps + langevin_steps * (steps - 1)


def steps_for(nfe: int, langevin_steps: int) -> int:
    """Return the sampler's steps that cost exactly `nfe` network evaluations with their Langevin steps.

    Raises:
        LMLError: If no number of steps does; the message names the nearest costs below and above.
    """
    steps, left = divmod(nfe + langevin_steps, 1 + langevin_steps)
    if left:
        costs = [evaluations(count, langevin_steps) for count in (steps, steps + 1) if count]
        raise LMLError(
            f"nfe={nfe} is no cost of steps with {langevin_steps} Langevin steps between each two; give "
            f"{' or '.join(map(str, costs))}."
        )
    return steps

"""Where a fit starts: a grid and the gains of Adams-Bashforth in log s, or a calibrated neighbour of other length.

The sampling ODE dy/ds = n is integrated over one step with n interpolated through the last r + 1 levels. What n is a
smooth function of is not s, which falls by four orders of magnitude, but its logarithm; so the interpolation is a
polynomial in u(s), and the integral is over s. A flow's levels end at s = 1, where the noise-to-signal ratio
s / (1 - s) is infinite; there u is the logarithm of s / (1 + c - s), which is finite.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from lmlangevin.core.config import MAX_RANK
from lmlangevin.core.errors import LMLError
from lmlangevin.core.scheduled import CalibratedSchedule

VP_SMIN = 0.015
FLOW_SMIN = 0.03
FLOW_CAP = 0.02
"""c of a flow's u(s): the first step then spans about as much of u as the others do."""

BASE_RANK = 2
"""Gains of Adams-Bashforth that a schedule starts with at most."""

_TAIL = 40.0
"""exp(-40) of a level is 0 to every dtype: where the integral to s = 0 is cut off."""


def log_level(s: float, *, flow: bool) -> float:
    """Return u(s): log s, or log(s / (1 + c - s)) of a flow."""
    return math.log(s / (1 + FLOW_CAP - s)) if flow else math.log(s)


def level(u: float, *, flow: bool) -> float:
    """Return s of u, the inverse of `log_level`."""
    # Divided by the exponential that is small, so that neither end loses digits.
    return (1 + FLOW_CAP) / (1 + math.exp(-u)) if flow else math.exp(u)


def level_slope(u: float, *, flow: bool) -> float:
    """Return ds/du."""
    s = level(u, flow=flow)
    return s * (1 - s / (1 + FLOW_CAP)) if flow else s


def adams_bashforth(levels: Sequence[float], end: float, *, flow: bool) -> list[float]:
    """Return the gains of a step that integrates the interpolated prediction.

    Args:
        levels: s_k, s_{k-1}, ...: the step's own level and earlier ones, newest first; all are nodes.
        end: s_{k+1}, below s_k; 0 is allowed.
        flow: Whether s is a flow's.

    Returns:
        g_j for each of the earlier levels: -w_j / (s_{k+1} - s_k), with the weights w of the predictions.
    """
    import numpy as np

    nodes = [log_level(s, flow=flow) for s in levels]
    low = log_level(end, flow=flow) if end > 0 else nodes[0] - _TAIL
    # 64 points integrate exp(u) times a polynomial over 40 units to a relative 1e-12.
    points, weights = np.polynomial.legendre.leggauss(64)
    middle, half = (nodes[0] + low) / 2, (low - nodes[0]) / 2
    us = [middle + half * float(p) for p in points]
    measure = [half * float(w) * level_slope(u, flow=flow) for u, w in zip(us, weights, strict=True)]
    gains = []
    for j in range(1, len(nodes)):
        others = [node for i, node in enumerate(nodes) if i != j]
        values = [math.prod((u - other) / (nodes[j] - other) for other in others) for u in us]
        gains.append(-sum(m * v for m, v in zip(measure, values, strict=True)) / (end - levels[0]))
    return gains


def adams_bashforth_gains(sigmas: Sequence[float], rank: int, *, flow: bool) -> list[list[float]]:
    """Return the gains of every step of a grid, rows of `rank` numbers padded with 0; see `adams_bashforth`."""
    rows = []
    for k, end in enumerate(sigmas[1:]):
        known = [sigmas[k - j] for j in range(min(rank, k) + 1)]
        row = adams_bashforth(known, end, flow=flow)
        rows.append(row + [0.0] * (rank - len(row)))
    return rows


def initial_schedule(
    steps: int,
    rank: int,
    *,
    smax: float,
    smin: float | None = None,
    flow: bool = False,
    restore_norm: bool = False,
    neighbour: CalibratedSchedule | None = None,
) -> CalibratedSchedule:
    """Return a schedule to start a fit from.

    Args:
        steps: Number of steps, 1 or more.
        rank: Number of gains a step, 0 to 16.
        smax: The first level.
        smin: The last level before 0, default 0.015, and 0.03 for a flow; levels are uniform in u(s) down to it. Not
            used with a neighbour.
        flow: Whether s is a flow's, in (0, 1].
        restore_norm: Kept in the schedule.
        neighbour: A calibrated schedule of another number of steps (or rank). Its grid is stretched to `steps`, and
            its gains' differences from Adams-Bashforth on its own grid are carried over to the new one.

    Returns:
        The schedule. Its gains are those of Adams-Bashforth of rank 2 at most; further ones are 0.

    Raises:
        LMLError: For a value out of range, or a neighbour that starts from another level.
    """
    smin = (FLOW_SMIN if flow else VP_SMIN) if smin is None else smin
    if isinstance(steps, bool) or not isinstance(steps, int) or steps < 1:
        raise LMLError(f"steps is {steps!r}; give a whole number of 1 or more.")
    if isinstance(rank, bool) or not isinstance(rank, int) or not 0 <= rank <= MAX_RANK:
        raise LMLError(f"rank is {rank!r}; give a whole number from 0 to {MAX_RANK}.")
    if not (math.isfinite(smax) and smax > 0) or (flow and smax > 1):
        raise LMLError(f"smax is {smax!r}; give a level above 0{', at most 1' if flow else ''}.")
    if not 0 < smin < smax:
        raise LMLError(f"smin is {smin!r} with smax {smax!r}; give a level between 0 and smax.")
    if neighbour is not None and not math.isclose(neighbour.levels[0], smax, rel_tol=1e-6):
        raise LMLError(
            f"neighbour starts from {neighbour.levels[0]!r} and smax is {smax!r}; give one that starts there."
        )
    if neighbour is None or neighbour.steps < 2 or steps < 2:
        high, low = log_level(smax, flow=flow), log_level(smin, flow=flow)
        us = [high + (low - high) * k / max(steps - 1, 1) for k in range(steps)]
    else:
        known = [log_level(s, flow=flow) for s in neighbour.levels[:-1]]
        us = [_at(known, k / (steps - 1)) for k in range(steps)]
    sigmas = [smax, *(level(u, flow=flow) for u in us[1:]), 0.0]
    # Of higher rank Adams-Bashforth swings over steps as long as these: further gains start from 0.
    order = min(rank, BASE_RANK, rank if neighbour is None else neighbour.rank)
    gains = [row + [0.0] * (rank - order) for row in adams_bashforth_gains(sigmas, order, flow=flow)]
    if neighbour is not None and neighbour.steps > 1 and steps > 1:
        own = adams_bashforth_gains(neighbour.levels, order, flow=flow)
        own = [row + [0.0] * (neighbour.rank - order) for row in own]
        for j in range(min(rank, neighbour.rank)):
            # Gain j exists from step j + 1 on, and is interpolated between those steps.
            learned = [row[j] - base[j] for row, base in zip(neighbour.gains, own, strict=True)][j + 1 :]
            here = range(j + 1, steps)
            for k in here if learned else ():
                gains[k][j] += _at(learned, (k - j - 1) / max(len(here) - 1, 1))
    return CalibratedSchedule(tuple(sigmas), tuple(tuple(row) for row in gains), restore_norm)


def _at(values: Sequence[float], place: float) -> float:
    """Return `values` at a place between 0 and 1, linear between them."""
    position = place * (len(values) - 1)
    low = min(int(position), len(values) - 1)
    high = min(low + 1, len(values) - 1)
    return values[low] + (position - low) * (values[high] - values[low])

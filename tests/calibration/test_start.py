"""Where a fit starts: levels, Adams-Bashforth gains, neighbours."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lmlangevin.calibration.start import adams_bashforth, initial_schedule, level, level_slope, log_level
from lmlangevin.core import CalibratedSchedule, LMLError


@given(st.floats(1e-4, 0.9999), st.booleans())
def test_levels_are_inverse_to_their_logarithms(s: float, flow: bool) -> None:
    u = log_level(s, flow=flow)
    assert level(u, flow=flow) == pytest.approx(s, rel=1e-9)
    assert level_slope(u, flow=flow) == pytest.approx(
        (level(u + 1e-5, flow=flow) - level(u - 1e-5, flow=flow)) / 2e-5, rel=1e-6
    )


@pytest.mark.parametrize("flow", [False, True])
@pytest.mark.parametrize("rank", [1, 2, 3])
def test_polynomials_in_u_are_integrated_exactly(flow: bool, rank: int) -> None:
    nodes, end = [0.3, 0.5, 0.8, 0.95][: rank + 1], 0.1
    gains = adams_bashforth(nodes, end, flow=flow)
    for power in range(rank + 1):
        values = [log_level(s, flow=flow) ** power for s in nodes]
        made = (end - nodes[0]) * (values[0] - sum(g * (v - values[0]) for g, v in zip(gains, values[1:], strict=True)))
        # The integral of u(s)^power ds by the midpoint rule with very many points.
        count = 200_000
        h = (end - nodes[0]) / count
        exact = sum(log_level(nodes[0] + (i + 0.5) * h, flow=flow) ** power for i in range(count)) * h
        assert made == pytest.approx(exact, rel=1e-7)


def test_a_step_to_zero_has_the_weights_of_its_limit() -> None:
    # n linear in log s: the mean of log s over (0, S) is log S - 1.
    (gain,) = adams_bashforth([0.5, 2.0], 0.0, flow=False)
    made = math.log(0.5) - gain * (math.log(2.0) - math.log(0.5))
    assert made == pytest.approx(math.log(0.5) - 1, rel=1e-9)


def test_a_schedule_of_its_own_length_is_its_own_neighbour() -> None:
    sigmas = (50.0, 9.0, 2.0, 0.6, 0.1, 0.0)
    gains = ((0.0, 0.0), (0.3, 0.0), (0.9, -0.4), (0.5, 0.2), (0.1, 0.3))
    known = CalibratedSchedule(sigmas, gains)
    made = initial_schedule(5, 2, smax=50.0, neighbour=known)
    assert made.levels == pytest.approx(sigmas)
    assert [g for row in made.gains for g in row] == pytest.approx([g for row in gains for g in row])


@pytest.mark.parametrize("steps", [3, 4, 7, 12])
@pytest.mark.parametrize("rank", [0, 1, 2, 3])
def test_a_neighbour_gives_a_schedule_of_another_length(steps: int, rank: int) -> None:
    known = initial_schedule(6, 2, smax=50.0)
    made = initial_schedule(steps, rank, smax=50.0, neighbour=known)
    assert (made.steps, made.rank) == (steps, rank)
    assert made.levels[0] == 50.0
    assert made.levels[-2] == pytest.approx(known.levels[-2])


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"steps": 0}, "steps is 0"),
        ({"steps": True}, "steps is True"),
        ({"rank": 17}, "rank is 17"),
        ({"smax": 2.0, "flow": True}, "smax is 2.0"),
        ({"smax": float("nan")}, "smax is nan"),
        ({"smin": 70.0}, "smin is 70.0"),
        ({"neighbour": initial_schedule(4, 1, smax=20.0)}, "neighbour starts from 20.0"),
    ],
)
def test_what_is_no_start_is_refused(given: dict[str, Any], message: str) -> None:
    with pytest.raises(LMLError, match=message):
        initial_schedule(**{"steps": 5, "rank": 1, "smax": 50.0, **given})

from __future__ import annotations

import math
import random
from collections.abc import Callable
from typing import Any

import pytest
from scipy import stats

from lmlangevin.bench import harm
from lmlangevin.bench.cells import Cell
from lmlangevin.bench.results import PartData, SuiteData
from lmlangevin.bench.suite import Part

Row = dict[str, Any]
Read = Callable[..., SuiteData]
MakePart = Callable[..., Part]
ARMS = ("plain", "control=adaptive")


@pytest.fixture
def controlled(read: Read, part: MakePart) -> Callable[..., PartData]:
    """`controlled(change)`: a part of made-up figures, each what `change(cell, row)` makes of it."""

    def made(change: Callable[[Cell, Row], Row | None], **settings: Any) -> PartData:
        asked: dict[str, Any] = {"samplers": ("ddim", "dpmpp-2m", "euler"), "arms": ARMS, "blocks": 5}

        def edit(part: Part, cell: Cell, row: Row) -> Row | None:
            return change(cell, row)

        return read(part(**asked | settings), edit=edit).parts[0]

    return made


def scaled(row: Row, *factors: float) -> Row:
    """Multiply the blocks by factors, in turn."""
    return row | {m: [v * factors[k % len(factors)] for k, v in enumerate(row[m])] for m in ("rmse", "fd")}


# The tests


def test_holms_correction_is_the_one_done_by_hand() -> None:
    # 3 x 0.01 = 0.03; 2 x 0.02 = 0.04; 1 x 0.03 = 0.03, which may not be below the one before it.
    assert harm.holm([0.03, 0.01, 0.02]) == pytest.approx([0.04, 0.03, 0.04])
    assert harm.holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert harm.holm([0.6, 0.5]) == [1.0, 1.0]
    assert harm.holm([]) == []


def test_the_test_of_a_rise_is_the_paired_t_test_with_a_margin() -> None:
    plain, other = [1.0, 1.2, 0.9, 1.1, 1.3], [1.1, 1.25, 1.0, 1.15, 1.4]
    margin = [1.02 * value for value in plain]
    assert harm.p_rise(plain, other) == pytest.approx(stats.ttest_rel(other, margin, alternative="greater").pvalue)
    fall = [0.98 * value for value in plain]
    assert harm.p_rise(plain, other, -0.02) == pytest.approx(stats.ttest_rel(other, fall, alternative="less").pvalue)


@pytest.mark.parametrize(
    ("plain", "other", "rise", "fall"),
    [
        ([1.0] * 5, [1.0] * 5, 1.0, 1.0),
        ([1.0] * 5, [1.5] * 5, 0.0, 1.0),
        ([1.0] * 5, [0.5] * 5, 1.0, 0.0),
        ([0.0] * 5, [0.0] * 5, 1.0, 1.0),
    ],
)
def test_blocks_that_do_not_vary_leave_no_doubt(
    plain: list[float], other: list[float], rise: float, fall: float
) -> None:
    assert (harm.p_rise(plain, other), harm.p_rise(plain, other, -0.02)) == (rise, fall)


def test_blocks_that_are_the_same_are_no_rise_however_they_vary() -> None:
    values = [1.0, 3.0, 2.0, 5.0, 0.1]
    assert harm.p_rise(values, values) > 0.9 and harm.p_rise(values, values, -0.02) > 0.9


def test_the_least_t_is_where_the_first_p_value_passes() -> None:
    t = harm.least_t(100, 5)
    assert stats.t.sf(t, 4) * 100 == pytest.approx(harm.LEVEL)
    assert harm.least_t(1, 5) == pytest.approx(2.132, abs=1e-3)


# The matrix


def test_a_harm_that_is_put_in_is_found_and_nothing_else(controlled: Callable[..., PartData]) -> None:
    def change(cell: Cell, row: Row) -> Row:
        if cell.control and (cell.sampler, cell.grid, cell.nfe) == ("euler", "karras", 8):
            return scaled(row, 1.5, 1.51, 1.49)
        return scaled(row, 0.8, 0.81, 0.79) if cell.control and cell.nfe == 10 else row

    data = controlled(change)
    for measure in ("rmse", "fd"):
        found = harm.measure_harm(data, "adaptive", measure)
        assert [(e.cell.key, e.verdict) for e in found.failures] == [("euler|karras|zero|8|plain", "harmed")]
        assert {e.cell.nfe for e in found.effects if e.verdict == "better"} == {10}
        # DDIM has no karras grid.
        assert [found.count(v) for v in ("harmed", "better", "no change")] == [1, 5, 24]
        assert found.failures[0].change.ratio == pytest.approx(1.5, rel=0.01)
        assert not found.raised and not found.left_out and not found.missing


def test_noise_alone_harms_no_cell(controlled: Callable[..., PartData]) -> None:
    rng = random.Random(4)

    def change(cell: Cell, row: Row) -> Row:
        return scaled(row, *(1 + 0.05 * rng.gauss(0, 1) for _ in range(5))) if cell.control else row

    found = harm.measure_harm(controlled(change, grids=("all",), nfe=tuple(range(5, 31))), "adaptive", "rmse")
    assert len(found.effects) > 300 and not found.failures and not found.count("better")
    assert found.raised, "means that rise by chance are listed all the same"
    assert found.suspects > 0, "a test for each cell alone would call some of them harmed"


def test_a_rise_of_less_than_the_margin_is_no_harm_however_certain(controlled: Callable[..., PartData]) -> None:
    found = harm.measure_harm(controlled(lambda c, r: scaled(r, 1.019) if c.control else r), "adaptive", "fd")
    assert found.count("no change") == len(found.effects) > 0 and not found.raised


def test_a_cell_that_is_untouched_has_a_ratio_of_exactly_1(controlled: Callable[..., PartData]) -> None:
    found = harm.measure_harm(controlled(lambda c, r: r), "adaptive", "rmse")
    assert set(found.ratios) == {1.0} and found.median == 1.0 and found.geometric_mean == pytest.approx(1.0)
    assert all(e.verdict == "no change" and e.spread == 0.0 and e.p_rise == 1.0 for e in found.effects)


def test_lost_images_are_a_harm_and_a_plain_cell_that_breaks_is_left_out(controlled: Callable[..., PartData]) -> None:
    def change(cell: Cell, row: Row) -> Row | None:
        if cell.sampler == "ddim" and cell.control:
            return {6: row | {"wild": 1}, 8: row | {"non_finite": 9, "rmse": [None] * 5}}.get(cell.nfe, row)
        if cell.sampler == "euler" and cell.nfe == 6 and not cell.control:
            return row | {"wild": 2}
        return None if cell.control and cell.sampler == "euler" and cell.nfe == 20 else row

    found = harm.measure_harm(controlled(change), "adaptive", "rmse")
    assert [e.cell.key for e in found.failures] == ["ddim|leading|zero|6|plain", "ddim|leading|zero|8|plain"]
    assert all(e.lost and e.p_rise is None and e.change.ratio is None for e in found.failures)
    assert [f.cell.key for f in found.left_out] == ["euler|linspace|zero|6|plain", "euler|karras|zero|6|plain"]
    assert found.missing == 2
    assert len(found.effects) + len(found.left_out) + found.missing == 30


def test_medians_are_of_the_range_that_a_control_is_for(controlled: Callable[..., PartData]) -> None:
    factors = {6: 0.5, 8: 0.8, 10: 0.9, 12: 1.0, 15: 1.0, 20: 3.0}
    data = controlled(lambda c, r: scaled(r, factors[c.nfe]) if c.control else r, samplers=("ddim",))
    found = harm.measure_harm(data, "adaptive", "rmse")
    assert [e.cell.nfe for e in found.few.effects] == [6, 8, 10, 12, 15]
    assert found.few.median == pytest.approx(0.9)
    assert found.few.geometric_mean == pytest.approx(math.exp(math.log(0.5 * 0.8 * 0.9) / 5))
    assert found.within(20, 50).median == pytest.approx(3.0)
    assert found.within(30, 50).median is None and found.within(30, 50).geometric_mean is None
    # A part of the cells keeps what was corrected over all of them.
    assert found.within(20, 20).effects[0].p_rise == found.failures[0].p_rise


def test_each_measure_is_a_family_of_its_own(controlled: Callable[..., PartData]) -> None:
    data = controlled(lambda c, r: r | {"fd": [2 * v for v in r["fd"]]} if c.control else r)
    assert not harm.measure_harm(data, "adaptive", "rmse").failures
    assert len(harm.measure_harm(data, "adaptive", "fd").failures) == 30


# The best cells


def test_the_best_controlled_cell_stands_behind_the_best_plain_one(controlled: Callable[..., PartData]) -> None:
    def change(cell: Cell, row: Row) -> Row:
        if cell.control and cell.sampler == "ddim":
            return scaled(row, 0.25)  # half of the best grid's, which is half of the default's
        return row | {"wild": 1} if cell.sampler == "euler" else row

    data = controlled(change)
    best = {b.nfe: b for b in harm.best_controlled(data, "adaptive", "rmse")}[8]
    assert best.plain is not None and best.plain.cell.key == "dpmpp-2m|karras|zero|8|plain"
    assert best.lml is not None and best.lml.cell.key == "ddim|leading|zero|8|control=adaptive"
    change_ = best.change("rmse")
    assert change_ is not None and change_.ratio == pytest.approx(0.5) and change_.outcome == "lower"
    own = {b.nfe: b for b in harm.best_controlled(data, "adaptive", "rmse", sampler="dpmpp-2m")}[8]
    assert own.lml is not None and own.lml.cell.sampler == "dpmpp-2m"
    assert not any(b.plain or b.lml for b in harm.best_controlled(data, "adaptive", "rmse", flow=True))
    assert harm.calibrated_cells(data) == [] and harm.paired_controls(data) == ["adaptive"]

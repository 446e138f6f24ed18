from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from lmlangevin.bench import findings
from lmlangevin.bench.cells import Cell
from lmlangevin.bench.results import Figures, PartData, SuiteData
from lmlangevin.bench.suite import Part

Row = dict[str, Any]


def test_the_best_cell_is_the_lowest_of_all_grids(read: Callable[..., SuiteData]) -> None:
    best = {b.nfe: b for b in findings.best_cells(read().parts[0], "fd")}[10]
    assert best.plain is not None and best.plain.cell.key == "dpmpp-2m|karras|zero|10|plain"
    assert best.lml is not None and best.lml.cell.key == "ddim|leading|zero|10|gain=1"
    change = best.change("fd")
    assert change is not None and change.ratio == pytest.approx(1.5) and change.outcome == "higher"


def test_broken_cells_are_nobodys_best(read: Callable[..., SuiteData]) -> None:
    def wild(part: Part, cell: Cell, row: Row) -> Row:
        return row | {"wild": 2} if cell.grid == "karras" else row

    best = findings.best_cells(read(edit=wild).parts[0], "rmse")
    assert all(b.plain and b.plain.cell.grid != "karras" for b in best)
    assert findings.lowest([None], "fd") is None


def test_the_census_counts_both_ways_and_lists_what_got_worse(uneven: PartData) -> None:
    whole = findings.census(uneven, "rmse")
    counts = {o: whole.count(o) for o in ("lower", "close", "spread", "higher", "lost", "diverges")}
    assert counts == {"lower": 1, "close": 1, "spread": 1, "higher": 2, "lost": 1, "diverges": 0}
    assert whole.worst is not None and whole.worst[0].cell.nfe == 12
    assert [pair.cell.nfe for pair, _ in whole.harmed] == [15, 12, 10, 20]
    assert whole.where(lambda pair: pair.cell.nfe < 10).count("lower") == 1


def test_the_census_is_of_presets_other_than_zero_and_of_what_was_measured(
    read: Callable[..., SuiteData], part: Callable[..., Part], gaps: PartData
) -> None:
    whole = findings.census(gaps, "fd")
    assert whole.missing == 1 and len(whole.changes) == 5
    data = read(part(gains={"sde-dpmpp-2m": 0.2})).parts[0]
    assert {p.cell.sampler for p, _ in findings.census(data, "rmse").changes} == {"ddim"}
    assert {p.cell.sampler for p, _ in findings.census(data, "fd").changes} == {"ddim", "sde-dpmpp-2m"}


def test_the_measured_order_is_that_of_the_figures(read: Callable[..., SuiteData], part: Callable[..., Part]) -> None:
    found = {order.sampler: order for order in findings.orders(read().parts[0])}
    assert set(found) == {"ddim", "dpmpp-2m", "heun"}
    assert found["ddim"].nfe == (10, 12, 15, 20) and found["heun"].nfe == (11, 15, 19)
    for slope in (found["ddim"].plain, found["ddim"].lml):
        assert slope is not None and slope.median == pytest.approx(2.0) and slope.blocks == pytest.approx((2.0,) * 3)
    assert found["dpmpp-2m"].lml is None
    assert not findings.orders(read(part(model="embedded")).parts[0])


def test_no_slope_is_fitted_to_what_is_broken_or_zero(
    read: Callable[..., SuiteData], part: Callable[..., Part]
) -> None:
    def spoilt(part: Part, cell: Cell, row: Row) -> Row:
        return row | {10: {"wild": 1}, 12: {"rmse": [0.0] * 3}}.get(cell.nfe, {})

    data = read(part(samplers=("ddim",), nfe=(8, 10, 12, 15, 20)), edit=spoilt).parts[0]
    usable = [nfe for nfe, pair in data.curve("ddim", "leading").items() if findings.usable(pair.plain)]
    assert usable == [8, 15, 20]
    assert findings.orders(data) == []  # two costs are left that a slope could be fitted over


def test_the_lever_is_worst_over_best_of_grids_and_of_solvers(
    read: Callable[..., SuiteData], part: Callable[..., Part]
) -> None:
    scale = {"leading": 1, "trailing": 2, "linspace": 4}
    asked = part(samplers=("ddim", "dpmpp-2m", "unipc"), grids=tuple(scale))

    def scaled(part: Part, cell: Cell, row: Row) -> Row:
        error = scale[cell.grid] * (1.5 if cell.sampler == "unipc" else 1)
        return row | {"rmse": [error] * 3}

    assert findings.lever(read(asked, edit=scaled).parts[0], 8, "rmse") == pytest.approx((4.0, 1.5))
    assert findings.lever(read().parts[0], 8, "rmse") is None  # two grids say nothing


def test_injected_noise_is_paired_with_the_plain_cell_of_the_same_cost(
    read: Callable[..., SuiteData], part: Callable[..., Part]
) -> None:
    arms = ("eta=0.5", "release=float32", "release=float64@0.003")
    noise = part("noise", samplers=("ddim", "dpmpp-2m"), grids=("default",), nfe=(6, 8), arms=arms)
    data = read(part(samplers=("ddim", "dpmpp-2m")), noise)
    rows = findings.noise_rows(data, data.parts[1])
    # A preset of 0 is the plain sampler, and eta is DDIM's alone.
    assert [key[::2] for key in rows] == [
        ("ddim", "plain"), ("ddim", "preset"), ("ddim", "eta=0.5"), ("ddim", "release=float32"),
        ("ddim", "release=float64@0.003"), ("dpmpp-2m", "plain"), ("dpmpp-2m", "release=float32"),
        ("dpmpp-2m", "release=float64@0.003"),
    ]  # fmt: skip
    found = findings.against_plain(data, data.parts[1], "release=float64")
    assert [(plain.cell.key, figures.cell.nfe) for plain, figures in found] == [
        ("ddim|leading|zero|6|plain", 6), ("ddim|leading|zero|8|plain", 8),
        ("dpmpp-2m|linspace|zero|6|plain", 6), ("dpmpp-2m|linspace|zero|8|plain", 8),
    ]  # fmt: skip


def test_the_largest_difference_is_that_of_a_block_of_a_cell_that_is_whole() -> None:
    def figures(*fd: float, wild: int = 0) -> Figures:
        return Figures(Cell("ddim", "leading", "zero", 8), None, fd, None, None, 0, wild)

    pairs = [(figures(1.0, 2.0), figures(1.0, 2.5)), (figures(1.0, 1.0), figures(9.0, 9.0, wild=1))]
    assert findings.difference(pairs) == 0.25
    assert findings.difference(pairs[1:]) is None


def test_cells_of_two_dtypes_are_compared_the_other_one_first(
    read: Callable[..., SuiteData], part: Callable[..., Part]
) -> None:
    def rounded(part: Part, cell: Cell, row: Row) -> Row:
        return row | {"fd": [v * 1.01 for v in row["fd"]]} if part.name == "half" else row

    half = part("half", model="embedded", dtype="bfloat16", samplers=("ddim",))
    data = read(half, part("single", model="embedded", samplers=("ddim",), nfe=(8,)), edit=rounded)
    rows = findings.dtype_rows(data.parts[1], data.parts[0])
    assert rows and all(change.ratio == pytest.approx(1 / 1.01) for _, _, change in rows)

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lmlangevin.bench.cells import Cell
from lmlangevin.bench.release import Deviation
from lmlangevin.bench.results import Figures, PartData, SuiteData, compare, read_suite
from lmlangevin.bench.runner import FORMAT
from lmlangevin.bench.suite import Part, Suite
from lmlangevin.core import LMLError


def figures(*fd: float | None, non_finite: int = 0, wild: int = 0) -> Figures:
    return Figures(Cell("ddim", "leading", "zero", 8), None, fd, None, None, non_finite, wild)


@pytest.mark.parametrize(
    ("first", "second", "outcome"),
    [
        (figures(1.0, 1.0, 1.0), figures(0.9, 0.8, 0.9), "lower"),
        (figures(1.0, 1.0, 1.0), figures(1.1, 1.2, 1.1), "higher"),
        (figures(1.0, 1.0, 1.0), figures(0.99, 0.995, 0.99), "close"),
        (figures(1.0, 1.0, 1.0), figures(1.0, 1.0, 1.0), "close"),
        (figures(1.0, 1.0, 1.0), figures(0.5, 1.1, 0.5), "spread"),
        (figures(1.0, 1.0, 1.0), figures(0.5, 0.5, 0.5, non_finite=1), "lost"),
        (figures(1.0, 1.0, 1.0), figures(0.5, None, 0.5), "lost"),
        (figures(1.0, 1.0, 1.0, wild=1), figures(0.5, 0.5, 0.5), "diverges"),
        (figures(1.0, None, 1.0), figures(0.5, 0.5, 0.5), "diverges"),
    ],
)
def test_a_cell_counts_only_if_all_blocks_agree(first: Figures, second: Figures, outcome: str) -> None:
    change = compare(first, second, "fd")
    assert change is not None and change.outcome == outcome


def test_a_comparison_is_paired_and_can_be_of_what_is_finite() -> None:
    change = compare(figures(1.0, 2.0, 3.0), figures(0.5, 1.5, 2.5), "fd")
    assert change is not None
    assert (change.lower, change.blocks, change.difference, change.sd) == (3, 3, -0.5, 0.0)
    assert change.ratio == pytest.approx(0.75)
    rest = compare(figures(1.0, 1.0), figures(0.5, 0.5, non_finite=3), "fd", rest=True)
    assert rest is not None and rest.outcome == "lower"
    assert compare(None, figures(1.0, 1.0), "fd") is None
    assert compare(figures(1.0, 1.0), figures(1.0, 1.0), "rmse") is None  # noise is drawn
    assert compare(figures(1.0, 1.0), figures(1.0, 1.0, 1.0), "fd") is None  # other blocks


def test_a_preset_of_zero_is_the_plain_sampler(read: Callable[..., SuiteData]) -> None:
    pair = read().parts[0].curve("dpmpp-2m", "linspace")[8]
    assert pair.gain == 0 and pair.lml is pair.plain is not None


def test_heun_stands_for_the_cost_above_its_own(read: Callable[..., SuiteData]) -> None:
    data = read().parts[0]
    pair = data.curve("heun", "linspace")[8]
    assert pair.cell.nfe == 7 and pair.gain is None
    assert {p.cell.nfe for p in data.at(8) if p.cell.sampler == "heun"} == {7}


def test_missing_files_and_cells_are_named(part: Callable[..., Part], gaps: PartData, tmp_path: Path) -> None:
    nothing = read_suite(Suite("t", "T", (part(), part("other", first_seed=900))), tmp_path).parts[0]
    assert len(nothing.missing) == len(nothing.expected) and not nothing.figures
    assert nothing.seeds() == "3 blocks of 128 images, seeds 100 to 483"
    assert [cell.key for cell in gaps.missing] == ["ddim|leading|zero|8|gain=1"]
    pair = gaps.curve("ddim", "leading")[8]
    assert pair.ends == 0.0123 and pair.lml is None
    assert pair.plain is not None and pair.plain.blocks("rmse") is None and pair.plain.mean("rmse") is None


def test_the_best_grid_is_that_of_the_part_that_is_named(
    read: Callable[..., SuiteData], part: Callable[..., Part]
) -> None:
    named: dict[str, Any] = {"grids": ("default", "best"), "best_of": "analytic"}
    data = read(part(), part("net", model="embedded", samplers=("dpmpp-2m", "ddim"), **named)).parts[1]
    assert data.best == {"dpmpp-2m": "karras", "ddim": "leading"}
    assert [list(data.curves(name)) for name in data.part.samplers] == [["linspace", "karras"], ["leading"]]


def test_cells_are_found_in_parts_of_the_same_seeds_alone(
    read: Callable[..., SuiteData], part: Callable[..., Part]
) -> None:
    cell = Cell("ddim", "leading", "zero", 8)
    noise = part("noise", samplers=("ddim",), grids=("default",), nfe=(8,), arms=("eta=0.5", "release=float32"))
    data = read(part("net", samplers=("ddim",)), noise)
    assert [data.kind(p) for p in data.parts] == ["matrix", "noise"]
    assert data.arms(data.parts[1]) == ["plain", "preset", "eta=0.5", "release=float32"]
    assert data.find(data.parts[1], cell) is data.parts[0].figures[cell.key]
    other = read(part("net", samplers=("ddim",), first_seed=7), noise)
    assert other.find(other.parts[1], cell) is None


def test_a_part_of_the_same_seeds_in_another_dtype_is_a_check(
    read: Callable[..., SuiteData], part: Callable[..., Part]
) -> None:
    half = part("half", model="embedded", dtype="bfloat16", samplers=("ddim",))
    data = read(half, part("single", model="embedded", samplers=("ddim",), nfe=(8,)))
    assert [data.kind(p) for p in data.parts] == ["matrix", "dtype"]
    assert data.other_dtype(data.parts[1]) is data.parts[0]
    other = read(half, part("single", model="embedded", samplers=("ddim",), nfe=(8,), first_seed=5000))
    assert [other.kind(p) for p in other.parts] == ["matrix", "matrix"]


def test_the_deviations_of_the_release_are_read(tmp_path: Path) -> None:
    values = {"size": 3072, "damping": 1e-3, "spread": 0.01, "nan_share": 0.25}
    rows = [values | {"dtype": "float32", "deviation": 0.15, "agreement": 0.004, "unknown": 1},
            values | {"dtype": "float16", "deviation": None, "agreement": None}]  # fmt: skip
    record = {"format": FORMAT, "command": "c", "versions": {}, "first_seed": 1, "settings": {}, "rows": rows}
    (tmp_path / "s-identity.json").write_text(json.dumps(record))
    assert read_suite(Suite("s", "S", ()), tmp_path).identity == (
        Deviation("float32", 3072, 1e-3, 0.15, 0.01, 0.25, 0.004),
        Deviation("float16", 3072, 1e-3, None, 0.01, 0.25, None),
    )


def test_a_file_that_is_no_result_file_is_refused(part: Callable[..., Part], tmp_path: Path) -> None:
    (tmp_path / "s-analytic.json").write_text("{}")
    with pytest.raises(LMLError, match="no result file"):
        read_suite(Suite("s", "S", (part(),)), tmp_path)

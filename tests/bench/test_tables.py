from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lmlangevin.bench import findings, tables
from lmlangevin.bench.cells import Cell
from lmlangevin.bench.release import Deviation
from lmlangevin.bench.results import PartData, SuiteData, read_suite
from lmlangevin.bench.suite import Part, Suite

CellsOf = Callable[..., list[str]]
Read = Callable[..., SuiteData]
MakePart = Callable[..., Part]
Row = dict[str, Any]

NOISE = {"samplers": ("ddim",), "grids": ("default",), "nfe": (8,)}
ARMS = ("eta=0.5", "release=float32", "release=float64@0.003")


@pytest.mark.parametrize(
    ("value", "text"),
    [
        *[(0.1234, "0.123"), (0.1, "0.100"), (9.996, "10.0"), (1234.4, "1234"), (0.00012345, "0.000123")],
        *[(3.14e-7, "3.14e-07"), (0.0, "0"), (-0.5, "-0.500"), (25000.0, "2.50e+04")],
    ],
)
def test_numbers_have_three_significant_digits(value: float, text: str) -> None:
    assert tables.number(value) == text


def test_a_spread_has_the_decimals_of_its_mean() -> None:
    assert tables.with_sd([1.0, 1.1, 1.2]) == "1.10 ± 0.10"
    assert tables.with_sd([-0.001, 0.5, -0.5]) == "-0.000 ± 0.500"


def test_a_cosine_of_nothing_has_no_sign() -> None:
    assert [tables.cosine(value) for value in (-0.004, 0.004, -0.126, 1.0)] == ["0.00", "0.00", "-0.13", "1.00"]


def test_a_preset_of_zero_is_shown_as_the_plain_sampler(read: Read, cells_of: CellsOf) -> None:
    data = read().parts[0]
    assert cells_of(tables.matrix_table(data, 8), "DPM-Solver++(2M)", "linspace")[-3:] == [
        "= plain", "0.404 ± 0.004", "= plain",
    ]  # fmt: skip
    assert "DPM-Solver++(2M)" not in tables.census_table(findings.census(data, "rmse"), "sampler")
    assert "plain, and LML: gain 0" in tables.curve_table(data, "rmse")


def test_heun_is_shown_at_its_nearest_lower_cost_and_says_so(read: Read, cells_of: CellsOf) -> None:
    def best_is_heun(part: Part, cell: Cell, row: Row) -> Row:
        return row | {"rmse": [0.001] * 3, "fd": [0.001] * 3} if cell.sampler == "heun" else row

    data = read(edit=best_is_heun).parts[0]
    assert cells_of(tables.best_table(findings.best_cells(data, "rmse"), "rmse"), "8")[1] == "Heun, linspace (at 7)"
    assert cells_of(tables.curve_table(data, "fd"), "Heun")[2:5] == [
        "plain (no LML)",
        "0.00100 (at 5)",
        "0.00100 (at 7)",
    ]
    assert cells_of(tables.matrix_table(data, 8), "Heun", "linspace")[3:5] == ["7", "no LML"]


def test_the_best_plain_cell_stands_beside_the_best_one_with_lml(read: Read, cells_of: CellsOf) -> None:
    line = cells_of(tables.best_table(findings.best_cells(read().parts[0], "rmse"), "rmse"), "10")
    # The error is 6.4 / 100 on the default grid: half of it on karras, three quarters of it with LML.
    assert line == [
        "10",
        "DPM-Solver++(2M), karras",
        "0.0323 ± 0.0003",
        "DDIM, leading, gain 1",
        "0.0485 ± 0.0005",
        "1.50, 0 of 3",
    ]


def test_samplers_that_draw_noise_have_a_distance_and_no_error(read: Read, part: MakePart, cells_of: CellsOf) -> None:
    data = read(part(gains={"sde-dpmpp-2m": 0.2})).parts[0]
    line = cells_of(tables.matrix_table(data, 8), "SDE-DPM-Solver++(2M)", "linspace")
    assert line[4:] == ["0.2", "-", "-", "-", "0.404 ± 0.004", "0.303 ± 0.003"]
    assert "SDE" not in tables.curve_table(data, "rmse") and "SDE" in tables.curve_table(data, "fd")


def test_what_is_missing_or_not_finite_is_said(
    part: MakePart, gaps: PartData, cells_of: CellsOf, tmp_path: Path
) -> None:
    nothing = read_suite(Suite("t", "T", (part(),)), tmp_path).parts[0]
    assert cells_of(tables.matrix_table(nothing, 8), "DDIM", "leading")[-4:] == ["missing"] * 4
    best = tables.best_table(findings.best_cells(nothing, "rmse"), "rmse")
    assert cells_of(best, "8") == ["8", "missing", "-", "missing", "-", "-"]
    line = cells_of(tables.matrix_table(gaps, 8), "DDIM", "leading")
    assert line[5:] == ["0.0123", "not finite", "missing", "0.404 ± 0.004", "missing"]


def test_the_census_is_taken_apart_and_what_got_worse_is_listed(uneven: PartData, cells_of: CellsOf) -> None:
    whole = findings.census(uneven, "rmse")
    table = tables.harmed_table(whole)
    assert cells_of(table, "DDIM, leading", "1", "15")[-2:] == ["LML diverges", "-"]
    assert cells_of(table, "DDIM, leading", "1", "12")[-2:] == ["1.50", "3 of 3"]
    assert cells_of(table, "DDIM, leading", "1", "20")[-1] == "2 of 3"
    assert cells_of(tables.census_table(whole, "NFE"), "12") == ["12", "0", "0", "0", "1", "0", "0", "1.50"]
    assert cells_of(tables.census_table(whole, "sampler"), "DDIM")[1:7] == ["1", "1", "1", "2", "1", "0"]


def test_curves_say_which_grid_they_are_on(read: Read, part: MakePart, cells_of: CellsOf) -> None:
    asked: Row = {"grids": ("default", "best"), "best_of": "analytic", "samplers": ("dpmpp-2m", "ddim")}
    table = tables.curve_table(read(part(), part("net", model="embedded", **asked)).parts[1], "rmse")
    assert cells_of(table, "DPM-Solver++(2M)", "karras (best)")
    assert cells_of(table, "DPM-Solver++(2M)", "linspace (default)")
    assert cells_of(table, "DDIM", "leading (default and best)")
    assert cells_of(table, "", "", "LML, 1")[4] == "0.0758"


def test_an_order_says_what_it_was_fitted_over(read: Read, cells_of: CellsOf) -> None:
    table = tables.order_table(findings.orders(read().parts[0]))
    assert cells_of(table, "DDIM") == ["DDIM", "leading", "10, 12, 15, 20", *["2.00", "2.00 ± 0.00"] * 2]
    assert cells_of(table, "Heun", "linspace")[2:] == ["11, 15, 19", "2.00", "2.00 ± 0.00", "-", "-"]


def test_injected_noise_stands_beside_the_plain_cells_of_the_same_seeds(
    read: Read, part: MakePart, cells_of: CellsOf
) -> None:
    noise = part("noise", model="embedded", arms=ARMS, **NOISE)
    data = read(part("net", model="embedded", samplers=("ddim",)), noise)
    table = tables.noise_table(data, data.parts[1], 8)
    assert cells_of(table, "DDIM", "leading", "plain")[3:] == ["0.404 ± 0.004", "0.101 ± 0.001", "0.0500", "0", "0"]
    assert cells_of(table, "DDIM", "leading", "LML, preset")[3] == "0.303 ± 0.003"
    assert cells_of(table, "DDIM", "leading", "eta=0.5")[3:] == ["0.404 ± 0.004", "-", "-", "0", "0"]
    assert cells_of(table, "DDIM", "leading", "release, float32, lambda of its README")
    assert cells_of(table, "DDIM", "leading", "release, float64, lambda 0.003")
    medians = tables.noise_curve_table(data, data.parts[1], tables.median_text, "-")
    assert cells_of(medians, "DDIM", "leading", "plain")[3:] == ["0.0500"] and "eta" not in medians
    assert tables.noise_curve_table(data, data.parts[1], tables.broken_text, "0 + 0") == ""
    other = read(part("net", samplers=("ddim",), first_seed=7), part("noise", arms=ARMS, **NOISE))
    assert cells_of(tables.noise_table(other, other.parts[1], 8), "DDIM", "leading", "plain")[3] == "missing"


def test_two_dtypes_stand_side_by_side(read: Read, part: MakePart, cells_of: CellsOf) -> None:
    half = part("half", model="embedded", dtype="bfloat16", samplers=("ddim",))
    single = part("single", model="embedded", samplers=("ddim",), nfe=(8,))

    def rounded(part: Part, cell: Cell, row: Row) -> Row:
        return row | {"fd": [v * 1.01 for v in row["fd"]]} if part.name == "half" else row

    data = read(half, single, edit=rounded)
    line = cells_of(tables.dtype_table(data.parts[1], data.parts[0]), "DDIM, leading", "8")
    assert line[2:] == ["0.408 ± 0.004", "0.404 ± 0.004", "-0.00404 ± 0.00004", "-0.99%"]


def test_the_headline_pairs_blocks_and_keeps_the_two_sizes_apart(read: Read, part: MakePart, cells_of: CellsOf) -> None:
    asked = part("headline", model="embedded", measures=("fd",), nfe=(8,), blocks=4, images=1000, grids=("default",))
    table = tables.headline_table(read(asked).parts[0])
    assert "FD of all 4000 plain" in table
    assert cells_of(table, "DDIM")[3:] == [
        "1", "0.406 ± 0.005", "0.305 ± 0.004", "-0.101 ± 0.001, lower in 4 of 4", "0.100", "0.0750",
    ]  # fmt: skip
    assert cells_of(table, "DPM-Solver++(2M)")[5:7] == ["= plain", "unchanged"]


def test_the_formula_of_the_release_has_a_line_a_setting(cells_of: CellsOf) -> None:
    rows = [Deviation("float32", 3072, 1e-3, 0.15, 0.01, 0.25, 0.004),
            Deviation("float16", 65536, 1e-3, None, None, 1.0, None)]  # fmt: skip
    table = tables.identity_table(rows)
    assert cells_of(table, "float32") == ["float32", "3072", "0.001", "0.150", "0.0100", "25.0%", "0.00"]
    assert cells_of(table, "float16")[3:] == ["-", "-", "100.0%", "-"]


def test_tables_and_the_page_need_no_matplotlib() -> None:
    code = "import sys, lmlangevin.bench.page; print([n for n in sys.modules if n.startswith('matplotlib')])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout.strip()) == (0, "[]"), done.stderr

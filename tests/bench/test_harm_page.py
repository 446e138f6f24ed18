from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from lmlangevin.bench import harm_tables, page
from lmlangevin.bench.cells import Cell
from lmlangevin.bench.figures import images_folder, planned
from lmlangevin.bench.harm import calibrated_cells, measure_harm
from lmlangevin.bench.harm_page import calibrated_words
from lmlangevin.bench.results import SuiteData, read_suite
from lmlangevin.bench.runner import result_path
from lmlangevin.bench.suite import Part, Suite

Row = dict[str, Any]
Read = Callable[..., SuiteData]
MakePart = Callable[..., Part]
CellsOf = Callable[..., list[str]]
SAMPLERS = ("ddim", "euler", "flow-euler")


@pytest.fixture
def suite(part: MakePart) -> Suite:
    arms = ("plain", "control=adaptive")
    both: dict[str, Any] = {"samplers": SAMPLERS, "grids": ("all",), "blocks": 5, "arms": arms}
    path = {"model": "somewhere/else/mixture.safetensors", "make": "python tools/fit_mixture.py --out somewhere/else"}
    return Suite("c", "Controls", (part(**both), part("held-out", **both | path)))


def change(part: Part, cell: Cell, row: Row) -> Row:
    """A control that lowers by a fifth; harms one cell, loses another, and one plain cell breaks by itself."""
    place = (cell.sampler, cell.grid, cell.nfe)
    if place == ("euler", "beta", 6) and not cell.control:
        return row | {"wild": 3}
    if not cell.control:
        return row
    factor = {("euler", "karras", 8): 2.0, ("ddim", "leading", 10): 1.05}.get(place, 0.8)
    spread = 0.2 if factor == 1.05 else 0.001
    out = row | {m: [v * (factor + spread * (k - 2)) for k, v in enumerate(row[m])] for m in ("rmse", "fd")}
    return out | ({"non_finite": 2} if place == ("ddim", "trailing", 20) else {})


def calibrated(folder: Path, suite: Suite, errors: dict[int, float]) -> SuiteData:
    """Add calibrated cells to the first part's file, and read the suite."""
    path = result_path(folder, suite, suite.parts[0])
    record = json.loads(path.read_text())
    for sampler in ("euler", "flow-euler"):
        for nfe, error in errors.items():
            row = {"non_finite": 0, "rmse": [error] * 5, "fd": [4 * error] * 5, "rmse_median": error}
            record["cells"][f"{sampler}|fitted||{nfe}|control=calibrated"] = row
    path.write_text(json.dumps(record))
    return read_suite(suite, folder)


def test_the_page_of_controls_says_whether_they_do_harm(
    suite: Suite, write: Callable[..., None], tmp_path: Path, cells_of: CellsOf
) -> None:
    write(tmp_path, suite, change)
    text = page.render_page(suite, tmp_path)
    assert text == page.render_page(suite, tmp_path)
    assert re.findall(r"^##? (.*)$", text, flags=re.M) == [
        "Do no harm", "What was run", "In short", "Analytic model: what controls do",
        "Mixture else: what controls do", "How to read the figures", "To run it again, and to add to it",
    ]  # fmt: skip
    assert "- The adaptive control harms 8 of " in text
    short = next(line for line in text.splitlines() if line.startswith("- On the analytic model: by RMSE"))
    assert "does harm in 2 and better in" in short and "though in 1 of them the mean is more than 2% higher" in short
    assert "the median ratio is 0.800, which is at most the 0.95 that is asked for." in short
    assert "Harmed cells: 2." in text
    assert cells_of(text, "Euler, karras", "8")[4:6] == ["2.00 ± 0.00", "5 of 5"]
    assert cells_of(text, "DDIM, leading", "10")[4] == "1.05 ± 0.32"
    assert "itself has images that are not finite or wild: Euler, beta, 6 evaluations." in text
    assert "presets" not in text and "LML" not in text.replace("lmlangevin", "")
    assert "`else` is another mixture" in text and "Made by `python tools/fit_mixture.py --out somewhere/else`" in text
    assert "mixture:else" in text and "somewhere/else/mixture" not in text
    assert text.count("<details>") == text.count("</details>")


def test_a_control_that_harms_nothing_is_said_to(suite: Suite, write: Callable[..., None], tmp_path: Path) -> None:
    write(tmp_path, suite)
    text = page.render_page(suite, tmp_path)
    assert "The adaptive control harms none of " in text and "Harmed cells:" not in text
    assert "the median ratio is 1.00, which is above the 0.95 that is asked for." in text


def test_parts_that_were_not_run_and_few_blocks_are_named(
    suite: Suite, part: MakePart, write: Callable[..., None], tmp_path: Path
) -> None:
    text = page.render_page(suite, tmp_path)
    assert text.count("This part was not run yet.") == 2 and "## In short" not in text and "![" not in text
    few = Suite("f", "F", (part(samplers=("ddim",), arms=("plain", "control=adaptive")),))
    write(tmp_path, few)
    assert "3 blocks are fewer than the 5 that a verdict asks for." in page.render_page(few, tmp_path)


def test_the_picture_is_written_where_the_page_shows_it(
    suite: Suite, write: Callable[..., None], tmp_path: Path
) -> None:
    write(tmp_path, suite, change)
    out = page.write_page(suite, tmp_path, tmp_path / "docs" / "control.md")
    links = re.findall(r"!\[[^\]]+\]\(([^)]+)\)", out.read_text(encoding="utf-8"))
    assert links == ["images/control/c-analytic-adaptive.png", "images/control/c-held-out-adaptive.png"]
    with Image.open(out.parent / links[0]) as picture:
        pixels = picture.convert("RGB")
    assert pixels.width == 900 and 300 < pixels.height < 1500 and (out.parent / links[0]).stat().st_size < 150_000
    colours = {colour for _, colour in pixels.getcolors(1 << 24) or ()}
    assert any(r > 80 and g < 40 and b < 60 for r, g, b in colours), "the harmed cells are dark red"


def test_controls_beside_presets_have_a_section_of_their_own(
    part: MakePart, write: Callable[..., None], tmp_path: Path
) -> None:
    suite = Suite("b", "B", (part(samplers=("ddim",), arms=("plain", "preset", "control=adaptive")),))
    write(tmp_path, suite)
    data = read_suite(suite, tmp_path)
    assert data.kind(data.parts[0]) == "matrix" and not data.controls_alone
    assert images_folder(data) == "images/benchmarks"
    assert {plan.kind for plan in planned(data)} >= {"default", "harm"}
    text = page.render_page(suite, tmp_path)
    assert text.startswith("# Benchmarks") and "## Analytic model\n" in text and "what controls do" in text
    assert text.count("b-analytic-adaptive.png") == 1


def test_counts_are_by_cost_and_over_ranges(suite: Suite, write: Callable[..., None], tmp_path: Path,
                                            cells_of: CellsOf) -> None:  # fmt: skip
    write(tmp_path, suite, change)
    harm = measure_harm(read_suite(suite, tmp_path).parts[0], "adaptive", "rmse")
    table = harm_tables.counts_table(harm)
    at = {nfe: cells_of(table, str(nfe)) for nfe in (8, 10)}
    assert at[8][4] == "1" and at[8][-1] == "2.00"
    assert at[10][3:6] == ["1", "0", "1"]
    assert cells_of(table, "6 to 15")[1] == str(len(harm.few.effects)) and cells_of(table, "6 to 20")
    assert cells_of(harm_tables.sampler_table(harm), "karras")[4] == "1"


def test_each_sampler_is_compared_on_its_best_grids(suite: Suite, write: Callable[..., None], tmp_path: Path,
                                                    cells_of: CellsOf) -> None:  # fmt: skip
    write(tmp_path, suite, change)
    table = harm_tables.best_by_sampler_table(read_suite(suite, tmp_path).parts[0], "adaptive", "rmse")
    # At 8 evaluations its best grid is the one that is harmed: what is left is as good as that was.
    assert cells_of(table, "Euler")[1:] == ["0.800", "1.60", "0.800", "0.800", "0.800", "0.800"]


def test_calibrations_stand_beside_the_best_plain_cells(
    suite: Suite, write: Callable[..., None], tmp_path: Path, cells_of: CellsOf
) -> None:
    write(tmp_path, suite)
    # The best plain cells have 3.2 / nfe^2, 2% more for the mean of the blocks: 0.0907 at 6, 0.051 at 8, 0.0326 at 10.
    data = calibrated(tmp_path, suite, {6: 0.05, 8: 0.03, 10: 0.02})
    found = {(measure, flow): best for measure, flow, best in calibrated_cells(data.parts[0])}
    assert set(found) == {("rmse", False), ("fd", False), ("rmse", True), ("fd", True)}
    table = harm_tables.calibrated_table(found["rmse", False], "rmse")
    assert cells_of(table, "8")[1:5] == ["Euler", "0.0300 ± 0.0000", "Euler, karras", "0.0510 ± 0.0008"]
    assert cells_of(table, "8")[5:] == ["0.588, 5 of 5", "0.919, 5 of 5"]
    assert len(table.splitlines()) == 2 + 3
    words = calibrated_words(found["rmse", False], "rmse")
    assert "the best cell with a calibration is below the best plain cell at 3 of 3 costs" in words
    assert words.endswith("A calibration of 8 evaluations is as low as the best plain cell at 10.")
    text = page.render_page(suite, tmp_path)
    assert "### Calibrations" in text and "On the analytic model, flow matching: by RMSE" in text
    weak = calibrated(tmp_path, suite, {6: 0.5, 8: 0.5, 10: 0.5})
    words = calibrated_words(calibrated_cells(weak.parts[0])[0][2], "rmse")
    assert words.endswith("No calibration is as low as the best plain cell at 10.")

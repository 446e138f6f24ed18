from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from lmlangevin.bench import page
from lmlangevin.bench.cells import Cell
from lmlangevin.bench.figures import planned
from lmlangevin.bench.results import read_suite
from lmlangevin.bench.runner import FORMAT, result_path
from lmlangevin.bench.suite import Identity, Part, Suite
from lmlangevin.bench.words import ROUNDING
from lmlangevin.core import LMLError

COMMON: dict[str, Any] = {"blocks": 3, "images": 128, "first_seed": 100}
ANALYTIC = Part(
    name="analytic",
    model="analytic-cifar10",
    samplers=("ddim", "dpmpp-2m", "sde-dpmpp-2m", "heun", "flow-euler"),
    grids=("leading", "trailing", "linspace", "karras", "shift-3"),
    nfe=(6, 8, 10, 20, 50),
    gains={"sde-dpmpp-2m": 0.2},
    **COMMON,
)
NOISE = Part(
    name="noise",
    model="analytic-cifar10",
    samplers=("ddim",),
    grids=("default",),
    nfe=(6, 8, 10),
    arms=("plain", "preset", "eta=0.5", "eta=1", "release=float32", "release=float64"),
    **COMMON,
)
NETWORK = Part(
    name="embedded",
    model="embedded",
    samplers=("ddim", "euler"),
    grids=("default",),
    nfe=(8,),
    dtype="bfloat16",
    **COMMON,
)
SINGLE = replace(NETWORK, name="single", dtype="float32", measures=("fd",))
HEADLINE = replace(NETWORK, name="headline", measures=("fd",), blocks=4, images=1000)
SUITE = Suite(
    "s",
    "The suite",
    (ANALYTIC, NOISE, NETWORK, SINGLE, HEADLINE),
    Identity(sizes=(3072,), lambdas=(1e-3, 5e-3), dtypes=("float32",), samples=4, seed=1),
)
Edit = Callable[[Cell, dict[str, Any]], dict[str, Any] | None]


def write(folder: Path, edit: Edit = lambda cell, row: row, *, lml: float = 0.8) -> None:
    """Write made-up figures: with LML `lml` of the plain ones; the release acts in float32 alone."""
    for part in SUITE.parts:
        cells = {}
        for cell in part.cells():
            error = 2 / cell.nfe * (lml if cell.gain else 1) * {"leading": 2, "trailing": 3}.get(cell.grid, 1)
            error *= 0.5 if cell.sampler == "dpmpp-2m" else 1
            distance = error * (0.5 if cell.release.startswith("float32") else 0.6 if cell.eta else 1)
            error *= 2 if cell.release.startswith("float32") else 1
            scale = [1 + 0.05 * k for k in range(part.blocks)]
            row: dict[str, Any] = {"non_finite": 0, "fd": [distance * s for s in scale], "fd_all": distance / 2}
            if not cell.eta and cell.sampler != "sde-dpmpp-2m":
                row |= {"rmse": [error * s for s in scale], "rmse_median": error}
            if changed := edit(cell, row):
                cells[cell.key] = changed
        record = {
            "format": FORMAT, "command": "lml bench --suite s", "versions": {"torch": "2.0", "diffusers": "0.42"},
            "settings": part.settings(), "cells": cells, "converged": {"vp": {"fd": [0.02, 0.03, 0.04]}},
            "ends": {"ddim|leading|zero|8": 0.0123},
        }  # fmt: skip
        result_path(folder, SUITE, part).write_text(json.dumps(record))
    shape = {"dtype": "float32", "size": 3072, "spread": 0.01, "nan_share": 0.02}
    rows = [shape | {"damping": 1e-3, "deviation": 0.15, "agreement": 0.01},
            shape | {"damping": 5e-3, "deviation": 0.03, "agreement": -0.02}]  # fmt: skip
    record = {"format": FORMAT, "command": "lml bench --suite s", "versions": {}, "settings": {}, "rows": rows}
    (folder / "s-identity.json").write_text(json.dumps(record))


def sentence(text: str, start: str) -> str:
    """Return the line that holds a text."""
    found = [line for line in text.splitlines() if start in line]
    assert found, f"no line with {start!r}"
    return found[0]


def test_the_page_depends_on_the_result_files_alone(tmp_path: Path) -> None:
    write(tmp_path)
    text = page.render_page(SUITE, tmp_path)
    assert text == page.render_page(SUITE, tmp_path)
    headings = re.findall(r"^## (.*)$", text, flags=re.M)
    assert headings == [
        "What was run", "In short", "The headline", "Analytic model", "Network", "The paper's release",
        "Injected noise", "bfloat16 against float32", "What LML does not improve", "How to read the figures",
        "To run it again, and to add to it",
    ]  # fmt: skip
    assert "not complete" not in text and "| missing" not in text
    assert "torch 2.0, diffusers 0.42" in text and "`lml bench --suite s`" in text
    assert "seeds 100 to 483" in text and "4 blocks of 1000 images" in text
    assert text.count("<details>") == text.count("</details>") > 5


def test_a_page_of_nothing_says_what_is_missing(tmp_path: Path) -> None:
    text = page.render_page(SUITE, tmp_path)
    assert "**This page is not complete.**" in text
    for name in ("analytic", "noise", "embedded", "single", "headline", "identity"):
        assert f"- {name}: there is no result file yet." in text
    assert "was not run yet" in text and "![" not in text and "## In short" not in text


def test_an_interrupted_part_gives_a_partial_page(tmp_path: Path) -> None:
    def half(cell: Cell, row: dict[str, Any]) -> dict[str, Any] | None:
        if cell.sampler == "ddim" and cell.nfe == 8:
            return row | {"non_finite": 200, "rmse": [None, 0.1, 0.1], "fd": [None, 0.1, 0.1]}
        return None if cell.nfe > 8 or cell.sampler == "euler" else row

    write(tmp_path, half)
    text = page.render_page(SUITE, tmp_path)
    assert re.search(r"^- analytic: \d+ of \d+ cells are missing\.$", text, flags=re.M)
    assert "not finite" in text and "| missing |" in text
    assert "The headline" in text and "Over 4 blocks" not in text


def test_the_page_is_written_with_the_figures_that_it_shows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path)
    monkeypatch.setattr("lmlangevin.bench.figures.write_images", lambda data, path, model: path.write_bytes(b"PNG"))
    out = page.write_page(SUITE, tmp_path, tmp_path / "docs" / "page.md")
    text = out.read_text(encoding="utf-8")
    assert text == page.render_page(SUITE, tmp_path)
    links = re.findall(r"!\[[^\]]+\]\(([^)]+)\)", text)
    plans = [f"images/benchmarks/{plan.name}" for plan in planned(read_suite(SUITE, tmp_path))]
    assert sorted(links) == sorted(plans) and len(links) == 5
    assert all((out.parent / link).is_file() for link in links)
    assert sorted(path.name for path in out.parent.iterdir()) == ["images", "page.md"]


@pytest.mark.parametrize(
    ("lml", "words", "verdict", "census"),
    [
        (
            0.8,
            "lower in every block",
            "a cell with LML is ahead at most costs",
            "RMSE is lower in 30, higher in 0 of 30",
        ),
        (
            1.3,
            "higher in every block",
            "a plain sampler on a good grid is ahead at most costs",
            "lower in 0, higher in 30",
        ),
        (
            1.01,
            "within 2%",
            "neither is ahead at more costs than the other",
            "lower in 0, higher in 0, within 2% in 30",
        ),
    ],
)
def test_directions_are_those_of_the_figures(tmp_path: Path, lml: float, words: str, verdict: str, census: str) -> None:
    write(tmp_path, lml=lml)
    text = page.render_page(SUITE, tmp_path)
    headline = sentence(text, "Over 4 blocks of 1000 images")
    assert words in headline and f"lower in {4 if lml < 1 else 0} of 4" in headline
    flow = text[text.index("Flow matching, RMSE:") :]
    assert verdict in sentence(flow, "By RMSE, the best cell with LML")
    assert census in text
    harmed = 30 if lml > 1.02 else 0
    assert f"Cells whose RMSE LML raises by more than 2%: {harmed}" in text


def test_the_release_is_described_by_what_it_did(tmp_path: Path) -> None:
    write(tmp_path)
    text = page.render_page(SUITE, tmp_path)
    released = sentence(text, "The release on the analytic model")
    assert "in float64, RMSE and FD are equal to the plain sampler's in every recorded digit (3 cells)" in released
    assert "FD is lower in 3, higher in 0 of 3 cells" in released and "RMSE is lower in 0, higher in 3 of 3" in released
    assert ROUNDING in text and "In 3 of 3 float32 cells FD is lower and RMSE higher" in text
    assert (
        "- In float32 the deviation is 0.0300 to 0.150, and its direction is random (mean cosine -0.02 to 0.01)" in text
    )
    assert "it grows as lambda falls" in text and "no text that we can read says so" in text
    assert "the best eta" in sentence(text, "- DDIM, leading: the release in float32")

    def acts(cell: Cell, row: dict[str, Any]) -> dict[str, Any]:
        if cell.release.startswith("float64"):
            return row | {"fd": [v * 1.5 for v in row["fd"]]}
        return row | {"non_finite": 2} if cell.release else row

    write(tmp_path, acts)
    text = page.render_page(SUITE, tmp_path)
    released = sentence(text, "The release on the analytic model")
    assert "not the plain sampler's: they differ by up to 50.0%" in released
    assert "3 float32 cells have images that are not finite" in released and "0.52% of a cell" in released
    assert ROUNDING not in text


def test_what_lml_leaves_alone_is_named(tmp_path: Path) -> None:
    write(tmp_path)
    text = page.render_page(SUITE, tmp_path)
    limits = text[text.index("## What LML does not improve") :]
    assert "DPM-Solver++(2M) on trailing, linspace, karras" in sentence(limits, "A preset of 0 is the plain sampler")
    assert "Heun evaluates the network twice an interval and has no LML version." in limits
    assert "SDE-DPM-Solver++(2M) draws noise and has no preset. The suite gives it a gain of 0.2:" in limits
    assert "The preset of the best plain cell is 0 at 5 of 5 costs: LML leaves it as it is." in text


def test_dtypes_are_compared_in_figures(tmp_path: Path) -> None:
    write(tmp_path)
    text = page.render_page(SUITE, tmp_path)
    assert "4 cells were measured in both, on the same seeds. No mean FD differs by more than 0.00%." in text
    assert "FD with LML (gain 1) over plain is 0.800 in bfloat16 and 0.800 in float32." in text


def test_a_damaged_file_is_refused(tmp_path: Path) -> None:
    write(tmp_path)
    (tmp_path / "s-noise.json").write_text("not JSON")
    with pytest.raises(LMLError, match="cannot be read"):
        page.render_page(SUITE, tmp_path)

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import matplotlib
import pytest
from PIL import Image

from lmlangevin.bench import canvas, figures
from lmlangevin.bench.image_rows import shown_samplers
from lmlangevin.bench.results import SuiteData, read_suite
from lmlangevin.bench.runner import FORMAT, result_path
from lmlangevin.bench.suite import Part, Suite
from lmlangevin.core import LMLError

COMMON: dict[str, Any] = {"blocks": 3, "images": 128, "first_seed": 100}
ANALYTIC = Part(
    name="analytic",
    model="analytic-cifar10",
    samplers=("ddim", "dpmpp-2m", "euler", "heun", "flow-euler"),
    grids=("default", "karras"),
    nfe=(6, 8, 10, 20, 50),
    **COMMON,
)
NOISE = Part(
    name="noise",
    model="analytic-cifar10",
    samplers=("ddim", "flow-euler"),
    grids=("default",),
    nfe=(6, 8, 10),
    arms=("plain", "preset", "eta=0.5", "release=float32", "release=float64", "release=float32@0.003"),
    **COMMON,
)
NETWORK = Part(
    name="network",
    model="embedded",
    samplers=("ddim", "dpmpp-2m", "euler"),
    grids=("default",),
    nfe=(8,),
    **COMMON,
)
SUITE = Suite("s", "S", (ANALYTIC, NOISE, NETWORK))


def measured(
    folder: Path, *, nfe: tuple[int, ...] = (6, 7, 8, 9, 10, 19, 20, 49, 50), broken: bool = False
) -> SuiteData:
    """Made-up figures of the cells at some costs."""
    for part in SUITE.parts:
        cells: dict[str, Any] = {}
        for cell in part.cells():
            error = 2.0 / cell.nfe * (0.6 if cell.gain else 1) * (0.5 if cell.grid == "karras" else 1)
            values = [error * (1 + 0.05 * k) for k in range(3)]
            if cell.nfe in nfe:
                cells[cell.key] = {"non_finite": 0, "rmse_median": error, "rmse": values, "fd": values}
            if broken and cell.sampler == "ddim":
                cells[cell.key] = {"non_finite": 300, "wild": 1, "rmse": [None] * 3, "fd": [None] * 3}
        record = {"format": FORMAT, "command": "c", "versions": {}, "settings": part.settings(), "cells": cells}
        record["converged"] = {"vp": {"fd": [0.02, 0.03, 0.04]}}
        result_path(folder, SUITE, part).write_text(json.dumps(record))
    return read_suite(SUITE, folder)


def style() -> dict[str, Any]:
    # To read the backend is to choose one, which imports pyplot.
    return {key: matplotlib.rcParams[key] for key in matplotlib.rcParams if key != "backend"}


def test_every_figure_is_written_as_a_small_picture_of_the_right_width(tmp_path: Path, grey: Any) -> None:
    before = style()
    out = tmp_path / "a" / "b"
    paths = figures.write_figures(measured(tmp_path), out, lambda data: grey)
    assert [path.name for path in paths] == [
        "s-analytic-best.png", "s-analytic-default.png", "s-analytic-order.png", "s-noise-release.png",
        "s-network-images.png",
    ]  # fmt: skip
    assert sorted(out.iterdir()) == sorted(paths)  # no temporary file is left
    for path in paths:
        picture = Image.open(path)
        picture.load()
        assert (picture.width == 900 or path.name == "s-network-images.png") and 200 < picture.height < 1000
        assert path.stat().st_size < 120_000
        assert len(set(picture.convert("L").tobytes())) > 5
    assert style() == before and "matplotlib.pyplot" not in sys.modules


def test_only_what_was_measured_is_planned(tmp_path: Path) -> None:
    assert figures.planned(read_suite(SUITE, tmp_path)) == []
    assert figures.write_figures(read_suite(SUITE, tmp_path), tmp_path / "out") == []
    plans = figures.planned(measured(tmp_path, nfe=(6, 8)))
    assert [plan.kind for plan in plans] == ["images"]  # two costs are no curve


def test_cells_without_finite_images_leave_a_gap_and_no_error(tmp_path: Path, grey: Any) -> None:
    data = measured(tmp_path, broken=True)
    paths = figures.write_figures(data, tmp_path / "out", lambda data: grey)
    assert len(paths) == 5
    assert shown_samplers(data.parts[2]) == ["ddim", "euler"]


def test_a_curve_that_leaves_the_picture_says_how_high_it_goes() -> None:
    _, ((plain, lml),) = canvas.new_axes(1, 2, height=3)
    plain.plot([5, 10], [1.0, 0.5])
    lml.plot([5, 10], [400.0, 0.5], label="DDIM")
    figures._share_y([plain, lml])
    figures._cap([plain, lml], plain.lines)
    assert plain.get_ylim()[1] == lml.get_ylim()[1] == 3.0
    assert [text.get_text() for text in lml.texts] == ["DDIM: up to 400"] and not plain.texts


def test_every_sampler_has_a_look_of_its_own() -> None:
    from lmlangevin.schedulers.names import SCHEDULERS

    assert set(figures.LOOKS) == set(SCHEDULERS)
    assert len(set(figures.LOOKS.values())) == len({colour for colour, _ in figures.LOOKS.values()}) == len(SCHEDULERS)


def test_without_matplotlib_the_error_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = measured(tmp_path)
    monkeypatch.setitem(sys.modules, "matplotlib.backends.backend_agg", None)
    with pytest.raises(LMLError, match=r"run pip install .*\[bench\]'"):
        figures.write_figures(data, tmp_path / "out")

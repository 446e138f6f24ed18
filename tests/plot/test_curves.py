from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from lmlangevin.bench import runner
from lmlangevin.core import LMLError
from lmlangevin.evaluation import result as fid_result
from lmlangevin.plot import plot, sources
from lmlangevin.plot.curves import Panel, draw_curves, panels
from lmlangevin.plot.sources import Job, Result, read_source
from lmlangevin.reproduce import record

RESULTS = Path(__file__).parents[2] / "benchmarks" / "results"
MakeJob = Callable[..., Path]


def panels_of(*paths: Path) -> list[Panel]:
    read = [read_source(path) for path in paths]
    return panels([r for r in read if isinstance(r, Job)], [r for r in read if isinstance(r, Result)])


def written(path: Path, content: Any) -> Path:
    path.write_text(json.dumps(content))
    return path


def bench(path: Path, cells: dict[str, dict[str, Any]], **settings: Any) -> Path:
    about = {"model": "embedded", "dtype": "float32", "blocks": 2, "images": 8, "first_seed": 5, **settings}
    return written(path, {"format": runner.FORMAT, "settings": about, "cells": cells})


def test_the_formats_are_those_of_the_modules_that_write_them() -> None:
    assert (sources.BENCH, sources.REPRODUCE, sources.FID) == (runner.FORMAT, record.FORMAT, fid_result.FORMAT)
    assert sources.RESULT == record.RESULT


def test_a_benchmark_gives_a_line_a_sampler_and_arm_on_the_default_grid(tmp_path: Path) -> None:
    cells = {
        "ddim|leading|zero|6|plain": {"non_finite": 0, "rmse": [0.2, 0.3], "fd": [3.0, 4.0]},
        "ddim|leading|zero|8|plain": {"non_finite": 0, "rmse": [0.1, 0.2], "fd": [2.0, 3.0]},
        "ddim|leading|min|8|plain": {"non_finite": 0, "rmse": [0.7, 0.8], "fd": [7.0, 8.0]},
        "ddim|trailing|zero|8|plain": {"non_finite": 0, "rmse": [0.9, 0.9], "fd": [9.0, 9.0]},
        "ddim|leading|zero|8|gain=0.5": {"non_finite": 0, "rmse": [0.05, 0.06], "fd": [1.0, 2.0]},
        "ddim|trailing|zero|8|gain=0.3": {"non_finite": 0, "rmse": [0.9, 0.9], "fd": [9.0, 9.0]},
        "euler|fitted||8|control=calibrated": {"non_finite": 0, "rmse": [0.02, 0.03], "fd": [0.5, 0.6]},
        "euler|karras||8|plain": {"non_finite": 0, "fd": [6.0, 7.0]},
        "unipc|linspace||8|plain": {"non_finite": 3, "rmse": [5.0, 5.0], "fd": [5.0, 5.0]},
        "unipc|linspace||6|plain": {"non_finite": 0, "wild": 1, "rmse": [5.0, 5.0], "fd": [5.0, 5.0]},
        "deis|linspace||8|plain": {"non_finite": 0, "rmse": [None, 0.1], "fd": [1.5, 1.6]},
    }
    rmse, fd = sorted(panels_of(bench(tmp_path / "a.json", cells)), key=lambda panel: -len(panel.measure))
    assert (rmse.measure, fd.measure) == ("RMSE", "FD")
    assert rmse.title == "embedded, float32, 2 blocks of 8 from seed 5"
    assert {name: curve.points for name, curve in rmse.curves.items()} == {
        "DDIM, leading, plain": {6: (0.2, 0.3), 8: (0.1, 0.2)},
        "DDIM, leading, LML, gain 0.5": {8: (0.05, 0.06)},
        "Euler, fitted, LML, calibrated": {8: (0.02, 0.03)},
    }
    # Where the default grid was not measured another one stands for the sampler; broken cells are left out.
    assert fd.curves["Euler, karras, plain"].points == {8: (6.0, 7.0)}
    assert set(fd.curves) - set(rmse.curves) == {"Euler, karras, plain", "DEIS, linspace, plain"}
    assert [curve.plain for curve in fd.curves.values()] == [name.endswith("plain") for name in fd.curves]


def test_files_share_a_panel_only_where_they_may_be_compared(tmp_path: Path) -> None:
    cell = {"non_finite": 0, "fd": [1.0, 2.0]}
    a = bench(tmp_path / "a.json", {"ddim|leading|zero|6|plain": cell})
    b = bench(tmp_path / "b.json", {"ddim|leading|zero|8|plain": cell})
    c = bench(tmp_path / "c.json", {"ddim|leading|zero|8|plain": cell}, images=9)
    shared, own = panels_of(a, b, c)
    assert shared.costs == [6, 8] and own.costs == [8]
    d = bench(tmp_path / "d.json", {"ddim|leading|zero|6|plain": {"non_finite": 0, "fd": [1.0, 3.0]}})
    with pytest.raises(LMLError, match="two values at 6"):
        panels_of(a, d)


def test_the_result_files_of_this_repository_can_be_read() -> None:
    path = RESULTS / "reproduce-cifar10-embedded.json"
    (panel,) = panels_of(path)
    rows = json.loads(path.read_text())["cells"]
    for cell, arm, name in (("ddim|8", "lml", "DDIM, LML"), ("unipc|10", "plain", "UniPC, plain")):
        points = panel.curves[name].points[rows[cell]["nfe"]]
        assert list(points) == rows[cell]["arms"][arm]["blocks"]


def fid_file(path: Path, made: str, run: str | None, value: float, blocks: list[float] | None = None) -> Path:
    split = None if blocks is None else {"n": len(blocks), "images_each": 2, "values": blocks}
    content = {
        "format": fid_result.FORMAT, "value": value, "protocol": {"name": "embedded-cifar10"}, "blocks": split,
        "generated": {"name": made, "run": run, "n": 4}, "reference": {"n": 50000}, "weight_hash": "0123456789",
    }  # fmt: skip
    return written(path, content)


def test_a_distance_stands_at_the_evaluations_of_the_job_that_it_measured(
    compared: Path, make_job: MakeJob, tmp_path: Path
) -> None:
    other = make_job("five", lml=False, steps=5)
    a = fid_file(tmp_path / "a.json", str(compared), "lml", 3.5, [3.0, 4.0])
    b = fid_file(tmp_path / "b.json", str(compared / "plain"), None, 3.75, [3.5, 4.5])
    c = fid_file(tmp_path / "c.json", str(other / "manifest.json"), "images", 2.5, [2.25, 2.5])
    (panel,) = panels_of(a, b, c)
    assert panel.measure == "FD" and "2 blocks of 2" in panel.title
    assert {name: curve.points for name, curve in panel.curves.items()} == {
        "DDIM, LML, gain 0.7": {3: (3.0, 4.0)},
        "DDIM, plain": {3: (3.5, 4.5), 5: (2.25, 2.5)},
    }
    gone = fid_file(tmp_path / "d.json", "nowhere", "lml", 3.5)
    with pytest.raises(LMLError, match="'nowhere'.*belongs to no job"):
        panels_of(gone)


def test_distances_of_jobs_are_drawn_from_two_costs_on(make_job: MakeJob, compared: Path, tmp_path: Path) -> None:
    def measured(job: Path, name: str, value: float) -> Job:
        manifest = json.loads((job / "manifest.json").read_text())
        manifest["frechet"] = {"protocol": "p", "weight_hash": "0123456789ab"}
        for run in manifest["runs"].values():
            run["frechet_distance"] = value
        folder = tmp_path / name
        folder.mkdir()
        for run in manifest["runs"]:
            (folder / run).symlink_to(job / run)
        (folder / "manifest.json").write_text(json.dumps(manifest))
        # Links lead outside, which a manifest must not.
        with pytest.raises(LMLError, match="not in its folder"):
            read_source(folder)
        for run in manifest["runs"]:
            (folder / run).unlink()
            (folder / run).mkdir()
            for image in (job / run).iterdir():
                (folder / run / image.name).write_bytes(image.read_bytes())
        found = read_source(folder)
        assert isinstance(found, Job)
        return found

    first = measured(compared, "first", 2.5)
    assert panels([first], []) == []
    second = measured(make_job("five", lml=False, steps=5), "second", 2.25)
    (panel,) = panels([first, second], [])
    assert panel.curves["DDIM, plain"].points == {3: (2.5,), 5: (2.25,)}
    assert panel.title == "analytic-cifar10, 4 images, p, features 01234567"


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({"rows": []}, "neither a manifest nor a result"),
        ([1], "neither a manifest nor a result"),
        ({"format": runner.FORMAT, "rows": [1]}, "no measured cells"),
        ({"format": runner.FORMAT, "cells": {"ddim|leading|zero|6|plain": {"fd": [1.0]}}}, "damaged"),
        ({"format": runner.FORMAT, "settings": {}, "cells": {"nonsense": {}}}, "damaged"),
        ({"format": fid_result.FORMAT}, "damaged"),
        ({"format": record.FORMAT, "cells": {"a": {}}}, "damaged"),
    ],
)
def test_a_file_that_is_no_result_is_refused(content: Any, words: str, tmp_path: Path) -> None:
    with pytest.raises(LMLError, match=words) as caught:
        plot([written(tmp_path / "x.json", content)], out=tmp_path / "plots")
    assert "\n" not in str(caught.value) and not (tmp_path / "plots").exists()


def test_what_is_not_there_or_no_json_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x.json").write_text("{")
    (tmp_path / "empty").mkdir()
    for name, words in (("gone", "is not there"), ("x.json", "is not JSON"), ("empty", "folder without manifest.json")):
        with pytest.raises(LMLError, match=words):
            read_source(tmp_path / name)
    broken = bench(tmp_path / "b.json", {"ddim|leading|zero|6|plain": {"non_finite": 1, "fd": [1.0, 1.0]}})
    with pytest.raises(LMLError, match="nothing to draw"):
        plot([broken], out=tmp_path / "plots")
    with pytest.raises(LMLError, match="hold no images"):
        plot([RESULTS / "paper-headline.json"], out=tmp_path / "plots", seeds=[3])


def test_curves_are_drawn(tmp_path: Path) -> None:
    result = plot([RESULTS / "reproduce-cifar10-embedded.json"], out=tmp_path)
    assert set(result.pictures) == {"curves"}
    with Image.open(result.pictures["curves"]) as picture:
        assert picture.width == 900
        colours = {colour for _, colour in picture.convert("RGB").getcolors(1 << 20) or []}
    # DDIM's orange is there, and no temporary file is left.
    assert any(abs(r - 0xD5) + abs(g - 0x5E) + abs(b) < 12 for r, g, b in colours)  # pyright: ignore
    assert [path.name for path in tmp_path.iterdir()] == ["curves.png"]


def test_without_matplotlib_nothing_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "matplotlib.figure", None)
    with pytest.raises(LMLError, match="matplotlib"):
        draw_curves([Panel("t", "FD")], tmp_path / "x.png")
    assert not list(tmp_path.iterdir())

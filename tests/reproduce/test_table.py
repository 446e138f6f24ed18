"""Tables and curves of made-up results, against values worked out by hand."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from lmlangevin.reproduce.figure import draw_curves
from lmlangevin.reproduce.table import cell_line, heading, render


def _arm(blocks: list[float], **more: Any) -> dict[str, Any]:
    return {"value": min(blocks) - 0.25, "blocks": blocks, "non_finite": 0} | more


LML = {"control": "adaptive", "gain": None}
CONTENT: dict[str, Any] = {
    "status": "complete",
    "dry_run": False,
    "whole": True,
    "title": "Small",
    "command": "lml reproduce small --model embedded",
    "settings": {
        "model_title": "a model", "dtype": "float32", "guidance_scale": None, "num_images": 400,
        "images_per_prompt": 1, "first_seed": 70, "blocks": 2, "protocol": "tf-fid",
    },
    "declared_images": 400,
    "arms": ["ddim", "dpm-3"],
    "baselines": ["pndm"],
    "asked": ["dpm-3|6", "ddim|6", "ddim|5", "pndm|5", "pndm|6"],
    "measure": {"kind": "fid", "label": "FID"},
    "notes": ["A note of the measure."],
    "assumed": ["Something is assumed."],
    "cells": {
        "dpm-3|6": {
            "sampler": "dpm-3", "nfe": 6,
            "arms": {
                "plain": _arm([12.0, 16.0]),
                "lml": _arm([12.0, 16.0], control="constant", gain=0),
                "release": _arm([300.0, 304.0], non_finite=7),
            },
            "differences": {
                "lml": {"mean": 0.0, "sd": 0.0, "values": [0.0, 0.0]},
                "release": {"mean": 288.0, "sd": 0.0, "values": [288.0, 288.0]},
            },
        },
        "ddim|6": {
            "sampler": "ddim", "nfe": 6,
            "arms": {
                "plain": _arm([3.0, 5.0], ln=1.0116, log10=0.4393),
                "lml": _arm([2.0, 3.0], **LML),
                "release": _arm([3.5, 4.5]),
            },
            "differences": {
                "lml": {"mean": -1.5, "sd": 0.7071, "values": [-1.0, -2.0]},
                "release": {"mean": 0.0, "sd": 0.7071, "values": [0.5, -0.5]},
            },
        },
        "ddim|5": {
            "sampler": "ddim", "nfe": 5,
            "arms": {
                "plain": _arm([8.0, 8.5]), "lml": _arm([7.0, 7.5], control="constant", gain=0.5),
                "release": _arm([8.1, 8.4]),
            },
            "differences": {
                "lml": {"mean": -1.0, "sd": 0.0, "values": [-1.0, -1.0]},
                "release": {"mean": 0.0, "sd": 0.1414, "values": [0.1, -0.1]},
            },
        },
        "pndm|5": {"sampler": "pndm", "nfe": 5, "arms": {"plain": _arm([2.0, 2.5])}, "differences": {}},
        "pndm|6": {"sampler": "pndm", "nfe": 6, "arms": {"plain": _arm([1.0, 1.5])}, "differences": {}},
    },
}  # fmt: skip


@pytest.fixture
def content() -> dict[str, Any]:
    return copy.deepcopy(CONTENT)


def _rows(text: str, start: str) -> list[list[str]]:
    return [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines() if line.startswith(start)]


def test_a_row_has_means_spreads_and_paired_differences(content: dict[str, Any]) -> None:
    rows = [row for row in _rows(render(content), "| d") if len(row) == 8]
    assert rows == [
        ["ddim", "5", "8.250 ± 0.354", "7.250 ± 0.354", "8.250 ± 0.212", "-1.000 ± 0.000", "+0.000 ± 0.141",
         "gain 0.5"],
        ["ddim", "6", "4.000 ± 1.414", "2.500 ± 0.707", "4.000 ± 0.707", "-1.500 ± 0.707", "+0.000 ± 0.707",
         "adaptive control"],
        ["dpm-3", "6", "14.00 ± 2.83", "14.00 ± 2.83", "302.0 ± 2.8 *", "+0.00 ± 0.00", "+288.00 ± 0.00",
         "preset 0 = plain"],
    ]  # fmt: skip


def test_all_images_together_have_a_table_with_both_logarithms(content: dict[str, Any]) -> None:
    text = render(content)
    rows = [row for row in _rows(text, "| d") if len(row) == 5]
    assert rows[1] == ["ddim", "6", "2.750 (ln 1.012, log10 0.439)", "1.750", "3.250"]
    assert rows[2][4] == "299.8 *"
    assert "LML, all 400 images" in text


def test_baselines_have_a_column_for_each_cost(content: dict[str, Any]) -> None:
    del content["cells"]["pndm|6"]
    content["asked"].remove("pndm|6")
    assert _rows(render(content), "| pndm") == [["pndm", "2.250 ± 0.354"]]
    content["cells"]["deis|6"] = content["cells"]["pndm|5"] | {"sampler": "deis", "nfe": 6}
    assert _rows(render(content), "| deis") == [["deis", "-", "2.250 ± 0.354"]]


def test_the_words_say_what_it_is_and_how_it_was_made(content: dict[str, Any]) -> None:
    text = render(content)
    assert text.startswith("# Small\n\nModel: a model, float32. 400 images an arm, seeds 70 to 469; ")
    assert "2 disjoint blocks of 200 seeds" in text and "lower is better" in text
    assert "values that are not finite, which are measured as grey: 7 of release rounding." in text
    assert "preset 0 = plain: no gain" in text
    for words in ("- A note of the measure.", "- Something is assumed.", "Made by `lml reproduce small --model"):
        assert words in text
    assert not render(content, level=0).startswith("#") and render(content, level=3).startswith("### Small")
    assert cell_line(content, "ddim|6") == "ddim 6: FID plain 2.750, LML 1.750, release rounding 3.250"


def test_what_is_not_the_whole_experiment_says_so_in_its_title(content: dict[str, Any]) -> None:
    assert heading(content) == "Small"
    assert heading(content | {"whole": False}) == "Small: a subset of the preset"
    fewer = content | {"whole": False, "declared_images": 50_000}
    assert heading(fewer) == "Small: a subset of the preset, 400 images in place of 50000"
    assert heading(content | {"dry_run": True}) == "Small: DRY RUN, whose numbers mean nothing"
    content["asked"].append("ddim|8")
    assert heading(content) == "Small: UNFINISHED, 5 of 6 cells"
    content["asked"].pop()
    # Nor does a whole table pass for complete where its result says that it is not.
    assert heading(content | {"status": "running"}) == "Small: UNFINISHED, 5 of 5 cells"


def test_it_counts_where_an_arm_is_better_by_more_than_chance(content: dict[str, Any]) -> None:
    text = render(content)
    assert "LML is better than plain in 2 of 3 rows, worse in 0, and neither in 1;" in text
    assert "release rounding is better than plain in 0 of 3 rows, worse in 1, and neither in 2, counting a row" in text
    # Of scores the higher is better, and the interval decides.
    text = render(_scores())
    assert "LML is better than plain in 2 of 2 rows, worse in 0" in text and "its interval leaves out 0" in text
    assert "release rounding is better than plain in 0 of 2 rows, worse in 0, and neither in 2" in text


def test_it_names_the_best_of_all_samplers_at_each_cost(content: dict[str, Any]) -> None:
    assert "by NFE: pndm plain at 5, pndm plain at 6." in render(content)
    del content["cells"]["pndm|6"]
    assert "by NFE: pndm plain at 5, ddim with LML at 6." in render(content)
    assert "by NFE: ddim with LML at 5 (color), ddim with LML at 5 (shape)." in render(_scores())


def _scores() -> dict[str, Any]:
    content = copy.deepcopy(CONTENT)
    content["settings"] |= {"images_per_prompt": 2, "guidance_scale": 7.5, "protocol": ""}
    content["measure"] = {"kind": "blip-vqa", "label": "BLIP-VQA", "model": "tiny"}
    cell = {
        "sampler": "ddim", "nfe": 5, "category": "color",
        "arms": {
            "plain": _arm([0.50, 0.60]), "lml": _arm([0.55, 0.70], **LML), "release": _arm([0.50, 0.60]),
        },
        "differences": {
            "lml": {"mean": 0.075, "sd": 0.0, "values": [0.05, 0.1], "interval": [0.01, 0.1404]},
            "release": {"mean": -0.01, "sd": 0.0, "values": [0.0, 0.0], "interval": [-0.02, 0.03]},
        },
    }  # fmt: skip
    content["cells"] = {"shape|ddim|5": cell | {"category": "shape"}, "color|ddim|5": cell}
    content["asked"] = list(content["cells"])
    return content


def test_scores_have_a_row_for_each_category_and_an_interval() -> None:
    text = render(_scores())
    assert _rows(text, "| color") == [
        ["color", "ddim", "5", "0.550 ± 0.071", "0.625 ± 0.106", "0.550 ± 0.071", "+0.0750 (+0.0100 to +0.1404)",
         "-0.0100 (-0.0200 to +0.0300)", "adaptive control"]
    ]  # fmt: skip
    assert text.index("| color") < text.index("| shape")
    assert "higher is better" in text and "guidance scale 7.5" in text and "BLIP-VQA by tiny" in text
    assert "2 of each prompt" in text and "all 400 images" not in text


def test_the_curves_are_those_of_the_result(
    content: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from lmlangevin.bench import canvas

    drawn: list[Any] = []
    original = canvas.finish

    def kept(figure: Any, *args: Any, **options: Any) -> None:
        drawn.append(figure)
        original(figure, *args, **options)

    monkeypatch.setattr(canvas, "finish", kept)
    draw_curves(content, tmp_path / "curves.png")
    panels = {axis.get_title(): axis for axis in drawn[0].axes}
    assert set(panels) == {"DDIM", "DPM-Solver-3"}
    lines = [(list(line.get_xdata()), list(line.get_ydata())) for line in panels["DDIM"].lines]
    assert lines == [([5, 6], [8.25, 4.0]), ([5, 6], [7.25, 2.5]), ([5, 6], [8.25, 4.0]), ([5, 6], [2.25, 1.25])]
    assert [line.get_ydata()[0] for line in panels["DPM-Solver-3"].lines[:3]] == [14.0, 14.0, 302.0]
    with Image.open(tmp_path / "curves.png") as picture:
        assert picture.size[0] == 900 and len(picture.convert("RGB").getcolors(10**6) or []) > 20


@pytest.mark.parametrize("what", ["plain alone", "scores"])
def test_curves_are_drawn_of_whatever_there_is(what: str, content: dict[str, Any], tmp_path: Path) -> None:
    if what == "scores":
        content = _scores()
    else:
        content["cells"] = {key: content["cells"][key] for key in ("pndm|5", "pndm|6")}
    draw_curves(content, tmp_path / "curves.png")
    assert (tmp_path / "curves.png").stat().st_size > 1000
    assert render(content)

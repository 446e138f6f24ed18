from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from lmlangevin.bench.cells import Cell
from lmlangevin.bench.suite import Part, Suite
from lmlangevin.bench.summary import summary

MakePart = Callable[..., Part]
NOISE: dict[str, Any] = {"samplers": ("ddim",), "grids": ("default",), "nfe": (8,)}
ARMS = ("eta=0.5", "release=float32", "release=float64@0.003")


def test_the_summary_names_every_part_and_is_short_for_big_ones(
    write: Callable[..., None], part: MakePart, tmp_path: Path
) -> None:
    big = part("big", samplers=("ddim", "dpmpp-2m", "unipc", "euler"), grids=("all",), nfe=tuple(range(5, 21)))
    noise = part("noise", arms=("plain", *ARMS), **NOISE)
    suite = Suite("s", "The suite", (part(), big, noise))
    empty = summary(suite, tmp_path)
    assert empty.startswith("The suite") and "big: " in empty and "0 of" in empty
    write(tmp_path, suite)
    text = summary(suite, tmp_path)
    assert "128 images" in text and "mean ± SD over blocks" in text
    _, _, rest = text.partition("big: ")
    shown, _, after = rest.partition("noise: ")
    assert set(re.findall(r"^unipc +(\w+) +(\d+) ", shown, flags=re.M)) == {("linspace", n) for n in ("6", "8", "10")}
    assert re.search(r"^ddim +leading +8 +1 +0\.101 ± 0\.001 +0\.0758 ± 0\.0008 ", shown, flags=re.M)
    assert "best cell with LML" in shown and "release, float32, lambda of its README" in after


def test_parts_of_controls_are_counted(write: Callable[..., None], part: MakePart, tmp_path: Path) -> None:
    def halved(part: Part, cell: Cell, row: dict[str, Any]) -> dict[str, Any]:
        return row | {"rmse": [v / 2 for v in row["rmse"]]} if cell.control else row

    suite = Suite("s", "S", (part(samplers=("ddim", "euler"), arms=("plain", "control=adaptive")),))
    write(tmp_path, suite, halved)
    text = summary(suite, tmp_path)
    assert re.search(r"^6 to 15 +15 +15 +0 +0 +0 +0.500 ", text, flags=re.M), text
    assert "FD with the adaptive control over plain" in text and "best cell with LML" not in text

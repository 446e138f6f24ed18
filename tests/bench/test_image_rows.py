from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from lmlangevin.bench import image_rows
from lmlangevin.bench.cells import Cell
from lmlangevin.bench.models import CONVERGED, EmbeddedBench
from lmlangevin.bench.results import PartData, SuiteData
from lmlangevin.bench.suite import Part


@pytest.fixture
def network(read: Callable[..., SuiteData], part: Callable[..., Part]) -> PartData:
    samplers = ("ddim", "dpmpp-2m", "euler")
    return read(part("network", model="embedded", samplers=samplers, grids=("default",), nfe=(8,))).parts[0]


def test_images_are_of_the_first_seeds_plain_above_lml_and_the_converged_solution_last(
    network: PartData, grey: Any, tmp_path: Path
) -> None:
    image_rows.write_images(network, tmp_path / "images.png", grey)
    # The largest gains first; a sampler whose preset is 0 has nothing to show.
    assert [cell.key for cell, _ in grey.asked] == [
        "ddim|leading|zero|8|plain", "ddim|leading|zero|8|gain=1", "euler|linspace|zero|8|plain",
        "euler|linspace|zero|8|gain=0.7", CONVERGED.key,
    ]  # fmt: skip
    assert {count for _, count in grey.asked} == {image_rows.IMAGE_COLUMNS}
    picture = Image.open(tmp_path / "images.png").convert("RGB")
    assert picture.width <= 900
    # The last tile of the first row is the white of the last image, the first one the black of the first.
    assert picture.getpixel((12 + 150 + 5, 20)) == (0, 0, 0)
    assert picture.getpixel((12 + 150 + 4 * 67 + 5, 20)) not in ((0, 0, 0), (255, 255, 255))


def test_samplers_without_a_figure_or_a_gain_are_not_shown(
    network: PartData, read: Callable[..., SuiteData], gaps: PartData
) -> None:
    assert image_rows.shown_samplers(network) == ["ddim", "euler"]
    assert image_rows.shown_samplers(gaps) == []


def test_the_model_of_the_images_is_that_of_the_result_file(network: PartData) -> None:
    model = image_rows.load_measured_model(network)
    assert isinstance(model, EmbeddedBench)
    assert model.sample(Cell("ddim", "leading", "zero", 2), count=2).shape == (2, 3, 32, 32)
    assert model.seeds[:2] == [100, 101]

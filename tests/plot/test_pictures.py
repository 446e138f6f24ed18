from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from lmlangevin.core import LMLError
from lmlangevin.generation.images import GAP, LABEL_WIDTH, MARGIN, TILE, TITLE_HEIGHT, Row, rows_picture
from lmlangevin.plot import difference, plot

MakeJob = Callable[..., Path]


def pixels(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path).convert("RGB")).astype(int)


def tile(picture: np.ndarray, row: int, column: int) -> np.ndarray:
    """Return a picture's tile as the 32x32 image that it was enlarged from."""
    left, top = MARGIN + LABEL_WIDTH + column * (TILE + GAP), MARGIN + TITLE_HEIGHT + row * (TILE + GAP)
    return picture[top : top + TILE : TILE // 32, left : left + TILE : TILE // 32]


def test_a_difference_is_grey_where_nothing_differs_and_amplified_elsewhere() -> None:
    plain = Image.fromarray(np.array([[[10, 20, 30], [100, 100, 100]]], dtype=np.uint8))
    other = Image.fromarray(np.array([[[10, 25, 28], [200, 60, 101]]], dtype=np.uint8))
    # 128 + 3 (other - plain), clipped to 0..255
    assert np.asarray(difference(plain, other, 3.0)).tolist() == [[[128, 143, 122], [255, 8, 131]]]
    assert np.asarray(difference(plain, other, 0.5)).tolist() == [[[128, 130, 127], [178, 108, 128]]]
    grey = difference(plain.convert("L"), other.convert("L"), 1.0)
    assert grey.mode == "RGB"


def test_rows_are_arms_and_columns_are_seeds_in_the_order_that_was_asked_for(compared: Path, tmp_path: Path) -> None:
    result = plot([compared], out=tmp_path / "plots", seeds=[33, 30, 31], scale=2.0)
    assert set(result.pictures) == {"images", "differences"} and not result.notes
    images, differences = (pixels(result.pictures[name]) for name in ("images", "differences"))
    for column, index in enumerate((3, 0, 1)):  # image k has seed 30 + k
        plain, lml = (pixels(compared / run / f"{index:06d}.png") for run in ("plain", "lml"))
        assert not np.array_equal(plain, lml)
        np.testing.assert_array_equal(tile(images, 0, column), plain)
        np.testing.assert_array_equal(tile(images, 1, column), lml)
        np.testing.assert_array_equal(tile(differences, 0, column), np.clip(128 + 2 * (lml - plain), 0, 255))


def test_long_rows_go_on_in_blocks_below(compared: Path, tmp_path: Path) -> None:
    def size(name: str, **settings: Any) -> tuple[int, ...]:
        return pixels(plot([compared], out=tmp_path / name, **settings).pictures["images"]).shape[:2]

    (height, width), (tall, narrow) = size("wide"), size("narrow", seeds=range(30, 34), columns=2)
    assert narrow == width - 2 * (TILE + GAP)
    assert tall > 1.8 * height
    # Without --seeds as many as one row holds.
    assert size("short", columns=2) == (height, narrow)


def test_jobs_without_a_plain_arm_are_compared_with_that_of_another(make_job: MakeJob, tmp_path: Path) -> None:
    lml, plain = make_job("lml", gain=0.4), make_job("plain", lml=False)
    alone = plot([lml], out=tmp_path / "alone")
    assert set(alone.pictures) == {"images"}
    assert "plain arm" in alone.notes[0]
    result = plot([lml, plain / "manifest.json"], out=tmp_path / "both", seeds=[32], scale=1.0)
    a, b = (pixels(job / "images" / "000002.png") for job in (plain, lml))
    np.testing.assert_array_equal(tile(pixels(result.pictures["differences"]), 0, 0), np.clip(128 + b - a, 0, 255))
    np.testing.assert_array_equal(tile(pixels(result.pictures["images"]), 0, 0), b)  # in the order of the command


def changed(job: Path, folder: Path, change: Callable[[dict[str, Any]], Any]) -> Path:
    """Return a copy of a job with another manifest."""
    copy = folder / "changed"
    shutil.copytree(job, copy)
    manifest = json.loads((copy / "manifest.json").read_text())
    change(manifest)
    (copy / "manifest.json").write_text(json.dumps(manifest))
    return copy


BAD_MANIFESTS: dict[str, tuple[Callable[[dict[str, Any]], Any], str]] = {
    "interrupted": (lambda m: m.update(status="running"), "is not complete.*--resume"),
    "prompt": (lambda m: m["images"][1].update(prompt="a fox"), "prompt 'a fox' for seed 31"),
    "noise": (lambda m: m["images"][2].update(noise_sha256="0" * 64), "seed 32 from other noise"),
    "outside": (lambda m: m["images"][0]["files"].update(lml="../x.png"), "not in its folder"),
    "no runs": (lambda m: m.pop("runs"), "damaged"),
    "no config": (lambda m: m.update(config=7), "damaged"),
    "format": (lambda m: m.update(format="else"), "neither a manifest nor a result"),
}


@pytest.mark.parametrize("case", BAD_MANIFESTS)
def test_a_manifest_that_does_not_fit_is_refused_before_anything_is_written(
    case: str, compared: Path, make_job: MakeJob, tmp_path: Path
) -> None:
    change, words = BAD_MANIFESTS[case]
    bad = changed(compared, tmp_path, change)
    with pytest.raises(LMLError, match=words):
        plot([compared, bad], out=tmp_path / "plots")
    assert not (tmp_path / "plots").exists()


def test_runs_of_other_seeds_are_refused_unless_common_ones_are_named(
    compared: Path, make_job: MakeJob, tmp_path: Path
) -> None:
    other = make_job("later", seed=32, lml=False)
    with pytest.raises(LMLError, match=r"the seeds 32 to 35, and .* the seeds 30 to 33.*--seeds out of 32 to 33"):
        plot([compared, other], out=tmp_path / "plots")
    with pytest.raises(LMLError, match="30 is none of .*later"):
        plot([compared, other], out=tmp_path / "plots", seeds=[30])
    assert not (tmp_path / "plots").exists()
    images = pixels(plot([compared, other], out=tmp_path / "plots", seeds=[33]).pictures["images"])
    np.testing.assert_array_equal(tile(images, 2, 0), pixels(other / "images" / "000001.png"))


def test_runs_of_other_sizes_are_refused(
    compared: Path, pixel_pipeline: Path, make_job: MakeJob, tmp_path: Path
) -> None:
    small = make_job("small", model=str(pixel_pipeline), lml=False)
    with pytest.raises(LMLError, match="16x16, and .* of 32x32; give runs of one size"):
        plot([compared, small], out=tmp_path / "plots")
    assert not (tmp_path / "plots").exists()


def test_a_broken_image_is_named(compared: Path, tmp_path: Path) -> None:
    copy = changed(compared, tmp_path, lambda manifest: None)
    (copy / "lml" / "000001.png").write_bytes(b"no picture")
    with pytest.raises(LMLError, match="000001.png.*cannot be decoded"):
        plot([copy], out=tmp_path / "plots")


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"columns": 0}, "columns=0"),
        ({"scale": 0.0}, "scale=0.0"),
        ({"scale": float("nan")}, "scale=nan"),
        ({"seeds": [99]}, "99 is none of"),
    ],
)
def test_options_out_of_range_are_refused(settings: dict[str, Any], words: str, compared: Path, tmp_path: Path) -> None:
    with pytest.raises(LMLError, match=words):
        plot([compared], out=tmp_path / "plots", **settings)
    assert not (tmp_path / "plots").exists()


def test_the_pictures_of_a_job_are_not_overwritten(compared: Path) -> None:
    with pytest.raises(LMLError, match="holds a run"):
        plot([compared], out=compared)
    with pytest.raises(LMLError, match="none given"):
        plot([], out=compared)


def test_long_labels_move_the_images_and_are_not_drawn_over() -> None:
    tiles = [Image.new("RGB", (32, 32), colour) for colour in ("#ff0000", "#00ff00")]
    short = rows_picture([Row(tiles, ["plain"])], title="t")
    long = rows_picture([Row(tiles, ["plain"]), Row(tiles, ["LML", "flow-matching DPM-Solver++(2M)"])], title="t")
    assert long.width > short.width
    for picture, rows in ((short, 1), (long, 2)):
        red = (np.asarray(picture) == [255, 0, 0]).all(axis=2)
        # Every pixel of the red tiles is there, in one column of tiles.
        assert red.sum() == rows * TILE * TILE
        assert np.flatnonzero(red.any(axis=0)).size == TILE

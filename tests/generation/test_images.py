from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from lmlangevin.core import LMLError
from lmlangevin.generation import images


def _pictures(count: int, size: int = 32) -> list[Image.Image]:
    generator = torch.Generator().manual_seed(count + size)
    return images.to_pictures(torch.randint(0, 256, (count, 3, size, size), generator=generator).to(torch.uint8))


def test_quantisation_is_to_the_nearest_level_and_clips() -> None:
    values = torch.tensor([-1.0, -0.9999, -1.5, 1.0, 7.0, 0.0, 1 / 127.5, float("nan"), float("inf")])
    assert images.to_uint8(values.view(1, 1, 1, -1)).flatten().tolist() == [0, 0, 0, 255, 255, 128, 128, 128, 255]
    levels = torch.arange(256).float()
    assert torch.equal(images.to_uint8(levels / 127.5 - 1), levels.to(torch.uint8))


def test_a_png_holds_the_pixels(tmp_path: Path) -> None:
    pixels = torch.arange(2 * 3 * 4 * 5).view(2, 3, 4, 5).to(torch.uint8)
    images.write_png(tmp_path / "a.png", images.to_pictures(pixels)[1])
    with Image.open(tmp_path / "a.png") as picture:
        assert picture.size == (5, 4)
        assert np.array_equal(np.asarray(picture), pixels[1].permute(1, 2, 0).numpy())
    assert [p.name for p in tmp_path.iterdir()] == ["a.png"]


def test_grey_images_stay_grey_and_other_channels_are_refused() -> None:
    assert images.to_pictures(torch.full((1, 1, 2, 2), 9, dtype=torch.uint8))[0].mode == "L"
    with pytest.raises(LMLError, match="1 or 3 channels"):
        images.to_pictures(torch.full((1, 4, 2, 2), 9, dtype=torch.uint8))


def test_a_failed_write_leaves_the_old_file_and_no_rest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "a.png"
    images.write_png(target, _pictures(1)[0])
    before = target.read_bytes()

    def half(self: Image.Image, place: Path, format: str) -> None:
        Path(place).write_bytes(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(Image.Image, "save", half)
    with pytest.raises(OSError, match="disk full"):
        images.write_png(target, _pictures(2)[1])
    assert target.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["a.png"]


def test_small_images_are_enlarged_with_hard_pixels() -> None:
    picture = _pictures(1)[0]
    large = np.asarray(images.enlarge(picture))
    assert large.shape == (96, 96, 3)
    assert np.array_equal(large[::3, ::3], np.asarray(picture))
    assert np.array_equal(large[1::3, 2::3], np.asarray(picture))
    assert images.enlarge(_pictures(1, 1000)[0]).size == (192, 192)


def test_the_grid_shows_the_images_in_order() -> None:
    pictures = _pictures(7)
    grid = np.asarray(images.make_grid(pictures, columns=3, tile=32))
    side = 32 + images.GAP
    assert grid.shape == (3 * side + images.GAP, 3 * side + images.GAP, 3)
    place = (images.GAP + side, images.GAP + 2 * side)  # the sixth: row 1, column 2
    assert np.array_equal(grid[place[0] : place[0] + 32, place[1] : place[1] + 32], np.asarray(pictures[5]))
    with pytest.raises(LMLError, match="empty"):
        images.make_grid([])


@pytest.mark.parametrize(("count", "columns", "rows"), [(4, 4, 1), (10, 10, 1), (23, 10, 3), (80, 10, 3)])
def test_the_comparison_has_a_pair_of_rows_for_each_ten_seeds(count: int, columns: int, rows: int) -> None:
    plain, corrected = _pictures(count), _pictures(count)[::-1]
    picture = images.compare_picture(
        plain, corrected, title="t", plain_label=["plain", "8 steps"], corrected_label=["LML", "8 steps", "gain 0.5"]
    )
    tile = images.TILE + images.GAP
    width = 2 * images.MARGIN + images.LABEL_WIDTH + columns * tile
    height = 2 * images.MARGIN + images.TITLE_HEIGHT + rows * 2 * tile + (rows - 1) * images.BLOCK_GAP
    assert picture.size == (width, height)
    left, top = images.MARGIN + images.LABEL_WIDTH, images.MARGIN + images.TITLE_HEIGHT
    seen = np.asarray(picture)
    assert np.array_equal(seen[top : top + 96, left : left + 96], np.asarray(images.enlarge(plain[0])))
    below = seen[top + tile : top + tile + 96, left : left + 96]
    assert np.array_equal(below, np.asarray(images.enlarge(corrected[0])))
    # The labels are there: dark ink in the column to the left of both rows.
    assert seen[top : top + 96, images.MARGIN : left].min() < 60
    assert seen[top + tile : top + tile + 96, images.MARGIN : left].min() < 60


def test_runs_of_different_length_are_not_compared() -> None:
    with pytest.raises(LMLError, match="equally many"):
        images.compare_picture(_pictures(2), _pictures(3), title="", plain_label=[], corrected_label=[])

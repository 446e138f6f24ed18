from __future__ import annotations

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


def test_a_png_holds_the_pixels() -> None:
    pixels = torch.arange(2 * 3 * 4 * 5).view(2, 3, 4, 5).to(torch.uint8)
    picture = images.read_png(images.png_bytes(images.to_pictures(pixels)[1]))
    assert picture.size == (5, 4)
    assert np.array_equal(np.asarray(picture), pixels[1].permute(1, 2, 0).numpy())


def test_a_png_that_is_not_whole_is_found_out() -> None:
    whole = images.png_bytes(_pictures(1)[0])
    assert images.decodes(whole, "RGB", (32, 32))
    assert not images.decodes(whole, "L", (32, 32))
    assert not images.decodes(whole, "RGB", (32, 16))
    assert not images.decodes(None, "RGB", (32, 32))
    # A huge size in the header is neither believed nor warned about.
    assert not images.decodes(whole[:16] + b"\xff" * 8 + whole[24:], "RGB", (32, 32))
    for length in (0, 1, 8, 24, 40, len(whole) // 2, len(whole) - 14, len(whole) - 1):
        assert not images.decodes(whole[:length], "RGB", (32, 32)), length
    # One wrong byte, wherever it is.
    for place in range(0, len(whole), 37):
        wrong = whole[:place] + bytes([whole[place] ^ 0x10]) + whole[place + 1 :]
        assert not images.decodes(wrong, "RGB", (32, 32)), place
    assert not images.decodes(b"GIF89a" + whole[6:], "RGB", (32, 32))


def test_grey_images_stay_grey_and_other_channels_are_refused() -> None:
    assert images.to_pictures(torch.full((1, 1, 2, 2), 9, dtype=torch.uint8))[0].mode == "L"
    with pytest.raises(LMLError, match="1 or 3 channels"):
        images.to_pictures(torch.full((1, 4, 2, 2), 9, dtype=torch.uint8))


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

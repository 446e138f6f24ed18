"""A picture file becomes 8-bit RGB, upright and opaque, or is refused; a folder's pictures are what people call so."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lmlangevin.core import LMLError
from lmlangevin.generation.conditions import read_picture
from lmlangevin.pictures import BLACK, picture_files, read_rgb

ORIENTATION = 0x0112


def _read(path: Path, **settings: tuple[int, int, int]) -> np.ndarray:
    picture = read_rgb(path, "file", "give another", **settings)
    assert picture.mode == "RGB"
    return np.asarray(picture)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_picture_is_turned_as_its_camera_was(tmp_path: Path, orientation: int) -> None:
    upright = np.random.default_rng(orientation).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    # What the camera stores, so that EXIF's rule gives the upright picture back.
    turn = {
        1: lambda a: a,
        2: lambda a: a[:, ::-1],
        3: lambda a: a[::-1, ::-1],
        4: lambda a: a[::-1],
        5: lambda a: a.swapaxes(0, 1),
        6: lambda a: np.rot90(a),
        7: lambda a: a[::-1, ::-1].swapaxes(0, 1),
        8: lambda a: np.rot90(a, -1),
    }[orientation]
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    Image.fromarray(np.ascontiguousarray(turn(upright))).save(tmp_path / "a.png", exif=exif)
    assert np.array_equal(_read(tmp_path / "a.png"), upright)


def test_broken_metadata_does_not_spoil_a_picture(tmp_path: Path) -> None:
    Image.new("RGB", (4, 6), (9, 8, 7)).save(tmp_path / "a.jpg", exif=b"Exif\0\0no such thing", quality=100)
    assert _read(tmp_path / "a.jpg").shape == (6, 4, 3)


@pytest.mark.parametrize("name", ["a.png", "a.tiff"])
def test_16_bits_are_scaled_by_their_range(tmp_path: Path, name: str) -> None:
    depth = np.array([[0, 128, 257, 4000], [32768, 65000, 65406, 65535]], dtype=np.uint16)
    Image.fromarray(depth).save(tmp_path / name)
    made = np.asarray(read_picture("control_image", tmp_path / name))
    assert made[..., 0].tolist() == [[0, 0, 1, 16], [128, 253, 254, 255]]
    assert (made == made[..., :1]).all()


@pytest.mark.parametrize("kind", [np.int32, np.float32])
def test_32_bits_are_refused(tmp_path: Path, kind: type) -> None:
    Image.fromarray(np.arange(12, dtype=kind).reshape(3, 4) * 1000).save(tmp_path / "a.tiff")
    with pytest.raises(
        LMLError, match=r"a.tiff' cannot be read as a picture \(.*32-bit.*convert it to 8 or 16 bits\); give"
    ):
        read_picture("control_image", tmp_path / "a.tiff")


def test_transparent_pixels_show_the_background(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    pixels = np.array([[[200, 0, 0, 0], [200, 0, 0, 255], [200, 0, 0, 51]]], dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    assert _read(path).tolist() == [[[255, 255, 255], [200, 0, 0], [244, 204, 204]]]
    assert _read(path, background=BLACK).tolist() == [[[0, 0, 0], [200, 0, 0], [40, 0, 0]]]
    # White strokes on nothing are a mask of the strokes, and edges on nothing lie on black.
    backgrounds = {name: read_picture(name, path).getpixel((0, 0)) for name in ("image", "mask_image", "control_image")}
    assert backgrounds == {"image": (255, 255, 255), "mask_image": BLACK, "control_image": BLACK}


def test_a_transparent_colour_of_a_palette_is_transparent(tmp_path: Path) -> None:
    palette = Image.new("P", (2, 1))
    palette.putpalette([10, 20, 30, 40, 50, 60])
    palette.putpixel((1, 0), 1)
    palette.save(tmp_path / "a.png", transparency=1)
    assert _read(tmp_path / "a.png").tolist() == [[[10, 20, 30], [255, 255, 255]]]
    Image.new("LA", (1, 1), (100, 0)).save(tmp_path / "b.png")
    assert _read(tmp_path / "b.png").tolist() == [[[255, 255, 255]]]


def test_hidden_files_and_folders_are_no_pictures(tmp_path: Path) -> None:
    for name in ("b.PNG", "a.jpeg", "c.webp"):
        Image.new("RGB", (4, 4)).save(tmp_path / name)
    for name in ("._a.png", ".hidden.jpg", "notes.txt"):
        (tmp_path / name).write_bytes(b"metadata")
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "gone.png").symlink_to(tmp_path / "nowhere.png")
    assert [path.name for path in picture_files(tmp_path)] == ["a.jpeg", "b.PNG", "c.webp"]


def test_no_decoder_that_starts_a_program_is_let_near_a_file(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\nshowpage\n")
    for name in ("image", "mask_image"):
        with pytest.raises(LMLError, match="cannot be read as a picture .*; give another file"):
            read_picture(name, tmp_path / "a.png")

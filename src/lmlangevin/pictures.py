"""Picture files of users: which files of a folder they are, and how one becomes 8-bit RGB, upright and opaque."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING

from lmlangevin.core.errors import LMLError
from lmlangevin.files import reason_of

if TYPE_CHECKING:
    from PIL import Image

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp")

FORMATS = ("PNG", "JPEG", "WEBP", "BMP")
"""The decoders of `SUFFIXES`. No other is let near a file unasked: Pillow's one for EPS starts another program."""

WHITE = (255, 255, 255)
BLACK = (0, 0, 0)


def picture_files(folder: Path) -> list[Path]:
    """Return the pictures of a folder by name: no hidden file (macOS puts `._a.png` beside `a.png`), no subfolder."""
    found = (entry for entry in folder.iterdir() if entry.suffix.lower() in SUFFIXES)
    return sorted(entry for entry in found if not entry.name.startswith(".") and entry.is_file())


def read_rgb(
    path: Path,
    failure: str,
    remedy: str,
    *,
    background: tuple[int, int, int] = WHITE,
    formats: tuple[str, ...] = FORMATS,
) -> Image.Image:
    """Return a picture as 8-bit RGB.

    It is turned as its EXIF orientation says. Grey values of 16 bits are scaled by their range, 65535 becomes 255.
    Transparent pixels show a background. Of an animation the first frame is taken.

    Args:
        path: The file.
        failure: How a message begins, such as `image='a.png' cannot be read as a picture`.
        remedy: How it ends.
        background: Colour behind transparent pixels.
        formats: Pillow's decoders that may be tried.

    Raises:
        LMLError: If it cannot be decoded, or has 32-bit values, whose range no file says.
    """
    from PIL import Image

    try:
        with Image.open(path, formats=formats) as stored:
            stored.load()
            return _opaque(_eight_bits(_upright(stored), stored.format), background)
    except Exception as error:  # a broken file breaks in one of many decoders, each with its own error
        raise LMLError(f"{failure} ({reason_of(error)}); {remedy}.") from error


def _upright(picture: Image.Image) -> Image.Image:
    from PIL import ImageOps

    # Its pixels are whole by now. Broken metadata beside them is no reason to refuse them.
    with contextlib.suppress(Exception):
        return ImageOps.exif_transpose(picture)
    return picture


def _eight_bits(picture: Image.Image, stored_as: str | None) -> Image.Image:
    """Return a picture with 8 bits a channel; Pillow's own conversion clips the values of wider modes."""
    import numpy as np
    from PIL import Image

    # Older versions of Pillow give a 16-bit PNG the 32-bit mode.
    if picture.mode.startswith("I;16") or (picture.mode == "I" and stored_as == "PNG"):
        wide = np.asarray(picture).astype(np.uint32)
        return Image.fromarray(((wide * 255 + 32767) // 65535).astype(np.uint8))
    if picture.mode in ("I", "F"):
        raise ValueError(f"mode {picture.mode} holds 32-bit values of an unknown range; convert it to 8 or 16 bits")
    return picture


def _opaque(picture: Image.Image, background: tuple[int, int, int]) -> Image.Image:
    from PIL import Image

    if not picture.has_transparency_data:
        return picture.convert("RGB")
    layer = picture.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", layer.size, (*background, 255)), layer).convert("RGB")

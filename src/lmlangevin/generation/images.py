"""Pictures: tensors to PNG files, the grid of a run, and the labelled comparison of two runs on equal seeds."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from lmlangevin.core.errors import LMLError

BACKGROUND = (255, 255, 255)
INK = (20, 20, 20)
ACCENT = (176, 48, 16)
MARGIN = 12
GAP = 3
BLOCK_GAP = 18
LABEL_WIDTH = 150
TITLE_HEIGHT = 34
FONT_SIZE = 15
TILE = 96
"""Side in pixels that small images are enlarged to, and larger ones reduced to twice of."""
COLUMNS = 10
BLOCKS = 3
FRAME_MILLISECONDS = 62
"""How long a frame of a video is shown: 16 a second."""
_SIGNATURE = b"\x89PNG\r\n\x1a\n"

Picture: TypeAlias = "Image.Image | Sequence[Image.Image]"
"""An image, or the frames of a video, all of one size."""


@dataclass(frozen=True)
class Row:
    """A run in a picture of several.

    Attributes:
        pictures: Its images, all of one size.
        label: Lines to the left of them; the first stands out.
        colour: Of that first line.
    """

    pictures: Sequence[Image.Image]
    label: Sequence[str]
    colour: tuple[int, int, int] = INK


def to_uint8(sample: Tensor) -> Tensor:
    """Quantise images: (batch, channels, height, width) in [-1, 1], any float dtype -> the same shape, uint8, CPU.

    Values outside are clipped, and what is not a number becomes middle grey.
    """
    wide = sample.detach().to("cpu", torch.float32).nan_to_num(0.0, 1.0, -1.0).clamp(-1, 1)
    return ((wide + 1) * 127.5).round().to(torch.uint8)


def to_pictures(pixels: Tensor) -> list[Image.Image]:
    """Turn a uint8 batch of 1 or 3 channels, (batch, channels, height, width), into pictures.

    Raises:
        LMLError: For another number of channels.
    """
    if pixels.ndim != 4 or pixels.shape[1] not in (1, 3):
        raise LMLError(f"pixels has shape {tuple(pixels.shape)}; give a batch of images with 1 or 3 channels.")
    rows = pixels.permute(0, 2, 3, 1).contiguous().numpy()
    return [Image.fromarray(row[..., 0] if row.shape[-1] == 1 else row) for row in rows]


def from_arrays(values: Any) -> tuple[list[Picture], list[bool]]:
    """Turn what a pipeline returns as arrays into pictures.

    Args:
        values: Floats in [0, 1], (batch, height, width, channels) of images or (batch, frames, height, width, channels)
            of videos. What is not a number becomes middle grey.

    Returns:
        The pictures, and for each whether all its values are finite.
    """
    wide = torch.from_numpy(values).to(torch.float32)
    finite = wide.flatten(1).isfinite().all(dim=1).tolist()
    pixels = (wide.nan_to_num(0.5, 1.0, 0.0).clamp(0, 1) * 255).round().to(torch.uint8)
    if pixels.ndim == 4:
        return list(to_pictures(pixels.permute(0, 3, 1, 2))), finite
    return [to_pictures(frames.permute(0, 3, 1, 2)) for frames in pixels], finite


def png_bytes(picture: Picture) -> bytes:
    """Return a picture as the bytes of a PNG file; a video as those of an animated PNG, which browsers play."""
    stream = io.BytesIO()
    if isinstance(picture, Image.Image):
        picture.save(stream, format="PNG")
    else:
        first, *rest = picture
        first.save(stream, format="PNG", save_all=True, append_images=rest, duration=FRAME_MILLISECONDS, loop=0)
    return stream.getvalue()


def first_frame(picture: Picture) -> Image.Image:
    """Return an image itself, or a video's first frame."""
    return picture if isinstance(picture, Image.Image) else picture[0]


def read_png(data: bytes) -> Image.Image:
    """Return the picture that the bytes of a PNG file hold.

    Raises:
        OSError: If they hold none.
    """
    with Image.open(io.BytesIO(data), formats=("PNG",)) as picture:
        picture.load()
        return picture


def decodes(data: bytes | None, mode: str, size: tuple[int, int]) -> bool:
    """Return whether a PNG file is whole: each checksum in it is right, and all pixels can be decoded.

    Args:
        data: What the file holds; None where there is no file.
        mode: The mode that it must have, such as `"RGB"`.
        size: The (width, height) that it must have.
    """
    # The size first: Pillow warns of, and then allocates, whatever a broken header claims. The checksums, because
    # Pillow decodes without looking at them.
    if data is None or data[16:24] != struct.pack(">II", *size) or not _checksums_hold(data):
        return False
    try:
        return read_png(data).mode == mode
    except (OSError, SyntaxError, ValueError, struct.error, zlib.error):
        return False


def _checksums_hold(data: bytes) -> bool:
    """Return whether a PNG file is a row of whole chunks (length, kind, data, CRC) that ends with the last one."""
    place = len(_SIGNATURE)
    if data[:place] != _SIGNATURE:
        return False
    while place + 12 <= len(data):
        (length,) = struct.unpack_from(">I", data, place)
        kind, end = data[place + 4 : place + 8], place + 12 + length
        if end > len(data) or struct.pack(">I", zlib.crc32(data[place + 4 : end - 4])) != data[end - 4 : end]:
            return False
        if kind == b"IEND":
            return end == len(data)
        place = end
    return False


def enlarge(picture: Image.Image, tile: int = TILE) -> Image.Image:
    """Scale a picture to be looked at: small ones by a whole factor with hard pixels, large ones down to 2 tiles."""
    longest = max(picture.size)
    factor = tile // longest
    if factor >= 1:
        size = (picture.width * factor, picture.height * factor)
        return picture.convert("RGB").resize(size, Image.Resampling.NEAREST)
    shrunk = picture.convert("RGB")
    shrunk.thumbnail((2 * tile, 2 * tile), Image.Resampling.LANCZOS)
    return shrunk


def make_grid(pictures: Sequence[Image.Image], columns: int | None = None, tile: int = TILE // 2) -> Image.Image:
    """Lay pictures of one size out in a grid, left to right, then down.

    Args:
        pictures: At least one, all of one size.
        columns: Pictures a row; default makes the grid about square.
        tile: See `enlarge`.

    Returns:
        An RGB picture.

    Raises:
        LMLError: If there is no picture.
    """
    if not pictures:
        raise LMLError("pictures is empty; give at least one picture.")
    tiles = [enlarge(picture, tile) for picture in pictures]
    if columns is None:
        columns = max(1, round(len(tiles) ** 0.5 + 0.49))
    columns = min(columns, len(tiles))
    width, height = tiles[0].size
    rows = -(-len(tiles) // columns)
    canvas = Image.new("RGB", (columns * (width + GAP) + GAP, rows * (height + GAP) + GAP), BACKGROUND)
    for index, picture in enumerate(tiles):
        row, column = divmod(index, columns)
        canvas.paste(picture, (GAP + column * (width + GAP), GAP + row * (height + GAP)))
    return canvas


def compare_picture(
    plain: Sequence[Image.Image],
    corrected: Sequence[Image.Image],
    *,
    title: str,
    plain_label: Sequence[str],
    corrected_label: Sequence[str],
    columns: int = COLUMNS,
    blocks: int = BLOCKS,
) -> Image.Image:
    """Draw two runs on the same seeds under each other: a row of plain images, below it the same seeds with LML.

    Args:
        plain: Images of the plain sampler, all of one size.
        corrected: Images of the sampler with LML, of the same seeds in the same order.
        title: One line at the top.
        plain_label: Lines to the left of each plain row; the first stands out.
        corrected_label: Lines to the left of each LML row.
        columns: Images a row, at most.
        blocks: Pairs of rows, at most.

    Returns:
        An RGB picture: `LABEL_WIDTH` of text and up to `columns` enlarged images wide, up to `blocks` pairs high.

    Raises:
        LMLError: If the two runs do not have the same number of images, or none.
    """
    if not plain or len(plain) != len(corrected):
        raise LMLError(f"plain has {len(plain)} images, corrected {len(corrected)}; give equally many, one or more.")
    rows = (Row(plain, plain_label), Row(corrected, corrected_label, ACCENT))
    return rows_picture(rows, title=title, columns=columns, blocks=blocks)


def rows_picture(
    rows: Sequence[Row],
    *,
    title: str,
    columns: int = COLUMNS,
    blocks: int | None = None,
    captions: Sequence[str] | None = None,
    tile: int = TILE,
) -> Image.Image:
    """Draw runs on the same seeds under each other, a row a run; what a row cannot hold goes on in a block below.

    Args:
        rows: One or more, with equally many pictures, all of one size.
        title: One line at the top.
        columns: Images a row, at most.
        blocks: Blocks of rows, at most; None shows every image.
        captions: A text to stand below each column, such as the prompts; None is none.
        tile: See `enlarge`.

    Returns:
        An RGB picture.
    """
    shown = min(len(rows[0].pictures), columns * blocks) if blocks else len(rows[0].pictures)
    tiles = [[enlarge(picture, tile) for picture in row.pictures[:shown]] for row in rows]
    columns = min(columns, shown)
    width, height = tiles[0][0].size
    font = ImageFont.load_default(FONT_SIZE)
    bold = ImageFont.load_default(FONT_SIZE + 4)
    line = FONT_SIZE + 4
    heading = 6  # the first line is larger
    row_height = max(height, line * max(len(row.label) for row in rows) + heading)
    count = -(-shown // columns)
    texts = ["\n".join(_wrap(text, font, width)) for text in captions[:shown]] if captions else [""] * shown
    caption_height = line * max(text.count("\n") + 1 for text in texts) + GAP if captions else 0
    widths = [(font if index else bold).getlength(text) for row in rows for index, text in enumerate(row.label)]
    label_width = max(LABEL_WIDTH, int(max(widths, default=0)) + MARGIN)
    images_width = columns * (width + GAP)
    # The title must fit even over a single column of small images.
    title_width = int(bold.getlength(title))
    size = (
        2 * MARGIN + max(label_width + images_width, title_width),
        2 * MARGIN + TITLE_HEIGHT + count * (len(rows) * (row_height + GAP) + caption_height) + (count - 1) * BLOCK_GAP,
    )
    canvas = Image.new("RGB", size, BACKGROUND)
    draw = ImageDraw.Draw(canvas)
    draw.text((MARGIN, MARGIN), title, fill=INK, font=bold)
    top = MARGIN + TITLE_HEIGHT
    for block in range(count):
        for row, run in zip(rows, tiles, strict=True):
            for index, text in enumerate(row.label):
                place = (MARGIN, top + index * line + (heading if index else 0))
                draw.text(place, text, fill=INK if index else row.colour, font=font if index else bold)
            for column, picture in enumerate(run[block * columns : (block + 1) * columns]):
                canvas.paste(picture, (MARGIN + label_width + column * (width + GAP), top))
            top += row_height + GAP
        for column, text in enumerate(texts[block * columns : (block + 1) * columns]):
            draw.multiline_text((MARGIN + label_width + column * (width + GAP), top), text, fill=INK, font=font)
        top += caption_height + BLOCK_GAP
    return canvas


def _wrap(text: str, font: Any, width: int) -> list[str]:
    """Break a text into lines of at most `width` pixels, words whole."""
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if lines[-1] and font.getlength(longer) > width:
            lines.append(word)
        else:
            lines[-1] = longer
    return lines

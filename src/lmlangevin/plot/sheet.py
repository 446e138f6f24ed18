"""A sheet of images: a row for each sampler, a column for each prompt."""

from __future__ import annotations

from collections.abc import Sequence

from PIL import Image
from torch import Tensor

from lmlangevin.core.errors import LMLError
from lmlangevin.generation.images import ACCENT, INK, Row, rows_picture, to_pictures, to_uint8

SHEET_TILE = 128


def contact_sheet(
    rows: Sequence[tuple[Sequence[str], Tensor]],
    *,
    title: str,
    captions: Sequence[str] | None = None,
    accent: int | None = None,
) -> Image.Image:
    """Draw the images of several samplers under each other.

    Args:
        rows: For each sampler the lines of its label, the first in large letters, and its images, (N, 3, H, W) in
            [-1, 1], of one size and number for all.
        title: One line at the top.
        captions: N texts to stand below the columns, such as the prompts; None is none.
        accent: Index of the row whose label stands out in colour; None is none.

    Returns:
        An RGB picture; small images are enlarged by a whole factor to up to 128 pixels a side.

    Raises:
        LMLError: If there is no row, or the rows or the captions differ in number.
    """
    counts = {len(images) for _, images in rows} | ({len(captions)} if captions is not None else set())
    if len(counts) != 1 or 0 in counts:
        raise LMLError(f"rows and captions have {sorted(counts)} images; give equally many, one or more.")
    drawn = [
        Row(to_pictures(to_uint8(images)), list(label), ACCENT if index == accent else INK)
        for index, (label, images) in enumerate(rows)
    ]
    return rows_picture(drawn, title=title, columns=counts.pop(), captions=captions, tile=SHEET_TILE)

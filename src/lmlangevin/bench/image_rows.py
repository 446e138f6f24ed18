"""The figure of images, rows of equal seeds, and how every figure becomes a small PNG."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw, ImageFont

from lmlangevin.bench.cells import default_grid
from lmlangevin.bench.results import PartData
from lmlangevin.bench.tables import number, title
from lmlangevin.files import atomic_write
from lmlangevin.generation import images as pictures
from lmlangevin.schedulers.names import find_scheduler

COLOURS = 192
"""Colours of a PNG: enough for lines, and a file of a third of the size."""
IMAGE_NFE = 8
IMAGE_COLUMNS = 10
IMAGE_SAMPLERS = 3
IMAGE_TILE = 64


def shown_samplers(data: PartData) -> list[str]:
    """Return the samplers whose images are shown: the largest measured gains on default grids, at 8 evaluations."""
    found = []
    for sampler in data.part.samplers:
        entry = find_scheduler(sampler)
        pair = data.curve(sampler, default_grid(entry)).get(IMAGE_NFE)
        if pair and pair.plain and pair.lml and pair.gain and not entry.stochastic:
            found.append((-abs(pair.gain), sampler))
    return [sampler for _, sampler in sorted(found, key=lambda item: item[0])[:IMAGE_SAMPLERS]]


def write_images(data: PartData, path: Path, model: Any) -> None:
    """Draw images of equal seeds: plain and LML of some samplers, and the converged solution below.

    Args:
        data: The part, whose first seeds are shown.
        path: The PNG file.
        model: What has `sample(cell, count=)`, as a `BenchModel` has.
    """
    from lmlangevin.bench.models import CONVERGED

    rows: list[tuple[list[str], Any, tuple[int, int, int]]] = []
    for sampler in shown_samplers(data):
        pair = data.curve(sampler, default_grid(find_scheduler(sampler)))[IMAGE_NFE]
        cells = (("plain", pair.plain, pictures.INK), (f"LML, gain {pair.gain:g}", pair.lml, pictures.ACCENT))
        for word, figures, colour in cells:
            if figures is not None:
                fd = figures.mean("fd")
                lines = [title(sampler), f"{pair.cell.grid}, {word}", f"FD {number(fd)}" if fd is not None else ""]
                rows.append((lines, model.sample(figures.cell, count=IMAGE_COLUMNS), colour))
    solver = f"{CONVERGED.nfe} evaluations"
    rows.append(
        (["converged", title(CONVERGED.sampler), solver], model.sample(CONVERGED, count=IMAGE_COLUMNS), (0, 80, 40))
    )
    write_png(path, _image_rows(rows))


def load_measured_model(data: PartData) -> Any:
    """Load a part's model as it was measured, whatever the suite says by now."""
    from lmlangevin.bench.models import load_bench_model

    settings = {name: data.settings[name] for name in ("model", "blocks", "images", "first_seed", "dtype")}
    return load_bench_model(replace(data.part, **settings))


def write_png(path: Path, picture: Image.Image, *, rare: bool = False) -> None:
    """Write a small PNG in one move, so that nobody ever sees half of it.

    Args:
        path: The file.
        picture: What is drawn.
        rare: Keep colours that few pixels have apart, at the price of a background that is not quite white.
    """
    method = Image.Quantize.MAXCOVERAGE if rare else Image.Quantize.MEDIANCUT
    small = picture.convert("RGB").quantize(COLOURS, method=method, dither=Image.Dither.NONE)
    with atomic_write(path) as part:
        small.save(part, format="PNG", optimize=True)


def _image_rows(rows: Sequence[tuple[list[str], Any, tuple[int, int, int]]]) -> Image.Image:
    font, bold = (ImageFont.load_default(size) for size in (12, 14))
    tiles = [[pictures.enlarge(p, IMAGE_TILE) for p in pictures.to_pictures(pictures.to_uint8(s))] for _, s, _ in rows]
    width, height = tiles[0][0].size
    label = pictures.LABEL_WIDTH
    columns = max(len(row) for row in tiles)
    size = (
        2 * pictures.MARGIN + label + columns * (width + pictures.GAP),
        2 * pictures.MARGIN + len(rows) * (height + pictures.GAP) + (len(rows) // 2) * pictures.GAP * 2,
    )
    canvas = Image.new("RGB", size, pictures.BACKGROUND)
    draw = ImageDraw.Draw(canvas)
    top = pictures.MARGIN
    for index, ((lines, _, colour), row) in enumerate(zip(rows, tiles, strict=True)):
        for line, text in enumerate(lines):
            place = (pictures.MARGIN, top + 4 + line * 19)
            draw.text(place, text, fill=colour if line < 2 else pictures.INK, font=font if line else bold)
        for column, picture in enumerate(row):
            canvas.paste(picture, (pictures.MARGIN + label + column * (width + pictures.GAP), top))
        top += height + pictures.GAP + (2 * pictures.GAP if index % 2 else 0)
    return canvas

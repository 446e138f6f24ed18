"""`plot`: read everything that was named, see that it fits together, and draw what it allows."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from lmlangevin.core.errors import LMLError
from lmlangevin.generation.images import COLUMNS, png_bytes
from lmlangevin.generation.manifest import MANIFEST
from lmlangevin.generation.store import LocalStore
from lmlangevin.plot.curves import draw_curves, panels
from lmlangevin.plot.pictures import arms_picture, choose_seeds, differences_picture, pairs
from lmlangevin.plot.sources import RESULT, Job, Result, read_source

SCALE = 4.0
ARMS_PICTURE, DIFFERENCES_PICTURE, CURVES_PICTURE = "arms.png", "differences.png", "curves.png"


@dataclass(frozen=True)
class PlotResult:
    """What was drawn.

    Attributes:
        pictures: The files by what they show: `"images"`, `"differences"` and `"curves"`, as far as they were drawn.
        notes: Lines that a user should read.
    """

    pictures: dict[str, Path]
    notes: tuple[str, ...] = ()


def plot(
    sources: Sequence[str | Path],
    *,
    out: str | Path,
    seeds: Sequence[int] | None = None,
    columns: int = COLUMNS,
    scale: float = SCALE,
) -> PlotResult:
    """Draw images of equal seeds, their differences, and quality over evaluations.

    Args:
        sources: One or more: folders or manifests of `lml generate`, and result files of `lml bench`, `lml reproduce`
            and `lml fid --out`. All jobs among them share a picture of images, a row an arm.
        out: Folder to write to, made if it is not there; files of the same names are replaced.
        seeds: Seeds to show, in this order; None is the first `columns` ones.
        columns: Images a row, 1 or more.
        scale: Factor of the differences between an arm and the plain one, above 0.

    Returns:
        What was drawn.

    Raises:
        LMLError: For a source that cannot be read, is not complete or does not fit the others, or an option out of
            range; before anything is written.
    """
    target = Path(out)
    _check(sources, target, columns, scale)
    read = [read_source(source) for source in dict.fromkeys(map(str, sources))]
    jobs = [source for source in read if isinstance(source, Job)]
    drawn = panels(jobs, [source for source in read if isinstance(source, Result)])
    arms = [arm for job in jobs for arm in job.arms]
    if seeds is not None and not arms:
        raise LMLError("seeds: the sources hold no images; leave it out, or give a folder of lml generate.")
    chosen = choose_seeds(arms, seeds, columns) if arms else []
    compared = pairs(jobs)
    if not arms and not drawn:
        raise LMLError("manifest: no cell is finite and complete, so there is nothing to draw; give other files.")
    store = LocalStore(target, target)
    store.check_writable()
    store.make_folders([])
    pictures, notes = {}, []
    if drawn:  # first: without matplotlib nothing is written
        draw_curves(drawn, target / CURVES_PICTURE)
        pictures["curves"] = target / CURVES_PICTURE
    if arms:
        store.write(ARMS_PICTURE, png_bytes(arms_picture(arms, chosen, columns)))
        pictures["images"] = target / ARMS_PICTURE
    if compared:
        store.write(DIFFERENCES_PICTURE, png_bytes(differences_picture(compared, chosen, columns, scale)))
        pictures["differences"] = target / DIFFERENCES_PICTURE
    elif arms:
        notes.append(
            "Differences need a plain arm and another one: lml generate --compare, or --no-lml in a job beside."
        )
    return PlotResult(pictures, tuple(notes))


def _check(sources: Sequence[str | Path], out: Path, columns: int, scale: float) -> None:
    if not sources:
        raise LMLError("manifest: none given; give a folder of lml generate or a result file.")
    if columns < 1:
        raise LMLError(f"columns={columns} is too small; give 1 or more.")
    if not (math.isfinite(scale) and scale > 0):
        raise LMLError(f"scale={scale} is no factor; give a number above 0.")
    if found := [name for name in (MANIFEST, RESULT) if (out / name).exists()]:
        raise LMLError(f"out={str(out)!r} holds a run ({found[0]}), whose pictures it keeps; give another folder.")

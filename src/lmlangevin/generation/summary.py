"""What a person sees of a finished job: the grid of images, the comparison, and the verdict in one line."""

from __future__ import annotations

from pathlib import Path

from PIL import Image

from lmlangevin.core.config import LMLConfig
from lmlangevin.core.damping import CONSTANT
from lmlangevin.generation.config import GenerateConfig
from lmlangevin.generation.images import BLOCKS, COLUMNS, compare_picture, make_grid, png_bytes, read_png
from lmlangevin.generation.manifest import image_name
from lmlangevin.generation.plan import RunResult
from lmlangevin.generation.store import Store

GRID_IMAGES = 100


def picture_names(config: GenerateConfig) -> dict[str, str]:
    """Return the names of a job's picture files."""
    return {"grid": "grid.png"} | ({"compare": "compare.png"} if config.compare else {})


def write_pictures(config: GenerateConfig, runs: list[RunResult], store: Store) -> None:
    """Draw a job's pictures from its first images, as they are on disk, and write them."""
    names = picture_names(config)
    store.write(names["grid"], png_bytes(make_grid(_first(runs[-1], store, config, GRID_IMAGES))))
    if config.compare:
        store.write(names["compare"], png_bytes(_compare(config, runs[0], runs[1], store)))


def _first(run: RunResult, store: Store, config: GenerateConfig, most: int) -> list[Image.Image]:
    names = [image_name(run.name, index) for index in range(min(most, config.count))]
    return list(store.read_each(names, lambda name, data: read_png(data or b"")))


def _compare(config: GenerateConfig, plain: RunResult, lml: RunResult, store: Store) -> Image.Image:
    from lmlangevin.schedulers.names import find_scheduler

    most = COLUMNS * BLOCKS
    shown = min(config.count, most)
    seeds = f"seed {config.seed}" if shown == 1 else f"seeds {config.seed} to {config.seed + shown - 1}"
    sampler = find_scheduler(config.scheduler).title + (f" ({config.grid})" if config.grid else "")
    return compare_picture(
        _first(plain, store, config, most),
        _first(lml, store, config, most),
        title=f"{Path(config.model).name}: {sampler}, {seeds}",
        plain_label=_label(config, plain, "plain"),
        corrected_label=_label(config, lml, "with LML"),
    )


def _label(config: GenerateConfig, run: RunResult, title: str) -> list[str]:
    lines = [title, f"{config.steps} steps, {run.nfe} NFE"]
    if run.name == "lml":
        lines.append(_strength(config, run))
    if run.frechet_distance is not None:
        lines.append(f"FD {run.frechet_distance:.3f}")
    return lines


def _strength(config: GenerateConfig, run: RunResult) -> str:
    if run.gain is not None:
        return f"gain {run.gain:.3g}"
    control = run.scheduler.config.control
    if control != CONSTANT:
        return f"{control} control"
    kappa, damping = LMLConfig(kappa=config.kappa, damping=config.damping).resolved()
    return f"k {kappa:.3g}, mu {damping:.3g}"


def finite_notes(config: GenerateConfig, runs: list[RunResult]) -> list[str]:
    """Return a line for each run that holds images with values that are not finite."""
    return [
        f"{run.non_finite} of {config.count} images of the run {run.name!r} hold values that are not "
        "finite; give --dtype float32, or a smaller --gain."
        for run in runs
        if run.non_finite
    ]


def verdict(plain: float | None, lml: float | None) -> str | None:
    """Return a comparison in one plain line, from the two distances; None without them."""
    if plain is None or lml is None:
        return None
    ratio = lml / plain if plain > 0 else float("inf")
    figures = f"Frechet distance {plain:.3f} plain, {lml:.3f} with LML"
    if abs(ratio - 1) < 0.01:
        return f"{figures}: no difference worth naming."
    if ratio < 1:
        return f"{figures}: LML brings the images {100 * (1 - ratio):.0f}% closer to the reference."
    return f"{figures}: LML takes the images {100 * (ratio - 1):.0f}% further from the reference here; use --no-lml."

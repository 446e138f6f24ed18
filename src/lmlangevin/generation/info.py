"""The tables of `lml info`."""

from __future__ import annotations

from importlib import resources
from typing import Any

from rich.table import Table

from lmlangevin.core.errors import LMLError
from lmlangevin.generation.config import SIGMAS, SPACINGS
from lmlangevin.generation.manifest import package_versions
from lmlangevin.generation.models import FLOW_CONFIG, VP_CONFIG
from lmlangevin.generation.sampling import without_known_warnings
from lmlangevin.schedulers.names import SCHEDULERS, SchedulerName, build_scheduler, grid_config
from lmlangevin.schedulers.presets import find_preset, grid_key, presets_version

_CIFAR_NOTE = "made from CIFAR-10 (Krizhevsky 2009, JPEG re-encoded), which is given out for research without a licence"

_DRAWN_NOTE = "trained on pictures that the package draws; there is no other data, and the licence is the package's"

_MODELS = {
    "scenes": ("text to image, 64x64, latent, guided: StableDiffusionPipeline, noise prediction", _DRAWN_NOTE),
    "scenes-flow": ("text to image, 64x64, latent, guided: StableDiffusion3Pipeline, flow velocity", _DRAWN_NOTE),
    "embedded": ("unconditional 32x32 DDPM, noise prediction", _CIFAR_NOTE),
    "analytic-cifar10": ("Gaussian mixture with the exact score, noise or flow velocity", _CIFAR_NOTE),
    "features-cifar10": ("feature network of the Frechet distance, not a model to sample", _CIFAR_NOTE),
    "scenes-reader": (
        "reader and feature network of scenes, not a model to sample",
        _DRAWN_NOTE,
    ),
}


def offered_grids(entry: SchedulerName) -> tuple[str, ...]:
    """Return the time grids that a sampler's diffusers class offers."""
    grids = []
    for grid in (*SPACINGS, *SIGMAS):
        try:
            grid_config(entry, grid)
        except LMLError:
            continue
        grids.append(grid)
    return tuple(grids)


def recommended_gain(entry: SchedulerName, config: Any) -> float | None:
    """Return the preset gain of a built sampler's configuration, None where it was not measured."""
    try:
        return find_preset(entry.base, config).gain
    except LMLError:
        return None


def scheduler_table() -> Table:
    """Return the samplers with the gain that is recommended on each of their time grids."""
    table = Table(
        title=f"Schedulers, recommended gain by time grid (presets {presets_version()}; * default grid, - not measured)"
    )
    table.add_column("--scheduler", style="bold", no_wrap=True)
    table.add_column("sampler", no_wrap=True)
    table.add_column("diffusers class", no_wrap=True)
    table.add_column("grid: recommended gain")
    for name, entry in SCHEDULERS.items():
        schedule = FLOW_CONFIG if entry.flow else VP_CONFIG
        with without_known_warnings():
            default = build_scheduler(name, schedule)
            cells = {grid_key(entry.base, default.config): recommended_gain(entry, default.config)}
            for grid in offered_grids(entry):
                built = build_scheduler(name, schedule, grid=grid)
                cells.setdefault(grid_key(entry.base, built.config), recommended_gain(entry, built.config))
        words = [
            f"{grid}{'*' if index == 0 else ''}: {'-' if gain is None else f'{gain:g}'}"
            for index, (grid, gain) in enumerate(cells.items())
        ]
        table.add_row(name, entry.title, entry.class_name, ", ".join(words) if entry.takes_lml else "no LML")
    return table


def model_table() -> Table:
    """Return the models that come with the package."""
    table = Table(title="Built-in models")
    for column in ("--model", "what it is", "size", "data and licence"):
        table.add_column(column, no_wrap=column == "--model")
    for name, (what, note) in _MODELS.items():
        folder = resources.files("lmlangevin") / "assets" / name
        if folder.is_dir():
            table.add_row(name, what, f"{_folder_bytes(folder) / 2**20:.1f} MiB", note)
    table.add_row("FOLDER", "a diffusers pipeline that save_pretrained wrote", "", "its own")
    table.add_row("OWNER/NAME", "a diffusers pipeline on the hub", "", "its own")
    return table


def calibration_line() -> str:
    """Return the calibrations that come with the package, by model, in one line."""
    from lmlangevin.schedulers.calibrations import shipped_calibrations

    steps: dict[str, list[str]] = {}
    for name in shipped_calibrations():
        model, _, length = name.rpartition("-")
        steps.setdefault(model, []).append(length)
    return "Calibrations (MODEL-STEPS): " + "; ".join(f"{model} {', '.join(n)}" for model, n in steps.items())


def _folder_bytes(folder: Any) -> int:
    return sum(_folder_bytes(item) if item.is_dir() else len(item.read_bytes()) for item in folder.iterdir())


def version_line() -> str:
    """Return the installed versions in one line."""
    return ", ".join(f"{name} {version}" for name, version in package_versions().items())

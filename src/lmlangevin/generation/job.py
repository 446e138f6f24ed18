"""`generate`: sample a job's images, write them with their manifest, and compare the two samplers."""

from __future__ import annotations

import datetime
import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

import torch
from PIL import Image
from torch import Tensor

from lmlangevin.core.config import LMLConfig
from lmlangevin.core.errors import LMLError
from lmlangevin.generation.config import GenerateConfig, check_folder
from lmlangevin.generation.distance import DistanceMeter
from lmlangevin.generation.images import (
    BLOCKS,
    COLUMNS,
    compare_picture,
    make_grid,
    to_pictures,
    to_uint8,
    write_png,
)
from lmlangevin.generation.manifest import (
    FORMAT,
    MANIFEST,
    noise_hash,
    package_versions,
    remove_job,
    write_manifest,
)
from lmlangevin.generation.models import LoadedModel, load_model, pipeline_arguments
from lmlangevin.generation.sampling import CountCalls, sample, sample_pipeline, without_known_warnings
from lmlangevin.generation.seeds import image_seeds, start_images

Progress: TypeAlias = Callable[[str, int, int], None]
"""Called as (run, images done, images in all) after each batch."""

GRID_IMAGES = 100
TITLES = {"plain": "plain", "lml": "LML", "images": "images"}


@dataclass
class RunResult:
    """One run of a sampler over all seeds of a job.

    Attributes:
        name: `"plain"` and `"lml"` of a comparison, otherwise `"images"`.
        scheduler: The sampler.
        nfe: Network evaluations of each image, guidance apart.
        guidance_evaluations: Further evaluations of each image that guidance cost.
        seconds: Time spent sampling, without writing and measuring.
        non_finite: Images in which a value was not finite.
        frechet_distance: To the reference of the model; None where it was not measured.
        corrections: For each step the mean gain, the mean rotation in radians and the share of images left alone.
        shown: The first images, for the pictures.
    """

    name: str
    scheduler: Any
    nfe: int = 0
    guidance_evaluations: int = 0
    seconds: float = 0.0
    non_finite: int = 0
    frechet_distance: float | None = None
    corrections: list[dict[str, Any]] = field(default_factory=list)
    shown: list[Image.Image] = field(default_factory=list)

    @property
    def gain(self) -> float | None:
        """The gain of the sampler's configuration; None for a plain one, or one that was given kappa."""
        return self.scheduler.config.get("gain")

    def describe(self, count: int) -> dict[str, Any]:
        """Return what the manifest says of this run."""
        return {
            "scheduler_class": type(self.scheduler).__name__,
            "scheduler_config": json.loads(self.scheduler.to_json_string()),
            "timesteps": [float(t) for t in self.scheduler.timesteps],
            "nfe": self.nfe,
            "guidance_evaluations": self.guidance_evaluations,
            "seconds": round(self.seconds, 3),
            "images_per_second": round(count / self.seconds, 3) if self.seconds else None,
            "non_finite_images": self.non_finite,
            "frechet_distance": self.frechet_distance,
            "corrections": self.corrections,
        }


@dataclass(frozen=True)
class GenerateResult:
    """What a job made.

    Attributes:
        out: Its folder.
        manifest: The manifest.
        pictures: Path of the `"grid"` picture and, for a comparison, of the `"compare"` picture.
        runs: The runs, by name.
        notes: Lines that a user should read, such as a halved preset.
        verdict: The comparison in one plain line; None without distances.
    """

    out: Path
    manifest: Path
    pictures: dict[str, Path]
    runs: dict[str, RunResult]
    notes: tuple[str, ...]
    verdict: str | None


def generate(config: GenerateConfig, progress: Progress | None = None) -> GenerateResult:
    """Run a job.

    Writes `OUT/images/000000.png` and so on (with `compare` `OUT/plain/` and `OUT/lml/` instead), `OUT/grid.png`,
    `OUT/compare.png` and `OUT/manifest.json`. The manifest is there from the start with `"status": "running"`, so
    that a folder always says what it holds.

    Args:
        config: The job.
        progress: Told of each finished batch.

    Returns:
        What was made.

    Raises:
        LMLError: If the job cannot be done as asked. Whatever can be known beforehand is checked before anything is
            written.
    """
    from lmlangevin.schedulers.names import find_scheduler

    check_folder(config.out, overwrite=config.overwrite)
    model = load_model(config, flow=find_scheduler(config.scheduler).flow)
    notes: list[str] = []
    runs = _plan(config, model, notes)
    meter = DistanceMeter.for_job(config, model, notes)
    manifest = _open_folder(config, model, runs, notes)
    for run in runs:
        _sample_run(config, model, run, manifest, meter, progress)
    pictures, verdict = _finish(config, runs, manifest, meter)
    manifest |= {
        "status": "complete",
        "runs": {run.name: run.describe(config.num_images) for run in runs},
        "verdict": verdict,
    }
    path = write_manifest(config.out, manifest)
    return GenerateResult(config.out, path, pictures, {run.name: run for run in runs}, tuple(notes), verdict)


# Before anything is written ---------------------------------------------------------------------------------------


def _plan(config: GenerateConfig, model: LoadedModel, notes: list[str]) -> list[RunResult]:
    """Build the sampler of each run, and see that it accepts the number of steps."""
    wanted = ["plain", "lml"] if config.compare else ["images"]
    runs = []
    with without_known_warnings():
        for name in wanted:
            with_lml = config.lml and name != "plain"
            scheduler = _build(config, model, notes, with_lml=with_lml)
            try:
                # A pipeline may compute its own grid (mu, sigmas) when it runs.
                if model.shape is not None:
                    scheduler.set_timesteps(config.steps)
            except LMLError:
                raise
            except (ValueError, IndexError) as error:
                reason = " ".join(str(error).split())
                raise LMLError(
                    f"steps={config.steps} is refused by {config.scheduler} ({reason}); give another number of steps."
                ) from error
            runs.append(RunResult(name, scheduler))
    return runs


def _build(config: GenerateConfig, model: LoadedModel, notes: list[str], *, with_lml: bool) -> Any:
    from lmlangevin.schedulers.names import build_scheduler
    from lmlangevin.schedulers.presets import find_preset

    overrides: dict[str, Any] = {}
    if config.flow_shift is not None:
        overrides["shift"] = config.flow_shift
        if model.scheduler_config.get("use_dynamic_shifting"):
            # Shift by the image's size would take the place of the number that was given.
            overrides["use_dynamic_shifting"] = False
    plain = build_scheduler(config.scheduler, model.scheduler_config, grid=config.grid, lml=None, **overrides)
    if not with_lml:
        return plain
    keys = config.lml_keys()
    by_preset = config.control == "constant" and config.gain is None and config.kappa is None and config.damping is None
    if by_preset and not model.measured:
        half = find_preset(type(plain), plain.config, halved=True)
        keys |= {"gain": half.gain, "preset": half.label}
        notes.append(
            f"The presets were measured on unconditional pixel models; {model.family} gets half of its scheduler's, "
            f"gain {half.gain:g}. Give --gain to choose it yourself."
        )
    made = build_scheduler(config.scheduler, model.scheduler_config, grid=config.grid, lml=keys, **overrides)
    if by_preset and made.config.gain == 0:
        notes.append(
            f"The measured gain of {config.scheduler} on this grid is 0, which is the plain sampler. Give --gain to "
            "try one, or another scheduler such as deis or euler."
        )
    return made


def _open_folder(config: GenerateConfig, model: LoadedModel, runs: list[RunResult], notes: list[str]) -> dict[str, Any]:
    """Make the folder, clear it of the job that it replaces, and write the first manifest."""
    files = [f"{index:06d}.png" for index in range(config.num_images)]
    manifest: dict[str, Any] = {
        "format": FORMAT,
        "status": "running",
        "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "versions": package_versions(),
        "threads": torch.get_num_threads(),
        "config": config.as_dict(),
        "model": {"name": model.name, "class": model.family},
        "notes": notes,
        "pictures": {"grid": "grid.png"} | ({"compare": "compare.png"} if config.compare else {}),
        "images": [
            {"id": index, "seed": seed, "files": {run.name: f"{run.name}/{files[index]}" for run in runs}}
            for index, seed in enumerate(image_seeds(config.seed, config.num_images))
        ],
    }
    try:
        if (config.out / MANIFEST).exists():
            remove_job(config.out)
        for run in runs:
            (config.out / run.name).mkdir(parents=True, exist_ok=True)
        write_manifest(config.out, manifest)
    except OSError as error:
        raise LMLError(f"out={str(config.out)!r} cannot be written ({error.strerror}); give another folder.") from error
    return manifest


# Sampling -----------------------------------------------------------------------------------------------------------


def _sample_run(
    config: GenerateConfig,
    model: LoadedModel,
    run: RunResult,
    manifest: dict[str, Any],
    meter: DistanceMeter | None,
    progress: Progress | None,
) -> None:
    entries = manifest["images"]
    corrections = _Corrections()
    for start in range(0, config.num_images, config.batch_size):
        batch = entries[start : start + config.batch_size]
        seeds = [entry["seed"] for entry in batch]
        pictures, pixels = _sample_batch(config, model, run, seeds, batch)
        corrections.add(getattr(run.scheduler, "lml_history", []), len(batch))
        if meter is not None and pixels is not None:
            meter.update(run.name, pixels)
        for entry, picture in zip(batch, pictures, strict=True):
            write_png(config.out / entry["files"][run.name], picture)
        run.shown += pictures[: max(0, GRID_IMAGES - len(run.shown))]
        if progress is not None:
            progress(run.name, start + len(batch), config.num_images)
    run.corrections = corrections.summary()


def _sample_batch(
    config: GenerateConfig, model: LoadedModel, run: RunResult, seeds: list[int], entries: list[dict[str, Any]]
) -> tuple[list[Image.Image], Tensor | None]:
    noise, generators = start_images(seeds, model.shape or (0,))
    began = time.perf_counter()
    try:
        with CountCalls(*model.networks, batch=len(seeds)) as count:
            if model.shape is None:
                model.pipeline.scheduler = run.scheduler
                arguments = pipeline_arguments(model.pipeline, config)
                pictures, pixels = sample_pipeline(model.pipeline, generators, arguments=arguments), None
            else:
                samples = sample(
                    model.networks[0],
                    run.scheduler,
                    noise,
                    generators,
                    steps=config.steps,
                    dtype=getattr(torch, config.dtype),
                    device=config.device,
                ).cpu()
                pixels = to_uint8(samples)
                pictures = to_pictures(pixels)
                run.non_finite += int((~samples.flatten(1).isfinite().all(dim=1)).sum())
                for entry, row in zip(entries, noise, strict=True):
                    entry["noise_sha256"] = noise_hash(row)
    except torch.OutOfMemoryError as error:
        raise LMLError(
            f"batch_size={config.batch_size} does not fit the memory of {config.device}; give less."
        ) from error
    run.seconds += time.perf_counter() - began
    # What a pipeline evaluates beyond one call a step is guidance that it runs separately and not in one batch.
    separate = max(0, count.calls - len(run.scheduler.timesteps))
    run.nfe = count.calls - separate
    run.guidance_evaluations = count.doubled + separate
    return pictures, pixels


class _Corrections:
    """Means over all images of what LML did at each step, without keeping the records of every batch."""

    def __init__(self) -> None:
        self._images = 0
        self._sums: list[list[float]] = []

    def add(self, history: list[Any], images: int) -> None:
        if not history:
            return
        self._images += images
        for index, info in enumerate(history):
            row = [info.angle.sum().item(), info.identity.sum().item(), *info.gain.sum(dim=0).tolist()]
            if index == len(self._sums):
                self._sums.append(row)
            else:
                self._sums[index] = [a + b for a, b in zip(self._sums[index], row, strict=True)]

    def summary(self) -> list[dict[str, Any]]:
        return [
            {
                "step": index,
                "gain": [value / self._images for value in gains],
                "angle": angle / self._images,
                "identity": identity / self._images,
            }
            for index, (angle, identity, *gains) in enumerate(self._sums)
        ]


# Pictures and words -------------------------------------------------------------------------------------------------


def _finish(
    config: GenerateConfig, runs: list[RunResult], manifest: dict[str, Any], meter: DistanceMeter | None
) -> tuple[dict[str, Path], str | None]:
    if meter is not None:
        for run in runs:
            run.frechet_distance = meter.distance(run.name)
        manifest["frechet"] = meter.describe()
    for run in runs:
        if run.non_finite:
            manifest["notes"].append(
                f"{run.non_finite} of {config.num_images} images of the run {run.name!r} hold values that are not "
                "finite; give --dtype float32, or a smaller --gain."
            )
    pictures = {name: config.out / file for name, file in manifest["pictures"].items()}
    write_png(pictures["grid"], make_grid(runs[-1].shown))
    if not config.compare:
        return pictures, None
    plain, lml = runs
    write_png(pictures["compare"], _compare(config, plain, lml))
    return pictures, _verdict(plain.frechet_distance, lml.frechet_distance)


def _compare(config: GenerateConfig, plain: RunResult, lml: RunResult) -> Image.Image:
    from lmlangevin.schedulers.names import find_scheduler

    shown = min(config.num_images, COLUMNS * BLOCKS)
    seeds = f"seed {config.seed}" if shown == 1 else f"seeds {config.seed} to {config.seed + shown - 1}"
    sampler = find_scheduler(config.scheduler).title + (f" ({config.grid})" if config.grid else "")
    return compare_picture(
        plain.shown,
        lml.shown,
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
    if config.control != "constant":
        return f"{config.control} gain"
    kappa, damping = LMLConfig(kappa=config.kappa, damping=config.damping).resolved()
    return f"k {kappa:.3g}, mu {damping:.3g}"


def _verdict(plain: float | None, lml: float | None) -> str | None:
    if plain is None or lml is None:
        return None
    ratio = lml / plain if plain > 0 else float("inf")
    figures = f"Frechet distance {plain:.3f} plain, {lml:.3f} with LML"
    if abs(ratio - 1) < 0.01:
        return f"{figures}: no difference worth naming."
    if ratio < 1:
        return f"{figures}: LML brings the images {100 * (1 - ratio):.0f}% closer to the reference."
    return f"{figures}: LML takes the images {100 * (ratio - 1):.0f}% further from the reference here; use --no-lml."

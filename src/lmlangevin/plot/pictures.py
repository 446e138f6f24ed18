"""Images of equal seeds below each other, and what differs between them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from lmlangevin.core.errors import LMLError
from lmlangevin.generation.images import ACCENT, INK, Row, rows_picture
from lmlangevin.plot.sources import Arm, Job

MIDDLE = 128
"""The grey of no difference."""


def pairs(jobs: Sequence[Job]) -> list[tuple[Arm, Arm]]:
    """Return each arm that is not plain behind the plain one that it is compared with.

    That is the plain arm of its own job, or where a job has none, the first plain arm of all.
    """
    every = [arm for job in jobs for arm in job.arms if arm.plain]
    found = []
    for job in jobs:
        own = [arm for arm in job.arms if arm.plain] or every
        found += [(own[0], arm) for arm in job.arms if own and not arm.plain]
    return found


def choose_seeds(arms: Sequence[Arm], seeds: Sequence[int] | None, most: int) -> list[int]:
    """Return the seeds to show, after looking whether all arms start from the same noise there.

    Args:
        arms: One or more.
        seeds: As the user chose them, in that order; None is the first ones, if all arms have the same.
        most: How many without a choice.

    Raises:
        LMLError: An arm lacks a seed, or two have another prompt, noise or size for one.
    """
    first = arms[0]
    for arm in arms[1:] if seeds is None else ():
        if arm.frames.keys() != first.frames.keys():
            common = sorted(arm.frames.keys() & first.frames.keys())
            remedy = f"give --seeds out of {common[0]} to {common[-1]}" if common else "give runs of the same seeds"
            raise LMLError(
                f"manifest {arm.job!r} has {_span(arm)}, and {first.job!r} has {_span(first)}, so that images of other "
                f"seeds would stand below each other; {remedy}."
            )
    chosen = list(first.frames)[:most] if seeds is None else list(dict.fromkeys(seeds))
    sizes = {}
    for seed in chosen:
        for arm in arms:
            if seed not in arm.frames:
                raise LMLError(f"seeds: {seed} is none of {arm.job!r}, which has {_span(arm)}; give others.")
            frame, other = arm.frames[seed], first.frames[seed]
            if frame.prompt != other.prompt:
                raise LMLError(
                    f"manifest {arm.job!r} has prompt {frame.prompt!r} for seed {seed}, and {first.job!r} has "
                    f"{other.prompt!r}; give runs of the same prompts."
                )
            sizes[_size(frame.path)] = arm.job
            if len(sizes) > 1:
                (a, one), (b, two) = sizes.items()
                raise LMLError(
                    f"manifest {two!r} has images of {b[0]}x{b[1]}, and {one!r} of {a[0]}x{a[1]}; give runs of one "
                    "size."
                )
            if frame.noise != other.noise:
                raise LMLError(
                    f"manifest {arm.job!r} starts seed {seed} from other noise than {first.job!r}; give runs of one "
                    "model."
                )
    return chosen


def arms_picture(arms: Sequence[Arm], seeds: Sequence[int], columns: int) -> Image.Image:
    """Draw images of equal seeds: a row an arm, a column a seed, in the order of `seeds`."""
    rows = [Row([_read(arm, seed) for seed in seeds], _label(arm), INK if arm.plain else ACCENT) for arm in arms]
    return rows_picture(rows, title=_seeds_words(seeds), columns=columns)


def differences_picture(
    compared: Sequence[tuple[Arm, Arm]], seeds: Sequence[int], columns: int, scale: float
) -> Image.Image:
    """Draw what each arm of `pairs` adds to the plain one, amplified by `scale`, as `difference` does."""
    rows = []
    for plain, arm in compared:
        both = [(_read(plain, seed), _read(arm, seed)) for seed in seeds]
        mean = np.mean([np.abs(_pixels(b) - _pixels(a)).mean() for a, b in both])
        label = [*_label(arm)[:3], f"mean {mean:.2f} of 255"]
        rows.append(Row([difference(a, b, scale) for a, b in both], label, ACCENT))
    title = f"Difference from plain, times {scale:g}; grey is none. {_seeds_words(seeds)}"
    return rows_picture(rows, title=title, columns=columns)


def difference(plain: Image.Image, other: Image.Image, scale: float) -> Image.Image:
    """Return what a picture adds to another one, pixel by pixel.

    Args:
        plain: A picture.
        other: Another one of its size.
        scale: Factor of the difference, above 0.

    Returns:
        An RGB picture of 128 + scale * (other - plain), rounded and clipped to 0..255: where it is grey the two are the
        same, and brighter where `other` is.
    """
    amplified = MIDDLE + scale * (_pixels(other) - _pixels(plain))
    return Image.fromarray(amplified.round().clip(0, 255).astype(np.uint8))


def _pixels(picture: Image.Image) -> np.ndarray:
    return np.asarray(picture.convert("RGB"), dtype=np.float64)


def _label(arm: Arm) -> list[str]:
    cost = f"{arm.steps} steps, {arm.nfe} NFE"
    return [arm.words, arm.title, cost, *([] if arm.distance is None else [f"FD {arm.distance:.3f}"])]


def _read(arm: Arm, seed: int) -> Image.Image:
    path = arm.frames[seed].path
    try:
        with Image.open(path, formats=("PNG",)) as picture:
            return picture.convert("RGB")
    except (OSError, SyntaxError, ValueError) as error:
        raise _broken(path, error) from error


def _size(path: Path) -> tuple[int, int]:
    try:
        with Image.open(path, formats=("PNG",)) as picture:
            return picture.size
    except (OSError, SyntaxError, ValueError) as error:
        raise _broken(path, error) from error


def _broken(path: Path, error: Exception) -> LMLError:
    return LMLError(f"file {str(path)!r} cannot be decoded ({error}); make it again with lml generate --resume.")


def _span(arm: Arm) -> str:
    seeds = list(arm.frames)
    return f"the seeds {seeds[0]} to {seeds[-1]}"


def _seeds_words(seeds: Sequence[int]) -> str:
    if list(seeds) == list(range(seeds[0], seeds[0] + len(seeds))):
        return f"Seed {seeds[0]}" if len(seeds) == 1 else f"Seeds {seeds[0]} to {seeds[-1]}"
    return "Seeds " + ", ".join(map(str, seeds[:12])) + (" and more" if len(seeds) > 12 else "")

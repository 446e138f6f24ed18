"""Reader of T2I-CompBench's folder layout: `{save_dir}/{model}/{category}/{sampler}/samples/{prompt}_{index:06d}.png`.

A *sampler folder* is the one that holds `samples`; the results of all scripts lie beside that. The index counts through
all images, prompt by prompt, and the scripts go through them in its order.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from lmlangevin.core.errors import LMLError
from lmlangevin.evaluation.compbench.names import parse_name
from lmlangevin.evaluation.compbench.prompts import tidy

SAMPLES = "samples"


@dataclass(frozen=True)
class Sample:
    """One image.

    Args:
        prompt: its text.
        index: its number.
        path: its file.
    """

    prompt: str
    index: int
    path: Path


def sampler_folder(named: str | Path) -> Path:
    """Return the sampler folder that a user names, by itself or by its `samples`.

    Raises:
        LMLError: there is no folder `samples`.
    """
    path = Path(named)
    if (path / SAMPLES).is_dir():
        return path
    if path.is_dir() and path.absolute().name == SAMPLES:
        return path.absolute().parent
    raise LMLError(
        f"folder {str(named)!r}: has no {SAMPLES}/ in it; give the folder of a sampler, see lml compbench export"
    )


def read_samples(
    folder: str | Path, *, prompts: Sequence[str] | None = None, unequal: bool = False
) -> tuple[Sample, ...]:
    """List the images of a sampler, without opening one.

    Args:
        folder: a sampler folder. Hidden files in its `samples` are left out.
        prompts: prompts that must be there and no others, a prompt as often as it stands here; None takes those that
            are there.
        unequal: also take prompts that have different numbers of images.

    Returns:
        The images by their number.

    Raises:
        LMLError: no images, a name that cannot be read, a number that two images have, prompts that are missing or
            strange, or different numbers of images.
    """
    where = f"folder {str(folder)!r}"
    inner = sampler_folder(folder) / SAMPLES
    entries = [entry for entry in inner.iterdir() if not entry.name.startswith(".") and entry.is_file()]
    samples = sorted((Sample(*parse_name(entry.name), entry) for entry in entries), key=lambda sample: sample.index)
    if not samples:
        raise LMLError(f"{where}: no images in its {SAMPLES}/; make them by lml generate and lml compbench export")
    for before, after in zip(samples, samples[1:], strict=False):
        if before.index == after.index:
            raise LMLError(
                f"{where}: the images {before.path.name!r} and {after.path.name!r} have one number, which the official "
                "scripts count twice; take one of them away"
            )
    _check_counts(where, Counter(tidy(sample.prompt) for sample in samples), prompts, unequal)
    return tuple(samples)


def _check_counts(where: str, counts: Counter[str], prompts: Sequence[str] | None, unequal: bool) -> None:
    times = Counter(map(tidy, prompts)) if prompts is not None else Counter(dict.fromkeys(counts, 1))
    for found, wanted, word in ((times, counts, "lacks"), (counts, times, "has")):
        odd = [prompt for prompt in found if prompt not in wanted]
        if odd:
            raise LMLError(
                f"{where}: {word} {len(odd)} prompts, such as {odd[0]!r}, against the {len(times)} that were given; "
                "give the prompts that it was made from, or finish it"
            )
    each = {prompt: count / times[prompt] for prompt, count in counts.items()}
    fewest, most = min(each, key=each.__getitem__), max(each, key=each.__getitem__)
    if each[fewest] != each[most] and not unequal:
        raise LMLError(
            f"{where}: {fewest!r} has {each[fewest]:g} images and {most!r} has {each[most]:g}; finish it, or give "
            "--unequal"
        )


def images_each(samples: Sequence[Sample]) -> int | None:
    """Return the number of images of every prompt, None where it differs."""
    counts = set(Counter(tidy(sample.prompt) for sample in samples).values())
    return counts.pop() if len(counts) == 1 else None

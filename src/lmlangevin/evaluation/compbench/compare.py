"""Two samplers' results of one score, with the difference and what a reader must know of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lmlangevin.core.errors import LMLError
from lmlangevin.evaluation.compbench.bootstrap import RESAMPLES, PairedDifference, paired_difference, prompt_means
from lmlangevin.evaluation.compbench.export import read_record
from lmlangevin.evaluation.compbench.layout import Sample, images_each, read_samples, sampler_folder
from lmlangevin.evaluation.compbench.prompts import count_note
from lmlangevin.evaluation.compbench.scores import METRIC_OF, find_metric, read_scores
from lmlangevin.evaluation.compbench.vqa import scorer_of


@dataclass(frozen=True)
class Comparison:
    """A sampler compared with another.

    Args:
        metric: the score.
        a: sampler folder that is compared with.
        b: sampler folder that is compared.
        images_a: number of images of the first.
        images_b: of the second.
        paired: the difference.
        seeds_a: first seed and number of seeds of the first's images; None where it is not known.
        seeds_b: of the second's.
        notes: lines that a reader needs.
    """

    metric: str
    a: Path
    b: Path
    images_a: int
    images_b: int
    paired: PairedDifference
    seeds_a: dict[str, int] | None
    seeds_b: dict[str, int] | None
    notes: tuple[str, ...]

    def as_dict(self) -> dict[str, Any]:
        """Return everything as JSON takes it."""
        return {
            "metric": self.metric,
            "a": {"folder": str(self.a), "images": self.images_a, "seeds": self.seeds_a},
            "b": {"folder": str(self.b), "images": self.images_b, "seeds": self.seeds_b},
            **self.paired.as_dict(),
            "notes": list(self.notes),
        }


def seeds_of(folder: Path) -> dict[str, int] | None:
    """Return the first seed and the number of seeds of a sampler's images, None where no export noted them."""
    record = read_record(folder)
    return None if record is None else record.get("seeds")


def compare_folders(
    a: str | Path,
    b: str | Path,
    *,
    metric: str | None = None,
    resamples: int = RESAMPLES,
    seed: int = 0,
    unequal: bool = False,
) -> Comparison:
    """Compare the results of two samplers on the same prompts, whoever made them.

    Args:
        a: sampler folder that is compared with, such as the plain sampler's.
        b: sampler folder that is compared.
        metric: a name of `METRICS`; None takes that of the folders' category.
        resamples: of the bootstrap.
        seed: of the bootstrap.
        unequal: also take prompts that have different numbers of images.

    Returns:
        The difference of b to a.

    Raises:
        LMLError: what `read_samples`, `read_scores` and `paired_difference` raise, no known category, or BLIP-VQA
            results of two scorers.
    """
    homes = (sampler_folder(a), sampler_folder(b))
    chosen = find_metric(metric or _metric_of(homes)).name
    if chosen in ("blip", "3-in-1"):
        _same_scorer(homes)
    sides = [read_samples(home, unequal=unequal) for home in homes]
    means = [prompt_means(side, read_scores(home, chosen, side)) for home, side in zip(homes, sides, strict=True)]
    seeds = (seeds_of(homes[0]), seeds_of(homes[1]))
    paired = paired_difference(means[0], means[1], resamples=resamples, seed=seed)
    return Comparison(
        chosen, *homes, len(sides[0]), len(sides[1]), paired, *seeds, notes=tuple(_notes(sides, seeds, paired.prompts))
    )


def _metric_of(homes: Sequence[Path]) -> str:
    categories = {home.absolute().parent.name for home in homes}
    if len(categories) != 1 or (category := categories.pop()) not in METRIC_OF:
        raise LMLError("metric None: the folders do not lie in one folder of a known category; give --metric")
    return METRIC_OF[category]


def _same_scorer(homes: Sequence[Path]) -> None:
    scorers = [scorer_of(home) for home in homes]
    if scorers[0] != scorers[1]:
        names = " and ".join("another script" if scorer is None else f"{scorer}" for scorer in scorers)
        raise LMLError(f"a, b: their BLIP-VQA is of two scorers ({names}); score both in the same way")


def _notes(sides: Sequence[Sequence[Sample]], seeds: Sequence[dict[str, int] | None], prompts: int) -> list[str]:
    notes = [note for note in (count_note(prompts),) if note is not None]
    each = [images_each(side) for side in sides]
    if each[0] != each[1] or None in each:
        notes.append("Not all prompts have equally many images on both sides; each prompt counts once all the same.")
    if None in seeds:
        notes.append("It is not known whether both samplers started from the same seeds.")
    elif seeds[0] != seeds[1]:
        notes.append("The samplers did not start from the same seeds, which adds to the spread of the difference.")
    return notes

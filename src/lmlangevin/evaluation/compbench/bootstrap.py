"""The difference of two samplers on the same prompts, with a bootstrap over the prompts."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from lmlangevin.core.errors import LMLError
from lmlangevin.evaluation.compbench.layout import Sample
from lmlangevin.evaluation.compbench.prompts import tidy

RESAMPLES = 10_000
CONFIDENCE = 0.95
_AT_ONCE = 1000


@dataclass(frozen=True)
class PairedDifference:
    """How much higher the second sampler scores than the first.

    Args:
        prompts: number of prompts.
        mean_a: mean over the prompts of the first sampler.
        mean_b: of the second.
        low: lower end of the percentile interval of `difference`.
        high: upper end.
        above_zero: share of the resamples whose difference is above 0.
        confidence: of the interval.
        resamples: number of resamples.
        seed: of their generator.
    """

    prompts: int
    mean_a: float
    mean_b: float
    low: float
    high: float
    above_zero: float
    confidence: float
    resamples: int
    seed: int

    @property
    def difference(self) -> float:
        """`mean_b - mean_a`."""
        return self.mean_b - self.mean_a

    def as_dict(self) -> dict[str, Any]:
        """Return everything as JSON takes it."""
        return {
            "prompts": self.prompts,
            "mean_a": self.mean_a,
            "mean_b": self.mean_b,
            "difference": self.difference,
            "interval": [self.low, self.high],
            "confidence": self.confidence,
            "share_above_zero": self.above_zero,
            "resamples": self.resamples,
            "seed": self.seed,
        }


def prompt_means(samples: Sequence[Sample], scores: Sequence[float]) -> dict[str, float]:
    """Return for each prompt the mean score of its images.

    Args:
        samples: images.
        scores: one for each.
    """
    grouped: dict[str, list[float]] = defaultdict(list)
    for sample, score in zip(samples, scores, strict=True):
        grouped[tidy(sample.prompt)].append(score)
    return {prompt: fmean(values) for prompt, values in grouped.items()}


def paired_difference(
    a: Mapping[str, float],
    b: Mapping[str, float],
    *,
    resamples: int = RESAMPLES,
    confidence: float = CONFIDENCE,
    seed: int = 0,
) -> PairedDifference:
    """Compare two samplers by a paired bootstrap over prompts (percentile method).

    Prompts are drawn with replacement and each brings its difference, so how hard a prompt is cancels. The images of a
    prompt are not drawn anew: the interval says how the difference would vary with other prompts of this kind, each
    with as many images.

    Args:
        a: mean score of each prompt, of the sampler that is compared with.
        b: of the other, for the same prompts.
        resamples: number of resamples.
        confidence: of the interval, between 0 and 1.
        seed: of the resamples.

    Raises:
        LMLError: prompts that only one side has, fewer than two of them, a score that is not finite, or an argument
            out of range.

    Reference: Efron and Tibshirani, An Introduction to the Bootstrap (1993), chapter 13.
    """
    import numpy as np

    for side, other, name in ((a, b, "a"), (b, a, "b")):
        odd = [prompt for prompt in side if prompt not in other]
        if odd:
            raise LMLError(
                f"{name}: {len(odd)} prompts, such as {odd[0]!r}, are not on the other side; give two samplers of the "
                "same prompts"
            )
    if len(a) < 2:
        raise LMLError(f"a, b: {len(a)} prompt; a bootstrap over prompts needs 2 or more")
    if resamples < 100 or not 0 < confidence < 1 or seed < 0:
        raise LMLError(
            f"resamples {resamples}, confidence {confidence}, seed {seed}: give 100 or more, a number between 0 and 1, "
            "and 0 or more"
        )
    if not all(math.isfinite(value) for value in (*a.values(), *b.values())):
        raise LMLError("a, b: hold scores that are not finite; make them again")
    differences = np.array([b[prompt] - a[prompt] for prompt in a])
    generator = np.random.default_rng(seed)
    parts = []
    # In parts, because all indices together would take 24 MB for a category and much more for larger sets.
    for start in range(0, resamples, _AT_ONCE):
        drawn = generator.integers(0, len(differences), (min(_AT_ONCE, resamples - start), len(differences)))
        parts.append(differences[drawn].mean(1))
    means = np.concatenate(parts)
    low, high = np.quantile(means, ((1 - confidence) / 2, (1 + confidence) / 2))
    return PairedDifference(
        prompts=len(a),
        mean_a=fmean(a.values()),
        mean_b=fmean(b.values()),
        low=float(low),
        high=float(high),
        above_zero=float((means > 0).mean()),
        confidence=confidence,
        resamples=resamples,
        seed=seed,
    )

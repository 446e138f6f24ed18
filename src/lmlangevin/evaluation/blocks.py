"""Spread of a Frechet distance, from disjoint blocks of seeds."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, stdev
from typing import TYPE_CHECKING, Any

from lmlangevin.core.errors import LMLError

if TYPE_CHECKING:
    from lmlangevin.evaluation.frechet import FrechetStatistics


@dataclass(frozen=True)
class BlockValues:
    """One value for each of several disjoint blocks.

    Args:
        values: in the order of the blocks, two or more, each finite.

    Raises:
        LMLError: fewer than two values, or one that is not finite.
    """

    values: tuple[float, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "values", tuple(float(value) for value in self.values))
        if self.n < 2 or not all(math.isfinite(value) for value in self.values):
            raise LMLError(f"values {self.values}: give two or more finite numbers, one a block")

    @property
    def n(self) -> int:
        """Number of blocks."""
        return len(self.values)

    @property
    def mean(self) -> float:
        """Mean over the blocks."""
        return fmean(self.values)

    @property
    def sd(self) -> float:
        """Sample standard deviation (divided by n - 1) of one block's value; divide by sqrt(n) for the mean's."""
        return stdev(self.values)

    def as_dict(self) -> dict[str, Any]:
        """Return `n`, `mean`, `sd` and `values`, as JSON takes them."""
        return {"n": self.n, "mean": self.mean, "sd": self.sd, "values": list(self.values)}


def seed_blocks(first_seed: int, count: int, blocks: int) -> list[range]:
    """Split consecutive seeds into equal disjoint blocks.

    `seed_blocks(100, 6, 3)` is `[range(100, 102), range(102, 104), range(104, 106)]`.

    Args:
        first_seed: the first seed, 0 or more.
        count: seeds in all.
        blocks: number of blocks, 2 or more; three or more make a useful spread.

    Raises:
        LMLError: first_seed < 0, fewer than two blocks, or a count that they do not divide.
    """
    if first_seed < 0:
        raise LMLError(f"first_seed {first_seed}: give a whole number >= 0")
    if blocks < 2:
        raise LMLError(f"blocks {blocks}: one block has no spread; give 2 or more")
    if count < blocks or count % blocks:
        raise LMLError(f"count {count}: cannot be split into {blocks} equal blocks; give a multiple of {blocks}")
    size = count // blocks
    return [range(start, start + size) for start in range(first_seed, first_seed + count, size)]


def block_distances(statistics: Sequence[FrechetStatistics], reference: FrechetStatistics) -> BlockValues:
    """Frechet distance of each of several disjoint blocks of images to one reference.

    Never a bootstrap of one block in place of this. The distance is biased by about 1/N, and a resample of N images
    with replacement holds only some 63% of them, many of them twice: it acts like a smaller N, so its values are
    those of a more biased quantity, and so is their spread. Disjoint blocks share no image and have equal bias.

    Args:
        statistics: one for each block, two or more, of equal n. That the blocks share no image is the caller's part.
        reference: what every block is compared with.

    Returns:
        The distances. Their mean has the bias of one block's n: compare it with blocks of that size only.

    Raises:
        LMLError: fewer than two blocks, blocks of unequal n, or what `frechet_distance` raises.
    """
    from lmlangevin.evaluation.frechet import frechet_distance

    counts = [block.n for block in statistics]
    if len(counts) < 2:
        raise LMLError(f"statistics: {len(counts)} block; one block has no spread, give 2 or more")
    if len(set(counts)) > 1:
        raise LMLError(f"statistics: blocks of n = {counts}; the bias depends on n, give blocks of equal n")
    return BlockValues(tuple(frechet_distance(block, reference) for block in statistics))

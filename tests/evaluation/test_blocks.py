"""Disjoint blocks of seeds."""

from __future__ import annotations

import json
import math
from dataclasses import FrozenInstanceError

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lmlangevin.core.errors import LMLError
from lmlangevin.evaluation.blocks import BlockValues, block_distances, seed_blocks
from lmlangevin.evaluation.frechet import FrechetStatistics, frechet_distance


def draw(seed: int, n: int, dim: int = 4, **words: str) -> FrechetStatistics:
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn(n, dim, generator=generator, dtype=torch.float64) + torch.arange(1.0, dim + 1)
    return FrechetStatistics.empty(dim, **words).update(features)


@given(first=st.integers(0, 2**31), size=st.integers(1, 50), blocks=st.integers(2, 20))
def test_blocks_are_equal_disjoint_and_all_of_the_seeds(first: int, size: int, blocks: int) -> None:
    made = seed_blocks(first, size * blocks, blocks)
    assert [len(block) for block in made] == [size] * blocks
    assert [seed for block in made for seed in block] == list(range(first, first + size * blocks))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((-1, 10, 2), "first_seed -1"),
        ((5, 10, 1), "blocks 1: one block has no spread"),
        ((5, 10, 0), "blocks 0"),
        ((5, 10, 3), "count 10: .* give a multiple of 3"),
        ((5, 0, 2), "count 0"),
        ((5, 2, 3), "count 2"),
    ],
)
def test_seeds_that_make_no_equal_blocks_are_refused(arguments: tuple[int, int, int], message: str) -> None:
    with pytest.raises(LMLError, match=message):
        seed_blocks(*arguments)


def test_mean_and_sd_are_those_of_a_sample() -> None:
    values = (2.5, 3.25, 2.0, 4.75)
    made = BlockValues(values)
    assert (made.n, made.values) == (4, values)
    assert made.mean == pytest.approx(np.mean(values), rel=1e-15)
    assert made.sd == pytest.approx(np.std(values, ddof=1), rel=1e-14)
    assert json.loads(json.dumps(made.as_dict())) == {"n": 4, "mean": made.mean, "sd": made.sd, "values": list(values)}
    with pytest.raises(FrozenInstanceError):
        made.values = (1.0, 2.0)  # pyright: ignore[reportAttributeAccessIssue]


@pytest.mark.parametrize("values", [(), (1.5,), (1.5, math.nan), (1.5, math.inf)])
def test_values_without_a_spread_are_refused(values: tuple[float, ...]) -> None:
    with pytest.raises(LMLError, match="two or more finite numbers"):
        BlockValues(values)


def test_block_distances_are_the_distances_of_the_blocks() -> None:
    reference, blocks = draw(300, 200), [draw(301, 40), draw(302, 40), draw(303, 40)]
    made = block_distances(blocks, reference)
    assert made.values == tuple(frechet_distance(block, reference) for block in blocks)
    assert len(set(made.values)) == 3


def test_a_bootstrap_of_one_block_is_biased_where_blocks_are_not() -> None:
    """What the docstring says: resamples of one distribution look further from it than disjoint blocks of that size."""
    generator = torch.Generator().manual_seed(310)
    reference = draw(311, 20_000, 8)
    sample = torch.randn(100, 8, generator=generator, dtype=torch.float64) + torch.arange(1.0, 9)
    fresh, resampled = [], []
    for k in range(40):
        rows = torch.randint(0, 100, (100,), generator=generator)
        resampled.append(frechet_distance(FrechetStatistics.empty(8).update(sample[rows]), reference))
        fresh.append(frechet_distance(draw(320 + k, 100, 8), reference))
    assert np.mean(resampled) > 1.4 * np.mean(fresh)


def test_unequal_single_or_foreign_blocks_are_refused() -> None:
    reference = draw(330, 100)
    with pytest.raises(LMLError, match=r"n = \[40, 41\]; the bias depends on n"):
        block_distances([draw(331, 40), draw(332, 41)], reference)
    with pytest.raises(LMLError, match="1 block"):
        block_distances([draw(333, 40)], reference)
    with pytest.raises(LMLError, match="protocol 'a' and ''"):
        block_distances([draw(334, 40, protocol="a"), draw(335, 40, protocol="a")], reference)

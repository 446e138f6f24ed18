from __future__ import annotations

import copy
import dataclasses
import math

import pytest
import torch

from lmlangevin.bench.cells import Cell
from lmlangevin.bench.models import build
from lmlangevin.bench.release import (
    LONGER,
    PUBLISHED_LAMBDAS,
    agreement,
    deviation_from_identity,
    published_lambda,
    textbook_direction,
)
from lmlangevin.core import LMLError


def test_in_float64_the_formula_is_the_identity_and_in_float32_it_is_not() -> None:
    n = torch.randn(5, 3, 32, 32, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    exact = textbook_direction(n, 8e-4)
    assert exact.dtype == torch.float64
    assert ((exact - n).flatten(1).norm(dim=1) / n.flatten(1).norm(dim=1)).max() < 1e-9
    single = textbook_direction(n.float(), 8e-4)
    deviation = (single - n.float()).flatten(1).norm(dim=1) / n.flatten(1).norm(dim=1)
    assert deviation.min() > 0.1
    # The norm is restored all the same.
    assert torch.allclose(single.flatten(1).norm(dim=1), n.float().flatten(1).norm(dim=1), rtol=1e-5)


@pytest.mark.parametrize(("size", "damping", "low", "high"), [(3072, 8e-4, 0.12, 0.18), (16384, 1e-3, 0.3, 0.55)])
def test_the_deviation_in_float32_is_that_of_the_design_and_of_no_direction(
    size: int, damping: float, low: float, high: float
) -> None:
    row = deviation_from_identity(torch.float32, size, damping, samples=64, seed=7)
    assert row.deviation is not None and row.agreement is not None
    assert low < row.deviation < high
    assert abs(row.agreement) < 0.05
    assert (row.dtype, row.size, row.damping, row.nan_share) == ("float32", size, damping, 0.0)


@pytest.mark.parametrize("angle", [1e-9, 0.1, 1.0, math.pi / 2])
def test_agreement_tells_a_direction_that_follows_the_prediction_from_a_random_one(angle: float) -> None:
    n = torch.randn(20, 2000, generator=torch.Generator().manual_seed(0), dtype=torch.float64)

    def turned(n: torch.Tensor, towards: torch.Tensor) -> torch.Tensor:
        across = towards - n * (towards * n).sum(1, keepdim=True) / (n * n).sum(1, keepdim=True)
        across *= n.norm(dim=1, keepdim=True) / across.norm(dim=1, keepdim=True)
        return math.cos(angle) * n + math.sin(angle) * across

    def noise(seed: int) -> torch.Tensor:
        return torch.randn(n.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)

    first, second = turned(n, noise(1)), turned(LONGER * n, noise(2))
    assert torch.allclose(first.norm(dim=1), n.norm(dim=1))
    assert agreement((n, first), (LONGER * n, second)).mean().abs() < 0.02
    # Each deviation has a part of angle^2 / 2 along -n: together they look alike, although nothing is followed.
    plain = torch.cosine_similarity(first - n, second - LONGER * n, dim=1).mean()
    assert angle < 1.0 or plain > 0.2
    follows = agreement((n, turned(n, n.roll(1, dims=1))), (LONGER * n, turned(LONGER * n, n.roll(1, dims=1))))
    assert follows.min() > 0.999


def test_a_prediction_that_nothing_changed_agrees_with_none() -> None:
    n = torch.randn(3, 8, generator=torch.Generator().manual_seed(0), dtype=torch.bfloat16)
    assert agreement((n, n), (n, n.roll(1, dims=1))).tolist() == [0.0] * 3


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_longer_prediction_is_another_one_in_every_precision(dtype: torch.dtype) -> None:
    row = deviation_from_identity(dtype, 3072, 1e-3, samples=64, seed=7)
    assert row.deviation is not None and row.agreement is not None
    assert row.deviation > 1 and abs(row.agreement) < 0.05


def test_a_large_damping_is_harmless_in_float32() -> None:
    row = deviation_from_identity(torch.float32, 3072, 1e4, samples=32, seed=8)
    assert row.deviation is not None
    assert row.deviation < 1e-6


def test_where_all_is_lost_there_is_no_deviation_to_name() -> None:
    row = deviation_from_identity(torch.float16, 65536, 1e-3, samples=8, seed=9)
    assert (row.nan_share, row.deviation, row.spread, row.agreement) == (1.0, None, None, None)
    with pytest.raises(LMLError, match="samples=1"):
        deviation_from_identity(torch.float32, 8, 1e-3, samples=1, seed=0)


def test_the_published_lambdas_are_taken_by_evaluations() -> None:
    assert published_lambda(10) == PUBLISHED_LAMBDAS[10] == 8e-4
    assert published_lambda(11) == 8e-4
    assert published_lambda(25) == 5e-4
    assert published_lambda(3) == 8e-4
    assert published_lambda(500) == 5e-5


@pytest.mark.parametrize("sampler", ["ddim", "dpm-3", "flow-euler"])
def test_a_release_scheduler_is_plain_in_float64_and_noisy_in_float32(sampler: str) -> None:
    grid = {"ddim": "leading", "dpm-3": "linspace", "flow-euler": "shift-3"}[sampler]
    plain = Cell(sampler, grid, "", 5)

    def run(cell: Cell) -> torch.Tensor:
        scheduler = build(cell)
        scheduler.set_timesteps(5)
        generator = torch.Generator().manual_seed(3)
        x = torch.randn(2, 3, 32, 32, generator=generator)
        for t in scheduler.timesteps:
            prediction = 0.5 * x + torch.randn(x.shape, generator=generator)
            x = scheduler.step(prediction, t, x).prev_sample
        return x

    base = run(plain)
    exact = run(dataclasses.replace(plain, release="float64@0.001"))
    noisy = run(dataclasses.replace(plain, release="float32@0.001"))
    size = base.square().mean().sqrt()
    assert (exact - base).square().mean().sqrt() < 1e-5 * size
    assert (noisy - base).square().mean().sqrt() > 1e-3 * size


def test_a_release_scheduler_is_its_own_class() -> None:
    scheduler = build(Cell("ddim", "leading", "zero", 5, release="float32@0.001"))
    assert type(scheduler).__name__ == "ReleaseDDIMLMLScheduler"
    assert type(build(Cell("ddim", "leading", "zero", 5, gain=1.0))).__name__ == "DDIMLMLScheduler"
    # Copies go back to the class that can be imported; that is why every batch builds its own.
    assert type(copy.deepcopy(build(Cell("ddim", "leading", "zero", 5, gain=1.0)))).__name__ == "DDIMLMLScheduler"

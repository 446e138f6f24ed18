from __future__ import annotations

import copy
import dataclasses

import pytest
import torch

from lmlangevin.bench.models import build
from lmlangevin.bench.release import (
    PUBLISHED_LAMBDAS,
    deviation_from_identity,
    published_lambda,
    textbook_direction,
)
from lmlangevin.bench.suite import Cell
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
    assert abs(row.agreement) < 0.2
    assert (row.dtype, row.size, row.damping, row.nan_share) == ("float32", size, damping, 0.0)


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

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lmlangevin.generation import image_seeds, initial_noise, start_images

SHAPE = (3, 8, 8)


@settings(max_examples=30, deadline=None)
@given(base=st.integers(0, 2**32 - 20), count=st.integers(1, 12), batch=st.integers(1, 12))
def test_the_batch_size_does_not_change_a_bit_of_the_noise(base: int, count: int, batch: int) -> None:
    seeds = image_seeds(base, count)
    whole = initial_noise(seeds, SHAPE)
    parts = [initial_noise(seeds[i : i + batch], SHAPE) for i in range(0, count, batch)]
    assert torch.equal(whole, torch.cat(parts))


def test_image_k_of_a_job_is_image_0_of_the_job_that_starts_at_its_seed() -> None:
    assert torch.equal(initial_noise(image_seeds(40, 5), SHAPE)[3], initial_noise(image_seeds(43, 1), SHAPE)[0])


def test_neighbouring_seeds_are_independent_and_standard_normal() -> None:
    noise = initial_noise(image_seeds(7, 64), (3, 16, 16)).flatten(1).double()
    assert abs(noise.mean().item()) < 0.02
    assert abs(noise.var().item() - 1) < 0.02
    correlation = torch.corrcoef(noise) - torch.eye(64, dtype=torch.float64)
    assert correlation.abs().max() < 0.2


def test_dtypes_see_the_same_noise() -> None:
    wide = initial_noise([5, 6], SHAPE)
    assert wide.dtype == torch.float32
    assert torch.equal(initial_noise([5, 6], SHAPE, torch.bfloat16), wide.bfloat16())


def test_the_generators_go_on_after_the_initial_noise() -> None:
    noise, generators = start_images([3, 4], SHAPE)
    further = torch.stack([torch.randn(SHAPE, generator=g) for g in generators])
    alone, single = start_images([4], SHAPE)
    assert torch.equal(alone[0], noise[1])
    assert torch.equal(torch.randn(SHAPE, generator=single[0]), further[1])
    assert not torch.equal(noise, further)

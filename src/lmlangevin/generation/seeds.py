"""One random generator per image, so that an image does not depend on the batch that it was made in."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

SEED_LIMIT = 2**32
"""torch's CPU generator keeps 32 bits of a seed: beyond this, two seeds would make one image."""


def image_seeds(base: int, count: int) -> list[int]:
    """Return the seeds of a job's images: base, base + 1, ..., `count` of them."""
    return list(range(base, base + count))


def start_images(
    seeds: Sequence[int], shape: Sequence[int], dtype: torch.dtype = torch.float32
) -> tuple[Tensor, list[torch.Generator]]:
    """Draw the initial noise of images, and keep each one's generator for what its sampler draws later.

    Args:
        seeds: One seed an image, each in [0, 2**32).
        shape: Shape of one image, (channels, height, width).
        dtype: What the noise is cast to. It is drawn in float32 always, so every dtype sees the same noise.

    Returns:
        The noise, (len(seeds), *shape), on the CPU, and the generators (CPU, one an image) as the draw left them.
    """
    generators = [torch.Generator(device="cpu").manual_seed(seed) for seed in seeds]
    rows = [torch.randn(tuple(shape), generator=generator, dtype=torch.float32) for generator in generators]
    noise = torch.stack(rows) if rows else torch.empty((0, *shape))
    return noise.to(dtype), generators


def initial_noise(seeds: Sequence[int], shape: Sequence[int], dtype: torch.dtype = torch.float32) -> Tensor:
    """Return the initial noise alone, see `start_images`: image k is bit-identical in every batch that holds it."""
    return start_images(seeds, shape, dtype)[0]

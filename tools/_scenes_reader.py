"""The training data and the loss of the reader of scenes."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from lmlangevin.scenes import COLOURS, SHAPES, TEXTURES, Scenes, draw, sample_scenes
from lmlangevin.scenes.reader import GRID, SPLIT

COUNTS = (1, 2, 3)
FIRST_SEED = 10**13


def any_scenes(seeds: list[int], objects: int) -> Scenes:
    """Draw scenes whose objects have any colour, shape and texture, also those that training leaves out."""
    scenes = sample_scenes(seeds, objects)
    generator = torch.Generator().manual_seed(seeds[0])
    sizes = {"shape": len(SHAPES), "colour": len(COLOURS), "texture": len(TEXTURES)}
    return replace(
        scenes,
        **{name: torch.randint(n, scenes.shape.shape, generator=generator) for name, n in sizes.items()},
    )


def distort(images: Tensor, generator: torch.Generator, strength: float = 1.0) -> Tensor:
    """Blur, noise and burn images as few-step samplers do, each by a random amount; (B, 3, S, S) in [-1, 1]."""
    count, _, size, _ = images.shape

    def amount(most: float) -> Tensor:
        return strength * most * torch.rand(count, 1, 1, 1, generator=generator).square()

    soft = F.avg_pool2d(F.pad(images, (1, 1, 1, 1), mode="replicate"), 3, 1)
    result = torch.lerp(images, soft, amount(1.2).clamp(max=1))
    for cells in (size, size // 2, size // 4, size // 8):
        noise = torch.randn(count, 3, cells, cells, generator=generator)
        if cells < size:
            noise = F.interpolate(noise, size, mode="bilinear", align_corners=False)
        result = result + amount(0.25) * noise
    mean = result.mean((1, 2, 3), keepdim=True)
    gain = 1 + strength * (torch.rand(count, 1, 1, 1, generator=generator) - 0.35) * 0.9
    shift = 0.12 * strength * torch.randn(count, 3, 1, 1, generator=generator)
    return ((result - mean) * gain + mean + shift).clamp(-1, 1)


def targets(scenes: Scenes) -> dict[str, Tensor]:
    """Return the maps that the reader learns, (B, ..., 16, 16): presence, place, the three words, their weight."""
    count, k = scenes.shape.shape
    centres = (torch.arange(GRID) + 0.5).view(1, 1, GRID)
    cx, cy = (scenes.x / 4).unsqueeze(-1), (scenes.y / 4).unsqueeze(-1)
    dx, dy = cx - centres, cy - centres
    square = dx.square().unsqueeze(2) + dy.square().unsqueeze(3)
    near = square.argmin(1)
    rows = near.unsqueeze(1)

    def pick(values: Tensor) -> Tensor:
        return values.view(count, k, 1, 1).expand(count, k, GRID, GRID).gather(1, rows).squeeze(1)

    least = square.amin(1)
    place = torch.stack((pick(scenes.x) / 4 - centres, pick(scenes.y) / 4 - centres.transpose(1, 2)), 1)
    return {
        "presence": torch.exp(-least / 1.2),
        "place": place,
        "weight": (least < 2.0).float(),
        **{name: pick(getattr(scenes, name)) for name in ("colour", "shape", "texture")},
    }


def reader_loss(args: argparse.Namespace, model: Any) -> Callable[[int], Tensor]:
    """Return the loss of a step: presence, place, and three cross entropies near the objects."""
    forward = torch.compile(model)

    def loss_of(step: int) -> Tensor:
        share = args.batch // len(COUNTS) + 1
        first = FIRST_SEED + step * args.batch * 2
        drawn = [any_scenes(list(range(first + k * share, first + (k + 1) * share)), k) for k in COUNTS]
        images = torch.cat([draw(scenes) for scenes in drawn])[: args.batch]
        parts = [targets(scenes) for scenes in drawn]
        wanted = {name: torch.cat([part[name] for part in parts])[: args.batch].to(args.device) for name in parts[0]}
        generator = torch.Generator().manual_seed(first)
        distorted = distort(images, generator)
        clean = torch.rand(len(images), 1, 1, 1, generator=generator) < 0.3
        images = torch.where(clean, images, distorted).to(args.device)
        with torch.autocast(images.device.type, torch.bfloat16, enabled=not args.float32):
            output = forward(images)
        presence, place, *words = output.float().split(SPLIT, 1)
        weight = wanted["weight"]
        total = weight.sum()
        found = F.binary_cross_entropy_with_logits(presence.squeeze(1), wanted["presence"])
        moved = ((place - wanted["place"]).abs().sum(1) * weight).sum() / total
        named = sum(
            (F.cross_entropy(values, wanted[name], reduction="none") * weight).sum() / total
            for name, values in zip(("colour", "shape", "texture"), words, strict=True)
        )
        return 4 * found + 0.2 * moved + named

    return loss_of

"""What a dry run takes in place of data and of networks to measure with. None of its numbers means anything."""

from __future__ import annotations

from pathlib import Path

from lmlangevin.evaluation.extractors import CallableExtractor
from lmlangevin.evaluation.frechet import FrechetStatistics, feature_statistics
from lmlangevin.files import atomic_write
from lmlangevin.reproduce.preset import DRY_RUN, DRY_SIDE

_COLOURS = ("red", "blue", "green", "yellow", "black", "white")
_REFERENCE_IMAGES = 128
_SEED = 20_240


def stand_in_prompts(count: int) -> tuple[str, ...]:
    """Return different prompts, each of which the trivial chunker makes two questions of."""
    pairs = ((_COLOURS[k % 6], _COLOURS[(k // 6 + k + 1) % 6], k // 36) for k in range(count))
    return tuple(f"a {one} cube and a {other} ball" + f" {more}" * (more > 0) for one, other, more in pairs)


def stand_in_extractor() -> CallableExtractor:
    """Return fixed random convolutions, 64 features, in place of Inception."""
    from lmlangevin.evaluation.features import random_features

    network = random_features(0)
    return CallableExtractor(network.features, f"{DRY_RUN}: random convolutions")


def stand_in_reference() -> FrechetStatistics:
    """Return the statistics of made-up pictures."""
    import torch

    generator = torch.Generator().manual_seed(_SEED)
    coarse = torch.rand(_REFERENCE_IMAGES, 3, 4, 4, generator=generator)
    images = (torch.nn.functional.interpolate(coarse, (DRY_SIDE, DRY_SIDE), mode="bilinear") * 255).to(torch.uint8)
    return feature_statistics(stand_in_extractor(), images, protocol=DRY_RUN)


def trivial_chunker(prompt: str) -> list[str]:
    """Return what stands between the words "and" of a prompt, in place of spaCy's noun chunks."""
    return [part.strip(" .") for part in prompt.split(" and ") if part.strip(" .")]


def draw_control(path: Path, side: int) -> None:
    """Draw white outlines on black, in place of the edges of a picture.

    Args:
        path: PNG file to write.
        side: In pixels.
    """
    from PIL import Image, ImageDraw

    picture = Image.new("RGB", (side, side))
    draw = ImageDraw.Draw(picture)
    draw.rectangle((side // 8, side // 4, side // 2, side * 3 // 4), outline="white")
    draw.ellipse((side // 2, side // 3, side * 7 // 8, side * 2 // 3), outline="white")
    with atomic_write(path) as part:
        part.parent.mkdir(parents=True, exist_ok=True)
        picture.save(part, format="PNG")

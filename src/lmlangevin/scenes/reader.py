"""A small network that reads a scene: where its objects are, and the colour, shape and texture of each."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cache
from importlib import resources

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lmlangevin.core.errors import LMLError
from lmlangevin.evaluation.features import as_float_images
from lmlangevin.scenes.language import COLOURS, SHAPES, TEXTURES

GRID = 16
"""Cells a side of the reader's output; a cell is 4 pixels."""

SPLIT = (1, 2, len(COLOURS), len(SHAPES), len(TEXTURES))
"""Channels of the output: presence, place in the cell, colour, shape, texture."""

_APART = 5
_THRESHOLD = 0.5


@dataclass(frozen=True)
class SeenObject:
    """One object of an image as the reader sees it.

    Attributes:
        x, y: Its centre in pixels of a 64x64 image; y points down.
        colour, shape, texture: Words of COLOURS, SHAPES and TEXTURES.
        confidence: From 0.5 to 1.
    """

    x: float
    y: float
    colour: str
    shape: str
    texture: str
    confidence: float


class _Block(nn.Module):
    def __init__(self, channels: int, dilation: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(8, channels)
        self.first = nn.Conv2d(channels, channels, 3, padding=dilation, dilation=dilation)
        self.second = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.second(F.silu(self.first(F.silu(self.norm(x)))))


class SceneReader(nn.Module):
    """The network. Its features are those of the protocol `scenes` for a Frechet distance."""

    dim = 96
    extractor = "lmlangevin-scenes-reader"

    def __init__(self) -> None:
        super().__init__()
        self.weight_hash = ""
        self.stem = nn.Sequential(
            nn.Conv2d(3, 32, 3, padding=1),
            nn.SiLU(),
            nn.Conv2d(32, 48, 3, stride=2, padding=1),
            nn.SiLU(),
            nn.Conv2d(48, self.dim, 3, stride=2, padding=1),
        )
        self.body = nn.Sequential(*(_Block(self.dim, dilation) for dilation in (1, 2, 4, 1)))
        self.head = nn.Conv2d(self.dim, sum(SPLIT), 1)

    def embed(self, images: Tensor) -> Tensor:
        """Map images (B, 3, 64, 64) in [-1, 1] to feature maps (B, 96, 16, 16)."""
        return F.silu(self.body(self.stem(images)))

    def features(self, images: Tensor) -> Tensor:
        """Map images (B, 3, 64, 64), uint8 or floating in [-1, 1], to their mean features, float32 (B, 96)."""
        return self.embed(as_float_images(images, 4 * GRID)).mean((2, 3))

    def forward(self, images: Tensor) -> Tensor:
        """Map images (B, 3, 64, 64) in [-1, 1] to channels (B, 21, 16, 16), split as SPLIT says."""
        return self.head(self.embed(images))


@cache
def load_reader(device: str = "cpu") -> SceneReader:
    """Load the reader that comes with the package, float32 and frozen, once for each device."""
    from safetensors.torch import load

    data = (resources.files("lmlangevin") / "assets" / "scenes-reader" / "model.safetensors").read_bytes()
    model = SceneReader()
    model.load_state_dict({name: value.float() for name, value in load(data).items()})
    model.weight_hash = hashlib.sha256(data).hexdigest()
    return model.to(device).eval().requires_grad_(False)


@torch.no_grad()
def read_scenes(images: Tensor, *, reader: SceneReader | None = None, batch_size: int = 64) -> list[list[SeenObject]]:
    """Read the objects of images.

    Args:
        images: (B, 3, 64, 64) in [-1, 1]; other square sizes are resized by area.
        reader: The network; the package's own where None.
        batch_size: Images at once.

    Returns:
        The objects of each image, from left to right.

    Raises:
        LMLError: If the images do not have that shape.
    """
    if images.ndim != 4 or images.shape[1] != 3 or images.shape[2] != images.shape[3]:
        raise LMLError(f"images must have shape (B, 3, S, S), and have {tuple(images.shape)}.")
    network = reader or load_reader(str(images.device))
    result: list[list[SeenObject]] = []
    for part in images.float().split(batch_size):
        if part.shape[-1] != 4 * GRID:
            part = F.interpolate(part, 4 * GRID, mode="area")
        presence, place, *words = network(part).split(SPLIT, 1)
        presence = presence.sigmoid()
        peaks = (presence == F.max_pool2d(presence, _APART, 1, _APART // 2)) & (presence > _THRESHOLD)
        names = [values.argmax(1) for values in words]
        objects: list[list[SeenObject]] = [[] for _ in range(len(part))]
        for b, _, row, column in peaks.nonzero().tolist():
            dx, dy = place[b, :, row, column].tolist()
            colour, shape, texture = (int(values[b, row, column]) for values in names)
            objects[b].append(
                SeenObject(
                    x=4 * (column + 0.5 + dx),
                    y=4 * (row + 0.5 + dy),
                    colour=COLOURS[colour],
                    shape=SHAPES[shape],
                    texture=TEXTURES[texture],
                    confidence=presence[b, 0, row, column].item(),
                )
            )
        result += [sorted(found, key=lambda item: item.x) for found in objects]
    return result

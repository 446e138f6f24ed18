"""Scenes drawn in torch: coloured, textured shapes with shadow and shading on a gradient, each from its own seed."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from lmlangevin.core.errors import LMLError
from lmlangevin.scenes.language import (
    COLOURS,
    RELATIONS,
    SHAPES,
    TEXTURES,
    UNSEEN_TEXTURES,
    Noun,
    Request,
    allowed_pairs,
)

SIZE = 64
"""Pixels a side."""

_RGB = torch.tensor(
    [
        [0.86, 0.10, 0.12],
        [0.10, 0.60, 0.20],
        [0.12, 0.22, 0.86],
        [0.96, 0.86, 0.12],
        [0.56, 0.14, 0.74],
        [0.97, 0.50, 0.05],
        [0.08, 0.78, 0.86],
        [0.96, 0.96, 0.96],
    ]
)
_RADII = {1: (9.0, 17.0), 2: (8.5, 11.5), 3: (7.5, 9.0)}
"""Least and greatest radius in pixels, by the number of objects."""

_MARGIN, _GAP = 1.5, 3.0
_PER_OBJECT, _PER_SCENE = 12, 16


@dataclass(frozen=True)
class Scenes:
    """A batch of scenes: B scenes of K objects each. Lengths are pixels, y points down, angles are radians.

    Attributes:
        shape, colour, texture: int64 (B, K), indices into SHAPES, COLOURS and TEXTURES.
        x, y, radius, angle: float32 (B, K).
        jitter: float32 (B, K, 3), added to the colour.
        phase: float32 (B, K, 2), where the texture begins.
        background: float32 (B, 2, 3), the colours at both ends of the gradient.
        direction: float32 (B,), the gradient's angle.
        chance: float32 (B, 8), uniform numbers that decide the caption.
    """

    shape: Tensor
    colour: Tensor
    texture: Tensor
    x: Tensor
    y: Tensor
    radius: Tensor
    angle: Tensor
    jitter: Tensor
    phase: Tensor
    background: Tensor
    direction: Tensor
    chance: Tensor

    def __len__(self) -> int:
        return len(self.shape)

    def nouns(self, index: int) -> tuple[Noun, ...]:
        """Return the objects of one scene in words, all attributes said."""
        rows = zip(*(getattr(self, name)[index].tolist() for name in ("shape", "colour", "texture")), strict=True)
        return tuple(Noun(SHAPES[s], COLOURS[c], TEXTURES[t]) for s, c, t in rows)

    def relation(self, index: int) -> str | None:
        """Return how the first of two objects lies to the second, or None where neither axis is clear."""
        if self.shape.shape[1] != 2:
            return None
        dx, dy = (self.x[index, 0] - self.x[index, 1]).item(), (self.y[index, 0] - self.y[index, 1]).item()
        return relation_between(dx, dy)

    def captions(self) -> list[str]:
        """Return one caption a scene.

        A plain texture has no word. Each colour is left out of every eighth object, and a clear relation is said in
        every second scene of two objects.
        """
        result = []
        for i, chance in enumerate(self.chance.tolist()):
            nouns = tuple(
                Noun(noun.shape, noun.colour if chance[k] >= 0.125 else None, noun.texture)
                for k, noun in enumerate(self.nouns(i))
            )
            result.append(str(Request(nouns, self.relation(i) if chance[-1] < 0.5 else None)))
        return result


def relation_between(dx: float, dy: float) -> str | None:
    """Return the relation of an object that lies (dx, dy) pixels from another, None where neither axis is clear."""
    if abs(dx) > 1.5 * abs(dy):
        return RELATIONS[0] if dx < 0 else RELATIONS[1]
    if abs(dy) > 1.5 * abs(dx):
        return RELATIONS[2] if dy < 0 else RELATIONS[3]
    return None


def sample_scenes(seeds: Iterable[int], objects: int, *, seen: bool = True) -> Scenes:
    """Draw the content of scenes.

    Args:
        seeds: One seed a scene; a scene is a function of its seed, `objects` and `seen`.
        objects: Objects in each scene: 1, 2 or 3.
        seen: Whether the pairs are those of training; if not, the first object has a colour that its shape never has
            in training.

    Raises:
        LMLError: If `objects` is none of these.
    """
    if objects not in _RADII:
        raise LMLError(f"objects={objects!r} must be 1, 2 or 3.")
    k = objects
    numbers = torch.stack([_uniform(seed, k * _PER_OBJECT + _PER_SCENE) for seed in seeds])
    each = numbers[:, : k * _PER_OBJECT].reshape(-1, k, _PER_OBJECT)
    whole = numbers[:, k * _PER_OBJECT :]
    colour, shape = _pairs(each[..., 0], seen)
    plain = each[..., 1] < 0.4
    texture = torch.where(plain, 0, _textures(each[..., 2], shape))
    low, high = _RADII[k]
    radius = low + (high - low) * each[..., 3]
    x, y = _places(radius, whole)
    level = 0.32 + 0.36 * whole[:, 3:4] + 0.14 * (whole[:, 4:6] - 0.5)
    tint = 0.16 * (whole[:, 6:12].reshape(-1, 2, 3) - 0.5)
    return Scenes(
        shape=shape,
        colour=colour,
        texture=texture,
        x=x,
        y=y,
        radius=radius,
        angle=(each[..., 4] - 0.5) * math.radians(30),
        jitter=0.08 * (each[..., 5:8] - 0.5),
        phase=each[..., 8:10],
        background=(level.unsqueeze(2) + tint).clamp(0, 1),
        direction=2 * math.pi * whole[:, 12],
        chance=torch.cat((each[..., 10], whole[:, 13:14]), 1),
    )


def training_scenes(seeds: Sequence[int]) -> list[tuple[Tensor, Scenes]]:
    """Draw training scenes: one object in every third, two in the others.

    Returns:
        Pairs (positions in `seeds`, scenes of one number of objects).
    """
    counts = torch.tensor([1 if seed % 3 == 0 else 2 for seed in seeds])
    found = ((counts == k).nonzero().squeeze(1) for k in (1, 2))
    return [
        (where, sample_scenes([seeds[i] for i in where.tolist()], k))
        for k, where in enumerate(found, start=1)
        if len(where)
    ]


def draw(scenes: Scenes, size: int = SIZE) -> Tensor:
    """Draw scenes.

    Args:
        scenes: B scenes.
        size: Pixels a side; lengths are scaled from 64.

    Returns:
        Images, float32 of shape (B, 3, size, size) in [-1, 1].
    """
    count, k = scenes.shape.shape
    axis = (torch.arange(size) + 0.5) * (SIZE / size)
    px, py = axis.view(1, 1, size), axis.view(1, size, 1)
    along = ((px - 32) * scenes.direction.cos().view(-1, 1, 1) + (py - 32) * scenes.direction.sin().view(-1, 1, 1)) / 64
    mix = (along + 0.5).clamp(0, 1).unsqueeze(1)
    start, end = scenes.background.unsqueeze(-1).unsqueeze(-1).unbind(1)
    image = start + (end - start) * mix
    flat = {f.name: getattr(scenes, f.name).flatten(0, 1) for f in fields(scenes) if f.name in _OBJECT_FIELDS}
    dx, dy = px - flat["x"].view(-1, 1, 1), py - flat["y"].view(-1, 1, 1)
    shadow = _distance(flat["shape"], dx - 2.0, dy - 3.0, flat["radius"], flat["angle"])
    shadow = 1 - 0.4 * ((3.5 - shadow) / 7).clamp(0, 1)
    sharp = size / SIZE
    cover = (0.5 - sharp * _distance(flat["shape"], dx, dy, flat["radius"], flat["angle"])).clamp(0, 1)
    colour = (_RGB[flat["colour"]] + flat["jitter"]).view(-1, 3, 1, 1)
    pattern = _pattern(flat["texture"], dx, dy, flat["angle"], flat["phase"])
    light = 1 + 0.14 * ((-dx - dy) / flat["radius"].view(-1, 1, 1) / 1.5).clamp(-1, 1)
    paint = colour * ((1 - 0.8 * pattern) * light).unsqueeze(1)
    layers = [tensor.unflatten(0, (count, k)) for tensor in (shadow, cover, paint)]
    for i in range(k):
        image = image * layers[0][:, i].unsqueeze(1)
    for i in range(k):
        image = torch.lerp(image, layers[2][:, i], layers[1][:, i].unsqueeze(1))
    return image.clamp(0, 1) * 2 - 1


_OBJECT_FIELDS = ("shape", "colour", "texture", "x", "y", "radius", "angle", "jitter", "phase")


def _uniform(seed: int, count: int) -> Tensor:
    return torch.rand(count, generator=torch.Generator().manual_seed(seed))


def _pairs(chance: Tensor, seen: bool) -> tuple[Tensor, Tensor]:
    """Return colour and shape, int64 of the shape of `chance`; no two objects of a scene have the same pair."""
    pairs = torch.tensor(allowed_pairs())
    picked = (chance * len(pairs)).long().clamp(max=len(pairs) - 1)
    for k in range(1, picked.shape[1]):
        while bool((same := (picked[:, k : k + 1] == picked[:, :k]).any(1)).any()):
            picked[:, k] = torch.where(same, (picked[:, k] + 7) % len(pairs), picked[:, k])
    result = pairs[picked]
    if not seen:
        others = torch.tensor(allowed_pairs(seen=False))
        result[:, 0] = others[(chance[:, 0] * len(others)).long().clamp(max=len(others) - 1)]
    return result[..., 0], result[..., 1]


def _textures(chance: Tensor, shape: Tensor) -> Tensor:
    """Return a texture with a word for each object, int64, among those that training shows with its shape."""
    table = torch.zeros(len(SHAPES), 6, dtype=torch.long)
    for s, name in enumerate(SHAPES):
        fit = [t for t, texture in enumerate(TEXTURES) if t and (texture, name) not in UNSEEN_TEXTURES]
        table[s] = torch.tensor((fit * 3)[:6] if len(fit) == 2 else fit * 2)
    return table[shape, (chance * 6).long().clamp(max=5)]


def _places(radius: Tensor, whole: Tensor) -> tuple[Tensor, Tensor]:
    """Place objects of the given radii, (B, K), inside the frame and apart; returns x and y, (B, K)."""
    k = radius.shape[1]
    turn = 2 * math.pi * whole[:, 0]
    if k == 1:
        room = SIZE / 2 - _MARGIN - radius * 1.15
        return 32 + room * (2 * whole[:, 1:2] - 1), 32 + room * (2 * whole[:, 2:3] - 1)
    if k == 3:
        turns = turn.unsqueeze(1) + 2 * math.pi / 3 * torch.arange(3)
        jitter = 2 * whole[:, 1:3] - 1
        return 32 + jitter[:, :1] + 18.5 * turns.cos(), 32 + jitter[:, 1:] + 18.5 * turns.sin()
    reach = radius * 1.15
    room = SIZE - 2 * _MARGIN - reach.sum(1)
    least = reach.sum(1) + _GAP
    most = torch.minimum(room / torch.maximum(turn.cos().abs(), turn.sin().abs()), torch.full_like(room, 44.0))
    apart = least + (most - least).clamp(min=0) * whole[:, 12] ** 1.5
    offset = torch.stack((turn.cos() * apart, turn.sin() * apart), 1)
    # The first object's centre lies in what the frame leaves once both objects fit.
    low = torch.maximum(reach[:, :1], reach[:, 1:] - offset) + _MARGIN
    high = SIZE - _MARGIN - torch.maximum(reach[:, :1], reach[:, 1:] + offset)
    first = low + (high - low).clamp(min=0) * whole[:, 1:3]
    second = first + offset
    return torch.stack((first[:, 0], second[:, 0]), 1), torch.stack((first[:, 1], second[:, 1]), 1)


def _turned(dx: Tensor, dy: Tensor, angle: Tensor) -> tuple[Tensor, Tensor]:
    cos, sin = angle.cos().view(-1, 1, 1), angle.sin().view(-1, 1, 1)
    return dx * cos + dy * sin, dy * cos - dx * sin


def _distance(shape: Tensor, dx: Tensor, dy: Tensor, radius: Tensor, angle: Tensor) -> Tensor:
    """Return the signed distance in pixels to each object's outline, negative inside, (N, H, W)."""
    x, y = _turned(dx, dy, angle)
    r = radius.view(-1, 1, 1)
    result = torch.empty_like(x)
    for index, name in enumerate(SHAPES):
        where = (shape == index).nonzero().squeeze(1)
        if len(where):
            result[where] = _OUTLINES[name](x[where], y[where], r[where])
    return result


def _circle(x: Tensor, y: Tensor, r: Tensor) -> Tensor:
    return torch.hypot(x, y) - 0.95 * r


def _square(x: Tensor, y: Tensor, r: Tensor) -> Tensor:
    return torch.maximum(x.abs(), y.abs()) - 0.84 * r


def _triangle(x: Tensor, y: Tensor, r: Tensor) -> Tensor:
    return torch.maximum(math.sqrt(0.75) * x.abs() - 0.5 * y, y) - 0.57 * r


def _star(x: Tensor, y: Tensor, r: Tensor) -> Tensor:
    fifth = 2 * math.pi / 5
    theta = torch.atan2(x, -y)
    folded = (torch.remainder(theta + fifth / 2, fifth) - fifth / 2).abs()
    length = torch.hypot(x, y)
    tip, notch = 1.15, 0.5
    ax, ay = tip - notch * math.cos(fifth / 2), notch * math.sin(fifth / 2)
    norm = math.hypot(ax, ay)
    return ((length * folded.cos() - tip * r) * ay + length * folded.sin() * ax) / norm


def _ring(x: Tensor, y: Tensor, r: Tensor) -> Tensor:
    return (torch.hypot(x, y) - 0.72 * r).abs() - 0.26 * r


def _cross(x: Tensor, y: Tensor, r: Tensor) -> Tensor:
    x, y = x.abs(), y.abs()
    long, wide = 1.0 * r, 0.34 * r
    return torch.minimum(torch.maximum(x - wide, y - long), torch.maximum(x - long, y - wide))


_OUTLINES = {
    "circle": _circle,
    "square": _square,
    "triangle": _triangle,
    "star": _star,
    "ring": _ring,
    "cross": _cross,
}


def _pattern(texture: Tensor, dx: Tensor, dy: Tensor, angle: Tensor, phase: Tensor) -> Tensor:
    """Return where each object is dark, from 0 to 1, (N, H, W)."""
    x, y = _turned(dx, dy, angle)
    u, v = phase[:, 0].view(-1, 1, 1), phase[:, 1].view(-1, 1, 1)
    result = torch.zeros_like(x)
    for index, name in enumerate(TEXTURES):
        where = (texture == index).nonzero().squeeze(1)
        if index and len(where):
            result[where] = _TEXTURES[name](x[where], y[where], u[where], v[where])
    return result


def _wave(x: Tensor, period: float, phase: Tensor) -> Tensor:
    return (2 * math.pi * (x / period + phase)).cos()


def _striped(x: Tensor, y: Tensor, u: Tensor, v: Tensor) -> Tensor:
    return (0.5 + 1.8 * _wave((x + y) * math.sqrt(0.5), 6.0, u)).clamp(0, 1)


def _dotted(x: Tensor, y: Tensor, u: Tensor, v: Tensor) -> Tensor:
    return (0.5 + 1.4 * (_wave(x, 6.5, u) + _wave(y, 6.5, v) - 0.55)).clamp(0, 1)


def _checkered(x: Tensor, y: Tensor, u: Tensor, v: Tensor) -> Tensor:
    return (0.5 + 2.2 * _wave(x, 9.0, u) * _wave(y, 9.0, v)).clamp(0, 1)


_TEXTURES = {"striped": _striped, "dotted": _dotted, "checkered": _checkered}

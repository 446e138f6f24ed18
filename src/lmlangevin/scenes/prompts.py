"""The prompt files that come with the package: five categories as in T2I-CompBench, seen and unseen apart."""

from __future__ import annotations

import random
from importlib import resources
from importlib.resources.abc import Traversable

from lmlangevin.core.errors import LMLError
from lmlangevin.scenes.language import (
    COLOURS,
    RELATIONS,
    SHAPES,
    TEXTURES,
    UNSEEN_COLOURS,
    UNSEEN_TEXTURES,
    Noun,
    Request,
)

CATEGORIES = ("colour", "shape", "texture", "spatial", "complex")
"""Kinds of prompts, as in T2I-CompBench."""

PROMPTS_A_FILE = 300

DEMO_PROMPTS = (
    "a red circle",
    "a striped blue square and a yellow star",
    "a green triangle and a checkered purple ring",
    "a dotted orange cross and a white circle",
    "a cyan ring and a red square",
    "a purple star",
    "a checkered yellow square and a striped green circle",
    "a blue cross left of a dotted white ring",
)
"""What the scenes models draw where no prompt is given."""


def scene_prompts(category: str, *, seen: bool = True) -> list[str]:
    """Return the 300 prompts of a category that come with the package.

    Args:
        category: One of CATEGORIES.
        seen: Whether they name pairs of training; if not, each names a pair or a number of objects that training
            leaves out.

    Raises:
        LMLError: If there is no such category.
    """
    if category not in CATEGORIES:
        raise LMLError(f"category={category!r} is unknown; give one of {', '.join(CATEGORIES)}.")
    return prompt_file(category, seen=seen).read_text(encoding="utf-8").splitlines()


def prompt_file(category: str, *, seen: bool = True) -> Traversable:
    """Return the file of a category's prompts, one a line."""
    name = f"{category}-{'seen' if seen else 'unseen'}.txt"
    return resources.files("lmlangevin") / "assets" / "scenes-prompts" / name


def make_prompts(category: str, *, seen: bool, count: int = PROMPTS_A_FILE) -> list[str]:
    """Write the prompts of a category anew; the files of the package hold what this returns."""
    chance = random.Random(f"{category} {seen}")
    found: dict[str, None] = {}
    while len(found) < count:
        request = _REQUESTS[category](chance, seen)
        shapes = [noun.shape for noun in request.nouns]
        colours = [noun.colour for noun in request.nouns if noun.colour]
        if request.seen == seen and len(set(shapes)) == len(shapes) and len(set(colours)) == len(colours):
            found[str(request)] = None
    return list(found)


def _noun(chance: random.Random, seen: bool, *, colour: bool, texture: bool) -> Noun:
    """Draw an object; if not `seen`, its pair of the attribute asked for is one that training leaves out."""
    words = TEXTURES[1:]
    if not seen and colour and (not texture or chance.random() < 0.5):
        tint, shape = chance.choice(sorted(UNSEEN_COLOURS))
        return Noun(shape, tint, chance.choice(words) if texture else None)
    if not seen and texture:
        pattern, shape = chance.choice(sorted(UNSEEN_TEXTURES))
        return Noun(shape, chance.choice(COLOURS) if colour else None, pattern)
    while True:
        noun = Noun(
            chance.choice(SHAPES), chance.choice(COLOURS) if colour else None, chance.choice(words) if texture else None
        )
        if noun.seen:
            return noun


def _two(chance: random.Random, seen: bool, *, colour: bool, texture: bool) -> list[Noun]:
    nouns = [_noun(chance, seen, colour=colour, texture=texture), _noun(chance, True, colour=colour, texture=texture)]
    chance.shuffle(nouns)
    return nouns


def _colour(chance: random.Random, seen: bool) -> Request:
    return Request(tuple(_two(chance, seen, colour=True, texture=False)))


def _shape(chance: random.Random, seen: bool) -> Request:
    """Two shapes, one of them with a colour; three where the prompt is to be unlike training."""
    nouns = [_noun(chance, True, colour=k == 0, texture=False) for k in range(2 if seen else 3)]
    chance.shuffle(nouns)
    return Request(tuple(nouns))


def _texture(chance: random.Random, seen: bool) -> Request:
    """Two textured objects, one of them with a colour as well, since without there are few such prompts."""
    nouns = [
        _noun(chance, seen, colour=False, texture=True),
        _noun(chance, True, colour=True, texture=True),
    ]
    chance.shuffle(nouns)
    return Request(tuple(nouns))


def _spatial(chance: random.Random, seen: bool) -> Request:
    return Request(tuple(_two(chance, seen, colour=True, texture=False)), chance.choice(RELATIONS))


def _complex(chance: random.Random, seen: bool) -> Request:
    return Request(tuple(_two(chance, seen, colour=True, texture=True)), chance.choice(RELATIONS))


_REQUESTS = {"colour": _colour, "shape": _shape, "texture": _texture, "spatial": _spatial, "complex": _complex}

"""Scores of images of scenes against their prompts, from what the reader sees."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from lmlangevin.scenes.drawing import relation_between
from lmlangevin.scenes.language import Noun, Request
from lmlangevin.scenes.reader import SeenObject


@dataclass(frozen=True)
class SceneScore:
    """How one image fulfils its prompt. A share is None where the prompt asks for nothing of that kind.

    Attributes:
        colour: Share of the (colour, shape) pairs of the prompt that some object of the image has together.
        shape: Share of the shapes of the prompt that some object has.
        texture: Share of the (texture, shape) pairs that some object has together.
        spatial: 1 where two objects as named lie to each other as the prompt says, 0 where none do.
        binding: Share of all (attribute, shape) pairs of the prompt, colours and textures together.
        complete: 1 where the image has as many objects as the prompt, one for each name with all it says, in the
            relation that it says; otherwise 0.
    """

    colour: float | None
    shape: float
    texture: float | None
    spatial: float | None
    binding: float | None
    complete: float


SCORES = ("colour", "shape", "texture", "spatial", "binding", "complete")
"""Names of the scores, in the order of tables."""


def score_scene(objects: Sequence[SeenObject], request: Request) -> SceneScore:
    """Score one image.

    Args:
        objects: What the reader sees in it.
        request: What its prompt asks for, from `parse_prompt`.
    """
    colours = [_some(objects, noun.shape, colour=noun.colour) for noun in request.nouns if noun.colour]
    textures = [_some(objects, noun.shape, texture=noun.texture) for noun in request.nouns if noun.texture]
    shapes = [_some(objects, noun.shape) for noun in request.nouns]
    spatial = None
    if request.relation:
        spatial = float(any(_lies(pair, request) for pair in itertools.permutations(objects, 2)))
    complete = len(objects) == len(request.nouns) and any(
        all(matches(seen, noun) for seen, noun in zip(order, request.nouns, strict=True))
        and (request.relation is None or _lies(order, request))
        for order in itertools.permutations(objects)
    )
    return SceneScore(
        colour=_mean(colours),
        shape=_mean(shapes) or 0.0,
        texture=_mean(textures),
        spatial=spatial,
        binding=_mean([*colours, *textures]),
        complete=float(complete),
    )


def _mean(values: Iterable[bool]) -> float | None:
    found = list(values)
    return sum(found) / len(found) if found else None


def _some(objects: Iterable[SeenObject], shape: str, **attributes: str | None) -> bool:
    return any(
        seen.shape == shape and all(getattr(seen, name) == value for name, value in attributes.items())
        for seen in objects
    )


def matches(seen: SeenObject, noun: Noun) -> bool:
    """Return whether an object of an image is as a prompt names it, in all that the prompt says."""
    return seen.shape == noun.shape and noun.colour in (None, seen.colour) and noun.texture in (None, seen.texture)


def _lies(pair: Sequence[SeenObject], request: Request) -> bool:
    """Return whether two objects are the prompt's two and lie as it says, by the rule of the captions."""
    first, second = pair
    if not (matches(first, request.nouns[0]) and matches(second, request.nouns[1])):
        return False
    dx, dy = first.x - second.x, first.y - second.y
    # A prompt says one axis. The other may be anything that leaves the named side clear.
    wanted = request.relation
    sides = {"left of": dx < 0, "right of": dx > 0, "above": dy < 0, "below": dy > 0}
    found = relation_between(dx, dy)
    return found == wanted or (found is None and bool(wanted) and sides[str(wanted)])

"""The words of a scene: what its objects can be, which pairs training leaves out, and prompts to and from objects."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

SHAPES = ("circle", "square", "triangle", "star", "ring", "cross")
"""Words of an object's shape."""

COLOURS = ("red", "green", "blue", "yellow", "purple", "orange", "cyan", "white")
"""Words of its colour."""

TEXTURES = ("plain", "striped", "dotted", "checkered")
"""Words of its texture."""

RELATIONS = ("left of", "right of", "above", "below")
"""How the first of two objects lies to the second."""

UNSEEN_COLOURS = frozenset(
    {("green", "star"), ("purple", "square"), ("orange", "ring"), ("cyan", "triangle"), ("white", "cross")}
)
"""Pairs (colour, shape) that no training scene holds, a tenth of the 48."""

UNSEEN_TEXTURES = frozenset({("striped", "triangle"), ("checkered", "star")})
"""Pairs (texture, shape) that no training scene holds, a tenth of the 18 with a word for the texture."""

_FILLERS = ("a", "an", "and", "of")
VOCABULARY = frozenset(
    (*SHAPES, *COLOURS, *TEXTURES, *_FILLERS, *(word for relation in RELATIONS for word in relation.split()))
)
"""Every word that a caption can hold, and `plain`."""


@dataclass(frozen=True)
class Noun:
    """One object as a prompt names it.

    Attributes:
        shape: One of SHAPES.
        colour: One of COLOURS; None where the prompt leaves it open.
        texture: One of TEXTURES; None where the prompt leaves it open. A caption leaves out the word `plain`.
    """

    shape: str
    colour: str | None = None
    texture: str | None = None

    @property
    def seen(self) -> bool:
        """Whether training can hold such an object."""
        return (self.colour, self.shape) not in UNSEEN_COLOURS and (self.texture, self.shape) not in UNSEEN_TEXTURES

    def __str__(self) -> str:
        texture = None if self.texture == "plain" else self.texture
        words = [word for word in (texture, self.colour, self.shape) if word]
        return ("an " if words[0][0] in "aeiou" else "a ") + " ".join(words)


@dataclass(frozen=True)
class Request:
    """What a prompt asks for: objects in the order of their names, and how the first lies to the second."""

    nouns: tuple[Noun, ...]
    relation: str | None = None

    @property
    def seen(self) -> bool:
        """Whether training can hold such a scene: every pair, and at most two objects."""
        return len(self.nouns) <= 2 and all(noun.seen for noun in self.nouns)

    def __str__(self) -> str:
        names = [str(noun) for noun in self.nouns]
        if self.relation:
            return f"{names[0]} {self.relation} {names[1]}"
        return names[0] if len(names) == 1 else ", ".join(names[:-1]) + " and " + names[-1]


def words_of(prompt: str) -> list[str]:
    """Return the words of a prompt in lower case, without punctuation."""
    return re.findall(r"[^\W_]+", prompt.lower())


def unknown_words(prompt: str) -> list[str]:
    """Return the words of a prompt that no caption holds, each once, in their order."""
    return list(dict.fromkeys(word for word in words_of(prompt) if word not in VOCABULARY))


def parse_prompt(prompt: str) -> Request | None:
    """Read what a prompt asks for.

    Args:
        prompt: Text such as "a striped blue square left of a yellow star".

    Returns:
        The objects that it names, or None where it names none or attributes without a shape.
    """
    text = " ".join(words_of(prompt))
    nouns: list[Noun] = []
    found: dict[str, str] = {}
    for word in text.split():
        if word in COLOURS:
            found["colour"] = word
        elif word in TEXTURES:
            found["texture"] = word
        elif word in SHAPES:
            nouns.append(Noun(word, **found))
            found = {}
    if not nouns or found:
        return None
    relations = [relation for relation in RELATIONS if re.search(rf"\b{relation}\b", text)]
    return Request(tuple(nouns), relations[0] if len(relations) == 1 and len(nouns) == 2 else None)


def allowed_pairs(seen: bool = True) -> Sequence[tuple[int, int]]:
    """Return the (colour, shape) pairs that training holds, or those that it leaves out, as indices."""
    return [
        (c, s)
        for c, colour in enumerate(COLOURS)
        for s, shape in enumerate(SHAPES)
        if ((colour, shape) not in UNSEEN_COLOURS) == seen
    ]

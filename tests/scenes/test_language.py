"""Prompts to and from objects, and the prompt files."""

from __future__ import annotations

import pytest

from lmlangevin.core import LMLError
from lmlangevin.scenes import CATEGORIES, DEMO_PROMPTS, Noun, Request, parse_prompt, scene_prompts, unknown_words
from lmlangevin.scenes.prompts import make_prompts


@pytest.mark.parametrize(
    ("prompt", "request_"),
    [
        ("a red circle", Request((Noun("circle", "red"),))),
        ("An ORANGE star.", Request((Noun("star", "orange"),))),
        (
            "a striped blue square left of a yellow star",
            Request((Noun("square", "blue", "striped"), Noun("star", "yellow")), "left of"),
        ),
        (
            "a ring, a dotted cross and a white triangle",
            Request((Noun("ring"), Noun("cross", None, "dotted"), Noun("triangle", "white"))),
        ),
        ("a plain green square", Request((Noun("square", "green", "plain"),))),
    ],
)
def test_prompts_are_read(prompt: str, request_: Request) -> None:
    assert parse_prompt(prompt) == request_


@pytest.mark.parametrize("prompt", ["", "a photo of a fox", "something red", "a circle and something blue"])
def test_what_names_no_object_is_no_request(prompt: str) -> None:
    assert parse_prompt(prompt) is None


def test_words_that_no_caption_holds_are_told_once_and_in_order() -> None:
    assert unknown_words("A red dog, a big dog and a circle") == ["dog", "big"]
    assert unknown_words("a striped blue square left of a yellow star") == []


@pytest.mark.parametrize("category", CATEGORIES)
@pytest.mark.parametrize("seen", [True, False])
def test_prompt_files_hold_300_prompts_of_their_kind(category: str, seen: bool) -> None:
    prompts = scene_prompts(category, seen=seen)
    assert len(set(prompts)) == len(prompts) == 300
    assert prompts == make_prompts(category, seen=seen)
    for prompt in prompts:
        request = parse_prompt(prompt)
        assert request is not None and request.seen == seen and not unknown_words(prompt)
        assert (request.relation is not None) == (category in ("spatial", "complex"))


def test_the_demo_prompts_are_of_training() -> None:
    requests = [parse_prompt(prompt) for prompt in DEMO_PROMPTS]
    assert all(request is not None and request.seen for request in requests)


def test_an_unknown_category_is_refused() -> None:
    with pytest.raises(LMLError, match="category='color' is unknown"):
        scene_prompts("color")

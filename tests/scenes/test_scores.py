"""Scores of what is seen against what was asked, on objects written by hand."""

from __future__ import annotations

import pytest

from lmlangevin.scenes import SeenObject, parse_prompt, score_scene


def seen(texture: str, colour: str, shape: str, x: float = 32, y: float = 32) -> SeenObject:
    return SeenObject(x, y, colour, shape, texture, 1.0)


PROMPT = parse_prompt("a striped blue square left of a yellow star")


def test_what_was_asked_scores_one_everywhere() -> None:
    score = score_scene([seen("striped", "blue", "square", 15), seen("plain", "yellow", "star", 45)], PROMPT)
    assert (score.colour, score.shape, score.texture, score.spatial, score.binding, score.complete) == (1,) * 6


def test_swapped_colours_bind_nothing() -> None:
    score = score_scene([seen("striped", "yellow", "square", 15), seen("plain", "blue", "star", 45)], PROMPT)
    assert (score.colour, score.shape, score.texture) == (0, 1, 1)
    assert score.spatial == 0 and score.complete == 0 and score.binding == pytest.approx(1 / 3)


def test_the_wrong_side_costs_the_relation_alone() -> None:
    score = score_scene([seen("striped", "blue", "square", 45), seen("plain", "yellow", "star", 15)], PROMPT)
    assert (score.colour, score.texture, score.spatial, score.complete) == (1, 1, 0, 0)


def test_a_diagonal_counts_where_the_named_side_is_right() -> None:
    right = [seen("striped", "blue", "square", 20, 20), seen("plain", "yellow", "star", 40, 40)]
    assert score_scene(right, PROMPT).spatial == 1
    wrong = [seen("striped", "blue", "square", 40, 20), seen("plain", "yellow", "star", 20, 40)]
    assert score_scene(wrong, PROMPT).spatial == 0


def test_an_object_too_many_is_not_complete() -> None:
    prompt = parse_prompt("a purple star")
    stars = [seen("plain", "purple", "star", 15), seen("plain", "purple", "star", 45)]
    assert score_scene(stars, prompt).complete == 0 and score_scene(stars, prompt).colour == 1
    assert score_scene(stars[:1], prompt).complete == 1


def test_one_object_does_not_count_for_two_names() -> None:
    prompt = parse_prompt("a circle and a red circle")
    score = score_scene([seen("plain", "red", "circle"), seen("plain", "red", "ring", 50)], prompt)
    assert score.shape == 1 and score.complete == 0


def test_an_empty_image_scores_nothing() -> None:
    score = score_scene([], PROMPT)
    assert (score.colour, score.shape, score.texture, score.spatial, score.binding, score.complete) == (0,) * 6


def test_what_a_prompt_leaves_open_has_no_score() -> None:
    score = score_scene([seen("plain", "red", "circle")], parse_prompt("a circle"))
    assert score.colour is None and score.texture is None and score.spatial is None and score.binding is None
    assert score.complete == 1

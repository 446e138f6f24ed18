"""Scenes: a function of their seeds, inside the frame and apart, with the pairs that training may hold."""

from __future__ import annotations

import pytest
import torch

from lmlangevin.core import LMLError
from lmlangevin.scenes import COLOURS, SHAPES, draw, parse_prompt, relation_between, sample_scenes, training_scenes
from lmlangevin.scenes.drawing import Scenes, _distance


@pytest.mark.parametrize("objects", [1, 2, 3])
def test_a_scene_depends_on_its_own_seed_alone(objects: int) -> None:
    together = sample_scenes([5, 6, 7], objects)
    alone = sample_scenes([6], objects)
    assert torch.equal(draw(together)[1], draw(alone)[0])
    assert together.captions()[1] == alone.captions()[0]
    assert not torch.equal(draw(together)[0], draw(together)[1])


@pytest.mark.parametrize("objects", [1, 2, 3])
def test_images_are_finite_in_range_and_not_flat(objects: int) -> None:
    images = draw(sample_scenes(range(40), objects))
    assert images.shape == (40, 3, 64, 64) and images.dtype == torch.float32
    assert images.min() >= -1 and images.max() <= 1
    assert images.std((1, 2, 3)).min() > 0.05


@pytest.mark.parametrize("objects", [1, 2, 3])
def test_objects_lie_inside_the_frame_and_do_not_touch(objects: int) -> None:
    scenes = sample_scenes(range(1000, 1400), objects)
    reach = scenes.radius * 1.15
    for middle in (scenes.x, scenes.y):
        assert (middle - reach).min() > 0 and (middle + reach).max() < 64
    for i in range(objects):
        for j in range(i):
            apart = torch.hypot(scenes.x[:, i] - scenes.x[:, j], scenes.y[:, i] - scenes.y[:, j])
            assert (apart - reach[:, i] - reach[:, j]).min() > 2


def test_training_scenes_hold_every_allowed_pair_and_no_other() -> None:
    nouns = {
        noun
        for _, scenes in training_scenes(list(range(6000)))
        for index in range(len(scenes))
        for noun in scenes.nouns(index)
    }
    assert all(noun.seen for noun in nouns)
    assert len({(noun.colour, noun.shape) for noun in nouns}) == 43
    assert len({(noun.texture, noun.shape) for noun in nouns}) == 22


def test_unseen_scenes_hold_a_pair_that_training_leaves_out() -> None:
    scenes = sample_scenes(range(60), 2, seen=False)
    assert all(any(not noun.seen for noun in scenes.nouns(i)) for i in range(60))


def test_no_scene_has_two_objects_of_one_colour_and_shape() -> None:
    for objects in (2, 3):
        scenes = sample_scenes(range(3000), objects)
        pairs = scenes.colour * 8 + scenes.shape
        assert (pairs.sort(1).values.diff(dim=1) != 0).all()


def test_the_middle_of_a_plain_object_has_its_colour() -> None:
    scenes = sample_scenes(range(400), 1)
    plain = (scenes.texture[:, 0] == 0) & (scenes.shape[:, 0] != SHAPES.index("ring"))
    images = (draw(scenes) + 1) / 2
    from lmlangevin.scenes.drawing import _RGB

    for i in plain.nonzero().squeeze(1).tolist():
        pixel = images[i, :, int(scenes.y[i, 0]), int(scenes.x[i, 0])]
        nearest = (_RGB - pixel).square().sum(1).argmin().item()
        assert COLOURS[int(nearest)] == COLOURS[scenes.colour[i, 0]]


@pytest.mark.parametrize("shape", SHAPES)
def test_outlines_are_lipschitz_and_of_the_named_size(shape: str) -> None:
    """A signed distance changes by at most a pixel a pixel, is negative inside, and positive beyond 1.2 radii."""
    axis = torch.arange(-20.0, 20.25, 0.25)
    dx, dy = axis.view(1, 1, -1), axis.view(1, -1, 1)
    found = _distance(torch.tensor([SHAPES.index(shape)]), dx, dy, torch.tensor([12.0]), torch.tensor([0.2]))
    assert found.diff(dim=1).abs().max() <= 0.25 * 1.001 and found.diff(dim=2).abs().max() <= 0.25 * 1.001
    far = torch.hypot(dx, dy) > 1.2 * 12
    assert (found[far.expand_as(found)] > 0).all()
    area = (found < 0).float().mean().item() * 40.25**2
    assert 0.25 < area / (3.1416 * 144) < 1.0


def test_captions_say_what_is_drawn() -> None:
    scenes = sample_scenes(range(500), 2)
    said = 0
    for i, caption in enumerate(scenes.captions()):
        request = parse_prompt(caption)
        assert request is not None and str(request) == caption
        for asked, drawn in zip(request.nouns, scenes.nouns(i), strict=True):
            assert asked.shape == drawn.shape and asked.colour in (None, drawn.colour)
            assert (asked.texture or "plain") == drawn.texture
        if request.relation:
            said += 1
            assert request.relation == scenes.relation(i)
    assert 100 < said < 300


def test_relations_point_the_right_way() -> None:
    found = [relation_between(*offset) for offset in ((-9, 1), (9, 1), (1, -9), (1, 9), (5, 5))]
    assert found == ["left of", "right of", "above", "below", None]


def test_another_number_of_objects_is_refused() -> None:
    with pytest.raises(LMLError, match="objects=4 must be 1, 2 or 3"):
        sample_scenes([1], 4)


def test_a_larger_picture_is_the_same_scene() -> None:
    scenes = sample_scenes(range(8), 2)
    small, large = draw(scenes), draw(scenes, 256)
    assert isinstance(scenes, Scenes)
    shrunk = torch.nn.functional.interpolate(large, 64, mode="area")
    assert (shrunk - small).square().mean().sqrt() < 0.08

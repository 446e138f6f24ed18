"""The reader on fresh drawn scenes, as users load it."""

from __future__ import annotations

import pytest
import torch

from lmlangevin.core import LMLError
from lmlangevin.scenes import draw, load_reader, read_scenes, sample_scenes, score_scene
from lmlangevin.scenes.language import Request


@pytest.mark.parametrize(("objects", "seen"), [(1, True), (2, True), (2, False), (3, True)])
def test_drawn_scenes_are_read_as_they_were_drawn(objects: int, seen: bool) -> None:
    scenes = sample_scenes(range(2 * 10**13, 2 * 10**13 + 60), objects, seen=seen)
    found = read_scenes(draw(scenes))
    complete = [score_scene(found[i], Request(scenes.nouns(i), scenes.relation(i))).complete for i in range(60)]
    assert sum(complete) >= 58


def test_places_are_those_of_the_objects() -> None:
    scenes = sample_scenes(range(50), 1)
    for i, objects in enumerate(read_scenes(draw(scenes))):
        assert len(objects) == 1
        assert abs(objects[0].x - scenes.x[i, 0].item()) < 4 and abs(objects[0].y - scenes.y[i, 0].item()) < 4


def test_a_background_holds_nothing_and_batches_change_nothing() -> None:
    flat = torch.linspace(-0.3, 0.3, 64).expand(2, 3, 64, 64)
    assert read_scenes(flat) == [[], []]
    images = draw(sample_scenes(range(5), 2))
    whole, single = read_scenes(images), [read_scenes(image.unsqueeze(0))[0] for image in images]
    for a, b in zip(whole, single, strict=True):
        assert [(o.colour, o.shape, o.texture) for o in a] == [(o.colour, o.shape, o.texture) for o in b]


def test_larger_images_are_read_at_their_size() -> None:
    scenes = sample_scenes(range(6), 2)
    for small, large in zip(read_scenes(draw(scenes)), read_scenes(draw(scenes, 256)), strict=True):
        assert [(o.colour, o.shape) for o in small] == [(o.colour, o.shape) for o in large]


def test_the_reader_is_frozen_small_and_loaded_once() -> None:
    reader = load_reader()
    assert reader is load_reader() and not any(p.requires_grad for p in reader.parameters())
    assert sum(p.numel() for p in reader.parameters()) * 2 < 2 * 2**20


@pytest.mark.parametrize("shape", [(3, 64, 64), (1, 1, 64, 64), (1, 3, 64, 32)])
def test_other_shapes_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(LMLError, match="images must have shape"):
        read_scenes(torch.zeros(shape))


def test_the_protocol_tells_drawn_scenes_from_distorted_ones() -> None:
    """Fresh drawn scenes are near the reference that comes with the package; noise moves them away."""
    from lmlangevin.evaluation import feature_statistics, frechet_distance, load_extractor, load_reference_statistics

    extractor, reference = load_extractor("scenes"), load_reference_statistics("scenes")
    assert reference.n == 10_000 and reference.dim == 96
    images = torch.cat([draw(sample_scenes(range(500 * k, 500 * k + 100 * k), k)) for k in (1, 2)])
    noisy = (images + 0.1 * torch.randn(images.shape, generator=torch.Generator().manual_seed(0))).clamp(-1, 1)
    near, far = (
        frechet_distance(feature_statistics(extractor, part, protocol="scenes"), reference) for part in (images, noisy)
    )
    assert near < 0.5 * far

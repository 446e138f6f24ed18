"""The reader of scenes in the place of BLIP and UniDet, on images of the scenes models."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from lmlangevin.core.errors import LMLError
from lmlangevin.evaluation.compbench.blip import ANY_IMAGE
from lmlangevin.evaluation.compbench.layout import Sample
from lmlangevin.evaluation.compbench.scores import METRICS, write_scores
from lmlangevin.evaluation.sources import read_image
from lmlangevin.files import write_text
from lmlangevin.scenes import SIZE, Request, load_reader, matches, parse_prompt, read_scenes, score_scene


class SceneVqa:
    """Answers "a striped blue square?" by 1 where the reader sees such an object in an image, and by 0 otherwise.

    Args:
        device: of the reader.
    """

    name = "lmlangevin scenes reader"
    resolution = SIZE

    def __init__(self, device: str = "cpu") -> None:
        self._reader = load_reader(device)
        self._device = device
        self.weight_hash = self._reader.weight_hash

    def prepare(self, path: Path) -> Tensor:
        """Read an image as float32 (3, 64, 64) in [-1, 1].

        Raises:
            LMLError: the file cannot be decoded, or is no 64x64 image.
        """
        image = read_image(path, ANY_IMAGE, "samples")
        if image.shape[1:] != (SIZE, SIZE):
            raise LMLError(
                f"samples {str(path)!r}: is {image.shape[2]}x{image.shape[1]}; the reader takes images of {SIZE}x{SIZE}"
            )
        return image.float() / 127.5 - 1

    def probabilities(
        self, images: Tensor, questions: Sequence[Sequence[str]], batch_size: int = 16
    ) -> list[list[float]]:
        """Return 1 or 0 for each question of each image; see `Blip.probabilities`."""
        seen = read_scenes(images.to(self._device), reader=self._reader, batch_size=batch_size)
        return [
            [float(any(matches(item, _request(text).nouns[0]) for item in objects)) for text in texts]
            for objects, texts in zip(seen, questions, strict=True)
        ]


def scene_chunks(prompt: str) -> list[str]:
    """Return the objects that a prompt names, as the chunks that BLIP-VQA asks about."""
    return [str(noun) for noun in _request(prompt).nouns]


def write_relations(
    home: Path, samples: Sequence[Sample], vqa: SceneVqa, answers: Sequence[float]
) -> tuple[float, ...]:
    """Score the relations of a sampler's images, and write them where UniDet's script does.

    In the category complex the 3-in-1 score is written as well, the mean of the relation and of BLIP-VQA's answer, as
    the official script takes it for prompts with a spatial relation.

    Args:
        home: a sampler folder.
        samples: its images.
        vqa: the reader.
        answers: the image's BLIP-VQA scores.

    Returns:
        One score for each image, 1 or 0.
    """
    images = torch.stack([vqa.prepare(sample.path) for sample in samples])
    requests = [_request(sample.prompt) for sample in samples]
    seen = read_scenes(images)
    spatial = tuple(
        float(score_scene(objects, request).spatial or 0) for objects, request in zip(seen, requests, strict=True)
    )
    rows = [{"question_id": sample.index, "answer": score} for sample, score in zip(samples, spatial, strict=True)]
    write_text(home / METRICS["unidet-2d"].files[0], json.dumps(rows))
    if home.absolute().parent.name == "complex":
        write_scores(home, "3-in-1", [(a + s) * 0.5 for a, s in zip(answers, spatial, strict=True)])
    return spatial


def has_relation(prompt: str) -> bool:
    """Return whether a prompt says how two objects lie to each other."""
    return _request(prompt).relation is not None


def _request(prompt: str) -> Request:
    request = parse_prompt(prompt)
    if request is None:
        raise LMLError(f"prompts: {prompt!r} names no objects of scenes; give --blip-model for other prompts")
    return request

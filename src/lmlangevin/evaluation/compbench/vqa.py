"""BLIP-VQA of a sampler's images: a run that can be stopped at any moment and goes on where it was."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any, TypeAlias

import torch

from lmlangevin.core.errors import LMLError
from lmlangevin.evaluation.compbench import LABEL
from lmlangevin.evaluation.compbench.blip import Blip
from lmlangevin.evaluation.compbench.chunks import Chunker, chunker_name, questions
from lmlangevin.evaluation.compbench.files import read_result, versions
from lmlangevin.evaluation.compbench.layout import Sample, images_each, sampler_folder
from lmlangevin.evaluation.compbench.names import parse_name
from lmlangevin.evaluation.compbench.prompts import count_note, tidy
from lmlangevin.evaluation.compbench.scenes import SceneVqa
from lmlangevin.evaluation.compbench.scores import METRICS, write_scores
from lmlangevin.files import write_text

PROGRESS_FILE = "annotation_blip/lml_blip_vqa.json"
"""What was answered so far, for each image; it stays beside the official result."""

_FORMAT = "lmlangevin-blip-vqa-1"

Progress: TypeAlias = Callable[[str, int, int], None]
"""Called as (sampler, images done, images in all) after each batch."""


@dataclass(frozen=True)
class BlipScores:
    """BLIP-VQA of a sampler.

    Args:
        folder: the sampler folder.
        samples: its images.
        scores: one for each, in [0, 1], of four decimals.
        scorer: what they depend on beside the images: `weight_hash`, `resolution` and `chunker`.
        model: what the network is called.
        computed: images that were looked at now; the others were known.
        without_questions: images whose prompt has no noun chunk, which have the score 1.
    """

    folder: Path
    samples: tuple[Sample, ...]
    scores: tuple[float, ...]
    scorer: dict[str, Any]
    model: str
    computed: int
    without_questions: int

    @property
    def mean(self) -> float:
        """Mean over the images: BLIP-VQA of the category."""
        return fmean(self.scores)

    @property
    def prompts(self) -> int:
        """Number of prompts."""
        return len({tidy(sample.prompt) for sample in self.samples})

    @property
    def notes(self) -> tuple[str, ...]:
        """Lines that a reader of the mean needs."""
        notes = [note for note in (count_note(self.prompts),) if note is not None]
        if images_each(self.samples) is None:
            notes.append("Prompts have different numbers of images, so the mean weighs some more than others.")
        if self.without_questions:
            notes.append(f"{self.without_questions} images have a prompt without noun chunks, and so the score 1.")
        return tuple(notes)

    def as_dict(self) -> dict[str, Any]:
        """Return everything but the single scores as JSON takes it."""
        return {
            "folder": str(self.folder),
            "metric": "blip",
            "mean": self.mean,
            "images": len(self.samples),
            "prompts": self.prompts,
            "images_each": images_each(self.samples),
            "model": self.model,
            **self.scorer,
            "without_questions": self.without_questions,
            "notes": list(self.notes),
        }


def answer_of(probabilities: Sequence[float]) -> str:
    """Return the score of an image as the official script does: factors and product rounded to four decimals.

    The product is taken in float32, in the order of the questions; without questions it is 1.
    """
    product = torch.ones((), dtype=torch.float32)
    for value in probabilities:
        product = product * torch.tensor(float(f"{value:.4f}"), dtype=torch.float32)
    return f"{product.item():.4f}"


def score_folder(
    folder: str | Path,
    samples: Sequence[Sample],
    blip: Blip | SceneVqa,
    chunker: Chunker,
    *,
    batch_size: int = 16,
    progress: Progress | None = None,
) -> BlipScores:
    """Measure BLIP-VQA of a sampler's images and write it as the official script does.

    What is known is kept in `PROGRESS_FILE` after every batch, so a run that is killed loses a batch at most and the
    same call goes on. The official files are there only while every image has a score. An image is looked at again
    when its file's content has changed.

    Args:
        folder: a sampler folder.
        samples: its images, from `read_samples`.
        blip: the network.
        chunker: makes noun chunks of a prompt.
        batch_size: images, and questions, at once.
        progress: told of each batch.

    Returns:
        The scores.

    Raises:
        LMLError: batch_size < 1, no images, an image that cannot be decoded, a result of another model or chunker, or
            one that is not of this package.
    """
    if batch_size < 1:
        raise LMLError(f"batch_size {batch_size}: give a whole number >= 1")
    if not samples:
        raise LMLError("samples: none given; give those of read_samples")
    home = sampler_folder(folder)
    scorer = {"weight_hash": blip.weight_hash, "resolution": blip.resolution, "chunker": chunker_name(chunker)}
    known = _read_known(home, scorer)
    if (home / _OFFICIAL).is_file() and not _is_of(home, known):
        raise LMLError(
            f"result {str(home / _OFFICIAL)!r}: is not of lml compbench score; move it away to score these images"
        )
    hashes = {sample.path.name: _file_hash(sample.path) for sample in samples}
    kept = {name: entry for name, entry in known.items() if hashes.get(name) == entry["sha256"]}
    pending = [sample for sample in samples if sample.path.name not in kept]
    head = {"format": _FORMAT, "label": LABEL, "model": blip.name, "scorer": scorer, "versions": versions()}
    if pending or len(kept) < len(known):
        # Before what is known changes: a kill between the two must leave no official result of other answers.
        (home / _OFFICIAL).unlink(missing_ok=True)
        (home / METRICS["blip"].mean_file[0]).unlink(missing_ok=True)
        _write_known(home, head, kept)
    asked = {prompt: questions(prompt, chunker) for prompt in dict.fromkeys(sample.prompt for sample in pending)}
    for start in range(0, len(pending), batch_size):
        batch = pending[start : start + batch_size]
        texts = [asked[sample.prompt] for sample in batch]
        pixels = torch.stack([blip.prepare(sample.path) for sample in batch])
        for sample, text, values in zip(batch, texts, blip.probabilities(pixels, texts, batch_size), strict=True):
            name = sample.path.name
            kept[name] = {
                "sha256": hashes[name],
                "questions": list(text),
                "p_yes": values,
                "answer": answer_of(values),
            }
        _write_known(home, head, kept)
        if progress is not None:
            progress(home.absolute().name, len(kept), len(samples))

    ordered = [kept[sample.path.name] for sample in samples]
    answers = [entry["answer"] for entry in ordered]
    write_scores(home, "blip", answers)
    return BlipScores(
        folder=home,
        samples=tuple(samples),
        scores=tuple(map(float, answers)),
        scorer=scorer,
        model=blip.name,
        computed=len(pending),
        without_questions=sum(not entry["questions"] for entry in ordered),
    )


def scorer_of(folder: Path) -> dict[str, Any] | None:
    """Return what made the BLIP-VQA result of a sampler folder, None where `score_folder` did not.

    Raises:
        LMLError: the file beside it is damaged.
    """
    content = _read_progress(folder)
    return content["scorer"] if content is not None and _is_of(folder, content["images"]) else None


# What is known ------------------------------------------------------------------------------------------------------

_OFFICIAL = METRICS["blip"].files[0]


def _read_progress(home: Path) -> dict[str, Any] | None:
    path = home / PROGRESS_FILE
    if not path.is_file():
        return None
    content = read_result(path, "scores")
    try:
        sound = content["format"] == _FORMAT and isinstance(content["scorer"], dict)
        for name, entry in content["images"].items():
            parse_name(name)
            sound = sound and isinstance(entry["sha256"], str) and isinstance(entry["questions"], list)
            sound = sound and 0 <= float(entry["answer"]) <= 1
    except (TypeError, KeyError, ValueError, AttributeError):
        sound = False
    if not sound:
        raise LMLError(f"scores {str(path)!r}: are damaged; delete the file to score anew")
    return content


def _read_known(home: Path, scorer: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Return what is known of each image, by the names of their files, and see that this scorer made it."""
    content = _read_progress(home)
    if content is None:
        return {}
    for key, value in scorer.items():
        found = content["scorer"].get(key)
        if found != value:
            raise LMLError(
                f"scores {str(home / PROGRESS_FILE)!r}: have {key} {found!r} and not {value!r}; give what they were "
                "made with, or delete the file to score anew"
            )
    return content["images"]


def _write_known(home: Path, head: dict[str, Any], images: dict[str, dict[str, Any]]) -> None:
    write_text(home / PROGRESS_FILE, json.dumps({**head, "images": images}, allow_nan=False) + "\n")


def _is_of(home: Path, images: dict[str, dict[str, Any]]) -> bool:
    """Return whether the official result is there and holds these answers."""
    path = home / _OFFICIAL
    ordered = sorted(images, key=lambda name: parse_name(name)[1])
    ours = [{"question_id": place, "answer": images[name]["answer"]} for place, name in enumerate(ordered)]
    return path.is_file() and read_result(path, "result") == ours


def _file_hash(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()

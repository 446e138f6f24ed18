"""Results at the paths and in the form of T2I-CompBench's official scripts, and its 3-in-1 score.

A result is a list of `{"question_id": ..., "answer": ...}` in the order of the images. BLIP-VQA, CLIPScore and the
3-in-1 score number the images by their place in that order, UniDet's scripts by the number in the file's name.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from types import MappingProxyType
from typing import Any

from lmlangevin.core.errors import LMLError
from lmlangevin.evaluation.compbench.files import read_result
from lmlangevin.evaluation.compbench.layout import Sample, sampler_folder
from lmlangevin.evaluation.compbench.prompts import ComplexKinds, complex_key
from lmlangevin.files import write_text


@dataclass(frozen=True)
class Metric:
    """A score of T2I-CompBench.

    Args:
        name: what it is called here.
        files: where its result may lie in a sampler folder, the current official path first.
        by_index: whether images are numbered by their file names.
        script: what makes it.
        mean_file: the text file of the mean, and what stands before the number; for scores that are made here.
    """

    name: str
    files: tuple[str, ...]
    by_index: bool
    script: str
    mean_file: tuple[str, str] = ("", "")


METRICS: Mapping[str, Metric] = MappingProxyType(
    {
        metric.name: metric
        for metric in (
            Metric(
                name="blip",
                files=("annotation_blip/vqa_result.json",),
                by_index=False,
                script="lml compbench score, or the official BLIPvqa_eval/BLIP_vqa.py",
                mean_file=("annotation_blip/blip_vqa_score.txt", "BLIP-VQA score:"),
            ),
            Metric(
                name="clip",
                files=("annotation_clip/vqa_result.json",),
                by_index=False,
                script="the official CLIPScore_eval/CLIP_similarity.py",
            ),
            Metric(
                name="unidet-2d",
                files=(
                    "labels/annotation_obj_detection_2d/vqa_result.json",
                    "labels/annotation_obj_detection/vqa_result.json",  # until March 2024
                    "annotation_obj_detection/vqa_result.json",  # where the 3-in-1 script of that time looked
                ),
                by_index=True,
                script="the official UniDet_eval/2D_spatial_eval.py",
            ),
            Metric(
                name="unidet-3d",
                files=("labels/annotation_obj_detection_3d/vqa_result.json",),
                by_index=True,
                script="the official UniDet_eval/3D_spatial_eval.py",
            ),
            Metric(
                name="numeracy",
                files=("annotation_num/vqa_result.json",),
                by_index=True,
                script="the official UniDet_eval/numeracy_eval.py",
            ),
            Metric(
                name="3-in-1",
                files=("annotation_3_in_1/vqa_result.json",),
                by_index=False,
                script="lml compbench three-in-one, or the official 3_in_1_eval/3_in_1.py",
                mean_file=("annotation_3_in_1/vqa_score.txt", "score avg:"),
            ),
        )
    }
)
"""The scores by name, read-only."""

METRIC_OF: Mapping[str, str] = MappingProxyType(
    {
        "color": "blip",
        "shape": "blip",
        "texture": "blip",
        "spatial": "unidet-2d",
        "3d_spatial": "unidet-3d",
        "non_spatial": "clip",
        "numeracy": "numeracy",
        "complex": "3-in-1",
    }
)
"""Which score a category is reported by."""


def find_metric(name: str) -> Metric:
    """Return a score.

    Raises:
        LMLError: there is none of that name.
    """
    if name not in METRICS:
        raise LMLError(f"metric {name!r}: unknown; give one of {', '.join(METRICS)}")
    return METRICS[name]


def read_scores(folder: str | Path, metric: str, samples: Sequence[Sample]) -> tuple[float, ...]:
    """Read the scores of a sampler's images, whoever made them.

    Args:
        folder: a sampler folder.
        metric: a name of `METRICS`.
        samples: its images, from `read_samples`.

    Returns:
        One score for each image, in the order of `samples`.

    Raises:
        LMLError: an unknown metric, a result that is not there or cannot be read, or one of other images.
    """
    chosen, home = find_metric(metric), sampler_folder(folder)
    path = next((home / name for name in chosen.files if (home / name).is_file()), None)
    if path is None:
        raise LMLError(f"folder {str(folder)!r}: has no {chosen.files[0]}; run {chosen.script} first")
    where = f"result {str(path)!r}"
    found = _parse(read_result(path, "result"), where)
    wanted = [sample.index for sample in samples] if chosen.by_index else list(range(len(samples)))
    if sorted(found) != sorted(wanted):
        raise LMLError(
            f"{where}: has {len(found)} answers that are not those of the {len(wanted)} images; run {chosen.script}"
        )
    return tuple(found[identity] for identity in wanted)


def _parse(content: Any, where: str) -> dict[int, float]:
    try:
        rows = [(int(row["question_id"]), float(row["answer"])) for row in content]
    except (TypeError, KeyError, ValueError, OverflowError) as error:
        raise LMLError(f"{where}: is no list of question_id and answer; make it again") from error
    found = dict(rows)
    if len(found) < len(rows) or not all(math.isfinite(answer) for answer in found.values()):
        raise LMLError(f"{where}: has an image twice, or an answer that is no number; make it again")
    return found


def write_scores(folder: Path, metric: str, answers: Sequence[str | float]) -> Path:
    """Write a result as the official script writes it, and the text file of its mean first.

    Args:
        folder: a sampler folder.
        metric: `"blip"` or `"3-in-1"`.
        answers: one for each image, in their order; as text where the script writes text.

    Returns:
        The file of the result.
    """
    chosen = METRICS[metric]
    name, words = chosen.mean_file
    path = folder / chosen.files[0]
    write_text(folder / name, f"{words}{fmean(map(float, answers))}")
    rows = [{"question_id": place, "answer": answer} for place, answer in enumerate(answers)]
    write_text(path, json.dumps(rows))
    return path


def three_in_one(folder: str | Path, samples: Sequence[Sample], kinds: ComplexKinds) -> tuple[float, ...]:
    """Compute the 3-in-1 score of the category complex from the three results in a folder, and write it there.

    The attributes are BLIP-VQA's, the spatial relation is UniDet's (2D) and the action CLIPScore's. A prompt with a
    spatial relation has the mean of the first two, one with an action that of BLIP-VQA and CLIPScore, and every other
    prompt the mean of all three.

    Args:
        folder: a sampler folder.
        samples: its images, from `read_samples`.
        kinds: which prompt is of which kind.

    Returns:
        One score for each image, in the order of `samples`.

    Raises:
        LMLError: prompts that are none of the category, or a result that is not there or of other images.
    """
    keys = [complex_key(sample.prompt) for sample in samples]
    odd = [sample.prompt for sample, key in zip(samples, keys, strict=True) if key not in kinds.all]
    if odd:
        raise LMLError(
            f"folder {str(folder)!r}: {odd[0]!r} is no prompt of the category complex; give a folder of that category"
        )
    home = sampler_folder(folder)
    parts = (read_scores(home, metric, samples) for metric in ("blip", "unidet-2d", "clip"))
    scores = []
    for key, attribute, spatial, action in zip(keys, *parts, strict=True):
        if key in kinds.spatial:
            scores.append((spatial + attribute) * 0.5)
        elif key in kinds.action:
            scores.append((action + attribute) * 0.5)
        else:
            scores.append((attribute + spatial + action) / 3)
    write_scores(home, "3-in-1", scores)
    return tuple(scores)

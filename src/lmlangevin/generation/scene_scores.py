"""The scores of a job on the scenes models: what the reader sees in its images, against their prompts."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from lmlangevin.generation.images import read_png
from lmlangevin.generation.manifest import image_name, run_names
from lmlangevin.scenes.models import SCENES

if TYPE_CHECKING:
    from lmlangevin.generation.config import GenerateConfig
    from lmlangevin.generation.store import Store

SHOWN = ("colour", "shape", "texture", "spatial", "complete")
_CHUNK = 256


def unknown_word_note(model: str, texts: Iterable[str]) -> str | None:
    """Return a warning of the words of prompts that the scenes models never saw; None where there are none.

    Args:
        model: Name of the model; others than the scenes models are not warned of.
        texts: The prompts.
    """
    if model not in SCENES:
        return None
    from lmlangevin.scenes import COLOURS, RELATIONS, SHAPES, TEXTURES, unknown_words

    words = list(dict.fromkeys(word for text in texts for word in unknown_words(text)))
    if not words:
        return None
    return (
        f"model={model!r} never saw the word{'s' * (len(words) > 1)} {', '.join(words)}. It knows the shapes "
        f"{', '.join(SHAPES)}; the colours {', '.join(COLOURS)}; the textures {', '.join(TEXTURES)}; and "
        f"{', '.join(RELATIONS)}."
    )


def score_runs(config: GenerateConfig, store: Store) -> dict[str, Any] | None:
    """Score the images of a job as they are on disk.

    Args:
        config: The job, all of whose images are finished.
        store: Where it lies.

    Returns:
        For each run the mean of each score, and for a comparison the paired difference of `lml` and `plain` with a
        95% bootstrap interval over prompts. None where the model draws no scenes, or no prompt can be read.
    """
    if config.model not in SCENES:
        return None
    from lmlangevin.scenes import parse_prompt

    requests = {i: parse_prompt(config.prompt_of(i) or "") for i in range(config.count)}
    ids = [i for i, request in requests.items() if request is not None]
    if not ids:
        return None
    found = {run: _scores(store, run, [(i, requests[i]) for i in ids]) for run in run_names(config)}
    result: dict[str, Any] = {
        "images": len(ids),
        "runs": {run: {name: _mean(values[name]) for name in SHOWN} for run, values in found.items()},
    }
    if config.compare:
        result["difference"] = {name: _paired(config, ids, found["plain"][name], found["lml"][name]) for name in SHOWN}
    return result


def score_lines(scores: dict[str, Any]) -> list[str]:
    """Return the scores as lines of text, one a run, and one for the paired difference."""
    lines = []
    for run, values in scores["runs"].items():
        words = [f"{name} {100 * value:.1f}%" for name, value in values.items() if value is not None]
        lines.append(f"{run}: right in {', '.join(words)} ({scores['images']} images)")
    words = []
    for name, value in scores.get("difference", {}).items():
        if value is not None:
            low, high = value["interval"]
            words.append(f"{name} {100 * value['difference']:+.1f} [{100 * low:+.1f}, {100 * high:+.1f}]")
    return lines + ([f"difference lml - plain, points with 95% interval: {', '.join(words)}"] if words else [])


def _scores(store: Store, run: str, requests: list[tuple[int, Any]]) -> dict[str, list[float | None]]:
    import numpy as np
    import torch

    from lmlangevin.scenes import read_scenes, score_scene

    result: dict[str, list[float | None]] = {name: [] for name in SHOWN}
    for start in range(0, len(requests), _CHUNK):
        part = requests[start : start + _CHUNK]
        names = [image_name(run, index) for index, _ in part]
        rows = list(store.read_each(names, lambda name, data: np.asarray(read_png(data or b""))))
        images = torch.from_numpy(np.stack(rows)).permute(0, 3, 1, 2).float() / 127.5 - 1
        for seen, (_, request) in zip(read_scenes(images), part, strict=True):
            score = score_scene(seen, request)
            for name in SHOWN:
                result[name].append(getattr(score, name))
    return result


def _mean(values: list[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def _paired(
    config: GenerateConfig, ids: list[int], plain: list[float | None], lml: list[float | None]
) -> dict[str, Any] | None:
    """Return the difference of two runs over prompts, or over images where all have one prompt."""
    from lmlangevin.evaluation.compbench.bootstrap import paired_difference

    sides: tuple[dict[str, list[float]], ...] = ({}, {})
    for index, *values in zip(ids, plain, lml, strict=True):
        key = str(config.prompt_of(index)) if config.prompts is not None else str(index)
        for side, value in zip(sides, values, strict=True):
            if value is not None:
                side.setdefault(key, []).append(value)
    if len(sides[0]) < 2:
        return None
    a, b = ({key: sum(found) / len(found) for key, found in side.items()} for side in sides)
    return paired_difference(a, b).as_dict()

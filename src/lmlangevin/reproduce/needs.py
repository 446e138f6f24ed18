"""What a run needs, each with a tick or with what is missing and how to get it. Nothing is written here."""

from __future__ import annotations

import importlib.util
import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from lmlangevin.core.errors import LMLError
from lmlangevin.install import install_hint
from lmlangevin.reproduce import data
from lmlangevin.reproduce.plan import BLIP, Plan
from lmlangevin.reproduce.preset import DRY_RUN

if TYPE_CHECKING:
    from lmlangevin.evaluation.compbench.blip import Blip
    from lmlangevin.evaluation.compbench.chunks import Chunker

_PNG_SHARE = 0.75
"""Bytes of a PNG file of a photograph for each byte of its pixels, at most."""


@dataclass(frozen=True)
class Need:
    """One thing that a run needs, or a fact about it.

    Attributes:
        what: What it is.
        state: `"there"`, `"missing"`, or `"fact"` for what is only told.
        detail: What was found.
        remedy: What to do where it is missing.
    """

    what: str
    state: Literal["there", "missing", "fact"]
    detail: str
    remedy: str = ""


def check(plan: Plan, *, blip: Blip | None = None, chunker: Chunker | None = None) -> list[Need]:
    """Find out what of a run's needs is there.

    Args:
        plan: The run.
        blip: A BLIP that is there already.
        chunker: A chunker that is there already.
    """
    needs = [*_model(plan), *_data(plan), *_measure(plan, blip, chunker)]
    needs.append(_found("pictures", "matplotlib", _matplotlib))
    if all(need.state != "missing" for need in needs if need.what.startswith("model")):
        needs.append(_found("settings", f"{len(plan.cells)} jobs of lml generate", lambda: _settings(plan)))
    return [*needs, _disk(plan), *_work(plan)]


def refusal(plan: Plan, needs: list[Need]) -> str | None:
    """Return the sentence that names everything that is missing, None where nothing is."""
    lost = [f"{need.what} ({need.detail}; {need.remedy})" for need in needs if need.state == "missing"]
    return f"reproduce {plan.preset.name}: missing is {'; '.join(lost)}." if lost else None


def _found(what: str, detail: str, look: Callable[[], str | None]) -> Need:
    """Return a need that is there unless looking for it raises; what looking returns is told in place of `detail`."""
    try:
        return Need(what, "there", look() or detail)
    except LMLError as error:
        problem, _, remedy = str(error).rstrip(".").rpartition("; ")
        return Need(what, "missing", problem or remedy, remedy if problem else "see what it says")


# The model ----------------------------------------------------------------------------------------------------------


def _model(plan: Plan) -> Iterator[Need]:
    preset = plan.preset
    hint = f"--model-dir FOLDER, from 'hf download {preset.published} --local-dir FOLDER'"
    if plan.model is None:
        built_in = "".join(f"--model {name}, or " for name in plan.offered)
        yield Need("model", "missing", f"{preset.model}: none given", f"give {built_in}{hint}")
        return
    if plan.built_in:
        yield Need("model", "there", f"{plan.model}, which comes with the package")
        return
    index = _index(plan)
    if isinstance(index, str):
        yield Need("model", "missing", index, f"give {hint}")
        return
    family = str(index.get("_class_name", ""))
    if family not in preset.classes:
        wanted = " or ".join(preset.classes)
        yield Need("model", "missing", f"{plan.model_name} is a {family or 'folder of something else'}, no {wanted}",
                   f"give {hint}")  # fmt: skip
        return
    yield Need("model", "there", f"{plan.model_name}, a {family}")
    if any(index.get("safety_checker") or ()):
        yield Need(
            "model without a safety checker",
            "missing",
            "its safety checker paints images black, which would be measured",
            'write "safety_checker": [null, null] into its model_index.json',
        )
    if plan.controlnet is not None and plan.config.controlnet is None:
        yield Need("model's ControlNet", "fact", f"{plan.controlnet} from the hub, or give --controlnet FOLDER")


def _index(plan: Plan) -> dict[str, Any] | str:
    """Return what a model says of itself, or what is wrong with it in words."""
    if plan.config.model_dir is not None:
        from lmlangevin.generation.model_folder import check_model_folder

        try:
            check_model_folder(plan.config.model_dir)
        except LMLError as error:
            return str(error).partition("; ")[0]
        path = plan.config.model_dir / "model_index.json"
    else:
        from huggingface_hub import hf_hub_download

        try:
            path = Path(hf_hub_download(str(plan.model), "model_index.json"))
        except Exception as error:  # the hub's client raises what its libraries raise
            reason = " ".join(str(error).split())[:120]
            return f"{plan.model} cannot be had from the hub ({reason})"
    return json.loads(path.read_text(encoding="utf-8"))


# Data and measure ---------------------------------------------------------------------------------------------------


def _data(plan: Plan) -> Iterator[Need]:
    preset = plan.preset
    if plan.config.dry_run and (plan.config.data_dir is None or not preset.prompts):
        yield Need("data", "fact", "a dry run has stand-ins for prompts, pictures and the reference")
        return
    if preset.reference and not plan.config.dry_run:
        yield _found("reference", preset.reference, lambda: f"{preset.reference}: {data.find_reference(plan)}")
    for category in preset.categories or ("",) if preset.prompts else ():
        what = f"prompts {category}".strip()
        yield _found(what, "", lambda c=category: f"{preset.prompt_count} from {data.find_prompts(plan, c).file}")
        if preset.controlnet:
            yield _found(
                f"control pictures {category}",
                "",
                lambda c=category: f"{preset.prompt_count} in {data.find_control(plan, c)[0].parent}",
            )


def _measure(plan: Plan, blip: Blip | None, chunker: Chunker | None) -> Iterator[Need]:
    if plan.preset.measure == "fid":
        if plan.preset.protocol == DRY_RUN:
            yield Need("measure", "fact", "a stand-in extractor; its distances mean nothing")
        else:
            yield _found("measure", "", lambda: _extractor(plan))
        return
    if blip is None:
        yield _found("BLIP", "", lambda: _blip(plan.config.blip_model or BLIP))
    if chunker is None and plan.config.dry_run:
        yield Need("noun chunks", "fact", 'a stand-in that splits prompts at " and "')
    elif chunker is None:
        yield _found("noun chunks", "", _spacy)


def _extractor(plan: Plan) -> str:
    import torch

    from lmlangevin.evaluation.extractors import WEIGHTS_FILE, WEIGHTS_URL, load_extractor

    weights = plan.config.inception_weights
    if plan.protocol.extractor == "inception" and weights is None:
        if not (Path(torch.hub.get_dir()) / "checkpoints" / WEIGHTS_FILE).is_file():
            raise LMLError(
                f"protocol {plan.protocol.name}: the weights of Inception are not here; download {WEIGHTS_URL} and "
                "give --inception-weights FILE"
            )
    loaded = load_extractor(plan.protocol, inception_weights=weights, device=plan.config.device)
    return f"protocol {plan.protocol.name}, {loaded.extractor}"


def _blip(source: str) -> str:
    folder = Path(source)
    remedy = f"give --blip-model FOLDER, from 'hf download {BLIP} --local-dir FOLDER'"
    if folder.is_dir():
        lost = [name for name in ("config.json", "model.safetensors") if not (folder / name).is_file()]
        if lost:
            raise LMLError(f"blip_model {source!r}: lacks {' and '.join(lost)}; {remedy}")
        return source
    from huggingface_hub import hf_hub_download

    try:
        hf_hub_download(source, "config.json")
    except Exception as error:  # the hub's client raises what its libraries raise
        reason = " ".join(str(error).split())[:120]
        raise LMLError(f"blip_model {source!r}: cannot be had from the hub ({reason}); {remedy}") from error
    return f"{source} from the hub"


def _spacy() -> str:
    from lmlangevin.evaluation.compbench.chunks import SpacyChunker

    return SpacyChunker().name


def _matplotlib() -> None:
    if importlib.util.find_spec("matplotlib") is None:
        raise LMLError(f"matplotlib is not installed; {install_hint('bench')}")


def _settings(plan: Plan) -> None:
    for cell in plan.cells:
        plan.job(cell, None)


# Disk and time ------------------------------------------------------------------------------------------------------


def _disk(plan: Plan) -> Need:
    preset = plan.preset
    images = sum(len(cell.arms) for cell in _left(plan)) * preset.num_images
    needed = images * preset.resolution**2 * 3 * _PNG_SHARE
    place = plan.out.absolute()
    while not place.exists():
        place = place.parent
    free = shutil.disk_usage(place).free
    detail = f"{_bytes(needed)} for {images:,} images, {_bytes(free)} free at {place}"
    if needed > free:
        return Need("disk space", "missing", detail, "give --out on a larger disk, fewer --num-images, or a subset")
    return Need("disk space", "there", detail)


def _work(plan: Plan) -> Iterator[Need]:
    left = _left(plan)
    spent = sum(map(plan.evaluations, left))
    done = "" if len(left) == len(plan.cells) else f" that are left of {len(plan.cells)}"
    yield Need("work", "fact", f"{len(left)} cells{done}, {spent:,} network evaluations of one image")
    rate = _rate(plan)
    if rate is None:
        yield Need("time", "fact", "not known before the first cell is done; ask again with --check then")
    else:
        yield Need("time", "fact", f"about {_duration(spent / rate)} at the {rate:.0f} evaluations a second so far")


def _left(plan: Plan) -> list[Any]:
    done = set() if plan.config.overwrite else set(_earlier(plan).get("cells", {}))
    return [cell for cell in plan.cells if cell.key not in done]


def _rate(plan: Plan) -> float | None:
    """Return the evaluations a second of the cells that are done in the folder."""
    rows = [arm for cell in _earlier(plan).get("cells", {}).values() for arm in cell["arms"].values()]
    count = plan.preset.num_images * sum(arm["nfe"] + arm["guidance_evaluations"] for arm in rows)
    seconds = sum(arm["seconds"] for arm in rows)
    return count / seconds if seconds else None


def _earlier(plan: Plan) -> dict[str, Any]:
    from lmlangevin.reproduce.record import RESULT, read_result

    path = plan.out / RESULT
    try:
        return read_result(path) if path.is_file() else {}
    except LMLError:  # told where the run would start
        return {}


def _bytes(count: float) -> str:
    for unit in ("bytes", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"


def _duration(seconds: float) -> str:
    minutes = seconds / 60
    if minutes < 1:
        return f"{seconds:.0f} s"
    return f"{minutes:.0f} min" if minutes < 90 else f"{minutes / 60:.1f} h"

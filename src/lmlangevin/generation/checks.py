"""What settings are checked against before any work is done: models, devices and choices by name."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from lmlangevin.core.errors import LMLError
from lmlangevin.generation.model_folder import check_model_folder
from lmlangevin.scenes.models import SCENES, scenes_there

BUILT_IN = ("embedded", "analytic-cifar10")
"""Unconditional pixel models that come with the package."""

_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")


def flow_mismatch(scheduler: str, model: str, *, flow_model: bool) -> str:
    """Return the sentence that refuses a sampler of the wrong kind for a model."""
    if flow_model:
        return (
            f"scheduler={scheduler!r} samples models that predict noise, and model={model!r} predicts a flow velocity; "
            "give --scheduler flow-euler."
        )
    return (
        f"scheduler={scheduler!r} samples flow-matching models, and model={model!r} predicts noise; give --scheduler "
        "ddim, dpmpp-2m or unipc, or --model analytic-cifar10, which has a flow."
    )


def offered_models() -> tuple[str, ...]:
    """Return the names of the models that lie in this copy of the package, text to image first."""
    return (*scenes_there(), *BUILT_IN)


def check_model(model: str) -> None:
    """Refuse a model that is no built-in one, no folder of a pipeline and no hub id; nothing is loaded.

    Raises:
        LMLError: For such a name, or a folder that cannot be loaded.
    """
    if model in offered_models():
        return
    if model in SCENES:
        raise LMLError(
            f"model={model!r} does not lie in this copy of the package; give one of {', '.join(offered_models())}."
        )
    folder = Path(model)
    if folder.is_dir():
        check_model_folder(folder)
    elif not _HUB_ID.fullmatch(model):
        raise LMLError(
            f"model={model!r} is unknown; give {', '.join(offered_models())}, the folder of a diffusers pipeline, "
            "or a hub id such as owner/name."
        )


def check_choice(name: str, value: Any, choices: tuple[str, ...]) -> None:
    """Refuse a value that is none of the choices of an argument, with a line that lists them."""
    if value not in choices:
        raise LMLError(f"{name}={value!r} is unknown; give one of {', '.join(choices)}.")


def check_device(device: str) -> None:
    """Check that a device exists, before anything is loaded onto it.

    Raises:
        LMLError: For a name that is no device, or a device that is not there.
    """
    import torch

    match = re.fullmatch(r"(cpu|mps|cuda(?::(\d+))?)", device)
    if match is None:
        raise LMLError(f"device={device!r} is unknown; give cpu, cuda, cuda:N or mps.")
    if device.startswith("cuda"):
        if not torch.cuda.is_available():
            raise LMLError(f"device={device!r} is not there: torch finds no CUDA device; give --device cpu.")
        count = torch.cuda.device_count()
        if int(match.group(2) or 0) >= count:
            raise LMLError(f"device={device!r} is not there: torch finds {count} CUDA device(s); give --device cuda:0.")
    if device == "mps" and not torch.backends.mps.is_available():
        raise LMLError("device='mps' is not there: torch finds no Apple GPU; give --device cpu.")

"""The text-to-image pipelines that come with the package."""

from __future__ import annotations

from importlib import resources
from typing import Any

from lmlangevin.core.errors import LMLError

SCENES = ("scenes", "scenes-flow")
"""Text-to-image pipelines that come with the package."""


def model_source(model: str) -> str:
    """Return the folder or hub id that a model's name stands for."""
    return str(resources.files("lmlangevin") / "assets" / model) if model in SCENES else model


def load_pipeline(name: str = "scenes", **arguments: Any) -> Any:
    """Load a text-to-image pipeline that comes with the package, without a network.

    Args:
        name: `"scenes"`, a StableDiffusionPipeline, or `"scenes-flow"`, a StableDiffusion3Pipeline.
        arguments: For `DiffusionPipeline.from_pretrained`, such as `torch_dtype`.

    Returns:
        The pipeline, 64x64 images, with its progress bar off.

    Raises:
        LMLError: If there is none of that name.
    """
    from diffusers.pipelines.pipeline_utils import DiffusionPipeline

    if name not in SCENES:
        raise LMLError(f"name={name!r} is unknown; give one of {', '.join(SCENES)}.")
    pipe = DiffusionPipeline.from_pretrained(model_source(name), local_files_only=True, **arguments)
    pipe.set_progress_bar_config(disable=True)
    return pipe

"""The text-to-image pipelines that come with the package."""

from __future__ import annotations

from importlib import resources
from pathlib import Path
from typing import Any

from lmlangevin.core.errors import LMLError

SCENES = ("scenes", "scenes-flow")
"""Text-to-image pipelines that come with the package."""


def model_source(model: str) -> str:
    """Return the folder or hub id that a model's name stands for."""
    return str(resources.files("lmlangevin") / "assets" / model) if model in SCENES else model


def scenes_there() -> tuple[str, ...]:
    """Return those of `SCENES` whose weights lie in this copy of the package."""
    return tuple(name for name in SCENES if (Path(model_source(name)) / "model_index.json").is_file())


def load_pipeline(name: str = "scenes", **arguments: Any) -> Any:
    """Load a text-to-image pipeline that comes with the package, without a network.

    Args:
        name: `"scenes"`, a StableDiffusionPipeline, or `"scenes-flow"`, a StableDiffusion3Pipeline.
        arguments: For `DiffusionPipeline.from_pretrained`, such as `torch_dtype`.

    Returns:
        The pipeline, 64x64 images, with its progress bar off.

    Raises:
        LMLError: If there is none of that name in this copy of the package.
    """
    from diffusers.pipelines.pipeline_utils import DiffusionPipeline

    if name not in scenes_there():
        what = "does not lie in this copy of the package" if name in SCENES else "is unknown"
        raise LMLError(f"name={name!r} {what}; give one of {', '.join(scenes_there())}.")
    pipe = DiffusionPipeline.from_pretrained(model_source(name), local_files_only=True, **arguments)
    pipe.set_progress_bar_config(disable=True)
    return pipe

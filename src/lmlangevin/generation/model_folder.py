"""What a saved pipeline says of itself, read without loading it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

from lmlangevin.core.errors import LMLError
from lmlangevin.scenes.models import model_source


def check_model_folder(folder: Path) -> None:
    """Check that a folder is that of a saved pipeline, with every component that it names.

    Raises:
        LMLError: If it is none, or lacks one.
    """
    name = f"model={str(folder)!r}"
    try:
        index = json.loads((folder / "model_index.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise LMLError(
            f"{name} holds no model_index.json; give a folder written by a pipeline's save_pretrained."
        ) from None
    except (OSError, ValueError) as error:
        raise LMLError(f"{name} has a model_index.json that cannot be read ({error}); copy it again.") from error
    # A component is [library, class], or two nulls where the pipeline goes without it.
    parts = {key: value for key, value in index.items() if isinstance(value, list) and len(value) == 2 and all(value)}
    missing = [key for key in parts if not (folder / key).is_dir()]
    if missing:
        raise LMLError(f"{name} lacks {', '.join(missing)}, which its model_index.json names; copy the whole folder.")


class OwnSampler(NamedTuple):
    """The sampler that a model comes with.

    Attributes:
        name: See `lmlangevin.schedulers.names.find_scheduler`.
        config: The scheduler's configuration.
        pixels: Whether the model is a pixel network and a scheduler and nothing else.
    """

    name: str
    config: dict[str, Any]
    pixels: bool


def own_sampler(model: str) -> OwnSampler | None:
    """Return the sampler that a model comes with.

    Args:
        model: Folder of a saved pipeline, or a hub id, of which two small files are fetched.

    Returns:
        Its sampler; None where the model says nothing of one, or cannot be reached.

    Raises:
        LMLError: If diffusers does not have its scheduler.
    """
    from lmlangevin.generation.sampling import without_known_warnings
    from lmlangevin.schedulers.names import own_name

    config = _read(model, "scheduler/scheduler_config.json")
    if config is None:
        return None
    index = _read(model, "model_index.json") or {}
    # The index decides what is loaded.
    named = index.get("scheduler")
    name = named[1] if isinstance(named, list) and len(named) == 2 and named[1] else config.get("_class_name")
    with without_known_warnings():
        own = own_name(str(name).replace("LMLScheduler", "Scheduler"), config)
    return OwnSampler(own, config, {key for key in index if key[0] != "_"} == {"unet", "scheduler"})


def scheduler_of_folder(model: str) -> str | None:
    """Return the name of the sampler that a model comes with, None where it says nothing; see `own_sampler`."""
    own = own_sampler(model)
    return None if own is None else own.name


def _read(model: str, name: str) -> dict[str, Any] | None:
    """Return a JSON object of a model's folder or of the hub, None where there is none."""
    source = model_source(model)
    try:
        path = Path(source) / name if Path(source).is_dir() else Path(_from_hub(source, name))
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return content if isinstance(content, dict) else None


def _from_hub(model: str, name: str) -> str:
    """Return a file of the hub, from the cache where it is there."""
    from huggingface_hub import get_hf_file_metadata, hf_hub_download, hf_hub_url, try_to_load_from_cache

    try:
        cached = try_to_load_from_cache(model, name)
        if isinstance(cached, str):
            return cached
        # Asked for once: a download asks for a minute where nothing answers.
        get_hf_file_metadata(hf_hub_url(model, name), timeout=_PATIENCE)
        return hf_hub_download(model, name)
    except Exception as error:  # its client has other errors in every version
        raise FileNotFoundError(f"{name} of {model}") from error


_PATIENCE = 10
"""Seconds."""

"""Checkpoints that are distilled to a few steps, told by their configuration or their name."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lmlangevin.schedulers.calibrations import NETWORKS, unwrapped

_WORDS = ("schnell", "turbo", "lightning", "klein", "hyper", "lcm", "tcd", "dmd")
"""Words of names; each is looked for as a word of its own, so that a hyperrealist fine-tune is none."""

_PARTS = re.compile(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])")


def distilled_notice(pipe: Any, *names: str | None) -> str | None:
    """Return what a user is told of a model that is distilled to a few steps; None for any other model.

    Such a model jumps towards the end of its trajectory, and a curve between its predictions is not an error that LML
    was made to repair.

    Args:
        pipe: A diffusers pipeline.
        *names: Further names that may tell, such as the file of an adapter.
    """
    sign = _sign_of_configuration(pipe)
    if sign is None and _setting(pipe, "is_distilled") is None:
        sign = next((f"its name, {name!r}" for name in _names(pipe, names) if _tells(name)), None)
    if sign is None:
        return None
    return (
        f"The model of this {type(pipe).__name__} is distilled to a few steps, by {sign}. LML was not made for such "
        "models and may change their images for the worse: compare with the plain sampler."
    )


def _sign_of_configuration(pipe: Any) -> str | None:
    if _setting(pipe, "is_distilled"):
        return "is_distilled of its configuration"
    for network in _networks(pipe):
        if _setting(network, "time_cond_proj_dim") is not None:
            return "time_cond_proj_dim of its network"  # a consistency model's guidance
        fixed = _setting(network, "guidance_embeds") is False and not _setting(pipe.scheduler, "use_dynamic_shifting")
        if fixed and type(network).__name__ == "FluxTransformer2DModel":
            return "guidance_embeds of its network"  # schnell: the one that is not distilled shifts by the image's size
    return None


def _setting(part: Any, name: str) -> Any:
    config: Any = getattr(part, "config", None)
    return config.get(name) if hasattr(config, "get") else None


def _networks(pipe: Any) -> Iterator[Any]:
    for name in NETWORKS:
        network = getattr(pipe, name, None)
        if network is not None:
            yield unwrapped(network)


def _names(pipe: Any, given: tuple[str | None, ...]) -> Iterator[str]:
    for path in (*given, _setting(pipe, "_name_or_path"), *(_setting(n, "_name_or_path") for n in _networks(pipe))):
        if path:
            yield _name(str(path))
    for network in _networks(pipe):
        yield from getattr(network, "peft_config", None) or {}


def _name(path: str) -> str:
    """Return the name of a model: the last part of its hub id, or that of its folder, whoever owns it."""
    parts = list(Path(path).parts)
    for part in parts:
        if part.startswith("models--"):  # the hub's cache
            return part.rpartition("--")[2]
    if len(parts) > 1 and parts[-1] in NETWORKS:
        parts.pop()
    if len(parts) > 1 and Path(parts[-1]).suffix == ".safetensors":
        return f"{parts[-2]}/{parts[-1]}"  # adapters all have one file name
    return parts[-1] if parts else path


def _tells(name: str) -> bool:
    words = {word.lower() for word in _PARTS.findall(name)}
    # FLUX.2 Klein is there as a base model too.
    return any(word in words for word in _WORDS if not (word == "klein" and "base" in words))

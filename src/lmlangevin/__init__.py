"""Levenberg-Marquardt-Langevin (LML) sampling for diffusion models.

    import lmlangevin
    lmlangevin.apply_lml(pipe)            # any diffusers pipeline
    pipe(..., num_inference_steps=8)

The names of the core need torch alone; those that build on diffusers import it when they are first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from lmlangevin._version import __version__
from lmlangevin.core import LMLConfig, LMLError, LMLInfo, LMLState, correct, lm_direction

if TYPE_CHECKING:
    from lmlangevin.schedulers import apply_lml, remove_lml, with_lml

_SCHEDULER_NAMES = ("apply_lml", "remove_lml", "with_lml")

__all__ = [
    "LMLConfig",
    "LMLError",
    "LMLInfo",
    "LMLState",
    "__version__",
    "apply_lml",
    "correct",
    "lm_direction",
    "remove_lml",
    "with_lml",
]


def __getattr__(name: str) -> Any:
    if name in _SCHEDULER_NAMES:
        return getattr(importlib.import_module("lmlangevin.schedulers"), name)
    # diffusers loads a saved scheduler by importing the module its class names ("lmlangevin") and asks it for the
    # class and for the base class that tells how to load it.
    if name == "SchedulerMixin" or name.endswith("LMLScheduler"):
        return importlib.import_module("lmlangevin.schedulers").resolve(name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

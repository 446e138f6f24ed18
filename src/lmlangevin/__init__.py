"""Levenberg-Marquardt-Langevin (LML) sampling for diffusion models.

    import lmlangevin
    lmlangevin.apply_lml(pipe)            # any diffusers pipeline
    pipe(..., num_inference_steps=8)

Names are imported when they are first used: the core's need torch alone, those of schedulers diffusers as well, and
the command `lml --help` neither.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from lmlangevin._version import __version__

if TYPE_CHECKING:
    from lmlangevin.core import LMLConfig, LMLError, LMLInfo, LMLState, correct, lm_direction
    from lmlangevin.schedulers import apply_lml, remove_lml, with_lml

_CORE_NAMES = ("LMLConfig", "LMLError", "LMLInfo", "LMLState", "correct", "lm_direction")
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


_NAMED_SCHEDULERS = tuple(
    f"{base}LMLScheduler"
    for base in (
        "DDIM",
        "PNDM",
        "DPMSolverMultistep",
        "UniPCMultistep",
        "DEISMultistep",
        "EulerDiscrete",
        "FlowMatchEulerDiscrete",
    )
)


def __getattr__(name: str) -> Any:
    if name in _CORE_NAMES:
        return getattr(importlib.import_module("lmlangevin.core"), name)
    if name in _SCHEDULER_NAMES:
        return getattr(_schedulers(), name)
    # diffusers loads a saved scheduler by importing the module its class names ("lmlangevin") and asks it for the
    # class and for the base class that tells how to load it.
    if name == "SchedulerMixin" or name.endswith("LMLScheduler"):
        return _schedulers().resolve(name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*__all__, *_NAMED_SCHEDULERS])


def _schedulers() -> Any:
    try:
        return importlib.import_module("lmlangevin.schedulers")
    except ModuleNotFoundError as error:
        if error.name != "diffusers":
            raise
        from lmlangevin.install import install_hint

        raise ImportError(f"LML schedulers need diffusers; {install_hint('diffusers')}.") from error

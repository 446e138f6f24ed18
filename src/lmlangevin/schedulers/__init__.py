"""LML schedulers for diffusers: real subclasses of any base scheduler, made by `with_lml`."""

from lmlangevin.schedulers.factory import resolve, with_lml
from lmlangevin.schedulers.names import SCHEDULERS, SchedulerName, build_scheduler
from lmlangevin.schedulers.pipeline import apply_lml, remove_lml
from lmlangevin.schedulers.presets import Preset, find_preset, presets_version
from lmlangevin.schedulers.scheme import scheme_of

__all__ = [
    "SCHEDULERS",
    "Preset",
    "SchedulerName",
    "apply_lml",
    "build_scheduler",
    "find_preset",
    "presets_version",
    "remove_lml",
    "resolve",
    "scheme_of",
    "with_lml",
]

"""Levenberg-Marquardt-Langevin dynamics as a sampler in its own right. Imports the core and torch alone."""

from lmlangevin.langevin.geometry import isotropic, score_geometry, secant_geometry
from lmlangevin.langevin.kernel import (
    LangevinInfo,
    LangevinKernel,
    LangevinState,
    Target,
    init,
    log_acceptance,
    step,
)
from lmlangevin.langevin.sampler import LMLangevin
from lmlangevin.langevin.warmup import Trace, warm_up

__all__ = [
    "LMLangevin",
    "LangevinInfo",
    "LangevinKernel",
    "LangevinState",
    "Target",
    "Trace",
    "init",
    "isotropic",
    "log_acceptance",
    "score_geometry",
    "secant_geometry",
    "step",
    "warm_up",
]

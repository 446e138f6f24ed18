"""The method: pure functions and small frozen values on tensors of any event shape. Imports torch alone."""

from lmlangevin.core.adaptive import (
    LARGEST_FLOW_SIGMA,
    Adapted,
    AdaptiveConstants,
    AdaptiveState,
    adapt,
    flow_log_ratio,
    run_trust,
)
from lmlangevin.core.config import LMLConfig
from lmlangevin.core.correction import LMLInfo, LMLState, correct, lm_direction
from lmlangevin.core.damping import Damping, History, controller_names, load_controller, register_controller
from lmlangevin.core.errors import LMLError
from lmlangevin.core.operator import DampedLowRank
from lmlangevin.core.passes import sample_hash
from lmlangevin.core.scheduled import CalibratedSchedule, correct_scheduled
from lmlangevin.core.scheme import LinearScheme, run_scheme

__all__ = [
    "LARGEST_FLOW_SIGMA",
    "AdaptiveConstants",
    "AdaptiveState",
    "Adapted",
    "CalibratedSchedule",
    "DampedLowRank",
    "Damping",
    "History",
    "LMLConfig",
    "LMLError",
    "LMLInfo",
    "LMLState",
    "LinearScheme",
    "adapt",
    "controller_names",
    "correct",
    "correct_scheduled",
    "flow_log_ratio",
    "lm_direction",
    "load_controller",
    "register_controller",
    "run_scheme",
    "run_trust",
    "sample_hash",
]

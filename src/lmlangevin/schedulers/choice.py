"""Which control a sampler gets when nobody chooses one."""

from __future__ import annotations

import copy
from typing import Any

from lmlangevin.core import LMLError
from lmlangevin.core.damping import ADAPTIVE, CONSTANT
from lmlangevin.schedulers.factory import with_lml
from lmlangevin.schedulers.levels import draws_noise, run_levels

_PROBE_STEPS = 5


def default_control(plain: Any, *, measured: bool) -> str:
    """Return the control of a sampler for which neither a control nor a gain was given.

    Args:
        plain: A scheduler without LML.
        measured: Whether the model is of the kind that the adaptive control was measured on: unconditional, of pixels.
            Under strong guidance it can amplify errors, and a scheduler does not see the guidance.

    Returns:
        `"adaptive"` where that was measured and works; `"constant"`, whose gain is then the preset's, for another
        model, and for a scheduler that draws noise, clips its samples or hides its noise levels.
    """
    if not measured:
        return CONSTANT
    try:
        with_lml(type(plain)).from_config(plain.config, control=ADAPTIVE)  # which refuses settings
        probe = copy.deepcopy(plain)
        probe.set_timesteps(_PROBE_STEPS)
        run_levels(probe)
    except LMLError:
        return CONSTANT
    return CONSTANT if draws_noise(probe, type(plain).step, probe.timesteps) else ADAPTIVE

"""Which sampler, control and gain a pipeline gets when nobody chooses them."""

from __future__ import annotations

import copy
from typing import Any

from diffusers.schedulers.scheduling_ddim import DDIMScheduler
from diffusers.schedulers.scheduling_ddpm import DDPMScheduler

from lmlangevin.core import LMLError
from lmlangevin.core.damping import ADAPTIVE, CONSTANT
from lmlangevin.schedulers.factory import with_lml
from lmlangevin.schedulers.levels import draws_noise, run_levels
from lmlangevin.schedulers.presets import Preset, find_preset

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


def default_preset(plain: Any, *, measured: bool) -> Preset | None:
    """Return the gain of a sampler with the constant control for which none was given.

    Args:
        plain: A scheduler without LML.
        measured: Whether the model is of the kind that the presets were measured on: unconditional, of pixels.

    Returns:
        The preset of the sampler and its time grid, half of it where the model is of another kind. None where the
        sampler was not measured: it is then to be left as it is, since any gain could make images worse.
    """
    try:
        return find_preset(type(plain), plain.config, halved=not measured)
    except LMLError:
        return None


def sister_words(base: type, sister: type, *, keep: str) -> str:
    """Return what a user is told where `sister` takes a sampler's place, and what to give to keep the first one."""
    return (
        f"{base.__name__} draws noise in every step and no gain was measured for it, so that {sister.__name__}, which "
        f"samples the same model without noise, takes its place. Give {keep} to keep it."
    )


def measured_sister(base: type, config: Any) -> type | None:
    """Return the sampler that stands in for one that was not measured on unconditional pixel models.

    `DDPMScheduler` is what such models are trained with and saved with. It draws noise in every step, which takes
    hundreds of them; `DDIMScheduler` samples the same model without noise, in few steps, and was measured.

    Args:
        base: A diffusers scheduler class.
        config: Its configuration.

    Returns:
        `DDIMScheduler` for a `DDPMScheduler` whose model does not predict its variance too, which DDIM could not read;
        None for any other scheduler.
    """
    learned = str(config.get("variance_type", "")).startswith("learned")
    return DDIMScheduler if base is DDPMScheduler and not learned else None

"""One run of a sampler: what is known before its first step, and the correction of each.

In k-diffusion a model returns the denoised x0, and (x - x0) / sigma is the noise of x = x0 + sigma noise. Of a flow,
x = (1 - sigma) x0 + sigma noise, the same quotient is the velocity noise - x0. Both are dx/dsigma, which is what the
core corrects with y = x and s = sigma, so the two kinds of models differ in one thing alone: how much noise there is
to a signal at a level, which the adaptive control asks for.
"""

from __future__ import annotations

import functools
import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from lmlangevin.core import (
    AdaptiveState,
    LMLError,
    LMLInfo,
    LMLState,
    adapt,
    correct,
    correct_scheduled,
    flow_log_ratio,
    run_trust,
)
from lmlangevin.core.damping import ADAPTIVE
from lmlangevin.samplers.options import DPMPP_2M, Settings, read_options

logger = logging.getLogger("lmlangevin")

_DEEPEST_WRAPPER = 16
"""How many `inner_model`s are looked into; ComfyUI has two above the one that knows."""


class Step(NamedTuple):
    """What a solver makes its step from.

    Attributes:
        x: Where it steps from, (batch, *event).
        n: dx/dsigma there, corrected.
        denoised: The x0 that n stands for, x - sigma n.
    """

    x: Tensor
    n: Tensor
    denoised: Tensor


class RunState(NamedTuple):
    """What is remembered between the steps of one run; `RunState()` starts one."""

    lml: LMLState = LMLState()
    adaptive: AdaptiveState = AdaptiveState()


@dataclass(frozen=True)
class Plan:
    """What is known of a run before its first step.

    Attributes:
        settings: The caller's options.
        sigmas: (steps + 1,), float32 or wider, where the caller has them.
        levels: The same as numbers on the host.
        logs: Logarithms of the noise-to-signal ratios of the levels that the model is called at.
        trust: The share of every defect that the adaptive control corrects.
        mask: ComfyUI's denoise mask, 1 where the image is made and 0 where it is kept; None for all of it.
    """

    settings: Settings
    sigmas: Tensor
    levels: tuple[float, ...]
    logs: tuple[float, ...]
    trust: float
    mask: Tensor | None


def plan_run(
    sampler: str, model: Any, x: Tensor, sigmas: Tensor, extra_args: Mapping[str, Any], options: Mapping[str, Any]
) -> Plan:
    """Check everything that a sampler was given, and read the sigmas: the one time that a run waits for a device.

    Raises:
        LMLError: If something does not fit; the model was not called yet.
    """
    if not callable(model):
        raise LMLError(f"model is a {type(model).__name__}; give a callable, model(x, sigma) -> denoised.")
    if not isinstance(x, Tensor) or not x.is_floating_point() or x.ndim < 2:
        raise LMLError(f"x is {_described(x)}; give a floating-point tensor of shape (batch, *event).")
    levels = read_levels(sigmas)
    settings = read_options(sampler, options, levels)
    flow = is_flow(model) if settings.flow is None else settings.flow
    logs = tuple(log_ratio(level, flow=flow) for level in levels[:-1])
    trust = run_trust([math.exp(log) for log in logs])
    if settings.config.control == ADAPTIVE and trust == 0:
        _notice(
            f"The adaptive control leaves a run of {len(levels) - 1} steps as it is: with these sigmas some are too "
            "long for it to judge, or all so short that little is missed. Give other sigmas, or a gain."
        )
    if settings.defaulted and sampler == DPMPP_2M:
        _notice(
            f"{sampler} without options is the plain sampler: no constant gain was found that helps DPM-Solver++(2M) "
            "with every choice of sigmas. Give gain=, or control='adaptive'."
        )
    mask = extra_args.get("denoise_mask")
    mask = mask.to(x.device, torch.promote_types(x.dtype, torch.float32)) if isinstance(mask, Tensor) else None
    wide = torch.promote_types(sigmas.dtype, torch.float32)
    return Plan(settings, sigmas.to(wide), levels, logs, trust, mask)


def read_levels(sigmas: Tensor) -> tuple[float, ...]:
    """Return the sigmas as numbers.

    Raises:
        LMLError: Unless they are two or more finite numbers that fall, to 0 or above it.
    """
    if not isinstance(sigmas, Tensor) or not sigmas.is_floating_point() or sigmas.ndim != 1:
        raise LMLError(f"sigmas is {_described(sigmas)}; give a floating-point tensor of shape (steps + 1,).")
    levels = tuple(float(value) for value in sigmas.tolist())
    if len(levels) < 2:
        raise LMLError(f"sigmas has {len(levels)} values; give one a step and the one to end at, two or more.")
    for i, level in enumerate(levels):
        if not math.isfinite(level) or level < 0:
            raise LMLError(f"sigmas[{i}] is {level!r}; give finite values of 0 or above.")
    for i, (high, low) in enumerate(zip(levels[:-1], levels[1:], strict=True)):
        if not high > low:
            raise LMLError(f"sigmas[{i + 1}] is {low!r} after {high!r}; give values that fall at every step.")
    return levels


def is_flow(model: Any) -> bool:
    """Return whether ComfyUI samples this model as a flow.

    Its samplers are given wrappers round the model, each with the next as `inner_model`; the model has
    `model_sampling`, an object whose class is derived from `CONST` if it is a flow. Told by that name, so that ComfyUI
    need not be imported; other models are none unless the caller says so.
    """
    for _ in range(_DEEPEST_WRAPPER):
        sampling = getattr(model, "model_sampling", None)
        if sampling is not None:
            return any(parent.__name__ == "CONST" for parent in type(sampling).__mro__)
        model = getattr(model, "inner_model", None)
    return False


def log_ratio(level: float, *, flow: bool) -> float:
    """Return the logarithm of the noise-to-signal ratio at a level above 0."""
    return flow_log_ratio(level) if flow else math.log(level)


def correct_step(plan: Plan, i: int, x: Tensor, denoised: Tensor, state: RunState) -> tuple[Step, RunState]:
    """Correct what the model returned at step i.

    Args:
        plan: The run.
        i: The step, from 0.
        x: What the model was called with, (batch, *event), float32 or wider.
        denoised: What it returned, likewise.
        state: What the step before returned, `RunState()` on the first.

    Returns:
        The step, whose tensors are those given where nothing was corrected, and the next state. Nothing is read back
        from the device.
    """
    n = (x - denoised) / plan.sigmas[i]
    if plan.settings.config.control == ADAPTIVE:
        moved, shift, state, info = _adapted(plan, i, n, x, state)
    else:
        moved, shift, state, info = _turned(plan, i, n, state)
    if plan.settings.record is not None:
        plan.settings.record.append(info)
    if moved is None:
        return Step(x, n, denoised), state
    x = x if shift is None else x + shift
    return Step(x, moved, x - plan.sigmas[i] * moved), state


_Corrected = tuple[Tensor | None, Tensor | None, RunState, LMLInfo]
"""The corrected n (None: as it was), what x moves by (None: not at all), the next state, and what was done."""


def _turned(plan: Plan, i: int, n: Tensor, state: RunState) -> _Corrected:
    """Correct by the constant or the calibrated control."""
    # What is kept of an image by an inpainting mask must neither be changed nor weigh in the direction of the rest.
    seen = n if plan.mask is None else n * plan.mask
    if plan.settings.schedule is not None:
        d, lml, info = correct_scheduled(seen, state.lml, plan.settings.schedule, i)
    else:
        d, lml, info = correct(seen, state.lml, plan.settings.config)
    state = state._replace(lml=lml)
    if d is seen:
        return None, None, state, info
    return (d if plan.mask is None else n + (d - seen)), None, state, info


def _adapted(plan: Plan, i: int, n: Tensor, x: Tensor, state: RunState) -> _Corrected:
    """Correct by the adaptive control, which also moves x.

    A mask needs no care before the correction: what it keeps has a constant denoised value, whose trajectory is
    straight and has no defect. Nobody but the solver moves x between the steps (ComfyUI masks a copy of it, inside
    the model), so that no sample is ever another's doing.
    """
    last = i + 2 == len(plan.levels)
    adapted = adapt(
        n,
        x,
        plan.levels[i],
        0.0 if last else plan.levels[i + 1],
        state.adaptive,
        log=plan.logs[i],
        trust=plan.trust,
    )
    state = state._replace(adaptive=adapted.state)
    moved, shift = adapted.prediction, adapted.shift
    if plan.mask is not None and moved is not None and shift is not None:
        moved, shift = n + (moved - n) * plan.mask, shift * plan.mask
    return moved, shift, state, adapted.info


@functools.cache
def _notice(text: str) -> None:
    """Say why images are those of the plain sampler; the same words once a process."""
    logger.warning(text)


def _described(value: Any) -> str:
    if isinstance(value, Tensor):
        return f"a {value.dtype} tensor of shape {tuple(value.shape)}"
    if isinstance(value, Sequence) and not isinstance(value, str):
        return f"a {type(value).__name__} of {len(value)}"
    return f"a {type(value).__name__}"

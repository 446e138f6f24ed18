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
from collections.abc import Callable, Mapping, Sequence
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
    sample_hash,
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
    """What is remembered between the steps of one run; `RunState()` starts one.

    Attributes:
        lml: The history of the constant and the calibrated control.
        adaptive: That of the adaptive control.
        masks: The masks of the predictions in that history, newest first; at least the last step's.
    """

    lml: LMLState = LMLState()
    adaptive: AdaptiveState = AdaptiveState()
    masks: tuple[Tensor, ...] = ()


Mask = Callable[[Tensor], Tensor]
"""The mask of a step from its sigmas, (batch,): 1 where the image is made and 0 where it is kept, of a shape that
broadcasts to x's."""


@dataclass(frozen=True)
class Plan:
    """What is known of a run before its first step.

    Attributes:
        settings: The caller's options.
        indices: Which of the caller's sigmas each step starts from.
        sigmas: (steps + 1,), without repeats, float32 or wider, where the caller has them.
        levels: The same as numbers on the host.
        logs: Logarithms of the noise-to-signal ratios of the levels that the model is called at.
        trust: The share of every defect that the adaptive control corrects.
        mask: ComfyUI's denoise mask; None where all of the image is made.
    """

    settings: Settings
    indices: tuple[int, ...]
    sigmas: Tensor
    levels: tuple[float, ...]
    logs: tuple[float, ...]
    trust: float
    mask: Mask | None

    @property
    def steps(self) -> int:
        """Number of steps, which is that of calls of the model; none where there are fewer than two sigmas."""
        return len(self.indices)

    @property
    def adaptive(self) -> bool:
        """Whether the solver's steps are judged."""
        return self.settings.config.control == ADAPTIVE


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
    given = read_levels(sigmas)
    # A step from a sigma to itself moves nothing: each is taken once.
    kept = [i for i, level in enumerate(given) if i == 0 or level != given[i - 1]]
    levels = tuple(given[i] for i in kept)
    # A step starts from the last of equal sigmas, as it does where the others' steps move nothing.
    indices = tuple(i - 1 for i in kept[1:])
    settings = read_options(sampler, options, levels)
    flow = is_flow(model) if settings.flow is None else settings.flow
    logs = tuple(log_ratio(level, flow=flow) for level in levels[:-1])
    trust = run_trust([math.exp(log) for log in logs])
    if settings.config.control == ADAPTIVE and indices and trust == 0:
        _notice(
            f"The adaptive control leaves a run of {len(indices)} steps as it is: with these sigmas some are too "
            "long for it to judge, or all so short that little is missed. Give other sigmas, or a gain."
        )
    if settings.defaulted and sampler == DPMPP_2M:
        _notice(
            f"{sampler} without options is the plain sampler: no constant gain was found that helps DPM-Solver++(2M) "
            "with every choice of sigmas. Give gain=, or control='adaptive'."
        )
    wide = sigmas.to(torch.promote_types(sigmas.dtype, torch.float32))
    wide = wide if len(kept) == len(given) else torch.stack([wide[i] for i in kept])
    return Plan(settings, indices, wide, levels, logs, trust, _read_mask(model, x, sigmas, extra_args))


def _read_mask(model: Any, x: Tensor, sigmas: Tensor, extra_args: Mapping[str, Any]) -> Mask | None:
    """Return the denoise mask among the model's arguments, in the dtype of the computation.

    ComfyUI's wrapper asks `model_options["denoise_mask_function"]` at every step, where there is one (differential
    diffusion); it is asked the same here.
    """
    given = extra_args.get("denoise_mask")
    if not isinstance(given, Tensor):
        return None
    options = extra_args.get("model_options")
    ask = options.get("denoise_mask_function") if isinstance(options, Mapping) else None
    place = {"device": x.device, "dtype": torch.promote_types(x.dtype, torch.float32)}
    if ask is None:
        constant = given.to(**place)
        return lambda sigma: constant
    told = {"model": getattr(model, "inner_model", model), "sigmas": getattr(model, "sigmas", sigmas)}
    return lambda sigma: ask(sigma, given, extra_options=told).to(**place)


def read_levels(sigmas: Tensor) -> tuple[float, ...]:
    """Return the sigmas as numbers.

    Raises:
        LMLError: Unless they are finite numbers that never rise, and 0 or above.
    """
    if not isinstance(sigmas, Tensor) or not sigmas.is_floating_point() or sigmas.ndim != 1:
        raise LMLError(f"sigmas is {_described(sigmas)}; give a floating-point tensor of shape (steps + 1,).")
    levels = tuple(float(value) for value in sigmas.tolist())
    for i, level in enumerate(levels):
        if not math.isfinite(level) or level < 0:
            raise LMLError(f"sigmas[{i}] is {level!r}; give finite values of 0 or above.")
    for i, (high, low) in enumerate(zip(levels[:-1], levels[1:], strict=True)):
        if high < low:
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


def marks(plan: Plan, *tensors: Tensor) -> Tensor | None:
    """Return what tells whether somebody writes to samples, (tensors, batch); None where no step is judged."""
    return torch.stack([sample_hash(t) for t in tensors]) if plan.adaptive and plan.trust else None


def correct_step(
    plan: Plan,
    i: int,
    x: Tensor,
    denoised: Tensor,
    state: RunState,
    *,
    mask: Tensor | None = None,
    untouched: Tensor | None = None,
) -> tuple[Step, RunState]:
    """Correct what the model returned at step i.

    Args:
        plan: The run.
        i: The step, from 0.
        x: What the model was called with, (batch, *event), float32 or wider.
        denoised: What it returned, likewise.
        state: What the step before returned, `RunState()` on the first.
        mask: What the plan's mask is at this step. What it keeps must neither be changed nor weigh in the direction of
            the rest.
        untouched: (batch,) bool: whether nobody but the solver has moved x since the last step; None: all of them.

    Returns:
        The step, whose tensors are those given where nothing was corrected, and the next state. Nothing is read back
        from the device.
    """
    n = (x - denoised) / plan.sigmas[i]
    if plan.adaptive:
        change, shift, state, info = _adapted(plan, i, n, x, state, mask, untouched)
    else:
        change, shift, state, info = _turned(plan, i, n, state, mask)
    if plan.settings.record is not None:
        plan.settings.record.append(info)
    if change is None:
        return Step(x, n, denoised), state
    # By what is added, so that where that is 0 everything stays bit for bit.
    denoised = denoised - plan.sigmas[i] * change
    return (Step(x, n + change, denoised) if shift is None else Step(x + shift, n + change, denoised + shift)), state


_Corrected = tuple[Tensor | None, Tensor | None, RunState, LMLInfo]
"""What n changes by (None: not at all), what x moves by (likewise), the next state, and what was done."""


def _turned(plan: Plan, i: int, n: Tensor, state: RunState, mask: Tensor | None) -> _Corrected:
    """Correct by the constant or the calibrated control."""
    lml, seen, shared = state.lml, n, None
    if mask is not None:
        # An element counts as much as it was made at all the steps that are compared: what is kept has another course.
        shared = functools.reduce(torch.minimum, (mask, *state.masks))
        seen, lml = n * shared, lml._replace(previous=tuple(p * shared for p in lml.previous))
    if plan.settings.schedule is not None:
        d, lml, info = correct_scheduled(seen, lml, plan.settings.schedule, i)
    else:
        d, lml, info = correct(seen, lml, plan.settings.config)
    if mask is not None:
        count = len(lml.previous)
        lml = lml._replace(previous=(n, *state.lml.previous)[:count])
        state = state._replace(masks=(mask, *state.masks)[:count])
    return None if d is seen else d - seen, None, state._replace(lml=lml), info


def _adapted(
    plan: Plan, i: int, n: Tensor, x: Tensor, state: RunState, mask: Tensor | None, untouched: Tensor | None
) -> _Corrected:
    """Correct by the adaptive control, which also moves x.

    A constant mask needs no care before the correction: what it keeps has a constant denoised value, whose trajectory
    is straight and has no defect. One that changes moves the sample as somebody else would.
    """
    if mask is not None and state.masks and mask is not state.masks[0]:
        same = (mask == state.masks[0]).expand_as(n).flatten(1).all(1)
        untouched = same if untouched is None else same & untouched
    last = i + 1 == plan.steps
    adapted = adapt(
        n,
        x,
        plan.levels[i],
        0.0 if last else plan.levels[i + 1],
        state.adaptive,
        log=plan.logs[i],
        untouched=untouched,
        trust=plan.trust,
    )
    state = state._replace(adaptive=adapted.state, masks=() if mask is None else (mask,))
    if adapted.prediction is None or adapted.shift is None:
        return None, None, state, adapted.info
    change, shift = adapted.prediction - n, adapted.shift
    if mask is not None:
        change, shift = change * mask, shift * mask
        if not last:
            state = state._replace(adaptive=adapted.state._replace(shift=shift))
    return change, shift, state, adapted.info


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

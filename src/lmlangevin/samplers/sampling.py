"""Euler and DPM-Solver++(2M) with the LML correction, called as k-diffusion's samplers are called.

Both solve dx/dsigma = n. With the denoised X = x - sigma n the solution over a step from sigma a to b is

    x(b) = (b/a) x(a) + b * integral of X / s^2 from b to a

for a flow as for a model of x = x0 + sigma noise, so one formula serves both. 2M extrapolates X in log sigma. For a
flow one could do it in the logarithm of sigma / (1 - sigma), its noise-to-signal ratio, which is infinite where a flow
starts; on the analytic flow that has the larger error (tests/samplers/test_quality.py), and ComfyUI's own 2M takes log
sigma too.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Unpack

import torch
from torch import Tensor

from lmlangevin.samplers.options import DPMPP_2M, EULER, SamplerOptions
from lmlangevin.samplers.run import Plan, RunState, Step, correct_step, marks, plan_run

Model = Callable[..., Tensor]
"""model(x, sigma, **extra_args) -> denoised, with sigma of shape (batch,)."""

Callback = Callable[[dict[str, Any]], Any]

Update = Callable[[int, Step], Tensor]
"""A solver: the step's number and what it is made from -> the next x."""


@torch.no_grad()
def sample_lml_euler(
    model: Model,
    x: Tensor,
    sigmas: Tensor,
    extra_args: Mapping[str, Any] | None = None,
    callback: Callback | None = None,
    disable: bool | None = None,
    **options: Unpack[SamplerOptions],
) -> Tensor:
    """Sample by Euler steps along the corrected derivative.

    With `gain=0` it is k-diffusion's `sample_euler` without churn, bit for bit in float32 and float64.

    Args:
        model: Called as model(x, sigma, **extra_args) with sigma of shape (batch,); returns the denoised x0 in x's
            shape. A k-diffusion wrapper such as `CompVisDenoiser`, or what ComfyUI hands to its samplers.
        x: The noised start, (batch, *event), any float type: x0 + sigmas[0] * noise, or
            (1 - sigmas[0]) * x0 + sigmas[0] * noise of a flow.
        sigmas: (steps + 1,), falling, and 0 or above at the end. Of equal neighbours one is used, and the model is not
            called for the others; with none or one there is no step.
        extra_args: Further keywords for the model. A `denoise_mask` among them (ComfyUI's inpainting) also keeps the
            correction away from what it masks; a `denoise_mask_function` of `model_options` is asked for it at every
            step, as ComfyUI asks it.
        callback: Called at every step with a dictionary of `x`, `i`, `sigma`, `sigma_hat` and `denoised`; `x` and
            `denoised` are what the step is made from, so after the correction. What it writes to them in place is
            stepped from, as in k-diffusion, and is not taken for the solver's error.
        disable: Whether to hide the progress bar; None hides it where there is no terminal. Needs tqdm; there is none
            without.
        **options: See `SamplerOptions`. With none of them the gain is 0.35, half of the measured preset.

    Returns:
        The sample at sigmas[-1], in x's shape and dtype; x itself where there is no step. Half types are computed in
        float32 between the calls of the model, which gets x's own.

    Raises:
        LMLError: For an argument that does not fit, before the model is called.

    Reference:
        Karras et al., arXiv:2206.00364, algorithm 2; Wang et al., arXiv:2505.24222, for the correction.
    """
    plan = plan_run(EULER, model, x, sigmas, extra_args or {}, options)

    def update(i: int, step: Step) -> Tensor:
        return step.x + step.n * (plan.sigmas[i + 1] - plan.sigmas[i])

    return _run(plan, update, lambda step: (step.x,), model, x, extra_args or {}, callback, disable)


@torch.no_grad()
def sample_lml_dpmpp_2m(
    model: Model,
    x: Tensor,
    sigmas: Tensor,
    extra_args: Mapping[str, Any] | None = None,
    callback: Callback | None = None,
    disable: bool | None = None,
    **options: Unpack[SamplerOptions],
) -> Tensor:
    """Sample by DPM-Solver++(2M) on the corrected denoised predictions.

    With `gain=0`, and with no options at all, it is k-diffusion's `sample_dpmpp_2m`, bit for bit in float32 and
    float64: of a constant gain no value is known that helps this solver with every choice of sigmas.

    Args:
        model: As of `sample_lml_euler`.
        x: Likewise.
        sigmas: Likewise.
        extra_args: Likewise.
        callback: Likewise.
        disable: Likewise.
        **options: See `SamplerOptions`. A calibrated schedule with a time grid of its own is refused: it was fitted to
            Euler's steps.

    Returns:
        The sample at sigmas[-1], as `sample_lml_euler` returns it.

    Raises:
        LMLError: For an argument that does not fit, before the model is called.

    Reference:
        Lu et al., arXiv:2211.01095, algorithm 2; Wang et al., arXiv:2505.24222, for the correction.
    """
    plan = plan_run(DPMPP_2M, model, x, sigmas, extra_args or {}, options)
    reads = operator.itemgetter(0, 2)  # x and denoised
    return _run(plan, _Multistep(plan), reads, model, x, extra_args or {}, callback, disable)


class _Multistep:
    """The steps of DPM-Solver++(2M), with the last denoised prediction; made anew for every run."""

    def __init__(self, plan: Plan) -> None:
        self._levels = plan.levels
        # One by one: a whole tensor's logarithm can differ in the last bit, and gain 0 is k-diffusion's bit for bit.
        self._times = [sigma.log().neg() for sigma in plan.sigmas]
        self._previous: Tensor | None = None

    def __call__(self, i: int, step: Step) -> Tensor:
        time, following = self._times[i], self._times[i + 1]
        stride = following - time
        extrapolated = step.denoised
        if self._previous is not None and self._levels[i + 1] > 0:
            ratio = (time - self._times[i - 1]) / stride
            half = 1 / (2 * ratio)
            extrapolated = (1 + half) * step.denoised - half * self._previous
        # A compiled model may overwrite its output with the next one.
        self._previous = step.denoised.clone()
        return (following.neg().exp() / time.neg().exp()) * step.x - stride.neg().expm1() * extrapolated


def _run(
    plan: Plan,
    update: Update,
    reads: Callable[[Step], tuple[Tensor, ...]],
    model: Model,
    x: Tensor,
    extra_args: Mapping[str, Any],
    callback: Callback | None,
    disable: bool | None,
) -> Tensor:
    """Call the model, correct, and step, until the last sigma; `reads` says what of a step the solver uses."""
    if not plan.steps:
        return x
    dtype, work = x.dtype, torch.promote_types(x.dtype, torch.float32)
    ones = x.new_ones((x.shape[0],))
    x, state = x.to(work), RunState()
    # Marks of x as the solver left it; and where nobody has written to what this step started from, or to what a
    # multistep solver uses once more.
    left = untouched = echo = None
    for i in _progress(plan.steps, disable):
        sigma, given = plan.sigmas[i] * ones, x.to(dtype)
        denoised = model(given, sigma, **extra_args).to(work)
        if given is not x:
            # A model that writes to what it is called with writes to the sample, in half types too.
            x = torch.where(given == x.to(dtype), x, given.to(work))
        untouched = _both(untouched, _same(left, marks(plan, x), 0))
        mask = None if plan.mask is None else plan.mask(sigma)
        step, state = correct_step(plan, i, x, denoised, state, mask=mask, untouched=untouched)
        untouched, echo = echo, None
        if callback is not None:
            before = marks(plan, *reads(step))
            told = {"x": step.x, "i": plan.indices[i], "denoised": step.denoised}
            callback(told | dict.fromkeys(("sigma", "sigma_hat"), plan.sigmas[i]))
            after = marks(plan, *reads(step))
            untouched, echo = _both(untouched, _same(before, after, 0)), _same(before, after, 1)
        x = update(i, step)
        left = marks(plan, x)
    return x.to(dtype)


def _both(a: Tensor | None, b: Tensor | None) -> Tensor | None:
    """Return where both hold, None standing for everywhere."""
    return b if a is None else a if b is None else a & b


def _same(before: Tensor | None, after: Tensor | None, first: int) -> Tensor | None:
    """Return per sample whether the marks from the first on are what they were, (batch,); None where there are none."""
    return None if before is None or after is None else (before == after)[first:].all(0)


def _progress(steps: int, disable: bool | None) -> Iterable[int]:
    """Count the steps, on a bar where tqdm is installed, which k-diffusion and ComfyUI bring."""
    try:
        from tqdm.auto import trange
    except ModuleNotFoundError:
        return range(steps)
    return trange(steps, disable=disable)

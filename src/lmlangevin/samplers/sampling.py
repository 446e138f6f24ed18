"""Euler and DPM-Solver++(2M) with the LML correction, called as k-diffusion's samplers are called.

Both solve dx/dsigma = n. With the denoised X = x - sigma n the solution over a step from sigma a to b is

    x(b) = (b/a) x(a) + b * integral of X / s^2 from b to a

for a flow as for a model of x = x0 + sigma noise, so one formula serves both. 2M extrapolates X in log sigma. For a
flow one could do it in the logarithm of sigma / (1 - sigma), its noise-to-signal ratio, which is infinite where a flow
starts; on the analytic flow that has the larger error (tests/samplers/test_quality.py), and ComfyUI's own 2M takes log
sigma too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Unpack

import torch
from torch import Tensor

from lmlangevin.samplers.options import DPMPP_2M, EULER, SamplerOptions
from lmlangevin.samplers.run import Plan, RunState, Step, correct_step, plan_run

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
        sigmas: (steps + 1,), falling, and 0 or above at the end.
        extra_args: Further keywords for the model. A `denoise_mask` among them (ComfyUI's inpainting) also keeps the
            correction away from what it masks.
        callback: Called at every step with a dictionary of `x`, `i`, `sigma`, `sigma_hat` and `denoised`; `x` and
            `denoised` are what the step is made from, so after the correction.
        disable: Whether to hide the progress bar; None hides it where there is no terminal. Needs tqdm; there is none
            without.
        **options: See `SamplerOptions`. With none of them the gain is 0.35, half of the measured preset.

    Returns:
        The sample at sigmas[-1], in x's shape and dtype. Half types are computed in float32 between the calls of the
        model, which gets x's own.

    Raises:
        LMLError: For an argument that does not fit, before the model is called.

    Reference:
        Karras et al., arXiv:2206.00364, algorithm 2; Wang et al., arXiv:2505.24222, for the correction.
    """
    plan = plan_run(EULER, model, x, sigmas, extra_args or {}, options)

    def update(i: int, step: Step) -> Tensor:
        return step.x + step.n * (plan.sigmas[i + 1] - plan.sigmas[i])

    return _run(plan, update, model, x, extra_args or {}, callback, disable)


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
    return _run(plan, _Multistep(plan), model, x, extra_args or {}, callback, disable)


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
    model: Model,
    x: Tensor,
    extra_args: Mapping[str, Any],
    callback: Callback | None,
    disable: bool | None,
) -> Tensor:
    """Call the model, correct, and step, until the last sigma."""
    dtype, work = x.dtype, torch.promote_types(x.dtype, torch.float32)
    ones = x.new_ones((x.shape[0],))
    x, state = x.to(work), RunState()
    for i in _progress(len(plan.levels) - 1, disable):
        denoised = model(x.to(dtype), plan.sigmas[i] * ones, **extra_args).to(work)
        step, state = correct_step(plan, i, x, denoised, state)
        if callback is not None:
            sigma = plan.sigmas[i]
            callback({"x": step.x, "i": i, "sigma": sigma, "sigma_hat": sigma, "denoised": step.denoised})
        x = update(i, step)
    return x.to(dtype)


def _progress(steps: int, disable: bool | None) -> Iterable[int]:
    """Count the steps, on a bar where tqdm is installed, which k-diffusion and ComfyUI bring."""
    try:
        from tqdm.auto import trange
    except ModuleNotFoundError:
        return range(steps)
    return trange(steps, disable=disable)

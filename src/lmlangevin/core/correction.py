"""The correction of one prediction: `correct` with state in and state out, and the bare `lm_direction`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from lmlangevin.core.config import LMLConfig
from lmlangevin.core.damping import Damping, History, get_controller
from lmlangevin.core.errors import LMLError
from lmlangevin.core.lowrank import solve
from lmlangevin.core.passes import scalar_dtype


class LMLInfo(NamedTuple):
    """What one correction did, for plotting and for controllers; tensors on the prediction's device.

    Attributes:
        gain: (batch, r): the exact gains g_j, one for each previous prediction used; zeros where `identity`.
        angle: (batch,): rotation of the prediction, in radians; zero where `identity`.
        identity: (batch,) bool: whether the prediction was left as it came, bit for bit.
    """

    gain: Tensor
    angle: Tensor
    identity: Tensor


class LMLState(NamedTuple):
    """What the correction remembers between the steps of one run. `LMLState()` starts a run.

    Attributes:
        previous: Uncorrected predictions of earlier steps, newest first.
        infos: The `LMLInfo` of those steps, newest first.
        step: Number of steps taken.
    """

    previous: tuple[Tensor, ...] = ()
    infos: tuple[LMLInfo, ...] = ()
    step: int = 0


def check_prediction(prediction: Tensor) -> None:
    """Refuse what is no batch of floats."""
    if not isinstance(prediction, Tensor) or not prediction.is_floating_point() or prediction.ndim < 2:
        got = (
            f"a {prediction.dtype} tensor of shape {tuple(prediction.shape)}"
            if isinstance(prediction, Tensor)
            else (f"a {type(prediction).__name__}")
        )
        raise LMLError(f"prediction is {got}; give a floating-point tensor of shape (batch, *event).")


def untouched(prediction: Tensor, columns: int) -> LMLInfo:
    """Return what is reported of a prediction that stays as it came, with so many gains."""
    batch = prediction.shape[0]
    zeros = prediction.new_zeros((batch,), dtype=scalar_dtype(prediction.device))
    return LMLInfo(zeros[:, None].expand(-1, columns), zeros, torch.ones_like(zeros, dtype=torch.bool))


def _apply(
    prediction: Tensor,
    previous: Sequence[Tensor],
    damping: Damping,
    absolute: bool,
    out: Tensor | None,
    copy: bool,
) -> tuple[Tensor, Tensor, LMLInfo]:
    """Return the corrected prediction, a copy of the prediction (itself without `copy`), and what was done."""
    if not previous or (isinstance(damping.kappa, (int, float)) and damping.kappa == 0):
        kept = prediction.clone() if copy else prediction
        corrected = prediction if out is None else out.copy_(prediction)
        return corrected, kept, untouched(prediction, max(1, len(previous)))
    solved = solve(prediction, previous, damping.kappa, damping.damping, absolute=absolute, out=out, copy=copy)
    keep = solved.identity
    gain = solved.gain.masked_fill(keep[:, None], 0)
    info = LMLInfo(gain, solved.angle.masked_fill(keep, 0), keep)
    return solved.direction, prediction if solved.copy is None else solved.copy, info


def _one_memory(a: Tensor, b: Tensor) -> bool:
    # A compiler knows no addresses, and what has no memory has address 0.
    return a is b or (not torch.compiler.is_compiling() and a.data_ptr() == b.data_ptr() != 0)


def _check_out(out: Tensor | None, prediction: Tensor) -> None:
    if out is not None and not (isinstance(out, Tensor) and continues(prediction, out)):
        got = f"{tuple(out.shape)}, {out.dtype} on {out.device}" if isinstance(out, Tensor) else type(out).__name__
        raise LMLError(
            f"out is {got}, the prediction {tuple(prediction.shape)}, {prediction.dtype} on {prediction.device}; give "
            "two that match, or leave out out."
        )


def lm_direction(
    prediction: Tensor,
    previous: Tensor | None,
    *,
    kappa: float | Tensor,
    damping: float | Tensor,
    absolute: bool = False,
    out: Tensor | None = None,
) -> Tensor:
    """Rotate a prediction by one damped rank-one Newton solve, keeping its norm.

    With n the prediction and b = kappa * previous + (1 - kappa) * n, returns
    ||n|| H^-1 n / ||H^-1 n|| for H = b b^T + lambda I, for every sample by itself:

        (batch, channels, height, width), the same -> (batch, channels, height, width)
        (batch, tokens, channels), the same        -> (batch, tokens, channels)

    Args:
        prediction: The network's prediction n, (batch, *event) with at least one event dimension, any float dtype.
            Computed in float32 or wider.
        previous: The (uncorrected) prediction of the step before, of the same shape, dtype and device; None on the
            first step, which returns `prediction` itself.
        kappa: Share of the previous prediction in the factor, in [-1, 1]; a number or a tensor of shape (batch,).
        damping: mu with lambda = mu ||b||^2, dimensionless, above 0; a number or a tensor of shape (batch,).
        absolute: Whether `damping` is lambda itself, as in the paper.
        out: A tensor to write the result to, of the prediction's shape, dtype and device; may be `prediction` itself.
            None allocates one.

    Returns:
        A tensor of the prediction's shape and dtype, `out` where it is given. Bit-identical to the prediction where
        kappa is 0, the prediction has norm zero, or a scalar of the solve is not finite.

    Raises:
        LMLError: For a prediction that is no batch of floats, another shape, dtype or device of `previous`, or a
            number out of range. Values of tensors are not checked: that would wait for the device.

    Reference:
        arXiv:2505.24222; docs/method.md derives the form used here.
    """
    check_prediction(prediction)
    LMLConfig(
        kappa=kappa if not isinstance(kappa, Tensor) else None,
        damping=damping if not isinstance(damping, Tensor) else None,
    )
    for name, value in (("kappa", kappa), ("damping", damping)):
        if isinstance(value, Tensor) and value.shape not in ((), prediction.shape[:1]):
            raise LMLError(
                f"{name} has shape {tuple(value.shape)} for a batch of {prediction.shape[0]}; give a number, or one "
                "value a sample."
            )
    _check_out(out, prediction)
    if previous is None:
        return prediction if out is None else out.copy_(prediction)
    if not continues(prediction, previous):
        raise LMLError(
            f"previous has shape {tuple(previous.shape)}, dtype {previous.dtype} on {previous.device}, the prediction "
            f"has {tuple(prediction.shape)}, {prediction.dtype} on {prediction.device}; give two that match."
        )
    return _apply(prediction, (previous,), Damping(kappa, damping), absolute, out, False)[0]


def continues(prediction: Tensor, previous: Tensor) -> bool:
    """Return whether two predictions can be of one run."""
    return (
        prediction.shape == previous.shape
        and prediction.dtype == previous.dtype
        and prediction.device == previous.device
    )


def correct(
    prediction: Tensor,
    state: LMLState,
    config: LMLConfig,
    *,
    out: Tensor | None = None,
    assume_owned: bool = False,
) -> tuple[Tensor, LMLState, LMLInfo]:
    """Correct the prediction of one step.

        state = LMLState()
        for each step:
            corrected, state, info = correct(network(x, t), state, config)

    Args:
        prediction: The network's prediction (noise, velocity, ...) of shape (batch, *event), any float dtype.
        state: What the step before returned, `LMLState()` on the first step. A prediction of another shape, dtype or
            device than the state holds starts a new run.
        config: The settings.
        out: A tensor to write the corrected prediction to, of the same shape, dtype and device; may be `prediction`
            itself, which is then overwritten. None allocates one.
        assume_owned: Whether the state may keep `prediction` itself in place of a copy of it: only if nobody writes to
            it after this call, as a compiled network may.

    Returns:
        The corrected prediction (same shape, dtype and device), the next state and the step's `LMLInfo`. Nothing is
        read back from the device. The state keeps its own copy of the prediction unless `assume_owned`; the corrected
        prediction can be `prediction` itself where nothing was to be done.

    Raises:
        LMLError: If the prediction is not a floating-point tensor of shape (batch, *event), or `out` does not match it
            or would overwrite what the state is to keep.
    """
    check_prediction(prediction)
    _check_out(out, prediction)
    if assume_owned and out is not None and _one_memory(out, prediction):
        raise LMLError("assume_owned=True keeps the prediction that out= would overwrite; give one of them.")
    if state.previous and not continues(prediction, state.previous[0]):
        state = LMLState()
    controller, depth = get_controller(config.control)
    if state.previous:
        damping = controller(History(prediction, state.previous, state.infos, state.step), config)
        previous = state.previous[: config.rank]
    else:
        damping, previous = Damping(0.0, 1.0), ()
    corrected, copy, info = _apply(
        prediction, previous, damping, config.damping_mode == "absolute", out, not assume_owned
    )
    kept = max(config.rank, depth)
    # Detached, or a run outside no_grad would keep the graph of every step before.
    info = LMLInfo(*(value.detach() if value.requires_grad else value for value in info))
    previous = (copy.detach(), *state.previous)[:kept]
    return corrected, LMLState(previous, (info, *state.infos)[:kept], state.step + 1), info

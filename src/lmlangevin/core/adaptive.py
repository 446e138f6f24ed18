"""Adaptive control: every step is judged by the prediction that comes after it, and what it missed is made good.

In y = x / alpha and s = sigma / alpha the sampling ODE is dy/ds = n, and with the data prediction X = y - s n, which
moves far more slowly than n,

    y(b) = (b/a) y(a) + b * integral of X(s) / s^2 from b to a        (exact, for levels a and b)

A solver had to extrapolate X over its last step. Once the next prediction has come, X can be interpolated there
instead, through the last three levels, in log s. What the interpolation says beyond where the solver stands is the
step's *defect* e. It is used twice:

1. Repair. The position is moved by a share of e. Which n belongs to the moved position depends on what e is made of.
   If it is noise, the data prediction does not change, and n changes by e/s; if it is signal, n does not change. Errors
   of a network are uncorrelated from step to step, and the changes of n that make a trajectory curve are not, so the
   cosine c between the last two changes of n tells them apart: n moves by (1 - max(c, 0)) e/s. A wrong share of signal
   would be amplified by the next step, so that share is bounded by the length of that step.
2. Forecast. A defect that keeps its direction from step to step will come again, and is corrected in advance: n moves
   by the defect's slope, times the cosine between the last two of them. This is the Levenberg-Marquardt idea of trust:
   the correction grows while what was predicted is what is realised, and vanishes otherwise.

How much of a defect is repaired matters more than how well. The error at the end of a run is a sum over its steps, and
in good solvers the terms cancel: X first turns towards an image and then settles, so what is missed early and what is
missed late have opposite signs. Repairing an equal share of every term leaves less of that sum; repairing the first
half of it alone can leave more than there was. So the share is one for the whole run (`run_trust`): none where some
step is too long for its defect to be known, and none where all are so short that little is missed; and it is less where
the next step is longer than the judged one, and at the last step, whose own defect is never known.

For a first-order solver both directions are that of n_i - n_{i-1}, the one that the rank-one LML turns n along; for a
multistep solver they are what its own extrapolation left over, so nothing is counted twice. The solver, its grid's name
and its number of steps are not known here: only predictions, positions and levels.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from lmlangevin.core.config import finite_number
from lmlangevin.core.correction import LMLInfo, check_prediction
from lmlangevin.core.errors import LMLError
from lmlangevin.core.passes import column, scalar_dtype, scaled, turn


@dataclass(frozen=True)
class AdaptiveConstants:
    """The constants of the adaptive control: one set, the same for every model and sampler.

    Args:
        forecast: Share of the expected defect that is corrected in advance, 0 to 1.
        growth: Largest growth of a defect from one step to the next that is believed.
        feedback: Bound on how much the next step may amplify a defect that was taken for signal and was noise.
        blank: Noise-to-signal ratio at which half of a defect is repaired. Where there is hardly an image in X yet,
            the interpolation finds all of a defect, and further down, in longer steps, little more than half.
        last: Share of a defect that is repaired before the last step, which is never judged itself.
        long: Longest steps of a run, in `image_stride`: up to the first number a run is corrected in full, from the
            second on not at all.
        short: Mean steps of a run, in the same unit: down to the second number it is corrected in full, from the first
            on not at all.
    """

    forecast: float = 0.7
    growth: float = 1.5
    feedback: float = 2.0
    blank: float = 60.0
    last: float = 0.5
    long: tuple[float, float] = (1.0, 1.45)
    short: tuple[float, float] = (0.14, 0.26)


class AdaptiveState(NamedTuple):
    """What the control remembers between the steps of one run; `AdaptiveState()` starts one.

    It holds six tensors of the prediction's size at most, in the dtype that `adapt` is told. The rest follows from
    them, in float32 or wider.

    Attributes:
        levels: The last two distinct levels s, newest first.
        logs: The logarithms of the levels' noise-to-signal ratios, newest first.
        data: Data predictions X at those levels, as they came.
        predictions: Predictions n at those levels, as they came.
        shift: What the position y at the newest level was moved by; None for nothing.
        missed: What the last step missed, with what was forecast of it, as a displacement of y; None before the second
            level.
        share: (batch,): what the newest prediction was moved by in advance, as a share of `slope`; None for nothing.
        joined: (batch,) bool: whether the two levels are of one trajectory, which nobody but the solver has moved in
            between; None where all of them are.
    """

    levels: tuple[float, ...] = ()
    logs: tuple[float, ...] = ()
    data: tuple[Tensor, ...] = ()
    predictions: tuple[Tensor, ...] = ()
    shift: Tensor | None = None
    missed: Tensor | None = None
    share: Tensor | None = None
    joined: Tensor | None = None

    @property
    def position(self) -> Tensor:
        """The repaired position y at the newest level."""
        y = torch.add(_wide(self.data[0]), _wide(self.predictions[0]), alpha=self.levels[0])
        return y if self.shift is None else y.add_(self.shift)

    @property
    def slope(self) -> Tensor | None:
        """The last defect's slope, what was forecast of it included; None before the second level."""
        return None if self.missed is None else _wide(self.missed) / (self.levels[0] - self.levels[1])

    @property
    def forecast(self) -> Tensor | None:
        """What the newest prediction was moved by in advance; None for nothing."""
        slope = self.slope
        return None if slope is None or self.share is None else slope * scaled(self.share, slope)


class Adapted(NamedTuple):
    """The result of a step.

    Attributes:
        prediction: The prediction n that the solver is to see, in float32 or wider; None where it stays as it is.
        shift: What the position y is to be moved by before the solver's step, likewise.
        state: The next state; `AdaptiveState()`, which holds nothing, after the last step of a run.
        given: The prediction n as it came, in float32 or wider.
        previous: The prediction of the level before, in the state's dtype; None where there is none.
    """

    prediction: Tensor | None
    shift: Tensor | None
    state: AdaptiveState
    given: Tensor
    previous: Tensor | None = None

    @property
    def info(self) -> LMLInfo:
        """What was done: the equivalent rank-one gain and the angle, computed when it is asked for."""
        if self.prediction is None or self.previous is None:
            return _nothing(self.given)
        return _describe(self.given.detach(), self.prediction.detach(), self.previous)


def image_stride(start: float, end: float) -> float:
    """Return how much of an image a step decides: its length in log s, less what lies outside the range that matters.

    Far above the standard deviation of the data there is no image in X yet, and far below it is done.

    Args:
        start: Noise-to-signal ratio that the step starts from.
        end: The one it ends at.
    """

    def place(s: float) -> float:
        return math.log((s + _DONE) / (1 + s / _NOISE)) if math.isfinite(s) else math.log(_NOISE)

    return place(start) - place(end)


LARGEST_FLOW_SIGMA = 0.999
"""A flow at sigma 1 is pure noise, whose noise-to-signal ratio has no logarithm; it is counted as this sigma."""


def flow_log_ratio(sigma: float) -> float:
    """Return the logarithm of a flow's noise-to-signal ratio sigma / (1 - sigma); -inf at sigma 0."""
    sigma = min(sigma, LARGEST_FLOW_SIGMA)
    return math.log(sigma / (1 - sigma)) if sigma > 0 else -math.inf


def run_trust(ratios: Sequence[float], constants: AdaptiveConstants = AdaptiveConstants()) -> float:
    """Return the share of every defect of a run that is to be corrected, 0 to 1.

    Args:
        ratios: Noise-to-signal ratios of the levels that the network is evaluated at, in the order of the run.
        constants: The constants.

    Returns:
        0 for a run of one evaluation, which has no defect to judge.
    """
    strides = [abs(image_stride(start, end)) for start, end in zip(ratios[:-1], ratios[1:], strict=True)]
    strides = [stride for stride in strides if stride > _SAME_LEVEL]
    if not strides:
        return 0.0
    full, none = constants.long
    nothing, enough = constants.short
    by_longest = (none - max(strides)) / (none - full)
    by_mean = (sum(strides) / len(strides) - nothing) / (enough - nothing)
    return min(1.0, max(0.0, by_longest)) * min(1.0, max(0.0, by_mean))


def interpolation_weights(logs: tuple[float, ...], start: float, end: float) -> list[float]:
    """Return the weights w of  integral of X(s)/s^2 ds  =  sum_i w_i X_i,  X interpolated in log s through its nodes.

    Args:
        logs: Logarithms of the nodes, two or three, distinct.
        start: Logarithm of the level the integral starts from.
        end: Logarithm of the level it ends at; the sign is that of an integral from `end` to `start`.

    Returns:
        One weight a node; their sum is exp(-end) - exp(-start).
    """

    def primitive(coefficients: tuple[float, float, float], w: float) -> float:
        # of (c0 + c1 w + c2 w^2) exp(-w), with w counted from `end` so that no digits are lost at large logarithms
        c0, c1, c2 = coefficients
        return -math.exp(-w) * (c0 + c1 * (w + 1) + c2 * (w * w + 2 * w + 2))

    nodes = [log - end for log in logs]
    weights = []
    for i, node in enumerate(nodes):
        others = [other for j, other in enumerate(nodes) if j != i]
        if len(others) == 1:
            (p,) = others
            scale = 1 / (node - p)
            polynomial = (-p * scale, scale, 0.0)
        else:
            p, q = others
            scale = 1 / ((node - p) * (node - q))
            polynomial = (p * q * scale, -(p + q) * scale, scale)
        weights.append(math.exp(-end) * (primitive(polynomial, start - end) - primitive(polynomial, 0.0)))
    return weights


def adapt(
    prediction: Tensor,
    position: Tensor,
    level: float,
    next_level: float,
    state: AdaptiveState,
    *,
    log: float | None = None,
    untouched: Tensor | None = None,
    trust: float = 1.0,
    state_dtype: torch.dtype | None = None,
    constants: AdaptiveConstants = AdaptiveConstants(),
) -> Adapted:
    """Judge the last step by this prediction, and correct this one.

        state = AdaptiveState()
        for each step:
            adapted = adapt(n, y, s, s_next, state)      # then give the solver y + shift and the adapted prediction

    Args:
        prediction: n: the noise of a variance-preserving model or the velocity of a flow, (batch, *event), any float
            dtype. Computed in float32 or wider.
        position: y = x / alpha of that model, or x of a flow; the same shape and device.
        level: s = sigma / alpha, or a flow's sigma in (0, 1]. At 0 nothing is corrected.
        next_level: The level that the solver steps to; 0 for the last step of a run, wherever that ends.
        state: What the step before returned. A prediction of another shape or device, or another `state_dtype`, than
            it holds starts a new run.
        log: Logarithm of the noise-to-signal ratio at this level; by default that of `level`. A flow's is
            log(s / (1 - s)).
        untouched: (batch,) bool: whether the position is where the solver left it. A pipeline that blends a sample with
            something else between steps (inpainting) moves it, and that is no defect, now or one step later. None: all
            of them.
        trust: Share of every defect of this run that is corrected, from `run_trust`.
        state_dtype: What the state is kept in; by default the position's dtype. Give the sample's where a sample of a
            half type was widened to make the position: nothing is known of it beyond that.
        constants: The constants.

    Returns:
        An `Adapted`. Nothing is read back from a device, and samples of a batch do not influence each other. Gradients
        pass to this prediction and position, and not to those of earlier steps.

    Raises:
        LMLError: If the prediction is not a floating-point tensor of shape (batch, *event), the position or `untouched`
            does not match it, or a number is out of range.
    """
    _check(prediction, position, level, next_level, log, untouched, trust)
    kept = position.dtype if state_dtype is None else state_dtype
    work = torch.promote_types(torch.promote_types(prediction.dtype, position.dtype), torch.float32)
    n, y = prediction.to(work), position.to(work)
    if trust == 0:
        return Adapted(None, None, AdaptiveState(), n)
    if state.levels and not _continues(state.data[0], n, kept):
        state = AdaptiveState()
    log = math.log(max(level, 1e-30)) if log is None else log
    if level <= 0 or not math.isfinite(log):
        return Adapted(None, None, AdaptiveState(), n)
    x = torch.add(y, n, alpha=-level)
    if any(abs(log - known) < _SAME_LEVEL for known in state.logs[1:]):
        state = AdaptiveState()  # back at a level: another run, or a solver that goes up again, which is not judged
    if not state.levels or abs(log - state.logs[0]) < _SAME_LEVEL:
        # The first level, or the same once more (a Runge-Kutta start, a rounded grid): this prediction replaces that.
        levels, logs = (level, *state.levels[1:]), (log, *state.logs[1:])
        data = (_ours(x, kept), *state.data[1:])
        predictions = (_kept(n, kept), *state.predictions[1:])
        joined = _both(state.joined, untouched) if len(levels) > 1 else None
        following = AdaptiveState(levels, logs, data, predictions, joined=joined)
        return Adapted(None, None, following if next_level > 0 else AdaptiveState(), n)

    previous = state.levels[0]
    # So that the weights of a constant are exact whatever was rounded or capped in the logarithms.
    total = level * (1 / level - 1 / previous)
    defect = (state.position * (level / previous)).sub_(y)
    for weight, value in zip(_judging_weights(log, state, total), (x, *map(_wide, state.data)), strict=True):
        if isinstance(weight, Tensor):
            defect.addcmul_(value, scaled(weight, value))
        else:
            defect.add_(value, alpha=weight)

    stride, ahead = state.logs[0] - log, _stride_ahead(level, next_level)
    share = _signal_share(n, state)
    repair, belief = trust / (1 + math.exp(log) / constants.blank), trust * constants.forecast
    if next_level <= 0:
        repair, belief = repair * constants.last, 0.0
    elif ahead:
        # The next step amplifies what was wrongly taken for signal by about s/s_next - 1, and a longer step than the
        # last one carries every change of X further than it was measured.
        stretch = min(1.0, abs(stride / ahead))
        share = (share * stretch).clamp(max=constants.feedback / math.expm1(abs(ahead)))
        repair, belief = repair * stretch, belief * stretch
    slope, before, forecast = defect / (level - previous), state.slope, state.forecast
    if forecast is not None:
        slope.add_(forecast)
    if untouched is not None:
        # Someone else moved the sample: the last step cannot be judged, and nothing follows from it.
        defect, slope = (_replace(~untouched, value) for value in (defect, slope))
    defect.mul_(repair)
    moved = torch.addcmul(n, defect, scaled((1 - share) / level, n))
    advance = None
    if before is not None and belief:
        advance = belief * _persistence(slope, before, constants.growth)
        moved = torch.addcmul(moved, slope, scaled(advance, n))

    # Never NaN from a finite input: what overflows anywhere leaves the sample as it came. A product of the two shows
    # every infinity in either, since one times 0 is NaN.
    overflown = ~torch.isfinite(share + _dot(moved, defect)).detach()
    moved, defect = _replace(overflown, moved, n), _replace(overflown, defect)
    if next_level <= 0:
        return Adapted(moved, defect, AdaptiveState(), n, state.predictions[0])
    following = AdaptiveState(
        (level, previous),
        (log, state.logs[0]),
        (_ours(x, kept), state.data[0]),
        (_kept(n, kept), state.predictions[0]),
        _kept(defect, kept),
        _ours(slope * (level - previous), kept),
        None if advance is None else torch.where(overflown, 0, advance.detach()),
        untouched,
    )
    return Adapted(moved, defect, following, n, state.predictions[0])


def _check(
    prediction: Tensor,
    position: Tensor,
    level: float,
    next_level: float,
    log: float | None,
    untouched: Tensor | None,
    trust: float,
) -> None:
    check_prediction(prediction)
    if not isinstance(position, Tensor) or not position.is_floating_point():
        got = f"a {position.dtype} tensor" if isinstance(position, Tensor) else f"a {type(position).__name__}"
        raise LMLError(f"position is {got}; give a floating-point tensor of the prediction's shape.")
    if position.shape != prediction.shape or position.device != prediction.device:
        raise LMLError(
            f"position is {tuple(position.shape)} on {position.device}, the prediction {tuple(prediction.shape)} on "
            f"{prediction.device}; give two that match."
        )
    for name, value in (("level", level), ("next_level", next_level)):
        if finite_number(name, value, "a level s = sigma / alpha, 0 or above") < 0:
            raise LMLError(f"{name}={value!r} is below 0; give a level s = sigma / alpha, 0 or above.")
    if not 0 <= finite_number("trust", trust, "a share from 0 to 1, as run_trust gives") <= 1:
        raise LMLError(f"trust={trust!r} is out of range; give a share from 0 to 1, as run_trust gives.")
    if log is not None and (not isinstance(log, int | float) or math.isnan(log)):
        raise LMLError(f"log={log!r} is no number; give the logarithm of a noise-to-signal ratio, or leave log out.")
    if untouched is not None:
        right = isinstance(untouched, Tensor) and untouched.dtype == torch.bool
        if not right or untouched.shape != prediction.shape[:1]:
            got = f"{tuple(untouched.shape)}, {untouched.dtype}" if isinstance(untouched, Tensor) else repr(untouched)
            raise LMLError(f"untouched is {got}; give a boolean tensor of shape ({len(prediction)},), or None.")


_DONE, _NOISE = 0.2, 15.0
"""Noise-to-signal ratios below which an image is done, and above which there is none, in units of data in [-1, 1]."""

_SAME_LEVEL = 1e-7
"""Difference of logarithms under which two levels are one."""


def _wide(t: Tensor) -> Tensor:
    return t.to(torch.promote_types(t.dtype, torch.float32))


def _kept(t: Tensor, dtype: torch.dtype) -> Tensor:
    """Return a copy for the state, which nobody else writes to and no gradient passes."""
    return t.detach().to(dtype, copy=True)


def _ours(t: Tensor, dtype: torch.dtype) -> Tensor:
    """Return what the state keeps of a tensor that nobody else has."""
    return t.detach().to(dtype)


def _continues(kept: Tensor, n: Tensor, dtype: torch.dtype) -> bool:
    return kept.shape == n.shape and kept.device == n.device and kept.dtype == dtype


def _both(a: Tensor | None, b: Tensor | None) -> Tensor | None:
    """Return where both hold, None standing for everywhere."""
    return b if a is None else a if b is None else a & b


def _judging_weights(log: float, state: AdaptiveState, total: float) -> Sequence[float | Tensor]:
    """Return the weights of X at this level and at those of the state, which sum to `total`.

    Of samples that somebody moved before the newest level of the state, the one before it says nothing: there the line
    through two takes the place of the parabola through three.
    """

    def to_sum(weights: list[float]) -> list[float]:
        return [weight * total / sum(weights) for weight in weights]

    logs = (log, *state.logs)
    weights = to_sum(interpolation_weights(logs, logs[1], log))
    if state.joined is None or len(logs) == 2:
        return weights
    line = [*to_sum(interpolation_weights(logs[:2], logs[1], log)), 0.0]
    joined = state.joined.to(scalar_dtype(state.joined.device))
    return [joined * a + (1 - joined) * b for a, b in zip(weights, line, strict=True)]


def _dot(a: Tensor, b: Tensor) -> Tensor:
    return torch.linalg.vecdot(a.flatten(1), b.flatten(1)).to(scalar_dtype(a.device))


def _replace(chosen: Tensor, value: Tensor, by: Tensor | None = None) -> Tensor:
    """Return `value`, which may be overwritten, with zeros or what is in `by` in the chosen samples, (batch,) bool."""
    if chosen.device.type != "cpu" or torch.compiler.is_compiling() or value.requires_grad:
        return torch.where(column(chosen, value), 0 if by is None else by, value)
    # As a rule nothing is chosen, and torch.where takes longer than what made the tensors. A mask as an index makes the
    # host wait for a GPU, but not for a CPU; to write a number by it takes as long as torch.where.
    value[chosen] = value[chosen].zero_() if by is None else by[chosen]
    return value


# Each is 0 where it has no value, and so is its gradient: torch.where cuts what is infinite before it is divided by.


def _root(a: Tensor) -> Tensor:
    """Return the square root, 0 where there is none."""
    positive = a > 0
    return torch.where(positive, torch.where(positive, a, 1).sqrt(), 0)


def _quotient(a: Tensor, b: Tensor) -> Tensor:
    """Return a / b, 0 where that is not finite."""
    finite = torch.isfinite(a.detach() / b.detach())
    return torch.where(finite, a / torch.where(finite, b, 1), 0)


def _cosine(product: Tensor, a2: Tensor, b2: Tensor) -> Tensor:
    """Return the cosine of every sample's angle from <a, b>, ||a||^2 and ||b||^2; 0 where a length is 0."""
    return _quotient(product, _root(a2 * b2)).clamp(-1, 1)


def _signal_share(n: Tensor, state: AdaptiveState) -> Tensor:
    if len(state.predictions) < 2:
        return torch.zeros(n.shape[0], dtype=scalar_dtype(n.device), device=n.device)
    newest, older = map(_wide, state.predictions)
    now, before = n - newest, newest - older
    share = _cosine(_dot(now, before), _dot(now, now), _dot(before, before)).clamp(min=0)
    return share if state.joined is None else torch.where(state.joined, share, 0)


def _persistence(slope: Tensor, before: Tensor, growth: float) -> Tensor:
    slope2, before2 = _dot(slope, slope), _dot(before, before)
    ratio = _root(_quotient(slope2, before2)).clamp(max=growth)
    return _cosine(_dot(slope, before), slope2, before2).clamp(min=0) * ratio


def _stride_ahead(level: float, next_level: float) -> float:
    """Return log(level / next), 0 for a step to zero or none, which extrapolates nothing."""
    return math.log(level / next_level) if 0 < next_level and next_level != level else 0.0


def _nothing(n: Tensor) -> LMLInfo:
    zeros = torch.zeros(n.shape[0], dtype=scalar_dtype(n.device), device=n.device)
    return LMLInfo(zeros[:, None], zeros, torch.ones_like(zeros, dtype=torch.bool))


def _describe(n: Tensor, moved: Tensor, previous: Tensor) -> LMLInfo:
    """Return the equivalent rank-one gain, least squares along n_{i-1} - n_i, and the angle of the correction."""
    change, direction = moved - n, previous - n
    gain = -_quotient(_dot(change, direction), _dot(direction, direction))
    identity = (change == 0).flatten(1).all(1)
    return LMLInfo(gain[:, None], torch.nan_to_num(turn(n, change)[0], 0.0).masked_fill(identity, 0), identity)

"""Schedules of fitted gains: what they refuse, and that the direction is LML's."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from lmlangevin.core import CalibratedSchedule, LMLError, LMLState, correct_scheduled
from lmlangevin.core.lowrank import solve
from lmlangevin.core.scheduled import combine

SIGMAS = (10.0, 2.0, 0.5, 0.0)
GAINS = ((0.0, 0.0), (0.4, 0.0), (0.7, -0.3))


def fields(
    seed: int, count: int, shape: tuple[int, ...] = (3, 2, 4, 5), dtype: torch.dtype = torch.float64
) -> list[Tensor]:
    g = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=g, dtype=torch.float64).to(dtype) for _ in range(count)]


def test_a_schedule_survives_json() -> None:
    schedule = CalibratedSchedule(SIGMAS, GAINS, True)
    assert CalibratedSchedule.from_config(json.loads(json.dumps(schedule.to_config()))) == schedule
    assert (schedule.steps, schedule.rank, schedule.levels) == (3, 2, SIGMAS)
    gains_alone = CalibratedSchedule(None, GAINS)
    assert CalibratedSchedule.from_config(json.loads(json.dumps(gains_alone.to_config()))) == gains_alone
    assert CalibratedSchedule((3.0, 0.0), ((),)).steps == 1
    with pytest.raises(LMLError, match="sigmas is None"):
        _ = gains_alone.levels


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"sigmas": (10.0, 2.0, 0.5)}, "sigmas ends at 0.5"),
        ({"sigmas": (0.0,)}, "sigmas has 1 values"),
        ({"sigmas": (10.0, 2.0, 2.0, 0.0)}, r"sigmas\[2\] is 2.0 after 2.0"),
        ({"sigmas": (10.0, float("nan"), 0.5, 0.0)}, r"sigmas\[1\] is nan"),
        ({"sigmas": "10,2,0"}, "sigmas is '10,2,0'"),
        ({"gains": GAINS[:2]}, "gains has 2 rows for 3 steps"),
        ({"gains": ((0.0, 0.0), (0.4, 0.2), (0.7, -0.3))}, r"gains\[1\].*step 1 has 1 earlier"),
        ({"gains": ((0.0, 0.0), (0.4,), (0.7, -0.3))}, r"gains\[1\] has 1 numbers"),
        ({"gains": ((0.0,) * 17,) * 3}, "rows of 17 numbers"),
        ({"gains": ()}, "gains is"),
        ({"gains": ((0.0, 0.0), (True, 0.0), (0.7, -0.3))}, r"gains\[1\]\[0\] is True"),
        ({"gains": ((0.0, 0.0), (float("nan"), 0.0), (0.7, -0.3))}, r"gains\[1\]\[0\] is nan; give a finite number"),
        ({"gains": ((0.0, 0.0), ("0.4", 0.0), (0.7, -0.3))}, r"gains\[1\]\[0\] is '0.4'; give a finite number"),
        ({"sigmas": (10.0, float("nan"), 0.5, 0.0)}, r"sigmas\[1\] is nan; give a finite number"),
        ({"restore_norm": 1}, "restore_norm is 1"),
    ],
)
def test_what_is_no_schedule_is_refused_by_name(change: dict[str, Any], message: str) -> None:
    with pytest.raises(LMLError, match=message):
        CalibratedSchedule(**{"sigmas": SIGMAS, "gains": GAINS, **change})


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"sigmas": SIGMAS, "gains": GAINS}, "lacks restore_norm"),
        ({"sigmas": SIGMAS, "gains": GAINS, "restore_norm": False, "kappa": 1}, "has kappa"),
        ([1, 2], "give a mapping"),
    ],
)
def test_what_is_no_configuration_is_refused(config: Any, message: str) -> None:
    with pytest.raises(LMLError, match=message):
        CalibratedSchedule.from_config(config)


@pytest.mark.parametrize("gain", [0.3, -0.2, 1.4])
def test_with_its_norm_restored_the_direction_is_the_rank_one_solve(gain: float) -> None:
    n, before = fields(1, 2)
    made, info = combine(n, [before], [gain], restore_norm=True)
    # n - g D = (1 - g a) n - g P with D = a n + P: the direction of the solve whose gain is g / (1 - g a).
    a = torch.linalg.vecdot(n.flatten(1), (before - n).flatten(1)) / torch.linalg.vecdot(n.flatten(1), n.flatten(1))
    for i in range(len(n)):
        exact = gain / (1 - gain * float(a[i]))
        kappa = 1e-7 if exact > 0 else -1e-7
        expected = solve(n[i : i + 1], [before[i : i + 1]], kappa, kappa / exact, absolute=False).direction
        sign = 1 if 1 - gain * float(a[i]) > 0 else -1
        assert torch.allclose(made[i], sign * expected[0], atol=1e-5)
    assert torch.allclose(made.flatten(1).norm(dim=1), n.flatten(1).norm(dim=1))
    cosine = torch.cosine_similarity(n.flatten(1), made.flatten(1))
    assert torch.allclose(info.angle, torch.acos(cosine), atol=1e-7)


def test_without_it_is_the_plain_combination() -> None:
    n, first, second = fields(2, 3)
    made, info = combine(n, [first, second], [0.7, -0.3], restore_norm=False)
    assert torch.allclose(made, n - 0.7 * (first - n) + 0.3 * (second - n))
    assert info.gain.tolist() == [[0.7, -0.3]] * 3
    assert not info.identity.any()


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 3e-6), (torch.bfloat16, 3e-2), (torch.float16, 4e-3)])
@pytest.mark.parametrize("restore_norm", [False, True])
def test_narrow_types_agree_with_float64(dtype: torch.dtype, tolerance: float, restore_norm: bool) -> None:
    narrow = fields(3, 3, dtype=dtype)
    wide = [field.double() for field in narrow]
    made, _ = combine(narrow[0], narrow[1:], [0.9, -0.4], restore_norm=restore_norm)
    expected, _ = combine(wide[0], wide[1:], [0.9, -0.4], restore_norm=restore_norm)
    assert made.dtype == dtype
    assert torch.allclose(made.double(), expected, rtol=tolerance, atol=tolerance)


def test_a_gain_of_zero_ignores_even_what_is_broken() -> None:
    n, first = fields(5, 2)
    made, info = combine(n, [first, torch.full_like(n, torch.inf)], [0.5, 0.0], restore_norm=True)
    assert torch.equal(made, combine(n, [first], [0.5], restore_norm=True)[0])
    assert info.gain.tolist() == [[0.5, 0.0]] * len(n)


def test_gradients_pass_in_half_precision() -> None:
    n, first = fields(6, 2, dtype=torch.float16)
    n = n.requires_grad_()
    made, info = combine(n, [first], [0.5], restore_norm=False)
    (made.float().sum() + info.angle.sum()).backward()
    assert n.grad is not None and n.grad.isfinite().all()


@pytest.mark.parametrize("gain", [1e-2, 1e-4, 1e-6])
def test_a_small_angle_is_reported(gain: float) -> None:
    n, first = fields(7, 2, dtype=torch.float32)
    wide = [field.double() for field in (n, first)]
    true = combine(wide[0], wide[1:], [gain], restore_norm=True)[1].angle
    assert torch.allclose(combine(n, [first], [gain], restore_norm=True)[1].angle, true, rtol=1e-4)
    d = combine(wide[0], wide[1:], [gain], restore_norm=True)[0].flatten(1)
    chord = (d - wide[0].flatten(1)).norm(dim=1) / d.norm(dim=1)
    assert torch.allclose(true, 2 * torch.asin(chord / 2), rtol=1e-6)


def test_gains_of_zero_and_no_history_return_the_prediction_itself() -> None:
    n, before = fields(4, 2)
    for previous, gains in (([before], [0.0]), ([], [0.5]), ([before], [])):
        made, info = combine(n, previous, gains, restore_norm=True)
        assert made is n
        assert info.identity.all()


@settings(deadline=None, max_examples=40)
@given(
    scale=st.sampled_from([1e-30, 1e-12, 1.0, 1e12, 1e18]),
    gains=st.lists(st.floats(-3, 3), min_size=1, max_size=3),
    restore=st.booleans(),
    zero=st.booleans(),
)
def test_a_finite_input_never_gives_nan(scale: float, gains: list[float], restore: bool, zero: bool) -> None:
    n, *previous = (field * scale for field in fields(5, 4, (2, 7), torch.float32))
    n = n * 0 if zero else n
    made, info = combine(n, previous, gains, restore_norm=restore)
    assert made.isfinite().all()
    assert info.angle.isfinite().all()


def test_a_run_uses_each_steps_gains_and_its_own_copies() -> None:
    schedule = CalibratedSchedule(SIGMAS, GAINS)
    ns, state = fields(6, 3), LMLState()
    buffer, made = torch.empty_like(ns[0]), []
    for k, n in enumerate(ns):
        buffer.copy_(n)  # a compiled network overwrites its output
        d, state, _ = correct_scheduled(buffer, state, schedule, k)
        made.append(d.clone())
    assert torch.equal(made[0], ns[0])
    assert torch.allclose(made[1], ns[1] - 0.4 * (ns[0] - ns[1]))
    assert torch.allclose(made[2], ns[2] - 0.7 * (ns[1] - ns[2]) + 0.3 * (ns[0] - ns[2]))
    assert len(state.previous) == 2


def test_another_shape_starts_a_new_run() -> None:
    schedule = CalibratedSchedule(SIGMAS, GAINS)
    n, other = fields(7, 1)[0], fields(7, 1, (1, 2, 4, 5))[0]
    _, state, _ = correct_scheduled(n, LMLState(), schedule, 0)
    made, state, info = correct_scheduled(other, state, schedule, 1)
    assert torch.equal(made, other)
    assert info.identity.all()
    assert len(state.previous) == 1


@pytest.mark.parametrize("restore_norm", [False, True])
def test_a_direction_of_length_zero_is_none(restore_norm: bool) -> None:
    """n - g (p - n) with p = 2 n and g = 1 is 0: no norm can be restored, and a step along 0 would be none at all."""
    n, other = fields(8, 2)
    before = torch.cat([2 * n[:1], other[1:]])
    made, info = combine(n, [before], [1.0], restore_norm=restore_norm)
    assert torch.equal(made[0], n[0]) and not torch.equal(made[1], n[1])
    assert info.identity.tolist() == [True, False, False]
    assert info.gain[:, 0].tolist() == [0.0, 1.0, 1.0] and info.angle[0] == 0 and (info.angle[1:] > 0).all()


@pytest.mark.parametrize("restore_norm", [False, True])
def test_gradients_pass_to_this_prediction_and_to_no_earlier_one(restore_norm: bool) -> None:
    schedule = CalibratedSchedule(SIGMAS, GAINS, restore_norm)
    ns = [n[:, 0, 0] for n in fields(9, 3)]
    earlier = ns[0].clone().requires_grad_()
    first, state, _ = correct_scheduled(earlier, LMLState(), schedule, 0)
    assert first is earlier and not state.previous[0].requires_grad
    _, state, _ = correct_scheduled(ns[1], state, schedule, 1)

    def corrected(n: Tensor) -> Tensor:
        d, following, info = correct_scheduled(n, state, schedule, 2)
        assert not any(t.requires_grad for t in (*info, *following.previous))
        return d

    assert torch.autograd.gradcheck(corrected, (ns[2].requires_grad_(),))


@pytest.mark.parametrize("restore_norm", [False, True])
def test_no_gradient_is_nan(restore_norm: bool) -> None:
    """Of a sample of zeros, one whose correction is along it, and one whose corrected direction is 0."""
    n = fields(10, 1, (4, 5))[0]
    before = torch.stack([n[3], 0 * n[1], 2 * n[2], n[0]])
    n[0] = 0
    n.requires_grad_()
    made, info = combine(n, [before], [1.0], restore_norm=restore_norm)
    made.sum().backward()
    assert n.grad is not None and n.grad.isfinite().all()
    assert info.identity.tolist() == [restore_norm or True, False, True, False]
    assert torch.equal(n.grad[info.identity], torch.ones(2, 5, dtype=n.dtype))
    # n + n, of which the restored norm leaves n.
    torch.testing.assert_close(n.grad[1], torch.full((5,), 1.0 if restore_norm else 2.0, dtype=n.dtype))


@pytest.mark.parametrize(
    ("prediction", "index", "named"),
    [
        (torch.arange(4).view(2, 2), 0, r"prediction is a torch.int64 tensor of shape \(2, 2\)"),
        ("x", 0, "prediction is a str"),
        (torch.zeros(3), 0, r"prediction is a torch.float32 tensor of shape \(3,\)"),
        (torch.zeros(2, 3), -1, "index=-1 is no step of this schedule; give a whole number from 0 to 2"),
        (torch.zeros(2, 3), 3, "index=3 is no step"),
        (torch.zeros(2, 3), 1.0, "index=1.0 is no step"),
        (torch.zeros(2, 3), True, "index=True is no step"),
    ],
)
def test_what_is_no_step_is_refused(prediction: Any, index: Any, named: str) -> None:
    with pytest.raises(LMLError, match=named):
        correct_scheduled(prediction, LMLState(), CalibratedSchedule(SIGMAS, GAINS), index)


def test_another_dtype_starts_a_new_run() -> None:
    schedule = CalibratedSchedule(SIGMAS, GAINS)
    n, other = fields(11, 2)
    _, state, _ = correct_scheduled(n, LMLState(), schedule, 0)
    made, state, info = correct_scheduled(other.float(), state, schedule, 1)
    assert torch.equal(made, other.float()) and info.identity.all() and state.step == 1

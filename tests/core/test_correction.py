"""`lm_direction` and `correct`: the paper's formula as oracle, identity cases, float types, state and info."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from lmlangevin.core import LMLConfig, LMLError, LMLInfo, LMLState, correct, lm_direction, passes
from lmlangevin.core.lowrank import solve

DTYPES = [torch.float16, torch.bfloat16, torch.float32, torch.float64]
SHAPES = [(3, 50), (2, 9, 8), (2, 3, 8, 8), (2, 4, 2, 5, 5)]


def pair(seed: int, shape: tuple[int, ...], dtype: torch.dtype = torch.float32, step: float = 0.5) -> list[Tensor]:
    g = torch.Generator().manual_seed(seed)
    n = torch.randn(shape, generator=g, dtype=torch.float64)
    previous = n + step * torch.randn(shape, generator=g, dtype=torch.float64)
    return [n.to(dtype), previous.to(dtype)]


def norms(x: Tensor) -> Tensor:
    return x.double().flatten(1).norm(dim=1)


def measured_angle(a: Tensor, b: Tensor) -> Tensor:
    """By atan2 of |a - b| and |a + b| of the unit vectors: exact for small angles too."""
    a, b = (x.double().flatten(1) / norms(x)[:, None] for x in (a, b))
    return 2 * torch.atan2((a - b).norm(dim=1), (a + b).norm(dim=1))


def textbook(n: Tensor, previous: Tensor, kappa: float, damping: float, absolute: bool) -> Tensor:
    """arXiv:2505.24222 as written: Sherman-Morrison, then the norm of n, in float64."""
    n, previous = n.double(), previous.double()
    out = []
    for v, p in zip(n.flatten(1), previous.flatten(1), strict=True):
        b = kappa * p + (1 - kappa) * v
        lam = damping if absolute else damping * (b @ b)
        solved = (v - b * (b @ v) / (lam + b @ b)) / lam
        out.append(v.norm() * solved / solved.norm())
    return torch.stack(out).view(n.shape)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("absolute", [False, True])
def test_the_papers_formula_in_float64(shape: tuple[int, ...], absolute: bool) -> None:
    for i, kappa in enumerate((-0.8, -0.001, 0.3, 1.0)):
        for damping in (0.01, 1.0, 40.0):
            n, previous = pair(len(shape) * 10 + i, shape, torch.float64)
            got = lm_direction(n, previous, kappa=kappa, damping=damping, absolute=absolute)
            torch.testing.assert_close(got, textbook(n, previous, kappa, damping, absolute), rtol=1e-10, atol=1e-12)
            config = LMLConfig(kappa=kappa, damping=damping, damping_mode="absolute" if absolute else "relative")
            _, state, _ = correct(previous, LMLState(), config)
            assert torch.equal(correct(n, state, config)[0], got)


def test_the_closed_form() -> None:
    n, previous = pair(31, (2, 3, 6, 6), torch.float64)
    kappa, mu = 0.4, 0.25
    got = lm_direction(n, previous, kappa=kappa, damping=mu)
    for i in range(2):
        v, p = n[i].flatten(), previous[i].flatten()
        d = p - v
        across = d - v * (v @ d) / (v @ v)
        b = v + kappa * d
        g = kappa * (v @ b) / (mu * (b @ b) + kappa**2 * (across @ across))
        want = (v - g * across) / torch.sqrt(1 + g**2 * (across @ across) / (v @ v))
        torch.testing.assert_close(got[i].flatten(), want, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_norm_dtype_and_shape_are_kept(dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    n, previous = pair(41 + len(shape), shape, dtype)
    for kappa, damping in ((0.5, 1.0), (-0.5, 0.05), (0.001, 0.0005), (1.0, 1e-4)):
        d = lm_direction(n, previous, kappa=kappa, damping=damping)
        assert d.dtype == dtype and d.shape == n.shape
        # Storing d rounds every element by eps / 2 at most.
        torch.testing.assert_close(norms(d), norms(n), rtol=4 * torch.finfo(dtype).eps, atol=0)
        assert (measured_angle(d, n) > 1e-3).all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32], ids=str)
def test_narrow_types_agree_with_float64(dtype: torch.dtype) -> None:
    n, previous = pair(51, (3, 4, 8, 8), dtype)
    for kappa, damping in ((0.5, 1.0), (-0.7, 0.1), (0.001, 0.002), (0.5, 1e-4)):
        want = lm_direction(n.double(), previous.double(), kappa=kappa, damping=damping)
        got = lm_direction(n, previous, kappa=kappa, damping=damping)
        error = norms(got.double() - want) / norms(n)
        assert (error <= torch.finfo(dtype).eps * (1 + (0 if dtype != torch.float32 else 16 / damping**0.5))).all()


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    seed=st.integers(0, 10**6),
    kappa=st.floats(-1, 1),
    log_mu=st.floats(-40, 6),
    log_step=st.floats(-9, 3),
    along=st.sampled_from([0.0, -1.0, -2.0, 1.0, 0.5, 1.3, 100.0]),
    dtype=st.sampled_from(DTYPES),
    size=st.sampled_from([2**19, 7]),
    graph=st.booleans(),
)
def test_never_nan_and_always_the_norm(
    seed: int, kappa: float, log_mu: float, log_step: float, along: float, dtype: torch.dtype, size: int, graph: bool
) -> None:
    g = torch.Generator().manual_seed(seed)
    n = torch.randn(2, 24, generator=g, dtype=torch.float64).to(dtype)
    previous = (along * n.double() + 10**log_step * torch.randn(2, 24, generator=g, dtype=torch.float64)).to(dtype)
    mu = 10.0**log_mu
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(passes, "CPU_BLOCK", size)
        # With gradients the passes go over whole tensors, as they do compiled.
        d = lm_direction(n, previous.requires_grad_(graph), kappa=kappa, damping=mu).detach()
    assert d.isfinite().all()
    assert (norms(d) / norms(n) - 1).abs().max() <= 16 * torch.finfo(dtype).eps


@pytest.mark.parametrize("size", [1e-5, 1e-6, 1e-8])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_where_in_the_prediction_its_size_lies_does_not_matter(
    size: float, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    n, previous = pair(55, (2, 4, 64, 64), torch.float64)
    n[:, 0] *= size
    n, previous = n.to(dtype), previous.to(dtype)
    want = lm_direction(n.double(), previous.double(), kappa=0.4, damping=0.4)
    assert (measured_angle(want, n.double()) > 0.1).all()
    for block in (2**19, 2**13, 5000):
        monkeypatch.setattr(passes, "CPU_BLOCK", block)
        for p in (previous, previous.clone().requires_grad_()):
            d = lm_direction(n, p, kappa=0.4, damping=0.4).detach()
            eps = torch.finfo(dtype).eps
            torch.testing.assert_close(norms(d), norms(n), rtol=2 * eps + 1e-12, atol=0)
            assert (norms(d.double() - want) <= 4 * max(eps, 1e-12) * norms(n)).all()


@pytest.mark.parametrize("mu", [1e-3, 1e-5, 1e-8])
def test_predictions_on_a_line_keep_the_norm_at_rank_two(mu: float) -> None:
    n, step = pair(56, (20, 3072))
    step = 0.3 * (step - n)
    state, config = LMLState(), LMLConfig(kappa=0.5, damping=mu, rank=2)
    d = n
    for prediction in (n + 2 * step, n + step, n):
        d, state, _ = correct(prediction, state, config)
    torch.testing.assert_close(norms(d), norms(n), rtol=5e-3, atol=0)
    assert (measured_angle(d, n) > 0.05).all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=str)
def test_a_previous_prediction_of_zero_turns_nothing(dtype: torch.dtype) -> None:
    n = (torch.randn(3, 64, generator=torch.Generator().manual_seed(57)) * 1e15).to(dtype)
    for previous in (0 * n, n.clone(), 2 * n):
        for damping, absolute in ((1.0, True), (1e-30, False), (1e-39, False)):
            d = lm_direction(n, previous, kappa=0.5, damping=damping, absolute=absolute)
            torch.testing.assert_close(d, n, rtol=0, atol=0)


@pytest.mark.parametrize(("dtype", "size"), [
    (torch.float16, 6e4), (torch.float16, 6e-8), (torch.float16, 1e-5),
    (torch.bfloat16, 3e38), (torch.bfloat16, 1e-38), (torch.bfloat16, 1e-20),
    (torch.float32, 1e38), (torch.float32, 3e38), (torch.float32, 1e-38), (torch.float32, 1e-44), (torch.float32, 1e19),
    (torch.float64, 1e307), (torch.float64, 1e-307), (torch.float64, 1e-160), (torch.float64, 1e154),
])  # fmt: skip
def test_huge_and_tiny_values_stay_finite(dtype: torch.dtype, size: float) -> None:
    g = torch.Generator().manual_seed(61)
    n, previous = (((torch.rand(3, 40, generator=g, dtype=torch.float64) - 0.5) * 2 * size).to(dtype) for _ in "ab")
    previous[2] = -n[2]
    for kappa in (0.5, -1.0, 0.001):
        for damping in (1e-6, 1.0, 1e6):
            for absolute in (False, True):
                d = lm_direction(n, previous, kappa=kappa, damping=damping, absolute=absolute)
                assert d.isfinite().all(), (kappa, damping, absolute)
    mixed = lm_direction(n, torch.ones_like(n), kappa=0.5, damping=1.0)
    assert mixed.isfinite().all()


@pytest.mark.parametrize("size", [1e-18, 3e-23])
def test_tiny_float32_keeps_its_norm(size: float) -> None:
    n, previous = (size * t for t in pair(62, (4, 16)))
    d = lm_direction(n, previous, kappa=0.5, damping=1.0)
    torch.testing.assert_close(norms(d), norms(n), rtol=1e-5, atol=0)


def test_identity_cases_are_bit_identical() -> None:
    for dtype in DTYPES:
        n, previous = pair(71, (2, 3, 5, 5), dtype)
        n[0, 0, 0, 0] = -0.0
        assert lm_direction(n, None, kappa=0.5, damping=1.0) is n
        assert torch.equal(lm_direction(n, previous, kappa=0, damping=1.0), n)
        by_tensor = lm_direction(n, previous, kappa=torch.tensor([0.0, 0.5]), damping=1.0)
        assert torch.equal(by_tensor[0], n[0]) and not torch.equal(by_tensor[1], n[1])
        assert torch.signbit(by_tensor[0, 0, 0, 0])
        zero = torch.cat([torch.zeros_like(n[:1]), n[1:]])
        d = lm_direction(zero, previous, kappa=0.5, damping=1.0)
        assert torch.equal(d[0], zero[0]) and not torch.equal(d[1], n[1])
        for config in (LMLConfig(kappa=0.0), LMLConfig(gain=0)):
            _, state, first = correct(previous, LMLState(), LMLConfig(kappa=0.5))
            corrected, _, info = correct(n, state, config)
            assert torch.equal(corrected, n) and first.identity.all() and info.identity.all()
            assert (info.gain == 0).all() and (info.angle == 0).all()


@pytest.mark.parametrize("bad", [math.inf, -math.inf, math.nan])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("where", ["prediction", "previous"])
def test_a_broken_sample_touches_no_other(bad: float, dtype: torch.dtype, where: str) -> None:
    n, previous = pair(81, (3, 4, 4, 4), dtype)
    clean = lm_direction(n, previous, kappa=0.5, damping=0.1)
    broken = n.clone(), previous.clone()
    broken[0 if where == "prediction" else 1][1, 2, 0, 3] = bad
    d = lm_direction(*broken, kappa=0.5, damping=0.1)
    torch.testing.assert_close(d[1], broken[0][1], rtol=0, atol=0, equal_nan=True)
    assert torch.equal(d[0], clean[0]) and torch.equal(d[2], clean[2])
    _, state, _ = correct(broken[1], LMLState(), LMLConfig(kappa=0.5, damping=0.1))
    corrected, _, info = correct(broken[0], state, LMLConfig(kappa=0.5, damping=0.1))
    assert torch.equal(corrected[::2], clean[::2])
    assert info.identity.tolist() == [False, True, False]
    assert info.gain.isfinite().all() and info.angle.isfinite().all()


def test_samples_do_not_see_each_other() -> None:
    n, previous = pair(91, (5, 3, 7, 7))
    together = lm_direction(n, previous, kappa=0.5, damping=0.3)
    for i in range(5):
        alone = lm_direction(n[i : i + 1], previous[i : i + 1], kappa=0.5, damping=0.3)
        torch.testing.assert_close(together[i : i + 1], alone, rtol=1e-6, atol=1e-6)
    order = torch.tensor([3, 1, 4, 0, 2])
    shuffled = lm_direction(n[order], previous[order], kappa=0.5, damping=0.3)
    torch.testing.assert_close(shuffled, together[order], rtol=1e-6, atol=1e-6)


def test_memory_layout_does_not_matter() -> None:
    n, previous = pair(101, (2, 4, 6, 6))
    want = lm_direction(n, previous, kappa=0.5, damping=0.3)
    last = torch.channels_last
    layouts = [
        (n.contiguous(memory_format=last), previous.contiguous(memory_format=last)),
        (n.contiguous(memory_format=last), previous),
        (n.transpose(2, 3).contiguous().transpose(2, 3), previous),
        (torch.stack([n, n], dim=-1)[..., 0], torch.cat([previous, previous], dim=1)[:, :4]),
    ]
    for a, b in layouts:
        torch.testing.assert_close(lm_direction(a, b, kappa=0.5, damping=0.3), want, rtol=1e-5, atol=1e-6)
    expanded = previous[:1].expand(2, -1, -1, -1)
    want = lm_direction(n, expanded.contiguous(), kappa=0.5, damping=0.3)
    torch.testing.assert_close(lm_direction(n, expanded, kappa=0.5, damping=0.3), want, rtol=1e-5, atol=1e-6)


def test_rank_one_equals_the_rank_r_code() -> None:
    n, previous = pair(111, (2, 30), torch.float64)
    _, one_state, _ = correct(previous, LMLState(), LMLConfig(kappa=0.5, damping=0.2))
    one, _, one_info = correct(n, one_state, LMLConfig(kappa=0.5, damping=0.2))
    _, many_state, _ = correct(previous, LMLState(), LMLConfig(kappa=0.5, damping=0.2, rank=3))
    many, many_state, many_info = correct(n, many_state, LMLConfig(kappa=0.5, damping=0.2, rank=3))
    # With one previous prediction so far, rank three is rank one.
    assert torch.equal(one, many) and torch.equal(one_info.gain, many_info.gain)
    assert torch.equal(one, lm_direction(n, previous, kappa=0.5, damping=0.2))
    # Two equal columns with lambda = mu tr / 2 are one column of sqrt(2) b, hence of half the damping: of mu / 2.
    _, state, _ = correct(previous, LMLState(), LMLConfig(rank=2))
    _, state, _ = correct(previous, state, LMLConfig(rank=2))
    twice, _, _ = correct(n, state, LMLConfig(kappa=0.5, damping=0.2, rank=2))
    torch.testing.assert_close(twice, lm_direction(n, previous, kappa=0.5, damping=0.1), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("gain", [0.7, -0.3, 0.02, 2.0])
def test_gain_is_what_info_reports_when_predictions_change_little(gain: float) -> None:
    n, previous = pair(121, (3, 3, 8, 8), torch.float64, step=0.05)
    config = LMLConfig(gain=gain)
    _, state, _ = correct(previous, LMLState(), config)
    d, _, info = correct(n, state, config)
    torch.testing.assert_close(info.gain, torch.full_like(info.gain, gain), rtol=5e-3, atol=0)
    across = previous - n
    across = across - n * ((n * across).flatten(1).sum(1) / norms(n) ** 2).view(-1, 1, 1, 1)
    want = n - gain * across
    want = want * (norms(n) / norms(want)).view(-1, 1, 1, 1)
    torch.testing.assert_close(d, want, rtol=0, atol=5e-3 * abs(gain) * 0.2)


def test_one_number_stands_for_two() -> None:
    n, previous = pair(131, (3, 3, 8, 8), torch.float64, step=0.1)
    a = lm_direction(n, previous, kappa=0.5, damping=1.0)
    b = lm_direction(n, previous, kappa=0.001, damping=0.002)
    turn = norms(a - n)
    assert (norms(a - b) <= 0.02 * turn).all()
    assert (turn > 0.02 * norms(n)).all()
    assert LMLConfig(gain=0.5).resolved() == pytest.approx((0.001, 0.002))
    assert LMLConfig(gain=-0.5).resolved() == pytest.approx((-0.001, 0.002))


def test_a_negative_kappa_leans_towards_the_previous_prediction() -> None:
    n, previous = pair(141, (4, 60), step=0.3)
    before = measured_angle(n, previous)
    assert (measured_angle(lm_direction(n, previous, kappa=0.2, damping=1.0), previous) > before + 1e-3).all()
    assert (measured_angle(lm_direction(n, previous, kappa=-0.2, damping=1.0), previous) < before - 1e-3).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("rank", [1, 2, 4])
def test_info_reports_the_angle_that_is_there(dtype: torch.dtype, rank: int) -> None:
    config = LMLConfig(kappa=0.4, damping=0.2, rank=rank)
    state = LMLState()
    g = torch.Generator().manual_seed(150 + rank)
    n = torch.randn(3, 4, 5, generator=g, dtype=dtype)
    for step in range(6):
        d, state, info = correct(n, state, config)
        assert isinstance(info, LMLInfo)
        columns = min(rank, max(step, 1))
        assert info.gain.shape == (3, columns) and info.angle.shape == (3,) and info.identity.shape == (3,)
        assert info.identity.dtype == torch.bool and info.identity.all() == (step == 0)
        torch.testing.assert_close(info.angle, measured_angle(d, n), rtol=0, atol=8 * torch.finfo(dtype).eps)
        assert step == 0 or (info.angle > 1e-3).all()
        n = n + 0.4 * torch.randn(3, 4, 5, generator=g, dtype=dtype)


@pytest.mark.parametrize("change", ["shape", "batch", "dtype", "device"])
def test_a_changed_prediction_starts_afresh(change: str) -> None:
    config = LMLConfig(kappa=0.5, rank=2)
    first, _ = pair(161, (2, 3, 4, 4))
    state = LMLState()
    for _ in range(3):
        _, state, _ = correct(first, state, config)
    assert state.step == 3 and len(state.previous) == 2
    other = {
        "shape": lambda: torch.randn(2, 3, 4, 5, generator=torch.Generator().manual_seed(1)),
        "batch": lambda: torch.randn(5, 3, 4, 4, generator=torch.Generator().manual_seed(2)),
        "dtype": lambda: first.half(),
        "device": lambda: torch.empty(2, 3, 4, 4, device="meta"),
    }[change]()
    d, state, info = correct(other, state, config)
    assert d is other and state.step == 1 and len(state.previous) == 1
    if change != "device":
        assert info.identity.all()
    assert info.gain.shape == (other.shape[0], 1)


def test_state_in_state_out() -> None:
    config = LMLConfig(kappa=0.5, damping=0.1, rank=2)
    g = torch.Generator().manual_seed(171)
    predictions = [torch.randn(2, 3, 4, 4, generator=g) for _ in range(4)]
    state = LMLState()
    states = [state]
    for n in predictions[:3]:
        _, state, _ = correct(n, state, config)
        states.append(state)
    snapshot = [[p.clone() for p in s.previous] for s in states]
    a, _, _ = correct(predictions[3], states[3], config)
    b, _, _ = correct(predictions[3], states[3], config)
    assert torch.equal(a, b)
    for s, kept in zip(states, snapshot, strict=True):
        assert len(s.previous) == len(kept) and all(torch.equal(x, y) for x, y in zip(s.previous, kept, strict=True))
    assert torch.equal(states[3].previous[0], predictions[2]) and torch.equal(states[3].previous[1], predictions[1])
    assert [s.step for s in states] == [0, 1, 2, 3]


def test_the_kept_copy_survives_an_overwritten_buffer() -> None:
    config = LMLConfig(kappa=0.5, damping=0.1)
    n, previous = pair(181, (2, 3, 4, 4))
    buffer = previous.clone()
    corrected, state, _ = correct(buffer, LMLState(), config)
    buffer.copy_(n)
    d, state, _ = correct(buffer, state, config)
    assert torch.equal(d, lm_direction(n, previous, kappa=0.5, damping=0.1))
    d.zero_()  # the caller may also write into what it was given
    corrected.zero_()
    again, _, _ = correct(previous, state, config)
    assert torch.equal(again, lm_direction(previous, n, kappa=0.5, damping=0.1))


def test_two_runs_from_one_fresh_state_are_equal() -> None:
    g = torch.Generator().manual_seed(191)
    predictions = [torch.randn(2, 40, generator=g) for _ in range(5)]

    def run() -> list[Tensor]:
        state, out = LMLState(), []
        for n in predictions:
            d, state, _ = correct(n, state, LMLConfig(kappa=0.3, damping=0.5, rank=3))
            out.append(d)
        return out

    assert all(torch.equal(a, b) for a, b in zip(run(), run(), strict=True))


def test_empty_batches_pass() -> None:
    empty = torch.empty(0, 3, 4, 4)
    assert lm_direction(empty, empty.clone(), kappa=0.5, damping=1.0).shape == (0, 3, 4, 4)


@pytest.mark.parametrize(
    ("prediction", "words"),
    [
        (torch.ones(3), "shape (3,)"),
        (torch.ones(3, 4, dtype=torch.int64), "int64"),
        (torch.ones(3, 4, dtype=torch.complex64), "complex64"),
        ([1.0, 2.0], "list"),
    ],
    ids=["one dimension", "integers", "complex", "list"],
)
def test_what_is_no_prediction_is_refused(prediction: object, words: str) -> None:
    for call in (
        lambda: lm_direction(prediction, None, kappa=0.5, damping=1.0),  # type: ignore[arg-type]
        lambda: correct(prediction, LMLState(), LMLConfig()),  # type: ignore[arg-type]
    ):
        with pytest.raises(LMLError) as caught:
            call()
        assert "prediction" in str(caught.value) and words in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("kappa", [1.5, -2.0, math.nan, math.inf, "0.5"])
def test_lm_direction_checks_kappa(kappa: float) -> None:
    n, previous = pair(201, (2, 5))
    with pytest.raises(LMLError, match="kappa="):
        lm_direction(n, previous, kappa=kappa, damping=1.0)


@pytest.mark.parametrize("damping", [0.0, -1.0, math.nan, math.inf])
def test_lm_direction_checks_damping(damping: float) -> None:
    n, previous = pair(202, (2, 5))
    with pytest.raises(LMLError, match="damping="):
        lm_direction(n, previous, kappa=0.5, damping=damping)


@pytest.mark.parametrize(
    "previous", [torch.ones(2, 6), torch.ones(2, 5, dtype=torch.float64), torch.ones(2, 5, device="meta")], ids=str
)
def test_lm_direction_wants_a_previous_that_matches(previous: Tensor) -> None:
    with pytest.raises(LMLError, match="previous has shape"):
        lm_direction(pair(203, (2, 5))[0], previous, kappa=0.5, damping=1.0)


def test_the_state_holds_no_graph() -> None:
    n, previous = pair(211, (2, 5))
    weight = torch.ones(1, requires_grad=True)
    _, state, _ = correct(weight * previous, LMLState(), LMLConfig(kappa=0.5))
    assert not state.previous[0].requires_grad
    corrected, state, _ = correct(weight * n, state, LMLConfig(kappa=0.5))
    assert corrected.requires_grad and not state.previous[0].requires_grad


def test_a_kappa_of_another_batch_is_refused_in_words() -> None:
    n, previous = pair(212, (2, 5))
    with pytest.raises(LMLError, match="kappa"):
        lm_direction(n, previous, kappa=torch.full((3,), 0.5), damping=1.0)


@pytest.mark.parametrize("rank", [1, 2])
def test_no_gradient_is_nan(rank: int) -> None:
    """Of samples that are kept it is that of doing nothing; the others have theirs as if they were alone."""
    g = torch.Generator().manual_seed(71 + rank)
    n, *previous = torch.randn(1 + rank, 4, 2, 3, generator=g, dtype=torch.float64)
    n[0], previous[0][1], n[2] = 0, torch.inf, 1e-200
    kappa = torch.tensor([0.5, 0.5, 0.5, 0.4], dtype=torch.float64)
    tensors = [t.requires_grad_() for t in (n, *previous, kappa)]
    weights = torch.randn(4, 2, 3, generator=g, dtype=torch.float64)
    solved = solve(n, previous, kappa, 0.3, absolute=False)
    assert solved.identity.tolist() == [True, True, True, False]
    (solved.direction * weights).sum().backward()
    assert all(t.grad is not None and t.grad.isfinite().all() for t in tensors)
    assert torch.equal(n.grad[:3], weights[:3]) and not any(p.grad[:3].any() for p in previous)  # type: ignore[index]
    alone = [t.detach()[3:].requires_grad_() for t in tensors]
    (solve(alone[0], alone[1:-1], alone[-1], 0.3, absolute=False).direction * weights[3:]).sum().backward()
    for whole, one in zip(tensors, alone, strict=True):
        torch.testing.assert_close(whole.grad[3:], one.grad)  # type: ignore[index]


def test_a_run_keeps_gradients_of_its_own_step_alone() -> None:
    n, before = torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(75), dtype=torch.float64)
    n[1] = 0
    n.requires_grad_()
    _, state, _ = correct(before.requires_grad_(), LMLState(), LMLConfig(gain=0.5))
    out = torch.empty_like(before)
    d, state, info = correct(n, state, LMLConfig(gain=0.5), out=out)
    assert d is out and not any(t.requires_grad for t in (*state.previous, *info))
    d.sum().backward()
    assert before.grad is None
    assert n.grad is not None and n.grad.isfinite().all() and torch.equal(n.grad[1], torch.ones(4, dtype=n.dtype))

"""The two passes over memory: in blocks and whole they are one formula, with nothing of the size of n between."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from lmlangevin.core import LMLConfig, LMLError, LMLState, correct, lm_direction, passes
from lmlangevin.core.passes import Moments, Passes, sample_hash

DTYPES = [torch.float16, torch.bfloat16, torch.float32, torch.float64]


def moments(n: Tensor, previous: list[Tensor]) -> Moments:
    return Passes(n, previous).moments()


def draw(seed: int, shape: tuple[int, ...], rank: int, dtype: torch.dtype, distance: float = 0.4) -> list[Tensor]:
    g = torch.Generator().manual_seed(seed)
    n = torch.randn(shape, generator=g, dtype=torch.float64)
    previous = [n + distance * (j + 1) * torch.randn(shape, generator=g, dtype=torch.float64) for j in range(rank)]
    return [t.to(dtype) for t in (n, *previous)]


@pytest.fixture
def blocks(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Set the number of elements of a block."""
    return lambda size: monkeypatch.setattr(passes, "CPU_BLOCK", size)


def dense_moments(n: Tensor, previous: list[Tensor]) -> tuple[Tensor, Tensor, Tensor]:
    """||n||^2, (r, batch) shares along n, (r, r, batch) products across, in float64."""
    x = n.double().flatten(1)
    norm2 = (x * x).sum(1)
    offs = torch.stack([p.double().flatten(1) - x for p in previous])
    along = (offs * x).sum(2) / norm2
    across = offs - along[..., None] * x
    return norm2, along, torch.einsum("ibk,jbk->ijb", across, across) / norm2


@settings(max_examples=80, deadline=None, derandomize=True)
@given(
    seed=st.integers(0, 10**6),
    shape=st.sampled_from([(1, 1), (1, 7), (3, 50), (5, 3, 4), (2, 3, 5, 5), (7, 2), (1, 300)]),
    rank=st.integers(1, 4),
    size=st.sampled_from([1, 2, 7, 16, 50, 64, 10**6]),
    dtype=st.sampled_from(DTYPES),
)
def test_blocks_of_any_size_find_the_same(
    seed: int, shape: tuple[int, ...], rank: int, size: int, dtype: torch.dtype
) -> None:
    n, *previous = draw(seed, shape, rank, dtype)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(passes, "CPU_BLOCK", size)
        both = Passes(n, previous)
        found = both.moments()
        scale = torch.linspace(0.5, 1.5, shape[0], dtype=torch.float64)
        gains = [0.3 * scale - 0.1 * j for j in range(rank)]
        keep = torch.arange(shape[0]) % 3 == 1
        d, copy = both.write(scale, gains, keep, copy=True)
    norm2, along, gram = dense_moments(n, previous)
    eps = torch.finfo(torch.promote_types(dtype, torch.float32)).eps
    count = n[0].numel()
    allowed = 8 * eps * (1 + count**0.5)
    torch.testing.assert_close(found.norm2.double(), norm2, rtol=allowed, atol=0)
    size_of = 1 + along.abs().max() + gram.abs().max()
    torch.testing.assert_close(torch.stack(found.along).double(), along, rtol=0, atol=float(allowed * size_of))
    for i in range(rank):
        for j in range(rank):
            torch.testing.assert_close(found.gram[i][j].double(), gram[i, j], rtol=0, atol=float(allowed * size_of**2))
    assert copy is not None and torch.equal(copy, n) and copy.data_ptr() != n.data_ptr()
    view = (-1,) + (1,) * (n.ndim - 1)
    want = n.double() * scale.view(view)
    for p, gain, share in zip(previous, gains, along, strict=True):
        want = want - (p.double() - n.double() * (1 + share.view(view))) * gain.view(view)
    assert torch.equal(d[keep], n[keep])
    torch.testing.assert_close(d[~keep].double(), want[~keep], rtol=4 * torch.finfo(dtype).eps, atol=16 * eps)


@pytest.mark.parametrize("distance", [1e-3, 1e-4, 1e-5, 1e-6])
@pytest.mark.parametrize("along", [-0.5, 0.0, 2.0])
def test_what_is_across_a_nearly_parallel_prediction_keeps_its_digits(
    distance: float, along: float, blocks: Callable[[int], None]
) -> None:
    """The textbook difference of squares would have none left in float32 at 1e-4; the shift comes from one block."""
    blocks(1000)
    g = torch.Generator().manual_seed(round(-1e7 * distance + 10 * along) % 2**31)
    n = torch.randn(1, 20_000, generator=g)
    p = n + (along * n.double() + distance * torch.randn(1, 20_000, generator=g, dtype=torch.float64)).float()
    found = moments(n, [p])
    _, want_along, want = dense_moments(n, [p])
    # What rounds off is a share of eps of each element of D, at random.
    eps = torch.finfo(torch.float32).eps
    allowed = 4 * eps * (1 + abs(along)) / distance + 1e-4
    assert abs(float(found.gram[0][0] / want[0, 0]) - 1) < allowed
    assert abs(float(found.along[0] - want_along[0])) < 1e-6 * (1 + abs(along))


def test_a_large_sample_is_summed_to_float32(blocks: Callable[[int], None]) -> None:
    n, p = draw(7, (1, 2**20), 1, torch.float32)
    found, (norm2, _, gram) = moments(n, [p]), dense_moments(n, [p])
    assert abs(float(found.norm2 / norm2) - 1) < 1e-6
    assert abs(float(found.gram[0][0] / gram[0, 0]) - 1) < 1e-6


class Largest(TorchDispatchMode):
    """Remembers the largest tensor that an operation has allocated, and how many were large."""

    def __init__(self, limit: int) -> None:
        super().__init__()
        self.limit, self.large = limit, []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        known = {t.untyped_storage().data_ptr() for t in args if isinstance(t, Tensor)}
        name = func.overloadpacket.__name__
        if isinstance(out, Tensor) and out.numel() > self.limit and out.untyped_storage().data_ptr() not in known:
            self.large.append(name)
        return out


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("rank", [1, 3])
@pytest.mark.parametrize("last", [False, True], ids=["contiguous", "channels_last"])
def test_nothing_of_the_predictions_size_is_between(
    dtype: torch.dtype, rank: int, last: bool, blocks: Callable[[int], None]
) -> None:
    config = LMLConfig(kappa=0.5, damping=0.2, rank=rank)
    predictions = draw(11, (2, 4, 256, 256), rank, dtype)
    if last:
        predictions = [t.contiguous(memory_format=torch.channels_last) for t in predictions]
    n, *previous = predictions
    state = LMLState()
    for p in reversed(previous):
        _, state, _ = correct(p, state, config)
    for keys, allocated in (
        ({}, 2),  # the result and the copy
        ({"assume_owned": True}, 1),
        ({"out": torch.empty_like(n)}, 1),
        ({"out": torch.empty_like(n), "assume_owned": True}, 0),
    ):
        blocks(2**14)
        with Largest(2 * (rank + 2) * 2**14) as seen:
            correct(n, state, config, **keys)
        assert seen.large == ["empty"] * allocated, keys


def test_the_result_is_laid_out_like_the_prediction() -> None:
    n, p = draw(13, (2, 4, 6, 5), 1, torch.float32)
    for layout in (torch.channels_last, torch.contiguous_format):
        a, b = n.contiguous(memory_format=layout), p.contiguous(memory_format=layout)
        d = lm_direction(a, b, kappa=0.5, damping=0.3)
        assert d.stride() == a.stride()
        _, state, _ = correct(b, LMLState(), LMLConfig(kappa=0.5))
        _, state, _ = correct(a, state, LMLConfig(kappa=0.5))
        assert state.previous[0].stride() == a.stride()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_a_device_computes_what_the_host_does(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    """Other blocks, and another way to keep the samples that are kept."""
    n, *previous = draw(37, (5, 4, 6, 5), 2, dtype)
    n[1, 0, 0, 0], previous[0][3, 2, 1, 1] = -0.0, torch.inf
    kappa = torch.tensor([0.5, 0.0, -0.3, 0.5, 1.0], dtype=torch.float64)
    config = LMLConfig(kappa=0.5, damping=0.2, rank=2)

    def results() -> list[Tensor]:
        _, state, _ = correct(previous[1], LMLState(), config)
        _, state, _ = correct(previous[0], state, config)
        return [lm_direction(n, previous[0], kappa=kappa, damping=0.3), correct(n, state, config)[0]]

    host = results()
    monkeypatch.setattr(passes, "_on_host", lambda t: False)
    for mine, other in zip(host, results(), strict=True):
        assert torch.equal(mine, other)
    for row in (1, 3):
        assert torch.equal(host[0][row], n[row]) and torch.signbit(host[0][1, 0, 0, 0])
    assert not torch.equal(host[0][0], n[0]) and torch.equal(host[1][3], n[3]) and not torch.equal(host[1][1], n[1])


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_the_result_may_be_written_anywhere(dtype: torch.dtype) -> None:
    n, p = draw(17, (3, 4, 6, 5), 1, dtype)
    want = lm_direction(n, p, kappa=0.5, damping=0.3)
    places = {
        "new": torch.empty_like(n),
        "strided": torch.empty(3, 4, 6, 10, dtype=dtype)[..., ::2],
        "transposed": torch.empty(3, 4, 5, 6, dtype=dtype).transpose(2, 3),
        "channels_last": torch.empty_like(n, memory_format=torch.channels_last),
        "itself": n.clone(),
    }
    for name, out in places.items():
        source = out if name == "itself" else n
        assert lm_direction(source, p, kappa=0.5, damping=0.3, out=out) is out
        assert torch.equal(out, want), name
    expanded = n[:1].expand(3, -1, -1, -1)
    again = lm_direction(expanded, p, kappa=0.5, damping=0.3)
    torch.testing.assert_close(again, lm_direction(expanded.contiguous(), p, kappa=0.5, damping=0.3))
    first = torch.empty_like(n)
    assert lm_direction(n, None, kappa=0.5, damping=0.3, out=first) is first and torch.equal(first, n)


def test_in_place_and_owned_predictions_give_the_same_run() -> None:
    config = LMLConfig(kappa=0.5, damping=0.2, rank=2)
    predictions = draw(19, (2, 3, 8, 8), 4, torch.float32)

    def run(**keys: Any) -> list[Tensor]:
        state, made = LMLState(), []
        for n in predictions:
            n = n.clone()
            given = {"out": n} if keys.get("in_place") else {"assume_owned": True} if keys else {}
            d, state, _ = correct(n, state, config, **given)
            assert not keys.get("in_place") or d is n
            made.append(d.clone())
        return made

    want = run()
    for other in (run(in_place=True), run(owned=True)):
        assert all(torch.equal(a, b) for a, b in zip(want, other, strict=True))
    n = predictions[0]
    with pytest.raises(LMLError, match="assume_owned=True keeps the prediction that out= would overwrite"):
        correct(n, LMLState(), config, out=n, assume_owned=True)
    _, state, _ = correct(n, LMLState(), config, assume_owned=True)
    assert state.previous[0].data_ptr() == n.data_ptr()


@pytest.mark.parametrize(
    "out", [torch.zeros(2, 5), torch.zeros(3, 4, dtype=torch.float64), 3], ids=["shape", "dtype", "int"]
)
def test_an_out_that_does_not_match_is_refused(out: Any) -> None:
    n, p = draw(23, (3, 4), 1, torch.float32)
    for call in (
        lambda: lm_direction(n, p, kappa=0.5, damping=0.3, out=out),
        lambda: correct(n, LMLState(), LMLConfig(), out=out),
    ):
        with pytest.raises(LMLError, match="out is .*give two that match, or leave out out"):
            call()


def test_gradients_flow_through_whole_tensors() -> None:
    n, p = draw(29, (2, 9), 1, torch.float64)
    n.requires_grad_(True)
    assert torch.autograd.gradcheck(lambda x: lm_direction(x, p, kappa=0.5, damping=0.3), (n,))


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    seed=st.integers(0, 10**6),
    shape=st.sampled_from([(2, 1), (3, 64), (2, 4, 8, 8), (2, 3, 2, 4, 4)]),
    dtype=st.sampled_from(DTYPES),
    edit=st.sampled_from(["one element", "one bit", "sign", "double", "order", "shift", "constant"]),
)
def test_a_hash_tells_whether_a_sample_is_what_it_was(
    seed: int, shape: tuple[int, ...], dtype: torch.dtype, edit: str
) -> None:
    g = torch.Generator().manual_seed(seed)
    t = torch.randn(shape, generator=g, dtype=torch.float64).to(dtype)
    before = sample_hash(t)
    assert before.shape == shape[:1] and before.dtype == torch.int64 and len(set(before.tolist())) == shape[0]
    strided = torch.stack([t, t], -1)[..., 0].transpose(0, -1).contiguous().transpose(0, -1)
    assert torch.equal(sample_hash(strided), before)
    assert torch.equal(sample_hash(t[1:]), before[1:])
    one = t[1].flatten()
    k = seed % len(one)
    if edit == "one element":
        one[k] += 1
    elif edit == "one bit":
        one[k] = torch.nextafter(one[k], one[k] + 1) if dtype in (torch.float32, torch.float64) else 2 * one[k]
    elif edit == "order":
        one = one.flip(0) if len(one) > 1 else -one
    elif edit == "shift":
        one = one.roll(1 + k % max(1, len(one) - 1)) if len(one) > 1 else -one
    else:
        one = {"sign": -one, "double": 2 * one, "constant": one + 0.5}[edit]
    t[1] = one.view(shape[1:])
    assert (sample_hash(t) == before).tolist() == [i != 1 for i in range(shape[0])]


def test_the_two_zeros_are_one_to_a_hash() -> None:
    zeros = torch.zeros(2, 3)
    assert torch.equal(sample_hash(zeros), sample_hash(-zeros))
    assert not torch.equal(sample_hash(zeros), sample_hash(zeros + 1e-45))


@pytest.mark.parametrize("whole", [False, True], ids=["blocks", "whole"])
@pytest.mark.parametrize("share", [1.7, -0.3, 10.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_what_rounding_leaves_across_is_no_direction(whole: bool, share: float, dtype: torch.dtype) -> None:
    """A multiple of n, rounded: at a damping below the square of a rounding error d would be that error's direction.

    Whole, the estimate of the share is bounded, and what the sums of 10 - 4 leave is a rounding error of 36.
    """
    n = torch.randn(2, 20_000, generator=torch.Generator().manual_seed(43), dtype=dtype)
    p = share * n
    tiny = 1e-4 * torch.finfo(dtype).eps ** 2
    n.requires_grad_(whole)
    d = lm_direction(n, p, kappa=0.5, damping=tiny).detach()
    torch.testing.assert_close(d, n.detach(), rtol=8 * torch.finfo(dtype).eps, atol=0)
    assert not moments(n, [p]).gram[0][0].any()
    # What is a little larger is a direction, and is found.
    g = torch.Generator().manual_seed(44)
    apart = p + 1e3 * torch.finfo(dtype).eps * torch.randn(n.shape, generator=g, dtype=dtype)
    assert whole or (moments(n, [apart]).gram[0][0] > 0).all()

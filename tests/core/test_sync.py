"""The core reads nothing back from the device: no method of a tensor that would, and no such operator below it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from lmlangevin.core import AdaptiveState, LMLConfig, LMLState, adapt, correct, lm_direction, passes, sample_hash

READERS = (
    "item", "tolist", "nonzero", "cpu", "numpy", "argwhere", "__bool__", "__float__", "__int__", "__index__",
    "__len__", "__contains__", "is_nonzero", "equal", "allclose",
)  # fmt: skip
OPERATORS = ("_local_scalar_dense", "nonzero", "masked_select", "is_nonzero", "equal", "unique", "item")

INDEXING = ("index", "index_put", "index_put_", "_index_put_impl_")
"""Operators that count the elements of a mask."""


class NoReading(TorchDispatchMode):
    """Refuses every operator whose result the host has to wait for, also where C++ calls it."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        masks = [t for t in args[1] if t is not None and t.dtype == torch.bool] if name in INDEXING else []
        assert name not in OPERATORS and not masks, f"{func} waits for the device"
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("rank", [1, 3])
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("mode", ["relative", "absolute"])
def test_correct_reads_nothing(rank: int, dtype: torch.dtype, mode: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """On the way that tensors of a GPU take; on a CPU the host may count the samples that are kept."""
    monkeypatch.setattr(passes, "_on_host", lambda t: False)
    g = torch.Generator().manual_seed(rank)
    predictions = [torch.randn(2, 3, 4, 4, generator=g).to(dtype) for _ in range(5)]
    predictions[2][1] = torch.nan
    config = LMLConfig(kappa=0.5, damping=0.2, damping_mode=mode, rank=rank)

    def refuse(name: str) -> Any:
        def method(*args: Any, **kwargs: Any) -> Any:
            raise AssertionError(f"Tensor.{name} was called")

        return method

    with monkeypatch.context() as patch, NoReading():
        for name in READERS:
            patch.setattr(torch.Tensor, name, refuse(name), raising=False)
        state, out = LMLState(), []
        for n in predictions:
            d, state, _ = correct(n, state, config)
            out.append(d)
        lm_direction(predictions[0], predictions[1], kappa=0.5, damping=0.2)
        tensors = torch.full_like(predictions[0][:, 0, 0, 0], 0.5)
        lm_direction(predictions[0], predictions[1], kappa=tensors, damping=tensors)
    assert out[-1].isfinite().all() and not torch.equal(out[-1], predictions[-1])


def test_the_guard_guards() -> None:
    with NoReading(), pytest.raises(AssertionError, match="waits for the device"):
        bool(torch.ones(3).sum() > 2)
    with NoReading(), pytest.raises(AssertionError, match="waits for the device"):
        torch.arange(3)[torch.tensor([True, False, True])]


def test_correct_on_tensors_without_data() -> None:
    """Meta tensors have no data: any read of one, and any tensor made on another device, raises."""
    config = LMLConfig(kappa=0.5, damping=0.2, rank=2)
    state = LMLState()
    for step in range(4):
        n = torch.empty(2, 3, 4, 4, dtype=torch.float16, device="meta")
        d, state, info = correct(n, state, config)
        assert d.device.type == "meta" and d.dtype == torch.float16 and d.shape == n.shape
        assert all(t.device.type == "meta" for t in info)
        assert state.step == step + 1


def test_adapt_on_tensors_without_data() -> None:
    state = AdaptiveState()
    for k in range(4):
        n, y = (torch.empty(2, 3, 4, 4, dtype=torch.float16, device="meta") for _ in range(2))
        said = None if k % 2 else torch.empty(2, dtype=torch.bool, device="meta")
        adapted = adapt(n, y, 4.0 / 2**k, 2.0 / 2**k, state, untouched=said)
        state = adapted.state
        assert (adapted.shift is None) == (k == 0) and all(t.device.type == "meta" for t in adapted.info)
    assert sample_hash(torch.empty(2, 3, 4, device="meta")).device.type == "meta"


def test_a_hash_reads_nothing() -> None:
    with NoReading():
        assert sample_hash(torch.ones(2, 3, 4, dtype=torch.float16)).shape == (2,)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_correct_on_cuda_without_a_synchronisation() -> None:
    g = torch.Generator("cuda").manual_seed(3)
    predictions = [torch.randn(2, 3, 8, 8, generator=g, device="cuda") for _ in range(4)]
    config = LMLConfig(kappa=0.5, damping=0.2, rank=2)
    correct(predictions[1], correct(predictions[0], LMLState(), config)[1], config)  # loads the kernels
    before = torch.cuda.get_sync_debug_mode()
    torch.cuda.set_sync_debug_mode("error")
    try:
        state, out = LMLState(), []
        for n in predictions:
            d, state, _ = correct(n, state, config)
            out.append(d)
    finally:
        torch.cuda.set_sync_debug_mode(before)
    state = LMLState()
    for n, d in zip(predictions, out, strict=True):
        host, state, _ = correct(n.cpu(), state, config)
        torch.testing.assert_close(d.cpu(), host, rtol=1e-4, atol=1e-5)


def test_it_compiles_without_a_graph_break() -> None:
    config = LMLConfig(kappa=0.5, damping=0.2, rank=2)
    torch._dynamo.reset()

    def step(n: torch.Tensor, state: LMLState) -> tuple[torch.Tensor, LMLState]:
        d, state, _ = correct(n, state, config)
        return d, state

    compiled = torch.compile(step, fullgraph=True, backend="eager")
    g = torch.Generator().manual_seed(9)
    eager_state, compiled_state = LMLState(), LMLState()
    for _ in range(4):
        n = torch.randn(2, 3, 4, 4, generator=g)
        want, eager_state = step(n, eager_state)
        got, compiled_state = compiled(n, compiled_state)
        torch.testing.assert_close(got, want, rtol=1e-6, atol=1e-6)
        assert compiled_state.step == eager_state.step

"""A compiler takes the core as one graph, and one graph serves all steps and batch sizes of a run.

The graphs are run by torch itself, so that no C++ compiler is needed.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from lmlangevin.core import LMLConfig, LMLState, correct, lm_direction


class Counted:
    """A backend that counts the graphs it is given."""

    def __init__(self) -> None:
        self.graphs = 0

    def __call__(self, module: Any, inputs: Any) -> Callable[..., Any]:
        self.graphs += 1
        return module.forward


@pytest.fixture(autouse=True)
def fresh() -> Any:
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32], ids=str)
@pytest.mark.parametrize("rank", [1, 3])
def test_a_run_is_a_few_graphs_whatever_its_length_and_batch(dtype: torch.dtype, rank: int) -> None:
    backend = Counted()
    config = LMLConfig(kappa=0.5, damping=0.2, rank=rank)
    compiled = torch.compile(lambda n, state: correct(n, state, config), fullgraph=True, dynamic=True, backend=backend)
    g = torch.Generator().manual_seed(rank)

    def run(batch: int, side: int, steps: int) -> None:
        state, plain = LMLState(), LMLState()
        for _ in range(steps):
            n = torch.randn(batch, 3, side, side, generator=g).to(dtype)
            d, state, info = compiled(n, state)
            want, plain, told = correct(n, plain, config)
            torch.testing.assert_close(d, want, rtol=2 * torch.finfo(dtype).eps, atol=1e-5)
            torch.testing.assert_close(info.gain, told.gain, rtol=1e-5, atol=1e-8)
            assert torch.equal(info.identity, told.identity)

    run(4, 8, rank + 5)
    seen = backend.graphs
    # A graph for each number of predictions kept so far, and one more where a number becomes a variable.
    assert seen <= rank + 3
    run(7, 8, rank + 8)
    run(3, 12, rank + 3)
    assert backend.graphs == seen


def test_the_bare_direction_is_one_graph() -> None:
    backend = Counted()
    compiled = torch.compile(
        lambda n, p: lm_direction(n, p, kappa=0.001, damping=0.002), fullgraph=True, dynamic=True, backend=backend
    )
    g = torch.Generator().manual_seed(5)
    for batch, side in ((2, 6), (5, 6), (3, 9), (8, 4)):
        n, p = (torch.randn(batch, 4, side, side, generator=g) for _ in range(2))
        torch.testing.assert_close(compiled(n, p), lm_direction(n, p, kappa=0.001, damping=0.002), rtol=1e-5, atol=1e-6)
    assert backend.graphs == 1


def test_what_is_kept_is_the_prediction_bit_for_bit_when_compiled() -> None:
    compiled: Callable[..., Tensor] = torch.compile(
        lambda n, p, k: lm_direction(n, p, kappa=k, damping=0.5), fullgraph=True, dynamic=True, backend="aot_eager"
    )
    g = torch.Generator().manual_seed(6)
    n, p = torch.randn(2, 4, 3, 5, generator=g).unbind(0)
    n[0, 0, 0], p[2, 1, 1] = -0.0, torch.inf
    d = compiled(n, p, torch.tensor([0.0, 0.5, 0.5, -0.5]))
    assert torch.equal(d[0], n[0]) and torch.signbit(d[0, 0, 0]) and torch.equal(d[2], n[2])
    assert not torch.equal(d[1], n[1]) and d.isfinite().all()

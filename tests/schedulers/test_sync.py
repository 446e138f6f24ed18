"""A step with LML waits for the device no more often than the base's step does."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

WAITS = ("_local_scalar_dense", "nonzero", "masked_select", "is_nonzero", "equal", "item", "unique", "_unique2")


class Waits(TorchDispatchMode):
    """Counts the operators that a host waits for."""

    def __init__(self) -> None:
        super().__init__()
        self.count: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        if name in WAITS:
            self.count[name] += 1
        return func(*args, **(kwargs or {}))


def waits(scheduler: Any, steps: int = 5, **keys: Any) -> Counter[str]:
    scheduler.set_timesteps(steps)
    g = torch.Generator().manual_seed(0)
    x = torch.randn(2, 3, 4, 4, generator=g)
    timesteps = list(scheduler.timesteps)
    total: Counter[str] = Counter()
    for t in timesteps:
        scaled = scheduler.scale_model_input(x, t) if hasattr(scheduler, "scale_model_input") else x
        prediction = torch.tanh(scaled) + 0.1 * torch.randn(x.shape, generator=g)
        with Waits() as counter:
            x = scheduler.step(prediction, t, x, **keys).prev_sample
        total += counter.count
    return total


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction"])
def test_every_sampler(sampler: Any, kind: str) -> None:
    config = {} if sampler.flow else {"prediction_type": kind}
    base = waits(sampler.build(**config))
    made = waits(sampler.build({"gain": 0.5, "rank": 2, "record": True}, **config))
    assert all(made[name] <= base[name] for name in made), (made, base)


@pytest.mark.parametrize("name", ["ddim", "dpmpp-2m", "dpmpp-3m", "dpm-3", "flow"])
def test_the_reference_placement(case: Any, name: str) -> None:
    sampler = case(name)
    base = waits(sampler.build())
    made = waits(sampler.build({"kappa": 0.5, "damping": 1.0, "placement": "reference"}))
    # DPM-Solver's update runs twice, but is plain arithmetic.
    assert all(made[name] <= base[name] for name in made), (made, base)


def test_ddim_with_noise(case: Any) -> None:
    for placement in ("score", "reference"):
        base = waits(case("ddim").build(), eta=0.5)
        made = waits(case("ddim").build({"gain": 0.5, "placement": placement}), eta=0.5)
        assert all(made[name] <= base[name] for name in made), (placement, made, base)


def test_the_counter_counts(case: Any) -> None:
    with Waits() as counter:
        bool(torch.ones(2).sum() > 1)
        torch.ones(2).nonzero()
    assert counter.count["_local_scalar_dense"] == 1 and counter.count["nonzero"] == 1

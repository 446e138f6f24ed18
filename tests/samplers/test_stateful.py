"""Random sequences of calls of the two samplers: each is what it is alone, and with a gain of 0 the plain solver."""

from __future__ import annotations

import threading
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test
from torch import Tensor

from lmlangevin.core import LMLInfo
from lmlangevin.samplers import sample_lml_euler

SHAPE = (2, 2, 3, 3)
STEPS = 6
CONTROLS: list[dict[str, Any]] = [
    {"gain": 0.0},
    {"gain": 0.4},
    {"kappa": 0.5, "damping": 0.5, "rank": 2},
    {"control": "adaptive"},
    {"control": "adaptive", "flow": True},
]


class Failed(Exception):
    """A network ran out of memory."""


def denoise(x: Tensor, sigma: Tensor, **extra: Any) -> Tensor:
    s = sigma.view(-1, *(1,) * (x.ndim - 1))
    return torch.tanh(x / (0.3 + s)) + 0.1 * torch.sin(3 * x / (1 + s))


def plain(sample: Any, x: Tensor, sigmas: Tensor) -> Tensor:
    """k-diffusion's `sample_euler` and `sample_dpmpp_2m`, written down from their papers."""
    old, ones = None, x.new_ones((len(x),))
    for i, (a, b) in enumerate(zip(sigmas[:-1], sigmas[1:], strict=True)):
        denoised = denoise(x, a * ones)
        if sample is sample_lml_euler:
            x = x + (x - denoised) / a * (b - a)
            continue
        t, following = a.log().neg(), b.log().neg()
        h, slope = following - t, denoised
        if old is not None and b > 0:
            r = (t - sigmas[i - 1].log().neg()) / h
            slope = (1 + 1 / (2 * r)) * denoised - (1 / (2 * r)) * old
        x, old = (following.neg().exp() / t.neg().exp()) * x - (-h).expm1() * slope, denoised
    return x


class Samplers(RuleBasedStateMachine):
    """Calls one after another, in two threads, broken off and on parts of a grid, in any order."""

    sample: Any = None

    @initialize()
    def begin(self) -> None:
        self.generator_state = torch.get_rng_state()
        self.first: dict[Any, Tensor] = {}

    def call(self, lml: dict[str, Any], start: int, seed: int, edits: dict[int, float], model: Any = denoise) -> Tensor:
        ratio = torch.linspace(1, 0, STEPS + 1)
        sigmas = (ratio if lml.get("flow") else 9.0 * ratio**3)[start:]
        x = torch.randn(SHAPE, generator=torch.Generator().manual_seed(seed)) * sigmas[0]

        def callback(seen: dict[str, Any]) -> None:
            seen["x"].add_(edits.get(seen["i"], 0.0))

        record: list[LMLInfo] = []
        out = type(self).sample(model, x, sigmas, callback=callback, disable=True, record=record, **lml)
        assert len(record) == len(sigmas) - 1 and out.isfinite().all()
        if lml.get("gain") == 0 and not edits:
            assert torch.equal(out, plain(type(self).sample, x, sigmas))
        return out

    @rule(
        lml=st.sampled_from(CONTROLS),
        start=st.integers(0, STEPS - 1),
        seed=st.integers(0, 3),
        edits=st.sampled_from([{}, {1: 0.25}, {0: -0.5, 3: 0.125}]),
        threaded=st.booleans(),
        fails=st.booleans(),
    )
    def run(
        self, lml: dict[str, Any], start: int, seed: int, edits: dict[int, float], threaded: bool, fails: bool
    ) -> None:
        """The same call gives the same, whatever came before it."""
        if fails:
            self.break_off(lml, seed)
        results: list[Tensor] = []
        if threaded:
            other = threading.Thread(target=self.call, args=({"control": "adaptive"}, 0, seed + 1, {}))
            other.start()
        results.append(self.call(lml, start, seed, edits))
        if threaded:
            other.join()
        key = (repr(lml), start, seed, repr(edits))
        assert torch.equal(self.first.setdefault(key, results[0]), results[0])
        assert torch.equal(self.call(lml, start, seed, edits), results[0])

    def break_off(self, lml: dict[str, Any], seed: int) -> None:
        calls = 0

        def failing(x: Tensor, sigma: Tensor, **extra: Any) -> Tensor:
            nonlocal calls
            calls += 1
            if calls == 3:
                raise Failed
            return denoise(x, sigma)

        with pytest.raises(Failed):
            self.call(lml, 0, seed, {}, failing)

    @invariant()
    def others_random_numbers_are_theirs(self) -> None:
        if hasattr(self, "generator_state"):
            assert torch.equal(torch.get_rng_state(), self.generator_state)


def test_a_call_is_what_it_is_alone(sampler: Any) -> None:
    machine = type("Machine", (Samplers,), {"sample": staticmethod(sampler)})
    limits = settings(
        max_examples=6,
        stateful_step_count=8,
        derandomize=True,
        deadline=None,
        database=None,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
    )
    run_state_machine_as_test(machine, settings=limits)

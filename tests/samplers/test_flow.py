"""Flow models: told from what ComfyUI hands to its samplers, and what the difference makes."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from lmlangevin.samplers import sample_lml_euler
from lmlangevin.samplers.run import is_flow, log_ratio


class CONST:
    """Named as ComfyUI names the sampling of flows."""


class EPS:
    """And of noise predictions."""


class ModelSamplingFlux:
    """The schedule; ComfyUI derives the object's class from the two when it loads a model."""


def wrapped(kind: type, depth: int, denoise: Any = None) -> Any:
    """A model below `depth` wrappers, each with the next as inner_model."""
    sampling = type("ModelSampling", (ModelSamplingFlux, kind), {})()
    model: Any = SimpleNamespace(model_sampling=sampling)
    for _ in range(depth):

        class Wrapper:
            inner_model = model

            def __call__(self, x: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
                return denoise(x, sigma)

        model = Wrapper()
    return model


@pytest.mark.parametrize("depth", [0, 1, 2, 5])
def test_a_flow_is_told_by_its_sampling_below_any_wrappers(depth: int) -> None:
    assert is_flow(wrapped(CONST, depth))
    assert is_flow(wrapped(type("IMG_TO_IMG_FLOW", (CONST,), {}), depth))
    assert not is_flow(wrapped(EPS, depth))


def test_other_models_are_none() -> None:
    loop: Any = SimpleNamespace()
    loop.inner_model = loop
    for model in (lambda x, sigma: x, torch.nn.Linear(2, 2), SimpleNamespace(inner_model=None), loop):
        assert not is_flow(model)


def test_the_noise_to_signal_ratio() -> None:
    assert log_ratio(3.0, flow=False) == math.log(3)
    assert log_ratio(0.75, flow=True) == pytest.approx(math.log(3))
    assert log_ratio(1.0, flow=True) == log_ratio(2.0, flow=True) == pytest.approx(math.log(999))


def test_the_adaptive_control_of_a_flow_finds_it_out(gaussian: Any, flow_grid: Any) -> None:
    denoise, sigmas = gaussian(flow=True, seed=8), flow_grid(9, shift=1.5)
    x = denoise.start(1.0, seed=9)
    exact = denoise.solution(x, 1.0, 0.0)

    def run(model: Any, **options: Any) -> torch.Tensor:
        return sample_lml_euler(model, x, sigmas, control="adaptive", **options)

    told = run(denoise, flow=True)
    assert torch.equal(run(wrapped(CONST, 2, denoise)), told)
    assert torch.equal(run(wrapped(EPS, 2, denoise), flow=True), told)
    # Taken for the other kind it does something else, and the caller's word counts.
    assert torch.equal(run(wrapped(CONST, 2, denoise), flow=False), run(denoise))
    assert not torch.equal(told, run(denoise))
    plain = sample_lml_euler(denoise, x, sigmas, gain=0.0)
    assert (told - exact).norm() < 0.8 * (plain - exact).norm()


def test_flow_changes_nothing_else(gaussian: Any, flow_grid: Any, sampler: Any) -> None:
    denoise, sigmas = gaussian(flow=True, seed=10), flow_grid(7)
    x = denoise.start(1.0, seed=11)
    for options in ({"gain": 0.0}, {"gain": 0.4}, {}):
        made = [sampler(denoise, x, sigmas, flow=flow, **options) for flow in (True, False)]
        assert torch.equal(*made) and made[0].isfinite().all()


def test_sigmas_a_little_above_one_are_taken(gaussian: Any, flow_grid: Any, sampler: Any) -> None:
    """As ComfyUI's nodes that multiply sigmas make them."""
    denoise = gaussian(flow=True, seed=12)
    sigmas = 1.02 * flow_grid(8, shift=1.5)
    for options in ({"gain": 0.4}, {"control": "adaptive"}):
        assert sampler(denoise, denoise.start(1.0), sigmas, flow=True, **options).isfinite().all()

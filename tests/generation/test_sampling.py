from __future__ import annotations

import warnings
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn

from lmlangevin.core import LMLError
from lmlangevin.generation.models import FLOW_CONFIG, VP_CONFIG
from lmlangevin.generation.sampling import CountCalls, sample, without_known_warnings
from lmlangevin.generation.seeds import start_images
from lmlangevin.schedulers import SCHEDULERS, build_scheduler

SHAPE = (3, 4, 4)

# diffusers' DEIS integrates torch tensors with numpy, which warns that it will not go on for ever.
pytestmark = pytest.mark.filterwarnings("ignore:__array_wrap__ must accept:DeprecationWarning")


class _Output(NamedTuple):
    sample: Tensor


class GaussianNetwork(nn.Module):
    """Exact noise (or velocity) of a normal distribution of standard deviation 0.5 and mean 0.2."""

    def __init__(self, flow: bool = False) -> None:
        super().__init__()
        self.flow = flow
        self.seen: list[Tensor] = []
        self.table = torch.cumprod(1 - torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64), 0)

    def forward(self, sample: Tensor, timestep: Tensor) -> _Output:
        self.seen.append(sample)
        if self.flow:
            sigma = timestep.double() / 1000
            alpha = 1 - sigma
        else:
            abar = self.table[timestep.round().long()]
            alpha, sigma = abar.sqrt(), (1 - abar).sqrt()
        centred = sample.double() - alpha * 0.2
        variance = alpha**2 * 0.25 + sigma**2
        noise = sigma * centred / variance
        clean = 0.2 + alpha * 0.25 * centred / variance
        return _Output((noise - clean if self.flow else noise).to(sample.dtype))


def _config(name: str) -> dict[str, Any]:
    return FLOW_CONFIG if SCHEDULERS[name].flow else VP_CONFIG


@pytest.mark.parametrize("name", list(SCHEDULERS))
def test_every_sampler_recovers_a_normal_distribution(name: str) -> None:
    network = GaussianNetwork(SCHEDULERS[name].flow)
    noise, generators = start_images(range(200, 600), SHAPE)
    with without_known_warnings():
        scheduler = build_scheduler(name, _config(name))
    out = sample(network, scheduler, noise, generators, steps=40)
    assert out.dtype == torch.float32
    assert out.shape == noise.shape
    assert abs(out.mean().item() - 0.2) < 0.03
    # Samplers of first order are still a few per cent too narrow at 40 steps.
    assert abs(out.std().item() - 0.5) < 0.04


@pytest.mark.parametrize("name", list(SCHEDULERS))
@pytest.mark.parametrize("lml", [None, {"gain": 0.3}])
def test_evaluations_are_what_the_sampler_says(name: str, lml: dict[str, Any] | None) -> None:
    entry = SCHEDULERS[name]
    expected = entry.evaluations(5)
    assert expected == {"pndm": 6, "heun": 9, "flow-heun": 9}.get(name, 5)
    assert entry.steps_for(expected) == 5
    if lml is not None and not entry.takes_lml:
        with pytest.raises(LMLError, match="twice an interval"):
            build_scheduler(name, _config(name), lml=lml)
        return
    network = GaussianNetwork(SCHEDULERS[name].flow)
    noise, generators = start_images([1, 2], SHAPE)
    with without_known_warnings():
        scheduler = build_scheduler(name, _config(name), lml=lml)
    with CountCalls(network, batch=2) as count:
        sample(network, scheduler, noise, generators, steps=5)
    assert count.calls == expected
    assert count.doubled == 0
    network(noise, torch.tensor(10.0))
    assert count.calls == expected, "counting ends with the block"


def test_a_cost_that_no_number_of_steps_has_is_refused_with_the_nearest_ones() -> None:
    with pytest.raises(LMLError, match=r"nfe=8 is no cost of Heun; give 7 or 9"):
        SCHEDULERS["heun"].steps_for(8)
    with pytest.raises(LMLError, match=r"nfe=1 is no cost of PNDM; give 2"):
        SCHEDULERS["pndm"].steps_for(1)


def test_a_doubled_batch_is_counted_as_guidance() -> None:
    network = GaussianNetwork()
    noise, _ = start_images([1, 2, 3], SHAPE)
    with CountCalls(network, batch=3) as count:
        network(sample=torch.cat([noise, noise]), timestep=torch.tensor(500.0))
        network(noise, torch.tensor(500.0))
    assert (count.calls, count.doubled) == (2, 1)


@pytest.mark.parametrize("name", ["ddim", "euler", "unipc"])
def test_the_network_sees_the_chosen_dtype_and_the_sample_stays_wide(name: str) -> None:
    noise, generators = start_images([8, 9], SHAPE)
    network = GaussianNetwork()
    out = sample(network, build_scheduler(name, VP_CONFIG), noise, generators, steps=4, dtype=torch.bfloat16)
    assert {x.dtype for x in network.seen} == {torch.bfloat16}
    assert out.dtype == torch.float32
    exact = sample(GaussianNetwork(), build_scheduler(name, VP_CONFIG), noise, generators, steps=4)
    assert 0 < (out - exact).abs().max() < 0.05


@pytest.mark.parametrize(
    ("name", "overrides"),
    [("dpmpp-2m", {"algorithm_type": "sde-dpmsolver++"}), ("flow-euler", {"stochastic_sampling": True})],
)
def test_noise_drawn_inside_steps_does_not_depend_on_the_batch(name: str, overrides: dict[str, Any]) -> None:
    def run(seeds: list[int]) -> Tensor:
        noise, generators = start_images(seeds, SHAPE)
        scheduler = build_scheduler(name, _config(name), lml={"gain": 0.3}, **overrides)
        return sample(GaussianNetwork(SCHEDULERS[name].flow), scheduler, noise, generators, steps=4)

    whole = run([5, 6, 7])
    assert torch.allclose(whole, torch.cat([run([5, 6]), run([7])]), atol=1e-5)
    assert not torch.allclose(whole[:1], whole[1:2], atol=0.1)


def test_one_object_runs_twice_as_two_objects_do() -> None:
    noise, _ = start_images([5, 6], SHAPE)
    scheduler = build_scheduler("dpmpp-2m", VP_CONFIG, lml={"gain": 0.3})
    first = sample(GaussianNetwork(), scheduler, noise, [], steps=4)
    again = sample(GaussianNetwork(), scheduler, noise, [], steps=4)
    assert torch.equal(first, again)


def test_only_the_known_warning_is_silenced() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with without_known_warnings():
            build_scheduler("dpm-3", VP_CONFIG)
            with pytest.raises(FutureWarning, match="another"):
                warnings.warn("another", FutureWarning, stacklevel=1)
        with pytest.raises(FutureWarning, match="dpmsolver"):
            build_scheduler("dpm-3", VP_CONFIG)

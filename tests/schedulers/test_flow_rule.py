"""One rule says what is a flow, and everything that asks gets its answer."""

from __future__ import annotations

from typing import Any

import diffusers
import pytest
import torch
from diffusers import (
    DDIMScheduler,
    DPMSolverMultistepScheduler,
    FlowMatchEulerDiscreteScheduler,
    SchedulerMixin,
    UniPCMultistepScheduler,
)
from diffusers.configuration_utils import ConfigMixin, register_to_config
from torch import Tensor

from lmlangevin import LMLError, apply_lml, with_lml
from lmlangevin.schedulers import presets
from lmlangevin.schedulers.calibrations import fingerprint
from lmlangevin.schedulers.levels import run_levels
from lmlangevin.schedulers.names import SCHEDULERS, build_scheduler
from lmlangevin.schedulers.noise import is_flow, prediction_kind

FLOW = {"use_flow_sigmas": True, "prediction_type": "flow_prediction"}


class MyScheduler(FlowMatchEulerDiscreteScheduler):
    """A flow's, whose name does not say so."""


class FlowMatchNoiseScheduler(DDIMScheduler):
    """Not a flow's, whose name says so."""


class HandingOn(UniPCMultistepScheduler):
    """Its constructor names no key."""

    def __init__(self, **keys: Any) -> None:
        super().__init__(**keys)


class OwnLevels(SchedulerMixin, ConfigMixin):
    """Euler's steps from a level of the user's own down to 0."""

    order = 1

    @register_to_config
    def __init__(self, first: float = 1.0, known: bool = True) -> None:
        self.sigmas = torch.linspace(first, 0, 5) if known else None

    def set_timesteps(self, steps: int) -> None:
        """Plan."""
        self.sigmas = torch.linspace(self.config.first, 0, steps + 1)
        self.timesteps = self.sigmas[:-1]

    def step(self, model_output: Any, timestep: Any, sample: Any) -> Any:
        """Not needed here."""


class Network(torch.nn.Module):
    config = {"width": 8}


@pytest.mark.parametrize(
    ("name", "config", "flow"),
    [
        # Those that seven rules once differed on.
        ("DDPMWuerstchenScheduler", {}, False),
        ("DEISMultistepScheduler", FLOW, True),
        ("DPMSolverMultistepInverseScheduler", FLOW, True),
        ("DPMSolverMultistepScheduler", FLOW, True),
        ("HeliosScheduler", {}, True),
        ("HeliosScheduler", FLOW, True),
        ("IPNDMScheduler", {}, False),
        ("LTXEulerAncestralRFScheduler", {}, True),
        ("MiniMaxH3Scheduler", {}, True),
        ("SASolverScheduler", FLOW, True),
        ("UnCLIPScheduler", {}, False),
        ("UniPCMultistepScheduler", FLOW, True),
        # And others.
        ("FlowMatchEulerDiscreteScheduler", {"shift": 3.0}, True),
        ("FlowMatchHeunDiscreteScheduler", {}, True),
        ("UniPCMultistepScheduler", {"use_flow_sigmas": True}, True),
        ("EDMEulerScheduler", {}, False),
        ("LMSDiscreteScheduler", {}, False),
        ("EulerDiscreteScheduler", {}, False),
        ("DDIMScheduler", {"prediction_type": "v_prediction"}, False),
        ("DDIMScheduler", {"prediction_type": "flow_prediction"}, False),  # it cannot step with one
        ("CMStochasticIterativeScheduler", {}, False),
        ("KarrasVeScheduler", {}, False),
        ("SCMScheduler", {}, False),
    ],
)
def test_diffusers_schedulers(name: str, config: dict[str, Any], flow: bool) -> None:
    base: Any = getattr(diffusers, name)
    scheduler = base(**config)
    assert is_flow(scheduler) is flow
    try:
        made = with_lml(base)(**config, gain=0.1)
    except LMLError:
        return
    assert is_flow(made) is flow
    marked = fingerprint(Network(), scheduler, steps=4, guidance_scale=None, own_grid=False)
    assert marked["flow"] is flow and marked["prediction_type"] == prediction_kind(scheduler)
    assert (presets.grid_key(base, scheduler.config) == "flow") is flow
    kinds = {"flow_prediction", "epsilon" if "use_flow_sigmas" in config else "flow_prediction"}
    assert prediction_kind(scheduler) in (kinds if flow else {config.get("prediction_type", "epsilon")})


def test_the_named_samplers_say_the_same() -> None:
    noise, flow = DDIMScheduler().config, FlowMatchEulerDiscreteScheduler().config
    for name, entry in SCHEDULERS.items():
        if name != "dpm-3":  # diffusers warns of it
            assert is_flow(build_scheduler(name, flow if entry.flow else noise)) is entry.flow, name


def test_names_of_classes_are_not_asked() -> None:
    assert is_flow(MyScheduler()) and is_flow(with_lml(MyScheduler)(gain=0.2))
    assert not is_flow(FlowMatchNoiseScheduler())
    assert is_flow(HandingOn(**FLOW)) and not is_flow(HandingOn())
    assert is_flow(OwnLevels()) and is_flow(OwnLevels(known=False))
    assert not is_flow(OwnLevels(80.0)) and not is_flow(OwnLevels(80.0, known=False))


def test_keys_that_are_kept_for_other_classes_do_not_count() -> None:
    flow = UniPCMultistepScheduler(use_flow_sigmas=True).config
    assert DDIMScheduler.from_config(flow).config.use_flow_sigmas is True
    assert not is_flow(DDIMScheduler.from_config(flow))
    other: Any = FlowMatchEulerDiscreteScheduler.from_config(
        UniPCMultistepScheduler(prediction_type="v_prediction").config
    )
    assert (
        other.config.prediction_type == "v_prediction"
        and is_flow(other)
        and prediction_kind(other) == "flow_prediction"
    )


def samples(scheduler: Any, sign: float = 1.0) -> Tensor:
    x = torch.randn(2, 2, 4, 4, generator=torch.Generator().manual_seed(1))
    for t in scheduler.timesteps:
        x = scheduler.step(sign * (x - torch.tanh(2 * x)), t, x)[0]
    return x


@pytest.mark.parametrize("lml", [{"gain": 0.4}, {"control": "adaptive"}], ids=str)
def test_a_subclass_of_any_name_is_corrected_as_its_base(lml: dict[str, Any]) -> None:
    made: list[Any] = [with_lml(base)(shift=3.0, **lml) for base in (FlowMatchEulerDiscreteScheduler, MyScheduler)]
    for scheduler in made:
        scheduler.set_timesteps(8)
    assert run_levels(made[0]) == run_levels(made[1])
    a, b = map(samples, made)
    plain: Any = MyScheduler(shift=3.0)
    plain.set_timesteps(8)
    assert torch.equal(a, b) and not torch.equal(a, samples(plain))


def test_a_flow_that_predicts_the_opposite_velocity() -> None:
    """MiniMaxH3's network says x0 - eps: on the same levels it is Euler's run, corrections included."""
    levels = [1.0, 0.85, 0.65, 0.45, 0.25, 0.1, 0.0]
    mini, euler = (
        with_lml(base)(shift=1.0, control="adaptive", record=True)
        for base in (diffusers.MiniMaxH3Scheduler, FlowMatchEulerDiscreteScheduler)
    )
    mini.set_timesteps(sigmas=levels)
    euler.set_timesteps(sigmas=levels[:-1])
    assert [level.value for level in run_levels(mini)] == pytest.approx(levels)
    torch.testing.assert_close(samples(mini, -1.0), samples(euler), rtol=1e-5, atol=1e-5)
    gains = [torch.stack([info.gain for info in scheduler.lml_history]) for scheduler in (mini, euler)]
    torch.testing.assert_close(*gains, rtol=1e-3, atol=1e-3)
    assert gains[0][1:-1].abs().min() > 0


def test_apply_lml_asks_the_same_rule() -> None:
    pipe: Any = type("SomePipeline", (), {})()
    pipe.scheduler = MyScheduler(shift=3.0)
    with pytest.raises(LMLError, match="scheduler=DDIMScheduler samples models that predict noise"):
        apply_lml(pipe, scheduler="ddim", gain=0.1)
    apply_lml(pipe, scheduler="flow-dpmpp-2m", gain=0.1)
    assert isinstance(pipe.scheduler, DPMSolverMultistepScheduler) and is_flow(pipe.scheduler)
    pipe.scheduler = FlowMatchEulerDiscreteScheduler(shift_terminal=0.1)  # which UniPC takes with flow sigmas alone
    with pytest.raises(LMLError, match="scheduler=UniPCMultistepScheduler samples models that predict noise"):
        apply_lml(pipe, scheduler="unipc", gain=0.1)
    pipe.scheduler = UniPCMultistepScheduler(**FLOW)
    with pytest.raises(LMLError, match="scheduler=DDIMScheduler samples models that predict noise"):
        apply_lml(pipe, scheduler="ddim", gain=0.1)
    pipe.scheduler = FlowMatchNoiseScheduler(clip_sample=False)
    with pytest.raises(LMLError, match="scheduler=MyScheduler samples flow-matching models"):
        apply_lml(pipe, scheduler=MyScheduler, gain=0.1)
    apply_lml(pipe, gain=0.1)

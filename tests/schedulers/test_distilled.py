"""Distilled checkpoints in ordinary classes: one warning, told by configuration or name."""

from __future__ import annotations

import logging
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from diffusers import DDIMScheduler, EulerDiscreteScheduler, FlowMatchEulerDiscreteScheduler

from lmlangevin import apply_lml
from lmlangevin.schedulers.distilled import distilled_notice


def pipe_of(scheduler: Any = None, *, name: str | None = None, network: str = "Network", **settings: Any) -> Any:
    """A pipeline of one network; `pipe__KEY` are settings of the pipeline's own configuration."""
    own = {key.removeprefix("pipe__"): settings.pop(key) for key in list(settings) if key.startswith("pipe__")}
    module = type(network, (torch.nn.Module,), {"config": settings})()
    return SimpleNamespace(
        transformer=module, scheduler=scheduler or DDIMScheduler(), config={"_name_or_path": name, **own}
    )


def flux(**settings: Any) -> Any:
    return pipe_of(FlowMatchEulerDiscreteScheduler(**settings), network="FluxTransformer2DModel", guidance_embeds=False)


DISTILLED = [
    pipe_of(name="black-forest-labs/FLUX.1-schnell"),
    pipe_of(name="stabilityai/sdxl-turbo"),
    pipe_of(name="/models/SDXL-Lightning"),
    pipe_of(name="black-forest-labs/FLUX.2-klein-4B"),
    pipe_of(name="/home/me/.cache/models--stabilityai--sd-turbo/snapshots/0a1b2c"),
    pipe_of(_name_or_path="/models/LCM_Dreamshaper_v7/transformer"),
    pipe_of(pipe__is_distilled=True),
    pipe_of(time_cond_proj_dim=256),
    flux(shift=1.0),
]
OTHERS = [
    pipe_of(),
    pipe_of(name="stable-diffusion-v1-5/stable-diffusion-v1-5"),
    pipe_of(name="/home/turbo/models/sd15"),
    pipe_of(name="someone/hyperrealism-xl"),
    pipe_of(name="black-forest-labs/FLUX.2-klein-base-4B"),
    pipe_of(name="black-forest-labs/FLUX.2-klein-base-4B", pipe__is_distilled=False),
    pipe_of(time_cond_proj_dim=None),
    flux(shift=3.0, use_dynamic_shifting=True),
    pipe_of(FlowMatchEulerDiscreteScheduler(), network="OtherTransformer", guidance_embeds=False),
]


@pytest.mark.parametrize("pipe", DISTILLED)
def test_distilled_models_are_told(pipe: Any) -> None:
    assert "LML was not made for such models" in str(distilled_notice(pipe))


@pytest.mark.parametrize("pipe", OTHERS)
def test_other_models_are_not(pipe: Any) -> None:
    assert distilled_notice(pipe) is None


def test_adapters_are_told_by_their_names_and_files() -> None:
    pipe = pipe_of(EulerDiscreteScheduler())
    assert distilled_notice(pipe, "me/sd15", "latent-consistency/lcm-lora-sdv1-5") is not None
    assert distilled_notice(pipe, "me/sd15", "/x/Hyper-SD15-8steps-lora.safetensors") is not None
    assert distilled_notice(pipe, "me/sd15", "/x/lcm-lora/pytorch_lora_weights.safetensors") is not None
    assert distilled_notice(pipe, "me/sd15", "/x/style/pytorch_lora_weights.safetensors") is None
    pipe.transformer.peft_config = {"lcm": None}
    assert distilled_notice(pipe) is not None


def test_apply_lml_warns_once(caplog: pytest.LogCaptureFixture) -> None:
    for pipe, count in ((DISTILLED[1], 1), (OTHERS[1], 0)):
        caplog.clear()
        with caplog.at_level(logging.WARNING, logger="lmlangevin"):
            apply_lml(pipe, gain=0.2)
        assert len([record for record in caplog.records if "distilled" in record.getMessage()]) == count

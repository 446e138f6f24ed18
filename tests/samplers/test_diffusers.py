"""The same model through diffusers' LML schedulers, on the same sigmas: the same images, for every control."""

from __future__ import annotations

from typing import Any

import diffusers
import pytest
import torch
from torch import Tensor

from lmlangevin import with_lml
from lmlangevin.core import CalibratedSchedule
from lmlangevin.samplers import sample_lml_dpmpp_2m, sample_lml_euler

CONTROLS: list[dict[str, Any]] = [
    {"gain": 0.0},
    {"gain": 0.5},
    {"kappa": 0.5, "damping": 0.7, "rank": 3},
    {"kappa": -0.2, "damping": 40.0, "damping_mode": "absolute"},
    {"control": "adaptive"},
]
IDS = ["off", "gain", "rank 3", "absolute", "adaptive"]


def through_diffusers(scheduler: Any, denoise: Any, x: Tensor, sigmas: Tensor, *, scaled: bool) -> Tensor:
    """Run a scheduler whose set_timesteps was called.

    `denoise` takes x0 + sigma noise (or a flow's x); `scaled` says whether the scheduler's sample is that, divided by
    sqrt(1 + sigma^2).
    """
    if scaled:
        x = x / (1 + sigmas[0] ** 2).sqrt()
    for k, t in enumerate(scheduler.timesteps):
        sigma = sigmas[k]
        if hasattr(scheduler, "scale_model_input"):
            scheduler.scale_model_input(x, t)
        y = x * (1 + sigma**2).sqrt() if scaled else x
        prediction = (y - denoise(y, sigma.expand(len(y)))) / sigma
        x = scheduler.step(prediction, t, x).prev_sample
    return x


@pytest.mark.parametrize("keys", CONTROLS, ids=IDS)
@pytest.mark.parametrize("name", ["euler", "dpmpp_2m", "flow"])
def test_the_schedulers_agree(blobs: Any, name: str, keys: dict[str, Any]) -> None:
    flow = name == "flow"
    base, config, sample = {
        "euler": (diffusers.EulerDiscreteScheduler, {"timestep_spacing": "trailing"}, sample_lml_euler),
        "dpmpp_2m": (diffusers.DPMSolverMultistepScheduler, {"timestep_spacing": "trailing"}, sample_lml_dpmpp_2m),
        "flow": (diffusers.FlowMatchEulerDiscreteScheduler, {"shift": 1.5}, sample_lml_euler),
    }[name]
    scheduler: Any = with_lml(base)(**config, **keys)
    scheduler.set_timesteps(10)
    sigmas = scheduler.sigmas.clone()
    x = torch.randn(3, 2, 4, 4, generator=torch.Generator().manual_seed(30)) * sigmas[0]
    model = blobs(flow=flow)
    want = through_diffusers(scheduler, model, x, sigmas, scaled=name == "dpmpp_2m")
    made = sample(model, x, sigmas, flow=flow, **keys)
    torch.testing.assert_close(made, want, rtol=1e-3, atol=1e-3)
    if keys != {"gain": 0.0}:
        assert (made - sample(model, x, sigmas, gain=0.0)).abs().max() > 1e-2


def test_a_calibrated_schedule_agrees(blobs: Any) -> None:
    schedule = CalibratedSchedule((14.0, 5.0, 1.5, 0.4, 0.0), ((0.0, 0.0), (0.5, 0.0), (0.4, -0.1), (0.2, 0.05)))
    scheduler: Any = with_lml(diffusers.EulerDiscreteScheduler)(
        control="calibrated", calibrated_steps=schedule.to_config()
    )
    scheduler.set_timesteps(4)
    sigmas = scheduler.sigmas.clone()
    x = torch.randn(3, 2, 4, 4, generator=torch.Generator().manual_seed(31)) * sigmas[0]
    want = through_diffusers(scheduler, blobs(), x, sigmas, scaled=False)
    made = sample_lml_euler(blobs(), x, torch.tensor(schedule.levels), control="calibrated", schedule=schedule)
    torch.testing.assert_close(made, want, rtol=1e-4, atol=1e-4)

"""Models that `lml generate` samples: the two that come with the package, and diffusers pipelines."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from importlib import resources
from typing import Any

import torch
from torch import nn

from lmlangevin.core.errors import LMLError
from lmlangevin.generation.checks import BUILT_IN
from lmlangevin.generation.config import TRAIN_TIMESTEPS, GenerateConfig

VP_CONFIG: dict[str, Any] = {
    "num_train_timesteps": TRAIN_TIMESTEPS,
    "beta_start": 1e-4,
    "beta_end": 0.02,
    "beta_schedule": "linear",
    "prediction_type": "epsilon",
    "clip_sample": False,
}
"""Noise schedule of the built-in models. It names no time grid, so that every sampler uses its own default."""

FLOW_CONFIG: dict[str, Any] = {"num_train_timesteps": TRAIN_TIMESTEPS, "shift": 3.0}
"""Schedule of the analytic model's flow."""


@dataclass(frozen=True)
class LoadedModel:
    """A model that is ready to be sampled.

    Attributes:
        name: As the user gave it.
        family: Name of the network's class, or of the pipeline's.
        networks: The modules whose calls are counted as network evaluations.
        scheduler_config: What its samplers are built from.
        shape: Shape of one image for the plain sampling loop, (channels, height, width); None where the pipeline
            runs itself.
        pipeline: The diffusers pipeline, where there is one.
        measured: Whether the preset gains were measured on models of this kind.
    """

    name: str
    family: str
    networks: tuple[nn.Module, ...]
    scheduler_config: Any
    shape: tuple[int, int, int] | None
    pipeline: Any = None
    measured: bool = True


def load_model(config: GenerateConfig, *, flow: bool) -> LoadedModel:
    """Load the model of a job onto its device, in its dtype.

    Args:
        config: The job.
        flow: Whether its sampler is a flow-matching one.

    Raises:
        LMLError: If the model cannot be found or loaded, does not fit the sampler, or cannot take what was asked of
            it (a prompt, guidance).
    """
    dtype: torch.dtype = getattr(torch, config.dtype)
    if config.compile:
        _check_compiler(config)
    if config.model == "embedded":
        model = _load_embedded(config, dtype)
    elif config.model in BUILT_IN:
        model = _load_analytic(config, dtype, flow=flow)
    else:
        from lmlangevin.generation.pipelines import load_pipeline

        model = load_pipeline(config, dtype, flow=flow)
    if config.compile:
        for network in model.networks:
            # The forward and not the module: hooks, which count evaluations and move weights, stay outside the graph.
            network.forward = torch.compile(network.forward)
    return model


def _check_compiler(config: GenerateConfig) -> None:
    """Refuse to compile where nothing can, before anything is loaded."""
    if config.model == "analytic-cifar10":
        raise LMLError("compile has no use for model='analytic-cifar10', a few matrix products; leave it out.")
    found = [name for name in (os.environ.get("CXX", ""), "g++", "clang++") if name and shutil.which(name)]
    if config.device == "cpu" and not found:
        raise LMLError("compile needs a C++ compiler on a CPU, and there is none; install g++, or leave it out.")


def _load_embedded(config: GenerateConfig, dtype: torch.dtype) -> LoadedModel:
    from diffusers.models.unets.unet_2d import UNet2DModel

    with resources.as_file(resources.files("lmlangevin") / "assets" / "embedded" / "unet") as folder:
        network: Any = UNet2DModel.from_pretrained(str(folder), torch_dtype=dtype, local_files_only=True)
    # Its convolutions are faster with the channels last, on a CPU and on a GPU.
    network = network.to(config.device, memory_format=torch.channels_last).eval().requires_grad_(False)
    size = network.config.sample_size
    shape = (network.config.in_channels, size, size)
    return LoadedModel(config.model, type(network).__name__, (network,), VP_CONFIG, shape)


def _load_analytic(config: GenerateConfig, dtype: torch.dtype, *, flow: bool) -> LoadedModel:
    from lmlangevin.reference import AnalyticModel, load_analytic

    mixture = load_analytic(config.model)
    channels, height, width = mixture.event_shape
    network = AnalyticModel(mixture, "flow_prediction" if flow else "epsilon").to(config.device, dtype).eval()
    schedule = FLOW_CONFIG if flow else VP_CONFIG
    return LoadedModel(config.model, type(network).__name__, (network,), schedule, (channels, height, width))

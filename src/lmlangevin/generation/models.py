"""Models that `lml generate` samples: the two that come with the package, and diffusers pipelines."""

from __future__ import annotations

import contextlib
import inspect
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import torch
from torch import nn

from lmlangevin.core.errors import LMLError
from lmlangevin.generation.config import BUILT_IN, TRAIN_TIMESTEPS, GenerateConfig, flow_mismatch

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

_NETWORKS = ("unet", "transformer", "transformer_2", "prior")


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
    if config.model == "embedded":
        return _load_embedded(config, dtype)
    if config.model in BUILT_IN:
        return _load_analytic(config, dtype, flow=flow)
    return _load_pipeline(config, dtype, flow=flow)


def _load_embedded(config: GenerateConfig, dtype: torch.dtype) -> LoadedModel:
    from diffusers.models.unets.unet_2d import UNet2DModel

    with resources.as_file(resources.files("lmlangevin") / "assets" / "embedded" / "unet") as folder:
        network: Any = UNet2DModel.from_pretrained(str(folder), torch_dtype=dtype, local_files_only=True)
    network = network.to(config.device).eval().requires_grad_(False)
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


def _load_pipeline(config: GenerateConfig, dtype: torch.dtype, *, flow: bool) -> LoadedModel:
    from lmlangevin.schedulers.pipeline import is_flow

    pipe = _from_pretrained(config.model, dtype)
    scheduler = getattr(pipe, "scheduler", None)
    family = type(pipe).__name__
    if scheduler is None or not hasattr(scheduler, "config"):
        raise LMLError(f"model={config.model!r} is a {family} without a diffusers scheduler; give another pipeline.")
    if is_flow(scheduler) != flow:
        raise LMLError(flow_mismatch(config.scheduler, config.model, flow_model=not flow))
    pipe.to(config.device)
    pipe.set_progress_bar_config(disable=True)
    shape = _loop_shape(pipe)
    if shape is None:
        pipeline_arguments(pipe, config)
    else:
        for name, value in (("prompt", config.prompt), ("guidance_scale", config.guidance_scale)):
            if value is not None:
                raise LMLError(
                    f"{name}={value!r} does not fit model={config.model!r}, an unconditional {family}; leave it out."
                )
    networks = tuple(getattr(pipe, name) for name in _NETWORKS if isinstance(getattr(pipe, name, None), nn.Module))
    if not networks:
        raise LMLError(f"model={config.model!r} is a {family} without a unet or transformer; give another pipeline.")
    # The presets were measured on pixel models that take no condition, which is what the plain loop runs.
    return LoadedModel(config.model, family, networks, scheduler.config, shape, pipe, measured=shape is not None)


def _from_pretrained(model: str, dtype: torch.dtype) -> Any:
    from diffusers.pipelines.pipeline_utils import DiffusionPipeline

    try:
        with _quiet_loading():
            # Safetensors alone: other weight files are pickles, which can run code.
            return DiffusionPipeline.from_pretrained(model, dtype=dtype, use_safetensors=True)
    except (OSError, ValueError, ImportError, AttributeError, TypeError, KeyError) as error:
        reason = " ".join(str(error).split())
        reason = reason if len(reason) <= 240 else reason[:240] + "..."
        if Path(model).is_dir():
            remedy = "give a folder written by a pipeline's save_pretrained with safetensors weights"
        else:
            remedy = (
                f"check the name and the connection, or, where the hub cannot be reached, run 'hf download {model} "
                "--local-dir FOLDER' elsewhere and give --model FOLDER"
            )
        raise LMLError(f"model={model!r} cannot be loaded ({reason}); {remedy}.") from error


@contextlib.contextmanager
def _quiet_loading() -> Iterator[None]:
    """Keep diffusers' bars and remarks off stderr while it loads; what goes wrong is raised, and told in one line."""
    from diffusers.utils import logging as diffusers_logging

    shown, verbosity = diffusers_logging.is_progress_bar_enabled(), diffusers_logging.get_verbosity()
    diffusers_logging.disable_progress_bar()
    diffusers_logging.set_verbosity(logging.CRITICAL)
    try:
        yield
    finally:
        diffusers_logging.set_verbosity(verbosity)
        if shown:
            diffusers_logging.enable_progress_bar()


def _loop_shape(pipe: Any) -> tuple[int, int, int] | None:
    """Return the image shape of a pipeline that is a pixel network and a scheduler and nothing else."""
    if set(pipe.components) != {"unet", "scheduler"}:
        return None
    settings = pipe.unet.config
    channels, size = settings.get("in_channels"), settings.get("sample_size")
    if channels not in (1, 3) or size is None or settings.get("out_channels", channels) != channels:
        return None
    if settings.get("class_embed_type") is not None or settings.get("num_class_embeds") is not None:
        return None
    height, width = (size, size) if isinstance(size, int) else size
    return channels, height, width


def pipeline_arguments(pipe: Any, config: GenerateConfig) -> dict[str, Any]:
    """Return the arguments of a pipeline's call that hold for every batch, checked against its signature.

    Raises:
        LMLError: If the pipeline cannot take what the job gives, or needs what no job can give.
    """
    family = type(pipe).__name__
    parameters = inspect.signature(pipe.__call__).parameters
    given: dict[str, Any] = {"num_inference_steps": config.steps, "output_type": "pil"}
    for name, value in (("prompt", config.prompt), ("guidance_scale", config.guidance_scale)):
        if value is None:
            continue
        if name not in parameters:
            raise LMLError(f"{name}={value!r} does not fit model={config.model!r}: {family} takes none; leave it out.")
        given[name] = value
    if "prompt" in parameters and config.prompt is None:
        raise LMLError(f"model={config.model!r} is a {family}, which needs a text; give --prompt.")
    if "num_inference_steps" not in parameters:
        raise LMLError(f"model={config.model!r} is a {family}, whose steps cannot be chosen; give another pipeline.")
    supplied = {*given, "generator", "batch_size"}
    needed = [
        name
        for name, parameter in parameters.items()
        if parameter.default is parameter.empty
        and parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY)
        and name not in supplied
    ]
    if needed:
        raise LMLError(
            f"model={config.model!r} is a {family}, which needs {', '.join(needed)}; lml generate makes images from "
            "noise and text only, so give another pipeline."
        )
    return {name: value for name, value in given.items() if name in parameters}

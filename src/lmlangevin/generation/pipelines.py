"""diffusers pipelines as `lml generate` runs them: loading, what they can be given, and the arguments of a batch."""

from __future__ import annotations

import contextlib
import inspect
import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from lmlangevin.core.errors import LMLError
from lmlangevin.generation.checks import flow_mismatch
from lmlangevin.generation.conditions import check_strength
from lmlangevin.generation.config import GenerateConfig
from lmlangevin.generation.models import LoadedModel
from lmlangevin.install import install_hint
from lmlangevin.scenes.models import model_source
from lmlangevin.schedulers.calibrations import NETWORKS

_FAILURES = (OSError, ValueError, ImportError, AttributeError, TypeError, KeyError, RuntimeError)
"""What diffusers raises for files that are missing, broken or of something else."""

_OPTIONS = {
    "prompt": "--prompt",
    "image": "--image",
    "mask_image": "--mask-image",
    "control_image": "--control-image",
    "negative_prompt": "--negative-prompt",
}
_FIXED = ("guidance_scale", "height", "width", "num_frames", "strength")
_OWN = {
    "num_inference_steps": "give --steps",
    "timesteps": "give --steps, and --timestep-spacing or --sigmas",
    "sigmas": "give --steps, and --timestep-spacing or --sigmas",
    "prompt": "give --prompt",
    "negative_prompt": "give --negative-prompt",
    "image": "give --image or --control-image",
    "mask_image": "give --mask-image",
    "control_image": "give --control-image",
    "guidance_scale": "give --guidance-scale",
    "height": "give --height",
    "width": "give --width",
    "num_frames": "give --num-frames",
    "strength": "give --strength",
    "num_images_per_prompt": "give --images-per-prompt",
    "batch_size": "give --batch-size",
    "generator": "give --seed",
    "latents": "give --seed",
    "output_type": "images are written as PNG",
    "return_dict": "leave it out",
    "callback_on_step_end": "leave it out",
}
"""Arguments of a call that a job gives, and what to do in place of `--argument`."""


def load_pipeline(config: GenerateConfig, dtype: torch.dtype, *, flow: bool) -> LoadedModel:
    """Load a diffusers pipeline, with the ControlNet, the adapter and the memory options of a job.

    Args:
        config: The job.
        dtype: Of the networks.
        flow: Whether the job's sampler is a flow-matching one.

    Raises:
        LMLError: If something cannot be found or loaded, or the pipeline does not fit the job. Nothing has been written
            by then.
    """
    from lmlangevin.schedulers.noise import is_flow
    from lmlangevin.schedulers.refused import refusal

    config.check_files()
    with _quiet_loading():
        pipe = _with_conditions(_from_pretrained(config, dtype), config, dtype)
    family = type(pipe).__name__
    scheduler = getattr(pipe, "scheduler", None)
    if scheduler is None or not hasattr(scheduler, "config"):
        raise LMLError(f"model={config.model!r} is a {family} without a diffusers scheduler; give another pipeline.")
    reason = refusal(type(pipe)) if config.lml else None
    if reason is not None:
        raise LMLError(f"model={config.model!r} is a {family}, which LML does not support: {reason}; give --no-lml.")
    _check_scheduler(scheduler, config)
    if is_flow(scheduler) != flow:
        raise LMLError(flow_mismatch(config.scheduler, config.model, flow_model=not flow))
    shape = _loop_shape(pipe)
    if shape is None:
        batch_arguments(pipe, config, [0])
        _check_sides(pipe, config)
    else:
        config.refuse_conditions(f"{config.model!r}, a {family}", allowed=("variant", "memory"))
    networks = tuple(getattr(pipe, name) for name in NETWORKS if isinstance(getattr(pipe, name, None), nn.Module))
    if not networks:
        raise LMLError(f"model={config.model!r} is a {family} without a unet or transformer; give another pipeline.")
    _load_adapter(pipe, config)
    _place(pipe, config)
    pipe.set_progress_bar_config(disable=True)
    # The presets were measured on pixel models that take no condition, which is what the plain loop runs.
    return LoadedModel(config.model, family, networks, scheduler.config, shape, pipe, measured=shape is not None)


def _check_scheduler(own: Any, config: GenerateConfig) -> None:
    """Refuse LML, or another sampler, for a model that its own scheduler alone can sample."""
    from lmlangevin.schedulers.factory import refusal_of
    from lmlangevin.schedulers.names import find_scheduler

    base = getattr(own, "_lml_base", type(own))
    refusal = refusal_of(base)
    if refusal is None or not refusal.of_model:
        return
    if config.lml:
        raise refusal.error(f"scheduler={base.__name__!r}")
    if find_scheduler(config.scheduler).base is not base:
        raise LMLError(
            f"scheduler={config.scheduler!r} is not for model={config.model!r}, which comes with {base.__name__}: "
            f"{refusal.reason}; leave it out."
        )


def batch_arguments(pipe: Any, config: GenerateConfig, ids: Sequence[int]) -> dict[str, Any]:
    """Return the arguments of a pipeline's call for a batch, checked against its signature.

    Args:
        pipe: The pipeline.
        config: The job.
        ids: The images of the batch.

    Raises:
        LMLError: If the pipeline cannot take what the job gives, or needs what it does not give.
    """
    family = type(pipe).__name__
    parameters = inspect.signature(pipe.__call__).parameters
    if "num_inference_steps" not in parameters:
        raise LMLError(f"model={config.model!r} is a {family}, whose steps cannot be chosen; give another pipeline.")
    given: dict[str, Any] = {name: getattr(config, name) for name in _FIXED if getattr(config, name) is not None}
    for name, value in (config.arguments or {}).items():
        if name in _OWN:
            raise LMLError(f"argument {name}={value!r} is the job's own to give; {_OWN[name]}.")
    given |= config.arguments or {}
    if config.prompt is not None or config.prompts is not None:
        given["prompt"] = [config.prompt_of(index) for index in ids]
    if config.negative_prompt is not None:
        given["negative_prompt"] = [config.negative_prompt] * len(ids)
    control = _control_name(pipe)
    for name, key in (("image", "image"), ("mask_image", "mask_image"), ("control_image", control)):
        if getattr(config, name) is not None:
            given[key] = [config.picture_of(name, index) for index in ids]
    for name in given:
        if name not in parameters:
            raise LMLError(_unfit(config, name, family))
    strength = given.get("strength", parameters["strength"].default if "strength" in parameters else None)
    if isinstance(strength, (int, float)) and strength > 0:
        check_strength(strength, int(config.steps or 0))
    supplied = {*given, "num_inference_steps", "output_type", "generator", "batch_size"}
    needed = [
        name
        for name, parameter in parameters.items()
        if parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY)
        and (parameter.default is parameter.empty or name in _wanted(pipe, control))
        and name not in supplied
    ]
    if needed:
        options = _OPTIONS | ({"image": "--control-image"} if control == "image" else {})
        remedy = " and ".join(options.get(name, f"--argument {name}=...") for name in needed)
        raise LMLError(f"model={config.model!r} is a {family}, which needs {', '.join(needed)}; give {remedy}.")
    if "batch_size" in parameters and "prompt" not in given:
        given["batch_size"] = len(ids)
    return given | {"num_inference_steps": config.steps, "output_type": "np"}


def _control_name(pipe: Any) -> str:
    """Return the argument of a pipeline that takes what a ControlNet follows."""
    parameters = inspect.signature(pipe.__call__).parameters
    # ControlNets that start from noise call it the image, since they take no other.
    return "image" if "control_image" not in parameters and hasattr(pipe, "controlnet") else "control_image"


def _wanted(pipe: Any, control: str) -> set[str]:
    """Return what a pipeline needs although its signature has a default for it."""
    wanted = {"prompt"}
    family = type(pipe).__name__
    if "Inpaint" in family:
        wanted |= {"image", "mask_image"}
    if "Img2Img" in family or "ImageToVideo" in family:
        wanted.add("image")
    if hasattr(pipe, "controlnet"):
        wanted.add(control)
    return wanted


def _unfit(config: GenerateConfig, name: str, family: str) -> str:
    """Return the sentence that refuses what a pipeline does not take."""
    arguments = config.arguments or {}
    value = arguments[name] if name in arguments else getattr(config, name)
    remedy = "give --controlnet with it" if name == "control_image" else "leave it out"
    return f"{name}={value!r} does not fit model={config.model!r}: {family} takes none; {remedy}."


def _check_sides(pipe: Any, config: GenerateConfig) -> None:
    """Refuse sides that a pipeline would round, after it has said so in a log that nobody reads."""
    scale = getattr(pipe, "vae_scale_factor", None) or getattr(pipe, "vae_scale_factor_spatial", None)
    if not isinstance(scale, int):
        return
    transformer = getattr(pipe, "transformer", None)
    patch = getattr(getattr(transformer, "config", None), "patch_size", 1)
    if isinstance(patch, (list, tuple)):
        patch = patch[-1]
    # Packed latents (FLUX) are grouped in twos, whatever the transformer calls its patch.
    step = scale * max(patch if isinstance(patch, int) else 1, 2 if hasattr(pipe, "_pack_latents") else 1)
    for name in ("height", "width"):
        side = getattr(config, name)
        if side is not None and side % step:
            near = max(step, round(side / step) * step)
            raise LMLError(
                f"{name}={side} does not fit model={config.model!r}, whose sides are multiples of {step}; give {near}."
            )


# Loading ------------------------------------------------------------------------------------------------------------


def _from_pretrained(config: GenerateConfig, dtype: torch.dtype) -> Any:
    from diffusers.pipelines.pipeline_utils import DiffusionPipeline

    extra = {} if config.variant is None else {"variant": config.variant}
    with _told("model", config.model, "a pipeline's save_pretrained"):
        # Safetensors alone: other weight files are pickles, which can run code.
        return DiffusionPipeline.from_pretrained(model_source(config.model), dtype=dtype, use_safetensors=True, **extra)


def _with_conditions(pipe: Any, config: GenerateConfig, dtype: torch.dtype) -> Any:
    """Return the pipeline of the same model that takes the job's pictures."""
    from diffusers.pipelines.auto_pipeline import (
        AutoPipelineForImage2Image,
        AutoPipelineForInpainting,
        AutoPipelineForText2Image,
    )

    extra: dict[str, Any] = {}
    if config.controlnet is not None:
        from diffusers.models.auto_model import AutoModel

        with _told("controlnet", config.controlnet, "a ControlNet's save_pretrained"):
            extra["controlnet"] = AutoModel.from_pretrained(config.controlnet, dtype=dtype, use_safetensors=True)
    parameters = inspect.signature(pipe.__call__).parameters
    if config.mask_image is not None and "mask_image" not in parameters:
        target: Any = AutoPipelineForInpainting
    elif config.image is not None and "image" not in parameters:
        target = AutoPipelineForImage2Image
    elif extra and not hasattr(pipe, "controlnet"):
        target = AutoPipelineForText2Image
    else:
        return pipe
    family = type(pipe).__name__
    what = "a ControlNet" if target is AutoPipelineForText2Image else "a picture"
    try:
        return target.from_pipe(pipe, **extra)
    except _FAILURES as error:
        raise LMLError(
            f"model={config.model!r} is a {family}, of which diffusers has no version that takes {what}; give another "
            "pipeline."
        ) from error


def _load_adapter(pipe: Any, config: GenerateConfig) -> None:
    if config.lora is None:
        return
    family = type(pipe).__name__
    if not hasattr(pipe, "load_lora_weights"):
        raise LMLError(f"lora={config.lora!r} does not fit model={config.model!r}: {family} takes none; leave it out.")
    try:
        import peft  # noqa: F401
    except ImportError as error:
        raise LMLError(f"lora={config.lora!r} needs the package peft; {install_hint('lora')}.") from error
    path = Path(config.lora)
    where, extra = (str(path.parent), {"weight_name": path.name}) if path.is_file() else (config.lora, {})
    with _quiet_loading(), _told("lora", config.lora, "save_lora_weights, for this kind of model,"):
        pipe.load_lora_weights(where, adapter_name="lora", use_safetensors=True, **extra)
        if "lora" not in {name for names in pipe.get_list_adapters().values() for name in names}:
            raise ValueError("none of its weights is of this model")
        pipe.set_adapters(["lora"], [config.lora_scale])


def _place(pipe: Any, config: GenerateConfig) -> None:
    """Put a pipeline on its device, with the job's ways of saving memory."""
    family = type(pipe).__name__
    offload = [name for name in config.memory if name.endswith("offload")]
    for name in config.memory:
        part, _, what = name.partition("-")
        if part == "vae":
            owner, method = getattr(pipe, "vae", None), f"enable_{what}"
        else:
            owner, method = pipe, f"enable_{name.replace('-', '_')}"
        if not hasattr(owner, method):
            raise LMLError(f"memory={name!r} does not fit model={config.model!r}: {family} has none; leave it out.")
        if name in offload:
            if config.device == "cpu":
                raise LMLError(f"memory={name!r} moves networks to a GPU and back; give --device cuda with it.")
            getattr(owner, method)(device=config.device)
        else:
            getattr(owner, method)()
    if not offload:
        pipe.to(config.device)


@contextlib.contextmanager
def _told(name: str, value: str, source: str) -> Iterator[None]:
    """Tell in one line what could not be loaded."""
    try:
        yield
    except _FAILURES as error:
        reason = " ".join(str(error).split())
        reason = reason if len(reason) <= 240 else reason[:240] + "..."
        if Path(value).exists():
            remedy = f"give what was written by {source} with safetensors weights"
        else:
            remedy = (
                f"check the name and the connection, or, where the hub cannot be reached, run 'hf download {value} "
                f"--local-dir FOLDER' elsewhere and give --{name} FOLDER"
            )
        raise LMLError(f"{name}={value!r} cannot be loaded ({reason}); {remedy}.") from error


@contextlib.contextmanager
def _quiet_loading() -> Iterator[None]:
    """Keep the bars and remarks of libraries off stderr while they load; what goes wrong is raised, and told."""
    from diffusers.utils import logging as diffusers_logging
    from transformers.utils import logging as transformers_logging

    before = [
        (library, library.is_progress_bar_enabled(), library.get_verbosity())
        for library in (diffusers_logging, transformers_logging)
    ]
    for library, _, _ in before:
        library.disable_progress_bar()
        library.set_verbosity(logging.CRITICAL)
    try:
        yield
    finally:
        for library, shown, verbosity in before:
            library.set_verbosity(verbosity)
            if shown:
                library.enable_progress_bar()


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

"""Tiny pipelines with random weights, of the real classes and with the real schedulers, to run without downloads.

    python tools/tiny_pipelines.py            # names them
    python tools/tiny_pipelines.py sdxl DIR   # saves one in diffusers' format

A pipeline takes some hundred kilobytes and milliseconds a step. Its images are noise: it shows that something runs,
and what it changes, and not how good it is.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import _tiny_parts as parts
from _published_schedulers import SCHEDULER_CONFIGS, scheduler

PROMPT = "a photo of a fox"


@dataclass(frozen=True)
class Kind:
    """A pipeline that can be built.

    Attributes:
        title: What people call the model.
        pipeline: Name of the diffusers pipeline class.
        published: Name on the hub of the model whose scheduler configuration it has.
        components: Returns the other components, with random weights.
        sampler: Short name of its scheduler in lmlangevin; None where there is none.
        denoiser: Name of the component that predicts.
        text: Whether it takes prompts.
        guided: Whether a guidance scale makes it evaluate its denoiser on two prompts.
        calls: Calls of the denoiser a guided step: 1 where both prompts are one batch.
        output: Name of the output's field.
        rawest: The output_type that is nearest to what the sampler returns.
        arguments: Returns further arguments of a call, small ones where the defaults are large.
    """

    title: str
    pipeline: str
    published: str
    components: Callable[[], dict[str, Any]]
    sampler: str | None
    denoiser: str = "unet"
    text: bool = True
    guided: bool = True
    calls: int = 1
    output: str = "images"
    rawest: str = "latent"
    arguments: Callable[[], dict[str, Any]] = field(default=dict)

    @property
    def flow(self) -> bool:
        """Whether its model predicts a flow velocity."""
        return self.sampler is not None and self.sampler.startswith("flow")

    @property
    def prediction_type(self) -> str:
        """What its model predicts, as diffusers calls it."""
        config = SCHEDULER_CONFIGS[self.published]
        return "flow_prediction" if self.flow else config.get("prediction_type", "epsilon")

    def call(self, **arguments: Any) -> dict[str, Any]:
        """Return the arguments of a call: what the pipeline needs, a prompt if it takes one, and yours above all.

        Args:
            **arguments: Further arguments, such as `num_inference_steps`.
        """
        prompt = {"prompt": PROMPT} if self.text else {}
        return {**prompt, **self.arguments(), **arguments}


def _text() -> dict[str, Any]:
    return {"tokenizer": parts.clip_tokenizer(), "text_encoder": parts.clip_encoder()}


def _sd(**unet: Any) -> dict[str, Any]:
    unchecked = {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False}
    return {**_text(), "unet": parts.text_unet(**unet), "vae": parts.autoencoder(), **unchecked}


def _sd_controlnet() -> dict[str, Any]:
    made = _sd()
    return {**made, "controlnet": parts.controlnet(made["unet"])}


def _sdxl(time_ids: int = 6) -> dict[str, Any]:
    return {
        **_text(),
        "tokenizer_2": parts.clip_tokenizer(),
        "text_encoder_2": parts.clip_encoder(projected=True),
        "unet": parts.xl_unet(time_ids=time_ids),
        "vae": parts.autoencoder(scaling_factor=0.13025),
    }


def _sdxl_controlnet() -> dict[str, Any]:
    made = _sdxl()
    return {**made, "controlnet": parts.controlnet(made["unet"])}


def _sdxl_refiner() -> dict[str, Any]:
    made = _sdxl(time_ids=5)
    # The refiner has the second encoder alone, and an aesthetic score among its numbers.
    made |= {"tokenizer": None, "text_encoder": None, "requires_aesthetics_score": True}
    made["unet"] = parts.text_unet(
        addition_embed_type="text_time",
        addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=parts.TEXT_WIDTH + 8 * 5,
    )
    return made


def _sd3() -> dict[str, Any]:
    return {
        "tokenizer": parts.clip_tokenizer(),
        "text_encoder": parts.clip_encoder(projected=True),
        "tokenizer_2": parts.clip_tokenizer(),
        "text_encoder_2": parts.clip_encoder(projected=True),
        "tokenizer_3": parts.t5_tokenizer(),
        "text_encoder_3": parts.t5_encoder(2 * parts.TEXT_WIDTH),
        "transformer": parts.sd3_transformer(),
        "vae": parts.autoencoder(
            scaling_factor=1.5305, shift_factor=0.0609, use_quant_conv=False, use_post_quant_conv=False
        ),
    }


def _flux() -> dict[str, Any]:
    return {
        **_text(),
        "tokenizer_2": parts.t5_tokenizer(),
        "text_encoder_2": parts.t5_encoder(),
        "transformer": parts.flux_transformer(),
        "vae": parts.autoencoder(
            scaling_factor=0.3611, shift_factor=0.1159, use_quant_conv=False, use_post_quant_conv=False
        ),
    }


def _t5(transformer: Any, vae: Any, *, multilingual: bool = False) -> dict[str, Any]:
    return {
        "tokenizer": parts.t5_tokenizer(),
        "text_encoder": parts.t5_encoder(multilingual=multilingual),
        "transformer": transformer,
        "vae": vae,
    }


def _image() -> dict[str, Any]:
    return {"image": parts.picture(), "strength": 0.6}


def _inpaint() -> dict[str, Any]:
    return {"image": parts.picture(), "mask_image": parts.mask()}


def _control(name: str) -> Callable[[], dict[str, Any]]:
    return lambda: {"image": parts.condition(name)}


_SHORT = {"max_sequence_length": parts.TEXT_LENGTH}
_SQUARE = {"height": parts.PIXELS, "width": parts.PIXELS}
_SD15 = "stable-diffusion-v1-5/stable-diffusion-v1-5"
_SDXL = "stabilityai/stable-diffusion-xl-base-1.0"

KINDS: dict[str, Kind] = {
    "ddpm": Kind(
        "DDPM",
        "DDPMPipeline",
        "google/ddpm-cifar10-32",
        lambda: {"unet": parts.pixel_unet(16)},
        None,
        text=False,
        guided=False,
        rawest="pt",
    ),
    "ldm": Kind(
        "LDM, unconditional",
        "LDMPipeline",
        "CompVis/ldm-celebahq-256",
        lambda: {"unet": parts.pixel_unet(8), "vqvae": parts.vq_autoencoder()},
        "ddim",
        text=False,
        guided=False,
        rawest="np",
    ),
    "sd15": Kind("Stable Diffusion 1.5", "StableDiffusionPipeline", _SD15, _sd, "pndm"),
    "sd2-base": Kind(
        "Stable Diffusion 2 base",
        "StableDiffusionPipeline",
        "stabilityai/stable-diffusion-2-base",
        lambda: _sd(attention_head_dim=(2, 4), use_linear_projection=True),
        "pndm",
    ),
    "sd21": Kind(
        "Stable Diffusion 2.1, 768",
        "StableDiffusionPipeline",
        "stabilityai/stable-diffusion-2-1",
        lambda: _sd(attention_head_dim=(2, 4), use_linear_projection=True),
        "ddim",
    ),
    "sd15-img2img": Kind(
        "SD 1.5 image to image", "StableDiffusionImg2ImgPipeline", _SD15, _sd, "pndm", arguments=_image
    ),
    "sd15-inpaint": Kind(
        "SD 1.5 inpainting, 4 channels", "StableDiffusionInpaintPipeline", _SD15, _sd, "pndm", arguments=_inpaint
    ),
    "sd15-inpaint9": Kind(
        "SD 1.5 inpainting, 9 channels",
        "StableDiffusionInpaintPipeline",
        _SD15,
        lambda: _sd(in_channels=9),
        "pndm",
        arguments=_inpaint,
    ),
    **{
        f"sd15-{name}": Kind(
            f"SD 1.5 ControlNet, {name}",
            "StableDiffusionControlNetPipeline",
            _SD15,
            _sd_controlnet,
            "pndm",
            arguments=_control(name),
        )
        for name in ("canny", "depth", "pose")
    },
    "sdxl": Kind("SDXL", "StableDiffusionXLPipeline", _SDXL, _sdxl, "euler"),
    "sdxl-img2img": Kind(
        "SDXL refiner, image to image",
        "StableDiffusionXLImg2ImgPipeline",
        _SDXL,
        _sdxl_refiner,
        "euler",
        arguments=_image,
    ),
    "sdxl-canny": Kind(
        "SDXL ControlNet, canny",
        "StableDiffusionXLControlNetPipeline",
        _SDXL,
        _sdxl_controlnet,
        "euler",
        arguments=_control("canny"),
    ),
    "pixart": Kind(
        "PixArt-alpha",
        "PixArtAlphaPipeline",
        "PixArt-alpha/PixArt-XL-2-1024-MS",
        lambda: _t5(parts.pixart_transformer(), parts.autoencoder()),
        "dpmpp-2m",
        denoiser="transformer",
        arguments=lambda: {**_SHORT, **_SQUARE, "use_resolution_binning": False, "clean_caption": False},
    ),
    "sd3": Kind(
        "Stable Diffusion 3",
        "StableDiffusion3Pipeline",
        "stabilityai/stable-diffusion-3-medium-diffusers",
        _sd3,
        "flow-euler",
        denoiser="transformer",
        arguments=lambda: dict(_SHORT),
    ),
    "flux": Kind(
        "FLUX.1-dev",
        "FluxPipeline",
        "black-forest-labs/FLUX.1-dev",
        _flux,
        "flow-euler",
        denoiser="transformer",
        guided=False,
        arguments=lambda: {**_SHORT, **_SQUARE},
    ),
    "wan": Kind(
        "Wan 2.1, text to video",
        "WanPipeline",
        "Wan-AI/Wan2.1-T2V-1.3B-Diffusers",
        lambda: _t5(parts.wan_transformer(), parts.wan_autoencoder(), multilingual=True),
        "flow-unipc",
        denoiser="transformer",
        calls=2,
        output="frames",
        arguments=lambda: {**_SHORT, "height": 32, "width": 32, "num_frames": 5},
    ),
    "ltx": Kind(
        "LTX-Video",
        "LTXPipeline",
        "Lightricks/LTX-Video",
        lambda: _t5(parts.ltx_transformer(), parts.ltx_autoencoder()),
        "flow-euler",
        denoiser="transformer",
        output="frames",
        arguments=lambda: {**_SHORT, "height": 32, "width": 32, "num_frames": 9},
    ),
}
"""The pipelines by name."""


def build(kind: str) -> Any:
    """Build a tiny pipeline; the same weights on every call.

    Args:
        kind: A key of `KINDS`.

    Returns:
        The diffusers pipeline, without a progress bar.

    Raises:
        KeyError: For an unknown kind.
    """
    import diffusers
    import torch

    entry = KINDS[kind]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(list(KINDS).index(kind))
        components = entry.components()
    pipe = getattr(diffusers, entry.pipeline)(**components, scheduler=scheduler(entry.published))
    pipe.set_progress_bar_config(disable=True)
    return pipe


def save(kind: str, folder: str | Path) -> Path:
    """Build a tiny pipeline and save it as `save_pretrained` does.

    Args:
        kind: A key of `KINDS`.
        folder: Where to; made if it is not there.

    Returns:
        The folder.

    Raises:
        KeyError: For an unknown kind.
    """
    build(kind).save_pretrained(folder)
    return Path(folder)


def main() -> None:
    """Save the pipeline that the command line names, or list them all."""
    parser = argparse.ArgumentParser(description="Save a tiny pipeline with random weights.")
    parser.add_argument("kind", nargs="?", choices=list(KINDS), metavar="KIND")
    parser.add_argument("folder", nargs="?", metavar="FOLDER")
    given = parser.parse_args()
    if given.kind is None:
        for name, entry in KINDS.items():
            print(f"{name:14} {entry.title} ({entry.pipeline})")
    elif given.folder is None:
        parser.error("FOLDER is missing: say where to save it")
    else:
        print(save(given.kind, given.folder))


if __name__ == "__main__":
    sys.exit(main())

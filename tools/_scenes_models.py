"""The networks of the scenes models in diffusers' and transformers' own classes, untrained, and their pipelines."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from lmlangevin.scenes import training_scenes

TEXT_LENGTH = 24
LATENT_CHANNELS = 4
LATENT_NOISE = 0.05
WIDTHS = {"scenes": (32, 64), "scenes-flow": (96,)}
FLOW_SHIFT = 1.5
T5_TOKENS = 256
"""Zero tokens that StableDiffusion3Pipeline appends where it has no T5 encoder, by default."""


def autoencoder() -> Any:
    """Return an AutoencoderKL of factor 4 whose latents have a noise of constant deviation, `LATENT_NOISE`."""
    from diffusers import AutoencoderKL

    vae: Any = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        block_out_channels=(16, 32, 64),
        layers_per_block=1,
        latent_channels=LATENT_CHANNELS,
        norm_num_groups=8,
        sample_size=64,
    )
    nn.init.zeros_(vae.quant_conv.weight[LATENT_CHANNELS:])
    nn.init.constant_(vae.quant_conv.bias[LATENT_CHANNELS:], 2 * math.log(LATENT_NOISE))
    return vae


@cache
def tokenizer() -> Any:
    """Return a CLIPTokenizer with a byte-pair vocabulary learned from the captions of 20,000 training scenes."""
    from tokenizers import Tokenizer as Learner
    from tokenizers import models, normalizers, pre_tokenizers, trainers
    from transformers import CLIPTokenizer

    captions = [caption for _, scenes in training_scenes(range(20_000)) for caption in scenes.captions()]
    learner = Learner(models.BPE(end_of_word_suffix="</w>"))
    learner.normalizer = normalizers.Lowercase()
    learner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(
        vocab_size=10_000, initial_alphabet=alphabet, end_of_word_suffix="</w>", show_progress=False
    )
    # Commas stand apart, as CLIP's own rule splits them.
    learner.train_from_iterator((caption.replace(",", " ,") for caption in captions), trainer)
    learned = json.loads(learner.to_str())["model"]
    merges = [pair if isinstance(pair, list) else pair.split(" ") for pair in learned["merges"]]
    tokens = [*alphabet, *(f"{letter}</w>" for letter in alphabet)]
    tokens += [joined for pair in merges if (joined := "".join(pair)) not in set(tokens)]
    vocabulary = {token: i for i, token in enumerate([*dict.fromkeys(tokens), "<|startoftext|>", "<|endoftext|>"])}
    return CLIPTokenizer(
        vocab=vocabulary, merges=[tuple(pair) for pair in merges], model_max_length=TEXT_LENGTH, clean_up=False
    )


def text_config(width: int, layers: int) -> Any:
    """Return the configuration of a small CLIP text encoder for the scenes' tokenizer."""
    from transformers import CLIPTextConfig

    words = tokenizer()
    return CLIPTextConfig(
        vocab_size=len(words),
        hidden_size=width,
        intermediate_size=4 * width,
        projection_dim=width,
        num_hidden_layers=layers,
        num_attention_heads=4,
        max_position_embeddings=TEXT_LENGTH,
        bos_token_id=words.bos_token_id,
        eos_token_id=words.eos_token_id,
        pad_token_id=words.pad_token_id,
    )


def diffusion_parts(width: tuple[int, ...] = WIDTHS["scenes"]) -> nn.ModuleDict:
    """Return the UNet and the text encoder of `scenes`."""
    from diffusers import UNet2DConditionModel
    from transformers import CLIPTextModel

    unet = UNet2DConditionModel(
        sample_size=16,
        in_channels=LATENT_CHANNELS,
        out_channels=LATENT_CHANNELS,
        layers_per_block=2,
        block_out_channels=width,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=64,
        norm_num_groups=8,
        # diffusers reads this as the number of heads.
        attention_head_dim=4,
    )
    return nn.ModuleDict({"unet": unet, "text_encoder": CLIPTextModel(text_config(64, 2))})


def flow_parts(width: tuple[int, ...] = WIDTHS["scenes-flow"]) -> nn.ModuleDict:
    """Return the transformer and the two text encoders of `scenes-flow`."""
    from diffusers import SD3Transformer2DModel
    from transformers import CLIPTextModelWithProjection

    heads = width[0] // 32
    transformer = SD3Transformer2DModel(
        sample_size=16,
        patch_size=2,
        in_channels=LATENT_CHANNELS,
        out_channels=LATENT_CHANNELS,
        num_layers=6,
        attention_head_dim=32,
        num_attention_heads=heads,
        joint_attention_dim=96,
        caption_projection_dim=width[0],
        pooled_projection_dim=96,
        pos_embed_max_size=16,
        qk_norm="rms_norm",
    )
    # The pipeline takes the hidden states before the last layer, hence one layer more.
    encoders = {name: CLIPTextModelWithProjection(text_config(48, 3)) for name in ("text_encoder", "text_encoder_2")}
    return nn.ModuleDict({"transformer": transformer, **encoders})


def token_ids(prompts: Iterable[str]) -> Tensor:
    """Return the padded tokens of prompts as the pipelines make them, int64 (B, 24)."""
    return tokenizer()(
        list(prompts), padding="max_length", max_length=TEXT_LENGTH, truncation=True, return_tensors="pt"
    ).input_ids


def noise_schedule() -> tuple[Tensor, Tensor]:
    """Return (alpha, sigma) of Stable Diffusion's scaled linear betas, float32 of shape (1000,)."""
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64).square()
    alpha_bar = torch.cumprod(1 - betas, 0)
    return alpha_bar.sqrt().float(), (1 - alpha_bar).sqrt().float()


def diffusion_pipeline(parts: nn.ModuleDict, vae: Any) -> Any:
    """Return the StableDiffusionPipeline of `scenes`, with the scheduler that Stable Diffusion 1.5 ships."""
    from diffusers import PNDMScheduler, StableDiffusionPipeline

    scheduler = PNDMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        skip_prk_steps=True,
        set_alpha_to_one=False,
        steps_offset=1,
    )
    return StableDiffusionPipeline(
        vae,
        parts["text_encoder"],  # pyright: ignore[reportArgumentType]
        tokenizer(),
        parts["unet"],  # pyright: ignore[reportArgumentType]
        scheduler,
        safety_checker=None,  # pyright: ignore[reportArgumentType]
        feature_extractor=None,  # pyright: ignore[reportArgumentType]
        requires_safety_checker=False,
    )


def flow_pipeline(parts: nn.ModuleDict, vae: Any) -> Any:
    """Return the StableDiffusion3Pipeline of `scenes-flow`, without a T5 encoder."""
    from diffusers import FlowMatchEulerDiscreteScheduler, StableDiffusion3Pipeline

    return StableDiffusion3Pipeline(
        transformer=parts["transformer"],  # pyright: ignore[reportArgumentType]
        scheduler=FlowMatchEulerDiscreteScheduler(shift=FLOW_SHIFT),
        vae=vae,
        text_encoder=parts["text_encoder"],  # pyright: ignore[reportArgumentType]
        tokenizer=tokenizer(),
        text_encoder_2=parts["text_encoder_2"],  # pyright: ignore[reportArgumentType]
        tokenizer_2=tokenizer(),
        text_encoder_3=None,  # pyright: ignore[reportArgumentType]
        tokenizer_3=None,  # pyright: ignore[reportArgumentType]
    )

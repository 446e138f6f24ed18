"""Tiny networks, text encoders, tokenizers and pictures of which `tiny_pipelines.py` makes pipelines.

Every class is the one that the published model uses; only the widths, depths and vocabularies are small. Weights are
random, under the seed that the caller has set.
"""

from __future__ import annotations

import string
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

TEXT_LENGTH = 77
"""Tokens of a prompt, everywhere; a letter is one."""

TEXT_WIDTH = 16
"""Width of every text encoder."""

PIXELS = 64
"""Height and width of the images: 8 x 8 latents behind an autoencoder that halves three times."""

# Text ---------------------------------------------------------------------------------------------------------------


def clip_tokenizer() -> Any:
    """A CLIP tokenizer of single letters."""
    from transformers import CLIPTokenizer

    letters = string.ascii_lowercase
    words = [*letters, *(letter + "</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    vocabulary = {word: index for index, word in enumerate(words)}
    return CLIPTokenizer(vocab=vocabulary, merges=[], model_max_length=TEXT_LENGTH)


def t5_tokenizer() -> Any:
    """A T5 tokenizer of single letters."""
    from transformers import T5Tokenizer

    special = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0)]
    letters = [(letter, -2.0) for letter in "\u2581" + string.ascii_lowercase]
    return T5Tokenizer(vocab=special + letters, extra_ids=0, model_max_length=TEXT_LENGTH)


def clip_encoder(*, projected: bool = False) -> Any:
    """A CLIP text encoder, with the projection head that SDXL's second one and SD3's both have if `projected`."""
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    size = 2 * len(string.ascii_lowercase) + 2
    config = CLIPTextConfig(
        vocab_size=size,
        hidden_size=TEXT_WIDTH,
        intermediate_size=TEXT_WIDTH,
        num_hidden_layers=2,  # SDXL reads the last but one
        num_attention_heads=2,
        max_position_embeddings=TEXT_LENGTH,
        projection_dim=TEXT_WIDTH,
        bos_token_id=size - 2,
        eos_token_id=size - 1,
        pad_token_id=size - 1,
    )
    return (CLIPTextModelWithProjection if projected else CLIPTextModel)(config)


def t5_encoder(width: int = TEXT_WIDTH, *, multilingual: bool = False) -> Any:
    """A T5 encoder, or the UMT5 of Wan."""
    from transformers import T5Config, T5EncoderModel, UMT5Config, UMT5EncoderModel

    settings = {
        "vocab_size": 32,
        "d_model": width,
        "d_kv": 8,
        "d_ff": width,
        "num_layers": 1,
        "num_heads": 2,
        "feed_forward_proj": "gated-gelu",
    }
    return UMT5EncoderModel(UMT5Config(**settings)) if multilingual else T5EncoderModel(T5Config(**settings))


# Autoencoders -------------------------------------------------------------------------------------------------------


def autoencoder(**config: Any) -> Any:
    """The autoencoder of Stable Diffusion: 4 channels of latents, an eighth of the image's height and width."""
    from diffusers import AutoencoderKL

    halvings = 3
    settings: dict[str, Any] = {
        "down_block_types": ("DownEncoderBlock2D",) * (halvings + 1),
        "up_block_types": ("UpDecoderBlock2D",) * (halvings + 1),
        "block_out_channels": (4,) * (halvings + 1),
        "layers_per_block": 1,
        "norm_num_groups": 2,
        "latent_channels": 4,
        "sample_size": PIXELS,
    }
    return AutoencoderKL(**{**settings, **config})


def vq_autoencoder() -> Any:
    """The quantised autoencoder of LDM on CelebA-HQ: 3 channels of latents, a quarter of the height and width."""
    from diffusers import VQModel

    return VQModel(
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        block_out_channels=(4, 4, 4),
        norm_num_groups=2,
        num_vq_embeddings=32,
        sample_size=32,
    )


def wan_autoencoder() -> Any:
    """The causal video autoencoder of Wan 2.1: an eighth in space, a quarter in time."""
    from diffusers import AutoencoderKLWan

    return AutoencoderKLWan(base_dim=4, dim_mult=[1, 1, 1, 1], num_res_blocks=1)


def ltx_autoencoder() -> Any:
    """The video autoencoder of LTX."""
    from diffusers import AutoencoderKLLTXVideo

    return AutoencoderKLLTXVideo(
        latent_channels=8,
        block_out_channels=(8, 8, 8, 8),
        decoder_block_out_channels=(8, 8, 8, 8),
        layers_per_block=(1, 1, 1, 1, 1),
        decoder_layers_per_block=(1, 1, 1, 1, 1),
        spatio_temporal_scaling=(True, True, False, False),
        decoder_spatio_temporal_scaling=(True, True, False, False),
        patch_size=1,
    )


# Denoisers ----------------------------------------------------------------------------------------------------------


def pixel_unet(sample_size: int) -> Any:
    """An unconditional U-Net."""
    from diffusers import UNet2DModel

    return UNet2DModel(
        sample_size=sample_size,
        in_channels=3,
        out_channels=3,
        layers_per_block=1,
        block_out_channels=(8, 16),
        down_block_types=("DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D"),
        attention_head_dim=8,
        norm_num_groups=4,
    )


def text_unet(**config: Any) -> Any:
    """The U-Net of Stable Diffusion."""
    from diffusers import UNet2DConditionModel

    settings: dict[str, Any] = {
        "sample_size": PIXELS // 8,
        "layers_per_block": 1,
        "block_out_channels": (8, 16),
        "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
        "cross_attention_dim": TEXT_WIDTH,
        "attention_head_dim": 2,
        "norm_num_groups": 4,
    }
    return UNet2DConditionModel(**{**settings, **config})


def xl_unet(*, time_ids: int = 6) -> Any:
    """The U-Net of SDXL, whose embeddings hold the pooled text and `time_ids` numbers about the image's size."""
    return text_unet(
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=2 * TEXT_WIDTH,
        transformer_layers_per_block=(1, 2),
        attention_head_dim=(2, 4),
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=TEXT_WIDTH + 8 * time_ids,
    )


def controlnet(unet: Any) -> Any:
    """A ControlNet for a U-Net, with weights that have an effect (they start at zero in training)."""
    import torch
    from diffusers import ControlNetModel

    made: Any = ControlNetModel.from_unet(unet, conditioning_embedding_out_channels=(8, 16, 16, 16))
    for block in (*made.controlnet_down_blocks, made.controlnet_mid_block):
        torch.nn.init.normal_(block.weight, std=0.3)
    torch.nn.init.normal_(made.controlnet_cond_embedding.conv_out.weight, std=0.3)
    return made


def pixart_transformer() -> Any:
    """The transformer of PixArt-alpha, whose output holds the noise and a learned variance.

    Its `sample_size` of 32 is one that the pipeline has a table of aspect ratios for.
    """
    from diffusers import PixArtTransformer2DModel

    return PixArtTransformer2DModel(
        sample_size=32,
        num_attention_heads=2,
        attention_head_dim=8,
        num_layers=1,
        cross_attention_dim=16,
        caption_channels=TEXT_WIDTH,
        in_channels=4,
        out_channels=8,
    )


def sd3_transformer() -> Any:
    """The transformer of Stable Diffusion 3."""
    from diffusers import SD3Transformer2DModel

    return SD3Transformer2DModel(
        sample_size=PIXELS // 8,
        pos_embed_max_size=PIXELS // 8,
        in_channels=4,
        out_channels=4,
        num_layers=2,
        num_attention_heads=2,
        attention_head_dim=8,
        joint_attention_dim=2 * TEXT_WIDTH,
        caption_projection_dim=16,
        pooled_projection_dim=2 * TEXT_WIDTH,
    )


def flux_transformer() -> Any:
    """The transformer of FLUX.1-dev, which takes the guidance scale as an input; latents come to it packed 2 x 2."""
    from diffusers import FluxTransformer2DModel

    return FluxTransformer2DModel(
        in_channels=16,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=TEXT_WIDTH,
        pooled_projection_dim=TEXT_WIDTH,
        guidance_embeds=True,
        axes_dims_rope=(4, 4, 8),
    )


def wan_transformer() -> Any:
    """The video transformer of Wan 2.1."""
    from diffusers import WanTransformer3DModel

    return WanTransformer3DModel(
        num_attention_heads=2,
        attention_head_dim=12,
        in_channels=16,
        out_channels=16,
        text_dim=TEXT_WIDTH,
        freq_dim=16,
        ffn_dim=16,
        num_layers=1,
        rope_max_seq_len=32,
    )


def ltx_transformer() -> Any:
    """The video transformer of LTX."""
    from diffusers import LTXVideoTransformer3DModel

    return LTXVideoTransformer3DModel(
        in_channels=8,
        out_channels=8,
        num_attention_heads=2,
        attention_head_dim=8,
        cross_attention_dim=16,
        num_layers=1,
        caption_channels=TEXT_WIDTH,
    )


# Pictures -----------------------------------------------------------------------------------------------------------


def picture(size: int = PIXELS) -> Image.Image:
    """An RGB picture to start from: two ramps and a disc."""
    down, across = np.mgrid[0:size, 0:size] / (size - 1)
    disc = ((down - 0.5) ** 2 + (across - 0.5) ** 2 < 0.09).astype(float)
    return Image.fromarray((255 * np.stack([down, across, disc], axis=-1)).astype(np.uint8))


def mask(size: int = PIXELS) -> Image.Image:
    """A mask whose right half is to be painted."""
    drawn = Image.new("L", (size, size))
    ImageDraw.Draw(drawn).rectangle((size // 2, 0, size, size), fill=255)
    return drawn


def condition(name: str, size: int = PIXELS) -> Image.Image:
    """A picture of the kind that a ControlNet is conditioned on.

    Args:
        name: `"canny"` (white edges), `"depth"` (a grey ramp with a near disc) or `"pose"` (coloured limbs).
        size: Height and width.
    """
    drawn = Image.new("RGB", (size, size))
    pen = ImageDraw.Draw(drawn)
    quarter = size // 4
    if name == "canny":
        pen.ellipse((quarter, quarter, 3 * quarter, 3 * quarter), outline="white")
        pen.line((0, size - 1, size - 1, 0), fill="white")
    elif name == "depth":
        for row in range(size):
            grey = 255 * row // size
            pen.line((0, row, size, row), fill=(grey, grey, grey))
        pen.ellipse((quarter, quarter, 3 * quarter, 3 * quarter), fill=(230, 230, 230))
    else:
        joints = [(2, 1), (2, 2), (1, 2), (3, 2), (2, 3)]
        points = [(across * quarter, down * quarter) for across, down in joints]
        for point, colour in zip(points[1:], ("red", "lime", "blue", "yellow"), strict=True):
            pen.line((*points[0], *point), fill=colour, width=2)
    return drawn

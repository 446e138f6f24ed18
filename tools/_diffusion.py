"""The noise process and the training objective of the embedded CIFAR-10 model, apart from the loop that runs them."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

TRAIN_TIMESTEPS = 1000
BETA_START, BETA_END = 1e-4, 0.02
HIGH_NOISE_FROM = 800

UNET_CONFIG: dict[str, Any] = {
    "sample_size": 32,
    "in_channels": 3,
    "out_channels": 3,
    "layers_per_block": 1,
    "block_out_channels": [32, 64, 64],
    "down_block_types": ["DownBlock2D"] * 3,
    "up_block_types": ["UpBlock2D"] * 3,
    "norm_num_groups": 8,
    "attention_head_dim": 32,
    "add_attention": True,
}


def noise_levels() -> tuple[Tensor, Tensor]:
    """Return (alpha, sigma) of the DDPM chain with linear betas: float64, shape (1000,), alpha^2 + sigma^2 = 1."""
    betas = torch.linspace(BETA_START, BETA_END, TRAIN_TIMESTEPS, dtype=torch.float64)
    alpha_bar = torch.cumprod(1 - betas, 0)
    return alpha_bar.sqrt(), (1 - alpha_bar).sqrt()


def draw_timesteps(count: int, high_noise: float, generator: torch.Generator) -> Tensor:
    """Draw timesteps, int64 of shape (count,): uniform, but a share `high_noise` from the noisiest fifth."""
    uniform = torch.randint(0, TRAIN_TIMESTEPS, (count,), generator=generator)
    high = torch.randint(HIGH_NOISE_FROM, TRAIN_TIMESTEPS, (count,), generator=generator)
    return torch.where(torch.rand(count, generator=generator) < high_noise, high, uniform)


def multiscale_loss(residual: Tensor, ratio: Tensor) -> Tensor:
    """Weighted squared error of a noise prediction, at three scales.

    The plain mean square hides the error that decides a sample's brightness and contrast: at sigma/alpha = 150 an
    error of 0.008 in a channel's mean moves the implied image by more than 1, and weighs 6e-5 in the mean square.
    So the error is also taken after averaging over 4x4 blocks and over whole channels, and each scale is weighted by
    the inverse of about the least variance that any predictor leaves there, (ratio^2 + v) / v with v the variance of
    the data in that scale's orthonormal coefficients (0.25 for pixels, 2.25 for blocks, 64 for channels). The weights
    are capped, or the few coarse coefficients rule the gradient and the fine ones stop learning (seen: with caps four
    times as high the loss at t = 100 rose by 30%). Every weight is a positive quadratic form that does not depend on
    the image, so the minimiser is E[epsilon | x] as before.

    Args:
        residual: predicted minus true noise, float32 of shape (B, C, 32, 32).
        ratio: sigma/alpha of each sample, shape (B,).

    Returns:
        A scalar, about 0.25 for a trained small model.
    """
    square = ratio.square()
    pixels = residual.square().mean((1, 2, 3)) * (1 + (square / 0.25).clamp(max=120))
    blocks = 16 * F.avg_pool2d(residual, 4).square().mean((1, 2, 3)) * (square / 2.25).clamp(max=60)
    channels = 1024 * residual.mean((2, 3)).square().mean(1) * (square / 64).clamp(max=25)
    return (pixels + 0.1 * blocks + 0.1 * channels).mean()


def keep_float32(model: nn.Module) -> None:
    """Keep the first and last layers of a UNet2DModel and its time embedding out of autocast, in place.

    Close to pure noise the prediction must equal the input to a part in a thousand, finer than bfloat16 can write it.
    """

    def exempt(module: nn.Module) -> None:
        inner = module.forward

        def forward(*args: Tensor) -> Tensor:
            with torch.autocast(args[0].device.type, enabled=False):
                return inner(*(item.float() for item in args))

        module.forward = forward

    for name in ("conv_in", "conv_norm_out", "conv_out", "time_embedding"):
        exempt(getattr(model, name))

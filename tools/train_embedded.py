"""Train the small unconditional CIFAR-10 UNet that the package embeds, and export it as a DDPMPipeline folder.

    python tools/train_embedded.py --data cifar10-train.parquet --run RUN --minutes 80 [--init FOLDER] [--resume]
    python tools/train_embedded.py --data cifar10-train.parquet --run RUN --export src/lmlangevin/assets/embedded

The run folder is described in `_training.py`.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from _cifar import read_cifar10
from _diffusion import UNET_CONFIG, draw_timesteps, keep_float32, multiscale_loss, noise_levels
from _training import add_arguments, newest, train


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="CIFAR-10 training parquet")
    add_arguments(parser, batch=64, lr=1.2e-4, ema=0.9995)
    parser.add_argument("--init", type=Path, help="diffusers UNet2DModel folder to start from")
    parser.add_argument("--high-noise", type=float, default=0.2, help="share of timesteps from the noisiest fifth")
    parser.add_argument("--export", type=Path, help="write the newest checkpoint's average here; no training")
    parser.add_argument("--samples", type=int, default=200, help="samples that --export measures, twice")
    parser.add_argument("--date", default=time.strftime("%Y-%m-%d"), help="of the training, for the card")
    parser.add_argument("--command", default="", help="of the training, for the card")
    parser.add_argument("--note", default="", help="a paragraph for the card")
    parser.add_argument("--past-images", type=int, default=0, help="images that --init had seen, for the card")
    return parser.parse_args()


def build(init: Path | None) -> Any:
    """Return a float32 UNet2DModel, fresh or from a folder."""
    from diffusers import UNet2DModel

    return UNet2DModel(**UNET_CONFIG) if init is None else UNet2DModel.from_pretrained(init, torch_dtype=torch.float32)


def embedded_loss(args: argparse.Namespace, model: Any) -> Callable[[int], Tensor]:
    """Return the loss of a step: the multiscale error of the noise prediction on flipped CIFAR-10 images."""
    images = read_cifar10(args.data)[0]
    keep_float32(model)
    alpha, sigma = (level.float() for level in noise_levels())
    device = torch.device(args.device)

    def loss_of(step: int) -> Tensor:
        generator = torch.Generator().manual_seed(args.seed * 1_000_003 + step)
        x0 = images[torch.randint(len(images), (args.batch,), generator=generator)].float() / 127.5 - 1
        flip = torch.rand(args.batch, 1, 1, 1, generator=generator) < 0.5
        x0 = torch.where(flip, x0.flip(3), x0)
        t = draw_timesteps(args.batch, args.high_noise, generator)
        noise = torch.randn(x0.shape, generator=generator)
        noisy = alpha[t].view(-1, 1, 1, 1) * x0 + sigma[t].view(-1, 1, 1, 1) * noise
        noisy, noise = noisy.to(device), noise.to(device)
        with torch.autocast(device.type, torch.bfloat16, enabled=not args.float32):
            predicted = model(noisy, t.to(device)).sample
        return multiscale_loss(predicted.float() - noise, (sigma[t] / alpha[t]).to(device))

    return loss_of


def main() -> None:
    """Train, or export what was trained."""
    args = parse()
    if args.export is None:
        model = build(args.init).to(args.device).train()
        train(args, model, embedded_loss(args, model), {"past_images": args.past_images})
        return
    from _embedded_card import Provenance, export

    torch.set_num_threads(args.threads)
    folder = newest(args.run)
    export(
        folder, args.export, read_cifar10(args.data)[0], Provenance(args.date, args.command, args.note), args.samples
    )


if __name__ == "__main__":
    main()

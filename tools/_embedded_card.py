"""Export, measurement and card of the embedded CIFAR-10 pipeline."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors.torch import load_file
from torch import Tensor

from _diffusion import BETA_END, BETA_START, TRAIN_TIMESTEPS

LIMIT_BYTES = 16 * 2**20
SEED, EVALUATIONS = 20261122, 100


class Provenance(NamedTuple):
    """The date of the training, its command, and a paragraph on it that no number tells."""

    date: str
    command: str
    note: str


def measure(pipeline: Any, evaluations: int, clip: bool, count: int, seed: int = SEED) -> Tensor:
    """Sample with DDIM (eta 0, trailing grid); float32 images of shape (count, 3, 32, 32), not clipped at the end."""
    from diffusers import DDIMScheduler

    # This layout is half as fast again in float32 on a CPU.
    unet = pipeline.unet.to(memory_format=torch.channels_last)
    scheduler = DDIMScheduler.from_config(pipeline.scheduler.config, clip_sample=clip, timestep_spacing="trailing")
    scheduler.set_timesteps(evaluations)
    parts = []
    with torch.inference_mode():
        for first in range(0, count, 100):
            generator = torch.Generator().manual_seed(seed + first)
            x = torch.randn(min(100, count - first), 3, 32, 32, generator=generator)
            for t in scheduler.timesteps:
                x = scheduler.step(unet(x, t).sample, t, x, eta=0.0).prev_sample
            parts.append(x)
    return torch.cat(parts)


def figures(images: Tensor) -> dict[str, float]:
    """Mean and standard deviation over all pixels, and the spread of the images' own means and their mean contrast."""
    return {
        "mean": float(images.mean()),
        "std": float(images.std()),
        "spread of image means": float(images.mean((1, 2, 3)).std()),
        "contrast": float(images.std((2, 3)).mean()),
    }


def export(checkpoint: Path, target: Path, images: Tensor, told: Provenance, count: int) -> None:
    """Write the average of a checkpoint as a float16 DDPMPipeline folder with a card, replacing `target` when whole.

    Args:
        checkpoint: folder with `ema.safetensors` and `state.json`.
        target: folder to write; an older one is replaced.
        images: the training images, uint8, for the card's comparison.
        told: what the card says of the training beyond the checkpoint's own record.
        count: samples to measure, twice; 200 take some minutes on one core.

    Raises:
        ValueError: the folder would be larger than 16 MiB.
    """
    from diffusers import DDPMPipeline, DDPMScheduler

    from train_embedded import build

    state = json.loads((checkpoint / "state.json").read_text())
    model = build(None)
    model.load_state_dict(load_file(checkpoint / "ema.safetensors"))
    scheduler = DDPMScheduler(
        num_train_timesteps=TRAIN_TIMESTEPS,
        beta_start=BETA_START,
        beta_end=BETA_END,
        beta_schedule="linear",
        clip_sample=False,
    )
    part, old = (target.with_name(f".{target.name}.{word}") for word in ("part", "old"))
    for folder in (part, old):
        shutil.rmtree(folder, ignore_errors=True)
    DDPMPipeline(unet=model.half(), scheduler=scheduler).save_pretrained(part)
    for file in part.rglob("*.safetensors"):
        file.chmod(0o644)
    # What is measured is what users load: the rounded weights, in float32.
    pipeline = DDPMPipeline.from_pretrained(part, local_files_only=True)
    data = figures(images.float() / 127.5 - 1)
    rows = {f"{EVALUATIONS} evaluations": figures(measure(pipeline, EVALUATIONS, False, count))}
    rows[f"{EVALUATIONS} evaluations, clip_sample"] = figures(measure(pipeline, EVALUATIONS, True, count))
    rows["training images"] = data
    weights = part / "unet" / "diffusion_pytorch_model.safetensors"
    digest = hashlib.sha256(weights.read_bytes()).hexdigest()
    (part / "README.md").write_text(card(state, rows, digest, told, parameters(model), count), encoding="utf-8")
    size = sum(file.stat().st_size for file in part.rglob("*") if file.is_file())
    if size > LIMIT_BYTES:
        raise ValueError(f"export {str(target)!r}: {size} bytes, the limit is {LIMIT_BYTES}; train a smaller network")
    if target.exists():
        target.rename(old)
    os.replace(part, target)
    shutil.rmtree(old, ignore_errors=True)


def parameters(model: torch.nn.Module) -> int:
    """Number of parameters."""
    return sum(p.numel() for p in model.parameters())


def card(
    state: dict[str, Any], rows: dict[str, dict[str, float]], digest: str, told: Provenance, size: int, count: int
) -> str:
    """Return the text of the card."""
    keys = list(next(iter(rows.values())))
    table = ["| | " + " | ".join(keys) + " |", "|---" * (len(keys) + 1) + "|"]
    table += [f"| {name} | " + " | ".join(f"{row[key]:.3f}" for key in keys) + " |" for name, row in rows.items()]
    total = state["past_images"] + state["images"]
    return f"""# Embedded CIFAR-10 diffusion model

An unconditional 32x32 `UNet2DModel` of {size:,} parameters, epsilon prediction, 1000 linear betas
from {BETA_START} to {BETA_END}, as a diffusers `DDPMPipeline` folder. It exists so that the package's commands, demo,
tests and benchmarks run on a real network without a download. It is far too small to stand for the state of the art.

- Data: the 50,000 CIFAR-10 training images from a parquet copy whose images are JPEG re-encoded, in [-1, 1], with
  random horizontal flips.
- Script: `tools/train_embedded.py`, on {told.date}. Command: `{told.command}`
- Training: {state["step"]:,} steps of {state["arguments"]["batch"]}, {state["images"]:,} images in
  {state["minutes"]:.0f} minutes on one CPU core, after {state["past_images"]:,} images that the starting
  weights had seen ({total:,} in all).
- Weights: exponential moving average (decay {state["arguments"]["ema"]}), stored in float16.
  SHA-256 of `unet/diffusion_pytorch_model.safetensors`: `{digest}`
- Licence: the weights are under the package's licence. CIFAR-10 (Krizhevsky, 2009) is distributed by its author for
  research without a formal licence; no image of it is in this folder.

{told.note}

## Measured on this folder

{count} samples, DDIM with eta 0 on the trailing grid, float32, a seed for each 100 ({SEED}, ...); pixels in [-1, 1],
not clipped after the last step. "Spread of image means" is the standard deviation, over images, of an image's mean;
"contrast" is the mean standard deviation within a channel of an image.

{chr(10).join(table)}
"""

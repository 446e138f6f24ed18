"""Write what `train_scenes.py` trained as the package's assets, with cards that say what was measured.

    python tools/export_scenes.py scenes --run RUNS/scenes --autoencoder RUNS/autoencoder
    python tools/export_scenes.py scenes-flow --run RUNS/scenes-flow --autoencoder RUNS/autoencoder
    python tools/export_scenes.py reader --run RUNS/reader

Weights are the moving averages, in float16. `--past-images` and `--command` tell the card what the checkpoint cannot
know: what `--init` had seen, and how the training was started.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import time
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from _scenes_models import diffusion_parts, diffusion_pipeline, flow_parts, flow_pipeline
from _scenes_reader import any_scenes, distort
from _training import averaged, newest
from lmlangevin.evaluation import feature_statistics
from lmlangevin.scenes import COLOURS, SHAPES, TEXTURES, Scenes, draw, read_scenes, sample_scenes
from lmlangevin.scenes.reader import SceneReader
from train_scenes import Latents, pictures

ASSETS = Path(__file__).resolve().parent.parent / "src" / "lmlangevin" / "assets"
LIMIT_BYTES = {"scenes": 6 * 2**20, "scenes-flow": 6 * 2**20, "reader": 2 * 2**20}
TEST_SEED = 3 * 10**13
"""Fresh scenes for what a card measures; training uses seeds below 10^12 and from 10^13."""

REFERENCE, REFERENCE_SEED = 10_000, 4 * 10**13
"""Drawn scenes of the reference statistics of the protocol `scenes`."""

LICENCE = "- Licence: that of the package. The pictures are drawn by the package; there is no other data."


def state_of(run: Path) -> dict[str, Any]:
    """Return the state of a run's newest checkpoint."""
    return json.loads((newest(run) / "state.json").read_text())


def training_line(args: argparse.Namespace, state: dict[str, Any]) -> str:
    """Return what the card says of the training."""
    past = f", after {args.past_images:,} that the starting weights had seen" if args.past_images else ""
    return (
        f"- Training: {state['step']:,} steps of {state['arguments']['batch']}, {state['images']:,} samples in "
        f"{state['minutes']:.0f} minutes on one CPU core{past}; pictures drawn on the fly.\n"
        f"- Script: `tools/train_scenes.py`, on {args.date}. Command: `{args.command}`"
    )


def export_pipeline(args: argparse.Namespace, part: Path) -> str:
    """Save a pipeline into a folder; returns the text of its card."""
    state = state_of(args.run)
    flow = args.kind == "scenes-flow"
    build = flow_parts if flow else diffusion_parts
    width = state["arguments"].get("width")
    parts = build(tuple(width)) if width else build()
    parts.load_state_dict(averaged(args.run))
    stream = Latents(argparse.Namespace(autoencoder=args.autoencoder, device="cpu", batch=64, seed=0))
    vae = stream.vae
    vae.register_to_config(scaling_factor=round(stream.scale, 5), shift_factor=0.0 if flow else None)
    images = draw(sample_scenes(range(TEST_SEED, TEST_SEED + 256), 2))
    with torch.no_grad():
        error = (vae.decode(vae.encode(images).latent_dist.mean).sample - images).square().mean().sqrt().item()
    pipe = (flow_pipeline if flow else diffusion_pipeline)(parts, vae)
    pipe.to(torch.float16)
    pipe.save_pretrained(part, safe_serialization=True)
    if not flow:
        # Stable Diffusion 1.5's file has this key for those that make a DDIM of its PNDM, which would clip latents.
        scheduler = part / "scheduler" / "scheduler_config.json"
        scheduler.write_text(json.dumps(json.loads(scheduler.read_text()) | {"clip_sample": False}, indent=2) + "\n")
    for file in part.glob("text_encoder*/config.json"):
        # transformers would load the encoders in the dtype of their files, beside a float32 network of diffusers.
        file.write_text(json.dumps(json.loads(file.read_text()) | {"dtype": "float32"}, indent=2) + "\n")
    network = parts["transformer"] if flow else parts["unet"]
    size = sum(p.numel() for p in network.parameters())
    what = (
        "`StableDiffusion3Pipeline` with an `SD3Transformer2DModel`, two `CLIPTextModelWithProjection` and no T5, "
        "trained by flow matching with logit-normal times"
        if flow
        else "`StableDiffusionPipeline` with a `UNet2DConditionModel` and a `CLIPTextModel` trained jointly, noise "
        "prediction, and the scheduler of Stable Diffusion 1.5 (PNDM, scaled linear betas)"
    )
    return f"""# {args.kind}: text to image on a laptop

A {what}.
It draws 64x64 pictures of one or two coloured, textured shapes from prompts such as "a striped blue square left of a
yellow star", through 16x16 latents of an `AutoencoderKL`. It exists so that the package's commands, demo, tests and
benchmarks run on a trained, guided, latent model without a download.

- Parameters: {size:,} in the network, {sum(p.numel() for p in parts.parameters()) - size:,} in the text encoders,
  {sum(p.numel() for p in vae.parameters()):,} in the autoencoder.
- The autoencoder has a root mean square error of {error:.4f} on 256 fresh scenes, pixels in [-1, 1]; its
  `scaling_factor` {stream.scale:.5f} was measured on 512 others.
- Words: the shapes {", ".join(SHAPES)}; the colours {", ".join(COLOURS)}; the textures {", ".join(TEXTURES)}; left of,
  right of, above, below.
- Five pairs of colour and shape, two of texture and shape, and three objects never occur in training:
  `lmlangevin.scenes.UNSEEN_COLOURS`, `UNSEEN_TEXTURES`.
{training_line(args, state)}. The condition is dropped in a tenth of the samples.
- Weights: exponential moving average (decay {state["arguments"]["ema"]}), float16.
{LICENCE}

What it draws at which cost, with which sampler and guidance, is measured by `python benchmarks/scenes_plain.py`.
"""


def test_scenes(count: int = 999) -> list[Scenes]:
    """Return fresh scenes of one, two and three objects with all pairs, also those that training leaves out."""
    share = count // 3
    return [any_scenes(list(range(TEST_SEED + k * share, TEST_SEED + (k + 1) * share)), k) for k in (1, 2, 3)]


def measure_reader(reader: SceneReader, strength: float) -> dict[str, Any]:
    """Compare what the reader sees with what is drawn, on 999 fresh scenes.

    Args:
        reader: The network.
        strength: Of the distortions, 0 for none.

    Returns:
        Shares of objects found within 4 pixels, and right in each attribute where found; objects that are not there;
        and for each attribute the confusion counts, true word by seen word.
    """
    words = {"colour": COLOURS, "shape": SHAPES, "texture": TEXTURES}
    confusion = {name: torch.zeros(len(values), len(values), dtype=torch.long) for name, values in words.items()}
    objects = found = extra = 0
    for index, scenes in enumerate(test_scenes()):
        images = draw(scenes)
        if strength:
            images = distort(images, torch.Generator().manual_seed(index), strength)
        for i, seen in enumerate(read_scenes(images, reader=reader)):
            left = list(seen)
            for k, noun in enumerate(scenes.nouns(i)):
                x, y = scenes.x[i, k].item(), scenes.y[i, k].item()
                near = min(left, key=lambda item: (item.x - x) ** 2 + (item.y - y) ** 2, default=None)
                objects += 1
                if near is None or (near.x - x) ** 2 + (near.y - y) ** 2 > 16:
                    continue
                left.remove(near)
                found += 1
                for name, values in words.items():
                    confusion[name][values.index(getattr(noun, name)), values.index(getattr(near, name))] += 1
            extra += len(left)
    right = {name: counts.diag().sum().item() / counts.sum().item() for name, counts in confusion.items()}
    return {"objects": objects, "found": found / objects, "extra": extra / objects, "right": right,
            "confusion": {name: counts.tolist() for name, counts in confusion.items()}}  # fmt: skip


def reference_images(start: int, count: int) -> torch.Tensor:
    """Return drawn scenes of the kind of training, uint8, of seeds that no training used."""
    images, _ = pictures(list(range(REFERENCE_SEED + start, REFERENCE_SEED + start + count)))
    return ((images + 1) * 127.5).round().byte()


def export_reader(args: argparse.Namespace, part: Path) -> str:
    """Save the reader into a folder; returns the text of its card."""
    state = state_of(args.run)
    part.mkdir(parents=True)
    weights = {name: value.half().contiguous() for name, value in averaged(args.run).items()}
    save_file(weights, part / "model.safetensors")
    reader = SceneReader()
    reader.load_state_dict({name: value.float() for name, value in weights.items()})
    reader.eval()
    reader.weight_hash = hashlib.sha256((part / "model.safetensors").read_bytes()).hexdigest()
    reference = (reference_images(start, 500) for start in range(0, REFERENCE, 500))
    feature_statistics(reader, reference, protocol="scenes").save(part / "statistics.npz")
    rows, tables = [], []
    for title, strength in (("as drawn", 0.0), ("distorted by half", 0.5), ("distorted as in training", 1.0)):
        found = measure_reader(reader, strength)
        right = found["right"]
        rows.append(
            f"| {title} | {100 * found['found']:.1f}% | {100 * found['extra']:.1f}% | {100 * right['colour']:.1f}% | "
            f"{100 * right['shape']:.1f}% | {100 * right['texture']:.1f}% |"
        )
        if not strength:
            for name, values in (("colour", COLOURS), ("shape", SHAPES), ("texture", TEXTURES)):
                head = f"| {name}, drawn \\ seen | " + " | ".join(values) + " |\n" + "|---" * (len(values) + 1) + "|\n"
                lines = (f"| {value} | " + " | ".join(map(str, counts)) + " |"
                         for value, counts in zip(values, found["confusion"][name], strict=True))  # fmt: skip
                tables.append(head + "\n".join(lines))
    size = sum(p.numel() for p in reader.parameters())
    return f"""# The reader of scenes

A convolutional network of {size:,} parameters that returns the place, colour, shape and texture of each object in a
64x64 picture of a scene (`lmlangevin.scenes.read_scenes`). Scores of binding rest on it, and its features are those of
the protocol `scenes` for a Frechet distance.

{training_line(args, state)}. Scenes of one to three objects with all pairs of attributes, seven in ten of
  them blurred, noised at four scales, and changed in contrast and colour as few-step samplers do.
- Weights: exponential moving average, float16.
- `statistics.npz`: the features of {REFERENCE:,} drawn scenes of the kind of training, seeds from {REFERENCE_SEED:,}.
{LICENCE}

## Measured

999 fresh scenes of one, two and three objects, seeds from {TEST_SEED:,}. An object is found where one is seen within 4
pixels of its centre; attributes are counted where it is found. "Extra" are objects that are not there.

| pictures | found | extra | colour right | shape right | texture right |
|---|---|---|---|---|---|
{chr(10).join(rows)}

As drawn, number of objects:

{(chr(10) * 2).join(tables)}
"""


def main() -> None:
    """Read the command line and write an asset."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kind", choices=["scenes", "scenes-flow", "reader"])
    parser.add_argument("--run", type=Path, required=True)
    parser.add_argument("--autoencoder", type=Path)
    parser.add_argument("--target", type=Path, help="folder to write; default the package's asset")
    parser.add_argument("--past-images", type=int, default=0)
    parser.add_argument("--date", default=time.strftime("%Y-%m-%d"))
    parser.add_argument("--command", default="")
    args = parser.parse_args()
    target = args.target or ASSETS / ("scenes-reader" if args.kind == "reader" else args.kind)
    part = target.with_name(f".{target.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    text = (export_reader if args.kind == "reader" else export_pipeline)(args, part)
    (part / "README.md").write_text(text, encoding="utf-8")
    for file in part.rglob("*.safetensors"):
        file.chmod(0o644)
    size = sum(file.stat().st_size for file in part.rglob("*") if file.is_file())
    if size > LIMIT_BYTES[args.kind]:
        raise SystemExit(f"{target}: {size} bytes, the limit is {LIMIT_BYTES[args.kind]}; train a smaller network")
    shutil.rmtree(target, ignore_errors=True)
    os.replace(part, target)
    print(f"{target}: {size / 2**20:.2f} MiB")


if __name__ == "__main__":
    main()

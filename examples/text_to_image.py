"""Text to image in six network evaluations: what a pipeline ships with, plain UniPC, LML, and no hurry.

Shows: prompts, guidance and latents in a diffusers pipeline; `apply_lml` on it; and scores of what is drawn, by the
package's own reader of scenes.

Prints: for each sampler the share of colours, shapes and textures that are right, of prompts that are complete, and the
error to the converged images; `--out` is a picture of eight prompts with a row for each sampler.

Takes: about 40 seconds on 2 cores. It runs on the text-to-image model that comes with the package.

    python examples/text_to_image.py --out text_to_image.png
"""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import DPMSolverMultistepScheduler, UniPCMultistepScheduler

from lmlangevin import apply_lml
from lmlangevin.plot import contact_sheet
from lmlangevin.scenes import DEMO_PROMPTS, load_pipeline, parse_prompt, read_scenes, score_scene

SHOWN = ("colour", "shape", "texture", "complete")


def shipped(pipe: Any) -> None:
    """Leave the pipeline as it comes: PNDM, as Stable Diffusion 1.5."""


def unipc(pipe: Any) -> None:
    """Take a plain sampler that is far better at this cost."""
    pipe.scheduler = UniPCMultistepScheduler.from_config(pipe.scheduler.config, timestep_spacing="trailing")


def lml(pipe: Any) -> None:
    """Correct the sampler that the pipeline comes with."""
    apply_lml(pipe, control="adaptive")


def converged(pipe: Any) -> None:
    """Take many steps."""
    pipe.scheduler = DPMSolverMultistepScheduler.from_config(pipe.scheduler.config, timestep_spacing="trailing")


def sample(prepare: Callable[[Any], None], steps: int, prompts: list[str], guidance_scale: float) -> torch.Tensor:
    """Return images in [-1, 1], (prompts, 3, 64, 64); image k starts from seed k."""
    pipe = load_pipeline()
    prepare(pipe)
    generators = [torch.Generator().manual_seed(seed) for seed in range(len(prompts))]
    images = pipe(prompts, num_inference_steps=steps, guidance_scale=guidance_scale, generator=generators,
                  output_type="np").images  # fmt: skip
    return torch.from_numpy(np.asarray(images)).permute(0, 3, 1, 2) * 2 - 1


def main() -> None:
    """Draw the prompts with each sampler, score them, and lay them out."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--fine-steps", type=int, default=100)
    parser.add_argument("--guidance-scale", type=float, default=3.0)
    parser.add_argument("--images-per-prompt", type=int, default=4)
    parser.add_argument("--out", type=Path, default=Path("text_to_image.png"))
    args = parser.parse_args()
    prompts = list(DEMO_PROMPTS) * args.images_per_prompt
    # PNDM evaluates the network once more than it has steps.
    arms = (
        ("as shipped: PNDM", shipped, args.steps - 1),
        ("plain: UniPC", unipc, args.steps),
        ("LML", lml, args.steps - 1),
        ("converged", converged, args.fine_steps),
    )
    drawn = {name: sample(prepare, steps, prompts, args.guidance_scale) for name, prepare, steps in arms}
    rows = []
    for name, prepare, steps in arms:
        images = drawn[name]
        error = (images - drawn["converged"]).square().mean().sqrt().item() / 2
        scores = [score_scene(seen, parse_prompt(p)) for seen, p in zip(read_scenes(images), prompts, strict=True)]
        parts = []
        for score in SHOWN:
            values = [value for item in scores if (value := getattr(item, score)) is not None]
            parts.append(f"{score} {100 * sum(values) / len(values):.0f}%")
        nfe = steps + (prepare in (shipped, lml))
        print(f"{name}, {nfe} evaluations: {', '.join(parts)}; RMSE {error:.3f} to the converged images")
        rows.append(([name, f"{nfe} evaluations", parts[0], parts[2], parts[3]], images[: len(DEMO_PROMPTS)]))
    title = f"Text to image, guidance {args.guidance_scale:g}; scores of {len(prompts)} images"
    contact_sheet(rows, title=title, captions=DEMO_PROMPTS, accent=2).save(args.out)
    print(f"picture: {args.out}")


if __name__ == "__main__":
    main()

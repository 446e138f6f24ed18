"""From a plain diffusers pipeline to LML, and back.

Shows: `apply_lml` and `remove_lml` on a pipeline, plain and corrected images of the same seeds, and which of the two is
nearer to what the model would have drawn in many steps.

Prints: the scheduler and control that `apply_lml` chose, both errors to the fine solution, and that `remove_lml` gives
the plain images back; `--out` is a picture with the plain images above and those with LML below.

Takes: about 15 seconds on 2 cores. It runs on the model that comes with the package; `--model` takes the folder or hub
id of another unconditional pixel pipeline.

    python examples/pipeline_to_lml.py --out pipeline_to_lml.png
"""

import argparse
from importlib import resources
from pathlib import Path

import numpy as np
import torch
from diffusers import DDIMScheduler, DDPMPipeline
from PIL import Image

from lmlangevin import apply_lml, remove_lml

EMBEDDED = str(resources.files("lmlangevin") / "assets" / "embedded")


def draw(pipe: DDPMPipeline, seeds: range, steps: int) -> np.ndarray:
    """Return the images of some seeds, floats in [0, 1], (images, height, width, 3)."""
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]
    return pipe(len(seeds), generator=generators, num_inference_steps=steps, output_type="np", return_dict=False)[0]


def main() -> None:
    """Draw plain and corrected images of the same seeds, and compare them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=EMBEDDED)
    parser.add_argument("--num-images", type=int, default=16)
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--fine-steps", type=int, default=50)
    parser.add_argument("--out", type=Path, default=Path("pipeline_to_lml.png"))
    args = parser.parse_args()
    seeds = range(args.num_images)

    pipe = DDPMPipeline.from_pretrained(args.model)
    pipe.set_progress_bar_config(disable=True)
    # The plain sampler to compare with. DDPMScheduler, which the model came with, needs hundreds of steps.
    pipe.scheduler = DDIMScheduler.from_config(pipe.scheduler.config, timestep_spacing="trailing")
    fine = draw(pipe, seeds, args.fine_steps)
    plain = draw(pipe, seeds, args.steps)

    apply_lml(pipe)
    print(f"{type(pipe.scheduler).__name__} with {pipe.scheduler.config.control} control")
    lml = draw(pipe, seeds, args.steps)

    for name, images in (("plain", plain), ("LML", lml)):
        error = float(np.sqrt(np.mean((images - fine) ** 2)))
        print(f"{name}: RMSE {error:.4f} to {args.fine_steps} steps, pixels in [0, 1]")

    remove_lml(pipe)
    again = draw(pipe, seeds, args.steps)
    print(f"after remove_lml the plain images come back: {np.array_equal(again, plain)}")

    rows = np.concatenate([np.concatenate(list(images), axis=1) for images in (plain, lml)])
    Image.fromarray((255 * rows).round().astype(np.uint8)).save(args.out)
    print(f"picture: {args.out}")


if __name__ == "__main__":
    main()

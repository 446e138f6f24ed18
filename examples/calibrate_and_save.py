"""Fit the gains of a few-step sampler to your model, and keep them with the pipeline.

Shows: `calibrate` from Python, `apply_lml(control="calibrated")`, saving the pipeline and loading it again, and what
the fit does on seeds that it did not see.

Prints: the fit's error to the fine solution before and after, on its own and on held-out seeds; then, on fresh seeds,
the errors of the plain and the calibrated pipeline, and whether the loaded one draws the same images. `--out` gets
`gains.json` and the pipeline's folder.

Takes: about half a minute on 2 cores. A real fit takes more seeds (64) and minutes, and for `euler` it fits the time
grid too: `lml calibrate --help`.

    python examples/calibrate_and_save.py --out calibrated
"""

import argparse
from importlib import resources
from pathlib import Path

import numpy as np
import torch
from diffusers import DDIMScheduler, DDPMPipeline

from lmlangevin import apply_lml
from lmlangevin.calibration import CalibrateConfig, calibrate

EMBEDDED = str(resources.files("lmlangevin") / "assets" / "embedded")


def draw(pipe: DDPMPipeline, seeds: range, steps: int) -> np.ndarray:
    """Return the images of some seeds, floats in [0, 1], (images, height, width, 3)."""
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]
    return pipe(len(seeds), generator=generators, num_inference_steps=steps, output_type="np", return_dict=False)[0]


def rmse(images: np.ndarray, solution: np.ndarray) -> float:
    """Return the root of the mean squared difference over all pixels."""
    return float(np.sqrt(np.mean((images - solution) ** 2)))


def main() -> None:
    """Fit, apply, save, load and compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--num-seeds", type=int, default=12, help="seeds to fit on, a quarter of them held out")
    parser.add_argument("--iterations", type=int, default=5)
    parser.add_argument("--fine-steps", type=int, default=40)
    parser.add_argument("--num-images", type=int, default=12, help="fresh seeds to compare on")
    parser.add_argument("--out", type=Path, default=Path("calibrated"))
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    gains, folder = args.out / "gains.json", args.out / "pipeline"

    result = calibrate(
        CalibrateConfig(
            out=gains,
            model=EMBEDDED,
            scheduler="ddim",
            timestep_spacing="trailing",
            steps=args.steps,
            num_seeds=args.num_seeds,
            iterations=args.iterations,
            teacher_steps=args.fine_steps,
            overwrite=True,
        )
    )
    before, after = result.fit.history[0], result.fit.history[result.fit.best]
    print(f"fitted seeds:   RMSE {before.fit_error:.4f} -> {after.fit_error:.4f}")
    print(f"held-out seeds: RMSE {before.heldout_error:.4f} -> {after.heldout_error:.4f}, pixels in [-1, 1]")

    pipe = DDPMPipeline.from_pretrained(EMBEDDED)
    pipe.set_progress_bar_config(disable=True)
    pipe.scheduler = DDIMScheduler.from_config(pipe.scheduler.config, timestep_spacing="trailing")
    fresh = range(args.num_images)
    fine, plain = draw(pipe, fresh, args.fine_steps), draw(pipe, fresh, args.steps)

    apply_lml(pipe, control="calibrated", calibration=gains)
    lml = draw(pipe, fresh, args.steps)
    print(f"fresh seeds: plain RMSE {rmse(plain, fine):.4f}, calibrated {rmse(lml, fine):.4f}, pixels in [0, 1]")

    pipe.save_pretrained(folder)
    # Loading needs lmlangevin to be imported, as it is here: the saved scheduler is one of its classes.
    loaded = DDPMPipeline.from_pretrained(folder)
    loaded.set_progress_bar_config(disable=True)
    print(f"the loaded pipeline draws the same images: {np.array_equal(draw(loaded, fresh, args.steps), lml)}")
    print(f"calibration: {gains}, pipeline: {folder}")


if __name__ == "__main__":
    main()

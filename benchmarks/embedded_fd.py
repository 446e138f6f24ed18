"""Feature Frechet distance of the embedded model's images, plain against the preset gain, for every VP sampler.

    python benchmarks/embedded_fd.py --num-images 2000 --nfe 8

Every sampler runs on its own default time grid, on the same seeds with and without LML; the seeds are not those that
the presets were chosen on. Also measured: the error to the converged solution from the same noise.
"""

from __future__ import annotations

import argparse
import statistics as st
from pathlib import Path
from typing import Any

import torch
from rich.progress import Progress

from _common import RESULTS, embedded_network, frechet, make, noise_for, rmse, save, solve, steps_for
from lmlangevin.evaluation import load_feature_network, load_reference_statistics
from lmlangevin.generation.images import to_uint8
from lmlangevin.schedulers import SCHEDULERS, build_scheduler
from lmlangevin.schedulers.presets import grid_key

SAMPLERS = [name for name, entry in SCHEDULERS.items() if not entry.flow and name != "dpmpp-1"]
CONVERGED = ("dpmpp-3m", "trailing", 50)


def main() -> None:
    """Measure every sampler and write the result file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nfe", type=int, default=8)
    parser.add_argument("--num-images", type=int, default=2000)
    parser.add_argument("--blocks", type=int, default=4, help="disjoint seed blocks for the spread")
    parser.add_argument("--first-seed", type=int, default=1_000_000)
    parser.add_argument("--out", type=Path, default=RESULTS / "embedded_fd.json")
    args = parser.parse_args()

    network = embedded_network()
    classifier = load_feature_network()
    reference = load_reference_statistics()
    noise = noise_for(range(args.first_seed, args.first_seed + args.num_images))
    size = args.num_images // args.blocks

    def measured(images: torch.Tensor) -> dict[str, Any]:
        pixels = to_uint8(images)  # as they would be saved
        blocks = [frechet(block, classifier, reference) for block in pixels.split(size)]
        return {"fd": frechet(pixels, classifier, reference), "fd_blocks": blocks}

    rows: list[dict[str, Any]] = []
    with Progress() as progress:
        task = progress.add_task("samplers", total=2 * len(SAMPLERS) + 2)
        name, grid, steps = CONVERGED
        solution = solve(network, make(name, grid, 0.0), noise, steps)
        converged = measured(solution)
        converged |= {"mean": float(solution.mean()), "std": float(solution.std())}
        progress.advance(task, 2)
        for name in SAMPLERS:
            config = dict(make(name, None, 0.0).config)
            preset = build_scheduler(name, config, lml={}).config
            row: dict[str, Any] = {
                "scheduler": name,
                "grid": grid_key(SCHEDULERS[name].base, config),
                "gain": preset.gain,
            }
            for arm, gain in (("plain", 0.0), ("lml", preset.gain)):
                if arm == "lml" and gain == 0:
                    row[arm] = row["plain"]  # the same arithmetic, bit for bit
                else:
                    images = solve(network, make(name, None, gain), noise, steps_for(name, args.nfe))
                    row[arm] = {**measured(images), "rmse": rmse(images, solution)}
                progress.advance(task)
            differences = [b - a for a, b in zip(row["plain"]["fd_blocks"], row["lml"]["fd_blocks"], strict=True)]
            row["fd_difference"] = {"mean": st.mean(differences), "sd": st.stdev(differences)}
            rows.append(row)
            progress.console.print(
                f"{name:10s} {row['grid']:9s} gain {row['gain']:5.2f}  FD {row['plain']['fd']:.3f} -> "
                f"{row['lml']['fd']:.3f}  RMSE {row['plain']['rmse']:.3f} -> {row['lml']['rmse']:.3f}"
            )
    save(
        args.out,
        {
            "model": "embedded",
            "nfe": args.nfe,
            "num_images": args.num_images,
            "first_seed": args.first_seed,
            "blocks": args.blocks,
            "reference": "CIFAR-10 training set, embedded-cifar10 features",
            "converged": {"sampler": list(CONVERGED), **converged},
            "rows": rows,
        },
    )


if __name__ == "__main__":
    main()

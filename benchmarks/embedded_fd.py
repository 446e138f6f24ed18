"""Feature Frechet distance of the embedded model's images, plain against the preset gain, for every VP sampler.

    python benchmarks/embedded_fd.py --num-images 2000 --nfe 8

Every sampler runs on its own default time grid, on the same seeds with and without LML; the seeds are not those that
the presets were chosen and checked on (the check itself was prompted by the first run of this table). Also measured:
the error to the converged solution from the same noise. A second run with the same settings measures only what has
changed since.
"""

from __future__ import annotations

import argparse
import functools
import hashlib
import json
import statistics as st
from importlib import resources
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

    settings = {
        "model": "embedded",
        "nfe": args.nfe,
        "num_images": args.num_images,
        "first_seed": args.first_seed,
        "blocks": args.blocks,
        "reference": "CIFAR-10 training set, embedded-cifar10 features",
    }
    known = earlier(args.out, settings)

    @functools.cache
    def solution() -> torch.Tensor:
        name, grid, steps = CONVERGED
        return solve(network, make(name, grid, 0.0), noise, steps)

    def arm(row: dict[str, Any], gain: float) -> dict[str, Any]:
        old = known["rows"].get(row["scheduler"])
        if old is not None and gain in (0, old["gain"]) and old["grid"] == row["grid"]:
            return old["lml" if gain else "plain"]
        images = solve(network, make(row["scheduler"], None, gain), noise, steps_for(row["scheduler"], args.nfe))
        return {**measured(images), "rmse": rmse(images, solution())}

    rows: list[dict[str, Any]] = []
    with Progress() as progress:
        task = progress.add_task("samplers", total=2 * len(SAMPLERS))
        for name in SAMPLERS:
            config = dict(make(name, None, 0.0).config)
            preset = build_scheduler(name, config, lml={}).config
            row: dict[str, Any] = {
                "scheduler": name,
                "grid": grid_key(SCHEDULERS[name].base, config),
                "gain": preset.gain,
            }
            # A gain of 0 is the plain sampler, bit for bit.
            for key, gain in (("plain", 0.0), ("lml", preset.gain)):
                row[key] = row["plain"] if key == "lml" and gain == 0 else arm(row, gain)
                progress.advance(task)
            differences = [b - a for a, b in zip(row["plain"]["fd_blocks"], row["lml"]["fd_blocks"], strict=True)]
            row["fd_difference"] = {"mean": st.mean(differences), "sd": st.stdev(differences)}
            rows.append(row)
            progress.console.print(
                f"{name:10s} {row['grid']:9s} gain {row['gain']:5.2f}  FD {row['plain']['fd']:.3f} -> "
                f"{row['lml']['fd']:.3f}  RMSE {row['plain']['rmse']:.3f} -> {row['lml']['rmse']:.3f}"
            )
    converged = known["converged"]
    if converged is None:
        x = solution()
        converged = {"sampler": list(CONVERGED), **measured(x), "mean": float(x.mean()), "std": float(x.std())}
    save(args.out, {**settings, "weights": weights_hash(), "converged": converged, "rows": rows})


def weights_hash() -> str:
    """Return the hash of the embedded model's weights, which a result belongs to."""
    asset = resources.files("lmlangevin") / "assets" / "embedded" / "unet" / "diffusion_pytorch_model.safetensors"
    return hashlib.sha256(asset.read_bytes()).hexdigest()


def earlier(path: Path, settings: dict[str, Any]) -> dict[str, Any]:
    """Return what an earlier run measured with the same settings on the same weights, by sampler."""
    record = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    same = record.get("weights") == weights_hash() and all(record.get(k) == v for k, v in settings.items())
    if not same:
        return {"rows": {}, "converged": None}
    return {"rows": {row["scheduler"]: row for row in record["rows"]}, "converged": record["converged"]}


if __name__ == "__main__":
    main()

"""LML against plain at 6 evaluations on an analytic model: error to the converged solution, and Frechet distance.

    python benchmarks/analytic_table.py --num-seeds 600

The rows and gains are those of the first measurement of this method (shared/DESIGN.md, section 3). DDIM on
linspace(999, 0, n), stepping from each timestep to the next, is the Euler method in sigma and runs as `euler`.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from rich.progress import track

from _common import RESULTS, frechet, make, noise_for, rmse, save, solve, steps_for
from lmlangevin.evaluation import RandomFeatureNetwork, feature_statistics
from lmlangevin.reference import AnalyticModel, converged_solution, load_analytic

ROWS = [
    ("DDIM, linspace", "euler", (0.7, 1.0)),
    ("DPM-Solver++(2M)", "dpmpp-2m", (0.2, 0.35)),
    ("DPM-Solver++(3M)", "dpmpp-3m", (0.1, 0.2)),
    ("DPM-Solver-3", "dpm-3", (0.35,)),
    ("UniPC", "unipc", (0.1, 0.2)),
    ("DEIS", "deis", (0.35, 0.5)),
    ("flow-matching Euler, shift 3", "flow-euler", (0.8,)),
]


def main() -> None:
    """Measure every row and write the result file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="analytic-cifar10", help="embedded mixture, or a folder of one")
    parser.add_argument("--nfe", type=int, default=6)
    parser.add_argument("--num-seeds", type=int, default=600)
    parser.add_argument("--first-seed", type=int, default=500_000)
    parser.add_argument("--num-reference", type=int, default=6000, help="exact samples behind the Frechet distance")
    parser.add_argument("--out", type=Path, default=RESULTS / "analytic_table.json")
    args = parser.parse_args()

    mixture = load_analytic(args.model)
    extractor = RandomFeatureNetwork()
    exact = mixture.sample(args.num_reference, torch.Generator().manual_seed(args.first_seed - 1))
    reference = feature_statistics(extractor, exact, protocol=args.model)
    noise = noise_for(range(args.first_seed, args.first_seed + args.num_seeds))
    paths = {"vp": "epsilon", "flow": "flow_prediction"}
    models = {p: AnalyticModel(mixture, prediction_type=kind) for p, kind in paths.items()}
    solutions = {
        p: torch.cat([converged_solution(mixture, part, path=p, steps=40) for part in noise.split(100)]) for p in paths
    }
    rows = []
    for title, name, gains in track(ROWS, description="samplers"):
        path = "flow" if name.startswith("flow") else "vp"
        overrides = {"shift": 3.0} if path == "flow" else {}
        for gain in (0.0, *gains):
            images = solve(models[path], make(name, None, gain, **overrides), noise, steps_for(name, args.nfe))
            row = {
                "sampler": title,
                "scheduler": name,
                "gain": gain,
                "rmse": rmse(images, solutions[path]),
                "fd": frechet(images, extractor, reference),
            }
            rows.append(row)
            print(f"{title:30s} gain {gain:5.2f}  RMSE {row['rmse']:.4f}  FD {row['fd']:.3f}", flush=True)
    converged = {p: frechet(x, extractor, reference) for p, x in solutions.items()}
    save(
        args.out,
        {
            "model": str(args.model if not Path(args.model).is_dir() else Path(args.model).name),
            "nfe": args.nfe,
            "num_seeds": args.num_seeds,
            "first_seed": args.first_seed,
            "num_reference": args.num_reference,
            "fd_of_converged_solution": converged,
            "rows": rows,
        },
    )


if __name__ == "__main__":
    main()

"""The two placements of the correction on the analytic model: `python benchmarks/placement.py`."""

from __future__ import annotations

import torch
from rich.progress import track

from _common import RESULTS, VP_CONFIG, frechet, noise_for, rmse, save, solve
from lmlangevin.evaluation import RandomFeatureNetwork, feature_statistics
from lmlangevin.generation.sampling import without_known_warnings
from lmlangevin.reference import AnalyticModel, converged_solution, load_analytic
from lmlangevin.schedulers import build_scheduler

MODEL, FIRST_SEED, NUM_SEEDS, NUM_REFERENCE = "analytic-cifar10", 700_000, 300, 6000
CASES = [("ddim", "trailing", 6, (0.2, 0.45, 0.7, 1.0)), ("dpm-3", "linspace", 10, (0.2, 0.35))]


def main() -> None:
    """Measure both placements at several gains and write the result file."""
    mixture = load_analytic(MODEL)
    network, extractor = AnalyticModel(mixture), RandomFeatureNetwork()
    noise = noise_for(range(FIRST_SEED, FIRST_SEED + NUM_SEEDS))
    exact = mixture.sample(NUM_REFERENCE, torch.Generator().manual_seed(FIRST_SEED - 1))
    reference = feature_statistics(extractor, exact, protocol=MODEL)
    solution = torch.cat([converged_solution(mixture, part, steps=40) for part in noise.split(100)])
    arms = [
        (name, grid, nfe, placement, gain)
        for name, grid, nfe, gains in CASES
        for placement in ("score", "reference")
        for gain in (0.0, *gains)
    ]
    rows = []
    for name, grid, nfe, placement, gain in track(arms):
        with without_known_warnings():
            scheduler = build_scheduler(name, VP_CONFIG, grid=grid, lml={"gain": gain, "placement": placement})
        images = solve(network, scheduler, noise, nfe)
        figures = {"rmse": rmse(images, solution), "fd": frechet(images, extractor, reference)}
        rows.append({"scheduler": name, "grid": grid, "nfe": nfe, "placement": placement, "gain": gain, **figures})
        print(rows[-1])
    settings = {"first_seed": FIRST_SEED, "num_seeds": NUM_SEEDS, "num_reference": NUM_REFERENCE}
    save(RESULTS / "placement.json", {"model": MODEL, **settings, "rows": rows})


if __name__ == "__main__":
    main()

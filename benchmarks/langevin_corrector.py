"""Langevin steps between a sampler's, at equal network evaluations: `python benchmarks/langevin_corrector.py`.

The Frechet distance of plain samplers against the same with 1 or 3 Langevin steps a level, against LML's preset alone
where the sampler has one on its default grid, and against both; and what another geometry does. All arms start from the
same noise, so that their differences in disjoint seed blocks mean something. No error to a converged solution is given:
a sample with fresh noise in it belongs to no solution.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from _common import RESULTS, embedded_network, frechet, make, save
from lmlangevin.core import DampedLowRank
from lmlangevin.evaluation import (
    RandomFeatureNetwork,
    feature_statistics,
    load_feature_network,
    load_reference_statistics,
)
from lmlangevin.generation import corrector
from lmlangevin.generation.images import to_uint8
from lmlangevin.generation.langevin import steps_for
from lmlangevin.generation.models import VP_CONFIG
from lmlangevin.generation.sampling import sample, without_known_warnings
from lmlangevin.generation.seeds import start_images
from lmlangevin.reference import AnalyticModel, load_analytic
from lmlangevin.schedulers import build_scheduler

SAMPLERS = ("euler", "dpmpp-2m")
NFE = {"analytic-cifar10": (9, 17, 33), "embedded": (9, 17)}
ARMS = {
    "analytic-cifar10": ((1, 0.05), (1, 0.1), (1, 0.2), (1, 0.4), (3, 0.1), (3, 0.2)),
    "embedded": ((1, 0.1), (1, 0.2), (3, 0.1)),
}
"""Langevin steps a level and their size. The network is the dearer one and has fewer."""
WITH_PRESET = (1, 0.1)
"""What is also run with the preset gain, as `lml generate --langevin-steps 1` does by default."""
STUDY = {"sampler": "dpmpp-2m", "nfe": 17, "steps": 1, "step_size": 0.2}
"""Where the geometries are compared."""

Geometry = Callable[[Sequence[Tensor]], "DampedLowRank | None"]


def own_factors(predictions: Sequence[Tensor]) -> DampedLowRank | None:
    """LML's operator of the last two predictions, kappa = 0.5 and mu = 1."""
    if len(predictions) < 2:
        return None
    return DampedLowRank.of_predictions(predictions[0], predictions[1:2], kappa=0.5, damping=1.0)


GEOMETRIES: dict[str, Geometry] = {
    "differences": corrector.difference_geometry,
    "isotropic": lambda predictions: None,
    "predictions": own_factors,
}


def preset_gain(sampler: str) -> float:
    """Return the default gain of a sampler on its default grid."""
    with without_known_warnings():
        return float(build_scheduler(sampler, dict(VP_CONFIG), lml={}).config["gain"])


def images_of(network: Any, seeds: range, settings: dict[str, Any], geometry: str = "differences") -> Tensor:
    """Sample one image a seed, in batches side by side."""

    def part(block: range) -> Tensor:
        noise, generators = start_images(list(block), (3, 32, 32))
        scheduler = make(settings["sampler"], None, settings["gain"])
        langevin = None
        if settings["steps"]:
            langevin = {"steps": settings["steps"], "step_size": settings["step_size"], "rank": 1}
        steps = steps_for(settings["nfe"], settings["steps"])
        return sample(network, scheduler, noise, generators, steps=steps, langevin=langevin)

    blocks = [range(k, min(k + 50, seeds.stop)) for k in range(seeds.start, seeds.stop, 50)]
    corrector.difference_geometry = GEOMETRIES[geometry]  # type: ignore[assignment]
    with ThreadPoolExecutor(2) as workers:
        return torch.cat(list(workers.map(part, blocks)))


def main() -> None:
    """Measure every arm on both models and write the result file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--num-analytic", type=int, default=600)
    parser.add_argument("--num-embedded", type=int, default=260)
    parser.add_argument("--blocks", type=int, default=2, help="disjoint seed blocks, of more images than features")
    parser.add_argument("--num-reference", type=int, default=6000)
    parser.add_argument("--first-seed", type=int, default=3_000_000)
    parser.add_argument("--out", type=Path, default=RESULTS / "langevin_corrector.json")
    args = parser.parse_args()
    torch.set_num_threads(1)
    mixture, random_features = load_analytic(), RandomFeatureNetwork()
    exact = mixture.sample(args.num_reference, torch.Generator().manual_seed(args.first_seed - 1))
    models: dict[str, tuple[Any, int, Callable[[Tensor], float]]] = {}
    reference = feature_statistics(random_features, exact, protocol="analytic-cifar10")
    models["analytic-cifar10"] = (
        AnalyticModel(mixture),
        args.num_analytic,
        lambda x: frechet(x, random_features, reference),
    )
    classifier, statistics_of_data = load_feature_network(), load_reference_statistics()
    models["embedded"] = (
        embedded_network(),
        args.num_embedded,
        lambda x: frechet(to_uint8(x), classifier, statistics_of_data),
    )
    rows: list[dict[str, Any]] = []

    def measure(name: str, settings: dict[str, Any], geometry: str) -> None:
        network, count, distance = models[name]
        images = images_of(network, range(args.first_seed, args.first_seed + count), settings, geometry)
        blocks = [distance(block) for block in images.split(count // args.blocks)]
        row = {"model": name, "geometry": geometry, **settings, "fd": distance(images), "fd_blocks": blocks}
        rows.append(row)
        print(row, flush=True)

    for name, budgets in NFE.items():
        for sampler in SAMPLERS:
            gain = preset_gain(sampler)
            for nfe in budgets:
                plain = {"sampler": sampler, "nfe": nfe, "gain": 0.0, "steps": 0, "step_size": None}
                arms = [plain] + [plain | {"steps": steps, "step_size": size} for steps, size in ARMS[name]]
                if gain:
                    steps, size = WITH_PRESET
                    both = plain | {"gain": gain, "steps": steps, "step_size": size}
                    arms += [plain | {"gain": gain}, both]
                for arm in arms:
                    measure(name, arm, "differences")
        for geometry in ("isotropic", "predictions"):
            measure(name, STUDY | {"gain": 0.0}, geometry)
    counts = {"analytic-cifar10": args.num_analytic, "embedded": args.num_embedded}
    save(
        args.out,
        {
            "first_seed": args.first_seed,
            "num_images": counts,
            "num_reference": args.num_reference,
            "blocks": args.blocks,
            "rows": rows,
        },
    )


if __name__ == "__main__":
    main()

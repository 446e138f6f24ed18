"""What the benchmarks share: the sampling loop, the measures, and result files that say how they were made."""

from __future__ import annotations

import copy
import json
import os
import platform
import shlex
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import diffusers
import torch

import lmlangevin
from lmlangevin.evaluation import FrechetStatistics, feature_statistics, frechet_distance
from lmlangevin.files import write_text
from lmlangevin.generation.config import GenerateConfig
from lmlangevin.generation.models import VP_CONFIG, load_model
from lmlangevin.generation.sampling import sample, without_known_warnings
from lmlangevin.schedulers import SCHEDULERS, build_scheduler

RESULTS = Path(__file__).parent / "results"


def make(name: str, grid: str | None, gain: float, **overrides: Any) -> Any:
    """Build a sampler with a constant gain; gain 0 is the plain base."""
    config: dict[str, Any] = {} if SCHEDULERS[name].flow else dict(VP_CONFIG)
    with without_known_warnings():
        return build_scheduler(name, config, grid=grid, lml={"gain": gain} if gain else None, **overrides)


def steps_for(name: str, nfe: int) -> int:
    """Return the steps that cost `nfe` evaluations: PNDM's linear multistep start evaluates one time more."""
    return nfe - 1 if name == "pndm" else nfe


def embedded_network() -> Any:
    """Return the embedded model's network."""
    return load_model(GenerateConfig(out=Path("unused")), flow=False).networks[0]


def solve(network: Any, scheduler: Any, noise: torch.Tensor, steps: int, batch: int = 32) -> torch.Tensor:
    """Sample from given standard-normal noise; returns images of the noise's shape.

    Batches run side by side, one core each: small convolutions are faster so than split over the cores.
    """

    def part(x: torch.Tensor) -> torch.Tensor:
        return sample(network, copy.deepcopy(scheduler), x, [], steps=steps)

    torch.set_num_threads(1)
    with ThreadPoolExecutor(os.cpu_count()) as workers:
        return torch.cat(list(workers.map(part, noise.split(batch))))


def rmse(a: torch.Tensor, b: torch.Tensor) -> float:
    """Root of the mean squared difference over all pixels."""
    return float((a.double() - b.double()).square().mean().sqrt())


def frechet(images: torch.Tensor, extractor: Any, reference: FrechetStatistics) -> float:
    """Return the Frechet distance of images to reference statistics of the same extractor."""
    return frechet_distance(feature_statistics(extractor, images, protocol=reference.protocol), reference)


def noise_for(seeds: range, shape: tuple[int, ...] = (3, 32, 32)) -> torch.Tensor:
    """Return one standard-normal sample a seed, each from a CPU generator of its own."""
    return torch.stack([torch.randn(shape, generator=torch.Generator().manual_seed(s)) for s in seeds])


def save(path: Path, payload: dict[str, Any]) -> None:
    """Write a result file in one move, with the versions and the command that made it."""
    record = {
        "command": " ".join(["python", *map(shlex.quote, [os.path.relpath(sys.argv[0]), *sys.argv[1:]])]),
        "versions": {
            "lmlangevin": lmlangevin.__version__,
            "torch": torch.__version__,
            "diffusers": diffusers.__version__,
            "python": platform.python_version(),
        },
        **payload,
    }
    write_text(path, json.dumps(record, indent=1) + "\n")

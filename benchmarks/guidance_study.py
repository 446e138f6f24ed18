"""The controls under guidance, on guided analytic models: `python benchmarks/guidance_study.py`.

Classifier-free guidance between two exact models (the mixture, and a few of its components as the condition) at several
scales: the RMSE to the fine solution of plain samplers, of the adaptive control and of half the preset, which is what
`apply_lml` gives a guided pipeline. A scheduler does not see the guidance, so this decides what it may assume.
"""

from __future__ import annotations

import statistics
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from _common import RESULTS, make, rmse, save, solve, steps_for
from calibration_study import Guided
from lmlangevin.calibration.predictors import NetworkPredictor
from lmlangevin.calibration.teacher import solve_teacher
from lmlangevin.generation.models import VP_CONFIG
from lmlangevin.generation.seeds import start_images
from lmlangevin.reference import AnalyticModel, load_analytic
from lmlangevin.schedulers import SCHEDULERS, build_scheduler
from lmlangevin.schedulers.presets import find_preset

NAME = "guidance_study"
FIRST_SEED = 8_300_000
SEEDS = 64
SCALES = (1.0, 2.0, 4.0, 7.5)
SAMPLERS = ("ddim", "pndm", "dpm-3", "dpmpp-2m", "dpmpp-3m", "unipc", "deis", "euler")
GRIDS = ("leading", "trailing", "karras")
NFE = (6, 8, 10, 20)
SHAPE = (3, 32, 32)


class GuidedNetwork:
    """The guided noise as a network that a scheduler's loop can call."""

    def __init__(self, guided: Guided, scale: float) -> None:
        self._models, self._scale = [AnalyticModel(model) for model in guided.models], scale

    def __call__(self, x: Tensor, t: Any) -> Any:
        """Return the guided noise as `.sample`."""
        bare, full = (model(x, t).sample for model in self._models)
        return SimpleNamespace(sample=bare + self._scale * (full - bare))


def adaptive(name: str, grid: str) -> Any:
    """Build a sampler with the adaptive control."""
    return build_scheduler(name, dict(VP_CONFIG), grid=grid, lml={"control": "adaptive"})


def main() -> None:
    """Measure every scale and write the result file."""
    torch.set_num_threads(1)
    mixture = load_analytic()
    noise = start_images(range(FIRST_SEED, FIRST_SEED + SEEDS), SHAPE)[0]
    start = NetworkPredictor(AnalyticModel(mixture), VP_CONFIG, SHAPE, flow=False)
    y = start.start(range(FIRST_SEED, FIRST_SEED + SEEDS), range(SEEDS)).double()
    rows = []
    for scale in SCALES:
        guided = Guided(mixture, scale)
        network = GuidedNetwork(guided, scale)
        with torch.inference_mode():
            exact = solve_teacher(guided, y, smax=start.smax, steps=150, batch_size=64).float()
        for name in SAMPLERS:
            for grid in GRIDS:
                try:
                    plain = make(name, grid, 0.0)
                except ValueError:  # a sampler without that grid
                    continue
                half = find_preset(SCHEDULERS[name].base, dict(plain.config), halved=True).gain
                for nfe in NFE:
                    row: dict[str, Any] = {"scale": scale, "sampler": name, "grid": grid, "nfe": nfe, "half": half}
                    with torch.inference_mode():
                        for arm, scheduler in (("plain", make(name, grid, 0.0)), ("adaptive", adaptive(name, grid)),
                                               ("preset", make(name, grid, half))):  # fmt: skip
                            found = rmse(solve(network, scheduler, noise, steps_for(name, nfe)), exact)
                            row[arm] = found if found == found else None
                    rows.append(row)
        mine = [row for row in rows if row["scale"] == scale and row["plain"]]
        print(scale, *(f"{arm} {statistics.median(r[arm] / r['plain'] for r in mine if r[arm]):.3f}"
                       for arm in ("adaptive", "preset")), flush=True)  # fmt: skip
        save(RESULTS / f"{NAME}.json", {"first_seed": FIRST_SEED, "seeds": SEEDS, "rows": rows})


if __name__ == "__main__":
    main()

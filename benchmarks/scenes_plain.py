"""Plain samplers on the text-to-image models: `python benchmarks/scenes_plain.py --model scenes` (an hour on a core).

Every sampler on its grids at 5 to 20 evaluations and guidance 1 to 7.5: the error to DPM-Solver++ at 100 evaluations at
the same guidance, the share of images that show other objects than the converged ones, the scores of the prompts, and
the Frechet distance to drawn scenes. What was measured is kept after every sampler, so an interrupted run goes on.
"""

from __future__ import annotations

import argparse
import json
from typing import Any

import torch
from torch import Tensor

from _common import RESULTS, save, solve, steps_for
from _scenes import SHAPE, GuidedScenes, fd_between, mean_of, mixed_prompts, read_scores
from lmlangevin.generation.sampling import without_known_warnings
from lmlangevin.generation.seeds import start_images
from lmlangevin.scenes import SCORES
from lmlangevin.schedulers import SCHEDULERS, build_scheduler

FIRST_SEED = 8_500_000
NFE = (5, 6, 8, 10, 15, 20)
GUIDANCE = (1.0, 3.0, 5.0, 7.5)
SAMPLERS = {
    False: (("ddim", "pndm", "euler", "dpmpp-2m", "dpmpp-3m", "unipc", "deis"), ("leading", "trailing", "karras")),
    True: (("flow-euler", "flow-dpmpp-2m", "flow-unipc"), (1.0, 1.5, 3.0)),
}
CONVERGED = {False: ("dpmpp-2m", "trailing"), True: ("flow-dpmpp-2m", 1.0)}


def build(name: str, grid: Any, config: Any) -> Any:
    """Build a plain sampler on a time grid, or on the shift of a flow's."""
    with without_known_warnings():
        if SCHEDULERS[name].flow:
            return build_scheduler(name, dict(config) | {"shift": grid})
        return build_scheduler(name, dict(config), grid=grid)


def in_parts(network: GuidedScenes, scheduler: Any, noise: Tensor, steps: int, batch: int = 32) -> Tensor:
    """Sample, a batch at a time."""
    return torch.cat([
        solve(network.rows(slice(k, k + batch)), scheduler, noise[k : k + batch], steps, batch)
        for k in range(0, len(noise), batch)
    ])  # fmt: skip


def measure(network: GuidedScenes, latents: Tensor, exact: Tensor, shown: Tensor, seen: Any, prompts: Any) -> dict:
    """Return everything about one cell."""
    images = network.decode(latents)
    error = (latents - exact).square().mean((1, 2, 3)).sqrt()
    scores, what = read_scores(images, prompts)
    return {
        "median": error.median().item(),
        "mean": error.mean().item(),
        "rmse": error.square().mean().sqrt().item(),
        "rmse_pixels": (images - shown).square().mean().sqrt().item(),
        "other": sum(a != b for a, b in zip(what, seen, strict=True)) / len(what),
        "fd_to_converged": fd_between(images, shown),
        **{name: mean_of(scores[name]) for name in SCORES},
    }


def main() -> None:
    """Measure what the result file lacks."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="scenes")
    parser.add_argument("--num-images", type=int, default=128)
    parser.add_argument("--out", default="scenes-plain.json")
    args = parser.parse_args()
    torch.set_num_threads(1)
    path = RESULTS / args.out
    data: dict[str, Any] = json.loads(path.read_text()) if path.is_file() else {"models": {}}
    prompts = mixed_prompts(args.num_images)
    noise = start_images(range(FIRST_SEED, FIRST_SEED + args.num_images), SHAPE)[0]
    mine = data["models"].setdefault(args.model, {"converged": {}, "rows": []})
    data |= {"first_seed": FIRST_SEED, "num_images": args.num_images, "converged": list(map(list, CONVERGED.values()))}
    done = {(row["guidance"], row["sampler"], row["grid"]) for row in mine["rows"]}
    for guidance in GUIDANCE:
        network = GuidedScenes(args.model, prompts, guidance)
        samplers, grids = SAMPLERS[network.flow]
        cells = [(name, grid) for name in samplers for grid in grids if (guidance, name, grid) not in done]
        if not cells:
            continue
        exact = in_parts(network, build(*CONVERGED[network.flow], network.scheduler_config), noise, 100)
        shown = network.decode(exact)
        scores, seen = read_scores(shown, prompts)
        mine["converged"][str(guidance)] = {name: mean_of(scores[name]) for name in SCORES}
        print(guidance, "converged", mine["converged"][str(guidance)], flush=True)
        for name, grid in cells:
            try:
                scheduler = build(name, grid, network.scheduler_config)
            except ValueError:  # a sampler without that grid
                continue
            for nfe in NFE:
                latents = in_parts(network, scheduler, noise, steps_for(name, nfe))
                row = measure(network, latents, exact, shown, seen, prompts)
                mine["rows"].append({"guidance": guidance, "sampler": name, "grid": grid, "nfe": nfe, **row})
                print(guidance, name, grid, nfe, f"{row['median']:.3f} complete {row['complete']:.3f}", flush=True)
            save(path, data)


if __name__ == "__main__":
    main()

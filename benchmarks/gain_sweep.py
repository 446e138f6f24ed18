"""Find the default gain of every sampler on every time grid, and write it into the package.

    python benchmarks/gain_sweep.py run analytic-cifar10       # measures, resumes where it was stopped
    python benchmarks/gain_sweep.py run embedded               # after the analytic model
    python benchmarks/gain_sweep.py choose                      # applies the rule, writes assets/presets.json

Every cell (model, sampler, grid, evaluations, gain) is measured on the same seeds: the error to the model's converged
solution (RMSE) and a Frechet distance of random features (FD), to exact samples on the analytic model, to the converged
solutions of the same seeds on the embedded one. There, only the gain that is best on the analytic model and the two
next smaller ones are tried, and only those can be chosen.

The rule. For a sampler, a grid and a gain, every (model, evaluations) cell and both measures give one number
r = log(measure with the gain / measure of the plain sampler). The gain's score is the mean of r where it is negative
(better) and of HARM * r where it is positive (worse). The preset is the gain with the lowest score, among those that
raise no cell's RMSE by more than WORST; 0, whose score is 0, is always one of them. At last the gain is checked on the
embedded model at 8 evaluations, on seeds of its own: if it raises the Frechet distance of the classifier's features to
the training set, the preset is 0.
"""

from __future__ import annotations

import argparse
import json
import math
from collections import defaultdict
from pathlib import Path
from typing import Any

import torch
from rich.progress import Progress

from _common import (
    RESULTS,
    VP_CONFIG,
    embedded_network,
    frechet,
    make,
    noise_for,
    rmse,
    save,
    solve,
    steps_for,
)
from lmlangevin.generation.images import to_uint8
from lmlangevin.schedulers import SCHEDULERS
from lmlangevin.schedulers.names import grid_config
from lmlangevin.schedulers.presets import grid_key, sampler_key

HARM = 4.0
WORST = 1.02
VERSION = "1"
FIRST = "analytic-cifar10"
CHECK = {"nfe": 8, "num_images": 512, "first_seed": 300_000}
UP = (0.05, 0.1, 0.15, 0.2, 0.3, 0.45, 0.7, 1.0)
DOWN = (-0.05, -0.1, -0.2, -0.3)
GAINS = (0.0, *UP, *DOWN)
GIVE_UP = 1.25
NFE = {"analytic-cifar10": (5, 6, 8, 10, 15, 20), "embedded": (6, 10)}
NUM_SEEDS = {"analytic-cifar10": 128, "embedded": 128}
FIRST_SEED = 200_000
SWEEP = RESULTS / "gain_sweep.json"
PRESETS = Path(__file__).parents[1] / "src" / "lmlangevin" / "assets" / "presets.json"
SHIFTS = ("shift 1", "shift 3")
"""A flow's own grid at two shifts; one preset serves both."""
GRIDS = {
    "ddim": ("leading", "trailing", "linspace"),
    "pndm": ("leading", "trailing", "linspace"),
    "flow-euler": (*SHIFTS, "karras", "exponential", "beta"),
}
ALL_GRIDS = ("linspace", "leading", "trailing", "karras", "exponential", "beta", "lu")


def grids_of(name: str) -> list[str]:
    """Return the time grids to measure a sampler on."""
    if name in GRIDS:
        return list(GRIDS[name])
    known = []
    for grid in ALL_GRIDS:
        try:
            grid_config(SCHEDULERS[name], grid)
        except ValueError:
            continue
        known.append(grid)
    return known


def scheduler_of(name: str, grid: str, gain: float) -> Any:
    """Build one cell's scheduler."""
    if grid in SHIFTS:
        return make(name, None, gain, shift=float(grid.split()[1]))
    return make(name, grid, gain)


class Setting:
    """A model with its converged solutions and its features, ready to measure cells on."""

    def __init__(self, model: str, num_seeds: int) -> None:
        self.noise = noise_for(range(FIRST_SEED, FIRST_SEED + num_seeds))
        self.networks: dict[str, Any] = {}
        self.solutions: dict[str, torch.Tensor] = {}
        if model == "embedded":
            self._embedded()
        else:
            self._analytic(model)

    def _analytic(self, model: str) -> None:
        from lmlangevin.evaluation import RandomFeatureNetwork, feature_statistics
        from lmlangevin.reference import AnalyticModel, converged_solution, load_analytic

        mixture = load_analytic(model)
        self.extractor: Any = RandomFeatureNetwork()
        exact = mixture.sample(6000, torch.Generator().manual_seed(FIRST_SEED - 1))
        self.reference = feature_statistics(self.extractor, exact, protocol=model)
        for path, kind in {"vp": "epsilon", "flow": "flow_prediction"}.items():
            self.networks[path] = AnalyticModel(mixture, prediction_type=kind)
            self.solutions[path] = converged_solution(mixture, self.noise, path=path, steps=40)

    def _embedded(self) -> None:
        from lmlangevin.evaluation import RandomFeatureNetwork, feature_statistics

        self.extractor = RandomFeatureNetwork()
        self.networks["vp"] = embedded_network()
        self.solutions["vp"] = solve(self.networks["vp"], make("dpmpp-3m", "trailing", 0.0), self.noise, 100)
        self.reference = feature_statistics(self.extractor, self.solutions["vp"], protocol="embedded")

    def measure(self, name: str, grid: str, nfe: int, gain: float) -> dict[str, Any]:
        """Return RMSE and FD of one cell, both None where an image is not finite."""
        path = "flow" if SCHEDULERS[name].flow else "vp"
        images = solve(self.networks[path], scheduler_of(name, grid, gain), self.noise, steps_for(name, nfe))
        error = rmse(images, self.solutions[path])
        if not math.isfinite(error):
            return {"rmse": None, "fd": None}
        return {"rmse": error, "fd": frechet(images, self.extractor, self.reference)}


def run(model: str, samplers: list[str]) -> None:
    """Measure all cells of a model that are not in the result file yet."""
    path = SWEEP.with_name(f"gain_sweep.{model}.{samplers[0]}.part.json")  # so that two shards can run side by side
    cells: dict[str, Any] = json.loads(path.read_text())["cells"] if path.is_file() else {}
    todo = [
        (name, grid, nfe)
        for name in samplers
        if not (model == "embedded" and SCHEDULERS[name].flow)
        for grid in grids_of(name)
        for nfe in NFE[model]
        if f"{name}|{grid}|{nfe}|done" not in cells
    ]
    if not todo:
        return
    setting = Setting(model, NUM_SEEDS[model])
    with Progress() as progress:
        for name, grid, nfe in progress.track(todo, description=model):
            key = f"{name}|{grid}|{nfe}"
            cells[f"{key}|0.0"] = setting.measure(name, grid, nfe, 0.0)
            plain: float | None = cells[f"{key}|0.0"]["rmse"]
            for ladder in ladders(model, name, grid):
                too_much = 0
                for gain in ladder:
                    cells[f"{key}|{gain}"] = setting.measure(name, grid, nfe, gain)
                    error = cells[f"{key}|{gain}"]["rmse"]
                    # Two rungs far above the plain error: the rest of the ladder would only be worse.
                    too_much = too_much + 1 if plain is None or error is None or error > GIVE_UP * plain else 0
                    if too_much == 2:
                        break
            cells[f"{key}|done"] = True
            save(path, {"cells": cells})


def ladders(model: str, name: str, grid: str) -> tuple[tuple[float, ...], ...]:
    """Return the gains to try, rising: all on the analytic model; its best and two smaller ones on the other."""
    if model == FIRST:
        return UP, DOWN
    table = _scores({FIRST: _measured()[FIRST]}, name, [grid])
    best = _best(table)
    if best is None:
        return ()
    if best == 0:
        return UP[:1], DOWN[:1]
    ladder = UP if best > 0 else DOWN
    end = ladder.index(best) + 1
    return (ladder[max(0, end - 3) : end],)


def _measured() -> dict[str, dict[str, Any]]:
    parts = sorted(RESULTS.glob("gain_sweep.*.part.json"))
    if not parts and SWEEP.is_file():
        return json.loads(SWEEP.read_text())["cells"]
    measured: dict[str, dict[str, Any]] = defaultdict(dict)
    for path in parts:
        measured[path.name.split(".")[1]] |= json.loads(path.read_text())["cells"]
    return dict(measured)


def _best(table: dict[float, dict[str, float]]) -> float | None:
    if not table:  # the plain sampler fails on this grid
        return None
    return min((g for g in table if table[g]["worst_rmse"] <= WORST), key=lambda g: table[g]["score"])


def chosen(
    measured: dict[str, dict[str, Any]], checks: dict[str, Any]
) -> tuple[dict[str, dict[str, float]], dict[str, Any]]:
    """Return the presets by the rule, and the scores that they were chosen by."""
    gains: dict[str, dict[str, float]] = defaultdict(dict)
    scores: dict[str, dict[str, Any]] = {}
    for name, entry in SCHEDULERS.items():
        for grid in grids_of(name):
            table = _scores(measured, name, list(SHIFTS) if grid in SHIFTS else [grid])
            config = dict(scheduler_of(name, grid, 0.0).config)
            best = _best(table)
            check = checks.get(f"{name}|{grid}")
            if check is not None and check["gain"] == best and check["fd"] > check["fd_plain"]:
                best = 0.0
            if best is not None:
                gains[sampler_key(entry.base, config)][grid_key(entry.base, config)] = best
            scores[f"{name}|{grid}"] = {"preset": best, "gains": table}
    return dict(gains), scores


def choose(checks: dict[str, Any]) -> None:
    """Apply the rule to what was measured; write the sweep and the presets."""
    measured = _measured()
    gains, scores = chosen(measured, checks)
    save(
        SWEEP,
        {
            "rule": {"harm": HARM, "worst": WORST},
            "num_seeds": {m: NUM_SEEDS[m] for m in measured},
            "first_seed": FIRST_SEED,
            "schedule": VP_CONFIG,
            "check_settings": CHECK,
            "checks": checks,
            "scores": scores,
            "cells": measured,
        },
    )
    PRESETS.write_text(json.dumps({"version": VERSION, "gains": gains}, indent=2) + "\n", encoding="utf-8")
    for path in RESULTS.glob("gain_sweep.*.part.json"):
        path.unlink()


def check() -> dict[str, Any]:
    """Measure, for every preset that is not 0, the distance that people will look at: to the training set."""
    from lmlangevin.evaluation import load_feature_network, load_reference_statistics

    measured = _measured()
    network, classifier, reference = embedded_network(), load_feature_network(), load_reference_statistics()
    noise = noise_for(range(CHECK["first_seed"], CHECK["first_seed"] + CHECK["num_images"]))

    def distance(name: str, grid: str, gain: float) -> float:
        images = solve(network, make(name, grid, gain), noise, steps_for(name, CHECK["nfe"]))
        return frechet(to_uint8(images), classifier, reference)

    rows = {key: row["preset"] for key, row in chosen(measured, {})[1].items() if row["preset"]}
    rows = {key: gain for key, gain in rows.items() if f"{key}|6|0.0" in measured["embedded"]}
    checks = {}
    with Progress() as progress:
        for key, gain in progress.track(rows.items(), description="checks"):
            name, grid = key.split("|")
            checks[key] = {"gain": gain, "fd_plain": distance(name, grid, 0.0), "fd": distance(name, grid, gain)}
    return checks


def _scores(measured: dict[str, dict[str, Any]], name: str, grids: list[str]) -> dict[float, dict[str, float]]:
    table = {}
    for gain in GAINS:
        ratios, complete = [], True
        for model, cells in measured.items():
            if model == "embedded" and SCHEDULERS[name].flow:
                continue
            for grid in grids:
                for nfe in NFE[model]:
                    cell, plain = cells.get(f"{name}|{grid}|{nfe}|{gain}"), cells.get(f"{name}|{grid}|{nfe}|0.0")
                    if plain is None or plain["rmse"] is None:
                        continue  # not measured on this model, or the plain sampler divides by zero by itself
                    if cell is None or cell["rmse"] is None:
                        complete = False
                    else:
                        ratios.append((cell["rmse"] / plain["rmse"], cell["fd"] / plain["fd"]))
        if complete and ratios:
            logs = [math.log(r) for pair in ratios for r in pair]
            table[gain] = {
                "score": sum(r if r < 0 else HARM * r for r in logs) / len(logs),
                "mean_rmse_ratio": math.exp(sum(math.log(r) for r, _ in ratios) / len(ratios)),
                "mean_fd_ratio": math.exp(sum(math.log(f) for _, f in ratios) / len(ratios)),
                "worst_rmse": max(r for r, _ in ratios),
                "worst_fd": max(f for _, f in ratios),
            }
    return table


def main() -> None:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    runner = commands.add_parser("run", help="measure")
    runner.add_argument("model", choices=list(NFE))
    runner.add_argument("--samplers", nargs="+", choices=list(SCHEDULERS), default=list(SCHEDULERS))
    commands.add_parser("choose", help="check the gains that the rule finds, and write the presets")
    args = parser.parse_args()
    if args.command == "run":
        run(args.model, args.samplers)
    else:
        choose(check())


if __name__ == "__main__":
    main()

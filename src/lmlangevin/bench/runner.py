"""Run a suite: measure what its result files do not hold yet, and keep each figure as soon as it is known."""

from __future__ import annotations

import functools
import hashlib
import json
import math
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lmlangevin.bench.cells import FINALS, FITTED, Cell, default_grid, offered_grids
from lmlangevin.bench.models import AnalyticBench, build, calibrated_steps, load_bench_model
from lmlangevin.bench.suite import IDENTITY, Part, Suite
from lmlangevin.core.damping import CALIBRATED
from lmlangevin.core.errors import LMLError
from lmlangevin.evaluation import FrechetStatistics, frechet_distance
from lmlangevin.files import read_json, write_text
from lmlangevin.generation.manifest import package_versions
from lmlangevin.schedulers.names import find_scheduler
from lmlangevin.values import differing

FORMAT = "lmlangevin-bench-1"
BEST_GRID_NFE = (5, 6, 8, 10, 15, 20)
"""Costs over which a sampler's best grid is chosen."""
SAVE_EVERY = 5.0
"""Seconds between two writes of a result file, at most; an interrupted run writes once more."""

ENDPOINT_STEPS = 20
WILD = 10.0

Progress = Callable[[str, int, int], None]
"""Called as (part, evaluations done, evaluations in all)."""


class Results:
    """A part's result file.

    Args:
        path: The file; read if it is there.
        part: The part that it belongs to.
        identity: Hash of the model.
        command: How it is made.

    Raises:
        LMLError: If the file holds figures of another part, model or settings.
    """

    def __init__(self, path: Path, part: Part, identity: str, command: str) -> None:
        self.path = path
        self.record: dict[str, Any] = {
            "format": FORMAT,
            "command": command,
            "versions": package_versions(),
            "part": part.name,
            "settings": part.settings() | {"weights": identity},
            "first_seed": part.first_seed,
            "cells": {},
        }
        self._saved = time.monotonic()
        if not path.is_file():
            return
        old = read_results(path)
        there, asked = old["settings"], self.record["settings"]
        changed = [
            f"{key} is {there.get(key)!r}, not {asked[key]!r}" for key in differing(there, asked) if key in asked
        ]
        if changed:
            raise LMLError(
                f"out={str(path)!r} holds figures of other settings ({'; '.join(changed)}); move it away, or give "
                "another --out."
            )
        self.record |= {key: value for key, value in old.items() if key not in ("command", "versions", "settings")}
        earlier = old.get("earlier_versions", [])
        if old["versions"] != self.record["versions"]:
            self.record["earlier_versions"] = [*earlier, old["versions"]]

    @property
    def cells(self) -> dict[str, Any]:
        """What was measured, by the cells' keys."""
        return self.record["cells"]

    def save(self, *, now: bool = True) -> None:
        """Write the file in one move; with `now=False` only if the last write is some seconds ago."""
        if not now and time.monotonic() - self._saved < SAVE_EVERY:
            return
        write_text(self.path, _dump(self.record))
        self._saved = time.monotonic()


def _dump(record: dict[str, Any]) -> str:
    """Return JSON with one line a cell, so that a change of one figure is a change of one line."""
    head = {key: value for key, value in record.items() if key != "cells"}
    rows = [
        f"  {json.dumps(key)}: {json.dumps(record['cells'][key], allow_nan=False)}" for key in sorted(record["cells"])
    ]
    body = json.dumps(head, indent=1, allow_nan=False)
    return body[:-2] + ',\n "cells": {\n' + ",\n".join(rows) + "\n }\n}\n"


def read_results(path: Path) -> dict[str, Any]:
    """Return the content of a result file.

    Raises:
        LMLError: If it is not one.
    """
    record = read_json(path, f"path {str(path)!r}", "move it away")
    if not isinstance(record, dict) or record.get("format") != FORMAT:
        raise LMLError(f"path {str(path)!r} is no result file of lml bench; give another --out.")
    return record


def result_path(folder: Path, suite: Suite, part: Part) -> Path:
    """Return where the figures of a part are kept."""
    return folder / f"{suite.name}-{part.name}.json"


class PartRun:
    """One part of a run: what is missing, what it costs, and its measuring.

    Args:
        suite: The suite.
        part: The part.
        folder: Where result files are.
        cache: Folder for converged solutions.
        command: The command line that is recorded.
    """

    def __init__(self, suite: Suite, part: Part, folder: Path, cache: Path | None, command: str) -> None:
        self.part = part
        self._suite, self._folder = suite, folder
        self.model = load_bench_model(part, cache)
        self.results = Results(result_path(folder, suite, part), part, self.model.identity(), command)

    def cells(self) -> list[Cell]:
        """Return the part's cells. Best grids that are not known yet count as the default ones."""
        best: dict[str, str] = {}
        if self.part.best_of:
            path = result_path(self._folder, self._suite, self._suite.part(self.part.best_of))
            measured = read_results(path)["cells"] if path.is_file() else {}
            best = {name: best_grid(measured, name) for name in self.part.samplers}
        return self.part.cells(best)

    def missing(self) -> list[Cell]:
        """Return the cells that are still to be measured."""
        return [cell for cell in self.cells() if not self._measured(cell)]

    def _measured(self, cell: Cell) -> bool:
        """Whether the file holds a cell, which is another one once its calibration is."""
        row = self.results.cells.get(cell.key)
        return row is not None and row.get("calibration") == calibration_hash(cell, self.part.model)

    def evaluations(self, cells: list[Cell]) -> int:
        """Return the network evaluations that measuring cells costs, the converged solutions included."""
        images = self.part.blocks * self.part.images
        total = sum(cell.nfe for cell in cells) * images
        if "rmse" in self.part.measures:
            paths = {find_scheduler(cell.sampler).flow for cell in cells if has_solution(cell)}
            total += len(paths) * self.model.solution_evaluations() * images
        return total

    def run(self, progress: Progress | None = None) -> int:
        """Measure the missing cells and return their number. An interruption keeps those that are done."""
        todo = self.missing()
        total, done = self.evaluations(todo), 0

        def advance(count: int) -> None:
            nonlocal done
            done += count
            if progress is not None:
                progress(self.part.name, min(done, total), total)

        try:
            for cell in todo:
                self.results.cells[cell.key] = self.measure(cell, advance)
                self.results.save(now=False)
            if todo or "converged" not in self.results.record:
                self._measure_limits()
        finally:
            self.results.save()
        return len(todo)

    def measure(self, cell: Cell, advance: Callable[[int], None] | None = None) -> dict[str, Any]:
        """Measure one cell: values for each block of seeds, null where a block has no value."""
        flow = find_scheduler(cell.sampler).flow
        solution = None
        if "rmse" in self.part.measures and has_solution(cell):
            solution = self.model.solution(flow=flow, advance=advance)
        began = time.perf_counter()
        images = self.model.sample(cell, advance)
        row: dict[str, Any] = {"seconds": round(time.perf_counter() - began, 2)}
        if calibration := calibration_hash(cell, self.part.model):
            row["calibration"] = calibration
        return row | self._figures(images, solution)

    def _figures(self, images: Tensor, solution: Tensor | None) -> dict[str, Any]:
        finite = images.flatten(1).isfinite().all(dim=1)
        row: dict[str, Any] = {"non_finite": int((~finite).sum())}
        # Images that are finite and yet far outside [-1, 1]: a mean hides how few they are.
        if wild := int((finite & (images.flatten(1).abs().amax(dim=1) > WILD)).sum()):
            row["wild"] = wild
        size = self.part.images
        if solution is not None:
            errors = (images.double() - solution.double()).square().flatten(1).mean(dim=1)
            row["rmse_median"] = _number(errors[finite].median().sqrt()) if _enough(finite) else None
            row["rmse"] = [
                _number(e[ok].mean().sqrt()) if _enough(ok) else None
                for e, ok in zip(errors.split(size), finite.split(size), strict=True)
            ]
        if "fd" in self.part.measures:
            blocks = zip(images.split(size), finite.split(size), strict=True)
            parts = [self.model.features(block[ok]) if _enough(ok) else None for block, ok in blocks]
            reference = self.model.reference
            row["fd"] = [None if p is None else _number(frechet_distance(p, reference)) for p in parts]
            there = [p for p in parts if p is not None]
            if len(there) == len(parts):
                row["fd_all"] = _number(frechet_distance(functools.reduce(FrechetStatistics.merge, there), reference))
        return row

    def _measure_limits(self) -> None:
        """Record what no sampler can do better than: the converged solution, and the ends of each time grid."""
        if "rmse" not in self.part.measures:
            return
        record = self.results.record
        if "converged" not in record:
            paths = sorted({find_scheduler(name).flow for name in self.part.samplers})
            record["converged"] = {
                ("flow" if flow else "vp"): self._figures(self.model.solution(flow=flow), None) for flow in paths
            }
        if isinstance(self.model, AnalyticBench):
            self._measure_ends(self.model)

    def _measure_ends(self, model: AnalyticBench) -> None:
        """Record the error of the exact solution on each grid's own ends, for the first block of seeds.

        A grid that starts below the last timestep or ends above sigma 0 pays this however fine its steps are.
        """
        ends: dict[str, float] = self.results.record.setdefault("ends", {})
        known: dict[tuple[float, float, float], float] = {}
        noise = model.noise[: self.part.images]
        exact = model.solution(flow=False)[: self.part.images]
        for cell in self.cells():
            key = "|".join((cell.sampler, cell.grid, cell.final, str(cell.nfe)))
            if key in ends or cell.grid == FITTED or find_scheduler(cell.sampler).flow:
                continue
            first, last, scale = grid_ends(cell)
            if (first, last, scale) not in known:
                with torch.inference_mode():
                    images = model.exact(noise * scale, steps=ENDPOINT_STEPS, start=first, end=last)
                known[first, last, scale] = _number((images.double() - exact.double()).square().mean().sqrt()) or 0.0
            ends[key] = known[first, last, scale]


def grid_ends(cell: Cell) -> tuple[float, float, float]:
    """Return the sigma/alpha at which a cell's grid starts and ends, and what its noise is scaled by.

    The scale is 1 where the sampler takes noise of the norm that belongs to the start.
    """
    scheduler = build(cell)
    scheduler.set_timesteps(find_scheduler(cell.sampler).steps_for(cell.nfe))
    if hasattr(scheduler, "sigmas") and hasattr(scheduler, "step_index"):
        first, last = float(scheduler.sigmas[0]), float(scheduler.sigmas[-1])
        # Samplers of the Euler family start from x / alpha = noise * init_noise_sigma.
        carries = hasattr(scheduler, "is_scale_input_called")
        scale = float(scheduler.init_noise_sigma) / math.sqrt(1 + first**2) if carries else 1.0
        return round(first, 6), round(last, 8), round(scale, 8)
    abar = float(scheduler.alphas_cumprod[int(scheduler.timesteps[0])])
    final = float(scheduler.final_alpha_cumprod)
    return round(math.sqrt((1 - abar) / abar), 6), round(math.sqrt((1 - final) / final), 8), 1.0


def calibration_hash(cell: Cell, model: str) -> str | None:
    """Return a hash of the schedule that a calibrated cell executes, None for other cells."""
    if cell.control != CALIBRATED:
        return None
    text = json.dumps(calibrated_steps(cell, model), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def has_solution(cell: Cell) -> bool:
    """Whether a cell's images have a limit to be compared with: those of a sampler that draws noise have none."""
    return not (find_scheduler(cell.sampler).stochastic or cell.eta)


def best_grid(measured: dict[str, Any], sampler: str) -> str:
    """Return a sampler's best grid among measured plain cells, its default one where nothing was measured.

    The best is the lowest geometric mean over `BEST_GRID_NFE` of the error to the converged solution, or of the Frechet
    distance for samplers without such a solution.
    """
    entry = find_scheduler(sampler)
    scores: dict[str, float] = {}
    for grid in offered_grids(entry):
        values = []
        for nfe in BEST_GRID_NFE:
            row = next((r for f in (*FINALS, "") if (r := measured.get(f"{sampler}|{grid}|{f}|{nfe}|plain"))), None)
            value = mean(row.get("fd" if entry.stochastic else "rmse")) if row else None
            values += [value] if value is not None and row and not row["non_finite"] else []
        if len(values) >= len(BEST_GRID_NFE) - 3:
            scores[grid] = statistics.fmean(math.log(v) for v in values)
    return min(scores, key=lambda grid: scores[grid]) if scores else default_grid(entry)


def mean(values: list[float | None] | None) -> float | None:
    """Return the mean of block values, None where a block has none."""
    if not values or any(v is None for v in values):
        return None
    return statistics.fmean(v for v in values if v is not None)


def _enough(finite: Tensor) -> bool:
    """A block of which less than half is finite has no value: what is left is a selection."""
    return 2 * int(finite.sum()) >= len(finite)


def _number(value: Any) -> float | None:
    """Return a float of eight significant digits, None for one that is not finite."""
    number = float(value)
    return float(f"{number:.8g}") if math.isfinite(number) else None


def run_identity(suite: Suite, folder: Path, command: str) -> bool:
    """Measure what a suite's `[identity]` asks for, unless its file holds it already; return whether it was done."""
    from lmlangevin.bench.release import deviation_from_identity

    asked = suite.identity
    if asked is None:
        return False
    path = folder / f"{suite.name}-{IDENTITY}.json"
    settings = {key: list(v) if isinstance(v, tuple) else v for key, v in asdict(asked).items()}
    if path.is_file() and read_results(path)["settings"] == settings:
        return False
    rows = [
        asdict(deviation_from_identity(getattr(torch, dtype), size, damping, samples=asked.samples, seed=asked.seed))
        for dtype in asked.dtypes
        for size in asked.sizes
        for damping in asked.lambdas
    ]
    head = {"format": FORMAT, "command": command, "versions": package_versions(), "first_seed": asked.seed}
    write_text(path, json.dumps(head | {"settings": settings, "rows": rows}, indent=1, allow_nan=False) + "\n")
    return True


def left_out(suite: Suite, parts: list[str]) -> list[Part]:
    """Return the parts that a run leaves out: not named, the file of their model not there, and `make` to say why."""
    return [part for part in suite.parts if not parts and part.make and part.absent]


def plan(suite: Suite, parts: list[str], folder: Path, cache: Path | None, command: str) -> list[PartRun]:
    """Return the parts of a run in the suite's order: those that are named, or all but those that are left out.

    `identity` is none of them.

    Raises:
        LMLError: For an unknown part, a model whose file is not there, or a result file of other settings.
    """
    chosen = [suite.part(name) for name in parts if name != IDENTITY] if parts else list(suite.parts)
    out = left_out(suite, parts)
    return [PartRun(suite, part, folder, cache, command) for part in suite.parts if part in chosen and part not in out]


def estimate(run: PartRun) -> tuple[int, int, float]:
    """Return the missing cells of a part, their network evaluations, and about how many seconds they take."""
    missing = run.missing()
    count = run.evaluations(missing) if missing else 0
    return len(missing), count, count / run.model.speed() if count else 0.0

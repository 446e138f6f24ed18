"""The result files of a suite, read into small typed records.

Nothing here measures, judges or draws. What was not measured is None.
"""

from __future__ import annotations

import functools
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal

from lmlangevin.bench.cells import Cell, default_grid, finals_of, nearest_cost
from lmlangevin.bench.release import Deviation
from lmlangevin.bench.runner import best_grid, mean, read_results, result_path
from lmlangevin.bench.suite import IDENTITY, Part, Suite
from lmlangevin.schedulers.names import find_scheduler

MEASURES = {"rmse": "RMSE", "fd": "FD"}
CLOSE = 0.02
"""A change of a mean by no more than this share is no change."""

Outcome = Literal["lower", "close", "spread", "higher", "lost", "diverges"]
Place = tuple[str, str, str, int]
"""Sampler, time grid, final, evaluations: a cell without what is done to the sampler."""


@dataclass(frozen=True)
class Figures:
    """What one cell measured.

    Attributes:
        rmse: To the converged solution, a value for each block of seeds, None where a block has none; None for a
            sampler that draws noise.
        fd: Frechet distance of each block.
        fd_all: Frechet distance of all blocks together, another N and so another bias.
        rmse_median: The median image's error.
        non_finite: Images that are not finite.
        wild: Images that are finite and far outside the range of images.
    """

    cell: Cell
    rmse: tuple[float | None, ...] | None
    fd: tuple[float | None, ...] | None
    fd_all: float | None
    rmse_median: float | None
    non_finite: int
    wild: int

    @property
    def broken(self) -> bool:
        """Whether any image is not finite or wild, so that a mean says nothing of the others."""
        return bool(self.non_finite or self.wild)

    def raw(self, measure: str) -> tuple[float | None, ...] | None:
        """Return the block values of a measure as they were recorded."""
        return self.rmse if measure == "rmse" else self.fd

    def blocks(self, measure: str) -> tuple[float, ...] | None:
        """Return the block values of a measure, None if it was not measured or any block has none."""
        values = self.raw(measure)
        there = tuple(value for value in values or () if value is not None)
        return there if there and len(there) == len(values or ()) else None

    def mean(self, measure: str) -> float | None:
        """Return the mean of the blocks."""
        return mean(list(self.raw(measure) or ()))


@dataclass(frozen=True)
class Change:
    """Two cells on the same seeds, block by block.

    Attributes:
        outcome: `"lower"` or `"higher"`: by more than `CLOSE` of the mean and in every block; `"close"`: by less;
            `"spread"`: the blocks disagree in sign; `"lost"`: the second has images that are not finite or wild;
            `"diverges"`: the first has.
        ratio: Second mean over first, None for the last two outcomes.
        difference: Mean of the block differences.
        sd: Their standard deviation.
        lower: Blocks in which the second is lower.
        higher: Blocks in which it is higher.
        blocks: Blocks in all.
    """

    outcome: Outcome
    ratio: float | None = None
    difference: float | None = None
    sd: float | None = None
    lower: int = 0
    higher: int = 0
    blocks: int = 0


def compare(first: Figures | None, second: Figures | None, measure: str, *, rest: bool = False) -> Change | None:
    """Compare two cells of the same seeds, None if either lacks the measure.

    Args:
        first: What is compared with.
        second: What is compared.
        measure: `"rmse"` or `"fd"`.
        rest: Compare what is finite even if some images are not, or are wild.
    """
    if first is None or second is None or first.raw(measure) is None or second.raw(measure) is None:
        return None
    a, b = first.blocks(measure), second.blocks(measure)
    if a is None or (first.broken and not rest):
        return Change("diverges")
    if b is None or (second.broken and not rest):
        return Change("lost")
    if len(a) != len(b):
        return None
    changes = [y - x for x, y in zip(a, b, strict=True)]
    below, above = sum(c < 0 for c in changes), sum(c > 0 for c in changes)
    base = statistics.fmean(a)
    ratio = statistics.fmean(b) / base if base else math.inf
    outcome: Outcome = "spread"
    if below == above == 0 or (abs(ratio - 1) <= CLOSE and len(changes) in (below, above)):
        outcome = "close"
    elif len(changes) in (below, above):
        outcome = "lower" if below else "higher"
    sd = statistics.stdev(changes) if len(changes) > 1 else 0.0
    return Change(outcome, ratio, statistics.fmean(changes), sd, below, above, len(changes))


@dataclass(frozen=True)
class Pair:
    """A sampler on a grid at a cost, plain and with its preset gain.

    Attributes:
        cell: The plain cell.
        gain: The preset; 0 is the plain sampler, bit for bit, and `lml` then is `plain`. None: there is no preset, or
            no LML version.
        ends: RMSE of the exact solution that starts and ends where the grid does; no number of steps does better.
    """

    cell: Cell
    gain: float | None
    plain: Figures | None
    lml: Figures | None
    ends: float | None = None

    def change(self, measure: str) -> Change | None:
        """Compare LML with the plain sampler."""
        return compare(self.plain, self.lml, measure)


@dataclass(frozen=True, eq=False)
class PartData:
    """A part of a suite and what its result file holds.

    Attributes:
        part: What was asked for.
        record: The file's content, empty if there is none.
        best: The best grid of each sampler.
    """

    part: Part
    record: Mapping[str, Any]
    best: Mapping[str, str]

    @functools.cached_property
    def settings(self) -> Mapping[str, Any]:
        """What the figures were measured with; what the suite asks for where there is no file."""
        return self.record.get("settings") or self.part.settings()

    @functools.cached_property
    def figures(self) -> dict[str, Figures]:
        """The measured cells by key."""
        return {key: _figures(Cell.parse(key), row) for key, row in self.record.get("cells", {}).items()}

    @functools.cached_property
    def expected(self) -> list[Cell]:
        """The cells that the part asks for."""
        return self.part.cells(dict(self.best))

    @functools.cached_property
    def missing(self) -> list[Cell]:
        """Those of them that were not measured."""
        return [cell for cell in self.expected if cell.key not in self.figures]

    @functools.cached_property
    def pairs(self) -> list[Pair]:
        """Every sampler, grid and cost of the part, plain and with its preset."""
        plain, preset = self.arm("plain"), self.arm("preset")
        ends = self.record.get("ends", {})
        found = []
        for place, cell in plain.items():
            other = preset.get(place)
            lml = None if other is None else self.figures.get(other.key)
            end = ends.get("|".join(map(str, place)))
            found.append(Pair(cell, None if other is None else other.gain, self.figures.get(cell.key), lml, end))
        return found

    @functools.cached_property
    def _pairs_by_place(self) -> dict[Place, Pair]:
        return {place_of(pair.cell): pair for pair in self.pairs}

    def arm(self, arm: str) -> dict[Place, Cell]:
        """Return the cells of an arm by place, asked for by the part or not."""
        return {place_of(cell): cell for cell in replace(self.part, arms=(arm,)).cells(dict(self.best))}

    def measures(self) -> list[str]:
        """Return `"rmse"` and `"fd"` as far as they were measured."""
        return [name for name in MEASURES if name in self.settings["measures"]]

    def seeds(self) -> str:
        """Return the number of blocks and images, and the seeds."""
        s = self.settings
        last = s["first_seed"] + s["blocks"] * s["images"] - 1
        return f"{s['blocks']} blocks of {s['images']} images, seeds {s['first_seed']} to {last}"

    def at(self, nfe: int, *, flow: bool | None = None) -> list[Pair]:
        """Return the pairs that cost a nominal number of evaluations; a sampler that cannot, its nearest lower cost."""
        found = []
        for pair in self.pairs:
            entry = find_scheduler(pair.cell.sampler)
            if pair.cell.nfe == nearest_cost(entry, nfe) and flow in (None, entry.flow):
                found.append(pair)
        return found

    def curve(self, sampler: str, grid: str) -> dict[int, Pair]:
        """Return a sampler on a grid by nominal cost, with the first of the part's finals."""
        entry = find_scheduler(sampler)
        final = finals_of(entry, self.part.finals)[0]
        places = {nfe: (sampler, grid, final, nearest_cost(entry, nfe) or 0) for nfe in sorted(self.part.nfe)}
        return {nfe: self._pairs_by_place[place] for nfe, place in places.items() if place in self._pairs_by_place}

    def curves(self, sampler: str) -> dict[str, dict[int, Pair]]:
        """Return a sampler's curves on its default and its best grid, by grid; only those that the part holds."""
        grids = dict.fromkeys((default_grid(find_scheduler(sampler)), self.best[sampler]))
        return {grid: curve for grid in grids if (curve := self.curve(sampler, grid))}


@dataclass(frozen=True)
class SuiteData:
    """All that the result files of a suite hold.

    Attributes:
        suite: The suite.
        parts: Its parts in order.
        identity: How far the release's formula is from the identity.
        identity_record: The file of it, empty if there is none.
    """

    suite: Suite
    parts: tuple[PartData, ...]
    identity: tuple[Deviation, ...]
    identity_record: Mapping[str, Any]

    def kind(self, data: PartData) -> Literal["noise", "headline", "dtype", "control", "matrix"]:
        """Return what a part is for.

        Injected noise, the headline, a check of the dtype, controls alone, or a matrix of samplers and their presets.
        """
        if any(arm.startswith(("eta", "release")) for arm in data.part.arms):
            return "noise"
        if data.part.name == "headline":
            return "headline"
        if self.other_dtype(data):
            return "dtype"
        return "control" if data.part.controls and "preset" not in data.part.arms else "matrix"

    @property
    def controlled(self) -> list[PartData]:
        """The parts with controls, of whatever kind."""
        return [data for data in self.parts if data.part.controls]

    @property
    def controls_alone(self) -> bool:
        """Whether there is nothing in the suite but parts of controls."""
        return bool(self.parts) and not self.suite.identity and len(self.of("control")) == len(self.parts)

    def of(self, kind: str) -> list[PartData]:
        """Return the parts of a kind."""
        return [data for data in self.parts if self.kind(data) == kind]

    def other_dtype(self, data: PartData) -> PartData | None:
        """Return an earlier part of the same model and seeds in another dtype."""
        for other in self.parts[: self.parts.index(data)]:
            if _same(data, other, ("model", "blocks", "images", "first_seed")) and not _same(data, other, ("dtype",)):
                return other
        return None

    def find(self, data: PartData, cell: Cell) -> Figures | None:
        """Return a cell's figures from its part, or from another part of the same model, dtype and seeds."""
        for other in (data, *self.parts):
            same = _same(data, other, ("model", "blocks", "images", "first_seed", "dtype"))
            if same and cell.key in other.figures:
                return other.figures[cell.key]
        return None

    def arms(self, data: PartData) -> list[str]:
        """Return the arms of a part of injected noise, the plain one and the preset first."""
        return list(dict.fromkeys(("plain", "preset", *data.part.arms)))


def read_suite(suite: Suite, folder: Path) -> SuiteData:
    """Read the result files of a suite; a file that is not there is a part without figures.

    Raises:
        LMLError: If a file is no result file.
    """
    records = {}
    for part in suite.parts:
        path = result_path(folder, suite, part)
        records[part.name] = read_results(path) if path.is_file() else {}
    parts = []
    for part in suite.parts:
        measured = records[part.best_of or part.name].get("cells", {})
        best = {name: best_grid(measured, name) for name in part.samplers}
        parts.append(PartData(part, records[part.name], best))
    path = folder / f"{suite.name}-{IDENTITY}.json"
    record = read_results(path) if path.is_file() else {}
    names = [field.name for field in fields(Deviation)]
    rows = tuple(Deviation(**{name: row[name] for name in names}) for row in record.get("rows", []))
    return SuiteData(suite, tuple(parts), rows, record)


def place_of(cell: Cell) -> Place:
    """Return a cell's sampler, grid, final and cost."""
    return cell.sampler, cell.grid, cell.final, cell.nfe


def _same(first: PartData, second: PartData, names: Sequence[str]) -> bool:
    a, b = first.settings, second.settings
    weights = [s.get("weights") for s in (a, b)]
    return all(a[name] == b[name] for name in names) and (None in weights or weights[0] == weights[1])


def _figures(cell: Cell, row: Mapping[str, Any]) -> Figures:
    rmse, fd = row.get("rmse"), row.get("fd")
    return Figures(cell, None if rmse is None else tuple(rmse), None if fd is None else tuple(fd), row.get("fd_all"),
                   row.get("rmse_median"), row.get("non_finite", 0), row.get("wild", 0))  # fmt: skip

"""What follows from the figures of a suite: the best cells, what LML changes, orders, and cells side by side."""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from lmlangevin.bench.cells import finals_of, nearest_cost
from lmlangevin.bench.results import CLOSE, MEASURES, Change, Figures, Outcome, Pair, PartData, SuiteData, compare
from lmlangevin.schedulers.names import find_scheduler

SLOPE_POINTS = 4
SLOPE_FROM = 10
"""The order is fitted over the largest costs: this many, none below this one."""


def lowest(figures: Iterable[Figures | None], measure: str) -> Figures | None:
    """Return the cell with the lowest mean of a measure; broken cells do not count, None if there is no other."""
    scored = [(value, f) for f in figures if f and not f.broken and (value := f.mean(measure)) is not None]
    return min(scored, key=lambda item: item[0])[1] if scored else None


@dataclass(frozen=True)
class Best:
    """The best cells at a cost.

    Attributes:
        nfe: Nominal cost; a cell may cost less, where its sampler cannot cost this.
        plain: The lowest of all plain cells.
        lml: The lowest of all cells with LML and a gain other than 0.
    """

    nfe: int
    plain: Figures | None
    lml: Figures | None

    def change(self, measure: str) -> Change | None:
        """Compare the best LML cell with the best plain one."""
        return compare(self.plain, self.lml, measure)


def best_cells(data: PartData, measure: str, *, flow: bool = False) -> list[Best]:
    """Return the best plain cell and the best LML cell of each nominal cost; broken cells do not count.

    Args:
        data: The part.
        measure: `"rmse"` or `"fd"`.
        flow: Of flow-matching models, which have other converged solutions, or of noise-predicting ones.
    """
    found = []
    for nfe in sorted(data.part.nfe):
        pairs = data.at(nfe, flow=flow)
        found.append(
            Best(nfe, lowest((p.plain for p in pairs), measure), lowest((p.lml for p in pairs if p.gain), measure))
        )
    return found


@dataclass(frozen=True)
class Census:
    """What LML does to all cells whose preset is not 0.

    Attributes:
        changes: Every such pair that was measured, with its change.
        missing: Pairs that lack a figure.
    """

    measure: str
    changes: tuple[tuple[Pair, Change], ...]
    missing: int

    def count(self, outcome: Outcome) -> int:
        """Return the number of cells of an outcome."""
        return sum(change.outcome == outcome for _, change in self.changes)

    @property
    def ratios(self) -> list[float]:
        """LML over plain, of the cells that have one."""
        return [change.ratio for _, change in self.changes if change.ratio is not None]

    @property
    def worst(self) -> tuple[Pair, Change] | None:
        """The cell with the highest ratio."""
        rated = [(change.ratio, -k) for k, (_, change) in enumerate(self.changes) if change.ratio is not None]
        return self.changes[-max(rated)[1]] if rated else None

    @property
    def harmed(self) -> list[tuple[Pair, Change]]:
        """Cells whose mean is more than 2% worse, whether or not all blocks agree, or that are lost; worst first."""
        found = [(p, c) for p, c in self.changes if c.outcome == "lost" or (c.ratio or 0) > 1 + CLOSE]
        return sorted(found, key=lambda item: -(item[1].ratio or math.inf))

    def where(self, keep: Callable[[Pair], bool]) -> Census:
        """Return the census of some of the pairs."""
        return Census(self.measure, tuple(item for item in self.changes if keep(item[0])), 0)


def census(data: PartData, measure: str) -> Census:
    """Return the census of a part. A pair counts once, whatever nominal costs it stands for."""
    pairs = [pair for pair in data.pairs if pair.gain]
    if measure == "rmse":
        pairs = [pair for pair in pairs if not find_scheduler(pair.cell.sampler).stochastic]
    changes = [(pair, pair.change(measure)) for pair in pairs]
    there = tuple((pair, change) for pair, change in changes if change is not None)
    return Census(measure, there, len(pairs) - len(there))


@dataclass(frozen=True)
class Slope:
    """How fast an error falls: the slope of log error over log evaluations, positive where it falls.

    Attributes:
        median: Of the median image's error, which a few images that end elsewhere cannot carry.
        blocks: Of the RMSE of each block.
    """

    median: float
    blocks: tuple[float, ...]


@dataclass(frozen=True)
class Order:
    """The measured order of a sampler on a grid.

    Attributes:
        nfe: The costs that it was fitted over.
        plain: Of the plain sampler.
        lml: With LML; None where there is no gain, or a cell is missing.
    """

    sampler: str
    grid: str
    nfe: tuple[int, ...]
    plain: Slope
    lml: Slope | None


def orders(data: PartData) -> list[Order]:
    """Return the measured orders of the samplers on their best plain grids, over the largest costs.

    Only where the converged solution is exact: on a network a sampler stands for it, whose own error would be fitted.
    """
    found = []
    exact = "rmse" in data.measures() and data.settings["model"] != "embedded"
    for sampler in data.part.samplers if exact else ():
        curve = data.curve(sampler, data.best[sampler])
        pairs = {p.cell.nfe: p for p in curve.values() if usable(p.plain)}
        costs = [nfe for nfe in sorted(pairs) if nfe >= SLOPE_FROM][-SLOPE_POINTS:]
        plain = _slope([pairs[nfe].plain for nfe in costs])
        if plain is not None:
            lml = _slope([pairs[nfe].lml for nfe in costs]) if pairs[costs[0]].gain else None
            found.append(Order(sampler, data.best[sampler], tuple(costs), plain, lml))
    return found


def _slope(figures: Sequence[Figures | None]) -> Slope | None:
    """Fit a slope, None if any cell has no error or there are too few of them."""
    there = [f for f in figures if usable(f)]
    if len(figures) < 3 or len(there) < len(figures):
        return None
    x = [math.log(f.cell.nfe) for f in there if f]

    def fit(errors: Sequence[float]) -> float:
        return -statistics.linear_regression(x, [math.log(error) for error in errors]).slope

    by_block = zip(*(f.blocks("rmse") or () for f in there if f), strict=True)
    return Slope(fit([f.rmse_median or 0.0 for f in there if f]), tuple(fit(errors) for errors in by_block))


def usable(figures: Figures | None) -> bool:
    """Whether a cell has errors above 0 that a slope can be fitted to."""
    if figures is None or figures.broken:
        return False
    return min(figures.blocks("rmse") or (0.0,)) > 0 and (figures.rmse_median or 0.0) > 0


def lever(data: PartData, nfe: int, measure: str) -> tuple[float, float] | None:
    """Return how much the grid and how much the solver matter for the plain samplers of a noise-predicting model.

    Returns:
        Medians of worst over best: over the grids of each solver, and over the solvers on each grid. None if too little
        was measured. Samplers that draw noise and broken cells do not count.
    """
    rows: dict[tuple[str, str], float] = {}
    for pair in data.at(nfe, flow=False):
        cell, figures = pair.cell, pair.plain
        first = finals_of(find_scheduler(cell.sampler), data.part.finals)[0]
        value = figures.mean(measure) if figures is not None and not figures.broken else None
        if value and cell.final == first and not find_scheduler(cell.sampler).stochastic:
            rows[cell.sampler, cell.grid] = value

    def spread(index: int) -> list[float]:
        groups = itertools.groupby(sorted(rows, key=lambda key: key[index]), key=lambda key: key[index])
        values = [[rows[key] for key in group] for _, group in groups]
        return [max(v) / min(v) for v in values if len(v) > 2]

    grids, solvers = spread(0), spread(1)
    return (statistics.median(grids), statistics.median(solvers)) if grids and solvers else None


def noise_rows(suite: SuiteData, data: PartData) -> dict[tuple[str, str, str], dict[int, Figures | None]]:
    """Return the figures of a part of injected noise by nominal cost, for each sampler, grid and arm."""
    found: dict[tuple[str, str, str], dict[int, Figures | None]] = {}
    arms = {arm: data.arm(arm) for arm in suite.arms(data)}
    for place in arms["plain"]:
        sampler, grid = place[:2]
        if place[2] != finals_of(find_scheduler(sampler), data.part.finals)[0]:
            continue
        for arm, cells in arms.items():
            if place in cells and (arm != "preset" or cells[place].gain):
                row = found.setdefault((sampler, grid, arm), {})
                for nfe in data.part.nfe:
                    if nearest_cost(find_scheduler(sampler), nfe) == place[3]:
                        row[nfe] = suite.find(data, cells[place])
    order = {key: index for index, key in enumerate(dict.fromkeys(key[:2] for key in found))}
    return dict(sorted(found.items(), key=lambda item: (order[item[0][:2]], list(arms).index(item[0][2]))))


def against_plain(data: SuiteData, part: PartData, arm: str) -> list[tuple[Figures, Figures]]:
    """Return the cells of the arms that start so, each behind its plain cell."""
    rows = noise_rows(data, part)
    found = []
    for (sampler, grid, name), row in rows.items():
        for nfe, figures in row.items() if name.startswith(arm) else ():
            plain = rows[sampler, grid, "plain"].get(nfe)
            found += [(plain, figures)] if plain and figures else []
    return found


def difference(pairs: Iterable[tuple[Figures, Figures]]) -> float | None:
    """Return the largest relative difference of the block values of cells that are not broken, None without any."""
    found = []
    for first, second in pairs:
        for measure in MEASURES if not (first.broken or second.broken) else ():
            a, b = first.blocks(measure), second.blocks(measure)
            found += [abs(y - x) / abs(x) if x else abs(y) for x, y in zip(a, b, strict=True)] if a and b else []
    return max(found, default=None)


def dtype_rows(data: PartData, other: PartData) -> list[tuple[Figures, Figures, Change]]:
    """Return the cells that two parts of the same seeds and different dtypes share, `other`'s first, and the change."""
    found = []
    for cell in data.expected:
        first, second = other.figures.get(cell.key), data.figures.get(cell.key)
        change = compare(first, second, "fd")
        if first and second and change and change.ratio is not None:
            found.append((first, second, change))
    return found

"""Whether a control does harm: every cell with it against the same cell without it, block by block on shared seeds.

A cell is harmed if its mean rises by more than 2%, and that stays significant after Holm's correction over all cells of
the part: a matrix of some hundred cells holds some that look harmed by chance. Each measure is a family of its own.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from lmlangevin.bench.cells import Cell
from lmlangevin.bench.findings import Best, lowest
from lmlangevin.bench.results import CLOSE, Change, Figures, PartData, compare
from lmlangevin.core.damping import CALIBRATED
from lmlangevin.schedulers.names import find_scheduler

LEVEL = 0.05
"""Of significance, of a whole family."""
FEW = (5, 15)
"""The range of evaluations that a control is for."""
GOAL = 0.95
"""What the median ratio of RMSE over that range is to be at most."""
LEAST_BLOCKS = 5
REFERENCE_NFE = 10
"""The cost whose best plain cell calibrations are also held against."""

Verdict = Literal["better", "no change", "harmed"]

# The tests


def p_above(values: Sequence[float]) -> float:
    """Return the one-sided p-value of the mean of `values` being above 0, by Student's t.

    Values that are all alike leave no doubt: 0 if they are above 0, and 1 if they are not.
    """
    centre, spread = statistics.fmean(values), statistics.stdev(values)
    if spread == 0:
        return 0.0 if centre > 0 else 1.0
    from scipy.stats import t

    return float(t.sf(centre / (spread / math.sqrt(len(values))), len(values) - 1))


def p_rise(plain: Sequence[float], other: Sequence[float], by: float = CLOSE) -> float:
    """Return the p-value of the mean having risen by more than `by` of the plain mean; negative is a fall.

    The hypothesis that it rejects is mean(other) <= (1 + by) mean(plain) for a rise, >= for a fall.

    Args:
        plain: A value for each block.
        other: The same blocks, in the same order.
        by: The share that is no change.
    """
    sign = 1 if by >= 0 else -1
    return p_above([sign * (y - (1 + by) * x) for x, y in zip(plain, other, strict=True)])


def holm(p_values: Sequence[float]) -> list[float]:
    """Return p-values adjusted for their number, so that each can be held against the level of the family.

    Reference:
        Holm (1979), Scandinavian Journal of Statistics 6, 65-70. It holds for tests that depend on each other.
    """
    order = sorted(range(len(p_values)), key=lambda index: p_values[index])
    adjusted = [0.0] * len(p_values)
    least = 0.0
    for rank, index in enumerate(order):
        least = max(least, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = least
    return adjusted


def least_t(tests: int, blocks: int) -> float:
    """Return the t that the first of a number of tests needs to pass Holm's correction."""
    from scipy.stats import t

    return float(t.isf(LEVEL / tests, blocks - 1))


# The matrix


@dataclass(frozen=True)
class Effect:
    """What a control does to one cell.

    Attributes:
        plain: The cell without it.
        controlled: The cell with it.
        change: Their comparison, block by block.
        spread: Standard deviation of the ratios of the blocks; None where images were lost.
        p_alone: p-value of a rise by more than 2%, by itself; None where images were lost.
        p_rise: The same after Holm's correction.
        p_fall: p-value of a fall by more than 2%, after Holm's correction.
    """

    plain: Figures
    controlled: Figures
    change: Change
    spread: float | None = None
    p_alone: float | None = None
    p_rise: float | None = None
    p_fall: float | None = None

    @property
    def cell(self) -> Cell:
        """The plain cell."""
        return self.plain.cell

    @property
    def lost(self) -> bool:
        """Whether the control alone has images that are not finite or wild."""
        return self.change.outcome == "lost"

    @property
    def verdict(self) -> Verdict:
        """What is established of the cell; lost images are a harm that needs no test."""
        if self.lost or (self.p_rise is not None and self.p_rise < LEVEL):
            return "harmed"
        return "better" if self.p_fall is not None and self.p_fall < LEVEL else "no change"

    @property
    def raised(self) -> bool:
        """Whether the mean rises by more than 2%, and that is not established."""
        return self.verdict == "no change" and (self.change.ratio or 0.0) > 1 + CLOSE


@dataclass(frozen=True)
class Harm:
    """What a control does to all cells of a part, by one measure.

    Attributes:
        control: Name of the control.
        measure: `"rmse"` or `"fd"`.
        effects: Every cell that was measured with and without it.
        left_out: Plain cells with images that are not finite or wild: nothing can be said of what is done to them.
        missing: Cells that lack a figure.
    """

    control: str
    measure: str
    effects: tuple[Effect, ...]
    left_out: tuple[Figures, ...] = ()
    missing: int = 0

    def count(self, verdict: Verdict) -> int:
        """Return the number of cells of a verdict."""
        return sum(effect.verdict == verdict for effect in self.effects)

    @property
    def failures(self) -> list[Effect]:
        """The harmed cells, worst first."""
        return _worst_first(effect for effect in self.effects if effect.verdict == "harmed")

    @property
    def raised(self) -> list[Effect]:
        """The cells whose mean rises by more than 2% without that being established, worst first."""
        return _worst_first(effect for effect in self.effects if effect.raised)

    @property
    def suspects(self) -> int:
        """Number of cells that would be harmed if each were the only one that is tested."""
        return sum(effect.p_alone is not None and effect.p_alone < LEVEL for effect in self.effects)

    @property
    def ratios(self) -> list[float]:
        """Controlled over plain means, of the cells that have one."""
        found = [effect.change.ratio for effect in self.effects]
        return [ratio for ratio in found if ratio is not None and math.isfinite(ratio)]

    @property
    def median(self) -> float | None:
        """Median of the ratios."""
        return statistics.median(self.ratios) if self.ratios else None

    @property
    def geometric_mean(self) -> float | None:
        """Geometric mean of the ratios that are above 0."""
        positive = [ratio for ratio in self.ratios if ratio > 0]
        return statistics.geometric_mean(positive) if positive else None

    def where(self, keep: Callable[[Cell], bool]) -> Harm:
        """Return some of the cells, each with the p-values that it has among all."""
        effects = tuple(effect for effect in self.effects if keep(effect.cell))
        return replace(self, effects=effects, left_out=tuple(f for f in self.left_out if keep(f.cell)), missing=0)

    def within(self, first: int, last: int) -> Harm:
        """Return the cells of a range of evaluations, both ends included."""
        return self.where(lambda cell: first <= cell.nfe <= last)

    @property
    def few(self) -> Harm:
        """The cells of the range that a control is for."""
        return self.within(*FEW)


def measure_harm(data: PartData, control: str, measure: str) -> Harm:
    """Compare every cell of a part with and without a control.

    Args:
        data: The part.
        control: Name of the control, one that acts on the plain sampler's own grids.
        measure: `"rmse"` or `"fd"`.
    """
    plain = data.arm("plain")
    effects, left_out, missing = [], [], 0
    for place, cell in data.arm(f"control={control}").items():
        first, second = data.figures.get(plain[place].key), data.figures.get(cell.key)
        change = compare(first, second, measure)
        if first is None or second is None or change is None:
            missing += 1
        elif change.outcome == "diverges":
            left_out.append(first)
        else:
            effects.append(Effect(first, second, change))
    return Harm(control, measure, _tested(effects, measure), tuple(left_out), missing)


def paired_controls(data: PartData) -> list[str]:
    """Return the controls of a part that act on the plain sampler's own grids."""
    return [name for name in data.part.controls if name != CALIBRATED]


def _tested(effects: Sequence[Effect], measure: str) -> tuple[Effect, ...]:
    """Return effects with their p-values; those with lost images have none, and do not count in the correction."""
    tested = {index: effect for index, effect in enumerate(effects) if not effect.lost}
    blocks = [(e.plain.blocks(measure) or (), e.controlled.blocks(measure) or ()) for e in tested.values()]
    alone = [p_rise(*pair) for pair in blocks]
    columns = zip(tested, blocks, alone, holm(alone), holm([p_rise(*pair, -CLOSE) for pair in blocks]), strict=True)
    found = list(effects)
    for index, (first, second), p_alone, rise, fall in columns:
        ratios = [y / x for x, y in zip(first, second, strict=True) if x]
        spread = statistics.stdev(ratios) if len(ratios) > 1 else None
        found[index] = replace(tested[index], spread=spread, p_alone=p_alone, p_rise=rise, p_fall=fall)
    return tuple(found)


def _worst_first(effects: Iterable[Effect]) -> list[Effect]:
    return sorted(effects, key=lambda effect: -(math.inf if effect.lost else effect.change.ratio or 0.0))


# The best cells


def best_controlled(data: PartData, control: str, measure: str, *, flow: bool = False, sampler: str = "") -> list[Best]:
    """Return the best plain cell and the best cell with a control at each cost; broken cells do not count.

    Args:
        data: The part.
        control: Name of the control.
        measure: `"rmse"` or `"fd"`.
        flow: Of flow-matching models, which have other converged solutions, or of noise-predicting ones.
        sampler: Of this sampler alone.
    """

    def best(name: str, nfe: int) -> Figures | None:
        cells = (f for f in data.figures.values() if f.cell.variant == (f"control={name}" if name else "plain"))
        mine = (f for f in cells if f.cell.nfe == nfe and find_scheduler(f.cell.sampler).flow == flow)
        return lowest((f for f in mine if not sampler or f.cell.sampler == sampler), measure)

    return [Best(nfe, best("", nfe), best(control, nfe)) for nfe in sorted(data.part.nfe)]


def calibrated_cells(data: PartData) -> list[tuple[str, bool, list[Best]]]:
    """Return the calibrated cells of a part, each behind the best plain cell of its cost.

    Returns:
        Measure, whether of flow matching, and the cells of each cost; only where there is any.
    """
    flows = sorted({find_scheduler(name).flow for name in data.part.samplers})
    found = [(m, flow, best_controlled(data, CALIBRATED, m, flow=flow)) for flow in flows for m in data.measures()]
    return [item for item in found if any(best.lml for best in item[2])]


def reference_cell(found: Sequence[Best]) -> Figures | None:
    """Return the best plain cell of the cost that calibrations are also held against."""
    return next((best.plain for best in found if best.nfe == REFERENCE_NFE), None)

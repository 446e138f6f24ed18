"""Tables of what a control does, cell by cell and at its best."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from lmlangevin.bench.findings import Best
from lmlangevin.bench.harm import FEW, REFERENCE_NFE, Effect, Harm, best_controlled, reference_cell
from lmlangevin.bench.results import MEASURES, PartData, compare
from lmlangevin.bench.tables import label, markdown, number, ratio_text, show, title
from lmlangevin.schedulers.names import find_scheduler


def counts_table(harm: Harm, *, table: Any = markdown) -> str:
    """Verdicts and ratios of all cells by cost, and over the few and the many evaluations."""
    costs = sorted({effect.cell.nfe for effect in harm.effects})
    parts = {str(nfe): harm.within(nfe, nfe) for nfe in costs}
    parts |= {span_text(group): harm.within(group[0], group[-1]) for group in _spans(costs)}
    return _counts("NFE", parts, table)


def sampler_table(harm: Harm, *, table: Any = markdown) -> str:
    """Verdicts and ratios of the cells of few evaluations, by sampler and by grid."""
    cells = [effect.cell for effect in harm.few.effects]
    parts = {title(name): harm.few.where(lambda c, n=name: c.sampler == n) for name in _each(c.sampler for c in cells)}
    parts |= {grid: harm.few.where(lambda c, g=grid: c.grid == g) for grid in _each(c.grid for c in cells)}
    return _counts(f"at {span_text(FEW)} evaluations", parts, table)


def effects_table(effects: Sequence[Effect], harm: Harm) -> str:
    """Cells one by one, with what was tested."""
    rows = []
    for effect in effects:
        ratio = "lost" if effect.change.ratio is None else number(effect.change.ratio)
        ratio += f" ± {number(effect.spread, like=1)}" if effect.spread is not None else ""
        blocks = f"{effect.change.higher} of {effect.change.blocks}" if effect.change.blocks else "-"
        tests = ["-" if p is None else number(p) for p in (effect.p_alone, effect.p_rise)]
        rows.append([label(effect.cell), str(effect.cell.nfe), show(effect.plain, harm.measure),
                     show(effect.controlled, harm.measure), ratio, blocks, *tests])  # fmt: skip
    name = MEASURES[harm.measure]
    header = ["cell", "NFE", f"{name} plain", f"{name} {harm.control}", "ratio ± SD of the blocks", "blocks higher"]
    return markdown([*header, "p of a rise above 2%", "p after Holm"], rows)


def best_by_sampler_table(data: PartData, control: str, measure: str) -> str:
    """The best cell with a control over the best plain one of each sampler, each on the best of its grids, by cost."""
    costs = sorted(data.part.nfe)
    rows = []
    for sampler in data.part.samplers:
        flow = find_scheduler(sampler).flow
        found = best_controlled(data, control, measure, flow=flow, sampler=sampler)
        changes = [best.change(measure) for best in found]
        texts = [number(c.ratio) if c and c.ratio is not None else "-" for c in changes]
        rows += [[title(sampler), *texts]] if set(texts) != {"-"} else []
    return markdown([f"{MEASURES[measure]}, {control} / plain", *map(str, costs)], rows) if rows else ""


def calibrated_table(found: Sequence[Best], measure: str, *, table: Any = markdown) -> str:
    """Calibrated cells against the best plain cell of their cost, and against that of ten evaluations."""
    reference = reference_cell(found)
    rows = []
    for best in found:
        if best.lml is None:
            continue
        plain = [label(best.plain.cell), show(best.plain, measure)] if best.plain else ["missing", "-"]
        row = [str(best.nfe), title(best.lml.cell.sampler), show(best.lml, measure), *plain]
        rows.append([*row, ratio_text(best.change(measure)), ratio_text(compare(reference, best.lml, measure))])
    name = MEASURES[measure]
    header = ["NFE", "calibrated", name, "best plain cell", name, "calibrated / plain, blocks in which it is lower"]
    return table([*header, f"calibrated / best plain cell at {REFERENCE_NFE}"], rows)


def span_text(span: Sequence[int]) -> str:
    """Return a range of evaluations in words."""
    return f"{span[0]} to {span[-1]}" if span[0] != span[-1] else str(span[0])


def _spans(costs: Sequence[int]) -> list[Sequence[int]]:
    """Return the range of few evaluations, that beyond it, and all, as far as there are costs."""
    few = [nfe for nfe in costs if FEW[0] <= nfe <= FEW[1]]
    many = [nfe for nfe in costs if nfe > FEW[1]]
    return [group for group in (few, many, costs) if len(group) > 1]


def _counts(by: str, parts: dict[str, Harm], table: Any) -> str:
    rows = []
    for name, part in parts.items():
        verdicts = [str(part.count(verdict)) for verdict in ("better", "no change", "harmed")]
        middle = ["-" if value is None else number(value) for value in (part.median, part.geometric_mean)]
        highest = number(max(part.ratios)) if part.ratios else "-"
        rows.append([name, str(len(part.effects)), *verdicts, str(len(part.raised)), *middle, highest])
    header = [by, "cells", "better", "no change", "harmed", "mean above 2%, not established"]
    return table([*header, "median ratio", "geometric mean", "highest ratio"], rows)


def _each(names: Any) -> list[str]:
    return list(dict.fromkeys(names))

"""What `lml bench` prints at the end."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from lmlangevin.bench.cells import default_grid, finals_of
from lmlangevin.bench.findings import best_cells
from lmlangevin.bench.harm import calibrated_cells, measure_harm, paired_controls
from lmlangevin.bench.harm_tables import calibrated_table, counts_table
from lmlangevin.bench.results import MEASURES, PartData, read_suite
from lmlangevin.bench.suite import Suite
from lmlangevin.bench.tables import aligned, best_table, gain_text, identity_table, lml_text, noise_table, show
from lmlangevin.schedulers.names import find_scheduler

BIG = 200
"""A part of more cells is cut short in the summary that a terminal shows."""
SUMMARY_NFE = (6, 8, 10)


def summary(suite: Suite, folder: Path) -> str:
    """Return what `lml bench` prints at the end: a table a part, of big parts only the best and the default cells."""
    whole = read_suite(suite, folder)
    out = [suite.title]
    for data in whole.parts:
        measured = len(data.expected) - len(data.missing)
        out.append(f"{data.part.name}: {data.settings['model']}, {data.settings['dtype']}, {data.seeds()}; "
                   f"{measured} of {len(data.expected)} cells measured; mean ± SD over blocks.")  # fmt: skip
        if not data.figures:
            continue
        out += _control_texts(data)
        costs = sorted(data.part.nfe)
        if len(data.expected) > BIG:
            costs = [nfe for nfe in costs if nfe in SUMMARY_NFE] or costs[:3]
        if whole.kind(data) == "noise":
            out += [f"at {nfe} evaluations\n" + noise_table(whole, data, nfe, table=aligned) for nfe in costs]
            continue
        if whole.kind(data) == "control":
            continue
        out.append(_pairs_text(data, costs))
        for flow in sorted({find_scheduler(name).flow for name in data.part.samplers}):
            for measure in data.measures():
                found = best_cells(data, measure, flow=flow)
                if any(best.plain or best.lml for best in found):
                    out.append(best_table(found, measure, table=aligned))
    if whole.identity:
        out.append("The release's formula, which is the identity in exact arithmetic:\n"
                   + identity_table(whole.identity, table=aligned))  # fmt: skip
    return "\n\n".join(out)


def _pairs_text(data: PartData, costs: Sequence[int]) -> str:
    measures = [f"{MEASURES[m]} {arm}" for m in data.measures() for arm in ("plain", "LML")]
    rows = []
    for nfe in costs:
        for pair in data.at(nfe):
            cell, entry = pair.cell, find_scheduler(pair.cell.sampler)
            aside = cell.grid != default_grid(entry) or cell.final != finals_of(entry, data.part.finals)[0]
            if len(data.expected) > BIG and aside:
                continue
            row = [cell.sampler, cell.grid, str(cell.nfe), gain_text(pair)]
            rows.append(row + [t for m in data.measures() for t in (show(pair.plain, m), lml_text(pair, m))])
    return aligned(["sampler", "grid", "NFE", "gain", *measures], rows)


def _control_texts(data: PartData) -> list[str]:
    """Return what the controls of a part make of its cells: a table a control and measure."""
    found = [measure_harm(data, control, measure) for control in paired_controls(data) for measure in data.measures()]
    out = [
        f"{MEASURES[harm.measure]} with the {harm.control} control over plain\n{counts_table(harm, table=aligned)}"
        for harm in found
        if harm.effects
    ]
    return out + [
        f"{MEASURES[measure]} of calibrations\n{calibrated_table(best, measure, table=aligned)}"
        for measure, _, best in calibrated_cells(data)
    ]

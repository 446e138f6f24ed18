"""What the page of a suite says of controls: whether they do harm, their best cells, and calibrations."""

from __future__ import annotations

import math
from collections.abc import Sequence

from lmlangevin.bench import tables
from lmlangevin.bench.findings import Best
from lmlangevin.bench.harm import (
    FEW,
    GOAL,
    LEAST_BLOCKS,
    LEVEL,
    REFERENCE_NFE,
    Harm,
    best_controlled,
    calibrated_cells,
    least_t,
    measure_harm,
    paired_controls,
    reference_cell,
)
from lmlangevin.bench.harm_tables import (
    best_by_sampler_table,
    calibrated_table,
    counts_table,
    effects_table,
    sampler_table,
    span_text,
)
from lmlangevin.bench.results import CLOSE, MEASURES, PartData, SuiteData, compare
from lmlangevin.bench.words import best_words, heading_of, lower_first, pictures, the_model
from lmlangevin.schedulers.names import find_scheduler

LONG = 12
"""A table of more rows is folded away."""

CELLS = f"""\
A cell is a sampler on a time grid at a number of network evaluations (NFE), without a control and with it, on the same
seeds. A control chooses the correction by itself; no gain is given to it. RMSE is the error to the model's converged
solution from the same noise. A cell is **harmed** if its mean RMSE or FD rises by more than {CLOSE:.0%} of the plain
mean, and a one-sided paired t-test over the blocks of seeds still says so after Holm's correction over all cells of the
part, at a level of {LEVEL:g} for each measure. **Better** is the same for a fall. A cell is harmed without a test if
the control alone makes images that are not finite or wild; where the plain sampler itself does, the cell is left out.
Harm that is not established is not harm that is ruled out: cells whose mean rises by more than {CLOSE:.0%} are listed,
established or not."""

READING = """\
- Blocks are disjoint sets of seeds. All cells of a part have the same seeds and are compared block by block.
- The ratio of a cell is the mean with the control over the mean without it. Medians and geometric means are of these
  ratios, each cell counting once.
- A Frechet distance is biased upwards by about 1/N, which draws its ratios towards 1. It compares samplers on one
  model. It is not FID, and no FID of a paper can be compared with it.
- The best cells were picked on the seeds that they are shown on, so they flatter themselves a little, the plain and
  the controlled one alike.
- A calibration was fitted to its model and its number of evaluations beforehand; a control was not. What a calibration
  reaches on its own model says nothing of another one."""


def in_short(data: SuiteData) -> list[str]:
    """Return whether each control does harm in all, and what it does on each model, a line each."""
    lines = []
    for control in dict.fromkeys(name for part in data.controlled for name in paired_controls(part)):
        parts = [part for part in data.controlled if control in paired_controls(part)]
        found = [(part, measure_harm(part, control, m)) for part in parts for m in part.measures()]
        if any(harm.effects for _, harm in found):
            lines.append(overall_words(control, [harm for _, harm in found]))
        lines += [f"On {the_model(part)}: {lower_first(harm_words(harm))}" for part, harm in found if harm.effects]
    for part in data.controlled:
        for measure, flow, found in calibrated_cells(part):
            where = f"On {the_model(part)}{', flow matching' if flow else ''}"
            lines.append(f"{where}: {lower_first(calibrated_words(found, measure))}")
    return lines


def section(data: SuiteData, part: PartData) -> list[str]:
    """Return what a part says of its controls, as paragraphs."""
    out = [f"## {heading_of(part)}: what controls do", f"{part.seeds()}; network in {part.settings['dtype']}."]
    if not part.figures:
        return [*out, "This part was not run yet."]
    if part.settings["blocks"] < LEAST_BLOCKS:
        out.append(f"{part.settings['blocks']} blocks are fewer than the {LEAST_BLOCKS} that a verdict asks for.")
    out += pictures(data, part, harm=True)
    for control in paired_controls(part):
        for measure in part.measures():
            out += _harm(measure_harm(part, control, measure))
        out += _best(part, control)
    return out + _calibrated(part)


def _harm(harm: Harm) -> list[str]:
    name = MEASURES[harm.measure]
    if not harm.effects:
        return []
    out = [f"### {name}, {harm.control} control", harm_words(harm), counts_table(harm), _folded_sampler(harm)]
    listed = (("Harmed cells", harm.failures), (f"Cells whose mean rises by more than {CLOSE:.0%} without that being "
              "established", harm.raised))  # fmt: skip
    for what, effects in listed:
        if effects:
            table = effects_table(effects, harm)
            heading = f"{what}: {len(effects)}"
            out += [tables.folded(heading, table)] if len(effects) > LONG else [f"{heading}.", table]
    if harm.left_out:
        cells = "; ".join(f"{tables.label(f.cell)}, {f.cell.nfe} evaluations" for f in harm.left_out)
        out.append(f"Left out, as the plain sampler itself has images that are not finite or wild: {cells}.")
    return [*out, power_words(harm)]


def _folded_sampler(harm: Harm) -> str:
    return tables.folded("The same by sampler and by grid", sampler_table(harm)) if harm.few.effects else ""


def _best(part: PartData, control: str) -> list[str]:
    out = [f"### The best cells, {control} control"]
    for flow in sorted({find_scheduler(name).flow for name in part.part.samplers}):
        for measure in part.measures():
            found = best_controlled(part, control, measure, flow=flow)
            if any(best.lml for best in found):
                out.append(f"{'Flow matching' if flow else 'Noise-predicting samplers'}, {MEASURES[measure]}:")
                what = f"{control} control"
                out += [tables.best_table(found, measure, what=what), best_words(found, measure, f"the {what}")]
    tables_by = [best_by_sampler_table(part, control, measure) for measure in part.measures()]
    what = "Each sampler on the best of its grids, with the control over without it"
    return [*out, tables.folded(what, "\n\n".join(t for t in tables_by if t))] if len(out) > 1 else []


def _calibrated(part: PartData) -> list[str]:
    out = []
    for measure, flow, found in calibrated_cells(part):
        what = "Flow matching" if flow else "Noise-predicting model"
        out += [f"{what}, {MEASURES[measure]}:", calibrated_table(found, measure), calibrated_words(found, measure)]
    return ["### Calibrations", *out] if out else []


# Sentences that figures choose


def overall_words(control: str, found: Sequence[Harm]) -> str:
    """Return whether a control harms any cell at all."""
    tested = sum(len(harm.effects) for harm in found)
    failures, missing = sum(len(harm.failures) for harm in found), sum(harm.missing for harm in found)
    rest = f"; {missing} more lack a figure yet" if missing else ""
    verdict = f"harms {failures}" if failures else "harms none"
    return f"The {control} control {verdict} of {tested} cells, RMSE and FD counted apart{rest}."


def harm_words(harm: Harm) -> str:
    """Return what a control does to the cells of a part by one measure."""
    tested = len(harm.effects)
    harmed, better, neither = (harm.count(verdict) for verdict in ("harmed", "better", "no change"))
    text = f"By {MEASURES[harm.measure]}, the {harm.control} control does harm in {harmed} and better in {better} of "
    text += f"{tested} cells; in the other {neither} neither is established"
    if harm.raised:
        text += f", though in {len(harm.raised)} of them the mean is more than {CLOSE:.0%} higher"
    if harm.left_out:
        text += f". Left out, as the plain sampler itself breaks: {len(harm.left_out)}"
    text += f". Without a figure yet: {harm.missing}" if harm.missing else ""
    few = harm.few
    if few.median is None:
        return f"{text}."
    text += f". Over the {len(few.effects)} cells of {span_text(FEW)} evaluations the median ratio is "
    text += tables.number(few.median)
    if harm.measure == "rmse":
        text += f", which is {'at most' if few.median <= GOAL else 'above'} the {GOAL:g} that is asked for"
    return f"{text}."


def power_words(harm: Harm) -> str:
    """Return how large a rise has to be to be established among so many cells."""
    tested = [effect for effect in harm.effects if not effect.lost]
    if not tested:
        return ""
    blocks = tested[0].change.blocks
    return (
        f"By itself, without the correction for their number, a test at {LEVEL:g} would call {harm.suspects} of "
        f"{len(tested)} cells harmed; chance alone can do so in about {math.floor(LEVEL * len(tested))}. With {blocks} "
        f"blocks and so many cells, the first rise is established once it exceeds {CLOSE:.0%} by "
        f"{tables.number(least_t(len(tested), blocks))} standard errors."
    )


def calibrated_words(found: Sequence[Best], measure: str) -> str:
    """Return how calibrations compare with the best plain cells of their cost, and of the reference cost."""
    text = best_words(found, measure, "a calibration")
    reference = reference_cell(found)
    if reference is None:
        return text
    enough = [
        best.nfe
        for best in found
        if (change := compare(reference, best.lml, measure)) and change.outcome in ("lower", "close")
    ]
    if not enough:
        return f"{text} No calibration is as low as the best plain cell at {REFERENCE_NFE}."
    return f"{text} A calibration of {min(enough)} evaluations is as low as the best plain cell at {REFERENCE_NFE}."

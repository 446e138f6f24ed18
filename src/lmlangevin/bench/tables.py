"""Figures as text: numbers, names, and tables for a page or a terminal.

What is not there yet is shown as `missing`, what does not apply as `-`, and a value that is not finite as `not finite`.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Literal

from lmlangevin.bench.cells import Cell, default_grid
from lmlangevin.bench.findings import Best, Census, Order, dtype_rows, noise_rows
from lmlangevin.bench.release import Deviation
from lmlangevin.bench.results import MEASURES, Change, Figures, Outcome, Pair, PartData, SuiteData
from lmlangevin.schedulers.names import find_scheduler

# Numbers and words


def number(value: float, *, like: float | None = None) -> str:
    """Return a number to three significant digits; with `like`, to as many decimals as that number has."""
    scale = abs(value if like is None else like)
    if scale == 0 or not math.isfinite(value):
        return f"{value:g}"
    exponent = math.floor(math.log10(float(f"{scale:.2e}")))
    if not -4 <= exponent <= 3:
        return f"{value:.2e}"
    return f"{value:.{max(0, 2 - exponent)}f}"


def with_sd(values: Sequence[float]) -> str:
    """Return mean ± standard deviation of block values."""
    centre, sd = statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else 0.0
    return f"{number(centre, like=max(abs(centre), sd))} ± {number(sd, like=max(abs(centre), sd))}"


def cosine(value: float) -> str:
    """Return a cosine to two decimals, 0 without a sign."""
    return f"{round(value, 2) + 0.0:.2f}"


def show(figures: Figures | None, measure: str, *, sd: bool = True) -> str:
    """Return a cell's value as text."""
    if figures is None:
        return "missing"
    if figures.raw(measure) is None:
        return "-"
    values = figures.blocks(measure)
    if values is None:
        return "not finite"
    return with_sd(values) if sd else number(statistics.fmean(values))


def median_text(figures: Figures | None) -> str:
    """Return the median image's error as text."""
    if figures is None:
        return "missing"
    return "-" if figures.rmse_median is None else number(figures.rmse_median)


def broken_text(figures: Figures | None) -> str:
    """Return how many images are not finite and how many are wild."""
    return "missing" if figures is None else f"{figures.non_finite} + {figures.wild}"


def title(sampler: str) -> str:
    """Return how people write a sampler's name."""
    return find_scheduler(sampler).title


def label(cell: Cell) -> str:
    """Return a cell's sampler, grid, final and gain; its cost stands elsewhere."""
    final = ", ending at the smallest sigma" if cell.final == "min" else ""
    return f"{title(cell.sampler)}, {cell.grid}{final}" + (f", gain {cell.gain:g}" if cell.gain else "")


def gain_text(pair: Pair) -> str:
    """Return what the preset of a pair is."""
    if pair.gain is None:
        return "none" if find_scheduler(pair.cell.sampler).takes_lml else "no LML"
    return f"{pair.gain:g}"


def arm_text(arm: str) -> str:
    """Return an arm of a part of injected noise in words."""
    kind, _, value = arm.partition("=")
    if kind == "release":
        dtype, _, damping = value.partition("@")
        return f"release, {dtype}, {f'lambda {float(damping):g}' if damping else 'lambda of its README'}"
    return {"plain": "plain", "preset": "LML, preset", "gain": f"LML, gain {value}"}.get(kind, arm)


def markdown(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a Markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(line) + " |" if line[0] != "---" else "|---" * len(line) + "|" for line in lines)


def aligned(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table for a terminal."""
    table = [list(header), *(list(row) for row in rows)]
    widths = [max(len(row[k]) for row in table) for k in range(len(header))]
    return "\n".join("  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)).rstrip() for row in table)


def folded(what: str, body: str) -> str:
    """Return text that a page hides behind a line until it is asked for."""
    return f"<details><summary>{what}</summary>\n\n{body}\n\n</details>"


# Tables


def best_table(found: Sequence[Best], measure: str, *, what: str = "LML", table: Any = markdown) -> str:
    """The best plain cell against the best cell with LML of each cost, or with another thing that `what` names."""
    name = MEASURES[measure]
    rows = []
    for best in found:
        change = best.change(measure)
        row = [str(best.nfe)]
        for f in (best.plain, best.lml):
            row += [label(f.cell) + _at(f.cell, best.nfe), show(f, measure)] if f else ["missing", "-"]
        rows.append([*row, ratio_text(change)])
    header = ["NFE", "best plain cell", name, f"best cell with {what}", name]
    return table([*header, f"{what} / plain, blocks in which it is lower"], rows)


def ratio_text(change: Change | None) -> str:
    """Return the ratio of a change, and in how many blocks the second is lower."""
    if change is None or change.ratio is None:
        return "-"
    return f"{number(change.ratio)}, {change.lower} of {change.blocks}"


def curve_table(data: PartData, measure: str, *, table: Any = markdown) -> str:
    """Every sampler on its default and its best grid over the costs, plain and with LML: means of the blocks."""
    costs = sorted(data.part.nfe)
    rows = []
    for sampler in data.part.samplers:
        stochastic = find_scheduler(sampler).stochastic
        for grid, curve in data.curves(sampler).items() if not (measure == "rmse" and stochastic) else ():
            words = [w for w, g in (("default", default_grid(find_scheduler(sampler))), ("best", data.best[sampler]))
                     if g == grid]  # fmt: skip
            gain = next(iter(curve.values())).gain
            what = {None: f"plain ({gain_text(next(iter(curve.values())))})", 0: "plain, and LML: gain 0"}
            head = [title(sampler), f"{grid} ({' and '.join(words)})", what.get(gain, "plain")]
            rows.append([*head, *(_value(curve.get(nfe), nfe, measure, lml=False) for nfe in costs)])
            if gain:
                rows.append(["", "", f"LML, {gain:g}", *(_value(curve.get(n), n, measure, lml=True) for n in costs)])
    return table(["sampler", "grid", MEASURES[measure], *map(str, costs)], rows)


def matrix_table(data: PartData, nfe: int) -> str:
    """Every cell at one nominal cost."""
    measures = data.measures()
    header = ["sampler", "grid", "ends at", "NFE", "gain"]
    header += ["RMSE of the ends alone"] if data.record.get("ends") else []
    header += [f"{MEASURES[m]} {arm}" for m in measures for arm in ("plain", "LML")]
    rows = []
    for pair in data.at(nfe):
        cell = pair.cell
        row = [title(cell.sampler), cell.grid, {"min": "smallest sigma", "zero": "0"}.get(cell.final, "-")]
        row += [str(cell.nfe), gain_text(pair)]
        row += ["-" if pair.ends is None else number(pair.ends)] if data.record.get("ends") else []
        for measure in measures:
            row += [show(pair.plain, measure), lml_text(pair, measure)]
        rows.append(row)
    return markdown(header, rows)


def census_table(whole: Census, by: Literal["NFE", "sampler"]) -> str:
    """The census, taken apart by cost or by sampler."""
    groups: dict[Any, str] = {}
    for pair, _ in whole.changes:
        groups[pair.cell.nfe if by == "NFE" else pair.cell.sampler] = (
            str(pair.cell.nfe) if by == "NFE" else title(pair.cell.sampler)
        )
    rows = []
    for key in sorted(groups) if by == "NFE" else groups:
        part = whole.where(lambda p, key=key: key in (p.cell.nfe, p.cell.sampler))
        outcomes: tuple[Outcome, ...] = ("lower", "close", "spread", "higher", "lost", "diverges")
        median = number(statistics.median(part.ratios)) if part.ratios else "-"
        rows.append([groups[key], *(str(part.count(outcome)) for outcome in outcomes), median])
    header = ["lower", "within 2%", "blocks disagree", "higher", "LML alone diverges", "plain diverges", "median ratio"]
    return markdown([by, *header], rows)


def harmed_table(whole: Census) -> str:
    """Every cell that LML makes more than 2% worse, worst first."""
    rows = []
    for pair, change in whole.harmed:
        ratio = number(change.ratio) if change.ratio is not None else "LML diverges"
        blocks = f"{change.higher} of {change.blocks}" if change.blocks else "-"
        rows.append([label(pair.cell), f"{pair.gain:g}", str(pair.cell.nfe), show(pair.plain, whole.measure),
                     show(pair.lml, whole.measure), ratio, blocks])  # fmt: skip
    name = MEASURES[whole.measure]
    return markdown(["cell", "gain", "NFE", f"{name} plain", f"{name} LML", "LML / plain", "blocks worse"], rows)


def order_table(found: Sequence[Order]) -> str:
    """The measured orders of convergence, plain and with LML."""
    rows = []
    for order in found:
        row = [title(order.sampler), order.grid, ", ".join(map(str, order.nfe))]
        for slope in (order.plain, order.lml):
            row += ["-", "-"] if slope is None else [f"{slope.median:.2f}", with_sd(slope.blocks)]
        rows.append(row)
    header = ["sampler", "grid", "fitted over", "plain, median image", "plain, RMSE of blocks"]
    return markdown([*header, "with LML, median image", "with LML, RMSE of blocks"], rows)


def noise_table(suite: SuiteData, data: PartData, nfe: int, *, table: Any = markdown) -> str:
    """All arms of a part of injected noise at one cost, with what a mean hides."""
    rows = []
    for (sampler, grid, arm), row in noise_rows(suite, data).items():
        figures = row.get(nfe)
        median = figures.rmse_median if figures else None
        rows.append([title(sampler), grid, arm_text(arm), show(figures, "fd"), show(figures, "rmse"),
                     "-" if median is None else number(median),
                     *(("-", "-") if figures is None else (str(figures.non_finite), str(figures.wild)))])  # fmt: skip
    header = ["sampler", "grid", "arm", "FD", "RMSE", "median image's RMSE", "images not finite", "wild images"]
    return table(header, rows)


def noise_curve_table(suite: SuiteData, data: PartData, text: Callable[[Figures | None], str], skip: str = "") -> str:
    """All arms of a part of injected noise over the costs.

    Args:
        suite: What was measured.
        data: The part.
        text: What of a cell is shown.
        skip: Rows that hold nothing else are left out.

    Returns:
        The table; empty if no row is left.
    """
    costs = sorted(data.part.nfe)
    rows = []
    for (sampler, grid, arm), row in noise_rows(suite, data).items():
        texts = [text(row.get(nfe)) for nfe in costs]
        rows += [[title(sampler), grid, arm_text(arm), *texts]] if set(texts) != {skip} else []
    return markdown(["sampler", "grid", "arm", *map(str, costs)], rows) if rows else ""


def identity_table(rows: Sequence[Deviation], *, table: Any = markdown) -> str:
    """How far the release's formula, which is the identity in exact arithmetic, is from it."""

    def shown(value: float | None) -> str:
        return "-" if value is None else number(value)

    lines = []
    for r in rows:
        lines.append([r.dtype, str(r.size), f"{r.damping:g}", shown(r.deviation), shown(r.spread), f"{r.nan_share:.1%}",
                      "-" if r.agreement is None else cosine(r.agreement)])  # fmt: skip
    header = ["precision", "elements", "lambda", "deviation from n", "SD over samples", "not finite", "direction"]
    return table(header, lines)


def dtype_table(data: PartData, other: PartData) -> str:
    """The same cells on the same seeds in two dtypes."""
    rows = []
    for first, second, change in dtype_rows(data, other):
        a, b = first.blocks("fd") or (), second.blocks("fd") or ()
        change_text = with_sd([y - x for x, y in zip(a, b, strict=True)])
        ratio = "-" if change.ratio is None else f"{change.ratio - 1:+.2%}"
        cell = first.cell
        rows.append([label(cell), str(cell.nfe), show(first, "fd"), show(second, "fd"), change_text, ratio])
    dtypes = [f"FD {d.settings['dtype']}" for d in (other, data)]
    return markdown(["cell", "NFE", *dtypes, "difference in blocks", "of the mean"], rows)


def headline_table(data: PartData) -> str:
    """Every sampler of the headline part: blocks, paired difference, and all images together."""
    images = data.settings["blocks"] * data.settings["images"]
    rows = []
    for pair in data.pairs:
        change = pair.change("fd")
        difference = "-"
        if change and change.difference is not None and change.sd is not None:
            like = max(abs(change.difference), change.sd)
            difference = f"{number(change.difference, like=like)} ± {number(change.sd, like=like)}"
            difference += f", lower in {change.lower} of {change.blocks}"
        difference = "unchanged" if pair.gain == 0 and pair.plain else difference
        everything = [f.fd_all if f else None for f in (pair.plain, pair.lml)]
        rows.append([title(pair.cell.sampler), pair.cell.grid, str(pair.cell.nfe), gain_text(pair),
                     show(pair.plain, "fd"), lml_text(pair, "fd"), difference,
                     *("-" if value is None else number(value) for value in everything)])  # fmt: skip
    sizes = [f"FD of all {images} {arm}" for arm in ("plain", "LML")]
    return markdown(["sampler", "grid", "NFE", "gain", "FD plain", "FD LML", "LML - plain in blocks", *sizes], rows)


def lml_text(pair: Pair, measure: str) -> str:
    """Return a pair's value with LML as text."""
    if pair.gain is None:
        return "-"
    return "= plain" if pair.gain == 0 and pair.plain is not None else show(pair.lml, measure)


def _value(pair: Pair | None, nfe: int, measure: str, *, lml: bool) -> str:
    if pair is None:
        return "-"
    return show(pair.lml if lml else pair.plain, measure, sd=False) + _at(pair.cell, nfe)


def _at(cell: Cell, nfe: int) -> str:
    """Say what a cell costs where that is not the nominal cost."""
    return "" if cell.nfe == nfe else f" (at {cell.nfe})"

"""Sentences that figures choose: other results give other words."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence

from lmlangevin.bench.figures import Planned, images_folder, planned, slope_range
from lmlangevin.bench.findings import Best, Census, against_plain, difference, lowest, noise_rows, orders
from lmlangevin.bench.image_rows import IMAGE_NFE
from lmlangevin.bench.release import Deviation
from lmlangevin.bench.results import CLOSE, MEASURES, Change, PartData, SuiteData, compare
from lmlangevin.bench.suite import MIXTURE
from lmlangevin.bench.tables import arm_text, cosine, label, number, show, title

SAME = 1e-3
"""Block values that differ by less than this share are the same to three digits or more."""
RANDOM = 0.05
"""A mean cosine that is nearer to 0 than this is that of no direction."""

ROUNDING = """\
The same formula with the same lambda changes nothing in float64, so what it changes in float32 is rounding error:
noise that is injected at every step."""


def the_model(part: PartData) -> str:
    """Return what a part's model is called in a sentence."""
    name = str(part.settings["model"])
    if name.startswith(MIXTURE):
        return f"the mixture {name.removeprefix(MIXTURE)}"
    return "the analytic model" if name.startswith("analytic") else "the network"


def heading_of(part: PartData) -> str:
    """Return what a part's model is called in a heading."""
    name = the_model(part).removeprefix("the ")
    return name[0].upper() + name[1:]


def lower_first(text: str) -> str:
    """Return a sentence as it stands behind a colon."""
    return text[0].lower() + text[1:]


def outcome_words(changes: Sequence[Change]) -> str:
    """Return how many changes have which outcome; those of cells whose plain sampler diverges are not judged."""
    words = {
        "lower": "lower in",
        "higher": "higher in",
        "close": "within 2% in",
        "spread": "within the spread of the blocks in",
        "lost": "lost to images that are not finite or wild in",
    }
    counts = {key: sum(change.outcome == key for change in changes) for key in words}
    texts = [f"{words[key]} {count}" for key, count in counts.items() if count or key in ("lower", "higher")]
    return f"{', '.join(texts)} of {sum(counts.values())} cells"


def census_words(found: Census) -> str:
    """Return what LML does to the cells of a census in a sentence."""
    name = MEASURES[found.measure]
    if not found.changes:
        return f"No cell with a preset other than 0 has its {name} yet."
    text = f"with LML, {name} is {outcome_words([change for _, change in found.changes])}"
    if found.ratios:
        text += f"; the median of LML over plain is {number(statistics.median(found.ratios))}"
    if found.worst is not None:
        pair, change = found.worst
        worst = f"{label(pair.cell)}, {pair.cell.nfe} evaluations"
        text += f", the highest {number(change.ratio or 0)} ({worst})"
    if diverging := found.count("diverges"):
        text += f"; in {diverging} more the plain sampler itself has images that are not finite or wild"
    return text[0].upper() + text[1:] + "."


def best_words(found: Sequence[Best], measure: str, what: str = "LML") -> str:
    """Return whether the best cell with LML (or `what`) or the best plain cell is ahead, and at how many costs."""
    changes = [change for best in found if (change := best.change(measure)) is not None]
    if not changes:
        return ""
    lower, higher = (sum(change.outcome == word for change in changes) for word in ("lower", "higher"))
    rest = len(changes) - lower - higher
    text = (
        f"By {MEASURES[measure]}, the best cell with {what} is below the best plain cell at {lower} of {len(changes)} "
    )
    text += f"costs and above it at {higher}"
    text += f"; at {rest} the two are within 2% or within the spread of the blocks" if rest else ""
    verdict = "neither is ahead at more costs than the other"
    if lower != higher:
        ahead = f"a cell with {what}" if lower > higher else "a plain sampler on a good grid"
        verdict = f"{ahead} is ahead at {'most' if 2 * max(lower, higher) > len(changes) else 'more'} costs"
    return f"{text}: {verdict}."


def kept_words(part: PartData, found: Sequence[Best]) -> str:
    """Return at how many costs LML leaves the best plain cell as it is."""
    gains = {pair.cell: pair.gain for pair in part.pairs}
    presets = [gains.get(best.plain.cell) for best in found if best.plain]
    if not presets.count(0):
        return ""
    return (
        f"The preset of the best plain cell is 0 at {presets.count(0)} of {len(presets)} costs: LML leaves it as it is."
    )


def lever_words(found: tuple[float, float] | None, nfe: int, measure: str) -> str:
    """Return whether the grid or the solver matters more."""
    if found is None:
        return ""
    grids, solvers = found
    word = "about as much as"
    if not 1 / 1.1 < grids / solvers < 1.1:
        word = "more than" if grids > solvers else "less than"
    return (
        f"At {nfe} evaluations the worst time grid of a plain solver has {number(grids)} times the "
        f"{MEASURES[measure]} of its best one, and the worst solver on a grid {number(solvers)} times that of "
        f"the best one (medians): the grid matters {word} the solver."
    )


def same_words(worst: float) -> str:
    """Return how near two sets of figures are."""
    if worst == 0:
        return "equal to the plain sampler's in every recorded digit"
    if worst < SAME:
        return f"the plain sampler's to {math.floor(-math.log10(worst))} digits or more"
    if worst <= CLOSE:
        return f"the plain sampler's but for differences of up to {worst:.2%}"
    return f"not the plain sampler's: they differ by up to {worst:.1%}"


def change_words(change: Change | None) -> str:
    """Return a change in a few words."""
    words = {"lower": "lower in every block", "higher": "higher in every block", "close": "within 2%",
             "spread": "within the spread of the blocks", "lost": "lost to images that are not finite or wild",
             "diverges": "not judged, as the other has images that are not finite or wild"}  # fmt: skip
    return "not measured" if change is None else words[change.outcome]


def identity_words(rows: Sequence[Deviation]) -> str:
    """Return what the deviations of the release's formula say, a line a precision."""
    out = []
    for dtype in dict.fromkeys(row.dtype for row in rows):
        chosen = [row for row in rows if row.dtype == dtype]
        sizes = [row.deviation for row in chosen if row.deviation is not None]
        cosines = [row.agreement for row in chosen if row.agreement is not None]
        text = f"In {dtype} no result is finite"
        if sizes:
            low, high = number(min(sizes)), number(max(sizes))
            text = f"In {dtype} the deviation is {low if low == high else f'{low} to {high}'}"
        if cosines:
            way = "random" if max(map(abs, cosines)) < RANDOM else "not always random"
            low, high = cosine(min(cosines)), cosine(max(cosines))
            text += f", and its direction is {way} (mean cosine {low if low == high else f'{low} to {high}'})"
        if sizes and (worst := max(row.nan_share for row in chosen)):
            text += f"; up to {worst:.1%} of samples are not finite"
        by_size: dict[int, list[tuple[float, float]]] = {}
        for row in chosen:
            if row.deviation is not None:
                by_size.setdefault(row.size, []).append((row.damping, row.deviation))
        ordered = [[d for _, d in sorted(each)] for each in by_size.values() if len(each) > 1]
        if ordered and all(each == sorted(each, reverse=True) and each[0] > each[-1] for each in ordered):
            text += "; it grows as lambda falls"
        out.append(f"- {text}.")
    return "\n".join(out)


def headline_words(part: PartData) -> str:
    """Return how the best cell with LML compares with the best plain one."""
    plain = lowest((p.plain for p in part.pairs), "fd")
    lml = lowest((p.lml for p in part.pairs if p.gain), "fd")
    if plain is None or lml is None:
        return ""
    change = compare(plain, lml, "fd")
    blocks = ""
    if change and change.difference is not None and change.sd is not None:
        like = max(abs(change.difference), change.sd)
        paired = f"{number(change.difference, like=like)} ± {number(change.sd, like=like)}"
        blocks = f" ({paired} block by block, lower in {change.lower} of {change.blocks})"
    return (
        f"Over {part.settings['blocks']} blocks of {part.settings['images']} images, the best plain cell is "
        f"{label(plain.cell)} at {plain.cell.nfe} evaluations (FD {show(plain, 'fd')}), and the best "
        f"with LML is {label(lml.cell)} at {lml.cell.nfe} (FD {show(lml, 'fd')}): "
        f"{change_words(change)}{blocks}."
    )


def release_words(data: SuiteData, part: PartData) -> str:
    """Return what the release does in float64 and in float32, against the plain sampler on the same seeds."""
    texts = []
    exact, rough = (against_plain(data, part, f"release={dtype}") for dtype in ("float64", "float32"))
    worst = difference(exact)
    if worst is not None:
        texts.append(f"in float64, RMSE and FD are {same_words(worst)} ({len(exact)} cells)")
    for measure in part.measures():
        changes = [change for pair in rough if (change := compare(*pair, measure, rest=True))]
        texts += [f"in float32, {MEASURES[measure]} is {outcome_words(changes)}"] if changes else []
    if broken := [f for _, f in rough if f.broken]:
        images = part.settings["blocks"] * part.settings["images"]
        worst = max((f.non_finite + f.wild) / images for f in broken)
        texts.append(
            f"{len(broken)} float32 cells have images that are not finite (left out of FD and RMSE) or wild (left in), "
            f"up to {worst:.2%} of a cell"
        )
    if not texts:
        return ""
    return f"The release on {the_model(part)}, against the plain sampler: {'; '.join(texts)}."


def rounding_words(data: SuiteData, part: PartData) -> str:
    """Return what follows for the release, as far as the figures allow it."""
    exact, rough = (against_plain(data, part, f"release={dtype}") for dtype in ("float64", "float32"))
    same, other = difference(exact), difference(rough)
    acts = any(f.broken for _, f in rough) or (other or 0) > CLOSE
    text = ROUNDING if same is not None and same < SAME and acts else ""
    changes = [[compare(*pair, measure, rest=True) for measure in ("fd", "rmse")] for pair in rough]
    opposed = sum(bool(fd and rmse and (fd.outcome, rmse.outcome) == ("lower", "higher")) for fd, rmse in changes)
    if opposed:
        text += (
            f" In {opposed} of {len(changes)} float32 cells FD is lower and RMSE higher: noise can widen a "
            "distribution that is too narrow, which a Frechet distance rewards, while samples move away from their own "
            "solutions."
        )
    return text.strip()


def eta_words(data: SuiteData, part: PartData, nfe: int) -> str:
    """Return how the best eta compares with the release in float32, and LML beside them, a line a sampler and grid."""
    texts = []
    rows = noise_rows(data, part)
    for sampler, grid in dict.fromkeys(key[:2] for key in rows):
        arms = {arm: f for (s, g, arm), row in rows.items() if (s, g) == (sampler, grid) and (f := row.get(nfe))}
        scored = [(fd, arm) for arm, f in arms.items() if (fd := f.mean("fd")) is not None]
        eta = min(((fd, arm) for fd, arm in scored if arm.startswith("eta")), default=(0.0, ""))[1]
        rough = min(((fd, arm) for fd, arm in scored if arm.startswith("release=float32")), default=(0.0, ""))[1]
        if not eta or not rough:
            continue
        change = compare(arms[rough], arms[eta], "fd", rest=True)
        lml = f"; LML has {show(arms['preset'], 'fd')}" if "preset" in arms else ""
        texts.append(
            f"- {title(sampler)}, {grid}: the release in float32 has an FD of "
            f"{show(arms[rough], 'fd')} ({arm_text(rough)}), the best eta "
            f"{show(arms[eta], 'fd')} ({eta}: {change_words(change)}){lml}."
        )
    return "\n".join(texts)


def pictures(data: SuiteData, part: PartData, *, harm: bool = False) -> list[str]:
    """Return the figures of a part, each with its caption: those of controls, or all others."""
    plans = [plan for plan in planned(data) if plan.data is part and (plan.kind == "harm") == harm]
    folder = images_folder(data)
    return [text for plan in plans for text in (f"![{alt(plan)}]({folder}/{plan.name})", f"*{caption(plan)}*")]


def alt(plan: Planned) -> str:
    """Return what a figure shows, for those who cannot see it."""
    what = {
        "best": "FD and RMSE over evaluations, each sampler on its best plain grid",
        "default": "FD and RMSE over evaluations, each sampler on its default grid",
        "order": "Error to the converged solution over evaluations, with fitted slopes",
        "release": "The paper's release, injected noise and LML over evaluations",
        "images": "Images of equal seeds: plain samplers, the same with LML, and the converged solution",
    }
    if plan.kind == "harm":
        measures = " and ".join(MEASURES[name] for name in plan.data.measures())
        return f"{measures} with the {plan.control} control over plain, every cell; {the_model(plan.data)}"
    return f"{what[plan.kind]}; {the_model(plan.data)}"


def caption(plan: Planned) -> str:
    """Return how a figure is to be read."""
    bands = "Bands reach from the lowest to the highest block."
    if plan.kind == "order":
        slopes = slope_range(orders(plan.data))
        return f"Slopes are fitted {slopes}; the thin grey lines have the slopes 1, 2 and 3."
    if plan.kind == "release":
        return f"Default grids. Crosses are the release in float64. {bands}"
    if plan.kind == "harm":
        return (
            "Blue cells are lower with the control, red ones higher; 1 is a cell that it leaves untouched. Harmed "
            "cells have a thick outline, cells whose mean is more than 2% higher without that being established a "
            "dotted one. Hatched cells are left out: the plain sampler itself has images that are not finite or wild."
        )
    if plan.kind == "images":
        return (
            f"{IMAGE_NFE} network evaluations, default grids, the part's first seeds; the samplers with the largest "
            "gains. FD is that of the tables."
        )
    grid = "best plain" if plan.kind == "best" else "default"
    return (
        f"The {grid} grid of each sampler: plain to the left, with LML to the right where the gain is not 0, each "
        "beside a thin line of the same sampler without it. The wide grey line is the best plain cell of any "
        "noise-predicting sampler on any grid, the dotted one the converged solution. "
        f"{bands} Cells with images that are not finite or wild are left out."
    )

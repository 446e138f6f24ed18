"""The page of a suite: text, tables and figures, all from its result files.

A sentence that states a direction is chosen by the figures that it is about: other results give another sentence.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from lmlangevin.bench import findings, harm_page, tables
from lmlangevin.bench.cells import Cell, default_grid
from lmlangevin.bench.figures import images_folder, write_figures
from lmlangevin.bench.findings import Census
from lmlangevin.bench.models import CONVERGED, REFERENCE_SAMPLES, RUNGE_KUTTA_STEPS
from lmlangevin.bench.release import PUBLISHED_ELSEWHERE, PUBLISHED_LAMBDAS
from lmlangevin.bench.results import MEASURES, Figures, PartData, SuiteData, read_suite
from lmlangevin.bench.runner import BEST_GRID_NFE, WILD
from lmlangevin.bench.suite import MIXTURE, Suite
from lmlangevin.bench.words import (
    best_words,
    census_words,
    eta_words,
    heading_of,
    headline_words,
    identity_words,
    kept_words,
    lever_words,
    lower_first,
    pictures,
    release_words,
    rounding_words,
    the_model,
)
from lmlangevin.files import write_text
from lmlangevin.schedulers.names import find_scheduler

NFE = 8
"""The cost that single tables and sentences are about, where a part has it."""
LONG = 8
"""A table of more rows is folded away."""

MODELS = {
    "analytic-cifar10": f"""\
`analytic-cifar10` is a Gaussian mixture fitted to CIFAR-10 (from JPEG-encoded images). Its score is exact, and so is
the converged solution, by {RUNGE_KUTTA_STEPS} Runge-Kutta steps. FD compares random convolutional features with those
of {REFERENCE_SAMPLES} exact samples.""",
    "embedded": f"""\
`embedded` is the small CIFAR-10 network that comes with the package. FD compares the features of the package's
classifier with those of the CIFAR-10 training set, which was JPEG-encoded. Its converged solution is
{tables.title(CONVERGED.sampler)} on the {CONVERGED.grid} grid at {CONVERGED.nfe} evaluations: close to the limit, and
not the limit itself.""",
}

CELLS = """\
A cell is a sampler on a time grid at a number of network evaluations (NFE), plain or with the package's preset gain.
The presets were chosen on the same two models, at 5 to 20 evaluations, on other seeds: the seeds here are new to
them, the models are not. RMSE is the error to the model's converged solution from the same noise; a sampler that
draws noise has none. Heun costs odd numbers of evaluations only: at an even one the nearest lower cost is shown, with
that cost beside it."""

RELEASE = f"""\
The low-rank damped direction of Wang et al. (ICCV 2025, [arXiv:2505.24222](https://arxiv.org/abs/2505.24222)) is what
this package computes, and the idea is theirs. Their released scripts set kappa = 0. The factor b then is the
prediction n itself, the solve returns a multiple of n, and once the norm is restored nothing has happened, in exact
arithmetic. The paper's own runs may have used another kappa; no text that we can read says so. What follows is about
the release as it is, with the lambdas that its README calls optimal for CIFAR-10: {max(PUBLISHED_LAMBDAS.values()):g}
at {min(n for n, v in PUBLISHED_LAMBDAS.items() if v == max(PUBLISHED_LAMBDAS.values()))} evaluations, down to
{PUBLISHED_LAMBDAS[max(PUBLISHED_LAMBDAS)]:g} at {max(PUBLISHED_LAMBDAS)}
({", ".join(f"{value:g} for {what}" for what, value in PUBLISHED_ELSEWHERE.items())})."""

FORMULA = """\
**The formula by itself**, on standard-normal predictions. The deviation is ||d - n|| / ||n||, which would be 0, and is
1.41 for a d that has nothing to do with n. The direction is the mean cosine between the deviation of a prediction and
that of the same prediction made 3% longer, each without its part along its n: 1 for a correction that follows the
prediction, 0 for a random one."""

NOISE = f"""\
What noise does by itself, beside the release and LML. DDIM's `eta` adds fresh noise at every step, on purpose and in
a known amount. With it there is no converged solution to compare with, so no RMSE. Wild images are finite and reach
beyond ±{WILD:g}, where an image has ±1."""

READING = f"""\
- Blocks are disjoint sets of seeds. All cells of a part have the same seeds and are compared block by block. The SD
  is that of one block's value. Three blocks agree by chance once in four times.
- A Frechet distance is biased upwards by about 1/N. Values of different N are never compared here, and the converged
  solution's own value says where the floor is.
- FD is in small feature spaces. It compares samplers on one model. It is not FID, whose features are Inception's, and
  no FID of a paper can be compared with it.
- The time grid is part of a cell. The default grid is what a user of diffusers gets without asking. The best grid has
  the lowest geometric mean of the plain sampler's RMSE (FD for samplers that draw noise) at
  {", ".join(map(str, BEST_GRID_NFE))} evaluations.
- In runs of fewer than 15 steps, diffusers' DPM-Solvers and DEIS lower their order at the end. Some curves jump there.
- RMSE says how near a sampler comes to what it approximates, FD how near its images are to the data. They can
  disagree: a model's converged images are not the data."""

CENSUS = """\
All cells whose preset is not 0, on every grid. A cell counts as lower or higher only if the mean changes by more than
2% and every block of seeds agrees."""

ENDS = """\
"RMSE of the ends alone" is the error of the exact solution that starts and ends where the grid does. A grid that
starts below the last timestep or ends above sigma 0 pays it however fine its steps are."""

ORDER = """\
The slope of log error over log evaluations, on the best plain grid: of the median image, and of the RMSE of each block
of seeds. A few images that end in another place can carry the RMSE and not the median. A slope that falls short of a
solver's order can also mean that the error of the grid's ends is reached."""


def write_page(suite: Suite, folder: Path, page: Path) -> Path:
    """Write a suite's page and its figures.

    Args:
        suite: The suite.
        folder: Where its result files are; parts that are missing are named on the page.
        page: The Markdown file. Figures go into a folder beside it, `images_folder`.

    Returns:
        The page's path.

    Raises:
        LMLError: If a file is no result file, or matplotlib is not installed.
    """
    text = render_page(suite, folder)
    data = read_suite(suite, folder)
    write_figures(data, page.parent / images_folder(data))
    write_text(page, text)
    return page


def render_page(suite: Suite, folder: Path) -> str:
    """Return the page's text. It depends on the result files and the presets alone.

    Raises:
        LMLError: If a file is no result file.
    """
    data = read_suite(suite, folder)
    sections = [_head(data), _what_was_run(data), _in_short(data), *(_headline(part) for part in data.of("headline"))]
    sections += [_matrix(data, part) for part in data.of("matrix")]
    sections += [harm_page.section(data, part) for part in data.controlled]
    sections += [_release(data), _noise(data), *(_dtype(data, part) for part in data.of("dtype")), _limits(data)]
    reading = harm_page.READING if data.controls_alone else READING
    sections += [["## How to read the figures", reading], _again(data)]
    return "\n\n".join(block for section in sections for block in section if block) + "\n"


# Sections: lists of paragraphs, empty where there is nothing to say


def _head(data: SuiteData) -> list[str]:
    return [
        "# Do no harm" if data.controls_alone else "# Benchmarks",
        f"{data.suite.title}. Every result on this page is computed from the result files that `lml bench --suite "
        f"{data.suite.name}` writes, and chooses the sentences about it; none is typed in by hand.",
    ]


def _what_was_run(data: SuiteData) -> list[str]:
    rows, missing = [], []
    for part in data.parts:
        expected, absent = len(part.expected), len(part.missing)
        row = [f"`{data.suite.name}-{part.part.name}.json`"]
        row += [str(part.settings["model"]), str(part.settings["dtype"]), part.seeds()]
        row += [", ".join(map(str, sorted(part.part.nfe))), ", ".join(MEASURES[name] for name in part.measures())]
        rows.append([*row, f"{expected - absent} of {expected}"])
        if absent:
            what = f"{absent} of {expected} cells are missing" if part.record else "there is no result file yet"
            missing.append(f"- {part.part.name}: {what}.")
    if data.suite.identity is not None and not data.identity:
        missing.append("- identity: there is no result file yet.")
    out = ["## What was run"]
    if rows:
        header = ["result file", "model", "network in", "seeds", "evaluations", "measures", "cells measured"]
        out.append(tables.markdown(header, rows))
    if missing:
        out += ["**This page is not complete.** Its tables show what is there.", "\n".join(missing)]
    out += dict.fromkeys(_model_text(part) for part in data.parts)
    out += [] if data.controls_alone else [CELLS]
    out += [harm_page.CELLS] if data.controlled else []
    records = [part.record for part in data.parts if part.record] + ([data.identity_record] if data.identity else [])
    commands = dict.fromkeys(f"`{record['command']}`" for record in records)
    versions = dict.fromkeys(
        ", ".join(f"{name} {version}" for name, version in each.items())
        for record in records
        for each in (*record.get("earlier_versions", []), record["versions"])
        if each
    )
    if records:
        out.append(f"Made by {', '.join(commands)}, with {'; and with '.join(versions)}.")
    return out


def _in_short(data: SuiteData) -> list[str]:
    lines = harm_page.in_short(data) + [headline_words(part) for part in data.of("headline")]
    for part in data.of("matrix"):
        nfe, model = _nfe(part), f"On {the_model(part)}"
        for measure in part.measures():
            if words := best_words(findings.best_cells(part, measure), measure):
                lines.append(f"{model}, over the grids that were run: {lower_first(words)}")
        for measure in part.measures():
            default = _presets(part, measure).where(lambda p, n=nfe: _is_default(p.cell) and p.cell.nfe == n)
            if default.changes:
                lines.append(f"{model}, default grids, {nfe} evaluations: {lower_first(census_words(default))}")
    lines += [release_words(data, part) for part in data.of("noise")]
    lines = [line for line in lines if line]
    return ["## In short", "\n".join(f"- {line}" for line in lines)] if lines else []


def _headline(part: PartData) -> list[str]:
    s = part.settings
    out = ["## The headline", f"{part.seeds()}; {the_model(part)}, in {s['dtype']}. Mean ± SD over the blocks."]
    if not part.figures:
        return [*out, "This part was not run yet."]
    sizes = (
        f"FD of a block is of {s['images']} images, the last two columns are of all {s['blocks'] * s['images']}. FD "
        "falls as the number of images grows, so values of the two kinds cannot be compared."
    )
    return [*out, tables.headline_table(part), headline_words(part), sizes]


def _matrix(data: SuiteData, part: PartData) -> list[str]:
    heading = f"## {heading_of(part)}"
    if sum(the_model(p) == the_model(part) for p in data.of("matrix")) > 1:
        heading += f": {part.part.name}"
    if not part.figures:
        return [heading, "This part was not run yet."]
    out = [heading, f"{part.seeds()}. Values are means over the blocks ± their standard deviation."]
    for path, row in part.record.get("converged", {}).items():
        if (values := [v for v in row.get("fd") or () if v is not None]) and len(values) == len(row["fd"]):
            what = "flow-matching" if path == "flow" else "noise-predicting"
            out.append(f"The converged solution of the {what} model has an FD of {tables.with_sd(values)} at this N.")
    out += ["### The best cells", "The best plain cell is the one to compare with, whatever its solver and grid."]
    nfe, measures = _nfe(part), part.measures()
    out += [lever_words(findings.lever(part, nfe, measure), nfe, measure) for measure in measures]
    for flow in sorted({find_scheduler(name).flow for name in part.part.samplers}):
        for measure in measures:
            found = findings.best_cells(part, measure, flow=flow)
            if any(best.plain or best.lml for best in found):
                out.append(f"{'Flow matching' if flow else 'Noise-predicting samplers'}, {MEASURES[measure]}:")
                words = f"{best_words(found, measure)} {kept_words(part, found)}".strip()
                out += [tables.best_table(found, measure), words]
    out += ["Both best cells were picked on the seeds that they are shown on, so both flatter themselves a little."]
    out += ["### Every sampler", *pictures(data, part)]
    for measure in measures:
        what = f"{MEASURES[measure]} over evaluations, on the default and the best plain grid of each sampler"
        out.append(tables.folded(what, tables.curve_table(part, measure)))
    out.append(tables.folded(f"Every cell at {nfe} evaluations", tables.matrix_table(part, nfe)))
    out.append(ENDS if part.record.get("ends") else "")
    if orders := findings.orders(part):
        out += ["### Order of convergence", ORDER, tables.order_table(orders)]
    return out


def _release(data: SuiteData) -> list[str]:
    parts = [part for part in data.of("noise") if any(arm.startswith("release") for arm in part.part.arms)]
    if not parts and data.suite.identity is None:
        return []
    out = ["## The paper's release", RELEASE]
    if data.identity:
        table = tables.identity_table(data.identity)
        table = tables.folded("Every precision, size and lambda", table) if len(data.identity) > LONG else table
        out += [FORMULA, table, identity_words(data.identity)]
    for part in parts:
        words = release_words(data, part) or "This part was not run yet."
        out += [
            f"**On {the_model(part)}** ({part.seeds()}). {words}",
            rounding_words(data, part),
            *pictures(data, part),
        ]
    return out


def _noise(data: SuiteData) -> list[str]:
    out = ["## Injected noise", NOISE] if data.of("noise") else []
    for part in data.of("noise"):
        nfe = _nfe(part)
        if not part.figures:
            out.append(f"On {the_model(part)}: this part was not run yet.")
            continue
        out.append(f"On {the_model(part)} at {nfe} evaluations, all arms on the same seeds ({part.seeds()}):")
        out += [tables.noise_table(data, part, nfe), eta_words(data, part, nfe)]
        kinds: list[tuple[str, Callable[[Figures | None], str], str]] = [
            ("FD", lambda f: tables.show(f, "fd", sd=False), ""),
            ("RMSE", lambda f: tables.show(f, "rmse", sd=False), "-"),
            ("RMSE of the median image", tables.median_text, "-"),
            ("images that are not finite + wild images", tables.broken_text, "0 + 0"),
        ]
        for what, text, skip in kinds if len(part.part.nfe) > 1 else ():
            table = tables.noise_curve_table(data, part, text, skip)
            out.append(tables.folded(f"{what}, over evaluations", table) if table else "")
    return out


def _dtype(data: SuiteData, part: PartData) -> list[str]:
    other = data.other_dtype(part)
    if other is None:
        return []
    names = [str(d.settings["dtype"]) for d in (other, part)]
    rows = findings.dtype_rows(part, other)
    out = [f"## {names[0]} against {names[1]}"]
    if not rows:
        return [*out, "No cell was measured in both yet."]
    largest = max(abs((change.ratio or 1) - 1) for _, _, change in rows)
    lines = [
        f"{len(rows)} cells were measured in both, on the same seeds. No mean FD differs by more than {largest:.2%}."
    ]
    for pair in part.pairs:
        same = next((p for p in other.pairs if p.cell == pair.cell and p.gain == pair.gain), None)
        first, second = (p.change("fd") if p and p.gain else None for p in (same, pair))
        if first and second and first.ratio is not None and second.ratio is not None:
            lines.append(
                f"{tables.label(pair.cell)}, {pair.cell.nfe} evaluations: FD with LML (gain {pair.gain:g}) over plain "
                f"is {tables.number(first.ratio)} in {names[0]} and {tables.number(second.ratio)} in {names[1]}."
            )
    return [*out, "\n".join(lines), tables.dtype_table(part, other)]


def _limits(data: SuiteData) -> list[str]:
    out = []
    for part in (part for part in data.of("matrix") if part.figures):
        out.append(f"### On {the_model(part)}")
        gains: dict[str, dict[str, float | None]] = {}
        for pair in part.pairs:
            gains.setdefault(pair.cell.sampler, {})[pair.cell.grid] = pair.gain
        zero = [f"{tables.title(s)} on {', '.join(g for g, v in grids.items() if v == 0)}"
                for s, grids in gains.items() if 0 in grids.values()]  # fmt: skip
        if zero:
            presets = [v for s, grids in gains.items() if s not in part.part.gains for v in grids.values()]
            share = f"on {presets.count(0)} of {len(presets) - presets.count(None)} pairs of sampler and grid"
            out.append(
                f"A preset of 0 is the plain sampler, bit for bit, and that is what it is {share}: {'; '.join(zero)}."
            )
        out += [f"{find_scheduler(name).title} evaluates the network twice an interval and has no LML version."
                for name in gains if not find_scheduler(name).takes_lml]  # fmt: skip
        out += [text for measure in part.measures() for text in _census(_presets(part, measure))]
        for name, gain in part.part.gains.items():
            draws = " draws noise and" if find_scheduler(name).stochastic else ""
            out.append(f"{tables.title(name)}{draws} has no preset. The suite gives it a gain of {gain:g}:")
            for measure in part.measures():
                out += _census(findings.census(part, measure).where(lambda p, name=name: p.cell.sampler == name))
    return ["## What LML does not improve", CENSUS, *out] if out else []


def _presets(part: PartData, measure: str) -> Census:
    """Return the census of the package's own presets."""
    return findings.census(part, measure).where(lambda pair: pair.cell.sampler not in part.part.gains)


def _census(found: Census) -> list[str]:
    if not found.changes:
        return []
    name = MEASURES[found.measure]
    both = tables.census_table(found, "NFE") + "\n\n" + tables.census_table(found, "sampler")
    what = f"Cells whose {name} LML raises by more than 2%: {len(found.harmed)}"
    harmed = [f"{what}.", tables.harmed_table(found) if found.harmed else ""]
    if len(found.harmed) > LONG:
        harmed = [tables.folded(what, tables.harmed_table(found))]
    return [census_words(found), tables.folded(f"{name} by evaluations and by sampler", both), *harmed]


def _again(data: SuiteData) -> list[str]:
    name = data.suite.name
    return [
        "## To run it again, and to add to it",
        f"```bash\nlml bench --suite {name} --estimate      # what is missing, and how long it takes\n"
        f"lml bench --suite {name} --page PAGE.md  # measures what is missing and writes the page\n```",
        "Results are kept cell by cell; an interrupted run goes on where it stopped, and a cell that is there is not "
        "measured again (remove its line to have it measured). A suite is a TOML file of parts: copy "
        "`src/lmlangevin/bench/suites/quick.toml`, change it, and give its path as `--suite`.",
    ]


# Small pieces


def _model_text(part: PartData) -> str:
    name = str(part.settings["model"])
    if not name.startswith(MIXTURE):
        return MODELS.get(name, "")
    made = f" Made by `{part.part.make}`." if part.part.make else ""
    return f"`{name.removeprefix(MIXTURE)}` is another mixture, which does not come with the package.{made}"


def _nfe(part: PartData) -> int:
    costs = sorted(part.part.nfe)
    return NFE if NFE in costs else costs[len(costs) // 2]


def _is_default(cell: Cell) -> bool:
    return cell.grid == default_grid(find_scheduler(cell.sampler)) and cell.final != "min"

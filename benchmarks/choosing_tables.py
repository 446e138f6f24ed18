"""The tables of docs/choosing.md and docs/how-it-works.md; `benchmarks/tables.py` writes them."""

from __future__ import annotations

import functools
import json
from pathlib import Path

from lmlangevin.bench.cells import default_grid
from lmlangevin.bench.findings import best_cells
from lmlangevin.bench.harm import best_controlled, calibrated_cells, measure_harm
from lmlangevin.bench.results import MEASURES, Change, Figures, PartData, place_of, read_suite
from lmlangevin.bench.suite import load_suite
from lmlangevin.bench.tables import label, markdown, number, title
from lmlangevin.core.damping import ADAPTIVE
from lmlangevin.schedulers.names import find_scheduler

RESULTS = Path(__file__).parent / "results"
MODELS = {"embedded": "network", "analytic": "analytic"}


@functools.cache
def _part(suite: str, name: str) -> PartData:
    return next(data for data in read_suite(load_suite(suite), RESULTS).parts if data.part.name == name)


def _text(change: Change | None) -> str:
    return number(change.ratio) if change and change.ratio is not None else "not measured"


def choosing_control_table() -> str:
    """The best that each control reaches, over the best plain cell of the same run, by evaluations."""
    rows = []
    for part, name in MODELS.items():
        arms = {}
        for measure in MEASURES:
            arms["preset", measure] = best_cells(_part("paper", part), measure)
            arms["adaptive", measure] = best_controlled(_part("control", part), ADAPTIVE, measure)
            found = {(m, flow): cells for m, flow, cells in calibrated_cells(_part("calibrated", part))}
            arms["calibrated", measure] = found[measure, False]
        for nfe in sorted({best.nfe for best in arms["preset", "rmse"] if best.nfe <= 20}):
            at = {arm: next((b for b in found if b.nfe == nfe), None) for arm, found in arms.items()}
            if not any(best and best.lml for (control, _), best in at.items() if control != "preset"):
                continue
            plain = at["preset", "rmse"]
            cell = label(plain.plain.cell) if plain and plain.plain else "not measured"
            ratios = [_text(best.change(measure) if best else None) for (_, measure), best in at.items()]
            rows.append([name, str(nfe), cell, *ratios])
    # The arms' order is preset, adaptive, calibrated by RMSE, then by FD.
    header = ["model", "NFE", "best plain cell by RMSE"]
    header += [
        f"{control}: {measure}" for measure in ("RMSE", "FD") for control in ("preset", "adaptive", "calibrated")
    ]
    note = (
        "The lowest mean of all samplers on all grids with each control, over the lowest of all plain ones in the same "
        "run, on the same seeds; below 1 the control is ahead. Presets of 0 are plain and do not count as presets. The "
        "three controls come from three runs, on other seeds and with other numbers of images."
    )
    made = "Made by `lml bench --suite paper`, `--suite control` and `--suite calibrated`."
    return "\n".join([markdown(header, rows), "", note, "", made])


def choosing_sampler_table() -> str:
    """What the preset and the adaptive control do to each sampler on its default grid, at 8 evaluations."""
    paper, control = _part("paper", "embedded"), _part("control", "embedded")
    harms = [measure_harm(control, ADAPTIVE, m) for m in MEASURES]
    rows = []
    for sampler in paper.part.samplers:
        grid = default_grid(find_scheduler(sampler))
        pair = paper.curve(sampler, grid).get(8)
        if pair is None or pair.gain is None:  # Heun has no LML version
            continue
        effects = [next((e for e in h.effects if place_of(e.cell) == place_of(pair.cell)), None) for h in harms]
        changes = [pair.change(m) for m in MEASURES]
        row = [title(sampler), grid, f"{pair.gain:g}", *("= plain" if not pair.gain else _text(c) for c in changes)]
        row += [_text(effect.change if effect else None) for effect in effects]
        rows.append(row)
    header = ["sampler", "its default grid", "preset gain", "preset: RMSE", "FD", "adaptive: RMSE", "FD"]
    note = (
        "The network, 8 evaluations, with the control over without it on the same seeds. Presets: 3 blocks of 1000 "
        "images; adaptive: 5 blocks of 96. A sampler that draws noise has no RMSE, and no adaptive control."
    )
    return "\n".join([markdown(header, rows), "", note, "", "Made by `lml bench --suite paper` and `--suite control`."])


def choosing_steps_table() -> str:
    """RMSE by the number of steps: DDIM, and the best cells, plain and adaptive."""
    rows = []
    for part, name in MODELS.items():
        data = _part("control", part)
        ddim = best_controlled(data, ADAPTIVE, "rmse", sampler="ddim")
        for one, best in zip(ddim, best_controlled(data, ADAPTIVE, "rmse"), strict=True):
            figures: list[Figures | None] = [one.plain, one.lml, best.plain, best.lml]
            values = [f.mean("rmse") if f else None for f in figures]
            cells = ["not measured" if value is None else number(value) for value in values]
            cells[2:] = [f"{v} ({label(f.cell)})" if f else v for v, f in zip(cells[2:], figures[2:], strict=True)]
            rows.append([name, str(best.nfe), *cells])
    header = ["model", "NFE", "DDIM", "DDIM, adaptive", "best plain cell", "best adaptive cell"]
    note = "RMSE to the converged solution, DDIM on the best of its grids in each column; all on the same seeds."
    return "\n".join([markdown(header, rows), "", note, "", "Made by `lml bench --suite control`."])


def rotation_table() -> str:
    """The angles of every step of one sampler."""
    data = json.loads((RESULTS / "rotation.json").read_text())
    rows = [
        [
            f"{row['step'] + 1}",
            f"{row['s']:.3g}",
            *(f"{row[key]:.2f}°" for key in ("previous_to_n", "n_to_lml", "n_to_solution_in_the_plane")),
            *(f"{row[key]:.2f}°" for key in ("n_to_solution", "lml_to_solution")),
            f"{row['seeds_in_which_lml_is_nearer']} of {data['num_seeds']}",
        ]
        for row in data["rows"]
    ]
    header = ["step", "s", "previous n to n", "n to LML", "n to the solution, in the plane"]
    header += ["n to the solution", "LML to the solution", "seeds in which LML is nearer"]
    note = (
        f"Euler (DDIM) on the {data['grid']} grid, {data['steps']} steps, gain {data['gain']:g}, the analytic model in "
        f"float64; means over {data['num_seeds']} seeds from {data['first_seed']}."
    )
    return "\n".join([markdown(header, rows), "", note, "", f"Made by `{data['command']}`."])


TABLES = {
    "choosing-control": choosing_control_table,
    "choosing-samplers": choosing_sampler_table,
    "choosing-steps": choosing_steps_table,
    "rotation": rotation_table,
}

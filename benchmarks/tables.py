"""Write the tables of README.md and docs from the result files: `python benchmarks/tables.py` (`--check` compares)."""

from __future__ import annotations

import argparse
import json
import re
import statistics
import sys
from pathlib import Path

from choosing_tables import TABLES as CHOOSING_TABLES
from overhead_tables import TABLES as OVERHEAD_TABLES
from theory_tables import TABLES as THEORY_TABLES

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results"
HEADLINE = (5, 8, 10)


def analytic_table() -> str:
    """LML against plain on the analytic model."""
    data = json.loads((RESULTS / "analytic_table.json").read_text())
    lines = ["| sampler | gain | RMSE plain | RMSE LML | FD plain | FD LML |", "|---|---|---|---|---|---|"]
    plain = {row["sampler"]: row for row in data["rows"] if row["gain"] == 0}
    for row in data["rows"]:
        if row["gain"]:
            base = plain[row["sampler"]]
            lines.append(
                f"| {row['sampler']} | {row['gain']:g} | {base['rmse']:.3f} | {row['rmse']:.3f} "
                f"| {base['fd']:.3f} | {row['fd']:.3f} |"
            )
    note = (
        f"{data['nfe']} evaluations, {data['num_seeds']} seeds from {data['first_seed']}, exact score of a Gaussian "
        f"mixture fitted to CIFAR-10. RMSE is to the converged solution from the same noise; FD is in a random-feature "
        f"space, to {data['num_reference']} exact samples (the converged solution itself has "
        f"{data['fd_of_converged_solution']['vp']:.3f})."
    )
    return "\n".join([*lines, "", note, "", f"Made by `{data['command']}`."])


def embedded_table() -> str:
    """Presets against plain on the embedded model."""
    data = json.loads((RESULTS / "embedded_fd.json").read_text())
    lines = [
        "| sampler | grid | preset gain | FD plain | FD LML | change in seed blocks | RMSE plain | RMSE LML |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in data["rows"]:
        change = row["fd_difference"]
        lines.append(
            f"| {row['scheduler']} | {row['grid']} | {row['gain']:g} | {row['plain']['fd']:.2f} "
            f"| {row['lml']['fd']:.2f} | {change['mean']:+.2f} ± {change['sd']:.2f} "
            f"| {row['plain']['rmse']:.3f} | {row['lml']['rmse']:.3f} |"
        )
    note = (
        f"{data['nfe']} evaluations, {data['num_images']} images from seed {data['first_seed']}, each sampler on its "
        f"default grid. FD compares the embedded classifier's features with the CIFAR-10 training set; the model's "
        f"converged samples have {data['converged']['fd']:.2f}. The change is the mean and standard deviation over "
        f"{data['blocks']} disjoint seed blocks."
    )
    return "\n".join([*lines, "", note, "", f"Made by `{data['command']}`."])


def preset_table() -> str:
    """The default gains."""
    gains = json.loads((ROOT / "src" / "lmlangevin" / "assets" / "presets.json").read_text())["gains"]
    grids = ["leading", "trailing", "linspace", "karras", "exponential", "beta", "lu", "flow"]
    lines = ["| sampler | " + " | ".join(grids) + " |", "|---" * (len(grids) + 1) + "|"]
    for sampler, row in gains.items():
        lines.append(f"| {sampler} | " + " | ".join(f"{row[g]:g}" if g in row else "" for g in grids) + " |")
    return "\n".join(lines)


def jobs_table() -> str:
    """Memory and time of large generation jobs."""
    job = json.loads((RESULTS / "generation_job.json").read_text())["memory"]
    lines = [
        "| processes | images | minutes | images a second | resident memory of the largest process | manifest |",
        "|---|---|---|---|---|---|",
    ]
    for row in job["rows"]:
        lines.append(
            f"| {row['processes']} | {row['images']:,} | {row['seconds'] / 60:.1f} | {row['images_per_second']:.0f} "
            f"| {row['peak_mib']:.0f} MiB | {row['manifest_bytes'] / 2**20:.1f} MiB |"
        )
    for row in job["estimates"]:
        rate = row["images"] / row["hours"] / 3600
        # A straight line through two measured peaks can fall; memory does not.
        peak = max(row["peak_mib"], *(r["peak_mib"] for r in job["rows"] if r["processes"] == row["processes"]))
        lines.append(
            f"| {row['processes']} | {row['images']:,} (estimate) | {row['hours'] * 60:.0f} | {rate:.0f} "
            f"| {peak:.0f} MiB | {row['manifest_mib']:.1f} MiB |"
        )
    note = (
        f"{job['nfe']} evaluations an image, batches of {job['batch_size']}, one thread a process on "
        f"{job['machine']['cores']} cores. The estimates are the straight lines through the rows above them."
    )
    return "\n".join([*lines, "", note, "", f"Made by `{job['command']}`."])


def calibrations_table() -> str:
    """The calibrations that come with the package."""
    folder = ROOT / "src" / "lmlangevin" / "assets" / "calibrations"
    lines = [
        "| calibration | steps | gains a step | seeds | evaluations of a fit | RMSE before | RMSE after |",
        "|---|---|---|---|---|---|---|",
    ]
    files = {path.stem: json.loads(path.read_text()) for path in folder.glob("*.json")}
    for name in sorted(files, key=lambda n: (n.rstrip("0123456789"), files[n]["fingerprint"]["steps"])):
        made = files[name]["fit"]
        spent = (made["evaluations"] + made["teacher_evaluations"]) / 1000
        error = made["heldout_error"]
        lines.append(
            f"| `{name}` | {files[name]['fingerprint']['steps']} | {made['rank']} | {made['num_seeds']} "
            f"| {spent:.0f} thousand | {error['before']:.4f} | {error['after']:.4f} |"
        )
    return "\n".join([*lines, "", "Made by `sh tools/make_calibrations.sh`."])


def study_table() -> str:
    """What a calibration needs, from the study's rows."""
    data = json.loads((RESULTS / "calibration_study.json").read_text())
    names = {
        "seeds": "fitted from nothing, {} seeds",
        "warm": "fitted from the 10 steps, {} seeds",
        "parts": "{}",
        "greedy": "greedy, step by step, uniform grid, {} steps",
    }
    lines = ["| fit of 8 steps | evaluations | RMSE on its own seeds | RMSE on fresh seeds |", "|---|---|---|---|"]
    rows = data["rows"]
    for key, row in rows.items():
        group, _, what = key.partition(":")
        if group in names:
            own = f"{row['fit_error']:.4f}" if "fit_error" in row else ""
            spent = f"{row['evaluations'] / 1000:.0f} thousand" if "evaluations" in row else ""
            lines.append(f"| {names[group].format(what)} | {spent} | {own} | {row['rmse']:.4f} |")
    start = next(row["before"] for key, row in rows.items() if key.startswith("seeds:"))
    note = (
        f"Uniform steps in log s with the gains of Adams-Bashforth, where fits from nothing start, have {start:.4f}. "
        f"Fresh seeds: {data['tests']} from {data['test_seed']}."
    )
    return "\n".join([*lines, "", note, "", f"Made by `{data['command']}`."])


def headline_table() -> str:
    """Calibrations against the best plain cell of all solvers and grids."""
    from lmlangevin.bench.harm import calibrated_cells
    from lmlangevin.bench.results import read_suite
    from lmlangevin.bench.suite import load_suite

    suite = load_suite("calibrated")
    lines = [
        "| model | NFE | best plain sampler, best grid: RMSE | calibrated: RMSE | best plain: FD | calibrated: FD |",
        "|---|---|---|---|---|---|",
    ]
    for data in read_suite(suite, RESULTS).parts:
        found = {(measure, flow): cells for measure, flow, cells in calibrated_cells(data)}
        for flow in sorted({flow for _, flow in found}):
            for rmse, fd in zip(found["rmse", flow], found["fd", flow], strict=True):
                if rmse.nfe not in HEADLINE or not (rmse.plain and rmse.lml and fd.plain and fd.lml):
                    continue
                name = data.settings["model"] + (", flow matching" if flow else "")
                lines.append(
                    f"| {name} | {rmse.nfe} | {rmse.plain.mean('rmse'):.3f} | {rmse.lml.mean('rmse'):.3f} "
                    f"| {fd.plain.mean('fd'):.3f} | {fd.lml.mean('fd'):.3f} |"
                )
    return "\n".join([*lines, "", "Made by `lml bench --suite calibrated`; [all of it](docs/calibrated.md)."])


def lengths_table() -> str:
    """A schedule stretched to other lengths, and used on the other model."""
    data = json.loads((RESULTS / "calibration_study.json").read_text())
    rows = data["rows"]
    lines = ["| used | RMSE |", "|---|---|"]
    lines.append(f"| 8 steps, as fitted | {rows['warm:128']['rmse']:.4f} |")
    for key, row in rows.items():
        if key.startswith("lengths:"):
            lines.append(f"| the same stretched to {row['steps']} steps | {row['rmse']:.4f} |")
    model = rows.get("model:embedded")
    if model:
        lines += [
            f"| on the network: uniform steps, Adams-Bashforth | {model['before']:.4f} |",
            f"| on the network: the analytic model's | {model['analytic']:.4f} |",
            f"| on the network: its own | {model['own']:.4f} |",
            f"| on the analytic model: the network's | {model['back']:.4f} |",
        ]
    return "\n".join([*lines, "", f"Made by `{data['command']}`."])


def guidance_fits_table() -> str:
    """Calibrations at one guidance scale, used at another."""
    data = json.loads((RESULTS / "calibration_study.json").read_text())
    used = [row for key, row in data["rows"].items() if key.startswith("guidance:") and "used_at" in row]
    scales = sorted({row["used_at"] for row in used})
    lines = [
        "| fitted at | " + " | ".join(f"used at {scale:g}" for scale in scales) + " |",
        "|---|" + "---|" * len(scales),
    ]
    for fitted in scales:
        by = {row["used_at"]: row["rmse"] for row in used if row["fitted_at"] == fitted}
        lines.append(f"| {fitted:g} | " + " | ".join(f"{by[scale]:.3f}" for scale in scales) + " |")
    before = [data["rows"][f"guidance:{scale:g}"]["before"] for scale in scales]
    lines.append("| no fit: uniform, Adams-Bashforth | " + " | ".join(f"{value:.3f}" for value in before) + " |")
    return "\n".join([*lines, "", f"Made by `{data['command']}`."])


def guidance_table() -> str:
    """The controls under guidance."""
    data = json.loads((RESULTS / "guidance_study.json").read_text())
    lines = [
        "| guidance scale | adaptive / plain, median | raised by more than 2% | half the preset / plain, median "
        "| raised by more than 2% |",
        "|---|---|---|---|---|",
    ]
    for scale in sorted({row["scale"] for row in data["rows"]}):
        mine = [row for row in data["rows"] if row["scale"] == scale and row["plain"]]
        cells = [f"{scale:g}"]
        for arm in ("adaptive", "preset"):
            ratios = [row[arm] / row["plain"] for row in mine if row[arm]]
            cells += [f"{statistics.median(ratios):.3f}", f"{sum(r > 1.02 for r in ratios)} of {len(mine)}"]
        lines.append("| " + " | ".join(cells) + " |")
    note = (
        "RMSE to the fine solution of the guided analytic model, over 8 samplers on up to 3 grids at 6, 8, 10 and 20 "
        f"evaluations, {data['seeds']} seeds from {data['first_seed']}."
    )
    return "\n".join([*lines, "", note, "", f"Made by `{data['command']}`."])


def reproduce_table() -> str:
    """The preset of CIFAR-10 on the embedded model."""
    from lmlangevin.reproduce.table import render as render_result

    content = json.loads((RESULTS / "reproduce-cifar10-embedded.json").read_text())
    return render_result(content, level=0).rstrip()


def reproduce_presets_table() -> str:
    """What each preset is, and how much of it."""
    from lmlangevin.reproduce.plan import ReproduceConfig, make_plan
    from lmlangevin.reproduce.preset import load_preset, preset_names

    lines = [
        "| preset | model | three arms | plain only | NFE | lambda | images an arm | evaluations |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name in preset_names():
        for model in ("owner/name", *load_preset(name).built_in):
            plan = make_plan(ReproduceConfig(name, model=model))
            preset = plan.preset
            spent = sum(map(plan.evaluations, plan.cells)) / 1e6
            damping = "by NFE" if preset.release_lambda == "published" else f"{preset.release_lambda:g}"
            each = f" in each of {len(preset.categories)} categories" if preset.categories else ""
            title = f"`{name}`" if model == "owner/name" else f"`{name} --model {model}`"
            images = f"{preset.num_images:,}{each}"
            lines.append(
                f"| {title} | {preset.model} | {', '.join(preset.arms)} | {', '.join(preset.baselines) or 'none'} "
                f"| {', '.join(map(str, preset.nfe))} | {damping} | {images} | {spent:,.1f} million |"
            )
    return "\n".join(lines)


TABLES = {
    "reproduce-presets": reproduce_presets_table,
    "reproduce": reproduce_table,
    "analytic": analytic_table,
    "embedded": embedded_table,
    "presets": preset_table,
    "jobs": jobs_table,
    "calibrations": calibrations_table,
    "headline": headline_table,
    "study": study_table,
    "lengths": lengths_table,
    "guidance-fits": guidance_fits_table,
    "guidance": guidance_table,
    **OVERHEAD_TABLES,
    **THEORY_TABLES,
    **CHOOSING_TABLES,
}
PAGES = (
    "presets",
    "generation",
    "control",
    "overhead",
    "reproduce",
    "theory",
    "langevin",
    "choosing",
    "how-it-works",
)
FILES = [ROOT / "README.md", *(ROOT / "docs" / f"{name}.md" for name in PAGES)]


def render(text: str) -> str:
    """Replace what stands between the markers of each table."""
    for name, table in TABLES.items():
        pattern = rf"(<!-- table:{name} -->\n).*?(<!-- /table:{name} -->)"
        if re.search(pattern, text, flags=re.S):
            body = table()
            text = re.sub(pattern, lambda m, body=body: f"{m[1]}{body}\n{m[2]}", text, flags=re.S)
    return text


def main() -> int:
    """Write, or with --check report, what is out of date."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true")
    check = parser.parse_args().check
    stale = []
    for path in FILES:
        text = path.read_text(encoding="utf-8")
        if render(text) != text:
            stale.append(path.name)
            if not check:
                path.write_text(render(text), encoding="utf-8")
    if stale:
        print(f"{'out of date' if check else 'updated'}: {', '.join(stale)}")
    return 1 if check and stale else 0


if __name__ == "__main__":
    sys.exit(main())

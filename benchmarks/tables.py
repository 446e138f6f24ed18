"""Write the tables of README.md and docs from the result files: `python benchmarks/tables.py` (`--check` compares)."""

from __future__ import annotations

import argparse
import json
import math
import re
import statistics
import sys
from pathlib import Path
from typing import Any

from choosing_tables import TABLES as CHOOSING_TABLES

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


def _overhead(device: str) -> dict[str, Any] | None:
    path = RESULTS / f"overhead_{device}.json"
    return json.loads(path.read_text()) if path.exists() else None


def _times(value: dict[str, float], digits: int = 1) -> str:
    return f"{value['median']:.{digits}f} ({value['low']:.{digits}f} to {value['high']:.{digits}f})"


def overhead_table() -> str:
    """The correction against a clone and against the release's formula."""
    lines = [
        "| device | shape | dtype | MiB | clone, µs | eager, of the floor | compiled, of the floor "
        "| release / eager | release / compiled |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for device in ("cpu", "gpu"):
        data = _overhead(device)
        if data is None:
            lines.append(f"| {device.upper()} | not measured | | | | | | | |")
            continue
        for row in data["rows"]:
            shape = "x".join(map(str, row["shape"]))
            kinds = [row.get(kind) for kind in ("eager", "compiled")]
            cells = [_times(kind["of_floor"]) if kind else "not measured" for kind in kinds]
            cells += [_times(kind["release_over_ours"], 2) if kind else "not measured" for kind in kinds]
            lines.append(
                f"| {device.upper()} | {shape} | {row['dtype']} | {row['bytes'] / 2**20:.2f} "
                f"| {row['clone_microseconds']['median']:.0f} | {' | '.join(cells)} |"
            )
    data = _overhead("cpu")
    assert data is not None
    note = (
        f"Median and quartiles of neighbouring calls, {data['threads']} threads, torch {data['versions']['torch']}, "
        f"tensors from a pool of {data['pool_bytes'] // 2**20} MiB, seed {data['first_seed']}. The floor is six "
        "transfers of the tensor at the bandwidth of the clone, which is two: two tensors read twice, the result and "
        "the copy of the prediction written. The last columns are the time of the release's formula over ours: above 1 "
        "ours is faster."
    )
    return "\n".join([*lines, "", note, "", f"Made by `{data['command']}`."])


def overhead_steps_table() -> str:
    """Whole steps of a scheduler, whole generations and memory."""
    data = _overhead("cpu")
    assert data is not None
    lines = ["| what | plain | with LML | added |", "|---|---|---|---|"]
    for row in data["steps"]:
        plain, added = row["plain_microseconds_a_step"], row["added_microseconds_a_step"]
        shape = "x".join(map(str, row["shape"]))
        lines.append(
            f"| step of {row['sampler']}, {shape} | {plain['median']:.0f} µs "
            f"| {row['lml_over_plain']['median']:.1f} times | {added['median']:.0f} µs |"
        )
    for row in data["generations"]:
        for arm in ("constant", "adaptive"):
            ratio = row[f"{arm}_over_plain"]
            lines.append(
                f"| {row['model']}, {row['steps']} steps of {row['sampler']}, batch {row['shape'][0]}, {arm} "
                f"| {row['plain_seconds']['median']:.2f} s | {ratio['median']:.3f} ({ratio['low']:.3f} to "
                f"{ratio['high']:.3f}) times | {100 * (ratio['median'] - 1):+.1f}% |"
            )
    ranks = ", ".join(
        f"{row['compiled']['of_floor']['median']:.1f} (rank {row['rank']})"
        for row in data["ranks"]
        if "compiled" in row
    )
    growth = "; ".join(
        "x".join(map(str, row["shape"]))
        + " "
        + " and ".join(f"{row[kind]['of_floor']['median']:.1f}" for kind in ("eager", "compiled") if kind in row)
        for row in data["growth"]
    )
    memory = max((row["memory"] for row in data["rows"] if row["bytes"] >= 4 * 2**20), key=lambda m: m["peak"])
    note = (
        f"The same run as above. Compiled, of the floor by rank, 8x4x128x128 float32: {ranks}. Eager and "
        f"compiled, of the floor, with batch and pixels, float32: {growth}. Memory of a correction "
        f"at 4 MiB and more: {memory['kept']:.2f} predictions stay (the result and the copy), {memory['peak']:.2f} at "
        "the peak, of which what exceeds them is the buffers of a block and does not grow."
    )
    return "\n".join([*lines, "", note])


def embedded_speed_table() -> str:
    """Evaluations a second of the embedded network."""
    data = json.loads((RESULTS / "embedded_speed.json").read_text())
    batches = list(dict.fromkeys(row["batch"] for row in data["rows"]))
    rates: dict[str, dict[int, float]] = {}
    for row in data["rows"]:
        rates.setdefault(row["arm"], {})[row["batch"]] = row["rate"]["median"]
    lines = ["| batch | " + " | ".join(map(str, batches)) + " |", "|---" * (len(batches) + 1) + "|"]
    for arm, found in rates.items():
        lines.append(f"| {arm} | " + " | ".join(f"{found[batch]:.0f}" for batch in batches) + " |")
    full, half = data["fd_blocks"].values()
    apart = [b - a for a, b in zip(full, half, strict=True)]
    study = data["study"]
    note = (
        f"Evaluations a second, medians of calls in turn, {data['threads']} threads, of this processor's instruction "
        f"sets {', '.join(data['instructions'])}. {study['nfe']} steps of {study['sampler']} with gain {study['gain']} "
        f"on {data['num_images']} seeds from {data['first_seed']}, {len(full)} blocks: Frechet distance "
        f"{statistics.mean(full):.2f} ± {statistics.stdev(full):.2f} in float32, {statistics.mean(half):.2f} ± "
        f"{statistics.stdev(half):.2f} in bfloat16 (autocast), paired difference {statistics.mean(apart):+.3f} ± "
        f"{statistics.stdev(apart):.3f}; the images are {data['rmse_between']:.3f} apart (RMSE, of a range of 2)."
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


def theory_spectra_table() -> str:
    """The exact Hessian of the CIFAR-10 mixture, and what LML's operator leaves of it."""
    data = json.loads((RESULTS / "theory.json").read_text())
    lines = [
        "| s | least and largest eigenvalue of J | below 0.9 of the largest | operator norm: identity | LML "
        "| its bound | Frobenius norm: identity | LML | angle of b to the top eigenvector |",
        "|---" * 9 + "|",
    ]
    for row in data["spectra"]["cifar"]:
        mine = row["kappa 0.5, mu 1"]
        lines.append(
            f"| {row['s']:.3g} | {row['least']:.3g} to {row['most']:.3g} | {row['below_0.9']:.0f} "
            f"| {row['identity']['operator']:.3f} | {mine['operator']:.3f} | {mine['bound']:.2f} "
            f"| {row['identity']['frobenius']:.3f} | {mine['frobenius']:.3f} "
            f"| {mine['angle_to_top_eigenvector']:.1f}° |"
        )
    note = (
        "Relative errors of the best multiple, LML with kappa 0.5 and mu 1, along an Euler run of "
        f"{data['steps']} steps; means over {data['seeds']['spectra']} seeds from {data['first_seed']}, of the least "
        "eigenvalue the smallest. J has 3072 eigenvalues."
    )
    return "\n".join([*lines, "", note, "", f"Made by `{data['command']}`."])


def theory_directions_table() -> str:
    """Angles to the solution's direction, and which way each direction turns."""
    data = json.loads((RESULTS / "theory.json").read_text())
    lines = [
        "| s | share of dn/ds across n | angle to the solution: n | LML | Newton, lambda 1 | Newton, lambda 10 "
        "| cosine of the turns: LML | Newton, lambda 1 | Newton, lambda 10 | dn/ds and -J n |",
        "|---" * 10 + "|",
    ]
    for row in data["directions"]:
        newton = [row["newton"][key] for key in ("1", "10")]
        lines.append(
            f"| {row['s']:.3g} | {row['bend_across']:.3f} | {row['plain_to_solution']:.3f}° "
            f"| {row['lml_to_solution']:.3f}° | " + " | ".join(f"{arm['to_solution']:.3f}°" for arm in newton) + " | "
            f"{row['lml_turn_cosine']:.2f} | " + " | ".join(f"{arm['turn_cosine']:.2f}" for arm in newton) + " | "
            f"{row['bend_to_hessian']:.2f} |"
        )
    gain = data["directions"][0]["gain"]
    note = (
        f"Euler run of {data['steps']} steps, {data['seeds']['directions']} seeds from {data['first_seed']}; LML with "
        f"the log-linear gain, {gain:.2f} on this grid. Cosines are of the parts across n, to that of the solution's "
        "direction."
    )
    return "\n".join([*lines, "", note, "", f"Made by `{data['command']}`."])


def theory_sampling_table() -> str:
    """Errors of samples with the exact Newton direction, the plain one and LML's."""
    data = json.loads((RESULTS / "theory.json").read_text())
    arms = {
        "plain": "plain",
        "newton, lambda 0.3": "Newton, lambda 0.3",
        "newton, lambda 1": "lambda 1",
        "newton, lambda 10": "lambda 10",
        "lml, gain 0.7": "LML, gain 0.7",
        "lml, log-linear gain": "log-linear gain",
        "lml, log-linear gain, length forecast": "its length forecast",
        "hessian applied": "Hessian applied, not inverted",
    }
    lines = ["| grid | NFE | " + " | ".join(arms.values()) + " |", "|---" * (len(arms) + 2) + "|"]
    for row in data["sampling"]:
        figures = " | ".join(f"{row['rmse'][arm]:.3f}" for arm in arms)
        lines.append(f"| {row['grid']} | {row['nfe']} | {figures} |")
    note = (
        f"RMSE to the converged solution, {data['seeds']['sampling']} seeds from {data['first_seed']}. Newton and the "
        "last column also use Hessian-vector products, which are not counted in NFE."
    )
    return "\n".join([*lines, "", note, "", f"Made by `{data['command']}`."])


def theory_orders_table() -> str:
    """Measured orders of convergence."""
    record = json.loads((RESULTS / "theory.json").read_text())
    data = record["orders"]
    steps = data["steps"]
    lines = [
        "| rule | Gaussian: order | error at 32 steps | mixture: order | error at 32 steps |",
        "|---" * 5 + "|",
    ]
    at = steps.index(32)
    for rule in data["gaussian"]:
        cells = []
        for case in ("gaussian", "mixture"):
            errors = data[case][rule]
            cells += [f"{math.log2(errors[-2] / errors[-1]):.2f}", f"{errors[at]:.4f}"]
        lines.append(f"| {rule} | " + " | ".join(cells) + " |")
    note = (
        f"Order: log2 of how the error falls from {steps[-2]} to {steps[-1]} steps. Steps in log s of one and two "
        "units in turn, from s = 20 to 0.05; float64; the Gaussian's solution in closed form."
    )
    return "\n".join([*lines, "", note, "", f"Made by `{record['command']}`."])


def langevin_samplers_table() -> str:
    """Effective samples a gradient of LMLangevin and of others."""
    data = json.loads((RESULTS / "langevin.json").read_text())
    lines = [
        "| target | sampler | gradients of a chain | effective samples, worst coordinate | per 1000 gradients: worst "
        "| median | times MALA's worst | acceptance | largest variance / true | warm-up, gradients of a chain |",
        "|---" * 10 + "|",
    ]
    for row in data["rows"]:
        # Of the two implementations the better one, so that the ratio is not flattered.
        plain = max(r["ess_min_per_1000"] for r in data["rows"] if r["target"] == row["target"] and is_mala(r))
        lines.append(
            f"| {row['target']} | {row['sampler']} | {row['gradients'] // data['chains']:,} | {row['ess_min']:,.0f} "
            f"| {row['ess_min_per_1000']:.3g} | {row['ess_median_per_1000']:.3g} "
            f"| {row['ess_min_per_1000'] / plain:.3g} | {row['acceptance']:.2f} | {row['max_variance_ratio']:.2f} "
            f"| {row['warm_up_gradients_a_chain']:,} |"
        )
    exact = ", ".join(
        f"{row['closed_form_ess_min_per_1000']:.3g} ({row['target']})"
        for row in data["rows"]
        if "closed_form_ess_min_per_1000" in row
    )
    packages = data["packages"]
    note = (
        f"{data['chains']} chains from exact samples, seeds from {data['first_seed']}; bulk effective size by ArviZ "
        f"{packages['arviz']}, blackjax {packages['blackjax']}. NUTS spends many gradients a draw, and its warm-up "
        "is one chain's, which all share. Times MALA's: against the better of the two. ULA has MALA's step; in "
        f"closed form its worst coordinate has {exact} per 1000 gradients."
    )
    return "\n".join([*lines, "", note, "", f"Made by `{data['command']}`."])


def is_mala(row: dict[str, Any]) -> bool:
    """Return whether a row of the Langevin benchmark is one of plain MALA."""
    return row["sampler"] in ("MALA", "MALA (blackjax)")


def langevin_corrector_table() -> str:
    """Langevin steps between a sampler's, at equal evaluations."""
    data = json.loads((RESULTS / "langevin_corrector.json").read_text())
    # Where the geometries are compared, the default one is a row of the arms.
    rows = [row for row in data["rows"] if row["geometry"] == "differences"]
    arms = sorted({(row["steps"], row["step_size"]) for row in rows if row["steps"] and not row["gain"]})
    lines = [
        "| model | sampler | NFE | plain | LML's preset | "
        + " | ".join(f"{steps} of {size:g}" for steps, size in arms)
        + " | preset and 1 of 0.1 |",
        "|---" * (len(arms) + 6) + "|",
    ]
    for cell in dict.fromkeys((row["model"], row["sampler"], row["nfe"]) for row in rows):
        mine = [row for row in rows if (row["model"], row["sampler"], row["nfe"]) == cell]
        found = {(bool(row["gain"]), row["steps"], row["step_size"]): row for row in mine}
        plain = found[False, 0, None]
        keys = [(True, 0, None), *((False, *arm) for arm in arms), (True, 1, 0.1)]
        cells = [f"{plain['fd']:.3f}"]
        for key in keys:
            row = found.get(key)
            better = row and all(a < b for a, b in zip(row["fd_blocks"], plain["fd_blocks"], strict=True))
            cells.append(f"{row['fd']:.3f}{'*' if better else ''}" if row else "")
        lines.append(f"| {cell[0]} | {cell[1]} | {cell[2]} | " + " | ".join(cells) + " |")
    counts = data["num_images"]
    gains = {row["sampler"]: row["gain"] for row in rows if row["gain"]}
    note = (
        f"Frechet distances, {counts['analytic-cifar10']} and {counts['embedded']} images from seed "
        f"{data['first_seed']}, default grids; K of eps is K Langevin steps a level of that size. Presets: "
        f"{', '.join(f'{gain:g} of {name}' for name, gain in gains.items())}, 0 of dpmpp-2m. * below plain in each of "
        f"{data['blocks']} disjoint seed blocks."
    )
    return "\n".join([*lines, "", note, "", f"Made by `{data['command']}`."])


def langevin_geometries_table() -> str:
    """The corrector's geometry against the isotropic one and LML's own factors."""
    data = json.loads((RESULTS / "langevin_corrector.json").read_text())
    at = next(row for row in data["rows"] if row["geometry"] == "predictions")
    keys = ("sampler", "nfe", "steps", "step_size", "gain")
    names = ("isotropic", "differences", "predictions")
    lines = ["| model | plain | " + " | ".join(names) + " |", "|---" * 5 + "|"]
    for model in data["num_images"]:
        mine = [row for row in data["rows"] if row["model"] == model]
        plain = next(
            r for r in mine if (r["sampler"], r["nfe"], r["steps"], r["gain"]) == (at["sampler"], at["nfe"], 0, 0)
        )
        found = {r["geometry"]: r["fd"] for r in mine if all(r[key] == at[key] for key in keys)}
        lines.append(f"| {model} | {plain['fd']:.3f} | " + " | ".join(f"{found[name]:.3f}" for name in names) + " |")
    note = (
        f"Frechet distances of {at['sampler']} at {at['nfe']} evaluations with {at['steps']} Langevin step of size "
        f"{at['step_size']:g} a level; the same run."
    )
    return "\n".join([*lines, "", note])


TABLES = {
    "reproduce-presets": reproduce_presets_table,
    "reproduce": reproduce_table,
    "overhead": overhead_table,
    "overhead-steps": overhead_steps_table,
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
    "embedded-speed": embedded_speed_table,
    "theory-spectra": theory_spectra_table,
    "theory-directions": theory_directions_table,
    "theory-sampling": theory_sampling_table,
    "theory-orders": theory_orders_table,
    "langevin-samplers": langevin_samplers_table,
    "langevin-corrector": langevin_corrector_table,
    "langevin-geometries": langevin_geometries_table,
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

"""The tables of docs/theory.md and docs/langevin.md; `benchmarks/tables.py` writes them."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"


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
    "theory-spectra": theory_spectra_table,
    "theory-directions": theory_directions_table,
    "theory-sampling": theory_sampling_table,
    "theory-orders": theory_orders_table,
    "langevin-samplers": langevin_samplers_table,
    "langevin-corrector": langevin_corrector_table,
    "langevin-geometries": langevin_geometries_table,
}

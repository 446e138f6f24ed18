"""The figures of docs/theory.md, from benchmarks/results/theory.json; `benchmarks/theory.py` calls `draw`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt

IMAGES = Path(__file__).parents[1] / "docs" / "images" / "theory"
SIZE = {"dpi": 120}
BLUE, ORANGE, GREEN, RED, PURPLE, GREY = "C0", "C1", "C2", "C3", "C4", "0.45"
LEVEL = "s = sigma / alpha (noise falls to the right)"


def draw(record: dict[str, Any]) -> None:
    """Draw and save every figure of a result file's record."""
    IMAGES.mkdir(parents=True, exist_ok=True)
    plt.rcParams.update({"legend.frameon": False, "legend.fontsize": 8, "axes.titlesize": 10, "axes.labelsize": 9})
    spectrum(record["spectra"]["cifar"])
    approximation(record["spectra"])
    angles(record["directions"])
    damping(record["dampings"])
    order(record["orders"])
    sampling(record["sampling"])


def _save(figure: Any, name: str) -> None:
    figure.savefig(IMAGES / f"{name}.png", **SIZE)
    plt.close(figure)


def _over_levels(axis: Any) -> None:
    axis.set(xscale="log", xlabel=LEVEL)
    if not axis.xaxis_inverted():  # which shared axes already are
        axis.invert_xaxis()


def spectrum(rows: list[dict[str, Any]]) -> None:
    """The eigenvalues of J, and what a low-rank term of either sign leaves."""
    figure, axes = plt.subplots(1, 2, figsize=(9, 3.6), layout="constrained")
    colours = plt.get_cmap("viridis")
    shown = rows[1:7]
    for k, row in enumerate(shown):
        values = row["lowest"][:300]
        axes[0].plot(range(1, len(values) + 1), values, color=colours(k / len(shown)), label=f"s = {row['s']:.2g}")
    axes[0].axhline(0, color="0.8", lw=0.8, zorder=0)
    axes[0].set(
        xscale="log", xlabel="eigenvalue, from the smallest", ylabel="eigenvalue of J", title="300 smallest of 3072"
    )
    axes[0].set_ylim(-0.55, 1.05)
    axes[0].legend(ncols=3, loc="lower right")
    row = min(rows, key=lambda r: abs(r["s"] - 0.73))
    axes[1].plot(row["ranks"], row["floor_added"], "o-", ms=3, color=RED, label="c I + (rank r), as LML's")
    axes[1].plot(row["ranks"], row["floor_subtracted"], "s-", ms=3, color=BLUE, label="c I - (rank r)")
    axes[1].set_xscale("symlog", linthresh=1)
    axes[1].set(
        xlabel="rank r",
        ylabel="least error / largest |eigenvalue|",
        title=f"What the best low-rank term leaves, s = {row['s']:.2g}",
        ylim=(0, None),
        xlim=(0, row["ranks"][-1]),
    )
    axes[1].legend(loc="center left", bbox_to_anchor=(0, 0.7))
    _save(figure, "spectrum")


def approximation(spectra: dict[str, Any]) -> None:
    """Errors of LML's operator over the levels, between their floor and their bound."""
    figure, axes = plt.subplots(2, 2, figsize=(9, 6.4), layout="constrained", sharey="row", sharex="col")
    titles = {"small": "4 components in 32 dimensions", "cifar": "CIFAR-10 mixture, 3072 dimensions"}
    for column, (case, title) in enumerate(titles.items()):
        rows = spectra[case]
        s = [row["s"] for row in rows]
        for line, norm in enumerate(("operator", "frobenius")):
            axis = axes[line, column]
            axis.plot(s, [row["identity"][norm] for row in rows], "-", lw=4, color="0.75", label="c I, the identity")
            axis.plot(s, [row["factor"][norm] for row in rows], ":", color="k", label="best c I + (any rank one)")
            axis.plot(
                s, [row["kappa 0.5, mu 1"][norm] for row in rows], "o-", ms=3, color=BLUE, label="LML, kappa 0.5, mu 1"
            )
            axis.plot(
                s, [row["gain 0.5"][norm] for row in rows], "s-", ms=3, color=ORANGE, label="LML, kappa 0.001, mu 0.002"
            )
            if norm == "operator":
                axis.plot(s, [row["kappa 0.5, mu 1"]["bound"] for row in rows], "--", color=BLUE, label="bound for it")
                axis.set(title=title, ylim=(0, 1.6))
            else:
                axis.set(ylim=(0, 1.05))
            _over_levels(axis)
            if line == 0:
                axis.set_xlabel("")
    axes[0, 0].set_ylabel("relative error, operator norm")
    axes[1, 0].set_ylabel("relative error, Frobenius norm")
    axes[0, 0].legend(ncols=2, loc="upper center")
    _save(figure, "approximation")


def angles(rows: list[dict[str, Any]]) -> None:
    """How far each direction is from the solution's, and which way it turns the prediction."""
    figure, axes = plt.subplots(1, 2, figsize=(9, 3.6), layout="constrained")
    s = [row["s"] for row in rows]
    axes[0].plot(s, [row["plain_to_solution"] for row in rows], "-", lw=3, color=GREY, label="n, plain")
    axes[0].plot(s, [row["lml_to_solution"] for row in rows], "o-", ms=3, color=BLUE, label="LML, log-linear gain")
    axes[1].plot(s, [row["lml_turn_cosine"] for row in rows], "o-", ms=3, color=BLUE, label="LML")
    axes[1].plot(s, [row["bend_to_hessian"] for row in rows], ":", color="k", label="J n, the Hessian applied")
    for damping, colour in zip(("1", "10"), (RED, ORANGE), strict=True):
        label = f"damped Newton, lambda {damping}"
        axes[0].plot(s, [row["newton"][damping]["to_solution"] for row in rows], "s-", ms=3, color=colour, label=label)
        axes[1].plot(s, [row["newton"][damping]["turn_cosine"] for row in rows], "s-", ms=3, color=colour, label=label)
    axes[0].set(yscale="log", ylabel="angle to the solution's direction, degrees")
    axes[1].axhline(0, color="0.8", lw=0.8, zorder=0)
    axes[1].set(ylim=(-1.05, 1.05), ylabel="cosine of its turn to the solution's")
    for axis in axes:
        _over_levels(axis)
    axes[0].legend()
    axes[1].legend(loc="center right")
    _save(figure, "angles")


def damping(record: dict[str, Any]) -> None:
    """The damped direction between the prediction and the undamped limit."""
    figure, axes = plt.subplots(1, 2, figsize=(9, 3.6), layout="constrained")
    rows = record["lml"]["rows"]
    mu = [row["mu"] for row in rows]
    axes[0].plot(mu, [row["to_undamped"] for row in rows], color=RED, label="to the undamped direction")
    axes[0].plot(mu, [row["to_plain"] for row in rows], color=BLUE, label="to n")
    axes[0].plot(mu, [row["bound"] for row in rows], "--", color=BLUE, label="to n, the largest possible")
    axes[0].set(xscale="log", xlabel="relative damping mu", ylabel="mean angle, degrees", title="LML, kappa 0.5")
    rows = record["newton"]["rows"]
    lam = [10 ** (0.25 * k) for k in range(-24, 17)]
    axes[1].plot(lam, [row["to_plain"] for row in rows], color=BLUE, label="to n")
    axes[1].plot(lam, [row["bound"] for row in rows], "--", color=BLUE, label="largest possible")
    axes[1].set(
        xscale="log",
        xlabel="lambda above the least that is definite",
        title=f"exact Hessian, 32 dimensions, s = {record['newton']['s']:.2g}",
    )
    for axis in axes:
        axis.set_ylim(0, None)
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=3)
    _save(figure, "damping")


def order(record: dict[str, Any]) -> None:
    """Errors against the number of steps, on an uneven grid."""
    figure, axes = plt.subplots(1, 2, figsize=(9, 3.8), layout="constrained")
    steps = record["steps"]
    styles = {
        "plain": (GREY, "-"),
        "lml, gain 1/2": (ORANGE, "-"),
        "lml, gain h / 2h'": (BLUE, "-"),
        "lml, gain h / 2h', length forecast": (GREEN, "-"),
        "lml, log-linear gain, length forecast": (PURPLE, "-"),
        "Adams-Bashforth": ("k", ":"),
        "Adams-Bashforth after lml, gain 0.3": (RED, "--"),
    }
    for axis, case in zip(axes, ("gaussian", "mixture"), strict=True):
        for label, (colour, line) in styles.items():
            axis.plot(steps, record[case][label], line, color=colour, marker=".", label=label)
        for power, (label, below) in {1: ("plain", 1.7), 2: ("Adams-Bashforth", 0.5)}.items():
            last = below * record[case][label][-1]
            axis.plot(steps[3:], [last * (steps[-1] / n) ** power for n in steps[3:]], color="0.8", lw=1, zorder=0)
            axis.text(steps[-1] * 1.1, last, f"order {power}", color="0.5", fontsize=8, va="center")
        axis.set_xlim(steps[0] * 0.8, steps[-1] * 2.6)
        axis.set(xscale="log", yscale="log", xlabel="steps")
    axes[0].set_ylabel("RMSE to the exact solution")
    axes[0].set_title("Gaussian, closed form")
    axes[1].set_title("mixture in 32 dimensions")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=3)
    _save(figure, "order")


def sampling(rows: list[dict[str, Any]]) -> None:
    """The error of samples against network evaluations, for every direction."""
    figure, axes = plt.subplots(1, 2, figsize=(9, 4.2), layout="constrained", sharey=True)
    styles = {
        "plain": (GREY, "-", 2.5),
        "lml, gain 0.7": (BLUE, "-", 1.2),
        "lml, log-linear gain": (GREEN, "-", 1.2),
        "lml, log-linear gain, length forecast": (GREEN, ":", 1.2),
        "hessian applied": (PURPLE, "--", 1.2),
        "newton, lambda 0.3": ("#7f1d1d", "-", 1.2),
        "newton, lambda 1": (RED, "-", 1.2),
        "newton, lambda 10": (ORANGE, "-", 1.2),
    }
    for axis, grid in zip(axes, ("uniform in log s", "uniform in time"), strict=True):
        mine = [row for row in rows if row["grid"] == grid]
        for label, (colour, line, width) in styles.items():
            axis.plot(
                [row["nfe"] for row in mine],
                [row["rmse"][label] for row in mine],
                line,
                lw=width,
                color=colour,
                marker=".",
                label=label,
            )
        axis.set(yscale="log", xlabel="network evaluations", title=f"grid {grid}")
    axes[0].set_ylabel("RMSE to the converged solution")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=4)
    _save(figure, "sampling")

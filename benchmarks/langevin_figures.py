"""The figures of docs/langevin.md, from the result files: `python benchmarks/langevin_figures.py`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt

from _common import RESULTS

IMAGES = Path(__file__).parents[1] / "docs" / "images" / "langevin"
SIZE = {"dpi": 120}
GREY, BLUE, ORANGE, GREEN, RED, PURPLE = "0.45", "C0", "C1", "C2", "C3", "C4"
TITLES = {
    "stiff": "16 of 256 directions stiff, 1e4",
    "log-uniform": "256 curvatures from 1 to 1e4",
    "two-modes": "two modes, 8 of 64 stiff, 1e3",
}


def samplers(rows: list[dict[str, Any]]) -> None:
    """Effective samples a gradient, of the worst coordinate and of the median one."""
    names = list(dict.fromkeys(row["sampler"] for row in rows))
    figure, axes = plt.subplots(1, 3, figsize=(11, 3.8), layout="constrained", sharey=True)
    for axis, (target, title) in zip(axes, TITLES.items(), strict=True):
        for row in (row for row in rows if row["target"] == target):
            place = len(names) - names.index(row["sampler"])
            colour = BLUE if row["sampler"].startswith("LML") else GREY
            worst, median = row["ess_min_per_1000"], row["ess_median_per_1000"]
            axis.plot([worst, median], [place, place], color=colour, lw=1)
            axis.plot([worst], [place], "o", color=colour)
            axis.plot([median], [place], "o", color=colour, mfc="white")
        plain = max(r["ess_min_per_1000"] for r in rows if r["target"] == target and r["sampler"].startswith("MALA"))
        axis.axvline(3 * plain, color=RED, lw=0.8, ls=":")
        axis.set(xscale="log", title=title, xlabel="effective samples / 1000 gradients")
    axes[0].set_yticks(range(len(names), 0, -1), names)
    _save(figure, "samplers")


def corrector(rows: list[dict[str, Any]]) -> None:
    """Frechet distances against network evaluations, with and without Langevin steps."""
    styles = {
        (False, 0, None): ("plain", GREY, "-"),
        (True, 0, None): ("LML, preset gain", GREEN, "-"),
        (False, 1, 0.1): ("1 Langevin step of 0.1", BLUE, "-"),
        (False, 1, 0.2): ("1 of 0.2", ORANGE, "-"),
        (False, 1, 0.4): ("1 of 0.4", RED, "-"),
        (False, 3, 0.1): ("3 of 0.1", PURPLE, "-"),
        (True, 1, 0.1): ("preset gain and 1 of 0.1", GREEN, ":"),
    }
    models, names = (list(dict.fromkeys(row[key] for row in rows)) for key in ("model", "sampler"))
    figure, axes = plt.subplots(1, len(models) * len(names), figsize=(11, 3.6), layout="constrained")
    panels = [(model, name) for model in models for name in names]
    for axis, (model, name) in zip(axes, panels, strict=True):
        mine = [row for row in rows if (row["model"], row["sampler"], row["geometry"]) == (model, name, "differences")]
        for key, (label, colour, line) in styles.items():
            arm = [row for row in mine if (bool(row["gain"]), row["steps"], row["step_size"]) == key]
            style = {"color": colour, "ls": line, "marker": ".", "label": label}
            axis.plot([row["nfe"] for row in arm], [row["fd"] for row in arm], **style)
        ticks = sorted({row["nfe"] for row in mine})
        axis.set(yscale="log", xlabel="network evaluations", title=f"{model}, {name}", xticks=ticks)
    axes[0].set_ylabel("Frechet distance")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=4)
    _save(figure, "corrector")


def _save(figure: Any, name: str) -> None:
    IMAGES.mkdir(parents=True, exist_ok=True)
    figure.savefig(IMAGES / f"{name}.png", **SIZE)
    plt.close(figure)


def main() -> None:
    """Draw both."""
    plt.rcParams.update({"legend.frameon": False, "legend.fontsize": 8, "axes.titlesize": 9, "axes.labelsize": 9})
    samplers(json.loads((RESULTS / "langevin.json").read_text())["rows"])
    corrector(json.loads((RESULTS / "langevin_corrector.json").read_text())["rows"])


if __name__ == "__main__":
    main()

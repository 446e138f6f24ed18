"""Draw what LML does to a prediction, on the analytic model: `python benchmarks/rotation_figure.py`.

An Euler sampler (DDIM) with a constant gain goes through its run, and at every step the direction that the exact
solution takes from there to the next level is computed as well. Writes benchmarks/results/rotation.json and
docs/images/rotation.png, in half a minute on one core.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import torch

from _common import RESULTS, noise_for, save
from lmlangevin.generation.models import VP_CONFIG
from lmlangevin.reference import load_analytic
from lmlangevin.schedulers import build_scheduler
from lmlangevin.theory import ProbabilityFlow, angle, rotate

IMAGE = Path(__file__).parents[1] / "docs" / "images" / "rotation.png"
STEPS, GAIN, GRID = 8, 0.7, "trailing"  # the preset gain of this grid
SEEDS = range(9_700_000, 9_700_016)
SHOWN = 5  # the step and the seed of the left picture, chosen before it was drawn
LAST_LEVEL = 0.002  # in place of 0 at the end, where the exact prediction divides by s
ENLARGED = 12


def measure() -> list[dict[str, Any]]:
    """Return the angles of every step but the first, in degrees, means over the seeds."""
    flow = ProbabilityFlow(load_analytic(dtype=torch.float64))
    scheduler = build_scheduler("euler", dict(VP_CONFIG), grid=GRID)
    scheduler.set_timesteps(STEPS)
    levels = [max(float(s), LAST_LEVEL) for s in scheduler.sigmas]
    y = noise_for(SEEDS).double() * (1 + levels[0] ** 2) ** 0.5
    rows, previous = [], None
    for k, (now, later) in enumerate(zip(levels[:-1], levels[1:], strict=True)):
        n = flow.slope(y, now)
        solution = (flow.advance(y, now, later) - y) / (later - now)
        direction = n if previous is None else rotate(n, previous, GAIN)
        if previous is not None:
            rows.append({"step": k, "s": now, **compare(n, previous, direction, solution)})
        y, previous = y + (later - now) * direction, n
    return rows


def compare(n: torch.Tensor, previous: torch.Tensor, direction: torch.Tensor, solution: torch.Tensor) -> dict[str, Any]:
    """Compare one step's four vectors, each (seeds, *event)."""
    flat, others = n.flatten(1), [v.flatten(1) for v in (previous, direction, solution)]
    along = flat / flat.norm(dim=1, keepdim=True)
    across = others[1] - along * (others[1] * along).sum(1, keepdim=True)
    across = across / across.norm(dim=1, keepdim=True)  # the side that LML turns to

    def in_plane(v: torch.Tensor) -> torch.Tensor:
        return torch.stack([(v * along).sum(1), (v * across).sum(1)], dim=1)

    def degrees(a: torch.Tensor, b: torch.Tensor) -> float:
        return float(angle(a, b).rad2deg().mean())

    plane = {name: in_plane(v) for name, v in zip(("previous", "lml", "solution"), others, strict=True)}
    turned = torch.atan2(plane["solution"][:, 1], plane["solution"][:, 0]).rad2deg()
    length = flat[0].norm()
    return {
        "previous_to_n": degrees(previous, n),
        "n_to_lml": degrees(n, direction),
        "n_to_solution_in_the_plane": float(turned.mean()),
        "n_to_solution": degrees(n, solution),
        "lml_to_solution": degrees(direction, solution),
        "seeds_in_which_lml_is_nearer": int((angle(direction, solution) < angle(n, solution)).sum()),
        # Of the first seed: components along and across n, in units of its length.
        "first_seed": {name: (v[0] / length).tolist() for name, v in plane.items()},
    }


def draw(rows: list[dict[str, Any]]) -> None:
    """Draw one step's plane, the turns of all steps, and what is left to the solution's direction."""
    figure, axes = plt.subplots(1, 3, figsize=(11, 3.8), layout="constrained", width_ratios=(1, 1.1, 1.1))
    row = next(row for row in rows if row["step"] == SHOWN)
    names = {"previous": ("previous n", "0.55"), "n": ("n", "C0"), "lml": ("LML", "C3"), "solution": ("solution", "k")}
    arrows = {**row["first_seed"], "n": [1.0, 0.0]}
    for name, (label, colour) in names.items():
        vector = torch.tensor(arrows[name], dtype=torch.float64)
        turn = torch.atan2(vector[1], vector[0]) * ENLARGED
        tip = vector.norm() * torch.stack([turn.sin(), turn.cos()])
        style = {"arrowstyle": "-|>", "color": colour, "lw": 1.8, "shrinkA": 0, "shrinkB": 0}
        axes[0].annotate("", tip.tolist(), (0, 0), arrowprops=style | ({"ls": "--"} if name == "solution" else {}))
        axes[0].text(*(tip * (1.2 if name == "lml" else 1.08)).tolist(), label, color=colour, ha="center", fontsize=9)
    circle = torch.linspace(-0.7, 0.7, 60)
    axes[0].plot(circle.sin(), circle.cos(), color="0.85", lw=1, zorder=0)
    axes[0].set(xlim=(-0.75, 0.75), ylim=(-0.05, 1.3), aspect="equal")
    axes[0].set_title(f"one image, s = {row['s']:.2f}\nangles drawn {ENLARGED} times as large", fontsize=10)
    axes[0].axis("off")
    levels = [row["s"] for row in rows]
    axes[1].plot(levels, [row["previous_to_n"] for row in rows], "o-", color="0.55", label="from the previous n to n")
    axes[1].plot(levels, [row["n_to_lml"] for row in rows], "o-", color="C3", label=f"LML's turn, gain {GAIN:g}")
    in_plane = [row["n_to_solution_in_the_plane"] for row in rows]
    axes[1].plot(levels, in_plane, "o--", color="k", label="the solution's, in the plane")
    axes[1].set(ylabel="degrees", title="how far each turns")
    axes[2].plot(levels, [row["n_to_solution"] for row in rows], "o-", color="C0", label="n")
    axes[2].plot(levels, [row["lml_to_solution"] for row in rows], "o-", color="C3", label="LML")
    axes[2].set(ylabel="degrees", title="angle to the solution's direction")
    for axis in axes[1:]:
        axis.set(xscale="log", xlabel="s = sigma / alpha (noise falls to the right)", ylim=(0, None))
        axis.invert_xaxis()
        axis.title.set_fontsize(10)
        axis.legend(frameon=False, fontsize=8)
    figure.savefig(IMAGE, dpi=120)


def main() -> None:
    """Measure, save and draw."""
    torch.set_num_threads(1)
    rows = measure()
    settings = {"first_seed": SEEDS[0], "num_seeds": len(SEEDS), "steps": STEPS, "gain": GAIN, "grid": GRID}
    save(RESULTS / "rotation.json", {**settings, "rows": rows})
    draw(rows)


if __name__ == "__main__":
    main()

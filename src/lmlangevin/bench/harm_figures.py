"""The picture of a control's matrix: a row a sampler on a grid, a column a cost, a colour for what becomes of it."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from lmlangevin.bench.canvas import finish, measure_title, model_title, new_axes
from lmlangevin.bench.cells import Cell
from lmlangevin.bench.harm import Effect, Harm, measure_harm
from lmlangevin.bench.results import PartData
from lmlangevin.bench.tables import title

RANGE = 1.0
"""Colours reach from a half to twice the plain value: this many powers of two."""
ROW_HEIGHT = 0.155
COLOURS = "RdBu_r"
"""Blue falls, red rises, white is no change; colour-blind readers can tell the two apart."""
SHADES = 41
"""Few enough for a small PNG; odd, so that no change is white."""
HARMED: dict[str, Any] = {"edgecolor": "#000000", "linewidth": 1.8}
RAISED: dict[str, Any] = {"edgecolor": "#404040", "linewidth": 0.8, "linestyle": ":"}
LEFT_OUT: dict[str, Any] = {"facecolor": "#DDDDDD", "edgecolor": "#999999", "hatch": "////", "linewidth": 0}

Row = tuple[str, str, str]
"""Sampler, grid, final."""


def write_harm(data: PartData, control: str, path: Path) -> None:
    """Draw the matrix of a control: a panel a measure."""
    found = [measure_harm(data, control, measure) for measure in data.measures()]
    rows = list(dict.fromkeys(_row(cell) for harm in found for cell in _cells(harm)))
    costs = sorted({cell.nfe for harm in found for cell in _cells(harm)})
    figure, axes = new_axes(1, len(found), height=ROW_HEIGHT * len(rows) + 2.2)
    mesh = None
    for index, (axis, harm) in enumerate(zip(axes[0], found, strict=True)):
        mesh = _panel(axis, harm, rows, costs)
        axis.set_title(measure_title(data, harm.measure), fontsize=10)
        names = [" ".join((title(sampler), grid, final)).strip() for sampler, grid, final in _shown(rows)]
        axis.set_yticks(range(len(rows)), names if index == 0 else [""] * len(rows), fontsize=6.5)
    bar = figure.colorbar(mesh, ax=axes[0], location="bottom", shrink=0.5, aspect=40, pad=0.01, extend="both")
    ticks = [-RANGE, -RANGE / 2, 0, RANGE / 2, RANGE]
    bar.set_ticks(ticks, labels=[f"{2**tick:.2g}" for tick in ticks])
    bar.ax.tick_params(labelsize=8)
    bar.set_label(f"{control} over plain, means of the blocks", fontsize=8.5)
    heading = f"{model_title(data)}: what the {control} control makes of every cell"
    finish(figure, {}, path, heading, rare=True)  # a few harmed cells among hundreds are what is looked for


def _panel(axis: Any, harm: Harm, rows: list[Row], costs: list[int]) -> Any:
    """Draw one measure and return what the colour bar belongs to."""
    from matplotlib import colormaps
    from matplotlib.patches import Rectangle

    grid = [[math.nan] * len(costs) for _ in rows]
    for effect in harm.effects:
        x, y = costs.index(effect.cell.nfe), rows.index(_row(effect.cell))
        grid[y][x] = _colour(effect)
        axis.text(x, y, _text(effect), ha="center", va="center", fontsize=5.5, color=_ink(grid[y][x]))
        if effect.verdict == "harmed" or effect.raised:
            looks = HARMED if effect.verdict == "harmed" else RAISED
            axis.add_patch(Rectangle((x - 0.46, y - 0.46), 0.92, 0.92, fill=False, zorder=3, **looks))
    for figures in harm.left_out:
        x, y = costs.index(figures.cell.nfe), rows.index(_row(figures.cell))
        axis.add_patch(Rectangle((x - 0.5, y - 0.5), 1, 1, zorder=2, **LEFT_OUT))
    colours = colormaps[COLOURS].resampled(SHADES)
    mesh = axis.imshow(grid, cmap=colours, vmin=-RANGE, vmax=RANGE, aspect="auto", interpolation="nearest")
    axis.set_xticks(range(len(costs)), [str(cost) for cost in costs], fontsize=7.5)
    axis.set_xlabel("network evaluations of an image (NFE)", fontsize=9)
    axis.tick_params(length=0)
    for y in range(1, len(rows)):
        if rows[y][0] != rows[y - 1][0]:
            axis.axhline(y - 0.5, color="#000000", linewidth=0.7)
    return mesh


def _colour(effect: Effect) -> float:
    """Return the power of two that a cell's colour stands for; lost images are as bad as can be shown."""
    ratio = effect.change.ratio
    if ratio is None or not math.isfinite(ratio):
        return RANGE
    return max(-RANGE, min(RANGE, math.log2(ratio))) if ratio > 0 else -RANGE


def _text(effect: Effect) -> str:
    ratio = effect.change.ratio
    if effect.lost or ratio is None:
        return "lost"
    return "1" if ratio == 1 else f"{ratio:.2f}"  # a cell that is untouched is told from one that changes little


def _ink(colour: float) -> str:
    return "#FFFFFF" if abs(colour) > 0.5 * RANGE else "#202020"


def _cells(harm: Harm) -> list[Cell]:
    return [effect.cell for effect in harm.effects] + [figures.cell for figures in harm.left_out]


def _row(cell: Cell) -> Row:
    return cell.sampler, cell.grid, cell.final


def _shown(rows: list[Row]) -> list[Row]:
    """Return rows for people: where a step ends is said only if it tells rows apart."""
    apart = len({row[:2] for row in rows}) < len(rows)
    return [(sampler, grid, final if apart else "") for sampler, grid, final in rows]

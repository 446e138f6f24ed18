"""The curves of a result: the measure against the number of evaluations, one panel a sampler and category."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from statistics import fmean
from typing import Any

from lmlangevin.reproduce.table import ARMS, heading

_COLOURS = {"plain": "#555555", "lml": "#b03010", "release": "#3070b0"}
_STYLES = {"plain": "o-", "lml": "s-", "release": "x--"}
_OTHERS = ("#2a9d5c", "#8e44ad", "#d98e04", "#1b9aaa", "#c0507a", "#7a6a4f")
_COLUMNS = 2


def draw_curves(content: Mapping[str, Any], path: Path) -> None:
    """Draw a result, means over blocks with bands from the lowest to the highest block.

    Args:
        content: What `result.json` holds.
        path: PNG file to write.

    Raises:
        LMLError: There is no matplotlib.
    """
    from lmlangevin.bench.canvas import finish, new_axes
    from lmlangevin.schedulers.names import find_scheduler

    rows = list(content["cells"].values())
    panels = list(dict.fromkeys((row.get("category", ""), row["sampler"]) for row in rows if len(row["arms"]) > 1))
    # Without arms, each category's plain samplers share a panel.
    panels = panels or list(dict.fromkeys((row.get("category", ""), "") for row in rows))
    columns = min(_COLUMNS, len(panels))
    height = 3.2 * ((len(panels) + columns - 1) // columns) + 0.8
    figure, axes = new_axes((len(panels) + columns - 1) // columns, columns, height=height)
    flat = [axis for row in axes for axis in row]
    handles: dict[str, Any] = {}
    for axis in flat[len(panels) :]:
        axis.set_visible(False)
    for axis, (category, sampler) in zip(flat, panels, strict=False):
        mine = [row for row in rows if row.get("category", "") == category]
        for arm, title in ARMS.items() if sampler else ():
            points = {row["nfe"]: row["arms"][arm]["blocks"] for row in mine if row["sampler"] == sampler}
            handles[title] = _line(axis, points, _STYLES[arm], _COLOURS[arm], band=True)
        others = dict.fromkeys(row["sampler"] for row in mine if len(row["arms"]) == 1)
        for shade, other in enumerate(others):
            points = {row["nfe"]: row["arms"]["plain"]["blocks"] for row in mine if row["sampler"] == other}
            title = f"{find_scheduler(other).title}, plain"
            handles[title] = _line(axis, points, ".:", _OTHERS[shade % len(_OTHERS)], band=False)
        words = [find_scheduler(sampler).title if sampler else "", category]
        axis.set_title(", ".join(filter(None, words)), fontsize=10)
        axis.set_xlabel("network evaluations of an image")
        axis.set_xticks(sorted({row["nfe"] for row in rows}))
        axis.set_ylabel(content["measure"].get("label", ""))
        if content["measure"].get("kind") == "fid":
            axis.set_yscale("log")
            for ticks in (axis.yaxis.set_major_formatter, axis.yaxis.set_minor_formatter):
                ticks("{x:g}")
        axis.grid(alpha=0.3)
    finish(figure, handles, path, heading(content), rare=True)


def _line(axis: Any, points: dict[int, list[float]], style: str, colour: str, *, band: bool) -> Any:
    costs = sorted(points)
    line = axis.plot(costs, [fmean(points[n]) for n in costs], style, color=colour, markersize=4, linewidth=1.3)[0]
    if band:
        axis.fill_between(
            costs, [min(points[n]) for n in costs], [max(points[n]) for n in costs], color=colour, alpha=0.15, lw=0
        )
    return line

"""The plot of the correction: how far LML turns each prediction, and by which gains."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from typing import Any

from lmlangevin.core.errors import LMLError

SIZE = (9.0, 1.95)
"""Width and height in inches, which give the picture its proportions."""

_INK, _FAINT = "#30343b", "#d9dce1"
_COLOURS = ("#b03010", "#2a6fb0", "#6a8f2b", "#8a5aa8")


def correction_svg(timesteps: Sequence[float], corrections: Sequence[Mapping[str, Any]]) -> str:
    """Draw what LML did at each step: the angle, and the gain of each previous prediction, against the time step.

    Args:
        timesteps: The sampler's, in their order; none draws the empty axes.
        corrections: For each of them `"angle"` in radians and `"gain"`, one number a previous prediction, as a
            manifest has them; means over images.

    Returns:
        An SVG picture, as wide as what it is put into. Time runs from left to right, noise to image.

    Raises:
        LMLError: If matplotlib is not installed.
    """
    try:
        import matplotlib
        from matplotlib.backends.backend_svg import FigureCanvasSVG
        from matplotlib.figure import Figure
    except ImportError as error:
        raise LMLError("app: its plot needs matplotlib; run pip install 'lmlangevin[app]'.") from error
    # A figure of its own: pyplot would keep it, and is not to be used from several threads.
    figure = Figure(figsize=SIZE, layout="constrained")
    FigureCanvasSVG(figure)
    angle, gain = figure.subplots(1, 2)
    steps = list(timesteps)[: len(corrections)]
    degrees = [math.degrees(step["angle"]) for step in corrections]
    angle.plot(steps, degrees, "o-", color=_COLOURS[0], markersize=4, linewidth=1.6)
    for row, values in enumerate(_rows(corrections)):
        label = f"of the prediction {row + 1} step{'s' * (row > 0)} before"
        gain.plot(steps, values, "o-", color=_COLOURS[row % len(_COLOURS)], markersize=4, linewidth=1.6, label=label)
    for axes, title in ((angle, "angle of the correction, degrees"), (gain, "gain")):
        _dress(axes, title, empty=not steps)
    if len(_rows(corrections)) > 1:
        gain.legend(fontsize=7.5, frameon=False)
    stream = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "font.family": "sans-serif"}):
        figure.savefig(stream, format="svg", transparent=True)
    drawn = stream.getvalue()
    return drawn[drawn.index("<svg") :]


def _rows(corrections: Sequence[Mapping[str, Any]]) -> list[list[float]]:
    """Return the gains of each previous prediction; early steps have fewer of them than later ones."""
    count = max((len(step["gain"]) for step in corrections), default=0)
    return [[step["gain"][j] if j < len(step["gain"]) else 0.0 for step in corrections] for j in range(count)]


def _dress(axes: Any, title: str, *, empty: bool) -> None:
    axes.set_title(title, fontsize=9.5, color=_INK, loc="left")
    axes.set_xlabel("time step", fontsize=8.5, color=_INK)
    axes.set_xlim(1030, -30)
    if empty:
        axes.set_ylim(0, 1)
        axes.set_yticks([])
    axes.axhline(0, color=_FAINT, linewidth=1, zorder=0)
    axes.grid(color=_FAINT, linewidth=0.6, alpha=0.7)
    axes.tick_params(labelsize=8, colors=_INK, length=0)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set_color(_FAINT)

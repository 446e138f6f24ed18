"""The plot of the correction: how far LML turns each prediction, and by which gains."""

from __future__ import annotations

import io
import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any

from lmlangevin.core.errors import LMLError
from lmlangevin.install import install_hint

SIZE = (4.5, 1.95)
"""Width and height in inches of each of the two, which give it its proportions."""

_INK, _FAINT = "#30343b", "#d9dce1"
_COLOURS = ("#b03010", "#2a6fb0", "#6a8f2b", "#8a5aa8")

Line = tuple[str, Sequence[float]]


def correction_html(timesteps: Sequence[float], corrections: Sequence[Mapping[str, Any]]) -> str:
    """Draw what LML did at each step: the angle, and the gain of each previous prediction, against the time step.

    Args:
        timesteps: The sampler's, in their order; none draws the empty axes.
        corrections: For each of them `"angle"` in radians and `"gain"`, one number a previous prediction, as a
            manifest has them; means over images.

    Returns:
        Two SVG pictures in one element, beside each other where there is room. Time runs from left to right, noise to
        image.

    Raises:
        LMLError: If matplotlib is not installed.
    """
    steps = list(timesteps)[: len(corrections)]
    degrees = [math.degrees(step["angle"]) for step in corrections]
    gains = [(f"{row + 1} step{'s' * (row > 0)} back", values) for row, values in enumerate(_rows(corrections))]
    drawn = _svg("angle of the correction, degrees", steps, [("", degrees)]) + _svg("gain", steps, gains)
    return f'<div class="lml-plots">{drawn}</div>'


def _svg(title: str, steps: Sequence[float], lines: Sequence[Line]) -> str:
    """Return one plot; its lines are named where there are several."""
    try:
        import matplotlib
        from matplotlib.backends.backend_svg import FigureCanvasSVG
        from matplotlib.figure import Figure
    except ImportError as error:
        raise LMLError(f"app: its plot needs matplotlib; {install_hint('app')}.") from error
    # A figure of its own: pyplot would keep it, and is not to be used from several threads.
    figure = Figure(figsize=SIZE, layout="constrained")
    FigureCanvasSVG(figure)
    axes = figure.subplots()
    for (label, values), colour in zip(lines, itertools.cycle(_COLOURS)):
        axes.plot(steps, values, "o-", color=colour, markersize=4, linewidth=1.6, label=label)
    _dress(axes, title, empty=not steps)
    if len(lines) > 1:
        # Beside the title, where no line is.
        axes.legend(fontsize=8, frameon=False, loc="lower right", bbox_to_anchor=(1, 1), ncols=4, borderaxespad=0)
    stream = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "font.family": "sans-serif"}):
        figure.savefig(stream, format="svg", transparent=True)
    drawn = stream.getvalue()
    return drawn[drawn.index("<svg") :].replace("<svg", f'<svg role="img" aria-label="{title}"', 1)


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

"""What the figures drawn with matplotlib share: a blank one, how it is saved, and its titles."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

from PIL import Image

from lmlangevin.bench.image_rows import write_png
from lmlangevin.bench.results import PartData
from lmlangevin.bench.suite import MIXTURE
from lmlangevin.core.errors import LMLError
from lmlangevin.install import install_hint

WIDTH = 9.0
DPI = 100
"""Width in inches and resolution: 900 pixels."""


def new_axes(rows: int, columns: int, *, height: float) -> tuple[Any, list[list[Any]]]:
    """Return a figure without pyplot, which would leave something behind in the process, and its axes."""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise LMLError(f"figures need matplotlib; {install_hint('bench')}.") from error
    figure = Figure(figsize=(WIDTH, height), dpi=DPI, layout="constrained")
    FigureCanvasAgg(figure)
    return figure, [list(row) for row in figure.subplots(rows, columns, squeeze=False)]


def finish(figure: Any, handles: dict[str, Any], path: Path, heading: str, *, rare: bool = False) -> None:
    """Save a figure with its heading, and a legend below of `handles`, lines by name, if there are any.

    With `rare`, colours that few pixels have are kept apart.
    """
    figure.suptitle(heading, fontsize=11)
    if handles:
        names = sorted(handles, key=lambda name: name.startswith(("best plain", "converged")))
        figure.legend(
            [handles[n] for n in names], names, loc="outside lower center", ncols=3, fontsize=8.5, frameon=False
        )
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=DPI)
    write_png(path, Image.open(buffer), rare=rare)


def model_title(data: PartData) -> str:
    """Return the name of a part's model as a heading has it."""
    name = str(data.settings["model"])
    known = {"embedded": "Embedded network", "analytic-cifar10": "Analytic model"}
    return known.get(name, name.replace(MIXTURE, "Mixture "))


def measure_title(data: PartData, measure: str) -> str:
    """Return what a measure is called in a part's figures."""
    size = data.settings["images"]
    return f"FD of {size} images" if measure == "fd" else "RMSE to the converged solution"

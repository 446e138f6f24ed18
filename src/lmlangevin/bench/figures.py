"""The figures of a benchmark, drawn from its result files; matplotlib is imported only when one is drawn.

One colour and one marker a sampler in all figures; plain samplers have solid lines and open markers, LML dashed lines
and filled ones. Cells with images that are not finite or wild are left out.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from lmlangevin.bench.canvas import finish, measure_title, model_title, new_axes
from lmlangevin.bench.cells import default_grid
from lmlangevin.bench.findings import Order, best_cells, noise_rows, orders
from lmlangevin.bench.harm import measure_harm, paired_controls
from lmlangevin.bench.harm_figures import write_harm
from lmlangevin.bench.image_rows import load_measured_model, shown_samplers, write_images
from lmlangevin.bench.results import Figures, PartData, SuiteData
from lmlangevin.bench.runner import mean
from lmlangevin.bench.tables import arm_text, number, title
from lmlangevin.schedulers.names import find_scheduler

# Okabe and Ito's colours first, which colour-blind readers can tell apart; the markers tell the others apart too.
LOOKS: dict[str, tuple[str, str]] = {
    "ddim": ("#D55E00", "o"),
    "euler": ("#E69F00", "s"),
    "dpmpp-1": ("#999933", "p"),
    "dpmpp-2m": ("#0072B2", "^"),
    "dpmpp-3m": ("#56B4E9", "v"),
    "dpm-3": ("#332288", "D"),
    "unipc": ("#009E73", "P"),
    "deis": ("#CC79A7", "X"),
    "pndm": ("#882255", "<"),
    "sde-dpmpp-2m": ("#777777", "*"),
    "heun": ("#000000", ">"),
    "flow-euler": ("#8B5A2B", "h"),
    "flow-heun": ("#444444", "8"),
    "flow-dpmpp-2m": ("#4477AA", "^"),
    "flow-unipc": ("#228833", "P"),
}
RELEASE_LOOKS: dict[str, tuple[dict[str, Any], ...]] = {
    "float32": ({"marker": "s", "linestyle": "-"}, {"marker": "d", "linestyle": ":"}),
    "float64": ({"marker": "+", "linestyle": ""}, {"marker": "x", "linestyle": ""}),
}
"""The arms of the release in their order, black: float64 has no line, as it lies on that of the plain sampler."""
ETA_COLOURS = ("#B8B8D8", "#8888C0", "#5050A0")

LEAST_POINTS = 3
CAP = 3.0
"""How far above the highest plain curve a figure reaches."""
NFE_TICKS = (5, 6, 7, 8, 10, 12, 15, 20, 30, 50, 100)

IMAGES = "images/benchmarks"
CONTROL_IMAGES = "images/control"
"""Folders of the figures, beside the page."""

Kind = Literal["best", "default", "order", "release", "images", "harm"]


@dataclass(frozen=True, eq=False)
class Planned:
    """A figure for which the data is there.

    Attributes:
        name: File name.
        kind: `"best"` or `"default"`: quality over evaluations on these grids; `"order"`, `"release"`, `"images"`;
            `"harm"`: the matrix of what a control does.
        data: The part that it shows.
        control: Name of that control.
    """

    name: str
    kind: Kind
    data: PartData
    control: str = ""


def images_folder(suite: SuiteData) -> str:
    """Return the folder of a suite's figures, beside its page."""
    return CONTROL_IMAGES if suite.controls_alone else IMAGES


def planned(suite: SuiteData) -> list[Planned]:
    """Return the figures that can be drawn from what was measured."""
    found = []
    for data in suite.parts:
        kind = suite.kind(data)
        costs = {f.cell.nfe for f in data.figures.values()}
        kinds: list[Kind] = []
        if kind == "matrix" and len(costs) >= LEAST_POINTS:
            if any(data.best[s] != default_grid(find_scheduler(s)) for s in data.part.samplers):
                kinds.append("best")
            kinds.append("default")
        if kind == "matrix" and orders(data):
            kinds.append("order")
        if kind == "noise" and len(costs) >= LEAST_POINTS:
            kinds.append("release")
        if kind == "matrix" and data.settings["model"] == "embedded" and shown_samplers(data):
            kinds.append("images")
        start = f"{suite.suite.name}-{data.part.name}"
        found += [Planned(f"{start}-{k}.png", k, data) for k in kinds]
        for control in paired_controls(data):
            if any(measure_harm(data, control, measure).effects for measure in data.measures()):
                found.append(Planned(f"{start}-{control}.png", "harm", data, control))
    return found


def write_figures(suite: SuiteData, folder: Path, load_model: Callable[[PartData], Any] | None = None) -> list[Path]:
    """Draw every figure that the data allows.

    Args:
        suite: What was measured.
        folder: Where the PNG files go; made if it is not there.
        load_model: Returns what has `sample(cell, count=)`, for the figure of images; None loads the part's own model.

    Returns:
        The paths that were written.

    Raises:
        LMLError: If matplotlib is not installed.
    """
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for plan in planned(suite):
        path = folder / plan.name
        if plan.kind == "images":
            write_images(plan.data, path, (load_model or load_measured_model)(plan.data))
        elif plan.kind == "order":
            write_orders(plan.data, path)
        elif plan.kind == "harm":
            write_harm(plan.data, plan.control, path)
        elif plan.kind == "release":
            write_release(suite, plan.data, path)
        else:
            write_quality(plan.data, path, best=plan.kind == "best")
        written.append(path)
    return written


# Curves


def write_quality(data: PartData, path: Path, *, best: bool) -> None:
    """Draw quality over evaluations: a row a measure, plain samplers to the left and LML to the right."""
    measures = [name for name in ("fd", "rmse") if name in data.measures()]
    figure, axes = new_axes(len(measures), 2, height=3.3 * len(measures) + 1.6)
    handles: dict[str, Any] = {}
    for row, measure in zip(axes, measures, strict=True):
        best_plain = [(b.nfe, b.plain.mean(measure)) for b in best_cells(data, measure) if b.plain]
        for axis, lml in zip(row, (False, True), strict=True):
            line = axis.plot(*_xy(best_plain), color="#C8C8C8", linewidth=5, solid_capstyle="round", zorder=0)[0]
            handles["best plain cell of all grids"] = line
            if measure == "fd" and (limit := _converged_fd(data)):
                handles["converged solution"] = axis.axhline(limit, color="#505050", linewidth=1, linestyle=":")
            for sampler in data.part.samplers:
                grid = data.best[sampler] if best else default_grid(find_scheduler(sampler))
                pairs = {p.cell.nfe: p for p in data.curve(sampler, grid).values()}
                gain = next((p.gain for p in pairs.values()), None)
                if lml and not gain:
                    continue
                line = _curve(axis, sampler, {n: p.lml if lml else p.plain for n, p in pairs.items()}, measure, lml=lml)
                if lml:
                    x, y, _, _ = _series({n: p.plain for n, p in pairs.items()}, measure)
                    axis.plot(x, y, color=_look(sampler)[0], linewidth=0.7, zorder=1)
                if line is not None and (not lml or f"{title(sampler)}, {grid}" not in handles):
                    handles[f"{title(sampler)}, {grid}"] = line
            gains = "with LML, gain not 0" if lml else "plain"
            axis.set_title(f"{measure_title(data, measure)}, {gains}", fontsize=10)
            _log_axes(axis, data)
        _share_y(row)
        _cap(row, row[0].lines)
    grids = "best plain" if best else "default"
    finish(figure, handles, path, f"{model_title(data)}: {grids} time grid of each sampler")


def write_orders(data: PartData, path: Path) -> None:
    """Draw the median image's error over evaluations with fitted slopes: plain left, LML right."""
    figure, axes = new_axes(1, 2, height=6.2)
    found = orders(data)
    for axis, lml in zip(axes[0], (False, True), strict=True):
        for order in found:
            pairs = {p.cell.nfe: p for p in data.curve(order.sampler, order.grid).values()}
            slope = order.lml if lml else order.plain
            if slope is not None:
                row = {n: p.lml if lml else p.plain for n, p in pairs.items()}
                line = _curve(axis, order.sampler, row, "median", lml=lml)
                line.set_label(f"{title(order.sampler)}, {order.grid}: {slope.median:.2f}")
        axis.set_title("with LML, gain not 0" if lml else "plain", fontsize=10)
        _log_axes(axis, data)
    _share_y(axes[0])
    for axis in axes[0]:
        axis.set_ylim(bottom=axis.get_ylim()[0] / 8)  # room for the legend
        _reference_slopes(axis, data)
        if axis.get_legend_handles_labels()[0]:
            axis.legend(loc="lower left", fontsize=8, title=f"slope {slope_range(found)}", title_fontsize=8)
    axes[0][0].set_ylabel("RMSE of the median image to its converged solution")
    finish(figure, {}, path, f"{model_title(data)}: error over evaluations, best plain time grid of each sampler")


def slope_range(found: Sequence[Order]) -> str:
    """Return in words over which costs slopes were fitted."""
    count = max((len(order.nfe) for order in found), default=0)
    first, last = min(order.nfe[0] for order in found), max(order.nfe[-1] for order in found)
    return f"over the {count} largest costs, {first} to {last}"


def write_release(suite: SuiteData, data: PartData, path: Path) -> None:
    """Draw the release and injected noise over evaluations: a column a sampler on its default grid, a row a measure."""
    rows = noise_rows(suite, data)
    columns = [s for s in data.part.samplers if (s, default_grid(find_scheduler(s)), "plain") in rows]
    measures = [name for name in ("fd", "rmse") if name in data.measures()]
    figure, axes = new_axes(len(measures), len(columns), height=3.2 * len(measures) + 1.4)
    handles: dict[str, Any] = {}
    for axis_row, measure in zip(axes, measures, strict=True):
        for axis, sampler in zip(axis_row, columns, strict=True):
            grid = default_grid(find_scheduler(sampler))
            arms = {arm: row for (s, g, arm), row in rows.items() if (s, g) == (sampler, grid)}
            for arm, row in arms.items():
                line = _arm_curve(axis, sampler, arm, list(arms), row, measure)
                if line is not None:
                    handles.setdefault(arm_text(arm), line)
                    line.set_label(arm_text(arm).removeprefix("release, "))
            axis.set_title(f"{title(sampler)}, {grid}", fontsize=10)
            _log_axes(axis, data, narrow=len(columns) > 2)
            _cap([axis], [line for line in axis.lines if not line.get_label().startswith("float32")])
        axis_row[0].set_ylabel(measure_title(data, measure))
    finish(figure, handles, path, f"{model_title(data)}: the paper's release, injected noise and LML")


def _arm_curve(
    axis: Any, sampler: str, arm: str, arms: list[str], row: Mapping[int, Figures | None], measure: str
) -> Any:
    if arm in ("plain", "preset"):
        return _curve(axis, sampler, row, measure, lml=arm == "preset")
    kind = arm.partition("@")[0] if arm.startswith("release") else "eta"
    index = [a for a in arms if a.startswith(kind)].index(arm)
    x, y, _, _ = _series(row, measure, keep_broken=True)
    if not x:
        return None
    if kind == "eta":
        colour = ETA_COLOURS[index % len(ETA_COLOURS)]
        return axis.plot(x, y, color=colour, linestyle="-", linewidth=2.2, zorder=1)[0]
    looks = RELEASE_LOOKS["float64" if kind.endswith("float64") else "float32"]
    return axis.plot(x, y, color="#000000", linewidth=1.1, markersize=5, zorder=3, **looks[index % len(looks)])[0]


def _curve(axis: Any, sampler: str, row: Mapping[int, Figures | None], measure: str, *, lml: bool) -> Any:
    """Draw a sampler's means, with a band from the lowest to the highest block; None if there is no point."""
    x, y, low, high = _series(row, measure)
    if not x:
        return None
    colour, marker = _look(sampler)
    axis.fill_between(x, low, high, color=colour, alpha=0.13, linewidth=0)
    looks: dict[str, Any] = {"linestyle": "--", "linewidth": 1.6, "markerfacecolor": colour}
    if not lml:
        looks = {"linestyle": "-", "linewidth": 1.1, "markerfacecolor": "white"}
    return axis.plot(x, y, color=colour, marker=marker, markersize=5, zorder=2, label=title(sampler), **looks)[0]


def _look(sampler: str) -> tuple[str, str]:
    return LOOKS.get(sampler, ("#000000", "."))


def _series(row: Mapping[int, Figures | None], measure: str, *, keep_broken: bool = False) -> tuple[list[Any], ...]:
    """Return costs, means, lowest and highest blocks of the cells that have them; "median" is the median image's."""
    points = []
    for nfe, figures in sorted(row.items()):
        values = None
        if figures is not None and (keep_broken or not figures.broken):
            median = () if figures.rmse_median is None else (figures.rmse_median,)
            values = (median or None) if measure == "median" else figures.blocks(measure)
        if values is not None and min(values) > 0:
            points.append((nfe, statistics.fmean(values), min(values), max(values)))
    return tuple([point[k] for point in points] for k in range(4))


def _xy(points: Iterable[tuple[int, float | None]]) -> tuple[list[int], list[float]]:
    there = [(x, y) for x, y in points if y is not None and y > 0]
    return [x for x, _ in there], [y for _, y in there]


def _reference_slopes(axis: Any, data: PartData) -> None:
    """Draw thin lines of slope 1, 2 and 3 from the top left corner of what is shown."""
    low, high = axis.get_ylim()
    first, last = min(data.part.nfe), max(data.part.nfe)
    for slope in (1, 2, 3):
        start = high / 1.3
        # A line ends where it leaves the picture.
        end = min(last, first * (start / low) ** (1 / slope))
        stop = start * (end / first) ** -slope
        axis.plot([first, end], [start, stop], color="#B0B0B0", linewidth=0.8, zorder=0)
        axis.annotate(str(slope), (end, stop), color="#808080", fontsize=8, xytext=(-8, 4), textcoords="offset points")
    axis.set_ylim(low, high)


def _log_axes(axis: Any, data: PartData, *, narrow: bool = False) -> None:
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter, NullLocator

    costs = data.part.nfe
    axis.set_xscale("log")
    axis.set_yscale("log")
    axis.set_xlim(0.93 * min(costs), 1.07 * max(costs))
    shown = NFE_TICKS[::2] if narrow and len(costs) > 6 else NFE_TICKS
    ticks = [tick for tick in shown if tick in costs] or sorted(costs)
    axis.set_xticks(ticks, [str(tick) for tick in ticks], fontsize=8)
    axis.xaxis.set_minor_locator(NullLocator())
    axis.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0), numticks=20))
    axis.yaxis.set_minor_formatter(NullFormatter())
    axis.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.tick_params(axis="y", labelsize=8)
    axis.set_xlabel("network evaluations of an image (NFE)", fontsize=9)
    axis.grid(color="#E6E6E6", linewidth=0.6)
    axis.set_axisbelow(True)


def _share_y(axes: Sequence[Any]) -> None:
    limits = [axis.get_ylim() for axis in axes if axis.lines]
    for axis in axes if limits else ():
        axis.set_ylim(min(low for low, _ in limits), max(high for _, high in limits))


def _cap(axes: Sequence[Any], fair: Iterable[Any]) -> None:
    """Keep curves that go far up from squeezing all others: cut them off, and say how high they go.

    Args:
        axes: Axes of one height.
        fair: The lines that set it.
    """
    highest = max((_height(line) for line in fair), default=0.0) * CAP
    if not highest or all(highest >= axis.get_ylim()[1] for axis in axes):
        return
    for axis in axes:
        axis.set_ylim(top=highest)
        for index, line in enumerate(line for line in axis.lines if _height(line) > highest):
            text = f"{line.get_label()}: up to {number(_height(line))}"
            place: dict[str, Any] = {"xycoords": "axes fraction", "ha": "right", "va": "top", "fontsize": 7}
            place["bbox"] = {"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 1}
            axis.annotate(text, (0.98, 0.98 - 0.06 * index), color=line.get_color(), **place)


def _height(line: Any) -> float:
    return max(map(float, line.get_ydata()), default=0.0)


def _converged_fd(data: PartData) -> float | None:
    return mean(data.record.get("converged", {}).get("vp", {}).get("fd"))

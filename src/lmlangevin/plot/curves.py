"""Quality over network evaluations, from jobs and result files: panels of one measure, a line a sampler and arm."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean
from typing import Any

from lmlangevin.bench.canvas import finish, new_axes
from lmlangevin.bench.cells import FITTED, Cell, default_grid
from lmlangevin.bench.figures import LOOKS, NFE_TICKS
from lmlangevin.bench.results import MEASURES
from lmlangevin.bench.tables import arm_text
from lmlangevin.core.errors import LMLError
from lmlangevin.plot.sources import BENCH, REPRODUCE, Arm, Job, Result, find_arm
from lmlangevin.reproduce.table import ARMS, heading
from lmlangevin.schedulers.names import find_scheduler

COLUMNS = 2
PLAIN = "plain"
_DASHES = ("--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)))


@dataclass
class Curve:
    """A line.

    Attributes:
        sampler: Short name, which gives the colour.
        plain: Whether it is the plain sampler.
        points: For each number of evaluations the values of all blocks, one where there are no blocks.
    """

    sampler: str
    plain: bool
    points: dict[int, tuple[float, ...]] = field(default_factory=dict)


@dataclass
class Panel:
    """Lines that may be compared: of one model, one protocol and equal numbers of images.

    Attributes:
        title: What they have in common.
        measure: What the vertical axis shows.
        curves: Its lines by name.
    """

    title: str
    measure: str
    curves: dict[str, Curve] = field(default_factory=dict)

    @property
    def costs(self) -> list[int]:
        """Every number of evaluations that a line has, rising."""
        return sorted({nfe for curve in self.curves.values() for nfe in curve.points})

    def add(self, name: str, nfe: int, values: Sequence[float], *, sampler: str, plain: bool) -> None:
        """Add a point to the line of a name.

        Raises:
            LMLError: The line has another value there.
        """
        points = self.curves.setdefault(name, Curve(sampler, plain)).points
        if points.setdefault(nfe, tuple(values)) != tuple(values):
            raise LMLError(f"{self.title}: {name} has two values at {nfe} evaluations; plot the files one by one.")


def panels(jobs: Sequence[Job], results: Sequence[Result]) -> list[Panel]:
    """Return the panels of what was measured.

    Lines of several files share a panel where they may be compared. Jobs of `lml generate` give one only where they
    have two numbers of evaluations or more.

    Raises:
        LMLError: A result is damaged, or measured images whose job is gone.
    """
    found: dict[tuple[str, str], Panel] = {}
    readers = {BENCH: _bench_points, REPRODUCE: _reproduce_points}
    for result in results:
        try:
            for panel, name, nfe, values, curve in readers.get(result.format, _fid_points)(result):
                kept = found.setdefault((panel.title, panel.measure), panel)
                kept.add(name, nfe, values, sampler=curve.sampler, plain=curve.plain)
        except (KeyError, TypeError, AttributeError, IndexError, ValueError) as error:
            if isinstance(error, LMLError):
                raise
            raise LMLError(f"manifest {str(result.path)!r} is damaged ({error!r}); give another file.") from error
    return [*found.values(), *_job_panels(jobs)]


_Point = tuple[Panel, str, int, Sequence[float], Curve]


def _bench_points(result: Result) -> Iterator[_Point]:
    settings, rows = result.content["settings"], result.content["cells"]
    cells = {Cell.parse(key): row for key, row in rows.items()}
    title = f"{settings['model']}, {settings['dtype']}, {settings['blocks']} blocks of {settings['images']}"
    title += f" from seed {settings['first_seed']}"
    for cell in _shown(list(cells)):
        row = cells[cell]
        if row.get("non_finite") or row.get("wild"):
            continue
        for measure, label in MEASURES.items():
            values = row.get(measure)
            if values and None not in values:
                words = arm_text(cell.variant) if not cell.control else f"LML, {cell.control}"
                name = f"{find_scheduler(cell.sampler).title}, {cell.grid}, {words}"
                yield Panel(title, label), name, cell.nfe, values, Curve(cell.sampler, cell.variant == PLAIN)


def _shown(cells: Sequence[Cell]) -> list[Cell]:
    """Return the cells of one time grid and one end for each sampler, its default one where that was measured.

    Calibrated cells stay, since each brings a grid of its own.
    """
    places: dict[str, set[tuple[str, str]]] = {}
    for cell in cells:
        if cell.grid != FITTED:
            places.setdefault(cell.sampler, set()).add((cell.grid, cell.final))

    def rank(sampler: str, place: tuple[str, str]) -> tuple[bool, bool, str]:
        grid, final = place
        return grid != default_grid(find_scheduler(sampler)), final == "min", grid

    best = {name: min(found, key=lambda place, name=name: rank(name, place)) for name, found in places.items()}
    return [cell for cell in cells if cell.grid == FITTED or (cell.grid, cell.final) == best[cell.sampler]]


def _reproduce_points(result: Result) -> Iterator[_Point]:
    content = result.content
    measure = content["measure"]["label"]
    for row in content["cells"].values():
        title = ", ".join(filter(None, (heading(content), row.get("category"))))
        for arm, values in row["arms"].items():
            name = f"{find_scheduler(row['sampler']).title}, {ARMS[arm]}"
            yield Panel(title, measure), name, row["nfe"], values["blocks"], Curve(row["sampler"], arm == PLAIN)


def _fid_points(result: Result) -> Iterator[_Point]:
    content = result.content
    made, protocol = content["generated"], content["protocol"]["name"]
    arm = find_arm(made["name"], made["run"], result.path.parent)
    blocks = content["blocks"]
    size = f"{blocks['n']} blocks of {blocks['images_each']}" if blocks else f"{made['n']} images"
    title = f"{protocol}, {size}, {content['reference']['n']} in the reference {content['weight_hash'][:8]}"
    label = "FD" if protocol.startswith("embedded") else "FID"
    values = blocks["values"] if blocks else [content["value"]]
    yield Panel(title, label), _arm_name(arm), arm.nfe, values, Curve(arm.sampler, arm.plain)


def _job_panels(jobs: Sequence[Job]) -> list[Panel]:
    found: dict[str, Panel] = {}
    for job in jobs:
        for arm in job.arms:
            if arm.distance is not None:
                title = f"{job.model}, {len(arm.frames)} images, {job.measured_by}"
                panel = found.setdefault(title, Panel(title, "FD"))
                panel.add(_arm_name(arm), arm.nfe, [arm.distance], sampler=arm.sampler, plain=arm.plain)
    return [panel for panel in found.values() if len(panel.costs) > 1]


def _arm_name(arm: Arm) -> str:
    return f"{arm.title}, {arm.words}"


def draw_curves(drawn: Sequence[Panel], path: Path) -> None:
    """Draw panels: means over blocks, with bands from the lowest to the highest block where there are blocks.

    Args:
        drawn: One or more.
        path: PNG file to write.

    Raises:
        LMLError: There is no matplotlib.
    """
    columns = min(COLUMNS, len(drawn))
    rows = -(-len(drawn) // columns)
    names = dict.fromkeys(name for panel in drawn for name in panel.curves)
    figure, axes = new_axes(rows, columns, height=3.4 * rows + 0.8 + 0.08 * len(names))
    flat = [axis for row in axes for axis in row]
    handles: dict[str, Any] = {}
    looks = _looks(drawn)
    for axis in flat[len(drawn) :]:
        axis.set_visible(False)
    for axis, panel in zip(flat, drawn, strict=False):
        for name, curve in panel.curves.items():
            handles[name] = _line(axis, curve, looks[name])
        axis.set_title(panel.title, fontsize=8.5)
        axis.set_ylabel(panel.measure)
        _dress(axis, panel)
    finish(figure, handles, path, "Quality over network evaluations", rare=True)


def _looks(drawn: Sequence[Panel]) -> dict[str, dict[str, Any]]:
    """Return how each line looks: the colour and marker of its sampler, solid if plain, dashes in turn if not."""
    looks: dict[str, dict[str, Any]] = {}
    others: dict[str, int] = {}
    for name, curve in ((name, curve) for panel in drawn for name, curve in panel.curves.items()):
        if name in looks:
            continue
        colour, marker = LOOKS.get(curve.sampler, ("#000000", "."))
        looks[name] = {"color": colour, "marker": marker, "markersize": 5, "linewidth": 1.3}
        if curve.plain:
            looks[name] |= {"linestyle": "-", "markerfacecolor": "white"}
        else:
            turn = others[curve.sampler] = others.get(curve.sampler, -1) + 1
            looks[name] |= {"linestyle": _DASHES[turn % len(_DASHES)]}
    return looks


def _line(axis: Any, curve: Curve, looks: Mapping[str, Any]) -> Any:
    costs = sorted(curve.points)
    blocks = [curve.points[nfe] for nfe in costs]
    axis.fill_between(costs, [*map(min, blocks)], [*map(max, blocks)], color=looks["color"], alpha=0.13, linewidth=0)
    return axis.plot(costs, [*map(fmean, blocks)], **looks)[0]


def _dress(axis: Any, panel: Panel) -> None:
    from matplotlib.ticker import LogLocator, NullFormatter, NullLocator

    values = [value for curve in panel.curves.values() for point in curve.points.values() for value in point]
    axis.set_xscale("log")
    ticks = [nfe for nfe in panel.costs if nfe in NFE_TICKS] or panel.costs
    axis.set_xticks(ticks, [str(nfe) for nfe in ticks], fontsize=8)
    axis.xaxis.set_minor_locator(NullLocator())
    axis.xaxis.set_minor_formatter(NullFormatter())
    axis.set_xlabel("network evaluations of an image (NFE)", fontsize=9)
    if min(values) > 0 and panel.measure != "BLIP-VQA":  # scores lie between 0 and 1
        axis.set_yscale("log")
        axis.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0), numticks=20))
        axis.yaxis.set_major_formatter("{x:g}")
        axis.yaxis.set_minor_formatter(NullFormatter())
    axis.tick_params(axis="y", labelsize=8)
    axis.grid(color="#E6E6E6", linewidth=0.6)
    axis.set_axisbelow(True)

"""The cells of a benchmark: a sampler on a time grid at a cost, and what diffusers has to be told for it."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from lmlangevin.core.damping import CALIBRATED
from lmlangevin.core.errors import LMLError
from lmlangevin.generation.sampling import without_known_warnings
from lmlangevin.schedulers.names import SIGMA_GRIDS, VP_GRIDS, SchedulerName, find_scheduler, grid_config
from lmlangevin.schedulers.presets import find_preset, grid_key

FINALS = ("zero", "min")
FLOW_GRIDS = ("shift-1", "shift-3")
"""Time grids of a flow-matching sampler beside those by sigma: its own, at two shifts."""

FITTED = "fitted"
"""The grid of calibrated cells: each calibration brings its own."""
CALIBRATED_SAMPLERS = ("euler", "flow-euler")
"""Samplers that execute a calibration: of first order, on exactly the levels that were fitted."""

_FINAL_KEYS = {
    "final_sigmas_type": {"zero": "zero", "min": "sigma_min"},
    "set_alpha_to_one": {"zero": True, "min": False},
}


@dataclass(frozen=True)
class Cell:
    """One thing to measure: a sampler on a time grid at a cost, and what is done to it.

    Attributes:
        sampler: Short name.
        grid: Time grid, by name.
        final: `"zero"` or `"min"`: whether the last step ends at sigma 0 or at the schedule's smallest sigma; `""`
            where the sampler leaves no choice.
        nfe: Network evaluations of an image.
        gain: Constant gain of LML; 0 is the plain sampler.
        eta: Noise that DDIM injects, 0 to 1.
        release: `dtype@lambda` of the paper's release, or empty.
        control: Name of a control that chooses the gain, such as `"adaptive"` or `"calibrated"`, or empty.
    """

    sampler: str
    grid: str
    final: str
    nfe: int
    gain: float = 0.0
    eta: float = 0.0
    release: str = ""
    control: str = ""

    @property
    def variant(self) -> str:
        """What is done to the sampler: `plain`, `gain=0.3`, `eta=1`, `release=float32@0.001` or `control=adaptive`."""
        if self.release:
            return f"release={self.release}"
        if self.control:
            return f"control={self.control}"
        if self.eta:
            return f"eta={self.eta:g}"
        return f"gain={self.gain:g}" if self.gain else "plain"

    @property
    def key(self) -> str:
        """The name of the cell in a result file."""
        return "|".join((self.sampler, self.grid, self.final, str(self.nfe), self.variant))

    @classmethod
    def parse(cls, key: str) -> Cell:
        """Return the cell of a key."""
        sampler, grid, final, nfe, variant = key.split("|")
        kind, _, value = variant.partition("=")
        extra: dict[str, Any] = (
            {} if kind == "plain" else {kind: value if kind in ("release", "control") else float(value)}
        )
        return cls(sampler, grid, final, int(nfe), **extra)


def offered_grids(entry: SchedulerName) -> list[str]:
    """Return the time grids of a sampler."""
    if entry.flow:
        # Solvers that were made for noise apply their grids by sigma to the flow's levels in ways of their own.
        own = () if entry.shift_key == "flow_shift" else SIGMA_GRIDS
        return [*FLOW_GRIDS, *(grid for grid in own if _offers(entry, grid))]
    return [grid for grid in (*VP_GRIDS, *SIGMA_GRIDS) if _offers(entry, grid)]


def default_grid(entry: SchedulerName) -> str:
    """Return the time grid that a sampler has when none is asked for."""
    if entry.flow:
        return "shift-3"
    with without_known_warnings():
        return grid_key(entry.base, dict(entry.base(**entry.config).config))


def finals_of(entry: SchedulerName, finals: Sequence[str]) -> list[str]:
    """Return where the last step of a sampler can end, among those that are asked for; `[""]` if it has no choice."""
    key = final_key(entry)
    return list(finals) if key else [""]


def final_key(entry: SchedulerName) -> str | None:
    """Return the configuration key that chooses where the last step ends, None where there is no choice."""
    if entry.flow or entry.config.get("final_sigmas_type"):
        return None
    accepted = inspect.signature(entry.base.__init__).parameters
    return next((key for key in _FINAL_KEYS if key in accepted), None)


def scheduler_config(cell: Cell) -> dict[str, Any]:
    """Return the configuration keys that a cell's grid and final sigma set."""
    entry = find_scheduler(cell.sampler)
    if cell.grid in FLOW_GRIDS:
        return {entry.shift_key: float(cell.grid.removeprefix("shift-"))}
    if cell.grid == FITTED:
        return {}
    keys = grid_config(entry, cell.grid)
    key = final_key(entry)
    return keys | {key: _FINAL_KEYS[key][cell.final]} if key and cell.final else keys


def nearest_cost(entry: SchedulerName, nfe: int) -> int | None:
    """Return the largest number of evaluations up to `nfe` that a sampler can cost, None if there is none."""
    for cost in range(nfe, 0, -1):
        try:
            entry.steps_for(cost)
        except LMLError:
            continue
        return cost
    return None


def find_calibrated(model: str, sampler: str, nfe: int) -> tuple[Cell, Any] | None:
    """Return the calibrated cell of a sampler at a cost, with the calibration that it executes.

    Args:
        model: Name of a model that comes with the package.
        sampler: Short name.
        nfe: Network evaluations.

    Returns:
        The cell and its `CalibrationFile`; None for a sampler that executes none, or without a calibration.
    """
    if sampler not in CALIBRATED_SAMPLERS:
        return None
    from lmlangevin.calibration import find_calibration

    entry = find_scheduler(sampler)
    found = find_calibration(model, entry.steps_for(nfe), flow=entry.flow)
    return None if found is None else (Cell(sampler, FITTED, "", nfe, control=CALIBRATED), found)


def preset_gain(cell: Cell) -> float | None:
    """Return the measured gain of a cell's sampler on its grid, None where it was not measured."""
    entry = find_scheduler(cell.sampler)
    grid = {} if cell.grid in FLOW_GRIDS else grid_config(entry, cell.grid)
    try:
        with without_known_warnings():
            return find_preset(entry.base, dict(entry.base(**entry.config, **grid).config)).gain
    except LMLError:
        return None


def _offers(entry: SchedulerName, grid: str) -> bool:
    try:
        grid_config(entry, grid)
    except LMLError:
        return False
    return True

"""Made-up result files, read back, and a model that draws nothing."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from lmlangevin.bench.cells import Cell
from lmlangevin.bench.results import PartData, SuiteData, read_suite
from lmlangevin.bench.runner import FORMAT, result_path
from lmlangevin.bench.suite import Part, Suite
from lmlangevin.calibration import CalibrationFile
from lmlangevin.core import CalibratedSchedule
from lmlangevin.schedulers.calibrations import FINGERPRINT_FIELDS

Row = dict[str, Any]
Edit = Callable[[Part, Cell, Row], Row | None]


def make_part(name: str = "analytic", **changes: Any) -> Part:
    settings: dict[str, Any] = {
        "model": "analytic-cifar10",
        "samplers": ("ddim", "dpmpp-2m", "sde-dpmpp-2m", "heun"),
        "grids": ("default", "karras"),
        "nfe": (6, 8, 10, 12, 15, 20),
        "blocks": 3,
        "images": 128,
        "first_seed": 100,
    }
    return Part(name, **settings | changes)


def made_up(cell: Cell, blocks: int) -> Row:
    """Second order, LML a quarter lower, karras half of the default grid."""
    error = 6.4 / cell.nfe**2 * (0.5 if cell.grid == "karras" else 1) * (0.75 if cell.gain else 1)
    values = [error * (1 + 0.01 * k) for k in range(blocks)]
    out: Row = {
        "seconds": 1.0,
        "non_finite": 0,
        "rmse_median": error / 2,
        "rmse": values,
        "fd": [4 * v for v in values],
    }
    if cell.sampler.startswith("sde") or cell.eta:
        del out["rmse"], out["rmse_median"]
    return out | {"fd_all": error}


def as_it_is(part: Part, cell: Cell, row: Row) -> Row:
    return row


def write_results(folder: Path, suite: Suite, edit: Edit = as_it_is) -> None:
    for each in suite.parts:
        cells = each.cells(dict.fromkeys(each.samplers, "karras"))
        measured = {cell.key: edit(each, cell, made_up(cell, each.blocks)) for cell in cells}
        record = {
            "format": FORMAT, "command": "lml bench --suite s", "versions": {"torch": "2"}, "part": each.name,
            "settings": each.settings(), "first_seed": each.first_seed,
            "cells": {key: value for key, value in measured.items() if value},
            "converged": {"vp": {"fd": [0.03] * each.blocks, "fd_all": 0.01}}, "ends": {"ddim|leading|zero|8": 0.0123},
        }  # fmt: skip
        result_path(folder, suite, each).write_text(json.dumps(record))


def row_of(table: str, *starts: str) -> list[str]:
    for line in table.splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if cells[: len(starts)] == list(starts):
            return cells
    raise AssertionError(f"no line starts with {starts}:\n{table}")


@pytest.fixture
def part() -> Callable[..., Part]:
    """`part(name, **changes)`: a part of four samplers on two grids at six costs."""
    return make_part


@pytest.fixture
def write() -> Callable[..., None]:
    """`write(folder, suite, edit)`: write made-up figures; `edit(part, cell, row)` returns another row, or None."""
    return write_results


@pytest.fixture
def read(tmp_path: Path) -> Callable[..., SuiteData]:
    """`read(*parts, edit=)`: write made-up figures of the parts, and read them."""

    def made(*parts: Part, edit: Edit = as_it_is) -> SuiteData:
        suite = Suite("s", "S", parts or (make_part(),))
        write_results(tmp_path, suite, edit)
        return read_suite(suite, tmp_path)

    return made


@pytest.fixture
def cells_of() -> Callable[..., list[str]]:
    """`cells_of(table, *starts)`: the cells of the first line of a Markdown table that starts so."""
    return row_of


@pytest.fixture
def uneven(read: Callable[..., SuiteData]) -> PartData:
    """DDIM, for which LML has another outcome at each cost."""
    factors = {6: 0.5, 8: 1.01, 10: 1.3, 12: 1.5}

    def changed(part: Part, cell: Cell, row: Row) -> Row:
        if not cell.gain:
            return row
        rmse = row["rmse"] if cell.nfe != 20 else [row["rmse"][0], *(1.5 * v for v in row["rmse"][1:])]
        out = row | {"rmse": [v / 0.75 * factors.get(cell.nfe, 0.9) for v in rmse]}
        return out | {"non_finite": 4} if cell.nfe == 15 else out

    return read(make_part(samplers=("ddim",)), edit=changed).parts[0]


@pytest.fixture
def gaps(read: Callable[..., SuiteData]) -> PartData:
    """DDIM at 8 evaluations has a block without a value, and was not measured with LML."""

    def removed(part: Part, cell: Cell, row: Row) -> Row | None:
        if cell.sampler == "ddim" and cell.nfe == 8:
            return None if cell.gain else row | {"rmse": [0.1, None, 0.1]}
        return row

    return read(edit=removed).parts[0]


@pytest.fixture
def calibrations(monkeypatch: pytest.MonkeyPatch) -> CalibrationFile:
    """The one calibration that there is: of the analytic model at 4 evaluations, flow matching and not."""
    schedule = CalibratedSchedule((0.95, 0.7, 0.4, 0.15, 0.0), ((0.0,), (0.1,), (0.2,), (0.1,)))
    found = CalibrationFile(schedule, dict.fromkeys(FINGERPRINT_FIELDS, 0) | {"steps": 4})

    def find(model: str, steps: int, *, flow: bool) -> CalibrationFile | None:
        return found if (model, steps) == ("analytic-cifar10", 4) else None

    monkeypatch.setattr("lmlangevin.calibration.find_calibration", find)
    return found


class GreyModel:
    """Grey images, and what was asked for."""

    def __init__(self) -> None:
        self.asked: list[tuple[Cell, int]] = []

    def sample(self, cell: Cell, count: int) -> Tensor:
        self.asked.append((cell, count))
        return torch.linspace(-1, 1, count).view(-1, 1, 1, 1).expand(-1, 3, 32, 32)


@pytest.fixture
def grey() -> GreyModel:
    return GreyModel()

"""What docs/langevin.md says in words, on the figures that the two benchmarks measured."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

RESULTS = Path(__file__).parents[2] / "benchmarks" / "results"
Row = dict[str, Any]


def rows_of(name: str) -> list[Row]:
    return json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))["rows"]


@pytest.fixture(scope="module")
def cells() -> dict[tuple[str, str, int], dict[str, Row]]:
    """The arms of every model, sampler and number of evaluations: `plain`, `preset`, `both`, or `K of eps`."""
    found: dict[tuple[str, str, int], dict[str, Row]] = {}
    for row in rows_of("langevin_corrector"):
        if row["geometry"] != "differences":
            continue
        arm = f"{row['steps']} of {row['step_size']}" if row["steps"] else "plain"
        if row["gain"]:
            arm = "both" if row["steps"] else "preset"
        found.setdefault((row["model"], row["sampler"], row["nfe"]), {})[arm] = row
    return found


def better(arm: Row, plain: Row) -> bool:
    return all(a < b for a, b in zip(arm["fd_blocks"], plain["fd_blocks"], strict=True))


def test_langevin_steps_pay_in_three_cells_alone(cells: dict[tuple[str, str, int], dict[str, Row]]) -> None:
    pays = {
        (*cell, name)
        for cell, arms in cells.items()
        for name, arm in arms.items()
        if name not in ("plain", "preset") and better(arm, arms["plain"])
    }
    model = "analytic-cifar10"
    assert pays == {
        (model, "euler", 17, "1 of 0.4"),
        (model, "euler", 33, "1 of 0.4"),
        (model, "dpmpp-2m", 9, "1 of 0.4"),
    }
    for nfe in (17, 33):
        arms = cells[model, "euler", nfe]
        assert 0.45 < arms["1 of 0.4"]["fd"] / arms["plain"]["fd"] < 0.6


def test_on_the_network_every_arm_is_worse_than_plain(cells: dict[tuple[str, str, int], dict[str, Row]]) -> None:
    for (model, _, _), arms in cells.items():
        for name, arm in arms.items():
            if model == "embedded" and name not in ("plain", "preset"):
                assert better(arms["plain"], arm), name
    for sampler in ("euler", "dpmpp-2m"):
        few, many = (cells["embedded", sampler, nfe]["1 of 0.2"]["fd"] for nfe in (9, 17))
        assert many > few


def test_more_steps_a_level_and_a_gain_make_it_worse(cells: dict[tuple[str, str, int], dict[str, Row]]) -> None:
    for (model, sampler, _), arms in cells.items():
        fd = {name: arm["fd"] for name, arm in arms.items()}
        for size in (0.1, 0.2):
            if f"3 of {size}" in fd:
                assert fd[f"3 of {size}"] > fd[f"1 of {size}"]
        if "both" in fd:
            assert fd["both"] > 1.5 * fd["1 of 0.1"] and fd["both"] > 4 * fd["plain"]
        if model == "analytic-cifar10" and sampler == "euler":
            assert fd["preset"] == min(fd.values())


def test_the_geometry_has_nothing_to_offer_over_the_isotropic_one() -> None:
    for model in ("analytic-cifar10", "embedded"):
        settings = {"model": model, "sampler": "dpmpp-2m", "nfe": 17, "steps": 1, "step_size": 0.2, "gain": 0.0}
        mine = [row for row in rows_of("langevin_corrector") if settings.items() <= row.items()]
        fd = {row["geometry"]: row["fd"] for row in mine}
        assert fd["differences"] > 0.95 * fd["isotropic"]
        assert fd["predictions"] > 2 * fd["differences"]
        if model == "embedded":
            assert fd["differences"] > 1.2 * fd["isotropic"]

"""What docs/theory.md says in words, on the figures that benchmarks/theory.py measured."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

RECORD = Path(__file__).parents[2] / "benchmarks" / "results" / "theory.json"


@pytest.fixture(scope="module")
def record() -> dict[str, Any]:
    return json.loads(RECORD.read_text(encoding="utf-8"))


@pytest.mark.parametrize("case", ["small", "cifar"])
def test_the_bounds_of_the_operator_hold(record: dict[str, Any], case: str) -> None:
    for row in record["spectra"][case]:
        assert row["most"] <= 1 + 1e-5
        for name in ("kappa 0.5, mu 1", "gain 0.5"):
            assert row[name]["slack_to_bound"] >= 0
            assert row[name]["slack_to_floor"] >= -1e-6
            # No better than the identity, which no factor improves on.
            assert row[name]["operator"] >= row["identity"]["operator"] - 1e-6
            assert row[name]["frobenius"] >= row["factor"]["frobenius"] - 1e-9
        assert row["gain 0.5"]["operator"] > 0.99
        if case == "cifar":
            assert row["factor"]["frobenius"] > 0.999 * row["identity"]["frobenius"]
        assert row["floor_added"][5] == pytest.approx(row["floor_added"][0], abs=1e-5)  # rank 16


def test_the_hessian_has_the_datas_rank_below_the_identity(record: dict[str, Any]) -> None:
    row = min(record["spectra"]["cifar"], key=lambda r: abs(r["s"] - 0.73))
    assert 78 <= row["below_0.9"] <= 90
    floor = dict(zip(row["ranks"], row["floor_subtracted"], strict=True))
    assert floor[96] < 0.05 * floor[0] and floor[16] > 0.8 * floor[0]
    high = record["spectra"]["cifar"][0]
    assert high["kappa 0.5, mu 1"]["operator"] == pytest.approx(1 / 3, abs=0.01)


def test_newton_turns_away_and_lml_towards(record: dict[str, Any]) -> None:
    for row in record["directions"]:
        assert row["lml_turn_cosine"] > 0.7
        assert row["bend_to_hessian"] > 0.6
        for arm in row["newton"].values():
            assert arm["turn_cosine"] < -0.5 and arm["turn_cosine_to_lml"] < -0.5
            assert arm["to_solution"] > row["plain_to_solution"]
        if row["s"] > 0.5:
            assert row["lml_to_solution"] < 0.9 * row["plain_to_solution"]
        if row["s"] < 0.2:
            assert row["bend_across"] < 0.02 and row["lml_to_solution"] > row["plain_to_solution"]
        if row["s"] > 2:
            assert row["bend_across"] > 0.95


def test_newton_is_worse_in_every_cell_and_the_hessian_applied_better(record: dict[str, Any]) -> None:
    for row in record["sampling"]:
        errors = row["rmse"]
        plain = errors["plain"]
        newton = [errors[f"newton, lambda {lam}"] for lam in ("0.3", "1", "10")]
        assert newton[0] > newton[1] > newton[2] > plain
        assert all(error < plain for name, error in errors.items() if name.startswith(("lml", "hessian")))
    log = {row["nfe"]: row["rmse"] for row in record["sampling"] if row["grid"] == "uniform in log s"}
    for errors in log.values():
        assert errors["lml, gain 0.7"] < errors["lml, log-linear gain"] < errors["lml, gain h / 2h'"]
    time = {row["nfe"]: row["rmse"] for row in record["sampling"] if row["grid"] == "uniform in time"}
    assert time[20]["lml, log-linear gain, length forecast"] < 0.36 * time[20]["lml, log-linear gain"]


def test_the_damped_directions_are_monotone_and_bounded(record: dict[str, Any]) -> None:
    rows = record["dampings"]["lml"]["rows"]
    assert [row["mu"] for row in rows] == sorted(row["mu"] for row in rows)
    for low, high in zip(rows[:-1], rows[1:], strict=True):
        assert high["to_plain"] <= low["to_plain"] + 1e-6
        assert high["to_undamped"] >= low["to_undamped"] - 1e-4
    assert all(row["largest"] <= row["bound"] + 1e-6 for row in rows)
    bounds = {round(row["mu"], 6): row["bound"] for row in rows}
    assert bounds[1.0] == pytest.approx(19.47, abs=0.01) and bounds[100.0] == pytest.approx(0.285, abs=0.001)
    for row in record["dampings"]["newton"]["rows"]:
        assert row["to_plain"] <= row["bound"] + 1e-6


def test_the_measured_orders_and_gains_are_those_of_the_text(record: dict[str, Any]) -> None:
    want = {
        "plain": 1,
        "lml, gain 1/2": 1,
        "lml, gain h / 2h'": 1,
        "lml, gain h / 2h', length forecast": 2,
        "lml, log-linear gain, length forecast": 2,
        "Adams-Bashforth": 2,
        "Adams-Bashforth after lml, gain 0.3": 1,
    }
    for case in ("gaussian", "mixture"):
        found = record["orders"][case]
        assert set(found) == set(want)
        for rule, errors in found.items():
            assert math.log2(errors[-2] / errors[-1]) == pytest.approx(want[rule], abs=0.15), (case, rule)
        both, alone = found["Adams-Bashforth after lml, gain 0.3"], found["Adams-Bashforth"]
        assert both[0] < alone[0] and both[1] < alone[1] and both[-1] > 10 * alone[-1]
    assert all(row["gain"] == pytest.approx(0.41, abs=0.005) for row in record["directions"])
    levels = [row["s"] for row in record["directions"]]
    assert levels[2] / levels[1] / 2 == pytest.approx(0.17, abs=0.005)

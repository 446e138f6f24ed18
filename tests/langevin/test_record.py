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


# Effective samples a gradient ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def samplers() -> dict[tuple[str, str], Row]:
    return {(row["target"], row["sampler"]): row for row in rows_of("langevin")}


def a_thousand(row: Row, *, warm_up: bool = False) -> float:
    """The worst coordinate's effective samples in 1000 gradients, those of the warm-up of all 24 chains among them."""
    return 1000 * row["ess_min"] / (row["gradients"] + 24 * row["warm_up_gradients_a_chain"] * warm_up)


def plain(samplers: dict[tuple[str, str], Row], target: str) -> list[float]:
    return [a_thousand(samplers[target, name]) for name in ("MALA", "MALA (blackjax)")]


def test_few_stiff_directions_are_gone_from_the_rank_on_that_covers_them(samplers: dict[tuple[str, str], Row]) -> None:
    best = max(plain(samplers, "stiff"))
    for rank in (16, 32, 64):
        assert a_thousand(samplers["stiff", f"LMLangevin, rank {rank}"], warm_up=True) > 1000 * best
    assert 0.6 < a_thousand(samplers["stiff", "LMLangevin, rank 8"]) / best < 1.6
    for rank in (8, 16, 32):
        assert a_thousand(samplers["two-modes", f"LMLangevin, rank {rank}"], warm_up=True) > 100 * max(
            plain(samplers, "two-modes")
        )


def test_a_log_uniform_spectrum_gives_what_its_condition_allows(samplers: dict[tuple[str, str], Row]) -> None:
    low, high = sorted(plain(samplers, "log-uniform"))
    found = {rank: a_thousand(samplers["log-uniform", f"LMLangevin, rank {rank}"]) for rank in (8, 16, 32, 64)}
    for rank, size in found.items():
        assert 1 / 1.6 < size / (low * high) ** 0.5 / 1e4 ** (rank / 256) < 1.6
    assert found[8] < found[16] < found[32] < found[64]
    assert found[32] < 3 * high and found[64] > 7 * high
    assert a_thousand(samplers["log-uniform", "LMLangevin, rank 64"], warm_up=True) > 3 * high


def test_scores_hardly_help_and_nuts_is_ahead_but_for_few_stiff_directions(
    samplers: dict[tuple[str, str], Row],
) -> None:
    dense, diagonal = "NUTS (blackjax), dense mass", "NUTS (blackjax)"
    for target in ("stiff", "log-uniform", "two-modes"):
        assert a_thousand(samplers[target, "LMLangevin, scores"]) < 5 * max(plain(samplers, target))
        ours = max(a_thousand(row) for (at, name), row in samplers.items() if at == target and "LML" in name)
        nuts = [samplers[target, name] for name in (dense, diagonal)]
        assert all(row["warm_up_gradients_a_chain"] > 100_000 for row in nuts)
        if target == "stiff":
            assert ours > 1.2 * max(map(a_thousand, nuts))
        else:
            assert a_thousand(nuts[0]) > 2 * ours
    assert a_thousand(samplers["log-uniform", diagonal]) > 5 * a_thousand(
        samplers["log-uniform", "LMLangevin, rank 64"]
    )
    warm = {row["warm_up_gradients_a_chain"] for (_, name), row in samplers.items() if "LML" in name}
    assert warm == {600, 1032}


def test_the_sizes_can_be_trusted_as_far_as_is_said(samplers: dict[tuple[str, str], Row]) -> None:
    assert all(row["ess_min"] > 39.5 for row in samplers.values())
    for (target, name), row in samplers.items():
        if name in ("MALA", "MALA (blackjax)"):
            assert row["ess_min"] > 40 and row["acceptance"] == pytest.approx(0.58, abs=0.03)
        if name == "ULA" and target != "two-modes":
            assert 0.5 < a_thousand(row) / row["closed_form_ess_min_per_1000"] < 1
            assert row["max_variance_ratio"] > 1.33
        if "LML" in name and row["ess_min"] > 1000:
            assert row["max_variance_ratio"] < 1.06
    for target in ("stiff", "log-uniform"):
        one, other = plain(samplers, target)
        assert 1 / 1.6 < one / other < 1.6

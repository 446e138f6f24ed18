from __future__ import annotations

from dataclasses import replace

import pytest

from lmlangevin.bench import words
from lmlangevin.bench.cells import Cell
from lmlangevin.bench.findings import Best, Census
from lmlangevin.bench.release import Deviation
from lmlangevin.bench.results import Change, Figures, Pair


def test_the_grid_and_the_solver_are_weighed() -> None:
    assert "the grid matters more than the solver" in words.lever_words((4.0, 1.5), 8, "rmse")
    assert "the grid matters less than the solver" in words.lever_words((1.5, 4.0), 8, "fd")
    assert "about as much as" in words.lever_words((2.0, 2.1), 8, "fd")
    assert words.lever_words(None, 8, "fd") == ""


@pytest.mark.parametrize(
    ("worst", "text"),
    [
        (0.0, "in every recorded digit"),
        (3e-6, "to 5 digits or more"),
        (0.015, "up to 1.50%"),
        (0.2, "not the plain sampler's"),
    ],
)
def test_sameness_has_degrees(worst: float, text: str) -> None:
    assert text in words.same_words(worst)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_direction_is_called_random_in_any_precision_if_no_row_has_one(dtype: str) -> None:
    row = Deviation(dtype, 3072, 1e-3, 0.1, 0.01, 0.0, -0.049)
    assert (
        f"In {dtype} the deviation is 0.100, and its direction is random (mean cosine -0.05)."
        in words.identity_words([row, replace(row, size=16384)])
    )
    both = words.identity_words([row, replace(row, size=16384, agreement=0.9)])
    assert "its direction is not always random (mean cosine -0.05 to 0.90)" in both
    assert "not always random" in words.identity_words([replace(row, agreement=-0.9)])


def test_a_deviation_is_said_to_grow_only_if_it_does() -> None:
    row = Deviation("float32", 3072, 1e-3, 0.1, 0.01, 0.0, 0.0)
    text = words.identity_words([row, replace(row, damping=5e-3, deviation=0.2)])
    assert "grows" not in text and "not finite" not in text
    assert "it grows as lambda falls" in words.identity_words([row, replace(row, damping=5e-3, deviation=0.05)])


def test_where_no_result_is_finite_nothing_is_said_of_a_direction() -> None:
    row = Deviation("float16", 65536, 1e-3, None, None, 1.0, None)
    assert words.identity_words([row]) == "- In float16 no result is finite."
    some = words.identity_words([row, Deviation("float16", 3072, 1e-3, 1.4, 0.1, 0.25, 0.01)])
    assert "its direction is random (mean cosine 0.01); up to 100.0% of samples are not finite" in some


def test_best_cells_that_are_no_better_are_not_called_so() -> None:
    def cell(*fd: float) -> Figures:
        return Figures(Cell("ddim", "leading", "zero", 8), None, fd, None, None, 0, 0)

    found = [Best(6, cell(1.0, 1.0), cell(0.5, 0.5)), Best(8, cell(1.0, 1.0), cell(2.0, 2.0)), Best(9, None, cell(1.0))]
    assert "below the best plain cell at 1 of 2 costs and above it at 1: neither" in words.best_words(found, "fd")
    assert words.best_words([], "fd") == ""


def test_a_census_without_cells_says_so_and_one_with_losses_counts_them() -> None:
    assert words.census_words(Census("fd", (), 3)) == "No cell with a preset other than 0 has its FD yet."
    pair = Pair(Cell("ddim", "leading", "zero", 8), 1.0, None, None)
    found = Census("fd", ((pair, Change("lost")), (pair, Change("diverges")), (pair, Change("higher", 1.5))), 0)
    text = words.census_words(found)
    assert "lower in 0, higher in 1, lost to images that are not finite or wild in 1 of 2 cells" in text
    assert "the highest 1.50 (DDIM, leading, 8 evaluations)" in text and "in 1 more the plain sampler itself" in text

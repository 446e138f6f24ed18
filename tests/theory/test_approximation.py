"""The fit of LML's operator to a matrix, between a floor and a bound that are never crossed."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from lmlangevin.theory import (
    frobenius_fit,
    frobenius_floor,
    operator_bound,
    operator_error,
    operator_fit,
    operator_floor,
)


def random_case(seed: int, size: int, spread: float, aligned: float) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """A symmetric matrix, its spectrum, and a factor's shares on it; the factor leans to the top by `aligned`."""
    g = torch.Generator().manual_seed(seed)
    root = torch.randn(size, size, generator=g, dtype=torch.float64)
    matrix = torch.eye(size, dtype=torch.float64) + spread * (root + root.T)
    values, axes = torch.linalg.eigh(matrix)
    b = torch.randn(size, generator=g, dtype=torch.float64) + aligned * axes[:, -1]
    b = b / b.norm()
    return matrix, values, (axes.T @ b).square(), b


cases = given(
    seed=st.integers(0, 10**6),
    size=st.integers(1, 8),
    spread=st.sampled_from([0.0, 1e-6, 0.1, 3.0]),
    aligned=st.sampled_from([0.0, 1.0, 30.0]),
    log_mu=st.floats(-4, 4),
    scale=st.floats(0, 4),
)


@settings(max_examples=70, deadline=None, derandomize=True)
@cases
def test_the_error_is_that_of_dense_matrices_and_keeps_its_bounds(
    seed: int, size: int, spread: float, aligned: float, log_mu: float, scale: float
) -> None:
    matrix, values, shares, b = random_case(seed, size, spread, aligned)
    mu = 10.0**log_mu
    model = scale * (torch.eye(size, dtype=torch.float64) + torch.outer(b, b) / mu)
    norm = float(values.abs().amax()) + scale * (1 + 1 / mu)
    error = operator_error(values, shares, mu, scale)
    assert error == pytest.approx(float(torch.linalg.matrix_norm(matrix - model, 2)), abs=1e-8 * norm)
    assert error <= operator_bound(values, shares, mu, scale) + 1e-12 * norm
    assert error >= operator_floor(values, 1) - 1e-12 * norm
    frobenius = float(torch.linalg.matrix_norm(matrix - model))
    assert frobenius >= frobenius_floor(values, 1) - 1e-12 * norm
    assert frobenius >= frobenius_fit(values, shares, mu).error * float(values.norm()) - 1e-7 * norm
    fit = operator_fit(values, shares, mu)
    assert fit.error * float(values.abs().amax()) <= error + 1e-7 * norm
    assert fit.error == pytest.approx(
        operator_error(values, shares, mu, fit.scale) / float(values.abs().amax()), abs=1e-12
    )


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    seed=st.integers(0, 10**6),
    size=st.integers(1, 7),
    rank=st.integers(0, 4),
    scale=st.floats(-3, 3),
    log_r=st.floats(-3, 2),
)
def test_no_positive_semidefinite_term_beats_the_floor_and_one_attains_it(
    seed: int, size: int, rank: int, scale: float, log_r: float
) -> None:
    matrix, values, _, _ = random_case(seed, size, 0.5, 0.0)
    g = torch.Generator().manual_seed(seed + 1)
    b = 10**log_r * torch.randn(size, rank, generator=g, dtype=torch.float64)
    identity = torch.eye(size, dtype=torch.float64)
    left = matrix - scale * identity - b @ b.T
    norm = float(torch.linalg.matrix_norm(left))
    assert float(torch.linalg.matrix_norm(left, 2)) >= operator_floor(values, rank) - 1e-12 * norm
    assert norm >= frobenius_floor(values, rank) - 1e-12 * norm
    kept = min(rank, size - 1)
    ordered, axes = values.flip(0), torch.linalg.eigh(matrix).eigenvectors.flip(1)
    top = (ordered[:kept] - ordered[kept]).clamp_min(0)
    middle = (ordered[kept] + ordered[-1]) / 2
    best = matrix - middle * identity - (axes[:, :kept] * top) @ axes[:, :kept].T
    assert float(torch.linalg.matrix_norm(best, 2)) == pytest.approx(operator_floor(values, rank), abs=1e-10)


def test_by_hand() -> None:
    """A = diag(3, 1, 0), b on the first axis, mu = 1, c = 1: A - M = diag(1, 0, -1)."""
    values = torch.tensor([0.0, 1.0, 3.0], dtype=torch.float64)
    shares = torch.tensor([0.0, 0.0, 1.0], dtype=torch.float64)
    assert operator_error(values, shares, 1.0, 1.0) == pytest.approx(1.0)
    # E = A - I = diag(2, 0, -1), theta = 0: |e_2| + |e_1 - a| = 1 + 1.
    assert operator_bound(values, shares, 1.0, 1.0) == pytest.approx(2.0)
    assert [operator_floor(values, r) for r in (0, 1, 2, 5)] == [1.5, 0.5, 0.0, 0.0]
    assert frobenius_floor(values, 1) == pytest.approx(0.5**0.5)
    # (c, a) = (s, s): |3 - 2s|, |1 - s|, s are levelled at s = 1.
    fit = operator_fit(values, shares, 1.0)
    assert fit.scale == pytest.approx(1.0, abs=1e-6) and fit.error == pytest.approx(1 / 3)


@pytest.mark.parametrize("s", [0.05, 0.3, 1.0, 4.0, 30.0])
def test_on_a_mixture_the_identity_is_as_good_as_any_factor(make_flow: Any, draw: Any, s: float) -> None:
    """The largest eigenvalue, which alone a factor can lower, is there D - K (r + 1) = 40 - 9 times."""
    flow = make_flow(70, size=40)
    y, earlier = draw(flow, 71, s), draw(flow, 72, s)
    n, previous = flow.slope(y, s), flow.slope(earlier, s)
    for k in range(2):
        values, axes = torch.linalg.eigh(flow.matrix(y[k : k + 1], s)[0])
        assert operator_floor(values, 30) == pytest.approx(operator_floor(values, 0), rel=1e-9)
        b = 0.5 * n[k] + 0.5 * previous[k]
        shares = (axes.T @ b).square() / (b @ b)
        for mu in (2e-3, 1.0, 50.0):
            fit = operator_fit(values, shares, mu)
            largest = float(values.abs().amax())
            assert operator_floor(values, 0) <= fit.error * largest * (1 + 1e-9)
            assert fit.error * largest <= operator_bound(values, shares, mu, fit.scale) * (1 + 1e-9)

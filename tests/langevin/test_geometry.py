"""What a history says of the curvature: secants and scores against the matrix that they came from."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from lmlangevin.core import DampedLowRank, LMLError
from lmlangevin.langevin import isotropic, score_geometry, secant_geometry
from lmlangevin.reference import GaussianMixture

BATCH = 3


def spectrum(values: Tensor, seed: int) -> Tensor:
    """A symmetric matrix with these eigenvalues."""
    g = torch.Generator().manual_seed(seed)
    turn, _ = torch.linalg.qr(torch.randn(len(values), len(values), generator=g, dtype=torch.float64))
    return turn @ torch.diag(values) @ turn.T


def history(precision: Tensor, count: int, seed: int, dtype: torch.dtype = torch.float64) -> tuple[list[Tensor], ...]:
    """White moves of many lengths, and the changes of the score of a Gaussian."""
    g = torch.Generator().manual_seed(seed)
    moves = [
        10 ** float(2 * torch.rand((), generator=g) - 1)
        * torch.randn(BATCH, len(precision), generator=g, dtype=torch.float64)
        for _ in range(count)
    ]
    return [move.to(dtype) for move in moves], [(-move @ precision).to(dtype) for move in moves]


def without_damping(geometry: DampedLowRank) -> Tensor:
    size = geometry.basis.shape[2]
    return geometry.dense() - geometry.damping[:, None, None] * torch.eye(size, dtype=torch.float64)


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    size=st.integers(2, 12),
    spread=st.floats(0, 5),
    share=st.floats(0.1, 1),
)
def test_secants_hold_and_lie_between_zero_and_the_precision(seed: int, size: int, spread: float, share: float) -> None:
    precision = spectrum(torch.logspace(0, spread, size, dtype=torch.float64), seed)
    count = max(1, int(share * size))
    moves, changes = history(precision, count, seed + 1)
    found = without_damping(secant_geometry(moves, changes, count))
    scale = 10**spread
    for move, change in zip(moves, changes, strict=True):
        made = torch.einsum("bij,bj->bi", found, move)
        # Columns are found to the rounding of the largest curvature times the condition of the moves.
        torch.testing.assert_close(made, -change, rtol=0, atol=1e-7 * scale * float(move.norm()))
    assert torch.linalg.eigvalsh(found).min() > -1e-9 * scale
    assert torch.linalg.eigvalsh(precision - found).min() > -1e-7 * scale


def test_as_many_secants_as_dimensions_are_the_precision() -> None:
    precision = spectrum(torch.logspace(0, 4, 8, dtype=torch.float64), 20)
    geometry = secant_geometry(*history(precision, 8, 21), rank=8)
    torch.testing.assert_close(without_damping(geometry), precision.expand(BATCH, 8, 8), rtol=0, atol=1e-4)
    assert (geometry.damping < 5).all()  # the smallest curvature, found from the largest's digits


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 0.02), (torch.float32, 0.02)])
def test_few_stiff_directions_are_found_and_the_rest_sets_the_damping(dtype: torch.dtype, tolerance: float) -> None:
    values = torch.ones(60, dtype=torch.float64)
    values[:4] = torch.tensor([1e4, 5e3, 2e3, 1e3])
    geometry = secant_geometry(*history(spectrum(values, 22), 16, 23, dtype), rank=4)
    found = geometry.excess.sort(dim=1, descending=True).values
    torch.testing.assert_close(found, values[:4].expand(BATCH, 4), rtol=tolerance, atol=0)
    assert ((geometry.damping > 0.3) & (geometry.damping < 3)).all()


def test_the_damping_is_marquardts_where_it_is_given() -> None:
    precision = spectrum(torch.logspace(0, 2, 6, dtype=torch.float64), 24)
    geometry = secant_geometry(*history(precision, 4, 25), rank=3, damping=0.25)
    torch.testing.assert_close(geometry.damping, 0.25 * geometry.excess.sum(1) / 3)


def test_without_a_surplus_the_smallest_kept_curvature_is_the_damping() -> None:
    precision = spectrum(torch.logspace(0, 2, 6, dtype=torch.float64), 26)
    geometry = secant_geometry(*history(precision, 3, 27), rank=3)
    torch.testing.assert_close(geometry.damping, geometry.excess.amin(1))


def test_negative_curvature_is_left_out() -> None:
    hessian = spectrum(torch.tensor([-50.0, -3.0, 2.0, 40.0, 90.0], dtype=torch.float64), 28)
    found = without_damping(secant_geometry(*history(hessian, 5, 29), rank=5))
    values, vectors = torch.linalg.eigh(hessian)
    along = torch.einsum("ji,bjk,ki->bi", vectors, found, vectors)
    expected = values.clamp_min(0).expand_as(along)
    torch.testing.assert_close(along, expected, rtol=1e-6, atol=1e-6)


def test_a_move_that_is_not_finite_is_passed_over_for_its_own_chain_alone() -> None:
    precision = spectrum(torch.logspace(0, 2, 6, dtype=torch.float64), 30)
    moves, changes = history(precision, 4, 31)
    clean = secant_geometry(moves, changes, 2)
    changes[1][0, 2] = torch.inf
    moves[2][0] = torch.nan
    torn = secant_geometry(moves, changes, 2)
    assert torn.dense().isfinite().all()
    torch.testing.assert_close(torn.dense()[1:], clean.dense()[1:])
    two = secant_geometry([moves[0], moves[3]], [changes[0], changes[3]], 2)
    torch.testing.assert_close(without_damping(torn)[0], without_damping(two)[0])


def test_a_history_without_moves_or_curvature_gives_the_identity() -> None:
    zeros = [torch.zeros(2, 4, dtype=torch.float64)] * 3
    moves = [torch.ones(2, 4, dtype=torch.float64)] * 3
    for geometry in (secant_geometry(zeros, zeros, 2), secant_geometry(moves, zeros, 2), score_geometry(zeros, 2)):
        torch.testing.assert_close(geometry.dense(), torch.eye(4, dtype=torch.float64).expand(2, 4, 4))
    torch.testing.assert_close(isotropic(zeros[0]).dense(), torch.eye(4, dtype=torch.float64).expand(2, 4, 4))


@pytest.mark.parametrize("kappa", [1.0, 0.5, -0.3])
def test_scores_give_lmls_own_operator(kappa: float) -> None:
    g = torch.Generator().manual_seed(32)
    scores = [torch.randn(BATCH, 2, 5, generator=g, dtype=torch.float64) for _ in range(4)]
    ours = score_geometry(scores, 3, kappa=kappa, damping=0.4)
    lml = DampedLowRank.of_predictions(scores[0], scores[1:], kappa=kappa, damping=0.4)
    torch.testing.assert_close(3 * ours.dense(), lml.dense())


def test_scores_of_exact_samples_average_to_the_mean_curvature() -> None:
    """Fisher's information: E[s s^T] = E[-Hess log p], on a mixture, where neither is constant."""
    g = torch.Generator().manual_seed(33)
    model = GaussianMixture.from_factors(
        torch.tensor([0.4, 0.6]),
        torch.tensor([[1.0, 0.0], [-0.7, 0.2]], dtype=torch.float64),
        torch.randn(2, 2, 1, generator=g, dtype=torch.float64),
        torch.tensor([0.3, 0.5], dtype=torch.float64),
    )
    x = model.sample(20_000, g)
    curvature = -model.hessian(x).mean(0)
    outer = torch.einsum("bi,bj->bij", model.score(x), model.score(x))
    error = outer.flatten(1).std(0).view(2, 2) / len(x) ** 0.5 + model.hessian(x).std(0) / len(x) ** 0.5
    assert ((outer.mean(0) - curvature).abs() < 5 * error).all()
    # And the geometry of a history is such a mean.
    history = [row.view(1, 2) for row in x[:501]]
    scores = [model.score(row) for row in history]
    found = without_damping(score_geometry(scores, 2))[0]
    torch.testing.assert_close(found, outer[1:501].mean(0))


def test_scores_whose_products_overflow_are_their_own_chains_alone() -> None:
    g = torch.Generator().manual_seed(71)
    scores = [torch.randn(3, 12, generator=g, dtype=torch.float64) for _ in range(4)]
    want = score_geometry([s[[0, 2]] for s in scores], 2, kappa=0.5, damping=0.1)
    for s in scores:
        s[1] *= 2e163
    got, v = score_geometry(scores, 2, kappa=0.5, damping=0.1), torch.randn(3, 12, generator=g, dtype=torch.float64)
    assert got.solve(v).isfinite().all()
    assert torch.equal(got.solve(v)[[0, 2]], want.solve(v[[0, 2]]))
    assert torch.equal(got.solve(v)[1], v[1])  # no direction: the identity


def test_numbers_that_do_not_fit_are_refused() -> None:
    moves = [torch.ones(2, 4)] * 3
    with pytest.raises(LMLError, match="2 entries for 3 moves"):
        secant_geometry(moves, moves[:2], 2)
    for rank in (0, 4, True):
        with pytest.raises(LMLError, match="rank="):
            secant_geometry(moves, moves, rank)
        with pytest.raises(LMLError, match="rank="):
            score_geometry([*moves, moves[0]], rank)
    with pytest.raises(LMLError, match="damping"):
        secant_geometry(moves, moves, 2, damping=-1.0)

"""The flow's Hessian against differences and dense algebra, and what its trajectories' curvature is."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from lmlangevin.core.errors import LMLError
from lmlangevin.reference import GaussianMixture
from lmlangevin.theory import ProbabilityFlow

LEVELS = [0.05, 0.4, 1.5, 20.0]


@pytest.mark.parametrize("s", LEVELS)
def test_j_is_s_times_the_jacobian_of_the_slope(make_flow: Any, draw: Any, s: float) -> None:
    flow = make_flow(1)
    y, v = draw(flow, 2, s), draw(flow, 3, 1.0)
    step = 1e-5 * s
    difference = (flow.slope(y + step * v, s) - flow.slope(y - step * v, s)) / (2 * step)
    torch.testing.assert_close(flow.product(y, s, v), s * difference, rtol=1e-6, atol=1e-8)
    torch.testing.assert_close(torch.einsum("bij,bj->bi", flow.matrix(y, s), v), flow.product(y, s, v))


@pytest.mark.parametrize("s", LEVELS)
def test_j_is_one_less_the_posterior_covariance(make_flow: Any, draw: Any, s: float) -> None:
    """The diffusion Fisher (arXiv:2505.23264); so no eigenvalue exceeds 1."""
    flow = make_flow(4)
    y = draw(flow, 5, s)
    alpha = 1 / (1 + s * s) ** 0.5
    covariance = flow.mixture.posterior_covariance(alpha * y, alpha, alpha * s)
    torch.testing.assert_close(flow.matrix(y, s), torch.eye(12, dtype=torch.float64) - covariance / s**2)
    assert (torch.linalg.eigvalsh(flow.matrix(y, s)) <= 1 + 1e-12).all()


@pytest.mark.parametrize("s", [0.8, 1.5, 5.0])
def test_the_derivative_along_the_trajectory(make_flow: Any, draw: Any, s: float) -> None:
    """dn/ds = (n - J n) / s + grad tr J, for any data."""
    flow = make_flow(6)
    y = draw(flow, 7, s).requires_grad_()
    trace = flow.matrix(y, s).diagonal(dim1=1, dim2=2).sum()
    (gradient,) = torch.autograd.grad(trace, y)
    y = y.detach()
    n = flow.slope(y, s)
    want = (n - flow.product(y, s, n)) / s + gradient
    torch.testing.assert_close(flow.derivative(y, s), want, rtol=1e-5, atol=1e-6)
    assert gradient.abs().max() > 1e-3


def test_for_a_gaussian_the_derivative_is_a_hessian_product(make_flow: Any, draw: Any) -> None:
    flow = make_flow(8, components=1)
    y, s = draw(flow, 9, 0.7), 0.7
    n = flow.slope(y, s)
    torch.testing.assert_close(flow.derivative(y, s), (n - flow.product(y, s, n)) / s, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("s", LEVELS)
def test_the_spectrum_by_products_is_the_dense_one(make_flow: Any, draw: Any, s: float) -> None:
    flow = make_flow(10, size=40, components=3, rank=4)
    y, other = draw(flow, 11, s)[:1], draw(flow, 12, s)[:1]
    n = flow.slope(y, s)
    values, shares = flow.eigenvalues(y[0], s, n[0], other[0], chunk=7)
    dense = flow.matrix(y, s)[0]
    torch.testing.assert_close(values, torch.linalg.eigvalsh(dense), rtol=1e-10, atol=1e-10)
    for v, share in zip((n[0], other[0]), shares, strict=True):
        assert float(share.sum()) == pytest.approx(1, rel=1e-12)
        power = v.clone()
        for k in (1, 2, 3):
            power = dense @ power
            assert float(share @ values**k) == pytest.approx(float(v @ power / (v @ v)), rel=1e-9)
    # J is at most its value off the components' directions, and has it D - K (r + 1) times (docs/theory.md).
    assert int((values > values[-1] - 1e-10).sum()) >= 40 - 3 * 5


def test_a_mixture_that_fills_its_space_has_no_smaller_one(make_flow: Any, draw: Any) -> None:
    flow = make_flow(13, size=8)
    with pytest.raises(LMLError, match="10 directions in 8 dimensions; use matrix"):
        flow.eigenvalues(draw(flow, 14, 1.0)[0], 1.0)


def test_a_single_component_at_its_mean(make_flow: Callable[..., ProbabilityFlow]) -> None:
    """The offsets and y vanish from the basis; the rest is a Gaussian's spectrum s^2 / (l + v + s^2)."""
    basis = torch.eye(9, dtype=torch.float64)[None, :, :2]
    mixture = GaussianMixture(
        torch.ones(1), torch.zeros(1, 9).double(), basis, torch.tensor([[2.0, 0.5]]), torch.tensor([0.1])
    )
    values, _ = ProbabilityFlow(mixture).eigenvalues(torch.zeros(9, dtype=torch.float64), 1.0)
    want = torch.tensor([1 / 3.1, 1 / 1.6, *[1 / 1.1] * 7], dtype=torch.float64)
    torch.testing.assert_close(values, want, rtol=1e-6, atol=0)


def test_advance_solves_the_ode(make_flow: Any, draw: Any) -> None:
    flow = make_flow(15)
    y = draw(flow, 16, 5.0)
    coarse, fine = flow.advance(y, 5.0, 0.1, steps=40), flow.advance(y, 5.0, 0.1, steps=160)
    torch.testing.assert_close(coarse, fine, rtol=1e-5, atol=1e-5)

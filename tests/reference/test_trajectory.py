"""The converged ODE solution: closed form for one Gaussian, order of convergence, the two paths, the asset."""

import math
from typing import Any

import pytest
import torch

from lmlangevin.core.errors import LMLError
from lmlangevin.reference import GaussianMixture, converged_solution, linear_alphas_cumprod, load_analytic
from lmlangevin.reference.trajectory import DEFAULT_STEPS, runge_kutta


def gaussian(seed: int, d: int = 9, r: int = 4) -> GaussianMixture:
    g = torch.Generator().manual_seed(seed)
    factors, mean = torch.randn(1, d, r, generator=g).double(), torch.randn(1, d, generator=g).double()
    return GaussianMixture.from_factors(torch.ones(1), mean, factors, torch.tensor([0.04]), dtype=torch.float64)


def exact_map(mixture: GaussianMixture, y: torch.Tensor, s: float) -> torch.Tensor:
    """x0 of the point y at sigma/alpha = s: each eigendirection of C shrinks by sqrt(l / (l + s^2))."""
    u, excess, v = mixture.basis[0], mixture.excess[0], mixture.variances[0]
    centred = y - mixture.means[0]
    inside = centred @ u
    iso = (v / (v + s * s)).sqrt()
    low = ((excess + v) / (excess + v + s * s)).sqrt()
    return mixture.means[0] + iso * centred + (inside * (low - iso)) @ u.T


def test_one_gaussian_on_the_vp_path() -> None:
    mixture = gaussian(1)
    noise = torch.randn(6, 9, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    last = linear_alphas_cumprod()[-1].item()
    exact = exact_map(mixture, noise / math.sqrt(last), math.sqrt((1 - last) / last))
    error = (converged_solution(mixture, noise) - exact).square().mean().sqrt()
    assert error < 1e-4
    assert (converged_solution(mixture, noise, steps=160) - exact).square().mean().sqrt() < 1e-6


def test_one_gaussian_on_the_flow_path() -> None:
    mixture = gaussian(3)
    noise = torch.randn(6, 9, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    # From sigma = 1 the map is the optimal one: mean + C^(1/2) noise, the limit of exact_map for y = s noise.
    u, excess, v = mixture.basis[0], mixture.excess[0], mixture.variances[0]
    exact = mixture.means[0] + v.sqrt() * noise + ((noise @ u) * ((excess + v).sqrt() - v.sqrt())) @ u.T
    assert (converged_solution(mixture, noise, path="flow") - exact).square().mean().sqrt() < 1e-4
    assert (converged_solution(mixture, noise, path="flow", steps=160) - exact).square().mean().sqrt() < 1e-6


@pytest.mark.parametrize("path", ["vp", "flow"])
def test_default_number_of_steps_is_converged_on_the_asset(path: str) -> None:
    mixture = load_analytic()
    noise = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(5))
    default = converged_solution(mixture, noise, path=path)
    fine = converged_solution(mixture, noise, path=path, steps=3 * DEFAULT_STEPS)
    assert default.dtype == torch.float32
    assert (default - fine).square().mean().sqrt() < 1e-4
    assert default.std().item() == pytest.approx(0.5, abs=0.25)


def test_vp_and_flow_agree_where_the_noise_is_high() -> None:
    mixture = gaussian(6)
    noise = torch.randn(4, 9, generator=torch.Generator().manual_seed(7), dtype=torch.float64)
    # They start from different noise levels (157 and infinity): the gap is of order mean * std / 157, not zero.
    gap = (converged_solution(mixture, noise) - converged_solution(mixture, noise, path="flow")).abs().max()
    assert 1e-4 < gap < 0.2


def test_runge_kutta_is_of_fourth_order() -> None:
    def pendulum(y: torch.Tensor, s: float) -> torch.Tensor:
        return torch.stack([y[1], -(1 + s) * y[0].sin()])

    def end(n: int) -> torch.Tensor:
        start = torch.tensor([1.0, 0.5], dtype=torch.float64)
        return runge_kutta(pendulum, start, torch.linspace(0, 2, n + 1, dtype=torch.float64))

    exact = end(2000)
    errors = [(end(n) - exact).abs().max().item() for n in (16, 32, 64)]
    orders = [math.log2(a / b) for a, b in zip(errors[:-1], errors[1:], strict=True)]
    assert all(3.7 < order < 4.3 for order in orders), orders


def test_progress_dtype_and_errors() -> None:
    mixture, calls = gaussian(8), []
    noise = torch.randn(3, 9, generator=torch.Generator().manual_seed(9))
    out = converged_solution(mixture, noise, steps=6, progress=lambda done, total: calls.append((done, total)))
    assert calls == [(i + 1, 6) for i in range(6)] and out.dtype == torch.float32
    own = converged_solution(mixture, noise, steps=6, alphas_cumprod=linear_alphas_cumprod(beta_end=0.01))
    assert (own - out).abs().max() > 1e-3
    with pytest.raises(LMLError, match="path is 've'"):
        converged_solution(mixture, noise, path="ve")
    with pytest.raises(LMLError, match="steps is 2"):
        converged_solution(mixture, noise, steps=2)


@pytest.mark.parametrize("end", [0.0, 0.004, 0.3])
def test_a_solution_in_two_legs_is_the_solution_in_one(end: float) -> None:
    mixture = load_analytic().to(dtype=torch.float64)
    noise = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(23), dtype=torch.float64)
    whole = converged_solution(mixture, noise, steps=40, end=end)
    middle = 2.5
    half = converged_solution(mixture, noise, steps=40, end=middle)
    both = converged_solution(mixture, half, steps=40, start=middle, end=end)
    assert (both - whole).square().mean().sqrt() < 2e-5
    assert (half - whole).square().mean().sqrt() > 0.1


@pytest.mark.parametrize("ends", [{"start": 1.0, "end": 1.0}, {"end": -0.1}, {"path": "flow", "start": 2.0}])
def test_ends_that_do_not_fit_are_refused(ends: dict[str, Any]) -> None:
    mixture = load_analytic()
    with pytest.raises(LMLError, match="start is"):
        converged_solution(mixture, torch.randn(1, 3, 32, 32, generator=torch.Generator().manual_seed(2)), **ends)

"""That it works: on the mixture fitted to CIFAR-10, few-step samples come closer to the converged solution."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from lmlangevin.generation.seeds import start_images
from lmlangevin.reference import AnalyticModel, GaussianMixture, converged_solution, load_analytic
from lmlangevin.samplers import sample_lml_dpmpp_2m, sample_lml_euler

SEEDS = list(range(7_100, 7_116))


class Denoiser:
    """An analytic noise prediction in the wrapper of k-diffusion's conventions: timesteps from sigmas, x0 out."""

    def __init__(self, mixture: GaussianMixture) -> None:
        self.model = AnalyticModel(mixture)
        alpha, sigma = self.model.noise_levels(torch.arange(1000.0))
        self.logs = (sigma / alpha).log()

    def sigma_to_t(self, sigma: Tensor) -> Tensor:
        log = sigma.double().log()
        low = (torch.searchsorted(self.logs, log) - 1).clamp(0, 998)
        return low + (log - self.logs[low]) / (self.logs[low + 1] - self.logs[low])

    def __call__(self, x: Tensor, sigma: Tensor) -> Tensor:
        s = sigma.view(-1, 1, 1, 1)
        return x - s * self.model(x / (1 + s**2).sqrt(), self.sigma_to_t(sigma)).sample

    def sigmas(self, kind: str, steps: int) -> Tensor:
        if kind == "timesteps":
            t = torch.linspace(999, 0, steps, dtype=torch.float64)
            low = t.long().clamp_max(998)
            falling = torch.lerp(self.logs[low], self.logs[low + 1], t - low).exp()
        else:
            ramp = torch.linspace(0, 1, steps, dtype=torch.float64)
            high, low_end = (self.logs[k].exp() ** (1 / 7) for k in (-1, 0))
            falling = (high + ramp * (low_end - high)) ** 7
        return torch.cat([falling, torch.zeros(1, dtype=torch.float64)]).float()


@pytest.fixture(scope="module")
def mixture() -> GaussianMixture:
    return load_analytic()


@pytest.fixture(scope="module")
def noise(mixture: GaussianMixture) -> Tensor:
    return start_images(SEEDS, mixture.event_shape)[0]


@pytest.fixture(scope="module")
def error(mixture: GaussianMixture, noise: Tensor) -> Callable[..., float]:
    """RMSE of a sampler to the converged solution from the same noise."""
    denoiser = Denoiser(mixture)
    target = converged_solution(mixture, noise, path="vp", steps=20)

    def measure(sample: Any, kind: str, steps: int, **options: Any) -> float:
        sigmas = denoiser.sigmas(kind, steps)
        # The converged solution starts at t = 999 from this noise, which is x / sqrt(1 + sigma^2) there.
        start = noise * (1 + sigmas[0] ** 2).sqrt()
        return float((sample(denoiser, start, sigmas, **options) - target).square().mean().sqrt())

    return measure


@pytest.mark.parametrize(
    ("kind", "steps", "options", "most"),
    [
        # Ratios of errors, with room for other seeds.
        ("timesteps", 6, {}, 0.90),
        ("timesteps", 6, {"gain": 0.7}, 0.78),
        ("karras", 8, {}, 0.80),
        ("karras", 8, {"gain": 0.7}, 0.62),
        ("karras", 8, {"control": "adaptive"}, 0.85),
        ("timesteps", 10, {"control": "adaptive"}, 0.75),
        ("karras", 10, {"control": "adaptive"}, 0.60),
    ],
)
def test_euler_comes_closer(
    error: Callable[..., float], kind: str, steps: int, options: dict[str, Any], most: float
) -> None:
    assert error(sample_lml_euler, kind, steps, **options) < most * error(sample_lml_euler, kind, steps, gain=0.0)


@pytest.mark.parametrize(("kind", "steps", "most"), [("karras", 10, 0.95), ("karras", 15, 0.75)])
def test_adaptive_2m_comes_closer(error: Callable[..., float], kind: str, steps: int, most: float) -> None:
    adaptive, plain = (error(sample_lml_dpmpp_2m, kind, steps, **o) for o in ({"control": "adaptive"}, {"gain": 0.0}))
    assert adaptive < most * plain


def test_2m_of_a_flow_is_better_in_log_sigma_than_in_the_logarithm_of_its_ratio(
    mixture: GaussianMixture, noise: Tensor
) -> None:
    target = converged_solution(mixture, noise, path="flow", steps=20)

    def denoise(x: Tensor, sigma: Tensor) -> Tensor:
        return x - sigma.view(-1, 1, 1, 1) * mixture.velocity(x, sigma)

    def in_ratio(sigmas: list[float]) -> Tensor:
        def time(s: float) -> float:
            return math.log((1 - s) / s) if s < 1 else -math.inf

        x, old = noise, None
        for i, (a, b) in enumerate(zip(sigmas[:-1], sigmas[1:], strict=True)):
            denoised = slope = denoise(x, torch.full((len(x),), a))
            if old is not None and b > 0:
                slope = denoised + (denoised - old) * (time(b) - time(a)) / (time(a) - time(sigmas[i - 1])) / 2
            x, old = (b / a) * x + (1 - b / a) * slope, denoised
        return x

    for steps in (6, 12):
        t = torch.linspace(1, 0, steps + 1)
        sigmas = 3 * t / (1 + 2 * t)
        ours = sample_lml_dpmpp_2m(denoise, noise, sigmas, gain=0.0)
        assert (ours - target).norm() < 0.95 * (in_ratio(sigmas.tolist()) - target).norm()

"""Models whose denoised predictions and trajectories are known in closed form."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor

from lmlangevin.samplers import run, sample_lml_dpmpp_2m, sample_lml_euler

SHAPE = (3, 2, 4, 4)


@dataclass
class Gaussian:
    """The exact denoiser of a Gaussian with a mean and a variance of its own for every pixel, and its ODE's solution.

    x = x0 + sigma noise, or (1 - sigma) x0 + sigma noise of a flow.
    """

    flow: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        g = torch.Generator().manual_seed(self.seed)
        self.mean = 0.5 * torch.randn(SHAPE[1:], generator=g, dtype=torch.float64)
        self.variance = 0.02 + 1.5 * torch.rand(SHAPE[1:], generator=g, dtype=torch.float64)
        self.seen: list[torch.dtype] = []

    def _marginal(self, sigma: Tensor, dtype: torch.dtype) -> tuple[Any, Tensor, Tensor]:
        alpha = 1 - sigma if self.flow else torch.ones_like(sigma)
        variance = alpha**2 * self.variance + sigma**2
        return alpha.to(dtype), (alpha * self.mean).to(dtype), variance.to(dtype)

    def __call__(self, x: Tensor, sigma: Tensor, **extra: Any) -> Tensor:
        assert sigma.shape == x.shape[:1]
        self.seen.append(x.dtype)
        work = torch.promote_types(x.dtype, torch.float32)
        alpha, mean, variance = self._marginal(sigma.double().view(-1, 1, 1, 1), work)
        share = alpha * self.variance.to(work) / variance
        return (self.mean.to(work) + share * (x.to(work) - mean)).to(x.dtype)

    def start(self, sigma: float, seed: int = 1, dtype: torch.dtype = torch.float64) -> Tensor:
        g = torch.Generator().manual_seed(seed)
        _, mean, variance = self._marginal(torch.tensor(sigma, dtype=torch.float64), torch.float64)
        return (mean + variance.sqrt() * torch.randn(SHAPE, generator=g, dtype=torch.float64)).to(dtype)

    def solution(self, x: Tensor, start: float, end: float) -> Tensor:
        """Where the ODE takes x from one level to another: every pixel keeps its place in the marginal."""
        (_, m0, v0), (_, m1, v1) = (
            self._marginal(torch.tensor(s, dtype=torch.float64), torch.float64) for s in (start, end)
        )
        return m1 + (x.double() - m0) * (v1 / v0).sqrt()


@dataclass
class Blobs:
    """The exact denoiser of two Gaussian blobs at +m and -m, of standard deviation 0.2: its trajectories turn."""

    flow: bool = False
    seed: int = 3

    def __call__(self, x: Tensor, sigma: Tensor, **extra: Any) -> Tensor:
        g = torch.Generator().manual_seed(self.seed)
        m = 0.6 * torch.randn((1, *SHAPE[1:]), generator=g, dtype=torch.float64)
        s = sigma.double().view(-1, 1, 1, 1)
        alpha = 1 - s if self.flow else torch.ones_like(s)
        v = alpha**2 * 0.04 + s**2
        y = x.double()
        side = torch.tanh(alpha * (y * m).flatten(1).sum(1).view(-1, 1, 1, 1) / v)
        mean = side * m
        return (mean + alpha * 0.04 / v * (y - alpha * mean)).to(x.dtype)


def karras(steps: int, start: float = 12.0, end: float = 0.05, *, zero: bool = True) -> Tensor:
    ramp = torch.linspace(0, 1, steps, dtype=torch.float64)
    sigmas = (start ** (1 / 7) + ramp * (end ** (1 / 7) - start ** (1 / 7))) ** 7
    return torch.cat([sigmas, torch.zeros(1, dtype=torch.float64)] if zero else [sigmas]).float()


def shifted(steps: int, shift: float = 3.0) -> Tensor:
    t = torch.linspace(1, 0, steps + 1)
    return shift * t / (1 + (shift - 1) * t)


@pytest.fixture
def gaussian() -> Callable[..., Gaussian]:
    """`Gaussian`."""
    return Gaussian


@pytest.fixture
def blobs() -> Callable[..., Blobs]:
    """`Blobs`."""
    return Blobs


@pytest.fixture
def grid() -> Callable[..., Tensor]:
    """`karras`."""
    return karras


@pytest.fixture
def flow_grid() -> Callable[..., Tensor]:
    """`shifted`."""
    return shifted


@pytest.fixture(params=[sample_lml_euler, sample_lml_dpmpp_2m], ids=["euler", "dpmpp_2m"])
def sampler(request: pytest.FixtureRequest) -> Any:
    """Both samplers."""
    return request.param


@pytest.fixture(autouse=True)
def _fresh_notices() -> None:
    run._notice.cache_clear()

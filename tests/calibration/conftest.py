"""A model whose sampling ODE is solved in closed form, and one that bends its trajectories."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

SMAX = 80.0


class Gaussian:
    """Data of variance v = 0.3: n(y, s) = s y / (v + s^2), and y(s)^2 is proportional to v + s^2."""

    variance = 0.3

    def __call__(self, y: Tensor, s: float, rows: Sequence[int]) -> Tensor:
        assert len(rows) == len(y)
        return s * y / (self.variance + s * s)

    def solution(self, y: Tensor, start: float, end: float = 0.0) -> Tensor:
        return y * ((self.variance + end * end) / (self.variance + start * start)) ** 0.5


class Blobs:
    """Two Gaussian blobs at +m and -m: the trajectories of samples between them bend."""

    def __init__(self, flow: bool = False) -> None:
        self.flow = flow
        g = torch.Generator().manual_seed(8)
        self.centre = torch.randn(1, 6, generator=g, dtype=torch.float64) * 0.7

    def __call__(self, y: Tensor, s: float, rows: Sequence[int]) -> Tensor:
        del rows
        alpha, sigma = (1 - s, s) if self.flow else (1.0, s)
        m, wide = self.centre, y.double()
        v = alpha**2 * 0.04 + sigma**2
        side = torch.tanh(alpha * (wide * m).sum(1, keepdim=True) / v)
        x0 = side * m + alpha * 0.04 / v * (wide - alpha * side * m)
        eps = (wide - alpha * x0) / sigma
        return (eps - x0 if self.flow else eps).to(y.dtype)


@pytest.fixture
def gaussian() -> Gaussian:
    return Gaussian()


@pytest.fixture
def blobs() -> type[Blobs]:
    return Blobs


@pytest.fixture
def starts() -> Tensor:
    """y at the first level of eight seeds."""
    return torch.randn(8, 6, generator=torch.Generator().manual_seed(5), dtype=torch.float64) * (1 + SMAX**2) ** 0.5

"""Small mixtures in float64."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from lmlangevin.reference import GaussianMixture
from lmlangevin.theory import ProbabilityFlow


@pytest.fixture(scope="session")
def make_flow() -> Callable[..., ProbabilityFlow]:
    """Make the flow of a mixture of `components` of `rank` in `size` dimensions."""

    def make(seed: int, components: int = 3, size: int = 12, rank: int = 2) -> ProbabilityFlow:
        g = torch.Generator().manual_seed(seed)
        means = torch.randn(components, size, generator=g, dtype=torch.float64)
        factors = 0.7 * torch.randn(components, size, rank, generator=g, dtype=torch.float64)
        weights = torch.rand(components, generator=g).double() + 0.3
        variances = 0.02 + 0.03 * torch.rand(components, generator=g).double()
        return ProbabilityFlow(GaussianMixture.from_factors(weights, means, factors, variances))

    return make


@pytest.fixture(scope="session")
def draw() -> Callable[[ProbabilityFlow, int, float], torch.Tensor]:
    """Draw five states of a flow at the level s."""

    def noisy(flow: ProbabilityFlow, seed: int, s: float) -> torch.Tensor:
        g = torch.Generator().manual_seed(seed)
        data = flow.mixture.sample(5, g)
        return data + s * torch.randn(data.shape, generator=g, dtype=data.dtype)

    return noisy

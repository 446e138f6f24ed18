"""The sampler as a whole: moments that are known, chains that know nothing of each other, and what it is for."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from lmlangevin.core import LMLError
from lmlangevin.langevin import LangevinState, LMLangevin, Target
from lmlangevin.reference import GaussianMixture

Z = 5.5
"""Standard errors allowed. Of the at most 20 moments of a test, one passes it by chance in one of 10^6 runs."""

CHAINS = 1500
SIZE = 4


def anisotropic() -> GaussianMixture:
    """A Gaussian with standard deviations 3 to 0.1 along turned axes."""
    turn, _ = torch.linalg.qr(torch.randn(SIZE, SIZE, generator=torch.Generator().manual_seed(40), dtype=torch.float64))
    deviations = torch.tensor([3.0, 1.0, 0.3, 0.1], dtype=torch.float64)
    mean = torch.tensor([[1.0, -2.0, 0.5, 0.0]], dtype=torch.float64)
    return GaussianMixture.from_factors(
        torch.ones(1), mean, (turn * deviations)[None], torch.tensor([1e-6], dtype=torch.float64)
    )


def two_modes() -> GaussianMixture:
    """Two components with stiff directions of their own, near enough for a chain to go from one to the other."""
    g = torch.Generator().manual_seed(41)
    return GaussianMixture.from_factors(
        torch.tensor([0.35, 0.65]),
        torch.tensor([[1.2, 0.0, 0.3, 0.0], [-0.8, 0.4, 0.0, 0.2]], dtype=torch.float64),
        torch.randn(2, SIZE, 2, generator=g, dtype=torch.float64) * 0.8,
        torch.tensor([0.1, 0.15], dtype=torch.float64),
    )


def target_of(model: GaussianMixture) -> Target:
    return Target(model.score, model.log_prob)


def moments(model: GaussianMixture, x: Tensor) -> Tensor:
    """Standard scores of the means and of the second moments about the model's mean, (2 D,)."""
    off = x - model.mean
    seen = torch.cat([off, off.square() - model.std.square()], dim=1)
    return seen.mean(0) / (seen.std(0) / math.sqrt(len(x)))


def run(sampler: LMLangevin, start: Tensor, warm: int, steps: int, seed: int) -> LangevinState:
    g = torch.Generator().manual_seed(seed)
    state, kernel = sampler.warm_up(sampler.init(start), warm, g)
    for after, _ in sampler.run(state, kernel, steps, g):
        state = after
    return state


@pytest.mark.parametrize(
    ("model", "options"),
    [
        (anisotropic, {"rank": 2}),
        (anisotropic, {"rank": 2, "factors": "scores"}),
        (two_modes, {"rank": 2}),
        (two_modes, {"rank": 1, "damping": 1.0}),
    ],
    ids=["gaussian-secants", "gaussian-scores", "mixture-secants", "mixture-damping"],
)
def test_the_adjusted_chain_has_the_moments_of_the_target(
    model: Callable[[], GaussianMixture], options: dict[str, Any]
) -> None:
    exact = model()
    sampler = LMLangevin(target_of(exact), **options)
    # Far off, and all alike: nothing but the chain can bring them where they belong.
    start = (exact.mean + exact.std).expand(CHAINS, SIZE).clone()
    assert moments(exact, start + 1e-3 * torch.randn(CHAINS, SIZE, dtype=torch.float64)).abs().max() > 100
    x = run(sampler, start, 200, 250, seed=42).position
    assert moments(exact, x).abs().max() < Z


def test_the_same_chain_unadjusted_has_not() -> None:
    """The check above can fail: without the adjustment, the step that it allows biases the moments."""
    exact = anisotropic()
    adjusted = LMLangevin(target_of(exact), rank=2)
    g = torch.Generator().manual_seed(43)
    state, kernel = adjusted.warm_up(adjusted.init(exact.sample(CHAINS, g)), 200, g)
    plain = LMLangevin(Target(exact.score), rank=2, adjusted=False)
    state = plain.init(state.position)
    for after, _ in plain.run(state, kernel, 60, g):
        state = after
    assert moments(exact, state.position).abs().max() > 2 * Z


def test_the_acceptance_is_what_the_warm_up_aimed_at() -> None:
    exact = anisotropic()
    for aim in (0.574, 0.8):
        sampler = LMLangevin(target_of(exact), rank=2, target_acceptance=aim)
        g = torch.Generator().manual_seed(44)
        state, kernel = sampler.warm_up(sampler.init(exact.sample(200, g)), 600, g)
        found = torch.stack([info.acceptance for _, info in sampler.run(state, kernel, 60, g)]).mean()
        assert abs(float(found) - aim) < 0.06


def test_the_kernel_is_frozen() -> None:
    exact = two_modes()
    sampler = LMLangevin(target_of(exact), rank=2)
    g = torch.Generator().manual_seed(45)
    state, kernel = sampler.warm_up(sampler.init(exact.sample(5, g)), 80, g)
    before = [t.clone() for t in (kernel.geometry.dense(), kernel.step_size, state.position, state.score)]
    ends = []
    for _ in range(2):
        again = torch.Generator().manual_seed(46)
        end = state
        for end, _ in sampler.run(state, kernel, 30, again):  # noqa: B007
            pass
        ends.append(end.position)
    assert torch.equal(ends[0], ends[1]) and not torch.equal(ends[0], state.position)
    after = (kernel.geometry.dense(), kernel.step_size, state.position, state.score)
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))


@pytest.mark.parametrize("factors", ["secants", "scores", "none"])
def test_chains_do_not_see_each_other(factors: Any) -> None:
    exact = two_modes()
    sampler = LMLangevin(target_of(exact), rank=2, factors=factors)
    start = exact.sample(4, torch.Generator().manual_seed(47))

    def last(rows: list[int]) -> tuple[Tensor, Tensor]:
        generators = [torch.Generator().manual_seed(100 + row) for row in rows]
        state, kernel = sampler.warm_up(sampler.init(start[rows]), 60, generators)
        for after, _ in sampler.run(state, kernel, 15, generators):
            state = after
        return state.position, kernel.step_size

    together, sizes = last([0, 1, 2, 3])
    assert len(set(sizes.tolist())) == 4
    for row in range(4):
        alone, size = last([row])
        torch.testing.assert_close(together[row], alone[0], rtol=1e-8, atol=1e-8)
        torch.testing.assert_close(sizes[row], size[0], rtol=1e-8, atol=0)


def test_one_chain_in_trouble_leaves_the_others_alone() -> None:
    """A chain at the edge of where the target is defined proposes what is not finite, in its warm-up too."""
    exact = two_modes()

    def score(x: Tensor) -> Tensor:
        return torch.where(x[:, :1] < 3.0, exact.score(x), torch.nan)

    def log_density(x: Tensor) -> Tensor:
        return torch.where(x[:, 0] < 3.0, exact.log_prob(x), -torch.inf)

    sampler = LMLangevin(Target(score, log_density), rank=2)
    start = exact.sample(3, torch.Generator().manual_seed(48)).clamp(-1, 1)
    start[1, 0] = 2.9999
    found = []
    for rows in ([0, 1, 2], [0, 2]):
        generators = [torch.Generator().manual_seed(200 + row) for row in rows]
        state, kernel = sampler.warm_up(sampler.init(start[rows]), 64, generators)
        assert state.position.isfinite().all() and kernel.geometry.dense().isfinite().all()
        found.append(state.position[[0, -1]])
    torch.testing.assert_close(found[0], found[1], rtol=1e-8, atol=1e-8)


def spiked(dtype: torch.dtype) -> tuple[Tensor, Target]:
    precision = torch.ones(48, dtype=dtype)
    precision[:6] = 1e4

    def log_density(x: Tensor) -> Tensor:
        return -0.5 * (precision * x.square()).double().sum(1)

    return precision, Target(lambda x: -precision * x, log_density)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_it_moves_faster_along_soft_directions_than_mala_with_a_tuned_step(dtype: torch.dtype) -> None:
    """Mean squared jump a gradient along the directions that MALA is slow in; the benchmark has 256 dimensions."""
    precision, target = spiked(dtype)
    jumps = {}
    for factors in ("none", "secants"):
        g = torch.Generator().manual_seed(49)
        sampler = LMLangevin(target, rank=6, factors=factors)  # pyright: ignore[reportArgumentType]
        start = torch.randn(16, 48, generator=g).to(dtype) / precision.sqrt()
        state, kernel = sampler.warm_up(sampler.init(start), 400, g)
        total = 0.0
        for after, _ in sampler.run(state, kernel, 100, g):
            total += float((after.position - state.position)[:, 6:].square().mean())
            state = after
        jumps[factors] = total / 100
    assert jumps["secants"] > 300 * jumps["none"]


def test_float32_warms_up_like_float64() -> None:
    found = []
    for dtype in (torch.float32, torch.float64):
        _, target = spiked(dtype)
        g = torch.Generator().manual_seed(50)
        sampler = LMLangevin(target, rank=6)
        _, kernel = sampler.warm_up(sampler.init(1e-2 * torch.ones(8, 48, dtype=dtype)), 400, g)
        found.append(kernel)
    # Decisions differ where a number is at the edge, so the chains part; what they find does not.
    torch.testing.assert_close(found[0].step_size.log().mean(), found[1].step_size.log().mean(), rtol=0, atol=0.15)
    tops = [kernel.geometry.excess.amax(1) for kernel in found]
    torch.testing.assert_close(tops[0], tops[1], rtol=1e-2, atol=0)


GAUSS = Target(lambda x: -x, lambda x: -x.square().sum(1) / 2)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"target": lambda x: -x}, "target is a function"),
        ({"rank": 0}, "rank=0"),
        ({"rank": True}, "rank=True"),
        ({"history": 4}, "history=4 is less than rank=16"),
        ({"history": 10_000}, "history=10000"),
        ({"factors": "gradients"}, "factors='gradients'"),
        ({"kappa": 3.0}, "kappa=3.0"),
        ({"damping": 0.0}, "damping=0.0"),
        ({"target_acceptance": 1.0}, "target_acceptance=1.0"),
        ({"target": Target(lambda x: -x)}, "adjusted=True needs"),
    ],
)
def test_settings_out_of_range_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(LMLError, match=message):
        LMLangevin(**({"target": GAUSS} | options))


def test_a_warm_up_that_cannot_be_is_refused() -> None:
    x = torch.zeros(2, 3)
    sampler = LMLangevin(GAUSS, rank=2)
    with pytest.raises(LMLError, match="steps=31 is too few for a history of 4; give 32"):
        sampler.warm_up(sampler.init(x), 31)
    blind = LMLangevin(Target(lambda x: -x), adjusted=False)
    with pytest.raises(LMLError, match="warm-up"):
        blind.warm_up(blind.init(x), 1000)
    for step_size in (0.0, -1.0, math.inf, math.nan, True, "1"):
        with pytest.raises(LMLError, match="step_size="):
            blind.freeze(x, step_size)  # pyright: ignore[reportArgumentType]


def test_without_a_warm_up_it_is_the_unadjusted_langevin_algorithm() -> None:
    sampler = LMLangevin(Target(lambda x: -x), adjusted=False)
    state = sampler.init(torch.full((2, 3), 2.0))
    g = torch.Generator().manual_seed(51)
    noise = torch.randn(2, 3, generator=torch.Generator().manual_seed(51))
    after, info = sampler.step(state, sampler.freeze(state.position, 0.1), g)
    torch.testing.assert_close(after.position, 0.9 * state.position + math.sqrt(0.2) * noise)
    assert info.accepted.all()

"""`LMLangevin`: Levenberg-Marquardt-Langevin dynamics as a sampler of any density with a score."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from lmlangevin.core.config import LMLConfig
from lmlangevin.core.errors import LMLError
from lmlangevin.core.operator import DampedLowRank
from lmlangevin.langevin import kernel as kernels
from lmlangevin.langevin.geometry import isotropic, score_geometry, secant_geometry
from lmlangevin.langevin.kernel import Generators, LangevinInfo, LangevinKernel, LangevinState, Target
from lmlangevin.langevin.warmup import Trace, warm_up

Factors = Literal["secants", "scores", "none"]
MAX_HISTORY = 512
"""Moves that a chain may keep; the bound keeps a typing error from eating memory."""


@dataclass(frozen=True)
class LMLangevin:
    """Langevin dynamics preconditioned by a damped low-rank H = B B^T + lambda I, made of each chain's own history.

        sampler = LMLangevin(Target(score, log_density), rank=16)
        state = sampler.init(x)                                       # (chains, *event)
        state, kernel = sampler.warm_up(state, 2000, generators)
        for state, info in sampler.run(state, kernel, 10_000, generators):
            ...                                                       # state.position, info.accepted

    Nothing is kept on the object. A step costs one gradient of every chain, and so does `init`. From `warm_up` on the
    geometry is frozen; the chain then leaves the target invariant if `adjusted`, and to O(step size) if not.

    Args:
        target: What is sampled: a score, and a log density for the adjustment and the warm-up.
        rank: r, the number of directions that H stretches, 1 or more.
        history: m >= r, the number of moves that H is made of; None is 2 r: the surplus says what lambda is to be.
        factors: `"secants"`, `"scores"` for LML's own factors, or `"none"` for H = I: plain MALA, or ULA.
        kappa: With `"scores"`: LML's kappa, in [-1, 1].
        damping: mu with lambda = mu tr(B^T B) / r; None is the largest curvature that the r directions leave out.
        adjusted: Whether moves are accepted by Metropolis' rule.
        target_acceptance: What the warm-up aims at, inside (0, 1).

    Raises:
        LMLError: For a value out of range.
    """

    target: Target
    rank: int = 16
    history: int | None = None
    factors: Factors = "secants"
    kappa: float = 1.0
    damping: float | None = None
    adjusted: bool = True
    target_acceptance: float = 0.574

    def __post_init__(self) -> None:
        if not isinstance(self.target, Target):
            raise LMLError(f"target is a {type(self.target).__name__}; give Target(score, log_density).")
        for name, value in (("rank", self.rank), ("history", self.length)):
            if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= MAX_HISTORY:
                raise LMLError(f"{name}={value!r} is out of range; give a whole number from 1 to {MAX_HISTORY}.")
        if self.length < self.rank:
            raise LMLError(f"history={self.history} is less than rank={self.rank}; give as much or more.")
        if self.factors not in get_args(Factors):
            raise LMLError(f"factors={self.factors!r} is unknown; give one of {', '.join(get_args(Factors))}.")
        LMLConfig(kappa=self.kappa, damping=self.damping)
        aim = self.target_acceptance
        if isinstance(aim, bool) or not isinstance(aim, int | float) or not 0 < aim < 1:
            raise LMLError(f"target_acceptance={aim!r} is no probability to aim at; give a number inside (0, 1).")
        if self.adjusted and self.target.log_density is None:
            raise LMLError("adjusted=True needs the target's log_density; give one, or adjusted=False.")

    @property
    def length(self) -> int:
        """The m of the class."""
        return 2 * self.rank if self.history is None else self.history

    def init(self, position: Tensor) -> LangevinState:
        """Start chains at (batch, *event); see `lmlangevin.langevin.kernel.init`."""
        return kernels.init(position, self.target)

    def geometry(self, trace: Trace) -> DampedLowRank:
        """Return H as this sampler makes it of a chain's last moves."""
        if self.factors == "none":
            return isotropic(trace.moves[0])
        if self.factors == "secants":
            return secant_geometry(trace.moves, trace.changes, self.rank, self.damping)
        return score_geometry(trace.scores, self.rank, kappa=self.kappa, damping=self.damping)

    def warm_up(
        self, state: LangevinState, steps: int, generator: Generators = None
    ) -> tuple[LangevinState, LangevinKernel]:
        """Find geometry and step size, adjusted always; `steps` gradients a chain. See `lmlangevin.langevin.warmup`."""
        # Scores are of points and secants of moves: m factors of the one need a point more.
        history = self.length + 1 if self.factors == "scores" else self.length
        aim = self.target_acceptance
        return warm_up(
            state, self.target, self.geometry, generator, steps=steps, history=history, target_acceptance=aim
        )

    def freeze(self, like: Tensor, step_size: float, geometry: DampedLowRank | None = None) -> LangevinKernel:
        """Return a kernel without a warm-up.

        Args:
            like: The chains' positions, (batch, *event).
            step_size: eps, above 0, in units of the geometry.
            geometry: H; None is the identity.

        Raises:
            LMLError: For a step size that is none.
        """
        kernels.check_step_size(step_size)
        geometry = isotropic(like) if geometry is None else geometry
        return LangevinKernel(geometry, torch.full_like(geometry.damping, step_size))

    def step(
        self, state: LangevinState, kernel: LangevinKernel, generator: Generators = None
    ) -> tuple[LangevinState, LangevinInfo]:
        """Take one step; see `lmlangevin.langevin.kernel.step`."""
        return kernels.step(state, self.target, kernel, generator, adjusted=self.adjusted)

    def run(
        self, state: LangevinState, kernel: LangevinKernel, steps: int, generator: Generators = None
    ) -> Iterator[tuple[LangevinState, LangevinInfo]]:
        """Yield what each of so many steps returns."""
        for _ in range(steps):
            state, info = self.step(state, kernel, generator)
            yield state, info

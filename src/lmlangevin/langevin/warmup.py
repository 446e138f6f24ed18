"""The warm-up: where a chain's geometry and step size are found, before they are frozen.

Four quarters. In the first the chains move isotropically and find a step size for that; the geometry is made of the
last moves in it. In the second they move by this geometry, which takes them to where the target's mass is. The third
and the fourth do the same once more, from there. Moves by an isotropic chain are what a geometry is made of, because
its noise looks into all directions alike: the moves of a preconditioned chain avoid the stiff ones.

The step size follows the acceptance by Robbins and Monro's rule in its logarithm, and is frozen at its mean over the
last half of the last quarter. Every chain has its own of everything: no chain depends on the others.

Reference: Robbins & Monro (1951), doi:10.1214/aoms/1177729586; 0.574 is Roberts & Rosenthal (1998),
doi:10.1111/1467-9868.00123.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, TypeAlias

import torch
from torch import Tensor

from lmlangevin.core.errors import LMLError
from lmlangevin.core.operator import DampedLowRank
from lmlangevin.core.passes import scalar_dtype
from lmlangevin.langevin.geometry import isotropic
from lmlangevin.langevin.kernel import (
    Generators,
    LangevinKernel,
    LangevinState,
    Target,
    step,
)

QUARTERS = 4
_DECAY = 0.6
"""Exponent of the falling weights of the step size's changes: between 1/2 and 1, so that it converges."""


class Trace(NamedTuple):
    """What a geometry can be made of: the last moves of isotropic chains, newest first, accepted or not.

    Attributes:
        moves: dx, each (batch, *event).
        changes: s(x + dx) - s(x), each of the same shape.
        scores: s(x), where those moves began.
    """

    moves: tuple[Tensor, ...] = ()
    changes: tuple[Tensor, ...] = ()
    scores: tuple[Tensor, ...] = ()


Shape: TypeAlias = Callable[[Trace], DampedLowRank]
"""What makes a geometry of a trace."""


def warm_up(
    state: LangevinState,
    target: Target,
    shape: Shape,
    generator: Generators = None,
    *,
    steps: int,
    history: int,
    target_acceptance: float,
) -> tuple[LangevinState, LangevinKernel]:
    """Run the chains while geometry and step size are found; `steps` gradients a chain.

    Args:
        state: Where the chains are.
        target: The target, with a log density: the step size is judged by how many moves are accepted.
        shape: What makes a geometry of a trace of `history` moves.
        generator: See `step`.
        steps: At least 8 times `history`: the first half of an isotropic quarter goes by before moves are kept.
        history: Number of moves that a geometry is made of.
        target_acceptance: What the step size aims at.

    Returns:
        Where the chains are now, and the kernel that they are to be run with.

    Raises:
        LMLError: For a target without a log density, or too few steps.
    """
    if target.log_density is None:
        raise LMLError("log_density is None, and the warm-up judges steps by it; give one, or a kernel of your own.")
    quarter = steps // QUARTERS
    if quarter < 2 * history:
        raise LMLError(f"steps={steps} is too few for a history of {history}; give {8 * history} or more.")
    plain = isotropic(state.position)
    alone = _Steps(state.position, target_acceptance)
    state, trace = _run(state, target, plain, alone, generator, quarter, history)
    led = _Steps(state.position, target_acceptance)
    geometry = shape(trace)
    state, _ = _run(state, target, geometry, led, generator, quarter)
    state, trace = _run(state, target, plain, alone, generator, quarter, history)
    geometry = shape(trace)
    last = steps - 3 * quarter
    led = led.again()
    state, _ = _run(state, target, geometry, led, generator, last // 2)
    led.mean.zero_()
    before = led.count
    state, _ = _run(state, target, geometry, led, generator, last - last // 2)
    return state, LangevinKernel(geometry, (led.mean / (led.count - before)).exp())


class _Steps:
    """A step size a chain, which follows the acceptance.

    Attributes:
        log: Its logarithm, (batch,).
        mean: The sum of that over the updates.
        count: The number of updates.
    """

    def __init__(self, position: Tensor, aim: float, log: Tensor | None = None) -> None:
        batch, size = position.shape[0], position[0].numel()
        # The best step of MALA falls like D^(-1/3) in units of the geometry.
        start = torch.full((batch,), size ** (-1 / 3), dtype=scalar_dtype(position.device), device=position.device)
        self.log = start.log() if log is None else log
        self.mean = torch.zeros_like(self.log)
        self.count = 0
        self._position = position
        self._aim = aim

    def again(self) -> _Steps:
        """Return the same with weights that start anew, for another geometry."""
        return _Steps(self._position, self._aim, self.log)

    def update(self, acceptance: Tensor) -> None:
        self.count += 1
        self.log = self.log + self.count**-_DECAY * (acceptance - self._aim)
        self.mean = self.mean + self.log


def _run(
    state: LangevinState,
    target: Target,
    geometry: DampedLowRank,
    sizes: _Steps,
    generator: Generators,
    steps: int,
    history: int = 0,
) -> tuple[LangevinState, Trace]:
    """Run the chains while their step size is found, and return the last moves."""
    kept: list[tuple[Tensor, Tensor, Tensor]] = []
    for index in range(steps):
        before = state
        state, info = step(before, target, LangevinKernel(geometry, sizes.log.exp()), generator)
        sizes.update(info.acceptance)
        if steps - index <= history:
            proposal = info.proposal
            kept.append((proposal.position - before.position, proposal.score - before.score, before.score))
    return state, Trace(*(tuple(reversed(part)) for part in zip(*kept, strict=True))) if kept else Trace()

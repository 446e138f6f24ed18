"""One step of preconditioned Langevin dynamics, with or without Metropolis' correction: state in, state out.

With a geometry H that does not change while the chain runs, step size eps and score s = grad log p, the proposal is

    x' = x + eps H^-1 s(x) + sqrt(2 eps) H^-1/2 xi,      xi standard normal.

It is Euler's scheme for a diffusion that leaves p invariant. Unadjusted, its own invariant distribution is off by
O(eps); for a Gaussian of precision P it is the Gaussian of precision P - (eps / 2) P H^-1 P, if eps H^-1 P < 2.
Adjusted, it is accepted with probability min(1, a), and p is invariant for any step size. With delta = x' - x, the
logarithm of a = p(x') q(x | x') / (p(x) q(x' | x)) comes out, exactly, as

    log p(x') - log p(x) - <s + s', delta> / 2 - (eps / 4) <s' - s, H^-1 (s' + s)>,

in which H itself does not occur, and nothing cancels that the two log densities do not.

Reference: Roberts & Tweedie (1996), doi:10.2307/3318418; Roberts & Stramer (2002), doi:10.1023/A:1023562417138.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple, TypeAlias

import torch
from torch import Tensor

from lmlangevin.core.errors import LMLError
from lmlangevin.core.operator import DampedLowRank
from lmlangevin.core.passes import scalar_dtype, scaled

Generators: TypeAlias = "torch.Generator | Sequence[torch.Generator] | None"
"""One CPU generator a chain, so that no chain depends on the others; or one for all, or torch's own: faster."""


class Target(NamedTuple):
    """What is sampled.

    Attributes:
        score: Gradient of the log density, (batch, *event) -> (batch, *event), for every chain by itself.
        log_density: (batch, *event) -> (batch,), up to a constant; None for a target that is known by its score alone,
            which cannot be adjusted.
    """

    score: Callable[[Tensor], Tensor]
    log_density: Callable[[Tensor], Tensor] | None = None


class LangevinState(NamedTuple):
    """Where the chains are.

    Attributes:
        position: x, (batch, *event).
        score: s(x), of the same shape.
        log_density: (batch,) in the dtype of scalars; None where the target has none.
    """

    position: Tensor
    score: Tensor
    log_density: Tensor | None


class LangevinKernel(NamedTuple):
    """What must not change while a chain runs.

    Attributes:
        geometry: H, one operator a chain.
        step_size: eps, (batch,) in the dtype of scalars; in units of H.
    """

    geometry: DampedLowRank
    step_size: Tensor


class LangevinInfo(NamedTuple):
    """What one step did.

    Attributes:
        acceptance: (batch,): the probability with which the proposal was to be accepted; unadjusted, 1 where it was
            finite.
        accepted: (batch,) bool.
        proposal: Where it would have gone, with the score there: what a history is made of, accepted or not.
    """

    acceptance: Tensor
    accepted: Tensor
    proposal: LangevinState


def init(position: Tensor, target: Target) -> LangevinState:
    """Evaluate the target where the chains start: one gradient a chain.

    Args:
        position: x, (batch, *event), float32 or float64.
        target: The target.

    Raises:
        LMLError: If the position is no such tensor, or the target is not finite there: a chain could not leave.
    """
    if not isinstance(position, Tensor) or position.dtype not in (torch.float32, torch.float64) or position.ndim < 2:
        got = f"a {position.dtype} {tuple(position.shape)}" if isinstance(position, Tensor) else type(position).__name__
        raise LMLError(f"position is {got}; give a float32 or float64 tensor of shape (batch, *event).")
    state = evaluate(position, target)
    if state.score.shape != position.shape:
        raise LMLError(
            f"score returned the shape {tuple(state.score.shape)} at a position of {tuple(position.shape)}; give one "
            "that keeps it."
        )
    wrong = (~usable(state)).nonzero().flatten().tolist()
    if wrong:
        raise LMLError(f"position has chains where the target is not finite ({wrong[:4]}); start them elsewhere.")
    return state


def step(
    state: LangevinState,
    target: Target,
    kernel: LangevinKernel,
    generator: Generators = None,
    *,
    adjusted: bool = True,
) -> tuple[LangevinState, LangevinInfo]:
    """Take one step of every chain: one gradient a chain.

    Args:
        state: Where the chains are.
        target: The target.
        kernel: Geometry and step size.
        generator: One generator a chain, one for all, or None for torch's own. Draws are float32 whatever the dtype.
        adjusted: Whether to accept by Metropolis' rule.

    Returns:
        The next state and what was done. A chain whose proposal is not finite stays where it is.

    Raises:
        LMLError: If `adjusted` and the target has no log density, or there is not one generator a chain.
    """
    if adjusted and state.log_density is None:
        raise LMLError("adjusted=True needs the target's log_density, and it has none; give one, or adjusted=False.")
    noise, uniform = draw(state.position, generator)
    eps = scaled(kernel.step_size, state.position)
    drift = kernel.geometry.solve(state.score)
    move = eps * drift + (2 * eps).sqrt() * kernel.geometry.inverse_sqrt_matvec(noise)
    proposal = evaluate(state.position + move, target)
    finite = usable(proposal)
    if adjusted:
        ratio = log_acceptance(state, proposal, kernel)
        # A NaN, of a density that is infinite or nowhere, is no reason to move.
        acceptance = torch.where(finite & ~ratio.isnan(), ratio.clamp_max(0).exp(), 0)
    else:
        acceptance = finite.to(uniform.dtype)
    accepted = uniform < acceptance
    return choose(accepted, proposal, state), LangevinInfo(acceptance, accepted, proposal)


def log_acceptance(state: LangevinState, proposal: LangevinState, kernel: LangevinKernel) -> Tensor:
    """Return log of p(x') q(x | x') / (p(x) q(x' | x)), (batch,), before it is cut at 0; see the module.

    Raises:
        LMLError: If a log density is missing.
    """
    if state.log_density is None or proposal.log_density is None:
        raise LMLError("log_density is None; give a target with one.")
    both = state.score + proposal.score
    move = proposal.position - state.position
    change = _dot(proposal.score - state.score, kernel.geometry.solve(both))
    gain = proposal.log_density - state.log_density
    return gain - _dot(both, move) / 2 - kernel.step_size * change / 4


# What the warm-up shares --------------------------------------------------------------------------------------------


def evaluate(position: Tensor, target: Target) -> LangevinState:
    """Return the state at a position, whatever is found there."""
    density = None
    if target.log_density is not None:
        density = target.log_density(position).to(scalar_dtype(position.device))
        if density.shape != position.shape[:1]:
            raise LMLError(
                f"log_density returned the shape {tuple(density.shape)} for a batch of {len(position)}; give one value "
                "a chain."
            )
    return LangevinState(position, target.score(position), density)


def usable(state: LangevinState) -> Tensor:
    """Return (batch,) bool: whether everything in a state is finite."""
    good = state.position.flatten(1).isfinite().all(dim=1) & state.score.flatten(1).isfinite().all(dim=1)
    return good if state.log_density is None else good & state.log_density.isfinite()


def choose(mask: Tensor, yes: LangevinState, no: LangevinState) -> LangevinState:
    """Return the state that has, of each chain, the one or the other."""
    density = None
    if yes.log_density is not None and no.log_density is not None:
        density = torch.where(mask, yes.log_density, no.log_density)
    wide = mask.view((-1,) + (1,) * (no.position.ndim - 1))
    return LangevinState(torch.where(wide, yes.position, no.position), torch.where(wide, yes.score, no.score), density)


def draw(like: Tensor, generator: Generators) -> tuple[Tensor, Tensor]:
    """Draw a standard normal of a batch's shape and dtype, and a uniform number a sample, in the dtype of scalars."""
    batch, event = like.shape[0], like.shape[1:]
    if generator is None or isinstance(generator, torch.Generator):
        noise = torch.randn(batch, *event, generator=generator, dtype=torch.float32)
        uniform = torch.rand(batch, generator=generator, dtype=torch.float64)
    else:
        if len(generator) != batch:
            raise LMLError(f"generator has {len(generator)} entries for {batch} chains; give one a chain, or one.")
        noise = torch.stack([torch.randn(*event, generator=one, dtype=torch.float32) for one in generator])
        uniform = torch.stack([torch.rand((), generator=one, dtype=torch.float64) for one in generator])
    return noise.to(like.device, like.dtype), uniform.to(like.device, scalar_dtype(like.device))


def check_step_size(step_size: float) -> None:
    """Refuse a step size that is no finite number above 0.

    Raises:
        LMLError: For such a one.
    """
    number = not isinstance(step_size, bool) and isinstance(step_size, int | float)
    if not (number and math.isfinite(step_size) and step_size > 0):
        raise LMLError(f"step_size={step_size!r} is no step size; give a finite number above 0.")


def _dot(a: Tensor, b: Tensor) -> Tensor:
    # A sum of many products with signs: float64, or it would be as uncertain as the acceptance it decides.
    wide = scalar_dtype(a.device)
    return torch.linalg.vecdot(a.flatten(1).to(wide), b.flatten(1).to(wide))

"""LMLangevin against ULA, MALA and blackjax's MALA and NUTS: effective samples a gradient, by ArviZ.

    pip install '.[langevin-bench]' && python benchmarks/langevin.py

Targets are given in the axes of their covariance: every sampler here is indifferent to a rotation but NUTS with a
diagonal mass matrix, and NUTS therefore gets the target in axes turned at random. All chains start from exact samples,
so that no sampler is charged for finding the target; what a warm-up costs stands beside.

A chain that is short against its own autocorrelation shows the effective size of its start, one a chain. So lengths
differ (`STEPS`), and the row of ULA on a Gaussian, whose effective size has a closed form, holds that too. ULA has
MALA's step.
"""

from __future__ import annotations

import argparse
import math
import time
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from importlib.metadata import version
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import jax
import numpy as np
import torch
from torch import Tensor

from _common import RESULTS, save
from lmlangevin.langevin import LangevinKernel, LMLangevin, Target
from lmlangevin.langevin.sampler import Factors

jax.config.update("jax_enable_x64", True)
with warnings.catch_warnings():
    warnings.simplefilter("ignore", FutureWarning)  # ArviZ announces its next version
    import arviz
import blackjax  # noqa: E402
import jax.numpy as jnp  # noqa: E402

SIZE, CONDITION = 256, 1e4
RANKS = (8, 16, 32, 64)
SCORES_RANK = 16
STEPS: dict[str, dict[str, int]] = {
    "stiff": {
        "MALA": 200_000,
        "ULA": 150_000,
        "MALA (blackjax)": 400_000,
        "rank 8": 160_000,
        "rank 16": 4000,
        "rank 32": 4000,
        "rank 64": 4000,
        "scores": 70_000,
    },
    "log-uniform": {
        "MALA": 160_000,
        "ULA": 110_000,
        "MALA (blackjax)": 300_000,
        "rank 8": 120_000,
        "rank 16": 90_000,
        "rank 32": 64_000,
        "rank 64": 24_000,
        "scores": 70_000,
    },
    "two-modes": {
        "MALA": 60_000,
        "ULA": 50_000,
        "MALA (blackjax)": 100_000,
        "rank 8": 8000,
        "rank 16": 8000,
        "rank 32": 8000,
        "scores": 30_000,
    },
}
"""Steps of a chain, by how slow the sampler is there: two of its longest autocorrelation times or more."""
DRAWS, WINDOW = 60, 1000
"""Draws of a NUTS chain and steps of its window adaptation."""


@dataclass(frozen=True)
class Case:
    """A target: one Gaussian, or two of one covariance at +-mean, with a diagonal precision.

    Attributes:
        name: Of the result's rows.
        precision: (D,).
        mean: (D,); zeros for one Gaussian.
    """

    name: str
    precision: Tensor
    mean: Tensor

    def target(self) -> Target:
        """Return the score and the log density, in closed form."""
        precision, mean = self.precision, self.mean

        def score(x: Tensor) -> Tensor:
            return -precision * x + torch.tanh(x @ (precision * mean))[:, None] * precision * mean

        def log_density(x: Tensor) -> Tensor:
            inner = x @ (precision * mean)
            return -0.5 * (precision * x.square()).sum(1) + torch.logaddexp(inner, -inner)

        return Target(score, log_density)

    def jax_density(self, turn: np.ndarray | None = None) -> Callable[[Any], Any]:
        """Return the log density for JAX, in axes turned by an orthogonal matrix."""
        precision, mean = jnp.asarray(self.precision.numpy()), jnp.asarray(self.mean.numpy())
        matrix = None if turn is None else jnp.asarray(turn)

        def log_density(x: Any) -> Any:
            x = x if matrix is None else matrix @ x
            inner = x @ (precision * mean)
            return -0.5 * jnp.sum(precision * x * x) + jnp.logaddexp(inner, -inner)

        return log_density

    def sample(self, count: int, generator: torch.Generator) -> Tensor:
        """Return exact samples, (count, D)."""
        signs = 2 * torch.randint(2, (count, 1), generator=generator) - 1
        noise = torch.randn(count, len(self.mean), generator=generator, dtype=torch.float64)
        return noise / self.precision.sqrt() + signs * self.mean


def cases() -> list[Case]:
    """The targets of the benchmark."""
    few = torch.ones(SIZE, dtype=torch.float64)
    few[-16:] = CONDITION
    spread = torch.logspace(0, math.log10(CONDITION), SIZE, dtype=torch.float64)
    modes = torch.ones(64, dtype=torch.float64)
    modes[-8:] = 1e3
    apart = torch.zeros(64, dtype=torch.float64)
    apart[0] = 1.5
    nowhere = torch.zeros(SIZE, dtype=torch.float64)
    return [Case("stiff", few, nowhere), Case("log-uniform", spread, nowhere), Case("two-modes", modes, apart)]


def effective(draws: np.ndarray) -> np.ndarray:
    """Return ArviZ's bulk effective sample size of (chains, draws, D), for each of the D."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = arviz.ess(arviz.convert_to_dataset({"x": draws}), method="bulk")
    return np.asarray(found["x"])


def row(case: Case, name: str, draws: np.ndarray, gradients: float, warm: int, **more: Any) -> dict[str, Any]:
    """Return the row of a result. `gradients` are those of all chains after the warm-up, `warm` those of one in it."""
    print(f"{time.process_time():6.0f} s  {case.name} {name}", flush=True)
    sizes = effective(draws)
    variances = (draws**2).mean(axis=(0, 1)) / (1 / case.precision + case.mean.square()).numpy()
    return {
        "target": case.name,
        "sampler": name,
        "ess_min": float(sizes.min()),
        "ess_median": float(np.median(sizes)),
        "gradients": int(gradients),
        "ess_min_per_1000": 1000 * float(sizes.min()) / gradients,
        "ess_median_per_1000": 1000 * float(np.median(sizes)) / gradients,
        "warm_up_gradients_a_chain": warm,
        "mean_variance_ratio": float(variances.mean()),
        "max_variance_ratio": float(variances.max()),
        **more,
    }


class Bench:
    """The samplers on one target.

    Args:
        case: The target.
        chains: Number of chains.
        seed: First seed.
    """

    def __init__(self, case: Case, chains: int, seed: int) -> None:
        self.case, self.chains, self.seed = case, chains, seed
        self.start = case.sample(chains, torch.Generator().manual_seed(seed))

    def own(
        self, name: str, sampler: LMLangevin, kernel: LangevinKernel, steps: int, warm: int, **more: Any
    ) -> dict[str, Any]:
        """Run one of ours from exact samples."""
        g = torch.Generator().manual_seed(self.seed + 1)
        thin = max(1, steps // 1000)
        kept, accepted = [], 0.0
        for index, (state, info) in enumerate(sampler.run(sampler.init(self.start), kernel, steps, g)):
            accepted += float(info.acceptance.mean()) / steps
            if index % thin == thin - 1:
                kept.append(state.position.numpy())
        step_size = float(kernel.step_size.mean())
        return row(
            self.case,
            name,
            np.stack(kept, 1),
            self.chains * steps,
            warm,
            acceptance=accepted,
            step_size=step_size,
            **more,
        )

    def mala_step(self) -> float:
        """Return the step of plain MALA with the largest product of step and acceptance, from a grid."""
        plain = LMLangevin(self.case.target(), rank=1, factors="none")
        g = torch.Generator().manual_seed(self.seed + 2)
        state, kernel = plain.warm_up(plain.init(self.start), 400, g)
        middle = float(kernel.step_size.log().mean().exp())
        speeds = {}
        for factor in (0.5, 0.7, 0.85, 1.0, 1.2, 1.4, 2.0):
            trial = plain.freeze(self.start, factor * middle)
            found = [info.acceptance.mean() for _, info in plain.run(state, trial, 200, g)]
            speeds[factor * middle] = factor * middle * float(torch.stack(found).mean())
        return max(speeds, key=lambda step: speeds[step])

    def plain(self, steps: int, tuned: float) -> dict[str, Any]:
        """Run LMLangevin with H = I, which is MALA."""
        sampler = LMLangevin(self.case.target(), rank=1, factors="none")
        return self.own("MALA", sampler, sampler.freeze(self.start, tuned), steps, 0)

    def unadjusted(self, steps: int, tuned: float) -> dict[str, Any]:
        """Run the same without Metropolis' rule, which is ULA."""
        sampler = LMLangevin(self.case.target(), rank=1, factors="none", adjusted=False)
        found = self.own("ULA", sampler, sampler.freeze(self.start, tuned), steps, 0)
        if not self.case.mean.any():
            # Every coordinate is an autoregression of its own, with the coefficient 1 - eps a.
            slowest = tuned * float(self.case.precision.min())
            found["closed_form_ess_min_per_1000"] = 1000 * slowest / (2 - slowest)
        return found

    def preconditioned(self, name: str, factors: Factors, rank: int, steps: int) -> dict[str, Any]:
        """Warm up and run LMLangevin."""
        sampler = LMLangevin(self.case.target(), rank=rank, factors=factors)
        warm = max(8 * (2 * rank + 1), 600)
        g = torch.Generator().manual_seed(self.seed + 3)
        _, kernel = sampler.warm_up(sampler.init(self.start), warm, g)
        damping = float(kernel.geometry.damping.mean())
        return self.own(name, sampler, kernel, steps, warm, rank=rank, damping=damping)

    def blackjax_mala(self, step_size: float, steps: int) -> dict[str, Any]:
        """Run blackjax's MALA with the same step as ours."""
        algorithm = blackjax.mala(self.case.jax_density(), step_size)
        thin = max(1, steps // 1000)

        def one(carry: Any, key: Any) -> Any:
            def inner(state: Any, k: Any) -> Any:
                state, info = algorithm.step(k, state)
                return state, info.acceptance_rate

            state, rates = jax.lax.scan(inner, carry, jax.random.split(key, thin))
            return state, (state.position, rates.mean())

        def chain(x: Any, key: Any) -> Any:
            return jax.lax.scan(one, algorithm.init(x), jax.random.split(key, steps // thin))[1]

        keys = jax.random.split(jax.random.key(self.seed + 4), self.chains)
        draws, rates = jax.jit(jax.vmap(chain))(jnp.asarray(self.start.numpy()), keys)
        count = self.chains * (steps // thin) * thin
        return row(
            self.case,
            "MALA (blackjax)",
            np.asarray(draws),
            count,
            0,
            acceptance=float(rates.mean()),
            step_size=step_size,
        )

    def blackjax_nuts(self, name: str, dense: bool) -> dict[str, Any]:
        """Run blackjax's NUTS after its window adaptation of step size and mass matrix, in axes turned at random."""
        size = len(self.case.precision)
        turn, _ = np.linalg.qr(np.random.default_rng(self.seed).normal(size=(size, size)))
        density = self.case.jax_density(turn)
        start = jnp.asarray(self.start.numpy() @ turn)
        first, second = jax.random.split(jax.random.key(self.seed + 5))
        adaptation = blackjax.window_adaptation(blackjax.nuts, density, is_mass_matrix_diagonal=not dense)
        (_, parameters), told = adaptation.run(first, start[0], num_steps=WINDOW)
        algorithm = blackjax.nuts(density, **parameters)

        def chain(x: Any, key: Any) -> Any:
            def inner(state: Any, k: Any) -> Any:
                state, info = algorithm.step(k, state)
                return state, (state.position, info.num_integration_steps, info.acceptance_rate)

            return jax.lax.scan(inner, algorithm.init(x), jax.random.split(key, DRAWS))[1]

        found, steps, rates = jax.jit(jax.vmap(chain))(start, jax.random.split(second, self.chains))
        back = np.asarray(found) @ turn.T
        spent = int(np.asarray(told.info.num_integration_steps).sum())
        more = {"acceptance": float(rates.mean()), "step_size": float(parameters["step_size"])}
        return row(self.case, name, back, float(steps.sum()), spent, **more)

    def rows(self, steps: dict[str, int]) -> Iterator[dict[str, Any]]:
        """Measure every sampler, each with so many steps."""
        tuned = self.mala_step()
        yield self.plain(steps["MALA"], tuned)
        yield self.unadjusted(steps["ULA"], tuned)
        yield self.blackjax_mala(tuned, steps["MALA (blackjax)"])
        yield self.blackjax_nuts("NUTS (blackjax)", dense=False)
        yield self.blackjax_nuts("NUTS (blackjax), dense mass", dense=True)
        for rank in RANKS:
            if 2 * rank <= len(self.case.precision):
                yield self.preconditioned(f"LMLangevin, rank {rank}", "secants", rank, steps[f"rank {rank}"])
        yield self.preconditioned("LMLangevin, scores", "scores", SCORES_RANK, steps["scores"])


def measure(case: Case, chains: int, seed: int, share: float) -> list[dict[str, Any]]:
    """Return the rows of a target, with a share of the steps."""
    torch.set_num_threads(1)
    steps = {name: max(round(share * count), 1) for name, count in STEPS[case.name].items()}
    return list(Bench(case, chains, seed).rows(steps))


def main() -> None:
    """Measure every sampler on every target and write the result file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--chains", type=int, default=24)
    parser.add_argument("--share", type=float, default=1.0, help="of the steps, for a quick look")
    parser.add_argument("--first-seed", type=int, default=2_000_000)
    parser.add_argument("--out", type=Path, default=RESULTS / "langevin.json")
    args = parser.parse_args()
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as workers:
        jobs = [
            workers.submit(measure, case, args.chains, args.first_seed + 100 * number, args.share)
            for number, case in enumerate(cases())
        ]
        rows = [made for job in jobs for made in job.result()]
    payload = {
        "first_seed": args.first_seed,
        "chains": args.chains,
        "steps": STEPS,
        "draws": DRAWS,
        "size": SIZE,
        "condition": CONDITION,
        "share": args.share,
        "packages": {name: version(name) for name in ("arviz", "blackjax", "jax")},
        "rows": rows,
    }
    save(args.out, payload)


if __name__ == "__main__":
    main()

"""Measure and draw what docs/theory.md says: `python benchmarks/theory.py`.

Writes benchmarks/results/theory.json and the figures of docs/images/theory; `--draw` draws them again from the file.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

from _common import RESULTS, noise_for, rmse, save
from lmlangevin.core import DampedLowRank
from lmlangevin.core.lowrank import solve
from lmlangevin.reference import GaussianMixture, converged_solution, linear_alphas_cumprod, load_analytic
from lmlangevin.theory import (
    ProbabilityFlow,
    Rule,
    adams_bashforth,
    after,
    angle,
    damped_newton,
    frobenius_fit,
    frobenius_floor,
    gaussian_slope,
    gaussian_solution,
    integrate,
    largest_angle,
    lml,
    lml_forecast,
    log_linear_gain,
    operator_bound,
    operator_error,
    operator_fit,
    operator_floor,
    plain,
    rotate,
    second_order_gain,
    undamped_direction,
    with_norm_of,
)

MODEL, FIRST_SEED = "analytic-cifar10", 9_100_000
SPECTRUM_SEEDS, DIRECTION_SEEDS, SAMPLING_SEEDS, TOY_SEEDS = 3, 32, 48, 16
STEPS = 10
SETTINGS = {"kappa 0.5, mu 1": (0.5, 1.0), "gain 0.5": (1e-3, 2e-3)}
NEWTON = (0.3, 1.0, 10.0)
EVALUATIONS = (5, 6, 8, 10, 15, 20)
RANKS = (0, 1, 2, 4, 8, 16, 32, 64, 80, 96, 128, 256, 512)
TABLE = linear_alphas_cumprod()


def ratio(timestep: float) -> float:
    """Return s = sigma / alpha of a whole or fractional timestep, log-linear between whole ones."""
    logs = ((1 - TABLE) / TABLE).log() / 2
    low = min(int(timestep), len(TABLE) - 2)
    return math.exp(float(torch.lerp(logs[low], logs[low + 1], timestep - low)))


def log_grid(steps: int) -> Tensor:
    """Levels uniform in log s over the model's range, and the final 0."""
    levels = torch.linspace(math.log(ratio(999)), math.log(ratio(0)), steps, dtype=torch.float64).exp()
    return torch.cat([levels, levels.new_zeros(1)])


def time_grid(steps: int) -> Tensor:
    """Levels of timesteps uniform from 999 to 0, and the final 0."""
    timesteps = torch.linspace(999, 0, steps, dtype=torch.float64).tolist()
    return torch.tensor([*map(ratio, timesteps), 0.0], dtype=torch.float64)


def toy_mixture() -> GaussianMixture:
    """Four components of rank three in 32 dimensions, of which dense matrices can be made."""
    g = torch.Generator().manual_seed(FIRST_SEED)
    means = torch.randn(4, 32, generator=g, dtype=torch.float64)
    factors = 0.7 * torch.randn(4, 32, 3, generator=g, dtype=torch.float64)
    weights = torch.tensor([0.4, 0.3, 0.2, 0.1], dtype=torch.float64)
    return GaussianMixture.from_factors(weights, means, factors, torch.full((4,), 0.02, dtype=torch.float64))


def start(flow: ProbabilityFlow, noise: Tensor, s: float) -> Tensor:
    """Return y of a standard-normal x at the level s."""
    return noise.to(flow.mixture.dtype) * math.sqrt(1 + s * s)


def walk(
    flow: ProbabilityFlow, y: Tensor, grid: Tensor
) -> Iterable[tuple[float, float, float, Tensor, Tensor, Tensor]]:
    """Yield (s_{i-1}, s_i, s_{i+1}, y_i, n_i, n_{i-1}) of an Euler run, without its first step and the last, to 0."""
    levels = grid.tolist()
    previous = flow.slope(y, levels[0])
    y = y + (levels[1] - levels[0]) * previous
    for i in range(1, len(levels) - 2):
        n = flow.slope(y, levels[i])
        yield levels[i - 1], levels[i], levels[i + 1], y, n, previous
        y, previous = y + (levels[i + 1] - levels[i]) * n, n


def mean(values: Iterable[float]) -> float:
    """Return the mean of numbers."""
    found = list(values)
    return sum(found) / len(found)


# The Hessian against LML's operator ---------------------------------------------------------------------------------


def compare(values: Tensor, n_shares: Tensor, factor_shares: dict[str, Tensor]) -> dict[str, Any]:
    """Describe the spectrum of J at one point, and the fit of LML's operators to it."""
    norm, largest = float(values.norm()), float(values.abs().amax())
    ranks = [rank for rank in RANKS if rank < len(values)]
    found: dict[str, Any] = {
        "least": float(values[0]),
        "most": float(values[-1]),
        "negative": int((values < 0).sum()),
        "below_0.9": int((values < 0.9 * values[-1]).sum()),
        "rayleigh_of_n": float(n_shares @ values / values[-1]),
        "lowest": values[:512].tolist(),
        "ranks": ranks,
        "floor_added": [operator_floor(values, rank) / largest for rank in ranks],
        "floor_subtracted": [operator_floor(-values, rank) / largest for rank in ranks],
        "identity": {"operator": operator_floor(values, 0) / largest, "frobenius": frobenius_floor(values, 0) / norm},
        "factor": {"operator": operator_floor(values, 1) / largest, "frobenius": frobenius_floor(values, 1) / norm},
    }
    for name, shares in factor_shares.items():
        mu = SETTINGS[name][1]
        fit = operator_fit(values, shares, mu)
        scales = [fit.scale, 0.5 * fit.scale, 2 * fit.scale, float(values.mean())]
        bounds = [operator_bound(values, shares, mu, c) / largest for c in scales]
        errors = [operator_error(values, shares, mu, c) / largest for c in scales]
        top = int((values - fit.scale).abs().argmax())
        found[name] = {
            "operator": fit.error,
            "frobenius": frobenius_fit(values, shares, mu).error,
            "bound": bounds[0],
            "slack_to_bound": min(b - e for b, e in zip(bounds, errors, strict=True)),
            "slack_to_floor": min(errors) - found["factor"]["operator"],
            "angle_to_top_eigenvector": math.degrees(math.acos(min(1.0, math.sqrt(float(shares[top]))))),
        }
    return found


def average(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Average numbers, lists and dictionaries of them; of slacks and least eigenvalues take the smallest."""
    merged: dict[str, Any] = {}
    for key, value in rows[0].items():
        column = [row[key] for row in rows]
        if isinstance(value, dict):
            merged[key] = average(column)
        elif isinstance(value, list):
            merged[key] = [mean(entries) for entries in zip(*column, strict=True)]
        else:
            merged[key] = min(column) if "slack" in key or key == "least" else mean(column)
    return merged


def spectra(flow: ProbabilityFlow, noise: Tensor) -> list[dict[str, Any]]:
    """Compare J with LML's operators at every level of an Euler run."""
    grid = log_grid(STEPS)
    dense = flow.mixture.dim <= 64
    rows = []
    for _, s, _, y, n, previous in walk(flow, start(flow, noise, float(grid[0])), grid):
        points = []
        factors = {name: n + kappa * (previous - n) for name, (kappa, _) in SETTINGS.items()}
        for k in range(len(noise)):
            vectors = [n[k], *(b[k] for b in factors.values())]
            if dense:
                values, axes = torch.linalg.eigh(flow.matrix(y[k : k + 1], s)[0])
                shares = [(axes.T @ v).square() / (v @ v) for v in vectors]
            else:
                values, shares = flow.eigenvalues(y[k], s, *vectors)
            points.append(compare(values, shares[0], dict(zip(factors, shares[1:], strict=True))))
        rows.append({"s": s, **average(points)})
    return rows


# Directions ---------------------------------------------------------------------------------------------------------


def degrees(a: Tensor, b: Tensor) -> float:
    """Return the mean angle between two batches of vectors, in degrees."""
    return float(angle(a, b).rad2deg().mean())


def turn(direction: Tensor, n: Tensor) -> Tensor:
    """Return the part of a direction across n."""
    flat, own = direction.flatten(1), n.flatten(1)
    share = torch.linalg.vecdot(flat, own) / torch.linalg.vecdot(own, own)
    return (flat - share[:, None] * own).view(n.shape)


def cosine(a: Tensor, b: Tensor, n: Tensor) -> float:
    """Return the mean cosine between the parts of two vectors across n: 1 where they turn n the same way."""
    return float(angle(turn(a, n), turn(b, n)).cos().mean())


def directions(flow: ProbabilityFlow, noise: Tensor) -> list[dict[str, Any]]:
    """Compare plain, LML's and Newton's direction with the one that the solution takes over the next step.

    In float64: heavily damped Newton turns n by millidegrees.
    """
    flow = ProbabilityFlow(flow.mixture.to(dtype=torch.float64))
    grid = log_grid(STEPS)
    rows = []
    for earlier, s, later, y, n, previous in walk(flow, start(flow, noise, float(grid[0])), grid):
        gain = log_linear_gain((earlier, s, later))
        secant = (flow.advance(y, s, later) - y) / (later - s)
        corrected = rotate(n, previous, gain)
        bend, image = flow.derivative(y, s), flow.product(y, s, n)
        row: dict[str, Any] = {
            "s": s,
            "gain": gain,
            "plain_to_solution": degrees(n, secant),
            "lml_to_solution": degrees(corrected, secant),
            "lml_to_plain": degrees(corrected, n),
            "lml_turn_cosine": cosine(corrected, secant, n),
            "norm": float((n.flatten(1).norm(dim=1) / math.sqrt(n[0].numel())).mean()),
            "bend_across": float((turn(bend, n).flatten(1).norm(dim=1) / bend.flatten(1).norm(dim=1)).mean()),
            "bend_to_hessian": cosine(bend, -image, n),
            "newton": {},
        }
        for damping in NEWTON:
            newton = damped_newton(flow, y, s, damping, tolerance=1e-9)
            row["newton"][f"{damping:g}"] = {
                "to_solution": degrees(newton.direction, secant),
                "to_plain": degrees(newton.direction, n),
                "to_lml": degrees(newton.direction, corrected),
                "turn_cosine": cosine(newton.direction, secant, n),
                "turn_cosine_to_lml": cosine(newton.direction, corrected, n),
                "raised": float((newton.damping > damping).double().mean()),
                "products": newton.products,
            }
        rows.append(row)
    return rows


# Sampling -----------------------------------------------------------------------------------------------------------


def newton_run(flow: ProbabilityFlow, y: Tensor, grid: Tensor, damping: float) -> Tensor:
    """Run Euler with the exact damped Newton direction in the place of n."""
    levels = grid.tolist()
    for s, later in zip(levels[:-1], levels[1:], strict=True):
        y = y + (later - s) * damped_newton(flow, y, s, damping, tolerance=1e-3).direction
    return y


def hessian_run(flow: ProbabilityFlow, y: Tensor, grid: Tensor) -> Tensor:
    """Run Euler with n turned by +(|h| / 2 s) J n, norm kept: the Hessian applied, and not inverted."""
    levels = grid.tolist()
    for s, later in zip(levels[:-1], levels[1:], strict=True):
        n = flow.slope(y, s)
        product = turn(flow.product(y, s, n), n)
        y = y + (later - s) * with_norm_of(n, n + (s - later) / (2 * s) * product)
    return y


def sampling(flow: ProbabilityFlow, noise: Tensor) -> list[dict[str, Any]]:
    """Measure every direction's error to the converged solution, over two time grids."""
    target = converged_solution(flow.mixture, noise)
    rules: dict[str, Rule] = {
        "plain": plain,
        "lml, gain 0.7": lml(0.7),
        "lml, gain h / 2h'": lml(second_order_gain),
        "lml, log-linear gain": lml(log_linear_gain),
        "lml, log-linear gain, length forecast": lml_forecast(log_linear_gain),
    }
    rows = []
    for name, make in (("uniform in log s", log_grid), ("uniform in time", time_grid)):
        for nfe in EVALUATIONS:
            grid = make(nfe)
            y = start(flow, noise, float(grid[0]))
            row: dict[str, Any] = {"grid": name, "nfe": nfe, "rmse": {}}
            for label, rule in rules.items():
                row["rmse"][label] = rmse(integrate(flow.slope, y, grid, rule), target)
            row["rmse"]["hessian applied"] = rmse(hessian_run(flow, y, grid), target)
            for damping in NEWTON:
                row["rmse"][f"newton, lambda {damping:g}"] = rmse(newton_run(flow, y, grid, damping), target)
            rows.append(row)
    return rows


# Order of accuracy --------------------------------------------------------------------------------------------------

ORDER_RULES: dict[str, Callable[[], Rule]] = {
    "plain": lambda: plain,
    "lml, gain 1/2": lambda: lml(0.5),
    "lml, gain h / 2h'": lambda: lml(second_order_gain),
    "lml, gain h / 2h', length forecast": lambda: lml_forecast(second_order_gain),
    "lml, log-linear gain, length forecast": lambda: lml_forecast(log_linear_gain),
    "Adams-Bashforth": lambda: adams_bashforth,
    "Adams-Bashforth after lml, gain 0.3": lambda: after(adams_bashforth, lml(0.3)),
}


def uneven_grid(first: float, last: float, steps: int) -> Tensor:
    """Levels whose steps in log s alternate between one and two units, so that h / h' never tends to 1."""
    sizes = torch.tensor([1.0, 2.0], dtype=torch.float64).repeat((steps + 1) // 2)[:steps]
    place = torch.cat([sizes.new_zeros(1), sizes.cumsum(0)]) / sizes.sum()
    return (math.log(first) + place * (math.log(last) - math.log(first))).exp()


def orders(toy: ProbabilityFlow) -> dict[str, Any]:
    """Measure the error against the number of steps, on a Gaussian in closed form and on the small mixture."""
    g = torch.Generator().manual_seed(FIRST_SEED + 1)
    variances, centre = torch.logspace(-3, 0.5, 8, dtype=torch.float64), torch.randn(8, generator=g).double()
    first, last = 20.0, 0.05
    y = centre + (variances + first**2).sqrt() * torch.randn(TOY_SEEDS, 8, generator=g, dtype=torch.float64)
    z = start(toy, torch.randn(TOY_SEEDS, 32, generator=g, dtype=torch.float64), first)
    counts = [8, 16, 32, 64, 128, 256, 512]
    cases = {
        "gaussian": (gaussian_slope(variances, centre), y, gaussian_solution(y, first, last, variances, centre)),
        "mixture": (toy.slope, z, toy.advance(z, first, last, steps=600)),
    }
    found: dict[str, Any] = {"steps": counts}
    for case, (slope, state, exact) in cases.items():
        found[case] = {
            label: [rmse(integrate(slope, state, uneven_grid(first, last, n), make()), exact) for n in counts]
            for label, make in ORDER_RULES.items()
        }
    return found


# Damping ------------------------------------------------------------------------------------------------------------


def dampings(flow: ProbabilityFlow, toy: ProbabilityFlow, noise: Tensor, toy_noise: Tensor) -> dict[str, Any]:
    """Measure how far the damped direction is from the prediction and from its undamped limit."""
    powers = [0.25 * k for k in range(-24, 17)]
    grid = log_grid(STEPS)
    points = list(walk(flow, start(flow, noise, float(grid[0])), grid))
    _, s, _, _, n, previous = points[4]
    limit = undamped_direction(DampedLowRank.of_predictions(n, [previous], kappa=0.5, damping=1.0), n)
    rows = []
    for power in powers:
        solved = solve(n, [previous], 0.5, 10.0**power, absolute=False)
        rows.append(
            {
                "mu": 10.0**power,
                "to_plain": float(solved.angle.rad2deg().mean()),
                "largest": float(solved.angle.rad2deg().amax()),
                "to_undamped": degrees(solved.direction, limit),
                "bound": math.degrees(largest_angle(0.0, 1.0, 10.0**power)),
            }
        )
    toy_points = list(walk(toy, start(toy, toy_noise, float(grid[0])), grid))
    _, toy_s, _, y, m, _ = toy_points[4]
    values, axes = torch.linalg.eigh(toy.matrix(y, toy_s))
    weights = torch.einsum("bij,bi->bj", axes, m)
    least, most = float(values.min()), float(values.max())
    exact = []
    for power in powers:
        lam = 10.0**power - min(0.0, least)
        x = torch.einsum("bij,bj->bi", axes, weights / (values + lam))
        bounds = [largest_angle(float(v[0]), float(v[-1]), lam) for v in values]
        exact.append({"lam": lam, "to_plain": degrees(x, m), "bound": math.degrees(mean(bounds))})
    return {"lml": {"s": s, "rows": rows}, "newton": {"s": toy_s, "least": least, "most": most, "rows": exact}}


def main() -> None:
    """Measure everything, write the result file and draw the figures."""
    from theory_figures import draw

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--draw", action="store_true", help="only draw the figures of the result file")
    path = RESULTS / "theory.json"
    if not parser.parse_args().draw:
        mixture, toy = load_analytic(MODEL), toy_mixture()
        flow, small = ProbabilityFlow(mixture), ProbabilityFlow(toy)
        toy_noise = torch.randn(
            TOY_SEEDS, 32, generator=torch.Generator().manual_seed(FIRST_SEED + 2), dtype=torch.float64
        )

        def noise(count: int) -> Tensor:
            return noise_for(range(FIRST_SEED, FIRST_SEED + count))

        parts: dict[str, Callable[[], Any]] = {
            "orders": lambda: orders(small),
            "dampings": lambda: dampings(flow, small, noise(DIRECTION_SEEDS), toy_noise),
            "directions": lambda: directions(flow, noise(DIRECTION_SEEDS)),
            "sampling": lambda: sampling(flow, noise(SAMPLING_SEEDS)),
            "spectra": lambda: {"small": spectra(small, toy_noise), "cifar": spectra(flow, noise(SPECTRUM_SEEDS))},
        }
        record: dict[str, Any] = {
            "model": MODEL,
            "first_seed": FIRST_SEED,
            "seeds": {
                "spectra": SPECTRUM_SEEDS,
                "directions": DIRECTION_SEEDS,
                "sampling": SAMPLING_SEEDS,
                "small mixture and Gaussian": TOY_SEEDS,
            },
            "steps": STEPS,
        }
        with torch.inference_mode():
            for name, part in parts.items():
                began = time.perf_counter()
                record[name] = part()
                print(f"{name}: {time.perf_counter() - began:.0f} s", flush=True)
        save(path, record)
    draw(json.loads(path.read_text(encoding="utf-8")))


if __name__ == "__main__":
    main()

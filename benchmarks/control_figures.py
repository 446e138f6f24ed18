"""Draw what the controls do at each level: `python benchmarks/control_figures.py`.

Two pictures in docs/images/control: the gains of the calibrations that come with the package, and the angle by which
the constant, the adaptive and the calibrated control turn the predictions of the embedded network.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import torch

from _common import embedded_network
from lmlangevin.calibration import find_calibration
from lmlangevin.generation.models import VP_CONFIG
from lmlangevin.generation.seeds import start_images
from lmlangevin.schedulers import build_scheduler

IMAGES = Path(__file__).parents[1] / "docs" / "images" / "control"
LENGTHS = (6, 8, 10, 15)
STEPS = 8
FIRST_SEED = 8_400_000
COUNT = 16


def levels(scheduler: Any) -> list[float]:
    """Return s of the steps of a run."""
    return [float(value) for value in scheduler.sigmas[: len(scheduler.timesteps)]]


def gains() -> None:
    """The gains of every step against its level."""
    figure, axes = plt.subplots(1, 2, figsize=(9, 3.4), sharey=True, layout="constrained")
    for axis, model in zip(axes, ("analytic-cifar10", "embedded"), strict=True):
        for steps in LENGTHS:
            found = find_calibration(model, steps)
            if found is None:
                raise FileNotFoundError(f"no calibration of {model} at {steps} steps comes with the package")
            schedule = found.schedule
            axis.plot(schedule.levels[1:-1], [row[0] for row in schedule.gains[1:]], "o-", ms=3, label=f"{steps} steps")
        axis.axhline(0, color="0.8", lw=0.8, zorder=0)
        axis.set(xscale="log", xlabel="s = sigma / alpha", title=model, ylim=(-0.5, 4))
        axis.invert_xaxis()
    axes[0].set_ylabel("gain of the previous prediction")
    axes[0].legend(frameon=False, fontsize=8)
    figure.savefig(IMAGES / "gains.png", dpi=120)


def angles() -> None:
    """The mean angle of the correction against the level, all on Euler."""
    network, noise = embedded_network(), start_images(range(FIRST_SEED, FIRST_SEED + COUNT), (3, 32, 32))[0]
    found = find_calibration("embedded", STEPS)
    if found is None:
        raise FileNotFoundError(f"no calibration of embedded at {STEPS} steps comes with the package")
    arms = {
        "constant, gain 0.5, exponential": ("exponential", {"gain": 0.5}),
        "adaptive, exponential": ("exponential", {"control": "adaptive"}),
        "calibrated, its own grid": (None, {"control": "calibrated", "calibrated_steps": found.schedule.to_config()}),
    }
    figure, axis = plt.subplots(figsize=(5.5, 3.4), layout="constrained")
    for label, (grid, lml) in arms.items():
        scheduler = build_scheduler("euler", dict(VP_CONFIG), grid=grid, lml={**lml, "record": True})
        scheduler.set_timesteps(STEPS)
        with torch.inference_mode():
            turned = record(network, scheduler, noise)
        axis.plot(levels(scheduler)[1:], turned[1:], "o-", ms=3, label=label)
    axis.set(xscale="log", yscale="log", xlabel="s = sigma / alpha", ylabel="mean angle, degrees")
    axis.invert_xaxis()
    axis.legend(frameon=False, fontsize=8)
    figure.savefig(IMAGES / "angles.png", dpi=120)


def record(network: Any, scheduler: Any, noise: torch.Tensor) -> list[float]:
    """Run a sampler and return the mean angle of every step, in degrees."""
    x = noise * scheduler.init_noise_sigma
    for t in scheduler.timesteps:
        x = scheduler.step(network(scheduler.scale_model_input(x, t), t).sample, t, x).prev_sample
    return [float(info.angle.mean().rad2deg()) for info in scheduler.lml_history]


if __name__ == "__main__":
    IMAGES.mkdir(parents=True, exist_ok=True)
    gains()
    angles()

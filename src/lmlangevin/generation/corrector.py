"""`--langevin-steps`: Langevin steps between those of a scheduler, in the package's own sampling loop."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from lmlangevin.langevin.corrector import correct_level, difference_geometry
from lmlangevin.schedulers.levels import Level, run_levels
from lmlangevin.schedulers.noise import FLOW, noise_coordinates, prediction_kind


class Corrector:
    """What is between the steps of one run.

    Args:
        scheduler: The run's scheduler, after `set_timesteps`.
        generators: One an image, for the noise.
        steps: K, the Langevin steps at each level that the scheduler reaches and evaluates the network at.
        step_size: See `lmlangevin.langevin.corrector.langevin_step`.
        rank: Number of differences of earlier predictions in the geometry.
    """

    def __init__(
        self, scheduler: Any, generators: Sequence[torch.Generator], *, steps: int, step_size: float, rank: int
    ) -> None:
        self._scheduler = scheduler
        self._generators = generators
        self._steps = steps
        self._step_size = step_size
        self._kept = rank + 1
        self._levels: list[Level] = run_levels(scheduler)
        self._predictions: list[Tensor] = []

    def correct(self, evaluate: Callable[[Tensor], Tensor], index: int, timestep: Any, x: Tensor) -> Tensor:
        """Return the sample after the Langevin steps of a level.

        Args:
            evaluate: The network at this level: sample -> prediction.
            index: Which step of the run comes next.
            timestep: That step's.
            x: The scheduler's sample.
        """
        if index == 0:  # pure noise, which is exact
            return x
        level = self._levels[index]
        return correct_level(
            lambda y: self._noise(evaluate(y), index, timestep, y),
            lambda: torch.stack([torch.randn(x.shape[1:], generator=one) for one in self._generators]).to(x),
            x,
            difference_geometry(self._predictions),
            sigma=level.value * level.scale,
            step_size=self._step_size,
            steps=self._steps,
        )

    def remember(self, prediction: Tensor, index: int, timestep: Any, x: Tensor) -> None:
        """Keep what the network said at a step of the scheduler, before that step."""
        self._predictions = [self._noise(prediction, index, timestep, x), *self._predictions][: self._kept]

    def _noise(self, prediction: Tensor, index: int, timestep: Any, x: Tensor) -> Tensor:
        prediction = prediction[:, : x.shape[1]]  # a learned variance is no noise
        if prediction_kind(self._scheduler) == FLOW:
            # x = (1 - sigma) x0 + sigma eps, and the network says eps - x0.
            return x + (1 - self._levels[index].value) * prediction
        return noise_coordinates(self._scheduler, prediction, timestep, x)[0]

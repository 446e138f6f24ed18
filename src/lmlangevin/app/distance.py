"""The Frechet distance of a batch that is too small for the one that `generate` measures.

The page shows what a visitor has just made, which is a few dozen images and not 512. Their distance is far from that of
many images, but plain and LML come from the same seeds, so most of what is wrong with one is wrong with the other.
"""

from __future__ import annotations

import warnings

from lmlangevin.generation.checks import BUILT_IN
from lmlangevin.generation.config import GenerateConfig
from lmlangevin.generation.distance import SMALLEST_COUNT, measure_distances
from lmlangevin.generation.models import load_model
from lmlangevin.generation.processes import Processes
from lmlangevin.generation.store import open_store

FEWEST = 64
"""With fewer images not even the difference of two samplers says anything."""


def has_small_distance(config: GenerateConfig) -> bool:
    """Return whether a job has images enough for this distance, and not enough for the better one."""
    return config.compare and config.model in BUILT_IN and FEWEST <= config.count < SMALLEST_COUNT


def small_distances(config: GenerateConfig) -> dict[str, float]:
    """Measure the distance of each run of a finished job to what its model was made from.

    Args:
        config: The job, for which `has_small_distance` holds.

    Returns:
        The distances, by the names of the runs.

    Raises:
        LMLError: If an image cannot be read.
    """
    from lmlangevin.schedulers.names import find_scheduler

    model = load_model(config, flow=find_scheduler(config.scheduler).flow)
    with warnings.catch_warnings():
        # No more images than features: true of most batches here, and said on the page.
        warnings.filterwarnings("ignore", message=".*singular covariance", category=UserWarning)
        return measure_distances(config, model, open_store(config.out), Processes())[0]

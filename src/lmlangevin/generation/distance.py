"""The Frechet distance of a comparison's two runs to what their model was made from."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from lmlangevin.core.errors import LMLError
from lmlangevin.generation.batches import part
from lmlangevin.generation.images import read_png, to_uint8
from lmlangevin.generation.manifest import image_name, run_names
from lmlangevin.generation.store import Store
from lmlangevin.scenes.models import SCENES

if TYPE_CHECKING:
    from lmlangevin.evaluation import FeatureNetwork, FrechetStatistics
    from lmlangevin.generation.config import GenerateConfig
    from lmlangevin.generation.models import LoadedModel
    from lmlangevin.generation.processes import Processes

SMALLEST_COUNT = 512
"""Fewer images say too little: the bias of a Frechet distance falls with their number."""

REFERENCE_SAMPLES = 2048
REFERENCE_SEED = 2**31
"""Exact samples of an analytic model are drawn from here on, away from the seeds that people give."""

_CHUNK = 256


def has_distance(config: GenerateConfig, model: LoadedModel, notes: list[str]) -> bool:
    """Return whether a job gets distances; if it is a comparison that gets none, the reason goes to `notes`."""
    if not config.compare:
        return False
    if config.model in SCENES:
        return False
    if model.pipeline is not None:
        notes.append("The Frechet distance is measured for the built-in models only.")
        return False
    if config.count < SMALLEST_COUNT:
        notes.append(f"A Frechet distance needs --num-images {SMALLEST_COUNT} or more, so none is shown.")
        return False
    return True


def measure_distances(
    config: GenerateConfig, model: LoadedModel, store: Store, processes: Processes
) -> tuple[dict[str, float], dict[str, Any]]:
    """Measure the distance of each run to the model's reference, from the images as they are on disk.

    Every process calls this, and looks at its share of the images. The reference of `embedded` is the training set;
    that of an analytic model is its own exact samples.

    Args:
        config: The job, all of whose images are finished.
        model: Its model.
        store: Where it lies.
        processes: Who takes part.

    Returns:
        The distance of each run, and what the manifest says of the measurement; the same in every process.

    Raises:
        LMLError: If an image cannot be read.
    """
    from lmlangevin.evaluation import frechet_distance, load_feature_network, load_reference_statistics

    network = load_feature_network()
    if config.model == "embedded":
        reference = load_reference_statistics()
    else:
        count = max(REFERENCE_SAMPLES, config.count)
        protocol = f"embedded network on {count} exact samples of {config.model}"
        mixture = model.networks[0].mixture
        starts = part(range(0, count, _CHUNK), processes.rank, processes.count)
        reference = _gather(network, protocol, (_exact(mixture, start, count) for start in starts), processes)
    ids = part(range(config.count), processes.rank, processes.count)
    distances = {}
    for run in run_names(config):
        pixels = _pixels(store, [image_name(run, index) for index in ids])
        distances[run] = frechet_distance(_gather(network, reference.protocol, pixels, processes), reference)
    return distances, {
        "protocol": reference.protocol,
        "extractor": reference.extractor,
        "weight_hash": reference.weight_hash,
        "reference_images": reference.n,
    }


def _gather(
    network: FeatureNetwork, protocol: str, batches: Iterator[Tensor], processes: Processes
) -> FrechetStatistics:
    """Return the statistics of the images of all processes: uint8 batches, (batch, 3, height, width)."""
    from lmlangevin.evaluation import FrechetStatistics

    @torch.inference_mode()
    def own_share() -> FrechetStatistics:
        statistics = FrechetStatistics.empty(
            network.dim, extractor=network.extractor, weight_hash=network.weight_hash or "", protocol=protocol
        )
        for pixels in batches:
            statistics = statistics.update(network.features(pixels))
        return statistics

    statistics = processes.together(own_share)
    with processes.talking():
        return statistics.all_reduce()


def _exact(mixture: Any, start: int, count: int) -> Tensor:
    generator = torch.Generator().manual_seed(REFERENCE_SEED + start)
    return to_uint8(mixture.sample(min(_CHUNK, count - start), generator))


def _pixels(store: Store, names: Sequence[str]) -> Iterator[Tensor]:
    def read(name: str, data: bytes | None) -> Any:
        try:
            return np.asarray(read_png(data or b""))
        except (OSError, SyntaxError) as error:
            raise LMLError(
                f"out={store.shown!r} has lost {name}, which was finished; run it again with --resume."
            ) from error

    for start in range(0, len(names), _CHUNK):
        rows = list(store.read_each(names[start : start + _CHUNK], read))
        yield torch.from_numpy(np.stack(rows)).permute(0, 3, 1, 2)

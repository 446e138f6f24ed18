"""The Frechet distance of a comparison's two runs to what their model was made from."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from lmlangevin.generation.images import to_uint8

if TYPE_CHECKING:
    from lmlangevin.evaluation import FeatureNetwork, FrechetStatistics
    from lmlangevin.generation.config import GenerateConfig
    from lmlangevin.generation.models import LoadedModel

SMALLEST_COUNT = 512
"""Fewer images say too little: the bias of a Frechet distance falls with their number."""

REFERENCE_SAMPLES = 2048
REFERENCE_SEED = 2**31
"""Exact samples of an analytic model are drawn from here on, away from the seeds that people give."""

_CHUNK = 256
_REFERENCE = "reference"


class DistanceMeter:
    """Gathers the features of each run, and compares them with those of the reference.

    The reference of `embedded` is the training set; that of an analytic model is its own exact samples.
    """

    def __init__(self, network: FeatureNetwork, protocol: str) -> None:
        self._network = network
        self._protocol = protocol
        self._statistics: dict[str, FrechetStatistics] = {}

    @classmethod
    def for_job(cls, config: GenerateConfig, model: LoadedModel, notes: list[str]) -> DistanceMeter | None:
        """Return the meter of a job; None, with the reason in `notes`, where a distance would mean nothing."""
        if not config.compare:
            return None
        if model.pipeline is not None:
            notes.append("The Frechet distance is measured for the built-in models only.")
            return None
        if config.num_images < SMALLEST_COUNT:
            notes.append(f"A Frechet distance needs --num-images {SMALLEST_COUNT} or more, so none is shown.")
            return None
        from lmlangevin.evaluation import load_feature_network, load_reference_statistics

        network = load_feature_network()
        if config.model == "embedded":
            reference = load_reference_statistics()
            meter = cls(network, reference.protocol)
            meter._statistics[_REFERENCE] = reference
            return meter
        count = max(REFERENCE_SAMPLES, config.num_images)
        meter = cls(network, f"embedded network on {count} exact samples of {config.model}")
        mixture: Any = model.networks[0].mixture
        for start in range(0, count, _CHUNK):
            generator = torch.Generator().manual_seed(REFERENCE_SEED + start)
            meter.update(_REFERENCE, to_uint8(mixture.sample(min(_CHUNK, count - start), generator)))
        return meter

    @torch.inference_mode()
    def update(self, run: str, pixels: Tensor) -> None:
        """Add images of a run: uint8, (batch, 3, 32, 32), as they are written."""
        from lmlangevin.evaluation import FrechetStatistics

        if run not in self._statistics:
            self._statistics[run] = FrechetStatistics.empty(
                self._network.dim,
                extractor=self._network.extractor,
                weight_hash=self._network.weight_hash or "",
                protocol=self._protocol,
            )
        self._statistics[run] = self._statistics[run].update(self._network.features(pixels))

    def distance(self, run: str) -> float:
        """Return the distance of a run to the reference."""
        from lmlangevin.evaluation import frechet_distance

        return frechet_distance(self._statistics[run], self._statistics[_REFERENCE])

    def describe(self) -> dict[str, Any]:
        """Return what the manifest says of the measurement."""
        reference = self._statistics[_REFERENCE]
        return {
            "protocol": reference.protocol,
            "extractor": reference.extractor,
            "weight_hash": reference.weight_hash,
            "reference_images": reference.n,
        }

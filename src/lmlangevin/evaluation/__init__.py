"""Evaluation: feature extractors, Frechet statistics and protocols. Names are imported when they are first used.

The function behind `lml fid` is `lmlangevin.evaluation.fid.fid`; it is not among these names, because the module of
the same name would stand in its place once it is imported.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lmlangevin.evaluation.blocks import BlockValues, block_distances, seed_blocks
    from lmlangevin.evaluation.extractors import (
        CallableExtractor,
        Extractor,
        InceptionExtractor,
        load_extractor,
    )
    from lmlangevin.evaluation.features import (
        FeatureNetwork,
        RandomFeatureNetwork,
        extract_features,
        load_feature_network,
        random_features,
    )
    from lmlangevin.evaluation.frechet import (
        FrechetStatistics,
        LogFID,
        feature_statistics,
        frechet_distance,
        load_reference_statistics,
        log_fid,
    )
    from lmlangevin.evaluation.protocols import PROTOCOLS, Preparation, Protocol, find_protocol
    from lmlangevin.evaluation.result import FidResult

_HOMES = {
    "BlockValues": "blocks",
    "CallableExtractor": "extractors",
    "Extractor": "extractors",
    "FeatureNetwork": "features",
    "FidResult": "result",
    "FrechetStatistics": "frechet",
    "InceptionExtractor": "extractors",
    "LogFID": "frechet",
    "PROTOCOLS": "protocols",
    "Preparation": "protocols",
    "Protocol": "protocols",
    "RandomFeatureNetwork": "features",
    "block_distances": "blocks",
    "extract_features": "features",
    "feature_statistics": "frechet",
    "find_protocol": "protocols",
    "frechet_distance": "frechet",
    "load_extractor": "extractors",
    "load_feature_network": "features",
    "load_reference_statistics": "frechet",
    "log_fid": "frechet",
    "random_features": "features",
    "seed_blocks": "blocks",
}

__all__ = [
    "BlockValues",
    "CallableExtractor",
    "Extractor",
    "FeatureNetwork",
    "FidResult",
    "FrechetStatistics",
    "InceptionExtractor",
    "LogFID",
    "PROTOCOLS",
    "Preparation",
    "Protocol",
    "RandomFeatureNetwork",
    "block_distances",
    "extract_features",
    "feature_statistics",
    "find_protocol",
    "frechet_distance",
    "load_extractor",
    "load_feature_network",
    "load_reference_statistics",
    "log_fid",
    "random_features",
    "seed_blocks",
]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(f"lmlangevin.evaluation.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])

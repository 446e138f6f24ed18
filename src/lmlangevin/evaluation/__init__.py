"""Evaluation: feature extractors and Frechet statistics. Names are imported when they are first used."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lmlangevin.evaluation.features import (
        FeatureNetwork,
        RandomFeatureNetwork,
        extract_features,
        load_feature_network,
        random_features,
    )
    from lmlangevin.evaluation.frechet import (
        FrechetStatistics,
        feature_statistics,
        frechet_distance,
        load_reference_statistics,
    )

_HOMES = {
    "FeatureNetwork": "features",
    "FrechetStatistics": "frechet",
    "RandomFeatureNetwork": "features",
    "extract_features": "features",
    "feature_statistics": "frechet",
    "frechet_distance": "frechet",
    "load_feature_network": "features",
    "load_reference_statistics": "frechet",
    "random_features": "features",
}

__all__ = [
    "FeatureNetwork",
    "FrechetStatistics",
    "RandomFeatureNetwork",
    "extract_features",
    "feature_statistics",
    "frechet_distance",
    "load_feature_network",
    "load_reference_statistics",
    "random_features",
]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(f"lmlangevin.evaluation.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])

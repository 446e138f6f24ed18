"""`LMLConfig`: each wrong value is one clear error that names its field."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import pytest

from lmlangevin.core import LMLConfig, LMLError


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("kappa", 1.001), ("kappa", -3), ("kappa", math.nan), ("kappa", math.inf), ("kappa", "0.5"), ("kappa", True),
        ("damping", 0), ("damping", -1e-3), ("damping", math.inf), ("damping", math.nan), ("damping", "1"),
        ("gain", math.inf), ("gain", math.nan), ("gain", "0.5"), ("gain", True), ("gain", [0.5]),
        ("damping_mode", "Relative"), ("damping_mode", None), ("damping_mode", 1),
        ("rank", 0), ("rank", -1), ("rank", 17), ("rank", 1.0), ("rank", True), ("rank", "2"), ("rank", None),
        ("control", "Constant"), ("control", None), ("control", ["constant"]),
        pytest.param("damping", 10**400, id="damping-huge"),
    ],
)  # fmt: skip
def test_a_wrong_value_is_one_error_that_names_its_field(field: str, value: Any) -> None:
    with pytest.raises(LMLError) as caught:
        LMLConfig(**{field: value})
    text = str(caught.value)
    assert text.startswith(f"{field}=") and "give" in text and "\n" not in text
    assert len(str(value)) > 20 or str(value) in text


@pytest.mark.parametrize("other", [{"kappa": 0.5}, {"damping": 1.0}, {"kappa": 0.0, "damping": 2.0}])
def test_gain_excludes_the_papers_two(other: dict[str, float]) -> None:
    with pytest.raises(LMLError, match="gain=0.3 cannot be combined"):
        LMLConfig(gain=0.3, **other)


def test_gain_is_relative() -> None:
    with pytest.raises(LMLError, match="gain=0.3 .*damping_mode='absolute'"):
        LMLConfig(gain=0.3, damping_mode="absolute")


def test_it_is_frozen_and_a_value_error_type() -> None:
    config = LMLConfig(kappa=0.25)
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.kappa = 0.5  # type: ignore[misc]
    assert issubclass(LMLError, ValueError)
    assert config == LMLConfig(kappa=0.25) and hash(config) == hash(LMLConfig(kappa=0.25))
    assert dataclasses.replace(config, rank=3).rank == 3


@pytest.mark.parametrize(
    ("keys", "want"),
    [
        ({}, (0.5, 1.0)),
        ({"kappa": -0.25}, (-0.25, 1.0)),
        ({"kappa": 0}, (0.0, 1.0)),
        ({"kappa": 1}, (1.0, 1.0)),
        ({"damping": 3}, (0.5, 3.0)),
        ({"kappa": -1, "damping": 1e-10, "damping_mode": "absolute"}, (-1.0, 1e-10)),
        ({"gain": 0.5}, (0.001, 0.002)),
        ({"gain": -2}, (-0.001, 0.0005)),
        ({"gain": 0}, (0.0, 1.0)),
        ({"gain": -0.0}, (0.0, 1.0)),
        ({"gain": 1e-320}, (0.0, 1.0)),
    ],
)
def test_resolved(keys: dict[str, Any], want: tuple[float, float]) -> None:
    resolved = LMLConfig(**keys).resolved()
    assert resolved == pytest.approx(want, rel=1e-15)
    assert all(isinstance(v, float) for v in resolved)


@pytest.mark.parametrize("gain", [1e-199, 1e-30, 1e30, 1e300, -1e300])
def test_an_extreme_gain_still_makes_a_legal_pair(gain: float) -> None:
    kappa, damping = LMLConfig(gain=gain).resolved()
    LMLConfig(kappa=kappa, damping=damping)
    assert math.copysign(1, kappa) == math.copysign(1, gain)

"""Settings as values: what is equal, what is not, and what JSON keeps of it."""

from __future__ import annotations

import json
from collections import OrderedDict
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lmlangevin.values import differing, plain, same, text

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (5, 5.0),
        (5, np.int64(5)),
        (5.0, np.float32(5)),
        (7.5, torch.tensor(7.5, dtype=torch.float16)),
        (0.1, np.float32(0.1)),
        (0.1, torch.tensor(0.1)),
        (0.1, torch.tensor(0.1, dtype=torch.bfloat16)),
        (True, np.bool_(True)),
        ((1, 2), [1.0, 2]),
        ([0.5, 2], np.array([0.5, 2.0], dtype=np.float32)),
        ([[1, 2]], torch.tensor([[1.0, 2.0]])),
        ({"a": (1,)}, OrderedDict(a=[1.0])),
        ({3, 1}, [1, 3]),
        (float("nan"), np.float64("nan")),
        (-0.0, 0),
    ],
    ids=str,
)
def test_a_value_is_the_same_in_every_type(first: Any, second: Any) -> None:
    assert same(first, second) and same(second, first)


@pytest.mark.parametrize(
    ("first", "second"),
    [(5, "5"), (1, True), (0, False), (0, None), (0.1, 0.1000001), ([1], 1), ([1, 2], [2, 1]), ({}, None), (5, 5.5)],
    ids=str,
)
def test_other_values_differ(first: Any, second: Any) -> None:
    assert not same(first, second)


@given(JSON)
def test_what_json_gives_back_is_the_same(value: Any) -> None:
    assert json.loads(json.dumps(plain(value))) == value
    assert text(json.loads(json.dumps(value))) == text(value)


def test_the_settings_that_differ_are_named_in_order() -> None:
    before = {"steps": 8, "guidance_scale": 5, "shift": 3.0, "gone": None, "sigmas": [1.0, 0.5]}
    after = {"guidance_scale": np.float32(5), "steps": 9, "shift": 3, "new": 1, "sigmas": (1, 0.5)}
    assert differing(before, after) == ["steps", "new"]

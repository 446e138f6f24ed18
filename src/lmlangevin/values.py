"""Settings compared as values: a saved setting equals the setting that it was saved from, whatever type held it."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping, Set
from enum import Enum
from typing import Any


def same(first: Any, second: Any) -> bool:
    """Return whether two settings have the same value, whatever types hold it.

    5 is 5.0, a tuple is a list, and scalars and arrays of numpy and torch are numbers and lists. True is not 1.
    """
    return text(first) == text(second)


def differing(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    """Return the names of the settings that have another value, in order; a setting that is not there is None."""
    return [name for name in {**before, **after} if not same(before.get(name), after.get(name))]


def text(value: Any) -> str:
    """Return a text that is equal for equal values; what settings are hashed by."""
    return json.dumps(_whole(plain(value)), sort_keys=True)


def plain(value: Any) -> Any:
    """Return a setting as JSON keeps it.

    Args:
        value: Numbers, texts, and mappings and sequences of them.

    Returns:
        Scalars and arrays of numpy and torch become numbers and lists, tuples become lists, sets become sorted lists,
        and the keys of mappings become texts. A number that is not finite, and any other object, becomes its text.
    """
    value = number(value)
    if value is None or isinstance(value, bool | int):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if isinstance(value, Enum):
        return plain(value.value)
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, Set):
        return sorted(map(plain, value), key=text)
    if isinstance(value, list | tuple) or (hasattr(value, "tolist") and hasattr(value, "ndim")):
        return [plain(item) for item in value]  # the rows of an array are arrays, and its numbers are scalars
    return str(value)


def number(value: Any) -> Any:
    """Return a scalar of numpy or torch as a number of Python, and anything else as it is.

    A float of less than double precision becomes its shortest decimal: the float32 next to 0.1 is 0.1.
    """
    if getattr(value, "ndim", None) != 0 or not hasattr(value, "item"):
        return value
    item = value.item()
    if not isinstance(item, float) or not math.isfinite(item):
        return item
    like = value.detach().cpu().new_tensor if hasattr(value, "detach") else value.dtype.type
    decimals = (float(f"{item:.{digits}g}") for digits in range(1, 17))
    return next((decimal for decimal in decimals if like(decimal) == like(item)), item)


def take_numbers(settings: Any) -> None:
    """Replace the scalars of numpy and torch in a dataclass, frozen or not, by numbers of Python."""
    for item in dataclasses.fields(settings):
        object.__setattr__(settings, item.name, number(getattr(settings, item.name)))


def _whole(value: Any) -> Any:
    """Return plain values with whole numbers as ints."""
    if isinstance(value, dict):
        return {key: _whole(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_whole(item) for item in value]
    return int(value) if isinstance(value, float) and value.is_integer() and abs(value) < _EXACT else value


_EXACT = 2**53

"""The paper's release as it is: its formula in a chosen precision, with kappa = 0.

With kappa = 0 the factor b is the prediction n itself, and n - b <n, b> / (lambda + <b, b>) is parallel to n: once the
norm is restored, nothing has happened. In exact arithmetic, that is. In float32 the difference of two numbers that
agree to a few units in the last place is mostly rounding error, and restoring the norm magnifies it. This
module exists so that anyone can measure that; it is no sampler to use, and `lmlangevin.core` shares nothing with it.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def textbook_direction(n: Tensor, damping: float) -> Tensor:
    """Apply (n n^T + lambda I)^-1 to n by the textbook formula, in the dtype of n, and restore the norm.

    The order of operations is the release's: the product with the inner product first, then the quotient.

    Args:
        n: (batch, *event).
        damping: lambda, absolute.

    Returns:
        The same shape and dtype; in exact arithmetic it would be n. NaN where every element cancels.
    """
    flat = n.flatten(1)
    square = (flat * flat).sum(dim=1, keepdim=True)
    solved = flat - flat * square / (damping + square)
    length = (solved * solved).sum(dim=1, keepdim=True).sqrt()
    return (solved * square.sqrt() / length).view(n.shape)


def release_scheduler(scheduler: Any, damping: float, dtype: torch.dtype) -> Any:
    """Make an LML scheduler of the reference placement act as the release does.

    Args:
        scheduler: Built with `placement="reference"` and any gain.
        damping: lambda.
        dtype: Precision of the formula; the result is cast to what the scheduler works in.

    Returns:
        The same scheduler, of a class of its own.
    """

    def correct(self: Any, n: Tensor, timestep: Any = None) -> Tensor:
        del self, timestep
        return textbook_direction(n.to(dtype), damping).to(n.dtype)

    methods = {"_lml_correct": correct, "_lml_active": property(lambda self: True)}
    scheduler.__class__ = type(f"Release{type(scheduler).__name__}", (type(scheduler),), methods)
    return scheduler

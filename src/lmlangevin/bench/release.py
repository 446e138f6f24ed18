"""How far the paper's release is from the identity that it should be: its formula, measured in a chosen precision.

`lmlangevin.schedulers.release` says why it is not the identity.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from lmlangevin.core.errors import LMLError
from lmlangevin.schedulers.release import textbook_direction

PUBLISHED_LAMBDAS: dict[int, float] = {
    5: 8e-4, 6: 8e-4, 7: 1e-3, 8: 1e-3, 9: 1e-3, 10: 8e-4, 12: 1e-3, 15: 1e-3, 20: 5e-4, 30: 3e-4, 50: 1e-4, 100: 5e-5,
}  # fmt: skip
"""The lambda that the release's README calls optimal for CIFAR-10, by number of evaluations."""

PUBLISHED_ELSEWHERE = {"CelebA-HQ, DDIM": 5e-3, "MS-COCO, Stable Diffusion": 1e-3}
"""The lambdas of the README's other commands."""

LONGER = 1.03
"""What a prediction is multiplied by to see whether its correction follows it: 3% is another number in bfloat16 too."""


def published_lambda(nfe: int) -> float:
    """Return the published lambda of a number of evaluations; between two rows that of the nearest lower one."""
    rows = [row for row in PUBLISHED_LAMBDAS if row <= nfe]
    return PUBLISHED_LAMBDAS[max(rows) if rows else min(PUBLISHED_LAMBDAS)]


@dataclass(frozen=True)
class Deviation:
    """How far the formula is from the identity that it should be.

    Attributes:
        dtype: Name of the precision.
        size: Number of elements of one prediction.
        damping: lambda.
        deviation: Mean over the finite samples of ||d - n|| / ||n||; None where none is finite.
        spread: Its standard deviation.
        nan_share: Share of samples that are not finite.
        agreement: Mean cosine between the deviations of a prediction and of the same prediction 3% longer, each without
            its part along its n: 1 for a correction that follows the prediction, 0 for a random one.
    """

    dtype: str
    size: int
    damping: float
    deviation: float | None
    spread: float | None
    nan_share: float
    agreement: float | None


def agreement(first: tuple[Tensor, Tensor], second: tuple[Tensor, Tensor]) -> Tensor:
    """Return the cosine between two deviations d - n, each without its part along its own n.

    A d of the norm of n has left n by r^2 / 2 along -n, where r is the relative size of its deviation, whatever its
    direction is: random deviations share that part, and a plain cosine of theirs would be about r^2 / 4.

    Args:
        first: Predictions n and what became of them d, (batch, size) each.
        second: The same of other predictions.

    Returns:
        (batch,), float64; 0 where a d is its n.
    """
    across = []
    for n, d in (first, second):
        n, change = n.double(), d.double() - n.double()
        along = (n * change).sum(dim=1, keepdim=True) / (n * n).sum(dim=1, keepdim=True)
        # The smallest eps: in float64 a deviation is so short that a usual one would count.
        across.append(torch.nn.functional.normalize(change - n * along, dim=1, eps=torch.finfo(torch.float64).tiny))
    return (across[0] * across[1]).sum(dim=1)


def deviation_from_identity(dtype: torch.dtype, size: int, damping: float, *, samples: int, seed: int) -> Deviation:
    """Measure the formula on standard-normal predictions, which is what a network predicts at the first steps.

    Args:
        dtype: Precision of the formula.
        size: Elements of one prediction, such as 3072 for 3x32x32.
        damping: lambda.
        samples: Number of predictions, 2 or more.
        seed: Of the predictions.
    """
    if samples < 2:
        raise LMLError(f"samples={samples} is too few; give 2 or more.")
    n = torch.randn(samples, size, generator=torch.Generator().manual_seed(seed)).to(dtype)
    d = textbook_direction(n, damping)
    change = d.double() - n.double()
    finite = change.isfinite().all(dim=1)
    count = int(finite.sum())
    relative = change[finite].norm(dim=1) / n[finite].double().norm(dim=1)
    longer = (LONGER * n.double()).to(dtype)
    other = textbook_direction(longer, damping)
    both = finite & other.isfinite().all(dim=1)
    cosines = agreement((n[both], d[both]), (longer[both], other[both]))
    return Deviation(
        str(dtype).removeprefix("torch."),
        size,
        damping,
        float(relative.mean()) if count else None,
        float(relative.std()) if count > 1 else None,
        1 - count / samples,
        float(cosines.mean()) if bool(both.any()) else None,
    )

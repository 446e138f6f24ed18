"""The settings of the correction, validated once so that no step has to."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

from lmlangevin.core.errors import LMLError

DampingMode = Literal["relative", "absolute"]

GAIN_KAPPA = 1e-3
"""|kappa| that `gain=` stands for: so small that the exact gain is kappa / damping to a part in a thousand."""

DEFAULT_KAPPA = 0.5
DEFAULT_DAMPING = 1.0
MAX_RANK = 16
"""Far more previous predictions than were ever seen to help; the bound keeps a typing error from eating memory."""


@dataclass(frozen=True)
class LMLConfig:
    """How strongly, and in which geometry, a prediction is corrected.

    Give either `gain` (one number) or `kappa` with `damping` (the paper's two); with neither, kappa = 0.5 and
    damping = 1, a gain of about one half.

    Args:
        kappa: Share of the previous prediction in the low-rank factor, in [-1, 1]. Negative values lean the
            correction towards the previous prediction instead of away from it. 0 switches the correction off.
        damping: Damping, greater than 0. Dimensionless by default: lambda = damping * ||b||^2.
        gain: The one-number way in, replacing `kappa` and `damping`: |kappa| = 0.001 with the sign of `gain` and
            damping = |kappa / gain|, always relative. 0 is kappa = 0.
        damping_mode: `"relative"`, or `"absolute"` where `damping` is the paper's lambda, in squared units of the
            prediction summed over the elements of one sample.
        rank: Number of previous predictions in the low-rank factor, 1 to 16. All share `kappa`. Above 1 a relative
            damping counts as 1e-4 at least, but for float64 predictions.
        control: Name of the damping controller, see `lmlangevin.core.damping`.

    Raises:
        LMLError: For a value out of range; the message names the field, the value and the remedy.

    Reference:
        arXiv:2505.24222, the low-rank damped Hessian; Marquardt (1963) for the scaling of lambda.
    """

    kappa: float | None = None
    damping: float | None = None
    gain: float | None = None
    damping_mode: DampingMode = "relative"
    rank: int = 1
    control: str = "constant"

    def __post_init__(self) -> None:
        from lmlangevin.core.damping import ADAPTIVE, CALIBRATED, check_control

        if self.gain is not None:
            if self.kappa is not None or self.damping is not None:
                raise LMLError(
                    f"gain={self.gain} cannot be combined with kappa={self.kappa} and damping={self.damping}; "
                    "give gain alone, or kappa with damping."
                )
            if self.damping_mode != "relative":
                raise LMLError(
                    f"gain={self.gain} has no meaning with damping_mode={self.damping_mode!r}; "
                    "give kappa and damping, or damping_mode='relative'."
                )
            finite_number("gain", self.gain, "a finite number such as 0.5, or 0 for no correction")
        if self.kappa is not None and not -1 <= finite_number("kappa", self.kappa, "a number in [-1, 1]") <= 1:
            raise LMLError(f"kappa={self.kappa} is out of range; give a number in [-1, 1], such as 0.5.")
        if self.damping is not None and finite_number("damping", self.damping, "a number above 0") <= 0:
            raise LMLError(f"damping={self.damping} must be above 0; for less correction give a larger damping.")
        if self.damping_mode not in get_args(DampingMode):
            raise LMLError(f"damping_mode={self.damping_mode!r} is unknown; give 'relative' or 'absolute'.")
        if self.damping_mode == "absolute" and self.damping is None:
            raise LMLError(
                "damping_mode='absolute' has no default damping, which depends on the size of the prediction; give "
                "damping=, the paper's lambda, with kappa."
            )
        if isinstance(self.rank, bool) or not isinstance(self.rank, int) or not 1 <= self.rank <= MAX_RANK:
            raise LMLError(f"rank={self.rank!r} is out of range; give a whole number from 1 to {MAX_RANK}.")
        if self.control in (ADAPTIVE, CALIBRATED):
            given = [name for name in ("gain", "kappa", "damping") if getattr(self, name) is not None]
            if self.rank != 1:
                raise LMLError(
                    f"rank={self.rank} has no meaning with control={self.control!r}; leave rank out, or give "
                    "control='constant'."
                )
            if given:
                raise LMLError(
                    f"control={self.control!r} has gains of its own and takes no {' or '.join(given)}; leave "
                    "that out, or give control='constant'."
                )
        check_control(self.control)

    def resolved(self) -> tuple[float, float]:
        """Return (kappa, damping) as the solve takes them, `gain` translated."""
        if self.gain is None:
            kappa = DEFAULT_KAPPA if self.kappa is None else self.kappa
            return float(kappa), float(DEFAULT_DAMPING if self.damping is None else self.damping)
        if abs(self.gain) < _SMALLEST_GAIN:
            return 0.0, DEFAULT_DAMPING
        return math.copysign(GAIN_KAPPA, self.gain), GAIN_KAPPA / abs(self.gain)


_SMALLEST_GAIN = 1e-200
"""Below this kappa / gain would overflow; a rotation by such an angle is no rotation in any float type."""


def finite_number(name: str, value: object, remedy: str) -> float:
    """Return a finite number as a float, or raise an LMLError that names it."""
    try:
        number = math.nan if isinstance(value, bool) or not isinstance(value, (int, float)) else float(value)
    except OverflowError:  # a whole number beyond the range of floats
        number = math.inf
    if not math.isfinite(number):
        raise LMLError(f"{name}={value!r} is not a finite number; give {remedy}.")
    return number

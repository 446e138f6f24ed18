"""The theory, runnable: what docs/theory.md states, as functions that its figures and tests call."""

from lmlangevin.theory.approximation import (
    Fit,
    frobenius_fit,
    frobenius_floor,
    operator_bound,
    operator_error,
    operator_fit,
    operator_floor,
)
from lmlangevin.theory.damping import largest_angle, log_lipschitz, undamped_direction
from lmlangevin.theory.extrapolation import (
    Gain,
    Levels,
    Rule,
    adams_bashforth,
    after,
    gaussian_slope,
    gaussian_solution,
    integrate,
    lml,
    lml_forecast,
    log_linear_gain,
    plain,
    rotate,
    second_order_gain,
)
from lmlangevin.theory.flow import ProbabilityFlow
from lmlangevin.theory.newton import Newton, Solution, angle, conjugate_gradient, damped_newton, with_norm_of

__all__ = [
    "Fit",
    "Gain",
    "Levels",
    "Newton",
    "ProbabilityFlow",
    "Rule",
    "Solution",
    "adams_bashforth",
    "after",
    "angle",
    "conjugate_gradient",
    "damped_newton",
    "frobenius_fit",
    "frobenius_floor",
    "gaussian_slope",
    "gaussian_solution",
    "integrate",
    "largest_angle",
    "lml",
    "lml_forecast",
    "log_linear_gain",
    "log_lipschitz",
    "operator_bound",
    "operator_error",
    "operator_fit",
    "operator_floor",
    "plain",
    "rotate",
    "second_order_gain",
    "undamped_direction",
    "with_norm_of",
]

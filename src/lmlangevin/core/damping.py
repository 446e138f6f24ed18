"""Controllers of the damping: what turns the history of a run into this step's kappa and damping.

The direction (`lowrank`) and its damping (here) do not know of each other. A new controller is a function with
the signature of `constant`, registered under a name; that name is then a valid `LMLConfig.control`, in every
scheduler and on the command line, and no other file changes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

import torch

from lmlangevin.core.errors import LMLError

if TYPE_CHECKING:
    from lmlangevin.core.config import LMLConfig
    from lmlangevin.core.correction import LMLInfo


class Damping(NamedTuple):
    """This step's damping.

    Attributes:
        kappa: A number, or a tensor of shape (batch,) on the prediction's device.
        damping: A number, or a tensor of shape (batch,); relative or absolute as the configuration says.
    """

    kappa: float | torch.Tensor
    damping: float | torch.Tensor


class History(NamedTuple):
    """What a controller may look at.

    Attributes:
        prediction: This step's prediction, (batch, *event).
        previous: Uncorrected predictions of earlier steps, newest first, each (batch, *event). At least one; as many
            as the larger of the configured rank and the controller's depth once the run is long enough.
        infos: What was done at those steps, newest first, as long as `previous`.
        step: Index of this step in the run, from 0.
    """

    prediction: torch.Tensor
    previous: tuple[torch.Tensor, ...]
    infos: tuple[LMLInfo, ...]
    step: int


Controller: TypeAlias = "Callable[[History, LMLConfig], Damping]"

_CONTROLLERS: dict[str, tuple[Controller, int]] = {}


def register_controller(name: str, *, depth: int = 1) -> Callable[[Controller], Controller]:
    """Make a controller available as `LMLConfig(control=name)`.

    Args:
        name: The name; registering one twice replaces the first.
        depth: How many previous predictions the controller needs to see. They are kept in memory, so ask for no
            more than it uses.

    Returns:
        A decorator that returns the controller unchanged.
    """

    def decorate(controller: Controller) -> Controller:
        _CONTROLLERS[name] = (controller, depth)
        return controller

    return decorate


CONSTANT = "constant"
"""The control that is one number for every step."""

ADAPTIVE = "adaptive"
"""The control that also looks at the solver's position, and corrects it: `core.adaptive`, which has its own loop."""

CALIBRATED = "calibrated"
"""The control whose gains were fitted for every step before the run: `core.scheduled`."""

_BESIDE = {
    ADAPTIVE: "needs the solver's position beside its prediction; call lmlangevin.core.adapt in place of correct",
    CALIBRATED: "needs the schedule that was fitted; call lmlangevin.core.correct_scheduled in place of correct",
}


def controller_names() -> tuple[str, ...]:
    """Return the names that `LMLConfig(control=)` takes: those registered, in that order, then the two that are not."""
    return (*_CONTROLLERS, *_BESIDE)


def get_controller(name: str) -> tuple[Controller, int]:
    """Return (controller, depth) of a registered name.

    Raises:
        LMLError: For `"adaptive"` and `"calibrated"`, which need more than the prediction and its history.
    """
    if name in _BESIDE:
        raise LMLError(f"control={name!r} {_BESIDE[name]}, or give control='constant'.")
    return _CONTROLLERS[name]


@register_controller(CONSTANT)
def constant(history: History, config: LMLConfig) -> Damping:
    """The configured kappa and damping at every step."""
    del history
    return Damping(*config.resolved())

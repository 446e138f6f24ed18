"""Controllers of the damping: what turns the history of a run into this step's kappa and damping.

The direction (`lowrank`) and its damping (here) do not know of each other. A new controller is a function with
the signature of `constant`, registered under a name; that name is then a valid `LMLConfig.control`, in every
scheduler and on the command line, and no other file changes. An installed package offers one as an entry point of the
group `lmlangevin.controllers`, which is loaded when its name is first used.
"""

from __future__ import annotations

import importlib
import importlib.metadata
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

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

ENTRY_POINTS = "lmlangevin.controllers"
"""The group of entry points by which an installed package offers controllers, each a function or its module."""


def register_controller(name: str, *, depth: int = 1) -> Callable[[Controller], Controller]:
    """Make a controller available as `LMLConfig(control=name)`, in every scheduler and on the command line.

    The command line knows a controller that an installed package offers as an entry point of the group
    `lmlangevin.controllers` by its name (`--control NAME`), and any other by its module (`--controller MODULE:NAME`).

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
    """Return the names that `LMLConfig(control=)` takes.

    Those registered come first, in that order, then the two that are no damping controllers, then those of entry points
    that nobody has used yet.
    """
    known = (*_CONTROLLERS, *_BESIDE)
    return (*known, *(name for name in _installed() if name not in known))


def get_controller(name: str) -> tuple[Controller, int]:
    """Return (controller, depth) of a name, registered or of an entry point.

    Raises:
        LMLError: For an unknown name, an entry point that cannot be loaded, and for `"adaptive"` and `"calibrated"`,
            which need more than the prediction and its history.
    """
    if name in _CONTROLLERS:
        return _CONTROLLERS[name]
    if name in _BESIDE:
        raise LMLError(f"control={name!r} {_BESIDE[name]}, or give control='constant'.")
    point = _installed().get(name)
    if point is None:
        raise LMLError(f"control={name!r} is unknown; give one of {', '.join(map(repr, controller_names()))}.")
    try:
        found = point.load()
    except Exception as error:  # it is a stranger's module, which may fail in any way
        raise LMLError(
            f"control={name!r} is {point.value!r} of an installed package and cannot be loaded "
            f"({type(error).__name__}: {' '.join(str(error).split())}); mend or remove that package."
        ) from error
    return _taken(name, found, f"control={name!r}")


def check_control(name: str) -> None:
    """Check that a name is one that `LMLConfig(control=)` takes.

    Raises:
        LMLError: If it is none.
    """
    if not isinstance(name, str):
        raise LMLError(f"control={name!r} is no name; give one such as {CONSTANT!r}.")
    if name not in _BESIDE:
        get_controller(name)


def load_controller(reference: str) -> str:
    """Import a module for one of its controllers; what it registers is known from then on.

    Args:
        reference: `MODULE:NAME`, where NAME is what the module registers, or a function in it.

    Returns:
        NAME, to be given as `control`.

    Raises:
        LMLError: If the module cannot be imported, or has no such controller.
    """
    module, _, name = reference.partition(":")
    if not (name and all(part.isidentifier() for part in module.split("."))):
        raise LMLError(f"controller={reference!r} is no MODULE:NAME; give one such as my_controllers:late.")
    if name in _BESIDE or name == CONSTANT:
        raise LMLError(f"controller={reference!r} has the name of a built-in control; give it another name.")
    try:
        found = importlib.import_module(module)
    except Exception as error:  # it is the user's module, which may fail in any way
        raise LMLError(
            f"controller={reference!r} cannot be imported ({type(error).__name__}: {' '.join(str(error).split())}); "
            "give a module that is installed, or in the folder that you are in."
        ) from error
    _taken(name, getattr(found, name, None), f"controller={reference!r}")
    return name


def _installed() -> dict[str, importlib.metadata.EntryPoint]:
    return {point.name: point for point in importlib.metadata.entry_points(group=ENTRY_POINTS)}


def _taken(name: str, found: Any, subject: str) -> tuple[Controller, int]:
    """Return what a module registered under a name when it was imported, or register a function that it has."""
    if name not in _CONTROLLERS:
        if not callable(found):
            raise LMLError(f"{subject} names no controller; give a function, or a module that registers {name!r}.")
        controller: Any = found
        register_controller(name)(controller)
    return _CONTROLLERS[name]


@register_controller(CONSTANT)
def constant(history: History, config: LMLConfig) -> Damping:
    """The configured kappa and damping at every step."""
    del history
    return Damping(*config.resolved())

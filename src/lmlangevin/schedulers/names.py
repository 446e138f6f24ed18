"""The short names of samplers, as the command line and `apply_lml` take them."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import diffusers
from diffusers.schedulers.scheduling_utils import SchedulerMixin

from lmlangevin.core import LMLError
from lmlangevin.schedulers.factory import refusal_of, with_lml
from lmlangevin.schedulers.noise import is_flow
from lmlangevin.values import same

VP_GRIDS = ("leading", "trailing", "linspace")
SIGMA_GRIDS = {
    "karras": "use_karras_sigmas",
    "exponential": "use_exponential_sigmas",
    "beta": "use_beta_sigmas",
    "lu": "use_lu_lambdas",
}
"""Time grids by sigma, and the configuration key that diffusers has for each."""


@dataclass(frozen=True)
class SchedulerName:
    """A sampler that can be named: the diffusers class and the configuration that makes it this sampler.

    Attributes:
        class_name: Name of the diffusers class.
        config: Configuration keys that it sets.
        title: How people write its name.
        flow: Whether it samples flow-matching models (velocity) and not noise-predicting ones.
        stochastic: Whether it draws noise in its steps, so that no solution of an ODE is its limit; known of the short
            names alone.
    """

    class_name: str
    title: str
    config: dict[str, Any] = field(default_factory=dict)
    flow: bool = False
    stochastic: bool = False

    @property
    def base(self) -> type:
        """The diffusers class."""
        return getattr(diffusers, self.class_name)

    @property
    def takes_lml(self) -> bool:
        """Whether there is an LML version."""
        return refusal_of(self.base) is None

    @property
    def shift_key(self) -> str:
        """Configuration key of a flow's shift: solvers that were made for noise have a name of their own for it."""
        return "flow_shift" if self.config.get("use_flow_sigmas") else "shift"

    def evaluations(self, steps: int) -> int:
        """Return the network evaluations that a number of steps costs, guidance apart."""
        if self.class_name == "PNDMScheduler":
            # The linear multistep start takes its first interval twice, that of Runge-Kutta three intervals four times.
            return steps + (1 if self.config.get("skip_prk_steps") else 9)
        if self.class_name == "MiniMaxH3Scheduler":
            return steps - 1  # its timesteps are counted with the one that it ends at
        if getattr(self.base, "order", 1) == 2:
            return 2 * steps - 1  # two an interval, but for the last, which ends at sigma 0
        return steps

    def steps_for(self, nfe: int) -> int:
        """Return the steps that cost exactly `nfe` network evaluations.

        Raises:
            LMLError: If no number of steps does; the message names the nearest costs below and above.
        """
        near = [steps for steps in range(1, nfe + 1) if self.evaluations(steps) <= nfe]
        if near and self.evaluations(near[-1]) == nfe:
            return near[-1]
        costs = [self.evaluations(steps) for steps in (len(near), len(near) + 1) if steps]
        raise LMLError(f"nfe={nfe} is no cost of {self.title}; give {' or '.join(map(str, costs))}.")


_FLOW = {"use_flow_sigmas": True, "prediction_type": "flow_prediction"}

SCHEDULERS: dict[str, SchedulerName] = {
    "ddim": SchedulerName("DDIMScheduler", "DDIM"),
    "dpmpp-1": SchedulerName(
        "DPMSolverMultistepScheduler", "DPM-Solver++(1)", {"algorithm_type": "dpmsolver++", "solver_order": 1}
    ),
    "dpmpp-2m": SchedulerName(
        "DPMSolverMultistepScheduler",
        "DPM-Solver++(2M)",
        {"algorithm_type": "dpmsolver++", "solver_order": 2},
    ),
    "dpmpp-3m": SchedulerName(
        "DPMSolverMultistepScheduler",
        "DPM-Solver++(3M)",
        {"algorithm_type": "dpmsolver++", "solver_order": 3},
    ),
    "dpm-3": SchedulerName(
        "DPMSolverMultistepScheduler",
        "DPM-Solver-3",
        # The noise-predicting solver cannot step to sigma 0, where its integral diverges.
        {"algorithm_type": "dpmsolver", "solver_order": 3, "final_sigmas_type": "sigma_min"},
    ),
    "sde-dpmpp-2m": SchedulerName(
        "DPMSolverMultistepScheduler",
        "SDE-DPM-Solver++(2M)",
        {"algorithm_type": "sde-dpmsolver++", "solver_order": 2},
        stochastic=True,
    ),
    # Said, or a model's own scheduler would decide.
    "unipc": SchedulerName("UniPCMultistepScheduler", "UniPC", {"solver_order": 2}),
    "deis": SchedulerName("DEISMultistepScheduler", "DEIS", {"algorithm_type": "deis", "solver_order": 2}),
    "pndm": SchedulerName("PNDMScheduler", "PNDM", {"skip_prk_steps": True}),
    "euler": SchedulerName("EulerDiscreteScheduler", "Euler"),
    "heun": SchedulerName("HeunDiscreteScheduler", "Heun"),
    "flow-euler": SchedulerName("FlowMatchEulerDiscreteScheduler", "flow-matching Euler", flow=True),
    "flow-heun": SchedulerName("FlowMatchHeunDiscreteScheduler", "flow-matching Heun", flow=True),
    "flow-dpmpp-2m": SchedulerName(
        "DPMSolverMultistepScheduler",
        "flow-matching DPM-Solver++(2M)",
        {"solver_order": 2, **_FLOW},
        flow=True,
    ),
    "flow-unipc": SchedulerName("UniPCMultistepScheduler", "flow-matching UniPC", _FLOW, flow=True),
}
"""The samplers that can be named, by the short names of `lml generate --scheduler`."""


def find_scheduler(name: str) -> SchedulerName:
    """Return the sampler of a name.

    Args:
        name: A key of `SCHEDULERS`, or the name of a diffusers scheduler class, whose settings are then the model's
            own; with `flow-` before it where a solver that was made for noise samples a flow.

    Raises:
        LMLError: For an unknown name; the message lists the short ones.
    """
    found = SCHEDULERS.get(name) or _of_class(name)
    if found is None:
        raise LMLError(
            f"scheduler={name!r} is unknown; give one of {', '.join(SCHEDULERS)}, or the name of a scheduler class of "
            "diffusers."
        )
    return found


@functools.cache
def _of_class(name: str) -> SchedulerName | None:
    """Return the sampler of a class's name, None where diffusers has no such class, or none that takes its defaults."""
    class_name = name.removeprefix("flow-")
    base: Any = getattr(diffusers, class_name, None)
    if not (inspect.isclass(base) and issubclass(base, SchedulerMixin) and base is not SchedulerMixin):
        return None
    config, title = _CLASS_CONFIG.get(class_name, {}), class_name.removesuffix("Scheduler")
    if name != class_name:
        takes_both = "use_flow_sigmas" in inspect.signature(base.__init__).parameters
        return (
            SchedulerName(class_name, f"flow-matching {title}", {**config, **_FLOW}, flow=True) if takes_both else None
        )
    try:
        return SchedulerName(class_name, title, config, flow=is_flow(base()))
    except TypeError:  # tokens are predicted from tables that a constructor needs
        return None


_CLASS_CONFIG = {"PNDMScheduler": {"skip_prk_steps": False}}
"""What makes a class another sampler than the short name is that it has."""


def own_name(class_name: str, config: Mapping[str, Any]) -> str:
    """Return the name of the sampler that a model comes with.

    Args:
        class_name: Its scheduler's class.
        config: Its scheduler's configuration.

    Returns:
        A short name where that is this sampler, in class, algorithm and order; otherwise the name of its class. See
        `find_scheduler`.

    Raises:
        LMLError: If diffusers does not have the class, or cannot build it.
    """
    entry = find_scheduler(class_name)
    accepted = inspect.signature(entry.base.__init__).parameters
    try:
        own = entry.base(**{key: value for key, value in config.items() if key in accepted})
    except (TypeError, ValueError, NotImplementedError, ImportError) as error:
        reason = " ".join(str(error).split())
        raise LMLError(f"scheduler={class_name!r} cannot be built as the model has it ({reason}).") from error
    flow = is_flow(own)
    for name, other in SCHEDULERS.items():
        if (other.class_name, other.flow) == (class_name, flow) and all(
            same(own.config.get(key), value) for key, value in other.config.items()
        ):
            return name
    return f"flow-{class_name}" if flow and not entry.flow else class_name


def grid_config(entry: SchedulerName, grid: str | None) -> dict[str, Any]:
    """Return the configuration keys that choose a time grid.

    Args:
        entry: The sampler.
        grid: One of leading, trailing, linspace, karras, exponential, beta, lu; None keeps the sampler's default.

    Raises:
        LMLError: If the sampler's class does not have that grid.
    """
    if grid is None:
        return {}
    accepted = inspect.signature(entry.base.__init__).parameters
    known = [g for g in (*VP_GRIDS, *SIGMA_GRIDS) if _grid_key(g) in accepted]
    if grid not in known:
        raise LMLError(f"grid={grid!r} is not offered by {entry.title}; give one of {', '.join(known) or 'none'}.")
    key = _grid_key(grid)
    return {key: grid if key == "timestep_spacing" else True}


def _grid_key(grid: str) -> str:
    return "timestep_spacing" if grid in VP_GRIDS else SIGMA_GRIDS[grid]


def sampler_config(entry: SchedulerName, config: Any) -> dict[str, Any]:
    """Return the configuration keys that make a class this sampler, a flow's shift taken over from the model's own."""
    own = dict(entry.config)
    if entry.shift_key == "flow_shift" and config.get("shift") is not None:
        own["flow_shift"] = config["shift"]
    if entry.flow and entry.shift_key == "shift" and config.get("use_flow_sigmas"):
        own["shift"] = config["flow_shift"]
    return own


def build_scheduler(
    name: str, config: Any, *, grid: str | None = None, lml: dict[str, Any] | None = None, **overrides: Any
) -> Any:
    """Build a named sampler for a model.

    Args:
        name: See `find_scheduler`.
        config: The configuration that came with the model (noise schedule, prediction type, ...).
        grid: Time grid, see `grid_config`.
        lml: LML keys for the LML version; None builds the plain base.
        **overrides: Further configuration keys.

    Returns:
        The scheduler.

    Raises:
        LMLError: For an unknown name or grid, or LML keys out of range.
    """
    entry = find_scheduler(name)
    keys = {**sampler_config(entry, config), **grid_config(entry, grid), **overrides}
    if entry.shift_key != "shift":
        config = {key: value for key, value in config.items() if key != "shift"}  # diffusers would remark on it
    if lml is None:
        return entry.base.from_config(config, **keys)
    return with_lml(entry.base).from_config(config, **keys, **lml)

"""`with_lml`: make an LML subclass of a diffusers scheduler."""

from __future__ import annotations

import functools
import inspect
import threading
from typing import Any, NamedTuple, TypeVar

import diffusers
from diffusers.configuration_utils import register_to_config
from diffusers.schedulers.scheduling_ddim import DDIMScheduler
from diffusers.schedulers.scheduling_utils import SchedulerMixin

from lmlangevin.core import LMLError
from lmlangevin.schedulers.grids import set_calibrated_timesteps
from lmlangevin.schedulers.mixin import _DPM_UPDATES, LML_DEFAULTS, LMLSchedulerMixin

Base = TypeVar("Base", bound=SchedulerMixin)

_CLASSES: dict[type, type] = {}
_MAKING = threading.Lock()

_SOLVERS = {
    "DPMSolverSinglestepScheduler": "it evaluates the network several times an interval",
    "DPMSolverSDEScheduler": "it evaluates the network twice an interval",
    "RePaintScheduler": "it moves back and forth in time",
    **dict.fromkeys(
        ("DDIMParallelScheduler", "DDPMParallelScheduler"),
        "it steps many timesteps at once, which leaves no order in which one prediction follows another",
    ),
}
"""Solvers that cannot be corrected, of models that another solver can sample."""

_MODELS = {
    **dict.fromkeys(
        (
            "AmusedScheduler",
            "BlockRefinementScheduler",
            "DiscreteDDIMScheduler",
            "EntropyBoundScheduler",
            "VQDiffusionScheduler",
        ),
        "it predicts tokens, not noise",
    ),
    **dict.fromkeys(
        ("LCMScheduler", "TCDScheduler", "CMStochasticIterativeScheduler", "FlowMatchLCMScheduler", "SCMScheduler"),
        "it samples a distilled consistency model, which has no trajectory to follow",
    ),
    "FlowMapEulerDiscreteScheduler": "its model predicts the mean velocity of a step, which has no curve left",
    **dict.fromkeys(
        ("HeliosDMDScheduler", "PiflowScheduler"),
        "it samples a distilled model, whose predictions say no more than where the step ends",
    ),
}
"""Schedulers of models that another scheduler does not read, or that have no trajectory whoever samples them."""


class Refusal(NamedTuple):
    """Why a scheduler class cannot be corrected.

    Attributes:
        reason: The reason.
        remedy: What to do instead.
        of_model: Whether it lies in the model that the scheduler is for, so that another scheduler is no remedy.
    """

    reason: str
    remedy: str
    of_model: bool

    def error(self, argument: str) -> LMLError:
        """Return the error that refuses an argument, which names itself and its value."""
        return LMLError(f"{argument} cannot be corrected: {self.reason}; {self.remedy}.")


def with_lml(base: type[Base]) -> type[Base]:
    """Return the LML version of a scheduler class: a real subclass, the same one on every call.

    `with_lml(DDIMScheduler)` is `DDIMLMLScheduler`. It takes the base's arguments and the keys `gain`, `kappa`,
    `damping`, `damping_mode`, `placement`, `rank`, `control`, `lml_enabled`, `record` (see `LMLConfig` and the
    schedulers page of the documentation); `from_config`, `save_pretrained`, pickle and `copy.deepcopy` work as for the
    base. With `lml_enabled=False`, or a gain of 0, it is bit-identical to the base.

    To load a pipeline saved with the LML version of one of diffusers' own schedulers, `import lmlangevin` before
    `from_pretrained`: diffusers looks for classes in modules that are imported, and imports none by itself. With
    the LML version of your own class, call `with_lml(YourScheduler)` before, so that the name is known; unpickling
    does so by itself, where your class can be imported.

    Args:
        base: A subclass of `diffusers.SchedulerMixin` whose `step(model_output, timestep, sample, ...)` is called once
            a timestep.

    Returns:
        The subclass; `base` itself if it is one already.

    Raises:
        LMLError: If the class is no scheduler, or evaluates the network more than once an interval.
    """
    if inspect.isclass(base) and issubclass(base, LMLSchedulerMixin):
        return base
    with _MAKING:
        if base not in _CLASSES:
            _check_base(base)
            _CLASSES[base] = _make(base)
        return _CLASSES[base]


def resolve(name: str) -> type:
    """Return the class of a public name: `SchedulerMixin`, or the LML version that a name stands for.

    Raises:
        AttributeError: If neither diffusers nor an earlier `with_lml` call knows the base.
    """
    if name == "SchedulerMixin":
        return SchedulerMixin
    base = getattr(diffusers, name.replace("LMLScheduler", "Scheduler"), None)
    if inspect.isclass(base) and issubclass(base, SchedulerMixin):
        try:
            return with_lml(base)
        except LMLError as error:  # hasattr and getattr with a default know this type only
            raise AttributeError(str(error)) from error
    for made in list(_CLASSES.values()):
        if made.__name__ == name:
            return made
    raise AttributeError(
        f"lmlangevin has no {name!r}: diffusers has no such base. For a scheduler of your own, call "
        "lmlangevin.with_lml(YourScheduler) first."
    )


def refusal_of(base: type) -> Refusal | None:
    """Return why a scheduler class cannot be corrected; None for one that can.

    Args:
        base: A subclass of `diffusers.SchedulerMixin`.
    """
    kin = [parent.__name__ for parent in base.__mro__]
    reason = next((_MODELS[name] for name in kin if name in _MODELS), None)
    if reason is None and hasattr(base, "precondition_outputs"):
        reason = "its predictions are preconditioned in the way of EDM, whose noise this package does not convert"
    if reason is not None:
        remedy = "use it without LML (--no-lml), or another model, since other schedulers are not for this one"
        return Refusal(reason, remedy, of_model=True)
    reason = next((_SOLVERS[name] for name in kin if name in _SOLVERS), None)
    if reason is None and getattr(base, "order", 1) != 1:
        reason = "it evaluates the network twice an interval"
    step: Any = getattr(base, "step", None)
    arguments = list(inspect.signature(step).parameters)[1:4] if step is not None else []
    if reason is None and arguments != ["model_output", "timestep", "sample"]:
        reason = "its step does not take (model_output, timestep, sample)"
    if reason is None:
        return None
    other = "FlowMatchEulerDiscreteScheduler" if base.__name__.startswith("FlowMatch") else "DDIMScheduler"
    remedy = (
        f"use {other}, DPMSolverMultistepScheduler (dpmpp-2m) or another scheduler that evaluates once a timestep, or "
        "sample without LML (--no-lml)"
    )
    return Refusal(reason, remedy, of_model=False)


def _check_base(base: type) -> None:
    if not (inspect.isclass(base) and issubclass(base, SchedulerMixin)):
        name = getattr(base, "__name__", type(base).__name__)
        raise LMLError(f"base={name} is no diffusers scheduler; give a subclass of diffusers.SchedulerMixin.")
    refusal = refusal_of(base)
    if refusal is not None:
        raise refusal.error(f"base={base.__name__}")


def _merged_signature(base: type) -> inspect.Signature:
    """Return the base's explicit constructor signature with the LML keys behind its own."""
    parameters = list(inspect.signature(base.__init__).parameters.values())
    variadic = [p for p in parameters if p.kind is p.VAR_KEYWORD]
    named = [p for p in parameters if p.kind is not p.VAR_KEYWORD]
    added = [
        inspect.Parameter(key, inspect.Parameter.KEYWORD_ONLY, default=default) for key, default in LML_DEFAULTS.items()
    ]
    return inspect.Signature(named + added + variadic)


def _rebuild(base: type) -> Any:
    cls = with_lml(base)
    return cls.__new__(cls)


def _make(base: type) -> type:
    parent: Any = base
    signature = _merged_signature(base)
    collected = next((p.name for p in signature.parameters.values() if p.kind is p.VAR_KEYWORD), "")

    def __init__(self: Any, *args: Any, **kwargs: Any) -> None:
        bound = signature.bind(self, *args, **kwargs)
        bound.apply_defaults()
        # All of the base's arguments are passed, given or not: it would otherwise record in its configuration that
        # only its own keys were left at their defaults, and forget ours.
        ours = (*LML_DEFAULTS, "self", collected)
        given = {key: value for key, value in bound.arguments.items() if key not in ours}
        parent.__init__(self, **given, **bound.arguments.get(collected, {}))
        self._lml_setup()

    __init__.__signature__ = signature  # type: ignore[attr-defined]

    @functools.wraps(parent.set_timesteps)
    def set_timesteps(self: Any, *args: Any, **kwargs: Any) -> Any:
        with self._lml_all_or_nothing():
            self._lml_begin_run()
            settings = self._lml_settings
            if not settings.enabled or settings.schedule is None:
                result = parent.set_timesteps(self, *args, **kwargs)
            else:
                result = set_calibrated_timesteps(self, parent, settings.schedule, args, kwargs)
            self._lml_planned = True
            # LMS sets timesteps while it is built, before it can be asked about them.
            if settings.enabled and self._lml_built:
                self._lml_plan()
        return result

    @functools.wraps(parent.step)
    def step(self: Any, model_output: Any, timestep: Any, sample: Any, *args: Any, **kwargs: Any) -> Any:
        if not self._lml_active or not self._lml_planned:
            return parent.step(self, model_output, timestep, sample, *args, **kwargs)
        with self._lml_all_or_nothing():
            self._lml_enter(timestep)
            result = corrected_step(self, model_output, timestep, sample, *args, **kwargs)
            self._lml_leave(result[0])
        return result

    def corrected_step(self: Any, model_output: Any, timestep: Any, sample: Any, *args: Any, **kwargs: Any) -> Any:
        settings = self._lml_settings
        if settings.config.control == "adaptive":
            _check_arguments(parent.step, (model_output, timestep, sample, *args), kwargs)
            model_output, sample = self._lml_adapted(model_output, timestep, sample)
        elif settings.placement == "score" or not (is_dpm or is_ddim):
            # Flow Euler's increment is its velocity times a number: the paper's placement and ours are the same there.
            model_output = self._lml_corrected_output(model_output, timestep, sample)
        result = parent.step(self, model_output, timestep, sample, *args, **kwargs)
        if settings.placement == "reference" and is_ddim:  # in DPM-Solver the update methods below do the work
            eta = kwargs.get("eta", args[0] if args else 0.0)
            return _add_to_previous(result, self._lml_ddim_increment(model_output, timestep, sample, eta))
        return result

    def __reduce__(self: Any) -> tuple[Any, ...]:
        return _rebuild, (base,), self.__dict__

    is_dpm = all(hasattr(base, update) for update in _DPM_UPDATES)
    is_ddim = issubclass(base, DDIMScheduler)
    namespace: dict[str, Any] = {
        "__module__": "lmlangevin",
        "__qualname__": base.__name__.removesuffix("Scheduler") + "LMLScheduler",
        "__doc__": f"`{base.__name__}` with the LML correction; see `lmlangevin.with_lml` for the keys it adds.",
        "__init__": register_to_config(__init__),
        "__reduce__": __reduce__,
        "_lml_base": base,
        "set_timesteps": set_timesteps,
        "step": step,
    }
    if is_dpm:
        namespace |= {update: _corrected_update(parent, update) for update in _DPM_UPDATES}
    return type(namespace["__qualname__"], (LMLSchedulerMixin, base), namespace)


def _corrected_update(parent: Any, name: str) -> Any:
    original = getattr(parent, name)

    @functools.wraps(original)
    def update(self: Any, outputs: Any, *args: Any, sample: Any = None, noise: Any = None, **kwargs: Any) -> Any:
        if args or kwargs or sample is None or not self._lml_active or self._lml_settings.placement != "reference":
            return original(self, outputs, *args, sample=sample, noise=noise, **kwargs)
        return self._lml_dpm_update(functools.partial(original, self), outputs, sample, noise)

    return update


def _check_arguments(step: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    """Refuse arguments of a step that make it draw noise, or put parts of a sample at levels of their own."""
    given = inspect.signature(step).bind(None, *args, **kwargs).arguments
    if given.get("per_token_timesteps") is not None:
        raise LMLError(
            "per_token_timesteps puts the tokens of a sample at levels of their own, and control='adaptive' knows one "
            "level a step; give control='constant'."
        )
    for name in ("eta", "s_churn"):
        if given.get(name):
            raise LMLError(
                f"{name}={given[name]} makes the solver draw noise, which control='adaptive' would take for an error "
                f"and repair; give {name}=0, or control='constant'."
            )


def _add_to_previous(result: Any, increment: Any) -> Any:
    if increment is None:
        return result
    if isinstance(result, tuple):
        return (result[0] + increment.to(result[0].dtype), *result[1:])
    result.prev_sample = result.prev_sample + increment.to(result.prev_sample.dtype)
    return result

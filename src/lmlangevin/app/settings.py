"""What a visitor of the page may ask for, and how it becomes the settings of a job.

The page is filled in by strangers where it is public, so nothing of it is trusted: every value is checked here,
whatever the form in the browser would have let through.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field
from typing import Any

from lmlangevin.core.damping import ADAPTIVE, CALIBRATED
from lmlangevin.core.errors import LMLError
from lmlangevin.generation.checks import BUILT_IN, offered_models
from lmlangevin.generation.config import LARGEST_GAIN, SIGMAS, SPACINGS
from lmlangevin.generation.seeds import SEED_LIMIT
from lmlangevin.scenes.models import SCENES
from lmlangevin.scenes.prompts import DEMO_PROMPTS

AUTOMATIC = "automatic"
GAIN = "gain"
CONTROLS = (AUTOMATIC, GAIN, ADAPTIVE, CALIBRATED)
"""How the correction is chosen: the package's own choice, one number, or a control by name."""

OWN = "own"
"""In place of a sampler or a time grid: the one that the model or the sampler comes with."""

LARGEST_GUIDANCE = 30.0
LONGEST_PROMPT = 1000
SMALLEST_SIDE = 64
_SHOWN = 60
_PATH_LIKE = re.compile(r"[/~.\\].*|\S*[/.\\]\S+")


@dataclass(frozen=True)
class Offer:
    """What a server lets its visitors do.

    Args:
        models: Models that may be chosen; the first is chosen at the start. By default all that lie in this copy of the
            package, text to image first.
        any_model: Whether a visitor may name another folder of this machine or a pipeline of the hub. For a page that
            its owner alone can reach: otherwise strangers could find out what lies on the disk, and fill it.
        max_steps: The most steps of a sampler.
        max_images: The most images of a run with a model that comes with the package.
        max_pipeline_images: The same with another model, whose images are larger.
        max_side: The longest side of a pipeline's image, in pixels.
        max_seconds: A run is ended when it has taken so long.
        queue: Runs that may wait for their turn.
        device: Where the models run, see `GenerateConfig`.
        dtype: Of the networks, see `GenerateConfig`.

    Raises:
        LMLError: If no model is offered, or a bound is below 1.
    """

    models: tuple[str, ...] = field(default_factory=offered_models)
    any_model: bool = False
    max_steps: int = 50
    max_images: int = 512
    max_pipeline_images: int = 16
    max_side: int = 1024
    max_seconds: float = 600.0
    queue: int = 16
    device: str = "cpu"
    dtype: str = "float32"

    def __post_init__(self) -> None:
        if not self.models:
            raise LMLError("models is empty; give at least one, such as embedded.")
        for name in ("max_steps", "max_images", "max_pipeline_images", "max_seconds", "queue"):
            if getattr(self, name) < 1:
                raise LMLError(f"{name}={getattr(self, name)} is too small; give 1 or more.")
        if self.max_side < SMALLEST_SIDE:
            raise LMLError(f"max_side={self.max_side} is too small; give {SMALLEST_SIDE} or more.")

    def images_of(self, model: str) -> int:
        """Return the most images of a run with a model."""
        return self.max_images if _is_small(model) else min(self.max_images, self.max_pipeline_images)


@dataclass(frozen=True)
class Form:
    """The page's form, as the browser sent it: no value has been checked.

    Args:
        model: Name of a model.
        prompt: Text; empty for models that take none.
        guidance: Strength of guidance, as text; empty for the pipeline's default.
        side: Height and width in pixels, as text; empty for the pipeline's default.
        scheduler: Short name of a sampler, or `OWN`.
        grid: A time grid, or `OWN`.
        steps: Steps.
        control: One of `CONTROLS`.
        gain: Strength of a constant LML; only looked at where `control` is `GAIN`.
        images: Number of images.
        seed: Seed of the first image; the next has the next one.
    """

    model: Any = BUILT_IN[0]
    prompt: Any = ""
    guidance: Any = ""
    side: Any = ""
    scheduler: Any = "ddim"
    grid: Any = "trailing"
    steps: Any = 8
    control: Any = AUTOMATIC
    gain: Any = 0.5
    images: Any = 64
    seed: Any = 0


SCENES_START: dict[str, dict[str, Any]] = {
    # The plain sampler with the least error at guidance 3 and 5 to 10 evaluations.
    "scenes": {"scheduler": "unipc", "grid": "trailing", "control": ADAPTIVE},
    "scenes-flow": {"scheduler": "flow-dpmpp-2m", "grid": OWN, "control": AUTOMATIC},
}


def start_form(model: str) -> Form:
    """Return the form as it stands where a model has just been chosen."""
    if model in BUILT_IN:
        return Form(model)
    if model in SCENES:
        return Form(model, prompt=DEMO_PROMPTS[1], guidance="3", steps=6, images=8, **SCENES_START[model])
    return Form(model, scheduler=OWN, grid=OWN, images=1)


@dataclass(frozen=True)
class Settings:
    """The settings of a job that was asked for, all within their bounds.

    Attributes:
        job: Arguments of `GenerateConfig`, all but `out`.
        notes: Lines that a visitor should read.
    """

    job: dict[str, Any]
    notes: tuple[str, ...] = field(default=())


def read_form(form: Form, offer: Offer) -> Settings:
    """Check a form against what is offered.

    Args:
        form: The form.
        offer: What the server lets its visitors do.

    Returns:
        The job's settings. `GenerateConfig` checks how they go together.

    Raises:
        LMLError: For the first value that is none or out of bounds, in the words of the page.
    """
    model = _model(form.model, offer)
    images = _whole("Images", form.images, 1, offer.images_of(model))
    job: dict[str, Any] = {
        "model": model,
        "scheduler": _scheduler(form.scheduler),
        "steps": _whole("Steps", form.steps, 1, offer.max_steps),
        "num_images": images,
        "batch_size": batch_size(images, small=_is_small(model)),
        "seed": _whole("First seed", form.seed, 0, SEED_LIMIT - images),
        "compare": True,
        "device": offer.device,
        "dtype": offer.dtype,
    }
    job |= _grid(form.grid)
    if model not in BUILT_IN:
        job |= _conditions(form, offer, scenes=model in SCENES)
    control = _choice("Correction", form.control, CONTROLS)
    notes: tuple[str, ...] = ()
    if control == GAIN:
        job["gain"] = _number("Gain", form.gain, -LARGEST_GAIN, LARGEST_GAIN)
    elif control == CALIBRATED:
        notes = _calibrate(job)
    elif control == ADAPTIVE:
        job["control"] = ADAPTIVE
    return Settings({key: value for key, value in job.items() if value is not None}, notes)


def batch_size(images: int, *, small: bool) -> int:
    """Return how many images are sampled at once: few, since a run can be stopped, and is shown, after each batch."""
    return max(4, min(32, images // 4)) if small else 1


def _is_small(model: str) -> bool:
    """Return whether a model is one of the package's own, whose images are small."""
    return model in BUILT_IN or model in SCENES


def scheduler_choices(model: str) -> list[tuple[str, str]]:
    """Return the samplers that a model can be sampled with and that LML can correct, as (title, name)."""
    from lmlangevin.schedulers.names import SCHEDULERS

    kinds = {"embedded": (False,), "scenes": (False,), "scenes-flow": (True,)}.get(model, (False, True))
    named = [(entry.title, name) for name, entry in SCHEDULERS.items() if entry.takes_lml and entry.flow in kinds]
    return named if model in BUILT_IN else [("its own", OWN), *named]


def grid_choices(scheduler: str) -> list[tuple[str, str]]:
    """Return the time grids of a sampler, as (title, name); those of an unknown sampler are the default alone."""
    from lmlangevin.generation.info import offered_grids
    from lmlangevin.schedulers.names import SCHEDULERS

    offered = offered_grids(SCHEDULERS[scheduler]) if scheduler in SCHEDULERS else ()
    return [("default", OWN), *((grid, grid) for grid in offered)]


def _model(value: Any, offer: Offer) -> str:
    name = value.strip() if isinstance(value, str) else ""
    if not name:
        raise LMLError("Model is empty; choose one of the list.")
    if name not in offer.models and not offer.any_model:
        raise LMLError(f"Model {_short(name)} is not offered here; choose one of {', '.join(offer.models)}.")
    return name


def _scheduler(value: Any) -> str | None:
    from lmlangevin.schedulers.names import SCHEDULERS

    usable = [name for name, entry in SCHEDULERS.items() if entry.takes_lml]
    name = _choice("Sampler", value, (OWN, *usable))
    return None if name == OWN else name


def _grid(value: Any) -> dict[str, str]:
    name = _choice("Time grid", value, (OWN, *SPACINGS, *SIGMAS))
    if name == OWN:
        return {}
    return {"timestep_spacing" if name in SPACINGS else "sigmas": name}


def _conditions(form: Form, offer: Offer, *, scenes: bool) -> dict[str, Any]:
    """Return what a pipeline is given beside noise; what is left empty is left to the pipeline.

    Args:
        form: The form.
        offer: What the server lets its visitors do.
        scenes: Whether the model draws scenes: of one size, and its examples in turn where it is given no prompt.
    """
    prompt = form.prompt.strip() if isinstance(form.prompt, str) else ""
    if len(prompt) > LONGEST_PROMPT:
        raise LMLError(f"Prompt has {len(prompt)} characters; give {LONGEST_PROMPT} or fewer.")
    if not offer.any_model and _PATH_LIKE.fullmatch(prompt):
        # A job says so if a prompt is the name of a file, from which strangers could learn what lies on the disk.
        raise LMLError(f"Prompt {_short(prompt)} looks like the name of a file; give some words.")
    given: dict[str, Any] = {"prompt": prompt or None}
    if scenes and not prompt:
        given["images_per_prompt"] = math.ceil(form.images / len(DEMO_PROMPTS))
    guidance, side = _typed(form.guidance), None if scenes else _typed(form.side)
    if guidance is not None:
        given["guidance_scale"] = _number("Guidance", guidance, 0, LARGEST_GUIDANCE)
    if side is not None:
        side = _whole("Side", side, SMALLEST_SIDE, offer.max_side)
        given |= {"height": side, "width": side}
    return given


def _typed(value: Any) -> Any:
    """Return the number that was typed into a field of text; None for an empty one, and what is no number as it is."""
    if not isinstance(value, str):
        return value
    try:
        return float(value) if value.strip() else None
    except ValueError:
        return value


def _calibrate(job: dict[str, Any]) -> tuple[str, ...]:
    """Turn a job into that of the calibration that comes with the package for its model and steps."""
    from lmlangevin.schedulers.calibrations import shipped_calibrations, shipped_name
    from lmlangevin.schedulers.names import SCHEDULERS

    flow = job["scheduler"] is not None and SCHEDULERS[job["scheduler"]].flow
    stem = shipped_name(job["model"], 0, flow=flow).removesuffix("0")
    steps = [int(name.removeprefix(stem)) for name in shipped_calibrations() if name.removeprefix(stem).isdigit()]
    if not steps:
        raise LMLError(
            f"Correction 'calibrated' comes with the package for {' and '.join(BUILT_IN)} only; choose another one "
            "here, or run lml calibrate and lml generate for yours."
        )
    if job["steps"] not in steps:
        raise LMLError(
            f"Steps {job['steps']} has no calibration of this model; give one of {', '.join(map(str, steps))}."
        )
    for key in ("timestep_spacing", "sigmas"):
        job.pop(key, None)
    job |= {"scheduler": "flow-euler" if flow else "euler", "control": CALIBRATED}
    return ("A calibration has a time grid of its own and is one of Euler, so the plain images are Euler's too.",)


def _choice(label: str, value: Any, choices: tuple[str, ...]) -> str:
    if value not in choices:
        raise LMLError(f"{label} {_short(value)} is unknown; choose one of {', '.join(choices)}.")
    return value


def _whole(label: str, value: Any, low: int, high: int) -> int:
    number = _number(label, value, low, high)
    if number != int(number):
        raise LMLError(f"{label} is {number:g}; give a whole number from {low} to {high}.")
    return int(number)


def _number(label: str, value: Any, low: float, high: float) -> float:
    if value is None:
        raise LMLError(f"{label} is empty; give a number from {low:.10g} to {high:.10g}.")
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise LMLError(f"{label} {_short(value)} is no number; give one from {low:.10g} to {high:.10g}.")
    if not low <= value <= high:
        raise LMLError(f"{label} is {value:.10g}; give a number from {low:.10g} to {high:.10g}.")
    return float(value)


def _short(value: Any) -> str:
    """Return a value in quotes, as long as a sentence bears."""
    text = str(value)
    return repr(text if len(text) <= _SHOWN else text[:_SHOWN] + "...")

"""What a generation job is asked to do, checked before anything is loaded or written."""

from __future__ import annotations

import dataclasses
import functools
import math
from dataclasses import dataclass, field
from typing import Any, cast

from lmlangevin.core.config import DampingMode, LMLConfig
from lmlangevin.core.damping import CALIBRATED, CONSTANT
from lmlangevin.core.errors import LMLError
from lmlangevin.generation.checks import BUILT_IN, check_choice, check_device, check_model, flow_mismatch
from lmlangevin.generation.conditions import Conditions, check_strength
from lmlangevin.generation.langevin import checked_step_size, steps_for
from lmlangevin.generation.model_folder import own_sampler
from lmlangevin.generation.prompts import Prompts, example_prompts
from lmlangevin.generation.seeds import SEED_LIMIT
from lmlangevin.generation.store import Place, as_place
from lmlangevin.scenes.models import SCENES
from lmlangevin.values import plain, take_numbers

DTYPES = ("float32", "bfloat16", "float16")
SPACINGS = ("leading", "trailing", "linspace")
SIGMAS = ("karras", "exponential", "beta", "lu")
TRAIN_TIMESTEPS = 1000
DEFAULT_STEPS = 8
DEFAULT_IMAGES = 64
LARGEST_GAIN = 2.0
"""The largest gain of either sign, unless it is forced.

The difference of two predictions then outweighs the prediction, and each step enlarges the error of the last. On the
embedded model, DDIM of 8 steps ends as noise at 2 (RMSE to the plain images 0.66, and 0.2 at 1); with 20 steps it is
grainy at 3.
"""
RELEASE_SAMPLERS = ("ddim", "dpmpp-1", "dpmpp-2m", "dpmpp-3m", "dpm-3", "flow-euler")
"""Samplers that the paper's release places its formula in."""


@dataclass(frozen=True)
class GenerateConfig(Conditions):
    """A generation job. Values are checked when it is made; nothing is loaded for that.

    What a pipeline is given beside noise (prompts, sizes, pictures, adapters) is described by `Conditions`.

    Args:
        out: Folder to write to, made if it is not there, or a URL that fsspec knows, such as `s3://bucket/run`.
        model: `"embedded"`, `"analytic-cifar10"`, `"scenes"` or `"scenes-flow"`, which draw eight example prompts
            where none is given, a folder that `DiffusionPipeline.save_pretrained` wrote, or the hub
            id of a diffusers pipeline.
        scheduler: Name of the sampler, a key of `lmlangevin.schedulers.SCHEDULERS` or the name of a diffusers scheduler
            class; the attribute is a name always. Empty is the one that a calibration was fitted for, or the one that
            the model comes with, or `"ddim"`. With LML, DDIM takes the place of an unconditional pixel model's
            `DDPMScheduler`, with a note.
        langevin_steps: Langevin steps at each noise level of the sampler but the first, one evaluation each. For
            unconditional pixel models.
        langevin_step_size: Their size in units of the level's variance, inside (0, 1); None is 0.2, or none without.
        steps: Steps of the sampler, 1 to 1000. One network evaluation each, PNDM one more in all, Heun two each but
            for one. None is what `nfe` costs, or 8; the attribute is a number always.
        nfe: Network evaluations of each image, guidance apart, in place of `steps`. Both may be given where they
            agree, as they do in a manifest.
        num_images: Number of images, 1 or more; None is one job's worth of `prompt_file`, or 64. The attribute is a
            number always.
        batch_size: Images that are sampled at once. It changes memory and speed, not the images.
        seed: Image k starts from seed + k; all within [0, 2**32).
        timestep_spacing: `"leading"`, `"trailing"` or `"linspace"`; None keeps the sampler's default.
        sigmas: `"karras"`, `"exponential"`, `"beta"` or `"lu"` in place of `timestep_spacing`.
        flow_shift: Shift of the time grid of a flow-matching sampler, above 0; None is 3 for built-in models and the
            pipeline's own otherwise.
        gain: Strength of LML, one number; see `LMLConfig`. With Langevin steps 0, where nothing of LML's is given.
            From -2 to 2, where |kappa| / damping counts as well, unless `force` is given.
        kappa: The paper's kappa, in place of `gain`.
        damping: The paper's damping, with `kappa`.
        damping_mode: `"relative"`, or `"absolute"` where `damping` is the paper's lambda; see `LMLConfig`.
        placement: `"score"` or `"reference"`.
        control: `"constant"` (the measured preset, where none of those three is given), `"adaptive"`, `"calibrated"`,
            or a controller of your own. None is `"adaptive"` for unconditional pixel models and solvers that it works
            with, unless a setting of LML is given, and `"constant"` otherwise.
        calibration: With `control="calibrated"`: a file that `lml calibrate` wrote, or the name of one that comes with
            the package; None is the one that comes for this model and number of steps.
        rank: Number of previous predictions used.
        lml: Whether to use LML at all.
        compare: Whether to run the plain sampler on the same seeds as well.
        release: With `compare`, also run what the paper's release does, as `DTYPE@LAMBDA` (`"float32@0.001"`): its
            formula with kappa = 0, the identity but for the rounding of that precision. To be measured, not used.
        dtype: `"float32"`, `"bfloat16"` or `"float16"` of the network. Built-in models keep the sampler's state in
            float32 whatever this says.
        device: `"cpu"`, `"cuda"`, `"cuda:N"` or `"mps"`.
        compile: Whether to compile the network (`torch.compile`), which takes a minute once and pays in long jobs; on a
            CPU it needs a C++ compiler.
        force: Whether to take a gain that turns images into noise.
        overwrite: Whether to replace an earlier job in the same folder.
        resume: Whether to go on with an earlier job in the same folder; without one, a job just starts.

    Attributes:
        notes: Lines about the settings that a user should read.

    Raises:
        LMLError: For a value out of range or two that exclude each other.
    """

    out: Place
    model: str = "embedded"
    scheduler: str = ""
    steps: int | None = None
    nfe: int | None = None
    langevin_steps: int = 0
    langevin_step_size: float | None = None
    num_images: int | None = None
    batch_size: int = 32
    seed: int = 0
    timestep_spacing: str | None = None
    sigmas: str | None = None
    flow_shift: float | None = None
    gain: float | None = None
    kappa: float | None = None
    damping: float | None = None
    damping_mode: DampingMode = "relative"
    placement: str = "score"
    control: str | None = None
    calibration: str | None = None
    rank: int = 1
    lml: bool = True
    compare: bool = False
    release: str | None = None
    dtype: str = "float32"
    device: str = "cpu"
    compile: bool = False
    force: bool = False
    overwrite: bool = False
    resume: bool = False
    notes: tuple[str, ...] = field(default=(), init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        take_numbers(self)
        object.__setattr__(self, "out", as_place(self.out))
        if self.overwrite and self.resume:
            raise LMLError("overwrite and resume exclude each other: one deletes what the other keeps; give one.")
        check_model(self.model)
        self._check_conditions(self.model, built_in=self.model in BUILT_IN)
        self._set_scheduler()
        self._check_langevin()
        self._set_steps()
        self._set_num_images()
        self._check_counts()
        if self.strength is not None:
            check_strength(self.strength, int(self.steps or 0))
        self._check_lml()
        self._check_calibration()
        self._check_release()
        check_choice("dtype", self.dtype, DTYPES)
        self._check_grid()
        check_device(self.device)

    @functools.cached_property
    def prompts(self) -> Prompts | None:
        """The prompts of `prompt_file`, or the examples of a scenes model that is given none."""
        if self.model in SCENES and self.prompt is None and self.prompt_file is None:
            return example_prompts()
        return super().prompts

    @property
    def grid(self) -> str | None:
        """The time grid that was asked for, None for the sampler's default."""
        return self.timestep_spacing or self.sigmas

    @property
    def chosen(self) -> bool:
        """Whether any number or placement of the correction was given."""
        numbers = self.gain is not None or self.kappa is not None or self.damping is not None
        return numbers or self.damping_mode != "relative" or self.placement != "score" or self.rank != 1

    def lml_keys(self) -> dict[str, Any]:
        """Return the configuration keys of the LML scheduler, without `control` if that was left open."""
        given = {"gain": self.gain, "kappa": self.kappa, "damping": self.damping, "damping_mode": self.damping_mode}
        control = {} if self.control is None else {"control": self.control}
        return given | {"placement": self.placement, "rank": self.rank, "record": True} | control

    def langevin(self) -> dict[str, Any] | None:
        """Return what the sampling loop is told of Langevin steps; None for none."""
        if not self.langevin_steps:
            return None
        return {"steps": self.langevin_steps, "step_size": self.langevin_step_size, "rank": self.rank}

    @property
    def count(self) -> int:
        """`num_images`, which is a number once the job is made."""
        return cast(int, self.num_images)

    def as_dict(self) -> dict[str, Any]:
        """Return the settings for a manifest: all but where the images go, and what becomes of an earlier job."""
        settings = dataclasses.asdict(self)
        for name in ("out", "overwrite", "resume", "notes"):
            del settings[name]
        return plain(settings)

    def _set_scheduler(self) -> None:
        """Resolve `scheduler`, so that it is a name from here on."""
        if self.scheduler:
            return
        if self.control == CALIBRATED:
            name = "euler"
            if self.calibration is not None:
                from lmlangevin.schedulers.calibrations import load_calibration

                name = load_calibration(self.calibration).sampler
        else:
            name = self._own_scheduler()
        object.__setattr__(self, "scheduler", name)

    def _own_scheduler(self) -> str:
        """Return the sampler that the model comes with, or the measured one that takes its place, with a note."""
        own = None if self.model in BUILT_IN else own_sampler(self.model)
        if own is None:
            return "ddim"
        if not self.lml or not own.pixels:
            return own.name
        from lmlangevin.schedulers.choice import measured_sister, sister_words
        from lmlangevin.schedulers.names import find_scheduler, own_name

        base = find_scheduler(own.name).base
        sister = measured_sister(base, own.config)
        if sister is None:
            return own.name
        object.__setattr__(self, "notes", (sister_words(base, sister, keep=f"--scheduler {base.__name__}"),))
        return own_name(sister.__name__, own.config)

    def _check_calibration(self) -> None:
        """Resolve `calibration`, so that it is set where it is used."""
        if self.control != CALIBRATED:
            if self.calibration is not None:
                raise LMLError(
                    f"calibration={self.calibration!r} has no meaning with control={self.control!r}; give "
                    "control='calibrated'."
                )
            return
        from lmlangevin.schedulers.calibrations import load_calibration, shipped_calibrations, shipped_name
        from lmlangevin.schedulers.names import find_scheduler

        if self.calibration is None:
            flow = find_scheduler(self.scheduler).flow
            name = shipped_name(self.model, int(self.steps or 0), flow=flow)
            if name not in shipped_calibrations():
                raise LMLError(
                    f"control='calibrated' with model={self.model!r} and steps={self.steps}: no such calibration comes "
                    f"with the package, which has {', '.join(shipped_calibrations())}; give --calibration FILE, which "
                    "lml calibrate makes."
                )
            object.__setattr__(self, "calibration", name)
        fitted = load_calibration(str(self.calibration))
        if self.steps != fitted.schedule.steps:
            raise LMLError(
                f"steps={self.steps} and calibration={self.calibration!r}, which was fitted for "
                f"{fitted.schedule.steps}, contradict each other; give --steps {fitted.schedule.steps}."
            )
        for name in ("timestep_spacing", "sigmas", "flow_shift") if fitted.schedule.sigmas is not None else ():
            if getattr(self, name) is not None:
                raise LMLError(
                    f"{name}={getattr(self, name)!r} and calibration={self.calibration!r}, which has a grid of its "
                    "own, exclude each other; give one of them."
                )

    def _set_steps(self) -> None:
        """Resolve `steps`, so that it is a number from here on."""
        if self.nfe is None:
            if self.steps is None:
                object.__setattr__(self, "steps", DEFAULT_STEPS)
            return
        # Below the most that any number of steps costs, since `steps_for` counts up to it.
        if isinstance(self.nfe, bool) or not isinstance(self.nfe, int) or not 1 <= self.nfe <= 2 * TRAIN_TIMESTEPS:
            raise LMLError(f"nfe={self.nfe!r} is out of range; give a whole number from 1 to {2 * TRAIN_TIMESTEPS}.")
        if self.strength is not None or (self.image is not None and self.mask_image is None):
            raise LMLError(
                f"nfe={self.nfe} with an image to start from: of its steps a pipeline takes the share that strength "
                "says; give --steps."
            )
        from lmlangevin.schedulers.names import find_scheduler

        entry, more = find_scheduler(self.scheduler), self.langevin_steps
        steps = steps_for(self.nfe, more) if more else entry.steps_for(self.nfe)
        if self.steps not in (None, steps):
            raise LMLError(
                f"steps={self.steps} and nfe={self.nfe} contradict each other, since {self.nfe} evaluations of "
                f"{self.scheduler} are {steps} steps; give one of them."
            )
        object.__setattr__(self, "steps", steps)

    def _check_langevin(self) -> None:
        """Resolve `langevin_step_size`, so that it is a number where there are Langevin steps, and then `gain`."""
        size = checked_step_size(self.langevin_steps, self.langevin_step_size, self.scheduler, self.control)
        object.__setattr__(self, "langevin_step_size", size)
        given = self.gain is not None or self.kappa is not None or self.damping is not None
        if not self.langevin_steps or not self.lml or given:
            return
        if self.compare:
            raise LMLError(
                f"compare with langevin_steps={self.langevin_steps} and no gain compares the plain sampler with "
                "itself; give a gain, such as 0.1."
            )
        # A preset's gain forecasts a smooth path. Here it would extrapolate the noise that was just drawn.
        object.__setattr__(self, "gain", 0.0)

    def _set_num_images(self) -> None:
        """Resolve `num_images`, so that it is a number from here on."""
        if self.prompts is None:
            if self.num_images is None:
                object.__setattr__(self, "num_images", DEFAULT_IMAGES)
            return
        most = len(self.prompts.texts) * self.images_per_prompt
        if self.num_images is None:
            object.__setattr__(self, "num_images", most)
        elif isinstance(self.num_images, int) and self.num_images > most:
            raise LMLError(
                f"num_images={self.num_images} is more than the {most} of prompt_file={self.prompt_file!r} with "
                f"images_per_prompt={self.images_per_prompt}; give {most} or fewer."
            )

    def _check_release(self) -> None:
        if self.release is None:
            return
        if not self.compare:
            raise LMLError(f"release={self.release!r} is a third run beside plain and LML; give --compare with it.")
        dtype, _, damping = self.release.partition("@")
        try:
            usable = dtype in ("float64", *DTYPES) and 0 < float(damping) < math.inf
        except ValueError:
            usable = False
        if not usable:
            raise LMLError(f"release={self.release!r} is no DTYPE@LAMBDA; give one such as float32@0.001.")
        if self.scheduler not in RELEASE_SAMPLERS:
            raise LMLError(
                f"release={self.release!r} is not defined for scheduler={self.scheduler!r}; give one of "
                f"{', '.join(RELEASE_SAMPLERS)}."
            )

    def _check_counts(self) -> None:
        for name, value, remedy in (
            ("steps", self.steps, "a whole number from 1 to 1000, such as 8"),
            ("num_images", self.num_images, "a whole number of 1 or more, such as 64"),
            ("batch_size", self.batch_size, "a whole number of 1 or more, such as 32"),
        ):
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise LMLError(f"{name}={value!r} is too small; give {remedy}.")
        if self.steps is not None and self.steps > TRAIN_TIMESTEPS:
            raise LMLError(f"steps={self.steps} is more than the {TRAIN_TIMESTEPS} of the model's schedule; give less.")
        if isinstance(self.seed, bool) or not isinstance(self.seed, int) or self.seed < 0:
            raise LMLError(f"seed={self.seed!r} is no seed; give a whole number of 0 or more.")
        if self.count > SEED_LIMIT:
            raise LMLError(f"num_images={self.num_images} is more than the 2**32 seeds there are; give less.")
        if self.seed + self.count > SEED_LIMIT:
            raise LMLError(
                f"seed={self.seed} with num_images={self.num_images} passes 2**32, where seeds repeat; "
                f"give a seed of at most {SEED_LIMIT - self.count}."
            )

    def _check_lml(self) -> None:
        settings = LMLConfig(
            kappa=self.kappa,
            damping=self.damping,
            gain=self.gain,
            damping_mode=self.damping_mode,
            rank=self.rank,
            control=self.control or CONSTANT,
        )
        self._check_gain(settings)
        check_choice("placement", self.placement, ("score", "reference"))
        if self.lml:
            return
        if self.compare:
            raise LMLError("compare and no-lml exclude each other: compare runs both; leave one of them out.")
        defaults = {item.name: item.default for item in dataclasses.fields(self)}
        for name in ("gain", "kappa", "damping", "damping_mode", "control", "calibration", "placement", "rank"):
            if getattr(self, name) != defaults[name]:
                raise LMLError(f"{name}={getattr(self, name)} has no effect with no-lml; leave one of them out.")

    def _check_gain(self, settings: LMLConfig) -> None:
        """Refuse a gain that turns images into noise; how large the paper's lambda makes it, only a run can tell."""
        kappa, damping = settings.resolved()
        gain = abs(kappa) / damping
        if self.force or settings.damping_mode == "absolute" or gain <= LARGEST_GAIN * (1 + 1e-9):
            return
        given = (
            f"kappa={kappa} with damping={damping}, a gain of {gain:g}," if self.gain is None else f"gain={self.gain}"
        )
        raise LMLError(
            f"{given} is out of range: beyond {LARGEST_GAIN:g} of either sign the correction outweighs the prediction, "
            "errors grow from step to step, and few-step images end as noise; give a gain such as 0.5, or --force with "
            "it."
        )

    def _check_grid(self) -> None:
        if self.timestep_spacing is not None and self.sigmas is not None:
            raise LMLError(
                f"timestep_spacing={self.timestep_spacing!r} and sigmas={self.sigmas!r} both choose the time grid; "
                "give one of them."
            )
        if self.timestep_spacing is not None:
            check_choice("timestep_spacing", self.timestep_spacing, SPACINGS)
        if self.sigmas is not None:
            check_choice("sigmas", self.sigmas, SIGMAS)
        from lmlangevin.schedulers.factory import refusal_of
        from lmlangevin.schedulers.names import find_scheduler, grid_config

        entry = find_scheduler(self.scheduler)
        grid_config(entry, self.grid)
        refusal = refusal_of(entry.base) if self.lml else None
        if refusal is not None:
            raise refusal.error(f"scheduler={self.scheduler!r}")
        if entry.flow and self.model == "embedded":
            raise LMLError(flow_mismatch(self.scheduler, self.model, flow_model=False))
        if self.flow_shift is None:
            return
        if not entry.flow:
            raise LMLError(
                f"flow_shift={self.flow_shift} has no meaning for scheduler={self.scheduler!r}; leave it out, or give "
                "a flow-matching scheduler such as flow-euler."
            )
        if not (math.isfinite(self.flow_shift) and self.flow_shift > 0):
            raise LMLError(f"flow_shift={self.flow_shift} must be a finite number above 0; give one such as 3.")

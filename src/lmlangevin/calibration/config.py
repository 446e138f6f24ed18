"""What a calibration is asked to do, checked before anything is loaded or written."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from lmlangevin.calibration.teacher import TEACHER_STEPS
from lmlangevin.core.config import MAX_RANK
from lmlangevin.core.errors import LMLError
from lmlangevin.generation.config import GenerateConfig
from lmlangevin.generation.prompts import example_prompts, read_prompts
from lmlangevin.scenes.models import SCENES
from lmlangevin.values import take_numbers

FIRST_SEED = 1_000_000_000
"""Far from the seeds that images are usually made from, so that figures are not taken on what was fitted."""


@dataclass(frozen=True)
class CalibrateConfig:
    """A calibration job. Values are checked when it is made; nothing is loaded for that.

    Args:
        out: The JSON file to write.
        model: As for `lml generate`: `"embedded"`, `"analytic-cifar10"`, `"scenes"`, `"scenes-flow"`, a pipeline's
            folder, or a hub id.
        scheduler: Short name of the sampler. `"euler"` (default) and `"flow-euler"` get a time grid and gains; others
            that LML can correct get gains on their own grid.
        steps: Steps of the sampler, 2 or more; None is 8.
        nfe: Network evaluations, in place of `steps`.
        rank: Gains a step, 1 to 16.
        num_seeds: Seeds, the held-out quarter included, 4 or more.
        seed: The first seed.
        teacher_steps: Steps of the fine solution, at least twice `steps`.
        iterations: The most iterations of the fit.
        starts: How many schedules are fitted, each from a start of its own: the warm start first, then grids of other
            ends. The one with the least error on held-out seeds is kept; the cost grows with their number.
        prior: Weight of the pull towards the initial schedule; see `FitOptions`.
        timestep_spacing: The sampler's time grid, where it is not fitted.
        sigmas: The same by noise level.
        warm_start: A calibration of the same model to start from, of any number of steps.
        prompt: Text, for models that take one.
        prompt_file: File of prompts in place of `prompt`, see `read_prompts`; seed k has prompt k modulo their number.
            With neither, `"scenes"` and `"scenes-flow"` take eight examples.
        guidance_scale: Strength of guidance; None keeps the pipeline's default.
        batch_size: Samples at once.
        dtype: Of the network.
        device: Where it runs.
        overwrite: Whether to replace `out`, and what an interrupted job left.
        resume: Whether to go on with an interrupted job; without one, a job just starts.

    Raises:
        LMLError: For a value out of range or two that exclude each other.
    """

    out: str | Path
    model: str = "embedded"
    scheduler: str = "euler"
    steps: int | None = None
    nfe: int | None = None
    rank: int = 2
    num_seeds: int = 64
    seed: int = FIRST_SEED
    teacher_steps: int = TEACHER_STEPS
    iterations: int = 30
    starts: int = 1
    prior: float = 1e-3
    timestep_spacing: str | None = None
    sigmas: str | None = None
    warm_start: str | Path | None = None
    prompt: str | None = None
    prompt_file: str | Path | None = None
    guidance_scale: float | None = None
    batch_size: int = 32
    dtype: str = "float32"
    device: str = "cpu"
    overwrite: bool = False
    resume: bool = False

    def __post_init__(self) -> None:
        take_numbers(self)
        object.__setattr__(self, "out", Path(self.out))
        if self.overwrite and self.resume:
            raise LMLError("overwrite and resume exclude each other: one deletes what the other keeps; give one.")
        if self.path.suffix != ".json" or self.path.is_dir():
            raise LMLError(f"out={str(self.out)!r} is no JSON file; give a name that ends in .json.")
        # The checks that sampling has: the model, the sampler and its grid, the counts, dtype and device.
        object.__setattr__(self, "steps", self.generation().steps)
        _whole("steps", self.steps, 2, 1000)
        _whole("rank", self.rank, 1, MAX_RANK)
        _whole("num_seeds", self.num_seeds, 4, 10**6)
        _whole("starts", self.starts, 1, 5)
        _whole("iterations", self.iterations, 1, 10**6)
        _whole("teacher_steps", self.teacher_steps, 2 * int(self.steps or 0), 10**5)
        if self.own_grid and (self.timestep_spacing or self.sigmas):
            given = "timestep_spacing" if self.timestep_spacing else "sigmas"
            raise LMLError(
                f"{given}={getattr(self, given)!r} has no meaning with scheduler={self.scheduler!r}, whose grid is "
                "fitted; leave it out, or give a scheduler that keeps its own, such as dpmpp-2m."
            )
        self.prompts()
        if not self.overwrite and self.path.exists():
            raise LMLError(f"out={str(self.out)!r} is there already; give --overwrite, or another name.")

    @property
    def path(self) -> Path:
        """`out` as a path."""
        return Path(self.out)

    @property
    def work(self) -> Path:
        """Folder of what an interrupted job leaves, beside `out`; it is gone when the job is done."""
        return self.path.with_name(self.path.name + ".work")

    @property
    def own_grid(self) -> bool:
        """Whether the time grid is fitted as well."""
        from lmlangevin.schedulers.grids import grid_setter
        from lmlangevin.schedulers.names import find_scheduler

        return grid_setter(find_scheduler(self.scheduler).base) is not None

    def generation(self) -> GenerateConfig:
        """Return the sampling job that the calibration is for, which checks and loads the same things."""
        prompts = self.prompts()
        return GenerateConfig(
            out="calibration",
            model=self.model,
            scheduler=self.scheduler,
            steps=self.steps,
            nfe=self.nfe if self.steps is None else None,
            num_images=self.num_seeds,
            batch_size=self.batch_size,
            seed=self.seed,
            timestep_spacing=self.timestep_spacing,
            sigmas=self.sigmas,
            prompt=prompts[0] if prompts else None,
            guidance_scale=self.guidance_scale,
            dtype=self.dtype,
            device=self.device,
        )

    def prompts(self) -> list[str] | None:
        """Return the prompts, None where there are none.

        Raises:
            LMLError: If the file cannot be read or holds none, or there is a prompt beside it.
        """
        if self.prompt is not None and self.prompt_file is not None:
            raise LMLError(f"prompt={self.prompt!r} and prompt_file={self.prompt_file!r} exclude each other; give one.")
        if self.prompt is not None:
            return [self.prompt]
        if self.prompt_file is not None:
            return list(read_prompts(self.prompt_file).texts)
        return list(example_prompts().texts) if self.model in SCENES else None

    def as_dict(self) -> dict[str, Any]:
        """Return the settings that the result depends on."""
        settings = asdict(self)
        for name in ("out", "overwrite", "resume", "nfe", "device", "batch_size", "prompt"):
            del settings[name]
        settings["prompt_file"] = self.prompts()
        settings["warm_start"] = None if self.warm_start is None else str(self.warm_start)
        return settings


def _whole(name: str, value: Any, least: int, most: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        raise LMLError(f"{name}={value!r} is out of range; give a whole number from {least} to {most}.")

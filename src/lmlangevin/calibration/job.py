"""`lml calibrate` as a function: solve the teacher, fit the schedule, write the file."""

from __future__ import annotations

import hashlib
import math
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeAlias

import torch
from safetensors.torch import load_file, save
from torch import Tensor

from lmlangevin.calibration.config import CalibrateConfig
from lmlangevin.calibration.fit import FitOptions, FitResult, fit, planned_evaluations
from lmlangevin.calibration.predictors import NetworkPredictor, PipelinePredictor, Predictor, remembered_prompts
from lmlangevin.calibration.start import initial_schedule
from lmlangevin.calibration.students import FirstOrderStudent, SolverStudent, Student
from lmlangevin.calibration.teacher import solve_teacher
from lmlangevin.core.errors import LMLError
from lmlangevin.core.scheduled import CalibratedSchedule
from lmlangevin.files import atomic_write
from lmlangevin.generation.manifest import package_versions
from lmlangevin.generation.models import LoadedModel, load_model
from lmlangevin.generation.sampling import without_known_warnings
from lmlangevin.schedulers.calibrations import (
    CalibrationFile,
    fingerprint,
    load_calibration,
    read_json,
    write_json,
)
from lmlangevin.schedulers.names import build_scheduler, find_scheduler
from lmlangevin.values import differing, plain

Progress: TypeAlias = Callable[[str, int, int], None]
"""Called as (`"teacher"`, `"fit"` or `"fit 1"`, ..., evaluations done, evaluations at most)."""

HELDOUT = 0.25
DIFFERENCES = {"float32": 1e-3}
HALF_DIFFERENCE = 0.05
"""Changes for the finite differences: a network in half precision rounds away smaller ones."""
PATIENCE = 10
STARTS = (0.03, 0.06, 0.12, 0.015)
"""Last levels before 0 of the grids that a fit can start from."""


@dataclass(frozen=True)
class Effort:
    """What a calibration costs: network evaluations of one sample, guidance apart, at most.

    Attributes:
        teacher: For the fine solutions.
        fit: For the fit.
    """

    teacher: int
    fit: int

    @property
    def total(self) -> int:
        """Both together."""
        return self.teacher + self.fit


@dataclass(frozen=True)
class CalibrateResult:
    """A finished calibration.

    Attributes:
        file: What was written.
        fit: How the fit went.
        path: Where it was written.
    """

    file: CalibrationFile
    fit: FitResult
    path: Path


class Calibration:
    """A calibration job that is loaded and planned.

    Args:
        config: The job.

    Raises:
        LMLError: If the model, the prompts or the warm start do not fit the job.
    """

    def __init__(self, config: CalibrateConfig) -> None:
        self.config = config
        self._steps = int(config.steps or 0)
        self._entry = find_scheduler(config.scheduler)
        self._options = FitOptions(
            iterations=config.iterations,
            prior=config.prior,
            heldout=HELDOUT,
            patience=PATIENCE,
            batch_size=config.batch_size,
            difference=DIFFERENCES.get(config.dtype, HALF_DIFFERENCE),
        )
        self._model = load_model(config.generation(), flow=self._entry.flow)
        self._predict = _predictor(config, self._model, flow=self._entry.flow)
        self._warm = None if config.warm_start is None else load_calibration(config.warm_start)
        self.effort = self._plan()

    @property
    def guided(self) -> bool:
        """Whether the pipeline is asked for guidance, which doubles what an evaluation costs."""
        return self.config.guidance_scale is not None and self.config.guidance_scale > 1

    def run(self, progress: Progress | None = None) -> CalibrateResult:
        """Solve, fit and write; an interrupted run keeps what is finished in `config.work`.

        Raises:
            LMLError: If an interrupted job is in the way, or the fit cannot start.
        """
        self._open_work()
        pipe = self._model.pipeline
        with without_known_warnings(), remembered_prompts(pipe), torch.inference_mode():
            start, target = self._teacher(progress)
            student = self._student(start)
            results = [self._fit(student, target, i, progress) for i in range(len(self._groups(student)))]
        best = min(results, key=lambda made: made.history[made.best].heldout_error or math.inf)
        spent, planned = (sum(getattr(made, name) for made in results) for name in ("evaluations", "planned"))
        result = replace(best, evaluations=spent, planned=planned)
        file = self._file(result)
        file.save(self.config.path)
        shutil.rmtree(self.config.work)
        return CalibrateResult(file, result, self.config.path)

    def _fit(self, student: Student, target: Tensor, index: int, progress: Progress | None) -> FitResult:
        """Fit from one of the starts."""
        name = "fit" if self.config.starts == 1 else f"fit {index + 1}"
        return fit(
            student,
            target,
            self._groups(student)[index],
            options=self._options,
            progress=None if progress is None else lambda done, total: progress(name, done, total),
            checkpoint=self.config.work / f"fit-{index}.json",
        )

    def _groups(self, student: Student) -> list[list[CalibratedSchedule]]:
        """Return the starts of each fit: all of them for a single fit, which takes the best, or one each."""
        starts = self._initial(student)
        return [starts] if self.config.starts == 1 else [[start] for start in starts[: self.config.starts]]

    def _plan(self) -> Effort:
        seeds = self.config.num_seeds
        # The plan needs the number of seeds alone, and no noise.
        student = self._student(torch.zeros(seeds, 1))
        planned = [planned_evaluations(student, self._options, starts=len(group)) for group in self._groups(student)]
        return Effort(self.config.teacher_steps * seeds, sum(planned))

    def _student(self, start: Tensor) -> Student:
        rank = self.config.rank
        if self.config.own_grid:
            return FirstOrderStudent(
                self._predict, start, steps=self._steps, rank=rank, smax=self._predict.smax, flow=self._predict.flow
            )
        return SolverStudent(self._predict, start, self._build, rank=rank)

    def _build(self, schedule: CalibratedSchedule | None) -> Any:
        lml = None if schedule is None else {"control": "calibrated", "calibrated_steps": schedule.to_config()}
        scheduler = build_scheduler(
            self.config.scheduler, self._model.scheduler_config, grid=self.config.generation().grid, lml=lml
        )
        scheduler.set_timesteps(self._steps)
        return scheduler

    def _initial(self, student: Student) -> list[CalibratedSchedule]:
        """Return the schedules to choose the first one from."""
        warm = None if self._warm is None else self._warm.schedule
        if isinstance(student, SolverStudent):
            return [student.initial()] if warm is None else [warm]
        flow, smax, rank = self._predict.flow, self._predict.smax, self.config.rank
        made = [] if warm is None else [initial_schedule(self._steps, rank, smax=smax, flow=flow, neighbour=warm)]
        return made + [initial_schedule(self._steps, rank, smax=smax, smin=smin, flow=flow) for smin in STARTS]

    def _open_work(self) -> None:
        """Make the work folder, or see that the one that is there is of this job."""
        config, work = self.config, self.config.work
        settings = plain(config.as_dict())
        if work.exists() and config.overwrite:
            shutil.rmtree(work)
        if work.exists():
            if not config.resume:
                raise LMLError(
                    f"out={str(config.out)!r}: an interrupted calibration lies in {str(work)!r}; give --resume to go "
                    "on with it, or --overwrite to start anew."
                )
            before = read_json(work / "job.json")
            changed = [
                f"{key} is {settings.get(key)!r}, was {before.get(key)!r}" for key in differing(before, settings)
            ]
            if changed:
                raise LMLError(
                    f"out={str(config.out)!r}: the interrupted job had other settings ({'; '.join(sorted(changed))}); "
                    "give those, or --overwrite."
                )
            return
        try:
            work.mkdir(parents=True)
        except OSError as error:
            raise LMLError(f"out={str(config.out)!r} cannot be written ({error.strerror}); give another.") from error
        write_json(work / "job.json", settings)

    def _teacher(self, progress: Progress | None) -> tuple[Tensor, Tensor]:
        """Return y at the first level and the fine solutions, batch by batch from the work folder where it has them."""
        config, total, parts = self.config, self.effort.teacher, []
        for first in range(0, config.num_seeds, config.batch_size):
            rows = range(first, min(first + config.batch_size, config.num_seeds))
            path = config.work / f"teacher-{first:06d}.safetensors"
            if not path.is_file():

                def predict(y: Tensor, s: float, local: Any, rows: range = rows) -> Tensor:
                    return self._predict(y, s, [rows[i] for i in local])

                def report(done: int, _: int, before: int = first * config.teacher_steps) -> None:
                    if progress is not None:
                        progress("teacher", before + done, total)

                start = self._predict.start([config.seed + row for row in rows], rows)
                target = solve_teacher(
                    predict,
                    start,
                    smax=self._predict.smax,
                    steps=config.teacher_steps,
                    flow=self._predict.flow,
                    progress=report,
                )
                with atomic_write(path) as temporary:
                    # As bytes, since safetensors has an error of its own for a file that cannot be written.
                    temporary.write_bytes(
                        save({"start": start.cpu().contiguous(), "target": target.cpu().contiguous()})
                    )
            parts.append(load_file(path, device=config.device))
        # The fit's own arithmetic in float64 where there is one: y is a hundred times larger than what it ends as.
        wide = torch.float32 if config.device == "mps" else torch.float64
        start, target = (torch.cat([part[name] for part in parts]).to(wide) for name in ("start", "target"))
        return start, target

    def _file(self, result: FitResult) -> CalibrationFile:
        config = self.config
        now = fingerprint(
            self._model.networks[0],
            self._build(None),
            steps=result.schedule.steps,
            guidance_scale=config.guidance_scale,
            own_grid=config.own_grid,
        )
        prompts = config.prompts()
        settings = {key: value for key, value in config.as_dict().items() if key != "prompt_file"}
        settings |= {
            "num_prompts": len(prompts) if prompts else 0,
            "prompts_sha256": hashlib.sha256("\n".join(prompts).encode()).hexdigest()[:16] if prompts else None,
            "model": Path(config.model).name,
            "warm_start": None if self._warm is None else Path(str(config.warm_start)).name,
            "teacher_evaluations": self.effort.teacher,
            "versions": package_versions(),
        }
        return CalibrationFile(result.schedule, now, settings | result.as_dict())


def _predictor(config: CalibrateConfig, model: LoadedModel, *, flow: bool) -> Predictor:
    """Return the model as the calibration asks it."""
    if model.shape is not None:
        network: Any = model.networks[0]
        if config.device == "cpu":
            network = network.to(memory_format=torch.channels_last)  # faster there
        return NetworkPredictor(
            network,
            model.scheduler_config,
            model.shape,
            flow=flow,
            dtype=getattr(torch, config.dtype),
            device=config.device,
        )
    arguments = {} if config.guidance_scale is None else {"guidance_scale": config.guidance_scale}
    return PipelinePredictor(model.pipeline, arguments, config.prompts(), flow=flow)


def calibrate(config: CalibrateConfig, progress: Progress | None = None) -> CalibrateResult:
    """Calibrate: load, solve the teacher, fit, and write `config.out`.

    Args:
        config: The job.
        progress: See `Progress`.

    Raises:
        LMLError: If something does not fit.
    """
    return Calibration(config).run(progress)

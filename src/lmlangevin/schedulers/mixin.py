"""What every LML scheduler adds to its base: configuration, state, and the two placements of the correction."""

from __future__ import annotations

import contextlib
import logging
import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from diffusers.schedulers.scheduling_ddim import DDIMScheduler
from diffusers.schedulers.scheduling_flow_match_euler_discrete import FlowMatchEulerDiscreteScheduler
from torch import Tensor

from lmlangevin.core import (
    AdaptiveState,
    CalibratedSchedule,
    LMLConfig,
    LMLError,
    LMLInfo,
    LMLState,
    adapt,
    correct,
    correct_scheduled,
    run_trust,
    sample_hash,
)
from lmlangevin.schedulers import presets
from lmlangevin.schedulers.grids import grid_setter
from lmlangevin.schedulers.levels import Level, find_index, response, run_levels
from lmlangevin.schedulers.noise import (
    FLOW,
    alpha_bar,
    configured,
    level_index,
    noise_coordinates,
    prediction_from_noise,
    prediction_kind,
)

logger = logging.getLogger("lmlangevin")

PLACEMENTS = ("score", "reference")

LML_DEFAULTS: dict[str, Any] = {
    "gain": None,
    "kappa": None,
    "damping": None,
    "damping_mode": "relative",
    "placement": "score",
    "rank": 1,
    "control": "constant",
    "calibrated_steps": None,
    "lml_enabled": True,
    "record": False,
    "preset": None,
}
"""Configuration keys that an LML scheduler has beyond its base's, with their defaults."""

_DPM_UPDATES = (
    "dpm_solver_first_order_update",
    "multistep_dpm_solver_second_order_update",
    "multistep_dpm_solver_third_order_update",
)


_idle_noticed = False


def _notice_idle(steps: int) -> None:
    """Say once a process why the images are those of the plain sampler."""
    global _idle_noticed
    if not _idle_noticed:
        _idle_noticed = True
        logger.warning(
            "The adaptive control leaves this run of %d steps as it is: on this time grid some are too long for it to "
            "judge, or all so short that little is missed. Give another grid or number of steps, or a gain.",
            steps,
        )


class Settings(NamedTuple):
    """The LML part of a configuration, as it was when a run began.

    Attributes:
        enabled: Whether anything is corrected.
        record: Whether each step's `LMLInfo` is kept.
        placement: `"score"` or `"reference"`.
        config: The settings of the correction.
        schedule: The calibrated schedule, None with another control.
    """

    enabled: bool
    record: bool
    placement: str
    config: LMLConfig
    schedule: CalibratedSchedule | None


class LMLSchedulerMixin:
    """The part that is the same for every base; `with_lml` puts it in front of one.

    Attributes:
        lml_history: With `record=True`, one `LMLInfo` a step of the run since `set_timesteps`; otherwise empty.
    """

    _lml_base: type
    _lml_built = False
    _lml_planned = False  # whether set_timesteps was called; DDPM knows no number of steps where it is given timesteps
    lml_history: list[LMLInfo]
    # What every diffusers scheduler brings.
    config: Any
    timesteps: Tensor
    register_to_config: Any

    def _lml_setup(self) -> None:
        """Read the configuration and start with no history. Called once, by `__init__`."""
        self._lml_begin_run()
        self._lml_built = True
        if self._lml_planned and self._lml_settings.enabled:
            self._lml_plan()  # LMS has timesteps from its constructor on

    def _lml_read_settings(self) -> Settings:
        """Validate the configuration, which `register_to_config` may have changed, and fill in the preset."""
        config = self.config
        if config.placement not in PLACEMENTS:
            raise LMLError(f"placement={config.placement!r} is unknown; give 'score' or 'reference'.")
        for name in ("lml_enabled", "record"):
            if not isinstance(config[name], bool):
                raise LMLError(f"{name}={config[name]!r} is not a boolean; give True or False.")
        if config.placement == "reference":
            self._check_reference()
        if configured(self, "skip_prk_steps") is False:
            raise LMLError(
                "skip_prk_steps=False makes PNDM evaluate the network four times an interval, and LML's history would "
                "mix them; give skip_prk_steps=True."
            )
        if config.control == "adaptive":
            self._check_adaptive()
        schedule = self._lml_read_schedule()
        self._lml_resolve_preset()
        config = self.config
        correction = LMLConfig(
            kappa=config.kappa,
            damping=config.damping,
            gain=config.gain,
            damping_mode=config.damping_mode,
            rank=config.rank,
            control=config.control,
        )
        return Settings(config.lml_enabled, config.record, config.placement, correction, schedule)

    def _check_adaptive(self) -> None:
        """Refuse what the adaptive control would take for an error of the solver and repair."""
        if self.config.placement != "score":
            raise LMLError(
                f"placement={self.config.placement!r} is the paper's, with constant damping; give placement='score' "
                "with control='adaptive'."
            )
        for name in ("clip_sample", "thresholding"):
            if configured(self, name):
                raise LMLError(
                    f"{name}=True changes what the network predicts within the step, which control='adaptive' would "
                    f"take for an error and repair; give {name}=False, or control='constant'."
                )

    def _lml_read_schedule(self) -> CalibratedSchedule | None:
        """Return the schedule of `calibrated_steps`, which is there exactly where it is used."""
        given, control = self.config.calibrated_steps, self.config.control
        if (control == "calibrated") != (given is not None):
            raise LMLError(
                f"control={control!r} with calibrated_steps={'None' if given is None else '{...}'}: the two go "
                "together; give both, or apply_lml(pipe, control='calibrated', calibration=FILE), which does."
            )
        if given is None:
            return None
        schedule = CalibratedSchedule.from_config(given)
        if self.config.placement != "score":
            raise LMLError(
                f"placement={self.config.placement!r} is the paper's, with constant damping; give placement='score' "
                "with control='calibrated'."
            )
        if schedule.sigmas is not None and grid_setter(self._lml_base) is None:
            raise LMLError(
                f"calibrated_steps has a time grid, and {self._lml_base.__name__} takes none; give "
                "EulerDiscreteScheduler, UniPCMultistepScheduler or FlowMatchEulerDiscreteScheduler, or a calibration "
                "of gains alone."
            )
        return schedule

    def _lml_resolve_preset(self) -> None:
        """Write the preset's gain into the configuration where the user gave none, with the preset's label."""
        config = self.config
        stored = presets.parse_label(config.preset)
        numbers = config.kappa is not None or config.damping is not None or config.damping_mode != "relative"
        if config.control != "constant" or numbers:
            # The paper's two numbers are the user's word; a gain that came from a preset yields to them.
            self.register_to_config(gain=None if stored else config.gain, preset=None)
            return
        if config.gain is not None:
            if stored is None:
                return
            if stored.current and stored.gain() != config.gain:
                # The user gave a number together with a configuration that had one from a preset.
                self.register_to_config(preset=None)
                return
            if not stored.stale_for(self._lml_base, config):
                return
        try:
            found = presets.find_preset(self._lml_base, config)
        except LMLError:
            if config.lml_enabled:
                raise
            return  # a scheduler that is switched off needs no gain
        self.register_to_config(gain=found.gain, preset=found.label)

    def _check_reference(self) -> None:
        name = self._lml_base.__name__
        if issubclass(self._lml_base, DDIMScheduler):
            return
        if issubclass(self._lml_base, FlowMatchEulerDiscreteScheduler):
            if self.config.stochastic_sampling:
                raise LMLError(
                    "placement='reference' is not defined for stochastic_sampling=True, whose step is no multiple of "
                    "the velocity; give placement='score'."
                )
            return
        if not all(hasattr(self, update) for update in _DPM_UPDATES):
            raise LMLError(
                f"placement='reference' is not defined for {name}: the paper places the correction in DDIM, DPM-Solver "
                "and flow Euler steps only; give placement='score'."
            )
        if str(self.config.algorithm_type).startswith("sde"):
            raise LMLError(
                f"placement='reference' is not defined for algorithm_type={self.config.algorithm_type!r}, whose "
                "increment holds fresh noise; give placement='score' or algorithm_type='dpmsolver++'."
            )

    # State ----------------------------------------------------------------------------------------------------------

    def _lml_begin_run(self) -> None:
        self._lml_settings = self._lml_read_settings()
        self.lml_history = []
        self._reset_stateful_cache()
        self._lml_first = 0
        self._lml_position = 0
        self._lml_next: int | None = None  # the position that comes next, None before the first step

    def _reset_stateful_cache(self) -> None:
        """Free the kept predictions; diffusers calls this when a pipeline has finished."""
        self._lml_state = LMLState()
        self._lml_adaptive = AdaptiveState()
        self._lml_output: tuple[Tensor, torch.dtype, torch.Size] | None = None

    @contextlib.contextmanager
    def _lml_all_or_nothing(self) -> Iterator[None]:
        """Put the scheduler back as it was if what is done with it fails, so that the same can be tried again."""
        before = dict(self.__dict__)
        lists = [(value, list(value)) for value in before.values() if isinstance(value, list)]
        try:
            yield
        except BaseException:
            for value, content in lists:
                value[:] = content
            self.__dict__.clear()
            self.__dict__.update(before)
            raise

    @property
    def _lml_active(self) -> bool:
        settings = self._lml_settings
        return settings.enabled and not (settings.config.control == "constant" and settings.config.resolved()[0] == 0)

    def _lml_plan(self) -> None:
        """Read the run's plan, once: after `set_timesteps`, and never in a step."""
        self._lml_timesteps: Tensor = self.timesteps
        self._lml_values: list[float] = self.timesteps.tolist()
        if self._lml_settings.config.control == "adaptive":
            self._lml_plan_adaptive()

    def _lml_enter(self, timestep: Any) -> None:
        """Find where in the run this step is.

        Raises:
            LMLError: If it is not the step that comes next.
        """
        begins = self._lml_next is None
        if begins and self.timesteps is not self._lml_timesteps:
            self._lml_plan()  # someone else set them
        planned = len(self._lml_values)
        if self._lml_next == planned:
            raise LMLError(
                f"step was called {planned - self._lml_first + 1} times since set_timesteps, which planned "
                f"{planned - self._lml_first}; call set_timesteps before every run, and use one call of step per "
                "timestep."
            )
        found = find_index(self._lml_timesteps, self._lml_values, timestep, self._lml_next)
        if found is None:
            raise LMLError(f"timestep={timestep} is none of this run's; give step those of scheduler.timesteps.")
        if begins:
            self._lml_first = found
        elif found != self._lml_next:
            raise LMLError(
                f"timestep={timestep} is number {found} of this run, and number {self._lml_next} comes next; call "
                "set_timesteps before every run, and use one call of step per timestep."
            )
        self._lml_position = found
        if begins and self._lml_settings.config.control == "adaptive":
            self._lml_judge(self._lml_index(timestep))

    def _lml_leave(self, output: Tensor) -> None:
        """Count the step, and free what was kept for the next one if there is none."""
        self._lml_next = self._lml_position + 1
        if self._lml_next == len(self._lml_values):
            self._reset_stateful_cache()
        elif self._lml_adaptive.levels:
            self._lml_output = sample_hash(output), output.dtype, output.shape

    def _lml_index(self, timestep: Any) -> int:
        """Return the index of this step's level: the base's, where it counts, for it may begin somewhere else."""
        return level_index(self, timestep) if hasattr(self, "step_index") else self._lml_position

    def _lml_correct(self, n: Tensor, timestep: Any = None) -> Tensor:
        settings = self._lml_settings
        if settings.schedule is not None:
            index = self._lml_index(timestep)
            corrected, self._lml_state, info = correct_scheduled(n, self._lml_state, settings.schedule, index)
        else:
            corrected, self._lml_state, info = correct(n, self._lml_state, settings.config)
        if settings.record:
            self.lml_history.append(info)
        return corrected

    # The adaptive control -------------------------------------------------------------------------------------------

    def _lml_plan_adaptive(self) -> None:
        self._lml_levels: list[Level] = run_levels(self)
        moved = response(self, self._lml_base.step, self.timesteps)
        if moved is None:
            raise LMLError(
                f"control='adaptive' repairs what a solver of the ODE missed, and {self._lml_base.__name__} draws "
                "noise in its steps; give control='constant', or a solver without noise such as "
                "DPMSolverMultistepScheduler."
            )
        # A step adds (s_next - s) n. Some flows predict x0 - eps, the negative of n.
        stride = self._lml_levels[1].value - self._lml_levels[0].value
        self._lml_sign = -1 if prediction_kind(self) == FLOW and moved * stride < 0 else 1
        self._lml_trust = self._lml_run_trust(0)

    def _lml_run_trust(self, start: int) -> float:
        return run_trust([math.exp(level.log) for level in self._lml_levels[start:-1]])

    def _lml_judge(self, start: int) -> None:
        """Settle how far a run is trusted, by the levels that it visits: it may begin inside the plan."""
        if start:
            self._lml_trust = self._lml_run_trust(start)
        if self._lml_trust == 0:
            _notice_idle(len(self._lml_levels) - 1 - start)

    def _lml_adapted(self, model_output: Tensor, timestep: Any, sample: Tensor) -> tuple[Tensor, Tensor]:
        """Return the network's output and the sample that the solver is to see."""
        channels = sample.shape[1]
        learned = model_output.ndim == sample.ndim and model_output.shape[1] == 2 * channels
        prediction = model_output[:, :channels] if learned else model_output
        n, _ = noise_coordinates(self, prediction, timestep, sample)
        index = self._lml_index(timestep)
        level = self._lml_levels[index]
        last = index + 2 >= len(self._lml_levels)
        wide = torch.promote_types(sample.dtype, torch.float32)
        adapted = adapt(
            n if self._lml_sign > 0 else -n,
            sample.to(wide) / level.scale,
            level.value,
            0.0 if last else self._lml_levels[index + 1].value,
            self._lml_adaptive,
            log=level.log,
            untouched=self._lml_untouched(sample),
            trust=self._lml_trust,
            state_dtype=sample.dtype,
        )
        self._lml_adaptive = adapted.state
        if self._lml_settings.record:
            self.lml_history.append(adapted.info)
        if adapted.prediction is None or adapted.shift is None:
            return model_output, sample
        moved = sample.to(wide) + level.scale * adapted.shift
        n = adapted.prediction if self._lml_sign > 0 else -adapted.prediction
        corrected = prediction_from_noise(self, n, timestep, moved).to(prediction.dtype)
        output = torch.cat([corrected, model_output[:, channels:]], dim=1) if learned else corrected
        return output, moved.to(sample.dtype)

    def _lml_untouched(self, sample: Tensor) -> Tensor | None:
        """Return per sample whether it is what the last step returned; None before the second step."""
        if self._lml_output is None:
            return None
        before, dtype, shape = self._lml_output
        if before.device != sample.device or shape != sample.shape:
            return None
        same = sample_hash(sample.to(dtype)) == before
        # As a rule all are, which a host knows of a CPU without waiting, and None is computed faster.
        return None if same.device.type == "cpu" and all(same.tolist()) else same

    # The two placements ---------------------------------------------------------------------------------------------

    def _lml_corrected_output(self, model_output: Tensor, timestep: Any, sample: Tensor) -> Tensor:
        """Return the network's output with its noise corrected: the score placement."""
        channels = sample.shape[1]
        # A model of learned variance returns twice the channels; the second half is no noise.
        learned = model_output.ndim == sample.ndim and model_output.shape[1] == 2 * channels
        prediction = model_output[:, :channels] if learned else model_output
        n, factor = noise_coordinates(self, prediction, timestep, sample)
        d = self._lml_correct(n, timestep)
        if d is n:
            return model_output
        corrected = d if n is prediction else (prediction + factor * (d - n)).to(prediction.dtype)
        return torch.cat([corrected, model_output[:, channels:]], dim=1) if learned else corrected

    def _lml_ddim_increment(self, model_output: Tensor, timestep: Any, sample: Tensor, eta: float) -> Tensor | None:
        """Return what the paper's placement adds to DDIM's result: its direction term, taken along d for n."""
        n, _ = noise_coordinates(self, model_output, timestep, sample)
        d = self._lml_correct(n)
        if d is n:
            return None
        scheduler: Any = self
        previous = timestep - scheduler.config.num_train_timesteps // scheduler.num_inference_steps
        abar, abar_previous = alpha_bar(self, timestep), alpha_bar(self, previous)
        variance = (1 - abar_previous) / (1 - abar) * (1 - abar / abar_previous)
        # arXiv:2010.02502, eq. 12: the direction term is sqrt(1 - abar_prev - std^2) eps, std^2 = eta^2 variance.
        return (1 - abar_previous - eta**2 * variance).sqrt() * (d - n)

    def _lml_dpm_update(self, update: Any, outputs: Any, sample: Tensor, noise: Any) -> Tensor:
        """Correct the increment of a DPM-Solver update, which is the update of a sample of zeros (it is linear)."""
        result = update(outputs, sample=sample, noise=noise)
        increment = update(outputs, sample=torch.zeros_like(sample), noise=noise)
        corrected = self._lml_correct(increment)
        return result if corrected is increment else result + (corrected - increment)

"""What a calibration asks a model for: its noise at any position and level, whatever runs the model.

A scheduler that is planned for one level answers all that differs between models: the timestep of a level, what the
network's input is scaled by, and the noise that its prediction implies.
"""

from __future__ import annotations

import contextlib
import inspect
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from diffusers.schedulers.scheduling_euler_discrete import EulerDiscreteScheduler
from diffusers.schedulers.scheduling_flow_match_euler_discrete import FlowMatchEulerDiscreteScheduler
from torch import Tensor

from lmlangevin.core import CalibratedSchedule, LMLError
from lmlangevin.generation.seeds import start_images
from lmlangevin.schedulers.grids import grid_setter
from lmlangevin.schedulers.noise import noise_coordinates

FLOW_SMAX = 1.0


class Predictor(ABC):
    """A model as a calibration sees it; calling it gives n of y at s.

    Args:
        scheduler_config: The configuration that came with the model.
        flow: Whether it is a flow-matching model.

    Attributes:
        base: The class of scheduler that will execute the schedule.
        smax: The first level.
    """

    def __init__(self, scheduler_config: Any, *, flow: bool) -> None:
        self.base: Any = FlowMatchEulerDiscreteScheduler if flow else EulerDiscreteScheduler
        self.flow = flow
        self._scheduler = self.base.from_config(scheduler_config)
        if flow:
            self.smax = FLOW_SMAX
        else:
            # The level of the last timestep, whatever grid the configuration names.
            last = float(self._scheduler.alphas_cumprod[-1])
            self.smax = ((1 - last) / last) ** 0.5
        self._plan(self.smax)

    def _plan(self, s: float, device: Any = "cpu") -> Any:
        """Plan a run of one step from s to 0 and return its timestep."""
        setter: Any = grid_setter(self.base)
        setter(self._scheduler, self.base, CalibratedSchedule((s, 0.0), ((),)), {"device": device, "mu": 1.0})
        self._scheduler._init_step_index(self._scheduler.timesteps[0])
        return self._scheduler.timesteps[0]

    @property
    def noise_scale(self) -> float:
        """What standard normal noise is multiplied by to give y at the first level."""
        self._plan(self.smax)
        return float(getattr(self._scheduler, "init_noise_sigma", 1.0))

    @abstractmethod
    def start(self, seeds: Sequence[int], rows: Sequence[int]) -> Tensor:
        """Return y at the first level for every seed, (seeds, *event) float32; `rows` as in `firstorder.Predict`."""

    @abstractmethod
    def __call__(self, y: Tensor, s: float, rows: Sequence[int]) -> Tensor:
        """Return n of y at s; see `firstorder.Predict`."""


class NetworkPredictor(Predictor):
    """An unconditional pixel network.

    Args:
        network: Called as `network(x, t)`, returns an object with `.sample`.
        scheduler_config: The configuration that came with the model.
        shape: Shape of one image.
        flow: Whether it is a flow-matching model.
        dtype: Dtype that the network sees.
        device: Where it is.
    """

    def __init__(
        self,
        network: Any,
        scheduler_config: Any,
        shape: tuple[int, int, int],
        *,
        flow: bool,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> None:
        super().__init__(scheduler_config, flow=flow)
        self._network, self._shape, self._dtype, self._device = network, shape, dtype, device

    def start(self, seeds: Sequence[int], rows: Sequence[int]) -> Tensor:
        """See `Predictor`; the noise is that of `lml generate`."""
        del rows
        return start_images(list(seeds), self._shape)[0].to(self._device, torch.float32) * self.noise_scale

    @torch.inference_mode()
    def __call__(self, y: Tensor, s: float, rows: Sequence[int]) -> Tensor:
        """See `Predictor`."""
        del rows
        t = self._plan(s, self._device)
        scale = getattr(self._scheduler, "scale_model_input", None)
        seen = y if scale is None else scale(y, t)
        prediction = self._network(seen.to(self._dtype), t).sample.to(y.dtype)
        return noise_coordinates(self._scheduler, prediction, t, y)[0]


class _Stop(Exception):
    """Leaves a pipeline when its first step has been seen."""


class PipelinePredictor(Predictor):
    """A diffusers pipeline, prompts and guidance included.

    The pipeline is called for one step at the wanted level, and its scheduler's step keeps what it is given and leaves:
    any pipeline that takes `latents` can be calibrated, and nothing of its own code is repeated here.

    Args:
        pipe: The pipeline. Its scheduler is changed only while it is called.
        arguments: Arguments of its call, prompts apart.
        prompts: One text for each seed, or none where the pipeline takes no text.
        flow: Whether it is a flow-matching model.

    Raises:
        LMLError: If the pipeline takes no `latents`.
    """

    def __init__(self, pipe: Any, arguments: Mapping[str, Any], prompts: Sequence[str] | None, *, flow: bool) -> None:
        super().__init__(pipe.scheduler.config, flow=flow)
        parameters = inspect.signature(pipe.__call__).parameters
        if "latents" not in parameters:
            raise LMLError(
                f"model is a {type(pipe).__name__}, which takes no latents, so that it cannot be asked at a level; "
                "give another pipeline."
            )
        self._pipe, self._arguments, self._prompts = pipe, dict(arguments), prompts
        self._batch = "batch_size" if "batch_size" in parameters else None
        self._seen: tuple[Tensor, Tensor] | None = None
        self._capture = _capturing(self.base, self).from_config(pipe.scheduler.config)

    def start(self, seeds: Sequence[int], rows: Sequence[int]) -> Tensor:
        """See `Predictor`; the noise is what the pipeline draws from a generator of each seed."""
        generators = [torch.Generator("cpu").manual_seed(seed) for seed in seeds]
        return self._ask(self.smax, rows, generator=generators)[0]

    def __call__(self, y: Tensor, s: float, rows: Sequence[int]) -> Tensor:
        """See `Predictor`."""
        self._capture.planned = s
        self._capture.set_timesteps(1)
        scale = float(getattr(self._capture, "init_noise_sigma", 1.0))
        # Pipelines take latents as they come, and their networks take their own dtype alone.
        latents = (y / scale).to(getattr(self._pipe, "dtype", torch.float32))
        return self._ask(s, rows, latents=latents)[1].to(y.dtype)

    def _ask(self, s: float, rows: Sequence[int], **given: Any) -> tuple[Tensor, Tensor]:
        call = {**self._arguments, **given, "num_inference_steps": 1, "output_type": "latent"}
        if self._prompts is not None:
            call["prompt"] = [self._prompts[row % len(self._prompts)] for row in rows]
        elif self._batch:
            call[self._batch] = len(rows)
        self._seen = None
        self._capture.planned = s
        own, self._pipe.scheduler = self._pipe.scheduler, self._capture
        try:
            with contextlib.suppress(_Stop), torch.inference_mode():
                self._pipe(**call)
        finally:
            self._pipe.scheduler = own
        if self._seen is None:
            raise LMLError(f"model is a {type(self._pipe).__name__} that never steps its scheduler; give another one.")
        return self._seen


def _capturing(base: Any, owner: PipelinePredictor) -> Any:
    """Return a scheduler class that plans one level, and hands the first step's sample and noise to `owner`."""

    class Capturing(base):
        planned: float

        def set_timesteps(self, num_inference_steps: int | None = None, device: Any = None, **grid: Any) -> None:
            del num_inference_steps
            setter: Any = grid_setter(base)
            schedule = CalibratedSchedule((self.planned, 0.0), ((),))
            setter(self, base, schedule, {"device": device, "mu": grid.get("mu") or 1.0})

        def step(self, model_output: Tensor, timestep: Any, sample: Tensor, *args: Any, **kwargs: Any) -> Any:
            del args, kwargs
            if self.step_index is None:
                self._init_step_index(timestep)
            channels = sample.shape[1]
            if model_output.ndim == sample.ndim and model_output.shape[1] == 2 * channels:
                model_output = model_output[:, :channels]
            wide = sample.to(torch.float32)
            owner._seen = wide, noise_coordinates(self, model_output.to(torch.float32), timestep, wide)[0]
            raise _Stop

    signature = inspect.signature(base.set_timesteps)
    # Pipelines look for `sigmas` and `mu` in it.
    Capturing.set_timesteps.__signature__ = signature  # type: ignore[attr-defined]
    Capturing.__name__ = base.__name__
    return Capturing


@contextlib.contextmanager
def remembered_prompts(pipe: Any) -> Iterator[None]:
    """Encode equal prompts once while a `with` block runs: a calibration asks for the same ones thousands of times."""
    encode = getattr(pipe, "encode_prompt", None)
    if encode is None:
        yield
        return
    known: dict[str, Any] = {}

    def remembered(*args: Any, **kwargs: Any) -> Any:
        if any(isinstance(value, Tensor) for value in (*args, *kwargs.values())):
            return encode(*args, **kwargs)
        key = repr((args, sorted(kwargs.items(), key=lambda item: item[0])))
        if key not in known:
            known[key] = encode(*args, **kwargs)
        return known[key]

    pipe.encode_prompt = remembered
    try:
        yield
    finally:
        del pipe.encode_prompt

"""The sampling loop, and the count of network evaluations that every figure of this package rests on."""

from __future__ import annotations

import contextlib
import functools
import inspect
import warnings
from collections.abc import Iterator, Mapping, Sequence
from types import TracebackType
from typing import Any

import torch
from torch import Tensor, nn


class CountCalls:
    """Count the evaluations of networks while a `with` block runs.

        with CountCalls(unet, batch=4) as count:
            sample(unet, ...)
        count.calls, count.doubled

    Args:
        *networks: The modules to watch. They are hooked, not replaced, so whoever holds them notices nothing.
        batch: Images that are sampled at once. A call on at least twice as many samples evaluates for guidance too.

    Attributes:
        calls: Evaluations, a guidance-doubled one counted once.
        doubled: Those of them that were doubled for guidance.
    """

    def __init__(self, *networks: nn.Module, batch: int) -> None:
        self.calls = 0
        self.doubled = 0
        self._networks = networks
        self._batch = batch
        self._handles: list[Any] = []

    def _count(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        del module
        self.calls += 1
        first = args[0] if args else kwargs.get("sample", kwargs.get("hidden_states"))
        if isinstance(first, Tensor) and first.shape[0] >= 2 * self._batch:
            self.doubled += 1

    def __enter__(self) -> CountCalls:
        self._handles = [n.register_forward_pre_hook(self._count, with_kwargs=True) for n in self._networks]
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        for handle in self._handles:
            handle.remove()


@contextlib.contextmanager
def without_known_warnings() -> Iterator[None]:
    """Silence one warning that a user can do nothing about, and no other.

    diffusers announces that it may drop the noise-predicting DPM-Solver (`dpm-3`).
    """
    with warnings.catch_warnings():
        warnings.filterwarnings(
            "ignore", message="`algorithm_types dpmsolver and sde-dpmsolver` is deprecated", category=FutureWarning
        )
        yield


@torch.inference_mode()
def sample(
    network: Any,
    scheduler: Any,
    noise: Tensor,
    generators: Sequence[torch.Generator],
    *,
    steps: int,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
    step_arguments: Mapping[str, Any] | None = None,
    langevin: Mapping[str, Any] | None = None,
) -> Tensor:
    """Sample an unconditional pixel model.

    Args:
        network: Called as `network(x, t)`, returns an object with `.sample`.
        scheduler: Any diffusers scheduler; its timesteps are set here.
        noise: Standard normal, (batch, channels, height, width).
        generators: One an image, for the samplers that draw noise inside their steps.
        steps: Number of steps.
        dtype: Dtype that the network sees. The solver's sample stays float32, so that its small steps are not rounded.
        device: Where to sample.
        step_arguments: Further arguments of the scheduler's `step`, such as `{"eta": 1.0}` for DDIM.
        langevin: Langevin steps between the scheduler's: `steps`, `step_size` and `rank` of a `Corrector`.

    Returns:
        The samples, float32 on `device`, in [-1, 1] up to what the model overshoots.
    """
    with without_known_warnings():
        scheduler.set_timesteps(steps, device=device)
        extra = dict(step_arguments or {})
        if "generator" in inspect.signature(scheduler.step).parameters:
            extra["generator"] = list(generators)
        # Flow-matching schedulers have neither of these two.
        scale_input = getattr(scheduler, "scale_model_input", None)
        x = noise.to(device, torch.float32) * getattr(scheduler, "init_noise_sigma", 1.0)
        corrector = None if langevin is None else _corrector(scheduler, generators, **langevin)

        def evaluate(x: Tensor, t: Tensor) -> Tensor:
            seen = x if scale_input is None else scale_input(x, t)
            return network(seen.to(dtype), t).sample.to(torch.float32)

        for index, t in enumerate(scheduler.timesteps):
            if corrector is not None:
                x = corrector.correct(functools.partial(evaluate, t=t), index, t, x)
            prediction = evaluate(x, t)
            if corrector is not None:
                corrector.remember(prediction, index, t, x)
            x = scheduler.step(prediction, t, x, **extra).prev_sample
    return x


def _corrector(scheduler: Any, generators: Sequence[torch.Generator], **settings: Any) -> Any:
    from lmlangevin.generation.corrector import Corrector  # which imports diffusers

    return Corrector(scheduler, generators, **settings)


@torch.inference_mode()
def sample_pipeline(pipe: Any, generators: Sequence[torch.Generator], *, arguments: Mapping[str, Any]) -> Any:
    """Run a diffusers pipeline on one batch, each image on its own generator.

    Args:
        pipe: The pipeline, with its scheduler in place.
        generators: One an image; their number is the batch size.
        arguments: What `batch_arguments` returned.

    Returns:
        Floats in [0, 1], an array of (batch, height, width, channels), or (batch, frames, height, width, channels) of a
        pipeline that makes videos.
    """
    call = dict(arguments)
    if "generator" in inspect.signature(pipe.__call__).parameters:
        call["generator"] = list(generators)
    with without_known_warnings():
        output = pipe(**call)
    return output.frames if hasattr(output, "frames") else output.images

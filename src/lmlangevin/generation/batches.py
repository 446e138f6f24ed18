"""The sampling of a job's batches: images first, then the record that says that they are finished."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias, TypeVar, cast

import torch

from lmlangevin.core.errors import LMLError
from lmlangevin.generation.config import GenerateConfig
from lmlangevin.generation.images import Picture, first_frame, from_arrays, png_bytes, to_pictures, to_uint8
from lmlangevin.generation.langevin import evaluations
from lmlangevin.generation.ledger import Ledger, Record
from lmlangevin.generation.manifest import image_name, noise_hash
from lmlangevin.generation.models import LoadedModel
from lmlangevin.generation.pipelines import batch_arguments
from lmlangevin.generation.plan import RunResult
from lmlangevin.generation.sampling import CountCalls, sample, sample_pipeline
from lmlangevin.generation.seeds import start_images
from lmlangevin.generation.store import Store

T = TypeVar("T")

Progress: TypeAlias = Callable[[str, int, int], None]
"""Called as (run, images done, images in all) when a run begins and after each of its batches."""


def deal(pending: Sequence[int], batch_size: int, processes: int) -> list[list[list[int]]]:
    """Deal the images that are to be made to processes.

    A batch holds images of one block k * batch_size, ..., (k + 1) * batch_size - 1. Whatever was interrupted, and
    whatever the number of processes, the same images then meet in a batch, and come out equal to the last bit. Where
    there are fewer blocks than processes the images are split evenly instead, and equal up to rounding.

    Args:
        pending: The images, in order.
        batch_size: Images at once.
        processes: Number of processes.

    Returns:
        For each process its batches, which follow one another.
    """
    blocks = [list(block) for _, block in itertools.groupby(pending, key=lambda k: k // batch_size)]
    if len(blocks) >= processes:
        return [part(blocks, rank, processes) for rank in range(processes)]
    shares = [part(pending, rank, processes) for rank in range(processes)]
    return [[share[k : k + batch_size] for k in range(0, len(share), batch_size)] for share in shares]


def part(items: Sequence[T], rank: int, processes: int) -> list[T]:
    """Return the share of one of several processes: parts that follow one another and differ by one item at most."""
    return list(items[len(items) * rank // processes : len(items) * (rank + 1) // processes])


@dataclass(frozen=True)
class Sampled:
    """A batch that was sampled, before it is written.

    Attributes:
        pictures: The images, or videos.
        record: What is to be recorded of them.
    """

    pictures: Sequence[Picture]
    record: Record


def make_images(
    config: GenerateConfig,
    model: LoadedModel,
    run: RunResult,
    batches: Sequence[Sequence[int]],
    *,
    store: Store,
    ledger: Ledger,
    progress: Callable[[int], None],
) -> None:
    """Sample and write batches of a run, each with its record as soon as it is written.

    Args:
        config: The job, on this process's device.
        model: Its model.
        run: The run.
        batches: The images, batch by batch.
        store: Where the job lies.
        ledger: Where its records go.
        progress: Told how many images are done, after each batch.

    Raises:
        LMLError: If the memory does not suffice, or something cannot be written.
    """
    done = 0
    progress(done)
    for ids in batches:
        made = sample_batch(config, model, run, ids)
        files = zip(ids, made.pictures, strict=True)
        store.write_all({image_name(run.name, index): png_bytes(picture) for index, picture in files})
        ledger.add(made.record)
        done += len(ids)
        progress(done)


def sample_batch(config: GenerateConfig, model: LoadedModel, run: RunResult, ids: Sequence[int]) -> Sampled:
    """Sample one batch of a run.

    Raises:
        LMLError: If the memory does not suffice.
    """
    noise, generators = start_images([config.seed + index for index in ids], model.shape or (0,))
    hashes = None
    began = time.perf_counter()
    try:
        with CountCalls(*model.networks, batch=len(ids)) as count:
            if model.shape is None:
                model.pipeline.scheduler = run.scheduler
                arguments = batch_arguments(model.pipeline, config, ids)
                pictures, finite = from_arrays(sample_pipeline(model.pipeline, generators, arguments=arguments))
            else:
                samples = sample(
                    model.networks[0],
                    run.scheduler,
                    noise,
                    generators,
                    steps=cast(int, config.steps),
                    dtype=getattr(torch, config.dtype),
                    device=config.device,
                    langevin=config.langevin(),
                ).cpu()
                pictures = to_pictures(to_uint8(samples))
                finite = samples.flatten(1).isfinite().all(dim=1).tolist()
    except torch.OutOfMemoryError as error:
        raise LMLError(
            f"batch_size={config.batch_size} does not fit the memory of {config.device}; give less."
        ) from error
    seconds = time.perf_counter() - began
    if model.shape is not None:
        hashes = tuple(noise_hash(row) for row in noise)
    timesteps = tuple(float(t) for t in run.scheduler.timesteps)
    # What a pipeline evaluates beyond one call a step is guidance that it runs separately and not in one batch.
    separate = max(0, count.calls - evaluations(len(timesteps), config.langevin_steps))
    record = Record(
        run=run.name,
        ids=tuple(ids),
        mode=first_frame(pictures[0]).mode,
        size=first_frame(pictures[0]).size,
        noise_sha256=hashes,
        seconds=seconds,
        nfe=count.calls - separate,
        guidance_evaluations=count.doubled + separate,
        non_finite=tuple(index for index, good in zip(ids, finite, strict=True) if not good),
        timesteps=timesteps,
        corrections=_corrections(getattr(run.scheduler, "lml_history", [])),
    )
    return Sampled(pictures, record)


def _corrections(history: Sequence[Any]) -> tuple[tuple[float, ...], ...]:
    """Return the sums over a batch of what LML did: for each step the angle, the identity flag, and each gain."""
    return tuple(
        (info.angle.sum().item(), float(info.identity.sum().item()), *info.gain.sum(dim=0).tolist()) for info in history
    )

"""Tiny pipelines, loaded from disk as a user loads them, and how to run one."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from lmlangevin.schedulers import pipeline
from tiny_pipelines import KINDS, Kind


@pytest.fixture(scope="session", autouse=True)
def quiet() -> Iterator[None]:
    """No bars and remarks of diffusers and transformers: hundreds of pipelines are loaded and run."""
    import diffusers
    import transformers

    for library in (diffusers, transformers):
        library.utils.logging.set_verbosity_error()
        library.utils.logging.disable_progress_bar()
    yield
    for library in (diffusers, transformers):
        library.utils.logging.set_verbosity_warning()
        library.utils.logging.enable_progress_bar()


@pytest.fixture(autouse=True)
def unnoticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every test sees the notice as if it were the first."""
    monkeypatch.setattr(pipeline, "_noticed", False)


@pytest.fixture
def notices(caplog: pytest.LogCaptureFixture) -> Callable[[], list[str]]:
    """What this package has logged so far in a test."""
    caplog.set_level(logging.WARNING, logger="lmlangevin")
    return lambda: [record.getMessage() for record in caplog.records if record.name == "lmlangevin"]


@pytest.fixture(scope="session")
def loaded(tiny_pipeline: Callable[[str], Path]) -> Callable[..., Any]:
    """Pipelines by kind and dtype, each loaded once; every call gives it a fresh scheduler of its own.

    Further keywords go into the scheduler's configuration.
    """
    import diffusers

    kept: dict[tuple[str, str], tuple[Any, Any]] = {}

    def load(kind: str, dtype: str = "float32", **config: Any) -> Any:
        if (kind, dtype) not in kept:
            made: Any = diffusers.DiffusionPipeline.from_pretrained(tiny_pipeline(kind), dtype=getattr(torch, dtype))
            made.set_progress_bar_config(disable=True)
            kept[kind, dtype] = made, made.scheduler
        pipe, own = kept[kind, dtype]
        pipe.scheduler = type(own).from_config(own.config, **config)
        return pipe

    return load


def run_pipeline(pipe: Any, kind: Kind, *, steps: int = 3, seed: int = 5, **arguments: Any) -> torch.Tensor:
    """Call a pipeline, and return its latents, or its images where it has none to give.

    The global generator is seeded as well: some pipelines pass none to a sampler that draws noise.
    """
    torch.manual_seed(seed)
    given = {
        "num_inference_steps": steps,
        "generator": torch.Generator().manual_seed(seed),
        "output_type": kind.rawest,
        **arguments,
    }
    made = getattr(pipe(**kind.call(**given)), kind.output)
    return made if isinstance(made, torch.Tensor) else torch.from_numpy(np.asarray(made))


@pytest.fixture
def run() -> Callable[..., torch.Tensor]:
    """`run_pipeline`."""
    return run_pipeline


@pytest.fixture(params=list(KINDS))
def kind(request: pytest.FixtureRequest) -> str:
    """Every kind of pipeline."""
    return request.param

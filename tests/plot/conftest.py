"""Small real jobs: the analytic model, few images, two steps."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lmlangevin.generation import GenerateConfig, generate

MakeJob = Callable[..., Path]


@pytest.fixture(scope="session")
def make_job(tmp_path_factory: pytest.TempPathFactory) -> MakeJob:
    """Make a job's folder, the same one for the same settings; not to be changed."""
    root = tmp_path_factory.mktemp("jobs")

    def make(name: str, **settings: Any) -> Path:
        out = root / name
        if not out.exists():
            common = {"model": "analytic-cifar10", "scheduler": "ddim", "num_images": 4, "seed": 30, "steps": 3}
            generate(GenerateConfig(out=out, **{**common, **settings}))
        return out

    return make


@pytest.fixture(scope="session")
def compared(make_job: MakeJob) -> Path:
    """A comparison of 4 images, seeds 30 to 33."""
    return make_job("compared", compare=True, gain=0.7)

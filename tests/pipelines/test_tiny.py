"""The tiny pipelines: small, real, the same every time."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch

from _published_schedulers import SCHEDULER_CONFIGS
from tiny_pipelines import KINDS, build, main


def test_small_and_with_the_published_scheduler(kind: str, tiny_pipeline: Callable[[str], Path], loaded: Any) -> None:
    folder, entry = tiny_pipeline(kind), KINDS[kind]
    assert tiny_pipeline(kind) == folder  # saved once
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < 1_000_000
    assert not [path.name for path in files if path.suffix in (".bin", ".pt", ".ckpt", ".pkl")]
    pipe = loaded(kind)
    assert type(pipe) is getattr(diffusers, entry.pipeline) and isinstance(
        getattr(pipe, entry.denoiser), torch.nn.Module
    )
    published = dict(SCHEDULER_CONFIGS[entry.published])
    assert type(pipe.scheduler).__name__ == published.pop("_class_name")
    assert {key: pipe.scheduler.config[key] for key in published} == published


def test_the_same_weights_every_time_and_no_others(kind: str) -> None:
    torch.manual_seed(1)
    before = torch.random.get_rng_state()
    one = build(kind)
    assert torch.equal(torch.random.get_rng_state(), before)
    torch.manual_seed(2)
    two = build(kind)
    denoiser = KINDS[kind].denoiser
    weights = [dict(getattr(pipe, denoiser).named_parameters()) for pipe in (one, two)]
    assert all(torch.equal(value, weights[1][name]) for name, value in weights[0].items())


def test_an_unknown_kind() -> None:
    with pytest.raises(KeyError, match="sd99"):
        build("sd99")


def test_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def call(*arguments: str) -> None:
        monkeypatch.setattr(sys, "argv", ["tiny_pipelines.py", *arguments])
        main()

    call()
    listed = capsys.readouterr().out
    assert all(name in listed for name in KINDS)
    for wrong, words in ((["sd15"], "FOLDER is missing"), (["sd99", "x"], "invalid choice: 'sd99'")):
        with pytest.raises(SystemExit, match="2"):
            call(*wrong)
        assert words in capsys.readouterr().err
    call("ddpm", str(tmp_path / "ddpm"))
    assert capsys.readouterr().out.strip() == str(tmp_path / "ddpm")
    assert (tmp_path / "ddpm" / "model_index.json").exists()

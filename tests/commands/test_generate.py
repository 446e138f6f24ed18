from __future__ import annotations

import io
import json
import os
import signal
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import click
import pytest
from click.testing import CliRunner, Result

from lmlangevin import cli
from lmlangevin.commands.generate import Interrupted
from lmlangevin.commands.progress import progress_bars


def _invoke(out: object, *options: str) -> Result:
    small = ["--num-images", "3", "--batch-size", "2", "--gain", "0.5"]
    return CliRunner().invoke(cli.cli, ["generate", *small, *options, "--out", str(out)])


def test_resume_starts_goes_on_and_says_that_nothing_is_missing(tmp_path: Path) -> None:
    out = tmp_path / "job"
    first = _invoke(out, "--nfe", "2", "--resume")
    assert first.exit_code == 0, first.stderr
    assert "images: 3 images, 2 network evaluations each" in first.stdout
    assert "Resumed" not in first.stdout
    bare = _invoke(out, "--steps", "2")
    assert (bare.exit_code, bare.stdout) == (2, "")
    assert "already holds a job (complete); give --resume to go on with it, --overwrite to replace it" in bare.stderr
    other = _invoke(out, "--steps", "3", "--resume")
    assert (other.exit_code, other.stderr.count("\n")) == (2, 1)
    assert "steps (the folder has 2, asked was 3)" in other.stderr
    again = _invoke(out, "--steps", "2", "--resume")
    assert again.exit_code == 0
    assert "Nothing was missing: all 3 images are there and whole." in again.stdout
    (out / "images" / "000002.png").write_bytes(b"")
    mended = _invoke(out, "--steps", "2", "--resume")
    assert "Resumed: 2 of 3 images were finished." in mended.stdout
    assert json.loads((out / "manifest.json").read_text())["config"]["nfe"] == 2
    replaced = _invoke(out, "--steps", "1", "--overwrite")
    assert "images: 3 images, 1 network evaluations each" in replaced.stdout


def test_a_url_is_reported_without_its_password(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import fsspec

    result = _invoke(f"memory://me:secret@host{tmp_path}", "--steps", "1")
    fsspec.filesystem("memory").store.clear()
    assert result.exit_code == 0, result.stderr
    assert "Manifest: memory://***@host" in result.stdout
    assert "secret" not in result.stdout


def test_a_place_that_is_not_known_is_one_line() -> None:
    result = _invoke("nonsense://x")
    assert (result.exit_code, result.stdout, result.stderr.count("\n")) == (2, "", 1)
    assert "give a folder" in result.stderr


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_signals_end_a_job_in_one_line_and_are_given_back(
    number: signal.Signals, code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = signal.getsignal(number)

    def send(*args: object, **kwargs: object) -> None:
        os.kill(os.getpid(), number)

    monkeypatch.setattr("lmlangevin.generation.generate", send)
    result = _invoke(tmp_path / "out")
    assert (result.exit_code, result.stdout) == (code, "")
    assert result.stderr == "lml: interrupted; what was finished is kept: give --resume to go on.\n"
    assert signal.getsignal(number) == before


@pytest.mark.parametrize("rank", ["0", "2"])
def test_the_first_process_alone_tells_what_happened_to_all(
    rank: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from lmlangevin.core import LMLError
    from lmlangevin.generation.processes import AgreedError

    monkeypatch.setenv("RANK", rank)
    raised: list[BaseException] = [KeyboardInterrupt(), AgreedError("told once"), LMLError("its own")]

    def fail(*args: object, **kwargs: object) -> None:
        raise raised.pop(0)

    monkeypatch.setattr("lmlangevin.generation.generate", fail)
    interrupted, agreed, own = (_invoke(tmp_path / "out") for _ in range(3))
    assert [r.exit_code for r in (interrupted, agreed, own)] == [130, 2, 2]
    assert own.stderr == "lml: its own\n"
    if rank == "0":
        assert "interrupted" in interrupted.stderr
        assert agreed.stderr == "lml: told once\n"
    else:
        assert interrupted.stderr == agreed.stderr == ""


def test_an_interrupt_is_one_that_click_knows() -> None:
    assert isinstance(Interrupted(130), click.exceptions.Abort)


class _Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_the_bar_shows_the_speed_of_this_attempt(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([100.0, 104.0, 110.0])
    monkeypatch.setattr("lmlangevin.commands.progress.time", SimpleNamespace(monotonic=lambda: next(clock)))
    monkeypatch.setattr(sys, "stderr", shown := _Terminal())
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "120")
    with progress_bars("(process 1 of 3)", "images") as progress:
        assert progress is not None
        progress("images", 600, 1000)
        progress("images", 640, 1000)
        progress("images", 725, 1000)
    text = shown.getvalue()
    assert "images (process 1 of 3)" in text
    assert "725/1000" in text
    assert "12.5 images/s" in text


def test_no_bar_where_nobody_looks_and_no_speed_without_a_unit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    with progress_bars() as progress:
        assert progress is None
    monkeypatch.setattr(sys, "stderr", shown := _Terminal())
    monkeypatch.setenv("TERM", "xterm")
    with progress_bars() as progress:
        assert progress is not None
        for done in (0, 3, 5):
            progress("cells", done, 5)
    assert "cells" in shown.getvalue()
    assert "/s" not in shown.getvalue()


def test_a_bar_belongs_to_the_first_process(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from lmlangevin.generation import processes

    told: list[Any] = []

    def stop(config: object, progress: object) -> None:
        told.append(progress)
        raise SystemExit(0)

    class Two(processes.Processes):
        def together(self, function: Any) -> Any:
            return function()

    monkeypatch.setattr(sys, "stderr", _Terminal())
    monkeypatch.setattr("lmlangevin.generation.generate", stop)
    for rank in (0, 1):
        monkeypatch.setattr(processes, "join_processes", lambda rank=rank: Two(rank, 2, rank))
        with pytest.raises(SystemExit):
            cli.cli.commands["generate"].main(["--out", str(tmp_path / "x")], standalone_mode=False)
    assert [progress is None for progress in told] == [False, True]

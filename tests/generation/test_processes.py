"""Several processes: real ones, under the real launcher, on the CPU."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from PIL import Image

from lmlangevin.core import LMLError
from lmlangevin.generation import GenerateConfig, distance, generate
from lmlangevin.generation.processes import AgreedError, Processes, join_processes, launched_alone

LIMIT = 150
DRIVER = """
from lmlangevin.cli import main
from lmlangevin.generation import distance

distance.SMALLEST_COUNT = 24
distance.REFERENCE_SAMPLES = 600
main()
"""
"""The command, content with fewer images for a distance."""

SEVERAL = """
import json, sys
from lmlangevin.cli import main

codes = []
for options in json.loads(sys.argv[1]):
    sys.argv = ["lml", "generate", *options]
    try:
        main()
    except SystemExit as end:
        codes.append(end.code)
sys.stdout.write(f"{codes}\\n")
"""
"""The command, several times in one process, for their exit codes."""


def _command(out: Path, *options: str, count: int = 24) -> list[str]:
    plain = ["generate", "--num-images", str(count), "--batch-size", "2", "--steps", "2", "--gain", "0.5"]
    return [*plain, "--out", str(out), *options]


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _environment(**further: str) -> dict[str, str]:
    return os.environ | {"OMP_NUM_THREADS": "1"} | further


def _launch(processes: int, what: list[str]) -> subprocess.Popen[str]:
    """Start `accelerate launch`, which runs several processes on the CPU only where it is told of GPUs."""
    launcher = [str(Path(sys.executable).with_name("accelerate")), "launch", "--multi_gpu", "--num_machines", "1"]
    launcher += ["--num_processes", str(processes), "--main_process_port", str(_free_port())]
    launcher += ["--mixed_precision", "no", "--dynamo_backend", "no"]
    return subprocess.Popen(
        [*launcher, *what], env=_environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def _side_by_side(count: int, what: list[str]) -> list[subprocess.Popen[str]]:
    """Start processes as a launcher does, with nobody who ends the others when one dies."""
    port = str(_free_port())
    started = []
    for rank in range(count):
        names = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": count, "LOCAL_WORLD_SIZE": count}
        environment = _environment(MASTER_ADDR="127.0.0.1", MASTER_PORT=port, **{k: str(v) for k, v in names.items()})
        started.append(
            subprocess.Popen(
                [sys.executable, *what], env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
            )
        )
    return started


@pytest.fixture
def running() -> Iterator[list[subprocess.Popen[str]]]:
    """Processes that must not outlive their test."""
    started: list[subprocess.Popen[str]] = []
    yield started
    for process in started:
        if process.poll() is None:
            for child in psutil.Process(process.pid).children(recursive=True):
                child.kill()
            process.kill()
        if process.stdout is not None and not process.stdout.closed:
            process.communicate(timeout=30)


def _wait_for_records(out: Path, count: int, *processes: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + LIMIT
    while len(list(out.glob("records/*.json"))) < count:
        assert time.monotonic() < deadline
        assert all(process.poll() is None for process in processes)
        time.sleep(0.002)


def _manifest(out: Path) -> dict[str, Any]:
    return json.loads((out / "manifest.json").read_text())


def _pixels(folder: Path) -> np.ndarray:
    rows = []
    for path in sorted(folder.glob("*.png")):
        with Image.open(path) as picture:
            rows.append(np.asarray(picture).astype(int))
    return np.stack(rows)


def _assert_same_job(out: Path, other: Path) -> None:
    first, second = _manifest(out), _manifest(other)
    assert first["status"] == second["status"] == "complete"
    assert first["images"] == second["images"]
    assert all(len(image["noise_sha256"]) == 64 for image in first["images"])
    assert first["runs"].keys() == second["runs"].keys()
    for name, run in first["runs"].items():
        right = second["runs"][name]
        assert np.abs(_pixels(out / name) - _pixels(other / name)).max() <= 1
        for key in ("nfe", "timesteps", "scheduler_config", "non_finite_images"):
            assert run[key] == right[key]
        for row, expected in zip(run["corrections"], right["corrections"], strict=True):
            assert row["angle"] == pytest.approx(expected["angle"], rel=1e-5)
            assert row["gain"] == pytest.approx(expected["gain"], rel=1e-5)
        assert (run["frechet_distance"] is None) == (right["frechet_distance"] is None)
        if run["frechet_distance"] is not None:
            assert run["frechet_distance"] == pytest.approx(right["frechet_distance"], rel=1e-4)
    assert sorted(p.name for p in out.rglob("*")) == sorted(p.name for p in other.rglob("*"))


# Fewer images than features, which the distance of so small a job warns of.
@pytest.mark.filterwarnings("ignore:.*singular covariance:UserWarning")
def test_one_of_three_is_killed_and_two_or_one_finish_the_job(
    tmp_path: Path, running: list[subprocess.Popen[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(distance, "SMALLEST_COUNT", 24)
    monkeypatch.setattr(distance, "REFERENCE_SAMPLES", 600)
    settings: dict[str, Any] = {"num_images": 24, "batch_size": 2, "steps": 2, "gain": 0.5, "compare": True}
    settings["model"] = "analytic-cifar10"
    generate(GenerateConfig(out=tmp_path / "whole", **settings))
    driver = tmp_path / "driver.py"
    driver.write_text(DRIVER)
    out = tmp_path / "job"
    command = [str(driver), *_command(out, "--compare", "--resume", "--model", "analytic-cifar10")]

    running.append(three := _launch(3, command))
    _wait_for_records(out, 3, three)
    workers = [p for p in psutil.Process(three.pid).children() if "generate" in " ".join(p.cmdline())]
    assert len(workers) == 3
    next(p for p in workers if p.environ()["RANK"] == "1").kill()
    three.communicate(timeout=LIMIT)
    assert three.returncode != 0
    psutil.wait_procs(workers, timeout=60)
    assert _manifest(out)["status"] == "running"
    made = len(list(out.glob("records/*.json")))
    assert 3 <= made < 24

    alone = tmp_path / "alone"
    shutil.copytree(out, alone)
    result = generate(GenerateConfig(out=alone, resume=True, **settings))
    assert f"Resumed: {2 * made} of 48 images were finished." in result.notes
    _assert_same_job(alone, tmp_path / "whole")

    running.append(two := _launch(2, command))
    said, error = two.communicate(timeout=LIMIT)
    assert two.returncode == 0, error
    assert said.count("Manifest:") == 1
    assert f"Resumed: {2 * made} of 48 images were finished." in said
    assert "images/s a process" in said
    _assert_same_job(out, tmp_path / "whole")
    assert [attempt["processes"] for attempt in _manifest(out)["attempts"]] == [3, 2]


def test_three_processes_make_the_images_of_one(tmp_path: Path, running: list[subprocess.Popen[str]]) -> None:
    generate(GenerateConfig(out=tmp_path / "whole", num_images=10, batch_size=2, steps=2, gain=0.5))
    running.append(three := _launch(3, ["-m", "lmlangevin", *_command(tmp_path / "job", count=10)]))
    said, error = three.communicate(timeout=LIMIT)
    assert three.returncode == 0, error
    assert error == ""
    assert said.count("images: 10 images") == 1
    _assert_same_job(tmp_path / "job", tmp_path / "whole")
    assert np.array_equal(_pixels(tmp_path / "job" / "images"), _pixels(tmp_path / "whole" / "images"))


def test_who_loses_the_others_finishes_its_share_and_says_how_to_go_on(
    tmp_path: Path, running: list[subprocess.Popen[str]]
) -> None:
    out = tmp_path / "job"
    running += _side_by_side(2, ["-m", "lmlangevin", *_command(out, count=40)])
    _wait_for_records(out, 2, *running)
    running[1].kill()
    said, error = running[0].communicate(timeout=LIMIT)
    assert (running[0].returncode, said) == (2, "")
    assert error.splitlines()[-1].startswith("lml: process 1 of 2 lost the others")
    assert error.strip().endswith("run it again with --resume.")
    assert "Traceback" not in error
    assert len(list(out.glob("images/*.png"))) >= 20


def test_a_mistake_is_told_once_and_ends_all(tmp_path: Path, running: list[subprocess.Popen[str]]) -> None:
    generate(GenerateConfig(out=tmp_path / "job", num_images=1, steps=1))
    driver = tmp_path / "driver.py"
    driver.write_text(SEVERAL)
    mistakes = {
        "settings": ["--out", str(tmp_path / "new"), "--kappa", "3"],
        "a job is there": ["--out", str(tmp_path / "job")],
        "no shared place": ["--out", "memory://nowhere"],
    }
    running += _side_by_side(2, [str(driver), json.dumps(list(mistakes.values()))])
    (said, error), other = (process.communicate(timeout=LIMIT) for process in running)
    assert [process.returncode for process in running] == [0, 0], error
    assert other == ("[2, 2, 2]\n", "")
    assert said == "[2, 2, 2]\n"
    settings, there, place = error.splitlines()
    assert "kappa=3.0" in settings
    assert "give --resume to go on with it, --overwrite to replace it" in there
    assert place.startswith("lml: process 2 of 2: out='memory://nowhere' is not one place for all processes")
    assert not (tmp_path / "new").exists()


def test_alone_nothing_is_connected(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("WORLD_SIZE", "PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setitem(sys.modules, "accelerate", None)
    for size in (None, "1", "", "many"):
        if size is not None:
            monkeypatch.setenv("WORLD_SIZE", size)
        assert join_processes() == Processes(0, 1, 0)
    alone = Processes()
    assert alone.first
    assert alone.device("cuda") == "cuda"
    assert alone.together(lambda: 3) == alone.by_first(lambda: 3) == 3
    alone.wait()
    with pytest.raises(LMLError) as caught:
        alone.together(lambda: GenerateConfig(out="x", steps=0))
    assert not isinstance(caught.value, AgreedError)
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ImportError):
        join_processes()


def test_each_process_has_a_gpu_of_its_own() -> None:
    second = Processes(rank=5, count=8, local_rank=1)
    assert [second.device(name) for name in ("cuda", "cuda:0", "cpu")] == ["cuda:1", "cuda:0", "cpu"]
    assert second.title == "process 6 of 8"
    assert not second.first


def test_a_launcher_that_started_one_process_is_told_of(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    assert not launched_alone()
    monkeypatch.setenv("ACCELERATE_USE_CPU", "True")
    assert not launched_alone()
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    result = generate(GenerateConfig(out=tmp_path / "a", num_images=1, steps=1, gain=0.5))
    assert any("--multi_gpu" in note for note in result.notes)
    assert "--multi_gpu" not in (tmp_path / "a" / "manifest.json").read_text()

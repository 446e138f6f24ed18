"""`lml calibrate`: the whole job, its plan, its words, and a real process killed and resumed."""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner

from lmlangevin.calibration import CalibrateConfig, Calibration, CalibrationFile, calibrate
from lmlangevin.cli import cli
from lmlangevin.core import LMLError
from lmlangevin.scenes import DEMO_PROMPTS

SMALL = {"model": "analytic-cifar10", "steps": 4, "num_seeds": 8, "iterations": 3, "teacher_steps": 20, "batch_size": 4}


def options(out: Path, **changes: Any) -> list[str]:
    given = {**SMALL, "out": out, **changes}
    return [
        word
        for key, value in given.items()
        for word in ([f"--{key.replace('_', '-')}"] + ([] if value is True else [str(value)]))
    ]


def run(*words: str) -> Any:
    return CliRunner().invoke(cli, list(words), standalone_mode=True)


def test_a_calibration_is_made_and_used(tmp_path: Path) -> None:
    out = tmp_path / "gains.json"
    shown = run("calibrate", *options(out))
    assert shown.exit_code == 0, shown.output
    assert "At most" in shown.output
    assert "held-out seeds" in shown.output
    file = CalibrationFile.load(out)
    assert file.schedule.steps == 4
    assert file.fit["fit_error"]["after"] < file.fit["fit_error"]["before"]
    assert file.fit["evaluations"] <= file.fit["evaluations_planned"]
    assert sorted(tmp_path.iterdir()) == [out]
    made = run(
        "generate",
        "--model",
        "analytic-cifar10",
        "--steps",
        "4",
        "--control",
        "calibrated",
        "--calibration",
        str(out),
        "--num-images",
        "2",
        "--out",
        str(tmp_path / "images"),
    )
    assert made.exit_code == 0, made.output
    manifest = json.loads((tmp_path / "images" / "manifest.json").read_text())
    config = manifest["runs"]["images"]["scheduler_config"]
    assert config["calibrated_steps"]["sigmas"] == list(file.schedule.levels)
    assert manifest["runs"]["images"]["nfe"] == 4
    again = run("calibrate", *options(out))
    assert again.exit_code == 2
    assert "is there already" in again.output


@pytest.mark.parametrize(("scheduler", "grid"), [("dpmpp-2m", ["--sigmas", "karras"]), ("euler", [])], ids=str)
def test_the_command_that_is_printed_works(tmp_path: Path, scheduler: str, grid: list[str]) -> None:
    out = tmp_path / "my gains.json"
    shown = run("calibrate", *options(out, iterations=1, scheduler=scheduler), *grid)
    [line] = [line for line in shown.output.splitlines() if line.startswith("Use it: lml ")]
    words = shlex.split(line.removeprefix("Use it: lml "))
    made = run(*words[:-1], str(tmp_path / "images"), "--num-images", "1")
    assert made.exit_code == 0, made.output
    settings = CalibrationFile.load(out).fingerprint["scheduler_config"]
    used = json.loads((tmp_path / "images" / "manifest.json").read_text())["runs"]["images"]["scheduler_config"]
    assert settings.get("use_karras_sigmas", False) == used.get("use_karras_sigmas", False) == bool(grid)


@pytest.mark.parametrize(("scheduler", "grid"), [("dpmpp-2m", "lu"), ("ddim", "trailing"), ("pndm", None)])
def test_other_samplers_get_gains_on_their_grid(tmp_path: Path, scheduler: str, grid: str | None) -> None:
    grids = {"lu": {"sigmas": "lu"}, "trailing": {"timestep_spacing": "trailing"}, None: {}}[grid]
    config = CalibrateConfig(**{**SMALL, "steps": 5}, out=tmp_path / "g.json", scheduler=scheduler, **grids)
    result = calibrate(config)
    assert result.file.schedule.sigmas is None
    assert result.fit.history[-1].fit_error < result.fit.history[0].fit_error
    words = [w for key, value in grids.items() for w in (f"--{key.replace('_', '-')}", value)]
    made = run(
        "generate",
        "--model",
        "analytic-cifar10",
        "--steps",
        "5",
        "--control",
        "calibrated",
        *words,
        "--calibration",
        str(tmp_path / "g.json"),
        "--num-images",
        "2",
        "--out",
        str(tmp_path / "i"),
    )
    # PNDM takes five steps with six evaluations.
    assert (made.exit_code == 0) or scheduler == "pndm", made.output
    if scheduler == "dpmpp-2m":
        other = run(
            "generate",
            "--model",
            "analytic-cifar10",
            "--steps",
            "5",
            "--control",
            "calibrated",
            "--calibration",
            str(tmp_path / "g.json"),
            "--num-images",
            "2",
            "--out",
            str(tmp_path / "j"),
        )
        assert other.exit_code == 2
        assert "scheduler_config.use_lu_lambdas was true and is false" in other.output


def test_a_flow_is_calibrated(tmp_path: Path) -> None:
    result = calibrate(CalibrateConfig(**SMALL, out=tmp_path / "g.json", scheduler="flow-euler"))
    assert result.file.fingerprint["flow"]
    assert result.file.schedule.levels[0] == 1.0
    assert result.fit.history[-1].fit_error < result.fit.history[0].fit_error


def test_a_text_pipeline_is_calibrated_with_its_prompts(text_pipeline: Path, tmp_path: Path) -> None:
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("a fox\n\n two owls \n")
    common: dict[str, Any] = {
        "model": str(text_pipeline),
        "steps": 3,
        "num_seeds": 4,
        "iterations": 2,
        "teacher_steps": 12,
        "batch_size": 4,
        "prompt_file": prompts,
    }
    result = calibrate(CalibrateConfig(**common, out=tmp_path / "g.json", guidance_scale=3.0))
    assert result.file.fit["num_prompts"] == 2
    assert result.file.fingerprint["guidance_scale"] == 3.0
    assert result.fit.history[-1].fit_error < result.fit.history[0].fit_error
    assert "fox" not in (tmp_path / "g.json").read_text()
    words = ("generate", "--model", str(text_pipeline), "--steps", "3", "--control", "calibrated", "--calibration",
             str(tmp_path / "g.json"), "--prompt", "a fox", "--num-images", "1")  # fmt: skip
    made = run(*words, "--guidance-scale", "3.0", "--out", str(tmp_path / "i"))
    assert made.exit_code == 0, made.output
    other = run(*words, "--guidance-scale", "5.0", "--out", str(tmp_path / "j"))
    assert other.exit_code == 2
    assert "guidance_scale was 3.0 and is 5.0" in other.output


def test_scenes_are_calibrated_with_their_examples_or_a_prompt(tmp_path: Path) -> None:
    out = tmp_path / "g.json"
    tiny = "--model scenes --guidance-scale 3 --steps 2 --rank 1 --num-seeds 4 --iterations 1 --teacher-steps 4".split()
    made = run("calibrate", *tiny, "--out", str(out))
    assert made.exit_code == 0, made.output
    file = CalibrationFile.load(out)
    assert (file.fit["num_prompts"], file.fit["model"]) == (len(DEMO_PROMPTS), "scenes")
    assert (file.fingerprint["guidance_scale"], file.fingerprint["steps"]) == (3.0, 2)
    use = shlex.split(made.output.partition("Use it: lml ")[2].replace("--out DIR", ""))
    used = run(*use, "--num-images", "1", "--out", str(tmp_path / "i"))
    assert used.exit_code == 0, used.output
    other = run(*use, "--guidance-scale", "5", "--num-images", "1", "--out", str(tmp_path / "j"))
    assert (other.exit_code, "guidance_scale was 3.0 and is 5.0" in other.output) == (2, True)
    told = run("calibrate", *tiny, "--prompt", "a red fox", "--estimate", "--out", str(tmp_path / "h.json"))
    assert told.exit_code == 0, told.output
    assert "never saw the word fox." in told.output
    config = CalibrateConfig(out=tmp_path / "h.json", model="scenes", prompt="a red circle")
    assert config.prompts() == [config.generation().prompt] == ["a red circle"]


def test_the_estimate_is_what_the_run_keeps_to(tmp_path: Path) -> None:
    job = Calibration(CalibrateConfig(**SMALL, out=tmp_path / "g.json"))
    seen: list[tuple[str, int, int]] = []
    result = job.run(lambda *a: seen.append(a))
    assert job.effort.teacher == 20 * 8
    assert max(done for name, done, _ in seen if name == "teacher") == job.effort.teacher
    assert result.fit.evaluations <= job.effort.fit == result.fit.planned
    shown = run("calibrate", *options(tmp_path / "h.json", estimate=True))
    assert f"{job.effort.total:,}" in shown.output
    assert not (tmp_path / "h.json").exists()


def test_several_starts_are_fitted_and_the_best_is_kept(tmp_path: Path) -> None:
    job = Calibration(CalibrateConfig(**SMALL, out=tmp_path / "three.json", starts=3))
    names: set[str] = set()
    result = job.run(lambda name, done, total: names.add(name))
    assert names == {"teacher", "fit 1", "fit 2", "fit 3"}
    assert result.fit.evaluations <= result.fit.planned == job.effort.fit
    alone = calibrate(CalibrateConfig(**SMALL, out=tmp_path / "one.json"))
    assert result.fit.evaluations > 2 * alone.fit.evaluations
    if alone.fit.initial.levels[-2] > 0.02:  # one of the three
        assert result.file.fit["heldout_error"]["after"] <= alone.file.fit["heldout_error"]["after"]


def test_a_warm_start_is_where_the_fit_begins(tmp_path: Path) -> None:
    first = calibrate(CalibrateConfig(**{**SMALL, "steps": 5}, out=tmp_path / "five.json"))
    warm = calibrate(CalibrateConfig(**SMALL, out=tmp_path / "four.json", warm_start=tmp_path / "five.json"))
    cold = calibrate(CalibrateConfig(**SMALL, out=tmp_path / "cold.json"))
    assert warm.fit.history[0].fit_error < cold.fit.history[0].fit_error
    assert first.file.schedule.steps == 5


def test_a_killed_calibration_goes_on(tmp_path: Path) -> None:
    out = tmp_path / "gains.json"
    words = [sys.executable, "-m", "lmlangevin", "calibrate", *options(out, iterations=12, num_seeds=24)]
    env = os.environ | {"OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(words, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    work, deadline = tmp_path / "gains.json.work", time.monotonic() + 120
    while not (work / "fit-0.json").exists() and time.monotonic() < deadline and process.poll() is None:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert not out.exists()
    history = json.loads((work / "fit-0.json").read_text())["history"]

    refused = run("calibrate", *options(out, iterations=12, num_seeds=24))
    assert refused.exit_code == 2
    assert "give --resume" in refused.output
    other = run("calibrate", *options(out, iterations=7, num_seeds=24, resume=True))
    assert other.exit_code == 2
    assert "iterations is 7, was 12" in other.output
    shown = run("calibrate", *options(out, iterations=12, num_seeds=24, resume=True))
    assert shown.exit_code == 0, shown.output
    assert not work.exists()

    whole = tmp_path / "whole.json"
    assert run("calibrate", *options(whole, iterations=12, num_seeds=24)).exit_code == 0
    resumed, at_once = (json.loads(path.read_text()) for path in (out, whole))
    assert resumed["schedule"] == at_once["schedule"]
    assert len(history) >= 2


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"out": "gains.txt"}, "out='gains.txt' is no JSON file"),
        ({"steps": 1}, "steps=1 is out of range"),
        ({"rank": 0}, "rank=0"),
        ({"starts": 6}, "starts=6"),
        ({"num_seeds": 3}, "num_seeds=3"),
        ({"teacher_steps": 7}, "teacher_steps=7 is out of range; give a whole number from 8"),
        ({"sigmas": "karras"}, "sigmas='karras' has no meaning"),
        ({"scheduler": "heun"}, "evaluates the network twice"),
        ({"scheduler": "flow-euler", "model": "embedded"}, "flow"),
        ({"prompt": "a fox", "prompt_file": "nowhere.txt"}, "prompt='a fox' and prompt_file='nowhere.txt' exclude"),
        ({"prompt": "a fox"}, "prompt='a fox' does not fit model='analytic-cifar10', which is unconditional"),
        ({"prompt_file": "nowhere.txt"}, "prompt_file='nowhere.txt' cannot be read"),
        ({"guidance_scale": 3.0}, "unconditional"),
        ({"device": "cuda"}, "device='cuda'"),
        ({"overwrite": True, "resume": True}, "exclude each other"),
    ],
)
def test_bad_input_is_refused_before_any_work(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    given = {**SMALL, "out": tmp_path / "g.json", **change}
    if torch.cuda.is_available() and "device" in change:
        pytest.skip("there is a CUDA device")
    with pytest.raises(LMLError, match=message):
        CalibrateConfig(**given)
    assert not list(tmp_path.iterdir())

"""Mistakes that people make with real models: each ends with one line and exit code 2, and leaves nothing half done.

The folder that a command was to write is not there, or holds a job that says that it is not complete.
"""

from __future__ import annotations

import errno
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result
from PIL import Image

from lmlangevin.cli import cli

GUIDED = ("--prompt", "a fox", "--guidance-scale", "4", "--steps", "3", "--num-images", "4", "--batch-size", "2")


def run(*words: object) -> Result:
    return CliRunner().invoke(cli, [str(word) for word in words])


def refused(result: Result, *words: str) -> None:
    assert result.exit_code == 2, (result.output, result.exception)
    assert result.stdout == "" and result.stderr.count("\n") == 1 and result.stderr.startswith("lml: ")
    assert all(word in result.stderr for word in words), result.stderr


def unfinished(out: Path) -> bool:
    manifest = out / "manifest.json"
    return not out.exists() or json.loads(manifest.read_text())["status"] == "running"


@pytest.fixture
def sd(tiny_pipeline: Any) -> Path:
    return tiny_pipeline("sd15")


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    path = tmp_path / "picture.png"
    Image.fromarray(np.random.default_rng(1).integers(0, 255, (64, 64, 3), dtype=np.uint8)).save(path)
    return path


Mistake = Callable[[Path, Path, Path], tuple[list[object], tuple[str, ...]]]
MISTAKES: dict[str, Mistake] = {}


def mistake(function: Mistake) -> Mistake:
    MISTAKES[function.__name__] = function
    return function


@mistake
def a_component_is_missing(sd: Path, picture: Path, tmp: Path) -> tuple[list[object], tuple[str, ...]]:
    shutil.copytree(sd, tmp / "model")
    shutil.rmtree(tmp / "model" / "vae")
    return ["--model", tmp / "model", *GUIDED], ("model=", "lacks vae", "copy the whole folder")


@mistake
def weights_are_cut_short(sd: Path, picture: Path, tmp: Path) -> tuple[list[object], tuple[str, ...]]:
    shutil.copytree(sd, tmp / "model")
    weights = tmp / "model" / "unet" / "diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    return ["--model", tmp / "model", *GUIDED], ("model=", "cannot be loaded")


@mistake
def the_resolution_fits_no_model(sd: Path, picture: Path, tmp: Path) -> tuple[list[object], tuple[str, ...]]:
    return ["--model", sd, *GUIDED, "--height", 100, "--width", 64], ("height=100", "multiple of 8")


@mistake
def the_prompt_is_a_path(sd: Path, picture: Path, tmp: Path) -> tuple[list[object], tuple[str, ...]]:
    return ["--model", sd, "--prompt", picture], ("prompt=", "is the name of a file", "--prompt-file")


@mistake
def the_prompt_is_missing(sd: Path, picture: Path, tmp: Path) -> tuple[list[object], tuple[str, ...]]:
    return ["--model", sd], ("needs prompt", "give --prompt")


@mistake
def the_captions_have_no_text(sd: Path, picture: Path, tmp: Path) -> tuple[list[object], tuple[str, ...]]:
    (tmp / "captions.csv").write_text("image_id,words\n1,a fox\n")
    return ["--model", sd, "--prompt-file", tmp / "captions.csv"], ("entry 1 has no text or caption or prompt",)


@mistake
def the_control_image_cannot_be_read(sd: Path, picture: Path, tmp: Path) -> tuple[list[object], tuple[str, ...]]:
    picture.write_bytes(picture.read_bytes()[:200])
    controlnet = sd.parent / "sd15-canny" / "controlnet"
    words = ("control_image=", "cannot be read as a picture", "give another file")
    return ["--model", sd, *GUIDED, "--controlnet", controlnet, "--control-image", picture], words


@mistake
def the_controlnet_has_nothing_to_follow(sd: Path, picture: Path, tmp: Path) -> tuple[list[object], tuple[str, ...]]:
    return ["--model", sd, *GUIDED, "--controlnet", "owner/name"], ("controlnet='owner/name'", "--control-image")


@mistake
def the_scheduler_is_not_supported(sd: Path, picture: Path, tmp: Path) -> tuple[list[object], tuple[str, ...]]:
    return ["--model", sd, *GUIDED, "--scheduler", "heun"], ("scheduler='heun'", "twice an interval", "dpmpp-2m")


@mistake
def the_scheduler_is_of_another_kind(sd: Path, picture: Path, tmp: Path) -> tuple[list[object], tuple[str, ...]]:
    return ["--model", sd, *GUIDED, "--scheduler", "flow-euler"], ("predicts noise", "give --scheduler ddim")


@mistake
def the_calibration_is_of_another_model(sd: Path, picture: Path, tmp: Path) -> tuple[list[object], tuple[str, ...]]:
    words = ("--prompt", "a fox", "--steps", 8, "--control", "calibrated", "--calibration", "embedded-8")
    return ["--model", sd, *words], ("calibrat", "model_config_hash")


@mistake
def the_lora_is_none(sd: Path, picture: Path, tmp: Path) -> tuple[list[object], tuple[str, ...]]:
    shutil.copy(sd / "vae" / "diffusion_pytorch_model.safetensors", tmp / "lora.safetensors")
    return ["--model", sd, *GUIDED, "--lora", tmp / "lora.safetensors"], ("lora=", "cannot be loaded", "give what")


@mistake
def an_argument_is_not_the_pipelines(sd: Path, picture: Path, tmp: Path) -> tuple[list[object], tuple[str, ...]]:
    return ["--model", sd, *GUIDED, "--argument", "style=oil"], ("style='oil'", "takes none; leave it out")


@mistake
def memory_is_saved_where_there_is_no_gpu(sd: Path, picture: Path, tmp: Path) -> tuple[list[object], tuple[str, ...]]:
    return ["--model", sd, *GUIDED, "--enable-model-cpu-offload"], ("model-cpu-offload", "give --device cuda")


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_one_line_and_leaves_nothing(
    name: str, sd: Path, tiny_pipeline: Any, picture: Path, tmp_path: Path
) -> None:
    tiny_pipeline("sd15-canny")
    words, told = MISTAKES[name](sd, picture, tmp_path)
    before = sorted(tmp_path.rglob("*"))
    refused(run("generate", *words, "--out", tmp_path / "out"), *told)
    assert sorted(tmp_path.rglob("*")) == before


def test_a_full_disk_leaves_a_job_that_goes_on(sd: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from lmlangevin.generation import store

    real, written = store.os.replace, []

    def full(source: Any, target: Any) -> None:
        if str(target).endswith("000002.png"):
            raise OSError(errno.ENOSPC, "No space left on device")
        written.append(target)
        real(source, target)

    out = tmp_path / "out"
    with monkeypatch.context() as patch:
        patch.setattr(store.os, "replace", full)
        refused(run("generate", "--model", sd, *GUIDED, "--out", out), "No space left on device", "out=")
    assert unfinished(out) and written
    assert sorted(path.name for path in (out / "images").iterdir()) == ["000000.png", "000001.png"]
    again = run("generate", "--model", sd, *GUIDED, "--out", out, "--resume")
    assert again.exit_code == 0 and "Resumed: 2 of 4 images were finished." in again.stdout
    assert not unfinished(out)


def test_protocols_are_not_mixed(tmp_path: Path) -> None:
    images = tmp_path / "images"
    images.mkdir()
    rng = np.random.default_rng(2)
    for index in range(4):
        Image.fromarray(rng.integers(0, 255, (32, 32, 3), dtype=np.uint8)).save(images / f"{index}.png")
    made = run("fid", images, "default", "--save-statistics", tmp_path / "own.npz")
    assert made.exit_code == 0, made.stderr
    result = run("fid", images, tmp_path / "own.npz", "--protocol", "tf-fid", "--out", tmp_path / "result.json")
    refused(result, "embedded-cifar10", "tf-fid")
    assert not (tmp_path / "result.json").exists()

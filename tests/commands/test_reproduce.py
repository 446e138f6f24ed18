"""`lml reproduce` as a user runs it."""

from __future__ import annotations

import json
import shlex
from collections import namedtuple
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from lmlangevin import cli
from lmlangevin.reproduce.preset import load_preset, preset_names


def invoke(*args: object) -> Result:
    return CliRunner().invoke(cli.cli, ["reproduce", *map(str, args)])


@pytest.fixture(autouse=True)
def no_weights_and_a_large_disk(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr("shutil.disk_usage", lambda place: usage(0, 0, 10**15))
    monkeypatch.setattr("torch.hub.get_dir", lambda: str(tmp_path / "no-cache"))


def test_without_a_name_it_lists_the_presets() -> None:
    shown = invoke()
    assert shown.exit_code == 0
    for name in preset_names():
        preset = load_preset(name)
        assert name in shown.output and preset.title in shown.output and preset.published in shown.output


def test_a_check_of_what_is_there_ends_with_0(tmp_path: Path) -> None:
    shown = invoke("cifar10", "--model", "embedded", "--check", "--out", tmp_path / "out")
    assert shown.exit_code == 0 and "✗" not in shown.output
    assert "✓ model: embedded" in shown.output and "✓ measure: protocol embedded-cifar10" in shown.output
    assert "three arms: ddim, dpm-3; plain: pndm, dpmpp-3m, unipc, deis" in shown.output
    for words in load_preset("cifar10").for_model("embedded").assumed:
        assert f"Assumed: {words}" in shown.output
    assert list(tmp_path.iterdir()) == []


def test_a_check_of_what_is_missing_ends_with_2_and_says_how_to_get_it(tmp_path: Path) -> None:
    shown = invoke("celeba-hq", "--check", "--out", tmp_path / "out")
    assert shown.exit_code == 2 and shown.output.count("✗") == 3
    for words in ("hf download CompVis/ldm-celebahq-256", "--data-dir FOLDER", "--inception-weights FILE"):
        assert words in shown.output
    assert list(tmp_path.iterdir()) == []


def test_a_run_without_its_needs_is_refused_in_one_line_that_names_them_all(tmp_path: Path) -> None:
    shown = invoke("coco-sd15", "--out", tmp_path / "out")
    assert (shown.exit_code, shown.stdout, shown.stderr.count("\n")) == (2, "", 1)
    assert shown.stderr.startswith("lml: reproduce coco-sd15: missing is model (")
    for words in ("reference (", "prompts (", "measure ("):
        assert words in shown.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("words", "remedy"),
    [
        (["imagenet"], "give one of celeba-hq, cifar10"),
        (["cifar10", "--model", "embedded", "--scheduler", "euler"], "give some of ddim, dpm-3"),
        (["cifar10", "--model", "embedded", "--resume", "--overwrite"], "give one"),
        (["cifar10", "--model", "embedded", "--nfe", "0"], "from 1 to 1000"),
        (["cifar10", "--model", "embedded", "--num-images", "7"], "multiple of 4"),
        (["cifar10", "--model", "embedded", "--result", "{tmp}/a.txt"], "ends in .json"),
        (["cifar10", "--model", "embedded", "--result", "{tmp}/none/a.json"], "a folder that is there"),
        (["cifar10", "--model", "embedded", "--dtype", "int8"], "float32, bfloat16, float16"),
        (["cifar10", "--model", "embedded", "--device", "cuda:77"], "missing is"),
        (["cifar10", "--model", "embedded", "--nfe", "1", "--scheduler", "pndm"], "missing is settings"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_mistake_is_one_line_and_nothing_is_written(words: list[str], remedy: str, tmp_path: Path) -> None:
    shown = invoke(*(word.format(tmp=tmp_path) for word in words), "--out", tmp_path / "out")
    assert (shown.exit_code, shown.stderr.count("\n")) == (2, 1), shown.output
    assert remedy in shown.stderr and list(tmp_path.iterdir()) == []


def test_a_small_real_run_of_the_embedded_model(tmp_path: Path) -> None:
    out, copy = tmp_path / "out", tmp_path / "copy.json"
    words = ["cifar10", "--model", "embedded", "--num-images", 8, "--nfe", 6, "--scheduler", "ddim"]
    shown = invoke(*words, "--out", out, "--result", copy)
    assert shown.exit_code == 0, shown.output
    # A progress line for each cell, the table, and where everything is.
    assert shown.stderr.startswith("ddim 6: FD plain ") and "(1 of 1)" in shown.stderr
    assert "a subset of the preset, 8 images in place of 600" in shown.stdout
    for path in (out / "table.md", out / "curves.png", out / "compare.png", copy):
        assert path.is_file() and f"Written: {path}" in shown.stdout
    content = json.loads(copy.read_text())
    assert content == json.loads((out / "result.json").read_text())
    assert shlex.split(content["command"]) == ["lml", "reproduce", *map(str, words)]
    assert (content["status"], content["whole"], content["first_seed"]) == ("complete", False, 5_000_000)
    assert {"torch", "diffusers", "lmlangevin"} <= set(content["versions"])
    arms = content["cells"]["ddim|6"]["arms"]
    assert arms["lml"]["control"] == "adaptive" and len(arms["lml"]["mean_gains"]) == 6
    assert arms["release"]["lambda"] == 0.0008 and arms["release"]["value"] != arms["plain"]["value"]
    assert len({row["value"] for row in arms.values()}) == 3
    again = invoke(*words, "--out", out)
    assert again.exit_code == 2 and "give --resume" in again.stderr
    assert invoke(*words, "--out", out, "--resume").exit_code == 0


def test_an_interrupt_says_how_to_go_on(
    tiny_pipeline: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*args: object, **options: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("lmlangevin.generation.generate", interrupted)
    model = tiny_pipeline("ddpm")
    shown = invoke("cifar10", "--model-dir", model, "--dry-run", "--scheduler", "ddim", "--out", tmp_path / "out")
    assert shown.exit_code == 130 and "give --resume to go on" in shown.stderr
    assert json.loads((tmp_path / "out" / "result.json").read_text())["status"] == "running"
    assert not (tmp_path / "out" / "table.md").exists()

"""Runs that are stopped, continued, extended and replaced, and what is measured."""

from __future__ import annotations

import copy
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from lmlangevin import generation
from lmlangevin.core import LMLError
from lmlangevin.evaluation import CallableExtractor
from lmlangevin.evaluation.compbench.blip import prepare_image
from lmlangevin.evaluation.fid import fid
from lmlangevin.reproduce.plan import ReproduceConfig
from lmlangevin.reproduce.runner import ReproduceResult, reproduce

Pipeline = Callable[[str], Path]
LIMIT = 150


@pytest.fixture
def dry(tiny_pipeline: Pipeline, tmp_path: Path) -> ReproduceConfig:
    """Four cells of a dry run of cifar10."""
    return ReproduceConfig(
        "cifar10", tmp_path / "out", model_dir=tiny_pipeline("ddpm"), dry_run=True, schedulers=("dpm-3", "unipc")
    )


def _content(out: Path) -> dict[str, Any]:
    return json.loads((out / "result.json").read_text())


def _lasting(content: dict[str, Any]) -> dict[str, Any]:
    """Return a result without what two equal runs may differ in."""
    kept = {key: copy.deepcopy(value) for key, value in content.items() if key not in ("created", "updated")}
    for cell in kept["cells"].values():
        for arm in cell["arms"].values():
            del arm["seconds"]
    return kept


def _times(out: Path) -> dict[str, int]:
    return {str(path): path.stat().st_mtime_ns for path in (out / "jobs").rglob("*") if path.is_file()}


def _stopped(config: ReproduceConfig, lines: int) -> None:
    """Run until so many cells are told."""
    told: list[str] = []

    def stop(line: str) -> None:
        told.append(line)
        if len(told) == lines:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        reproduce(config, tell=stop)


def _jobs(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return the names of the jobs that are run from here on."""
    names: list[str] = []
    original = generation.generate

    def noted(config: generation.GenerateConfig, *args: Any) -> Any:
        names.append(Path(config.out).name)
        return original(config, *args)

    monkeypatch.setattr(generation, "generate", noted)
    return names


def test_an_interrupted_run_goes_on_and_does_no_cell_twice(
    dry: ReproduceConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = reproduce(replace(dry, out=tmp_path / "whole")).content
    _stopped(dry, 2)
    out = tmp_path / "out"
    stopped, before = _content(out), _times(out)
    assert stopped["status"] == "running" and list(stopped["cells"]) == ["dpm-3|3", "unipc|3"]
    assert not (out / "table.md").exists()

    ran = _jobs(monkeypatch)
    found = reproduce(replace(dry, resume=True)).content
    assert ran == ["dpm-3-004", "unipc-004"]
    assert found["status"] == "complete" and _lasting(found) == _lasting(whole)
    after = _times(out)
    assert {name: after[name] for name in before} == before
    # A complete run has nothing left to do, even where its images were deleted to make room.
    ran.clear()
    shutil.rmtree(out / "jobs" / "dpm-3-003")
    after = _times(out)
    assert _lasting(reproduce(replace(dry, resume=True)).content) == _lasting(whole)
    assert ran == [] and _times(out) == after


# The configuration of DPM-Solver-3 holds an infinity, which JSON does not.
@pytest.mark.parametrize("sampler", ["ddim", "dpm-3"])
def test_a_run_that_stops_in_a_cell_goes_on_within_it(dry: ReproduceConfig, tmp_path: Path, sampler: str) -> None:
    def stop(what: str, done: int, count: int) -> None:
        if what == f"{sampler} 3 lml" and done == 2:
            raise KeyboardInterrupt

    dry = replace(dry, schedulers=(sampler, "unipc"))
    with pytest.raises(KeyboardInterrupt):
        reproduce(dry, progress=stop)
    out = tmp_path / "out"
    job = out / "jobs" / f"{sampler}-003"
    assert _content(out)["cells"] == {} and len(list((job / "plain").iterdir())) == 4
    before = {name: at for name, at in _times(out).items() if name.endswith(".png")}
    assert len(before) == 6
    reproduce(replace(dry, resume=True))
    after = _times(out)
    assert {name: after[name] for name in before} == before
    assert len(json.loads((job / "manifest.json").read_text())["attempts"]) == 2


def test_a_killed_process_loses_no_finished_cell(dry: ReproduceConfig, tmp_path: Path) -> None:
    out = tmp_path / "out"
    command = [sys.executable, "-m", "lmlangevin", "reproduce", "cifar10", "--dry-run", "--out", str(out)]
    command += ["--model-dir", str(dry.model_dir), "--scheduler", "ddim", "--scheduler", "pndm", "--resume"]
    started = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + LIMIT
    while time.monotonic() < deadline and not ((out / "result.json").exists() and _content(out)["cells"]):
        time.sleep(0.005)
    started.send_signal(signal.SIGKILL)
    assert started.wait() == -signal.SIGKILL
    kept = _content(out)
    assert kept["status"] == "running" and 1 <= len(kept["cells"]) < 4
    before = _times(out)
    found = reproduce(replace(dry, schedulers=("ddim", "pndm"), resume=True)).content
    assert found["status"] == "complete" and len(found["cells"]) == 4
    for key, cell in kept["cells"].items():
        assert found["cells"][key] == cell
        folder = "-".join((cell["sampler"], f"{cell['nfe']:03d}"))
        mine = [name for name in before if f"/jobs/{folder}/" in name]
        assert len(mine) >= 4 and all(_times(out)[name] == before[name] for name in mine)


def test_a_run_is_not_replaced_unless_that_is_asked_for(dry: ReproduceConfig, tmp_path: Path) -> None:
    small = replace(dry, nfe=(3,), schedulers=("unipc",))
    first = reproduce(small).content
    with pytest.raises(LMLError, match=r"already holds a run \(complete\); give --resume"):
        reproduce(small)
    (tmp_path / "out" / "mine.txt").write_text("kept")
    again = reproduce(replace(small, overwrite=True)).content
    assert _lasting(again) == _lasting(first)
    assert (tmp_path / "out" / "mine.txt").read_text() == "kept"
    (tmp_path / "out" / "result.json").unlink()
    with pytest.raises(LMLError, match=r"holds jobs and no result\.json"):
        reproduce(replace(small, resume=True))


def test_a_folder_of_other_settings_is_refused_with_both_values(dry: ReproduceConfig, tmp_path: Path) -> None:
    small = replace(dry, nfe=(3,), schedulers=("unipc",))
    reproduce(small)
    before = (tmp_path / "out" / "result.json").read_bytes()
    with pytest.raises(LMLError, match=r"num_images \(the folder has 4, asked was 8\)"):
        reproduce(replace(small, num_images=8, resume=True))
    with pytest.raises(LMLError, match=r"dtype \(the folder has 'float32', asked was 'bfloat16'\)"):
        reproduce(replace(small, dtype="bfloat16", resume=True))
    assert (tmp_path / "out" / "result.json").read_bytes() == before
    (tmp_path / "out" / "result.json").write_text("{}")
    with pytest.raises(LMLError, match="none of lml reproduce"):
        reproduce(replace(small, overwrite=True))


def test_a_run_can_be_extended_and_is_complete_with_all_that_was_ever_asked(
    dry: ReproduceConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _stopped(replace(dry, schedulers=("dpm-3",)), 1)
    ran = _jobs(monkeypatch)
    part = reproduce(replace(dry, nfe=(4,), schedulers=("unipc",), resume=True)).content
    # The cell of the first run that is still missing keeps the whole from being complete.
    assert ran == ["unipc-004"] and part["status"] == "running"
    assert part["asked"] == ["dpm-3|3", "dpm-3|4", "unipc|4"]
    assert (part["arms"], part["baselines"]) == (["dpm-3"], ["unipc"])
    table = (tmp_path / "out" / "table.md").read_text()
    assert "DRY RUN" in table.splitlines()[0]
    found = reproduce(replace(dry, schedulers=("dpm-3",), resume=True)).content
    assert ran == ["unipc-004", "dpm-3-004"] and found["status"] == "complete"


def test_nothing_is_written_where_something_is_missing(tmp_path: Path) -> None:
    with pytest.raises(LMLError, match="missing is model") as refused:
        reproduce(ReproduceConfig("celeba-hq", tmp_path / "out", data_dir=tmp_path))
    assert "reference" in str(refused.value) and "Inception" in str(refused.value)
    assert list(tmp_path.iterdir()) == []


# What is measured ---------------------------------------------------------------------------------------------------


def test_a_distance_is_that_of_lml_fid_and_the_reference_is_read_once(
    tiny_pipeline: Pipeline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With Inception's place taken by the mean colour; everything else is that of a real run."""
    read: list[int] = []

    def colour(images: Tensor) -> Tensor:
        read.append(len(images))
        return torch.cat((images.double().mean((2, 3)), images.double().std((2, 3))), 1) / 100

    def extractor(*args: Any, **options: Any) -> CallableExtractor:
        return CallableExtractor(colour, "colour", weight_hash="c0")

    monkeypatch.setattr("lmlangevin.evaluation.extractors.load_extractor", extractor)
    monkeypatch.setattr("lmlangevin.evaluation.fid.load_extractor", extractor)
    reference = tmp_path / "data" / "reference"
    reference.mkdir(parents=True)
    rng = np.random.default_rng(15)
    for k in range(30):
        Image.fromarray(rng.integers(0, 256, (16, 16, 3), dtype=np.uint8)).save(reference / f"{k}.png")
    weights = tmp_path / "weights.pth"
    weights.touch()
    config = ReproduceConfig(
        "cifar10", tmp_path / "out", model_dir=tiny_pipeline("ddpm"), data_dir=tmp_path / "data", num_images=20,
        nfe=(2, 3), schedulers=("ddim",), inception_weights=weights,
    )  # fmt: skip
    content = reproduce(config).content
    assert read.count(30) == 1 and sum(read) == 30 + 2 * 3 * 20
    assert (content["status"], content["whole"], content["settings"]["protocol"]) == ("complete", False, "tf-fid")
    assert content["measure"]["extractor"] == "colour" and content["measure"]["reference_images"] == 30
    assert content["settings"]["data"]["reference"]["files"] == 30
    for key, cell in content["cells"].items():
        job = tmp_path / "out" / "jobs" / f"ddim-{key[-1]:>03}"
        for arm, row in cell["arms"].items():
            alone = fid(job, reference, "tf-fid", run=arm, blocks=5)
            assert alone.blocks is not None and alone.log is not None
            assert row["value"] == pytest.approx(alone.value, rel=1e-9)
            assert row["blocks"] == pytest.approx(list(alone.blocks.values), rel=1e-9)
            assert row["ln"] == pytest.approx(alone.log.natural) and row["log10"] == pytest.approx(alone.log.base10)
        for arm, found in cell["differences"].items():
            pairs = zip(cell["arms"]["plain"]["blocks"], cell["arms"][arm]["blocks"], strict=True)
            values = [b - a for a, b in pairs]
            assert found == {"mean": fmean(values), "sd": stdev(values), "values": values}
    # Another reference is another experiment.
    Image.new("RGB", (16, 16)).save(reference / "one-more.png")
    with pytest.raises(LMLError, match="data"):
        reproduce(replace(config, resume=True))


class _Bright:
    """P(yes) is the mean of the normalised picture, squashed: another number for each picture, in no question."""

    name, weight_hash, resolution = "bright", "b0" * 32, 4

    def prepare(self, path: Path) -> Tensor:
        return prepare_image(path, self.resolution)

    def probabilities(self, images: Tensor, questions: Any, batch_size: int) -> list[list[float]]:
        return [
            [float(torch.sigmoid(2 * row.mean()))] * len(texts) for row, texts in zip(images, questions, strict=True)
        ]


def test_blip_vqa_is_laid_out_scored_and_compared_prompt_by_prompt(tiny_pipeline: Pipeline, tmp_path: Path) -> None:
    config = ReproduceConfig(
        "compbench-sd15", tmp_path / "out", model_dir=tiny_pipeline("sd15"), dry_run=True, num_images=6, nfe=(3,),
        schedulers=("ddim",),
    )  # fmt: skip
    blip: Any = _Bright()
    content = reproduce(config, blip=blip, chunker=lambda prompt: [prompt]).content
    cell = content["cells"]["color|ddim|3"]
    scores: dict[str, list[float]] = {}
    for arm, row in cell["arms"].items():
        folder = tmp_path / "out" / "compbench" / "compbench-sd15" / "color" / f"ddim-003-{arm}"
        rows = json.loads((folder / "annotation_blip" / "vqa_result.json").read_text())
        scores[arm] = [float(answer["answer"]) for answer in rows]
        assert len(scores[arm]) == 6 and len(set(scores[arm])) > 3
        assert row["value"] == pytest.approx(fmean(scores[arm]))
        # Two images of each of three prompts: block k is image k of every prompt.
        assert row["blocks"] == pytest.approx([fmean(scores[arm][::2]), fmean(scores[arm][1::2])])
    found = cell["differences"]["lml"]
    difference = fmean(scores["lml"]) - fmean(scores["plain"])
    assert found["mean"] == pytest.approx(difference) and found["interval"][0] <= difference <= found["interval"][1]
    assert content["measure"]["weight_hash"] == "b0" * 32
    assert any("not yet compared" in note for note in content["notes"])
    # Scores of another network are not mixed in.
    other: Any = _Bright()
    other.weight_hash = "b1" * 32
    with pytest.raises(LMLError, match="weight_hash"):
        reproduce(replace(config, nfe=(4,), resume=True), blip=other, chunker=lambda prompt: [prompt])


def test_prompts_and_control_pictures_of_the_user_are_used_in_their_order(
    tiny_pipeline: Pipeline, tmp_path: Path
) -> None:
    data = tmp_path / "data"
    (data / "control" / "color").mkdir(parents=True)
    (data / "color_val.txt").write_text("a red cube\na blue ball\na green cube\n")
    for k, shade in enumerate((0, 120, 240)):
        Image.new("RGB", (64, 64), (shade, shade, 9)).save(data / "control" / "color" / f"{k}.png")
    config = ReproduceConfig(
        "compbench-controlnet", tmp_path / "out", model_dir=tiny_pipeline("sd15-canny"), data_dir=data, dry_run=True,
        nfe=(3,), schedulers=("ddim",),
    )  # fmt: skip
    blip: Any = _Bright()
    result: ReproduceResult = reproduce(config, blip=blip)
    manifest = json.loads((tmp_path / "out" / "jobs" / "color-ddim-003" / "manifest.json").read_text())
    assert [image["prompt"] for image in manifest["images"]] == ["a red cube"] * 2 + ["a blue ball"] * 2
    used = sorted(Path(manifest["config"]["control_image"]).iterdir())
    assert [Image.open(path).getpixel((0, 0)) for path in used] == [(0, 0, 9), (120, 120, 9)]
    assert result.content["measure"]["chunker"] == "trivial_chunker"


def test_a_preset_is_recorded_and_a_preset_of_0_is_the_plain_sampler(dry: ReproduceConfig, tmp_path: Path) -> None:
    """DDIM of a model whose scheduler clips gets no adaptive control."""
    clipped = replace(dry, schedulers=("ddim",), nfe=(4,))
    content = reproduce(clipped).content
    arms = content["cells"]["ddim|4"]["arms"]
    assert arms["lml"]["control"] == "constant" and arms["lml"]["preset"]
    assert (arms["lml"]["blocks"] == arms["plain"]["blocks"]) == (arms["lml"]["gain"] == 0)
    for name in ("plain", "lml", "release"):
        assert len(list((tmp_path / "out/jobs/ddim-004" / name).glob("*.png"))) == 4


def test_two_processes_share_a_run(dry: ReproduceConfig, tmp_path: Path) -> None:
    small = replace(dry, nfe=(3,), schedulers=("dpm-3",))
    alone = reproduce(replace(small, out=tmp_path / "alone")).content
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    started = []
    for rank in range(2):
        names = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": 2, "LOCAL_WORLD_SIZE": 2, "OMP_NUM_THREADS": 1}
        environment = os.environ | {key: str(value) for key, value in names.items()}
        environment |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        command = [sys.executable, "-m", "lmlangevin", "reproduce", "cifar10", "--dry-run", "--out", str(small.out)]
        command += ["--model-dir", str(dry.model_dir), "--scheduler", "dpm-3", "--nfe", "3"]
        started.append(
            subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        )
    told = [process.communicate(timeout=LIMIT) for process in started]
    assert [process.returncode for process in started] == [0, 0], told
    assert "DRY RUN" in told[0][0] and told[1][0] == ""
    cells = {key: _content(tmp_path / "out")[key] for key in ("cells", "status")}
    assert cells["status"] == "complete"
    for arm, row in cells["cells"]["dpm-3|3"]["arms"].items():
        assert row["value"] == pytest.approx(alone["cells"]["dpm-3|3"]["arms"][arm]["value"], abs=1e-3)

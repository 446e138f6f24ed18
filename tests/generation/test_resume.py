from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest
import torch
from PIL import Image

from lmlangevin.core import LMLError
from lmlangevin.generation import GenerateConfig, GenerateResult, generate
from lmlangevin.generation.images import read_png
from lmlangevin.generation.store import LocalStore, Place, open_store


def _config(out: Place, **settings: Any) -> GenerateConfig:
    return GenerateConfig(out=out, **{"steps": 2, "num_images": 5, "batch_size": 2, "gain": 0.5} | settings)


def _manifest(out: Place) -> dict[str, Any]:
    return json.loads(open_store(out).read("manifest.json"))


def _lasting(out: Place) -> dict[str, Any]:
    """Return a manifest without what two runs of one job may differ in: times, dates, the record of attempts."""
    manifest = _manifest(out)
    for key in ("created", "completed", "attempts"):
        del manifest[key]
    for run in manifest["runs"].values():
        del run["seconds"], run["images_per_second"]
    return manifest


def _pixels(out: Place, run: str = "images") -> np.ndarray:
    store = open_store(out)
    return np.stack([np.asarray(read_png(store.read(f"{run}/{n}"))).astype(int) for n in store.names(run)])


def _interrupted(config: GenerateConfig, batches: int) -> None:
    """Run a job until so many batches are done."""
    told = 0

    def stop(run: str, done: int, count: int) -> None:
        nonlocal told
        told += done > 0
        if told == batches:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        generate(config, stop)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The job of `_config`, with both runs, never interrupted."""
    out = tmp_path_factory.mktemp("whole") / "job"
    generate(_config(out, compare=True))
    return out


def test_interrupted_before_any_write_a_job_ends_as_if_it_had_not_been(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = LocalStore.write

    def run_until(out: Path, write: int) -> int:
        """Run the job, stop it before a write, and return how many there were."""
        count = 0

        def counted(self: LocalStore, name: str, data: bytes) -> None:
            nonlocal count
            if count == write:
                raise KeyboardInterrupt
            count += 1
            original(self, name, data)

        with monkeypatch.context() as patch:
            patch.setattr(LocalStore, "write", counted)
            try:
                generate(_config(out, compare=True, resume=True))
            except KeyboardInterrupt:
                pass
        return count

    writes = run_until(tmp_path / "all", 10**6)
    # Both manifests, ten images, six records, two pictures, and the compacted records.
    assert writes == 2 + 10 + 6 + 2 + 1
    for write in range(writes):
        out = tmp_path / str(write)
        run_until(out, write)
        if write:
            assert _manifest(out)["status"] == "running"
        generate(_config(out, compare=True, resume=True))
        assert _lasting(out) == _lasting(whole)
        for run in ("plain", "lml"):
            assert np.array_equal(_pixels(out, run), _pixels(whole, run))
        assert sorted(p.name for p in out.rglob("*")) == sorted(p.name for p in whole.rglob("*"))


def test_a_job_goes_on_where_it_was_and_makes_nothing_twice(tmp_path: Path) -> None:
    _interrupted(_config(tmp_path), 2)
    before = {p.name: p.stat().st_mtime_ns for p in (tmp_path / "images").iterdir()}
    assert len(before) == 4
    told: list[tuple[str, int, int]] = []
    result = generate(_config(tmp_path, resume=True), lambda *report: told.append(report))
    assert told == [("checked", 4, 4), ("images", 4, 5), ("images", 5, 5)]
    after = {p.name: p.stat().st_mtime_ns for p in (tmp_path / "images").iterdir()}
    assert {name: after[name] for name in before} == before
    assert "Resumed: 4 of 5 images were finished." in result.notes
    manifest = _manifest(tmp_path)
    assert len(manifest["attempts"]) == 2
    assert manifest["notes"] == []
    assert result.runs["images"].seconds > 0


def test_a_complete_job_is_verified_and_left_alone(whole: Path) -> None:
    before = {p: (p.stat().st_mtime_ns, p.read_bytes()) for p in whole.rglob("*.*")}
    first = generate(_config(whole, compare=True, resume=True))
    assert {p: (p.stat().st_mtime_ns, p.read_bytes()) for p in whole.rglob("*.*")} == before
    assert "Nothing was missing: all 10 images are there and whole." in first.notes
    manifest = _manifest(whole)
    for name, run in first.runs.items():
        assert run.describe(5) == manifest["runs"][name]


@pytest.mark.parametrize("harm", ["deleted", "truncated", "wrong byte", "empty", "picture"])
def test_what_a_complete_job_has_lost_is_made_again(harm: str, whole: Path, tmp_path: Path) -> None:
    out = tmp_path / "job"
    generate(_config(out, compare=True))
    image = out / "lml" / "000003.png"
    data = image.read_bytes()
    if harm in ("deleted", "picture"):
        (image if harm == "deleted" else out / "compare.png").unlink()
    else:
        wrong = {"truncated": data[:99], "wrong byte": data[:200] + bytes([data[200] ^ 4]) + data[201:], "empty": b""}
        image.write_bytes(wrong[harm])

    def look(*report: Any) -> None:
        if report[0] != "checked":
            running = _manifest(out)
            assert running["status"] == "running"
            assert not {"completed", "verdict", "frechet"} & running.keys()

    result = generate(_config(out, compare=True, resume=True), look)
    finished = 10 if harm == "picture" else 8  # the record holds two images
    assert f"Resumed: {finished} of 10 images were finished." in result.notes
    assert image.read_bytes() == data
    with Image.open(out / "compare.png") as picture:
        picture.load()
    assert _lasting(out) == _lasting(whole)


@pytest.mark.parametrize("state", ["interrupted", "complete"])
def test_a_half_written_record_is_no_record(state: str, whole: Path, tmp_path: Path) -> None:
    out = tmp_path / "job"
    if state == "interrupted":
        _interrupted(_config(out, compare=True), 3)
        record = sorted((out / "records").iterdir())[1]
        (out / "records" / ".left.json.0123456789ab.tmp").write_text("{")
        (out / "plain" / ".000004.png.0123456789ab.tmp").write_text("half")
    else:
        generate(_config(out, compare=True))
        record = out / "records" / "all.json"
    record.write_bytes(record.read_bytes()[:-40])
    result = generate(_config(out, compare=True, resume=True))
    # The second record of the plain run holds two of its images; the compacted file has them all.
    finished = 0 if state == "complete" else 3
    assert f"Resumed: {finished} of 10 images were finished." in result.notes
    assert _lasting(out) == _lasting(whole)
    assert sorted(p.name for p in out.rglob("*")) == sorted(p.name for p in whole.rglob("*"))


def test_another_batch_size_may_go_on(tmp_path: Path) -> None:
    generate(_config(tmp_path / "whole", num_images=9, batch_size=4))
    out = tmp_path / "job"
    _interrupted(_config(out, num_images=9, batch_size=4), 1)
    generate(_config(out, num_images=9, batch_size=3, resume=True))
    assert np.abs(_pixels(out) - _pixels(tmp_path / "whole")).max() <= 1
    manifest, other = _manifest(out), _manifest(tmp_path / "whole")
    assert manifest["images"] == other["images"]
    assert [attempt["batch_size"] for attempt in manifest["attempts"]] == [4, 3]
    assert manifest["config"]["batch_size"] == 4
    for row, right in zip(
        manifest["runs"]["images"]["corrections"], other["runs"]["images"]["corrections"], strict=True
    ):
        assert row["angle"] == pytest.approx(right["angle"], rel=1e-4)
        assert row["gain"] == pytest.approx(right["gain"], rel=1e-4)


def test_the_same_steps_may_be_asked_for_by_their_evaluations(tmp_path: Path) -> None:
    _interrupted(_config(tmp_path, scheduler="pndm"), 1)
    result = generate(_config(tmp_path, scheduler="pndm", steps=None, nfe=3, resume=True))
    assert result.runs["images"].nfe == 3


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"steps": 3}, r"steps \(the folder has 2, asked was 3\)"),
        (
            {"gain": 0.25, "seed": 9},
            r"seed \(the folder has 0, asked was 9\), gain \(the folder has 0.5, asked was 0.25",
        ),
        ({"num_images": 6}, r"num_images \(the folder has 5, asked was 6\)"),
        ({"compare": True}, r"compare \(the folder has False, asked was True\)"),
        ({"model": "analytic-cifar10"}, r"model \(the folder has 'embedded', asked was 'analytic-cifar10'\)"),
    ],
    ids=str,
)
def test_another_configuration_is_refused_with_the_difference(
    change: dict[str, Any], words: str, tmp_path: Path
) -> None:
    _interrupted(_config(tmp_path), 1)
    before = {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*")}
    with pytest.raises(LMLError, match=words) as caught:
        generate(_config(tmp_path, resume=True, **change))
    assert "batch_size" not in str(caught.value)
    assert "give what the folder has" in str(caught.value)
    assert {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*")} == before


def _edit(out: Path, change: Callable[[dict[str, Any]], None]) -> None:
    manifest = _manifest(out)
    change(manifest)
    (out / "manifest.json").write_text(json.dumps(manifest))


def test_other_versions_are_noted_and_another_preset_is_refused(tmp_path: Path) -> None:
    _interrupted(_config(tmp_path, gain=None), 1)
    _edit(tmp_path, lambda manifest: manifest["versions"].update(torch="1.0"))
    # A setting that this version does not know, and one that came later, with the value that it stands for.
    _edit(tmp_path, lambda manifest: manifest["runs"]["images"]["scheduler_config"].update(from_another_diffusers=1))
    _edit(tmp_path, lambda manifest: manifest["config"].pop("rank") and None)
    result = generate(_config(tmp_path, gain=None, resume=True))
    assert any(note.startswith("Resumed with torch 2") and "begun with 1.0" in note for note in result.notes)
    manifest = _manifest(tmp_path)
    assert len(manifest["notes"]) == 1
    assert manifest["attempts"][1]["versions"]["torch"].startswith("2.")
    _edit(tmp_path, lambda manifest: manifest["runs"]["images"]["scheduler_config"].update(gain=0.123, preset="0/a/b"))
    with pytest.raises(LMLError, match=r"gain \(the folder has 0.123, asked was") as caught:
        generate(_config(tmp_path, gain=None, resume=True))
    assert "preset" not in str(caught.value)


@pytest.mark.parametrize("name", ["images", "plain", "lml", "records"])
@pytest.mark.parametrize("flags", [{}, {"resume": True}], ids=["bare", "resume"])
def test_a_folder_of_somebody_elses_is_refused(name: str, flags: dict[str, bool], tmp_path: Path) -> None:
    (tmp_path / name).mkdir()
    with pytest.raises(LMLError, match=f"holds {name} and no manifest.json; give another folder, or --overwrite"):
        generate(_config(tmp_path, **flags))
    assert [p.name for p in tmp_path.iterdir()] == [name]


@pytest.mark.parametrize("content", ["", "{", "[]", '{"format": "mine"}', '{"format": "lmlangevin-generate-1"}'])
def test_a_manifest_that_cannot_be_gone_on_with_is_refused(content: str, tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_text(content)
    with pytest.raises(LMLError, match="--overwrite"):
        generate(_config(tmp_path, resume=True))
    with pytest.raises(LMLError, match="--overwrite"):
        generate(_config(tmp_path))
    assert (tmp_path / "manifest.json").read_text() == content
    generate(_config(tmp_path, num_images=1, overwrite=True))
    assert _manifest(tmp_path)["status"] == "complete"


@pytest.mark.parametrize("key", ["status", "runs", "versions", "attempts"])
def test_a_manifest_that_lacks_something_is_refused(key: str, tmp_path: Path) -> None:
    generate(_config(tmp_path, num_images=1))
    content = _manifest(tmp_path)
    del content[key]
    (tmp_path / "manifest.json").write_text(json.dumps(content))
    with pytest.raises(LMLError, match="cannot be resumed; give another folder, or --overwrite"):
        generate(_config(tmp_path, num_images=1, resume=True))


def test_replacing_a_job_forgets_its_records(tmp_path: Path) -> None:
    # Records of another batch size would stand in the way of the new ones.
    _interrupted(_config(tmp_path, batch_size=3), 1)
    (tmp_path / "manifest.json").write_text("damaged")
    generate(_config(tmp_path, batch_size=5, overwrite=True))
    assert _manifest(tmp_path)["status"] == "complete"
    _interrupted(_config(tmp_path, batch_size=3, overwrite=True), 1)
    assert len(list((tmp_path / "records").iterdir())) == 1
    assert [p.name for p in sorted((tmp_path / "images").iterdir())] == [f"{k:06d}.png" for k in range(3)]


@pytest.mark.parametrize("scheme", ["memory", "file"])
def test_a_url_is_as_good_as_a_folder(scheme: str, whole: Path, tmp_path: Path) -> None:
    out = f"memory:/{tmp_path}/job" if scheme == "memory" else f"file://{tmp_path}/job"
    config = _config(out, compare=True)
    _interrupted(config, 4)
    with pytest.raises(LMLError, match=r"--resume to go on with it, --overwrite"):
        generate(config)
    result: GenerateResult = generate(_config(out, compare=True, resume=True))
    assert (result.out, result.manifest) == (out, f"{out}/manifest.json")
    assert result.pictures == {"grid": f"{out}/grid.png", "compare": f"{out}/compare.png"}
    assert _lasting(out) == _lasting(whole)
    assert np.array_equal(_pixels(out, "lml"), _pixels(whole, "lml"))
    assert open_store(out).names("records") == ["all.json"]
    again = generate(_config(out, compare=True, resume=True))
    assert any("Nothing was missing" in note for note in again.notes)
    generate(_config(out, num_images=2, overwrite=True))
    assert not open_store(out).exists("lml")
    assert _pixels(out).shape == (2, 32, 32, 3)
    if scheme == "file":
        assert (tmp_path / "job" / "grid.png").is_file()
    fsspec.filesystem("memory").store.clear()


def test_a_pipeline_job_goes_on_and_keeps_its_prompt(text_pipeline: Path, tmp_path: Path) -> None:
    settings: dict[str, Any] = {"model": str(text_pipeline), "prompt": "fox/../../x", "guidance_scale": 3.0}
    generate(_config(tmp_path / "whole", **settings))
    _interrupted(_config(tmp_path / "job", **settings), 2)
    generate(_config(tmp_path / "job", resume=True, **settings))
    assert _lasting(tmp_path / "job") == _lasting(tmp_path / "whole")
    assert np.array_equal(_pixels(tmp_path / "job"), _pixels(tmp_path / "whole"))
    manifest = _manifest(tmp_path / "job")
    assert {image["prompt"] for image in manifest["images"]} == {"fox/../../x"}
    assert "noise_sha256" not in manifest["images"][0]
    assert manifest["runs"]["images"]["guidance_evaluations"] == 2
    assert len(manifest["runs"]["images"]["timesteps"]) == 2


# Real processes, killed ---------------------------------------------------------------------------------------------


def test_a_process_may_be_killed_at_any_moment(tmp_path: Path) -> None:
    settings: dict[str, Any] = {"num_images": 36, "batch_size": 2}
    generate(_config(tmp_path / "whole", **settings))
    out = tmp_path / "job"
    moments = random.Random(17)
    finished = 0
    for number in (signal.SIGKILL, signal.SIGINT, signal.SIGTERM):
        process = subprocess.Popen(
            [sys.executable, "-m", "lmlangevin", "generate", "--num-images", "36", "--batch-size", "2", "--steps", "2"]
            + ["--gain", "0.5", "--out", str(out), "--resume"],
            env=os.environ | {"OMP_NUM_THREADS": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        deadline = time.monotonic() + 100
        # By batches and not by time, so that a fast machine is not done before the last kill.
        wanted = finished // 2 + moments.randint(1, 4)
        while len(list(out.glob("records/*.json"))) < wanted and process.poll() is None:
            assert time.monotonic() < deadline
            time.sleep(0.002)
        time.sleep(0.03 * moments.random())
        process.send_signal(number)
        said, error = process.communicate(timeout=100)
        assert process.returncode == {signal.SIGKILL: -9, signal.SIGINT: 130, signal.SIGTERM: 143}[number], error
        if number != signal.SIGKILL:
            assert error.strip() == "lml: interrupted; what was finished is kept: give --resume to go on."
            assert said == ""
        recorded = [json.loads(path.read_text())["records"][0]["ids"] for path in out.glob("records/*.json")]
        made = {path.name for path in out.glob("images/[0-9]*.png")}
        assert {f"{k:06d}.png" for ids in recorded for k in ids} <= made
        assert len(made) <= 2 * len(recorded) + 2, "no more than the batch in flight is lost"
        assert 2 * len(recorded) > finished
        finished = 2 * len(recorded)
    assert finished < 36
    result = generate(_config(out, resume=True, **settings))
    assert f"Resumed: {finished} of 36 images were finished." in result.notes
    assert np.array_equal(_pixels(out), _pixels(tmp_path / "whole"))
    assert _lasting(out) == _lasting(tmp_path / "whole")
    assert len(_manifest(out)["attempts"]) == 4
    assert sorted(p.name for p in out.rglob("*")) == sorted(p.name for p in (tmp_path / "whole").rglob("*"))


def test_settings_of_other_types_are_the_same_job(tmp_path: Path) -> None:
    flow: dict[str, Any] = {"model": "analytic-cifar10", "scheduler": "flow-euler", "num_images": 1}
    generate(_config(tmp_path / "job", **flow, flow_shift=5, gain=np.float32(0.1)))
    again = _config(tmp_path / "job", **flow, flow_shift=np.float64(5.0), resume=True)
    with pytest.raises(LMLError, match=r"configuration: gain \(the folder has 0.1, asked was 0.5\); give"):
        generate(again)
    steps: Any = np.int64(2)
    same = _config(tmp_path / "job", **flow, flow_shift=5.0, gain=torch.tensor(0.1), steps=steps, resume=True)
    assert "Nothing was missing: all 1 images are there and whole." in generate(same).notes

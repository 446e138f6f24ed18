from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from lmlangevin.core import LMLError
from lmlangevin.evaluation import FrechetStatistics
from lmlangevin.generation import GenerateConfig, generate, initial_noise
from lmlangevin.generation.manifest import noise_hash
from lmlangevin.generation.summary import verdict


def _config(out: Path, **settings: Any) -> GenerateConfig:
    return GenerateConfig(out=out, **{"steps": 3, "num_images": 4, "gain": 0.5} | settings)


def _manifest(out: Path) -> dict[str, Any]:
    return json.loads((out / "manifest.json").read_text(encoding="utf-8"))


def _pixels(folder: Path) -> np.ndarray:
    rows = []
    for path in sorted(folder.glob("*.png")):
        with Image.open(path) as picture:
            rows.append(np.asarray(picture).astype(int))
    return np.stack(rows)


def test_a_plain_job_writes_images_grid_and_manifest(tmp_path: Path) -> None:
    told: list[tuple[str, int, int]] = []
    result = generate(_config(tmp_path / "a" / "b", batch_size=3), lambda *report: told.append(report))
    out = result.out
    assert sorted(p.name for p in out.iterdir()) == ["grid.png", "images", "manifest.json", "records"]
    assert [p.name for p in sorted((out / "images").iterdir())] == [f"{k:06d}.png" for k in range(4)]
    assert _pixels(out / "images").shape == (4, 32, 32, 3)
    assert told == [("images", 0, 4), ("images", 3, 4), ("images", 4, 4)]
    assert result.pictures == {"grid": out / "grid.png"}


def test_the_manifest_says_all_that_is_needed_to_repeat_the_job(tmp_path: Path) -> None:
    generate(_config(tmp_path, compare=True, seed=70, scheduler="dpmpp-2m", sigmas="karras", gain=0.25))
    manifest = _manifest(tmp_path)
    assert manifest["status"] == "complete"
    assert {"lmlangevin", "torch", "diffusers", "python"} <= set(manifest["versions"])
    assert manifest["versions"]["torch"].startswith(torch.__version__.split("+")[0])
    assert "out" not in manifest["config"]
    assert str(tmp_path) not in json.dumps(manifest)
    assert [image["seed"] for image in manifest["images"]] == [70, 71, 72, 73]
    assert [(image["id"], image["prompt"]) for image in manifest["images"]] == [(k, None) for k in range(4)]
    assert manifest["images"][2]["files"] == {"plain": "plain/000002.png", "lml": "lml/000002.png"}
    assert manifest["images"][2]["noise_sha256"] == noise_hash(initial_noise([72], (3, 32, 32))[0])
    plain, lml = manifest["runs"]["plain"], manifest["runs"]["lml"]
    assert (plain["scheduler_class"], lml["scheduler_class"]) == (
        "DPMSolverMultistepScheduler",
        "DPMSolverMultistepLMLScheduler",
    )
    assert plain["scheduler_config"]["use_karras_sigmas"] is True
    assert lml["scheduler_config"]["gain"] == 0.25
    assert plain["nfe"] == lml["nfe"] == len(plain["timesteps"]) == 3
    assert plain["seconds"] > 0
    # Repeating from what the manifest holds gives the same files.
    again = generate(GenerateConfig(out=tmp_path / "again", **manifest["config"]))
    for run in ("plain", "lml"):
        assert np.array_equal(_pixels(tmp_path / run), _pixels(again.out / run))


def test_the_manifest_records_what_lml_did_at_each_step(tmp_path: Path) -> None:
    generate(_config(tmp_path, num_images=5, batch_size=2, compare=True))
    runs = _manifest(tmp_path)["runs"]
    assert runs["plain"]["corrections"] == []
    steps = runs["lml"]["corrections"]
    assert [row["step"] for row in steps] == [0, 1, 2]
    assert (steps[0]["gain"], steps[0]["angle"], steps[0]["identity"]) == ([0.0], 0.0, 1.0)
    for row in steps[1:]:
        assert row["gain"][0] == pytest.approx(0.5, rel=0.01)
        assert 0 < row["angle"] < 1
        assert row["identity"] == 0


def test_the_adaptive_control_is_used_unless_a_number_is_given(tmp_path: Path) -> None:
    keys = {"scheduler": "dpmpp-2m", "sigmas": "exponential", "steps": 8, "num_images": 2, "compare": True}
    result = generate(GenerateConfig(tmp_path / "open", **keys))
    settings = _manifest(tmp_path / "open")["runs"]["lml"]["scheduler_config"]
    assert settings["control"] == "adaptive" and settings["gain"] is None
    assert not np.array_equal(_pixels(tmp_path / "open" / "lml"), _pixels(tmp_path / "open" / "plain"))
    assert any(step["angle"] > 0 for step in _manifest(tmp_path / "open")["runs"]["lml"]["corrections"]), result.notes
    for given in ({"gain": 0.2}, {"gain": None, "rank": 2}, {"gain": None, "placement": "reference"}):
        generate(
            _config(
                tmp_path / str(given),
                gain=given.get("gain"),
                num_images=1,
                **{k: v for k, v in given.items() if k != "gain"},
            )
        )
        assert _manifest(tmp_path / str(given))["runs"]["images"]["scheduler_config"]["control"] == "constant"


def test_the_preset_is_used_and_recorded_with_its_label(tmp_path: Path) -> None:
    generate(_config(tmp_path, gain=None, control="constant", num_images=2))
    settings = _manifest(tmp_path)["runs"]["images"]["scheduler_config"]
    assert settings["preset"].endswith("/DDIMScheduler/leading")
    assert settings["gain"] is not None


@pytest.mark.parametrize("settings", [{}, {"model": "analytic-cifar10", "scheduler": "flow-euler"}], ids=str)
def test_images_do_not_depend_on_the_batch_size(settings: dict[str, Any], tmp_path: Path) -> None:
    generate(_config(tmp_path / "five", num_images=5, batch_size=5, **settings))
    generate(_config(tmp_path / "two", num_images=5, batch_size=2, **settings))
    difference = np.abs(_pixels(tmp_path / "five" / "images") - _pixels(tmp_path / "two" / "images"))
    assert difference.max() <= 1
    hashes = [[image["noise_sha256"] for image in _manifest(tmp_path / n)["images"]] for n in ("five", "two")]
    assert hashes[0] == hashes[1]
    assert len(set(hashes[0])) == 5


def test_two_jobs_of_the_same_settings_are_equal(tmp_path: Path) -> None:
    for name in ("a", "b"):
        generate(_config(tmp_path / name))
    assert np.array_equal(_pixels(tmp_path / "a" / "images"), _pixels(tmp_path / "b" / "images"))


@pytest.mark.parametrize("scheduler", ["ddim", "unipc"])
def test_gain_0_and_no_lml_equal_the_plain_sampler_and_a_gain_does_not(scheduler: str, tmp_path: Path) -> None:
    generate(_config(tmp_path / "zero", compare=True, gain=0.0, scheduler=scheduler))
    generate(_config(tmp_path / "off", lml=False, gain=None, scheduler=scheduler))
    generate(_config(tmp_path / "half", scheduler=scheduler))
    plain = _pixels(tmp_path / "zero" / "plain")
    assert np.array_equal(_pixels(tmp_path / "zero" / "lml"), plain)
    assert np.array_equal(_pixels(tmp_path / "off" / "images"), plain)
    assert np.abs(_pixels(tmp_path / "half" / "images") - plain).max() > 5
    assert _manifest(tmp_path / "off")["runs"]["images"]["scheduler_class"].endswith("Scheduler")
    assert "LML" not in _manifest(tmp_path / "off")["runs"]["images"]["scheduler_class"]


def test_pndm_evaluates_once_more_than_its_steps(tmp_path: Path) -> None:
    result = generate(_config(tmp_path, scheduler="pndm", num_images=2))
    assert result.runs["images"].nfe == 4
    assert _manifest(tmp_path)["runs"]["images"]["nfe"] == 4


@pytest.mark.parametrize(("scheduler", "nfe", "steps"), [("pndm", 4, 3), ("heun", 5, 3), ("deis", 3, 3)])
def test_a_number_of_evaluations_chooses_the_steps(scheduler: str, nfe: int, steps: int, tmp_path: Path) -> None:
    settings: dict[str, Any] = {"scheduler": scheduler, "num_images": 2, "gain": None, "lml": False}
    by_nfe = generate(_config(tmp_path / "nfe", steps=None, nfe=nfe, **settings))
    assert by_nfe.runs["images"].nfe == nfe
    manifest = _manifest(tmp_path / "nfe")
    assert (manifest["config"]["steps"], manifest["config"]["nfe"]) == (steps, nfe)
    generate(GenerateConfig(out=tmp_path / "again", **manifest["config"]))
    generate(_config(tmp_path / "steps", steps=steps, **settings))
    for name in ("again", "steps"):
        assert np.array_equal(_pixels(tmp_path / name / "images"), _pixels(tmp_path / "nfe" / "images"))


def test_the_comparison_is_drawn_and_says_why_it_has_no_distance(tmp_path: Path) -> None:
    result = generate(_config(tmp_path, compare=True))
    with Image.open(result.pictures["compare"]) as picture:
        assert picture.width > 4 * 96
        assert picture.height > 2 * 96
    assert result.verdict is None
    assert any("512" in note for note in result.notes)


class FakeFeatures:
    """Mean of each channel: three features."""

    dim = 3
    extractor = "means"
    weight_hash = "0"

    def features(self, images: Tensor) -> Tensor:
        assert images.dtype == torch.uint8
        return images.float().mean((2, 3)) / 255


@pytest.fixture
def small_distances(monkeypatch: pytest.MonkeyPatch) -> FrechetStatistics:
    """Let a handful of images do for a distance, on a feature network that needs no file."""
    from lmlangevin.generation import distance

    drawn = torch.rand(50, 3, generator=torch.Generator().manual_seed(3))
    reference = FrechetStatistics.empty(3, extractor="means", weight_hash="0", protocol="p").update(drawn)
    monkeypatch.setattr(distance, "SMALLEST_COUNT", 6)
    monkeypatch.setattr(distance, "REFERENCE_SAMPLES", 40)
    monkeypatch.setattr("lmlangevin.evaluation.load_feature_network", FakeFeatures, raising=False)
    monkeypatch.setattr("lmlangevin.evaluation.load_reference_statistics", lambda: reference, raising=False)
    return reference


@pytest.mark.parametrize("model", ["embedded", "analytic-cifar10"])
def test_the_distance_is_that_of_the_written_images(
    model: str, small_distances: FrechetStatistics, tmp_path: Path
) -> None:
    from lmlangevin.evaluation import frechet_distance

    result = generate(_config(tmp_path, model=model, num_images=6, batch_size=4, compare=True))
    manifest = _manifest(tmp_path)
    assert manifest["frechet"]["reference_images"] == (50 if model == "embedded" else 40)
    assert result.verdict is not None
    for run in ("plain", "lml"):
        value = manifest["runs"][run]["frechet_distance"]
        assert f"{value:.3f}" in result.verdict
        if model == "embedded":
            pixels = torch.from_numpy(_pixels(tmp_path / run)).permute(0, 3, 1, 2).to(torch.uint8)
            features = FakeFeatures().features(pixels)
            own = FrechetStatistics.empty(3, extractor="means", weight_hash="0", protocol="p").update(features)
            assert value == pytest.approx(frechet_distance(own, small_distances), rel=1e-6)


@pytest.mark.parametrize(
    ("plain", "lml", "words"),
    [(2.0, 1.5, "25% closer"), (1.5, 2.0, "further from the reference"), (2.0, 2.001, "no difference")],
)
def test_the_verdict_is_in_plain_words(plain: float, lml: float, words: str) -> None:
    said = verdict(plain, lml)
    assert said is not None
    assert words in said


def test_an_earlier_job_is_refused_and_then_replaced_whole(tmp_path: Path) -> None:
    generate(_config(tmp_path, num_images=5, compare=True))
    (tmp_path / "mine.txt").write_text("keep")
    with pytest.raises(LMLError, match="--overwrite"):
        generate(_config(tmp_path))
    generate(_config(tmp_path, num_images=2, overwrite=True))
    # Nothing of the first job may be taken for a part of the second.
    assert sorted(p.name for p in tmp_path.iterdir()) == ["grid.png", "images", "manifest.json", "mine.txt", "records"]
    assert len(list((tmp_path / "images").iterdir())) == 2


def test_an_edited_manifest_cannot_delete_files_elsewhere(tmp_path: Path) -> None:
    out = tmp_path / "out"
    generate(_config(out, num_images=1))
    precious = tmp_path / "precious.png"
    precious.write_text("x")
    manifest = _manifest(out)
    manifest["images"][0]["files"]["images"] = "../precious.png"
    (out / "manifest.json").write_text(json.dumps(manifest))
    generate(_config(out, num_images=1, overwrite=True))
    assert precious.exists()


def test_an_interrupted_job_says_so(tmp_path: Path) -> None:
    def stop(*report: Any) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        generate(_config(tmp_path, batch_size=2), stop)
    assert _manifest(tmp_path)["status"] == "running"
    with pytest.raises(LMLError, match=r"\(running\); give --resume to go on with it, --overwrite to replace it"):
        generate(_config(tmp_path))


def test_images_that_are_not_finite_are_counted_and_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from lmlangevin.generation import batches

    original = batches.sample

    def broken(*args: Any, **kwargs: Any) -> Tensor:
        out = original(*args, **kwargs).clone()
        out[0, 0, 0, 0] = float("nan")
        return out

    monkeypatch.setattr(batches, "sample", broken)
    result = generate(_config(tmp_path, batch_size=2))
    assert _manifest(tmp_path)["runs"]["images"]["non_finite_images"] == 2
    assert any("2 of 4" in note for note in result.notes)


@pytest.mark.parametrize("settings", [{"placement": "reference", "scheduler": "deis"}, {"dtype": "bfloat16"}], ids=str)
def test_what_the_scheduler_refuses_is_refused_before_writing(settings: dict[str, Any], tmp_path: Path) -> None:
    out = tmp_path / "out"
    if "placement" in settings:
        with pytest.raises(LMLError, match="placement"):
            generate(_config(out, **settings))
        assert not out.exists()
    else:
        generate(_config(out, num_images=2, **settings))
        assert _pixels(out / "images").std() > 5


def test_a_preset_of_zero_is_said(tmp_path: Path) -> None:
    asked = {"scheduler": "unipc", "sigmas": "exponential", "control": "constant"}
    result = generate(GenerateConfig(tmp_path / "out", steps=2, num_images=2, **asked))
    assert any("is 0, which is the plain sampler" in note for note in result.notes)

"""What is needed, found or told as missing before anything is written."""

from __future__ import annotations

import json
import shutil
from collections import namedtuple
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from lmlangevin.core import LMLError
from lmlangevin.evaluation import CallableExtractor, FrechetStatistics
from lmlangevin.reproduce import needs
from lmlangevin.reproduce.needs import Need, check, refusal
from lmlangevin.reproduce.plan import Plan, ReproduceConfig, make_plan

Usage = namedtuple("Usage", "total used free")


@pytest.fixture(autouse=True)
def nothing_at_hand(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No weights in torch's cache, no hub, and a large disk."""

    def unreachable(*args: object, **kwargs: object) -> str:
        raise OSError("no network")

    monkeypatch.setattr("torch.hub.get_dir", lambda: str(tmp_path / "no-cache"))
    monkeypatch.setattr("huggingface_hub.hf_hub_download", unreachable)
    monkeypatch.setattr(needs.shutil, "disk_usage", lambda place: Usage(0, 0, 10**15))


def _plan(name: str, **options: Any) -> Plan:
    return make_plan(ReproduceConfig(name, **options))


def _by_name(plan: Plan, **there: Any) -> dict[str, Need]:
    return {need.what: need for need in check(plan, **there)}


def _missing(found: dict[str, Need]) -> list[str]:
    return [what for what, need in found.items() if need.state == "missing"]


def test_all_that_is_missing_is_named_in_one_sentence(tmp_path: Path) -> None:
    plan = _plan("cifar10", out=tmp_path / "out")
    found = check(plan)
    line = refusal(plan, found)
    assert line is not None and "\n" not in line and line.startswith("reproduce cifar10: missing is model")
    for words in ("--model embedded, or --model-dir", "hf download google/ddpm-cifar10-32", "reference (", "--data-dir",
                  "--inception-weights"):  # fmt: skip
        assert words in line
    assert all(need.remedy for need in found if need.state == "missing")
    assert not list(tmp_path.iterdir())


def test_the_embedded_model_needs_nothing(tmp_path: Path) -> None:
    plan = _plan("cifar10", model="embedded", out=tmp_path / "out")
    found = _by_name(plan)
    assert _missing(found) == [] and refusal(plan, list(found.values())) is None
    count = sum(len(cell.arms) for cell in plan.cells) * plan.preset.num_images
    assert f"{count:,} images" in found["disk space"].detail
    spent = sum(map(plan.evaluations, plan.cells))
    assert found["work"].detail == f"{len(plan.cells)} cells, {spent:,} network evaluations of one image"
    assert "not known" in found["time"].detail


def test_another_pipeline_than_the_presets_is_refused(tiny_pipeline: Callable[[str], Path], tmp_path: Path) -> None:
    plan = _plan("compbench-sdxl", model_dir=tiny_pipeline("sd15"), out=tmp_path, dry_run=True)
    need = _by_name(plan)["model"]
    assert need.state == "missing" and "is a StableDiffusionPipeline, no StableDiffusionXLPipeline" in need.detail
    assert "settings" not in _by_name(plan)


def test_a_folder_that_is_not_whole_is_refused(tiny_pipeline: Callable[[str], Path], tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(tiny_pipeline("sd15"), folder)
    shutil.rmtree(folder / "vae")
    need = _by_name(_plan("coco-sd15", model_dir=folder, dry_run=True))["model"]
    assert need.state == "missing" and "lacks vae" in need.detail


def test_a_safety_checker_would_be_measured(tiny_pipeline: Callable[[str], Path], tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(tiny_pipeline("sd15"), folder)
    index = json.loads((folder / "model_index.json").read_text())
    index["safety_checker"] = ["stable_diffusion", "StableDiffusionSafetyChecker"]
    (folder / "model_index.json").write_text(json.dumps(index))
    (folder / "safety_checker").mkdir()
    found = _by_name(_plan("coco-sd15", model_dir=folder, dry_run=True))
    assert _missing(found) == ["model without a safety checker"]
    assert "[null, null]" in found["model without a safety checker"].remedy


def test_a_hub_that_cannot_be_reached_is_told_with_the_remedy() -> None:
    need = _by_name(_plan("coco-sd2", model="owner/name"))["model"]
    assert need.state == "missing" and "no network" in need.detail
    assert "hf download stabilityai/stable-diffusion-2-base" in need.remedy


def test_a_model_of_the_hub_is_known_by_its_index(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    path = tmp_path / "model_index.json"
    path.write_text(json.dumps({"_class_name": "LDMPipeline"}))
    monkeypatch.setattr("huggingface_hub.hf_hub_download", lambda repo, name: str(path))
    found = _by_name(_plan("celeba-hq", model="CompVis/ldm-celebahq-256"))
    assert found["model"].state == "there" and found["settings"].state == "there"


# Data ---------------------------------------------------------------------------------------------------------------


def _clone(root: Path, counts: dict[str, int]) -> Path:
    folder = root / "T2I-CompBench" / "examples" / "dataset"
    folder.mkdir(parents=True)
    for category, count in counts.items():
        (folder / f"{category}_val.txt").write_text("".join(f"a {category} cube {k}\n" for k in range(count)))
    return root


class _Yes:
    name, weight_hash, resolution = "yes", "ab", 2


def test_the_prompts_of_each_category_are_counted(tiny_pipeline: Callable[[str], Path], tmp_path: Path) -> None:
    data = _clone(tmp_path / "data", {"color": 300, "shape": 299})
    plan = _plan("compbench-sd15", model_dir=tiny_pipeline("sd15"), data_dir=data, out=tmp_path / "out")
    found = _by_name(plan, blip=_Yes(), chunker=str.split)
    assert _missing(found) == ["prompts shape", "prompts texture"]
    assert "300 from" in found["prompts color"].detail and "299, and 300 are used" in found["prompts shape"].detail
    assert "clone github.com/Karine-Huang/T2I-CompBench" in found["prompts texture"].remedy
    fewer = _plan(
        "compbench-sd15", model_dir=tiny_pipeline("sd15"), data_dir=data, out=tmp_path / "out", num_images=100
    )
    assert _missing(_by_name(fewer, blip=_Yes(), chunker=str.split)) == ["prompts texture"]


def test_blip_and_spacy_are_looked_for(
    tiny_pipeline: Callable[[str], Path], tiny_blip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def absent() -> None:
        raise LMLError("spaCy's model: cannot be loaded; run pip install spacy")

    monkeypatch.setattr("lmlangevin.evaluation.compbench.chunks.SpacyChunker", absent)
    data = _clone(tmp_path / "data", {"color": 300, "shape": 300, "texture": 300})
    options: dict[str, Any] = {"model_dir": tiny_pipeline("sd15"), "data_dir": data}
    found = _by_name(_plan("compbench-sd15", **options))
    assert _missing(found) == ["BLIP", "noun chunks"]
    assert "hf download Salesforce/blip-vqa-base" in found["BLIP"].remedy
    assert found["noun chunks"].remedy == "run pip install spacy"
    (tmp_path / "half").mkdir()
    found = _by_name(_plan("compbench-sd15", **options, blip_model=str(tmp_path / "half")))
    assert "lacks config.json and model.safetensors" in found["BLIP"].detail
    found = _by_name(_plan("compbench-sd15", **options, blip_model=str(tiny_blip)))
    assert _missing(found) == ["noun chunks"]


def test_control_pictures_are_counted(tiny_pipeline: Callable[[str], Path], tmp_path: Path) -> None:
    data = _clone(tmp_path / "data", {"color": 300, "shape": 300, "texture": 300})
    for category, count in (("color", 4), ("shape", 2), ("texture", 1)):
        (data / "control" / category).mkdir(parents=True)
        for k in range(count):
            Image.new("RGB", (8, 8), (k, 0, 0)).save(data / "control" / category / f"{k}.png")
    options: dict[str, Any] = {"model_dir": tiny_pipeline("sd15-canny"), "data_dir": data, "num_images": 20}
    found = _by_name(_plan("compbench-controlnet", **options), blip=_Yes(), chunker=str.split)
    assert _missing(found) == ["control pictures texture"]
    assert "1 PNG files for 2 prompts" in found["control pictures texture"].detail


def test_captions_of_ms_coco_are_found(tiny_pipeline: Callable[[str], Path], tmp_path: Path) -> None:
    (tmp_path / "annotations").mkdir()
    rows = [{"image_id": k // 2, "caption": f"caption {k}"} for k in range(20)]
    (tmp_path / "annotations" / "captions_val2014.json").write_text(json.dumps({"annotations": rows}))
    options: dict[str, Any] = {"model_dir": tiny_pipeline("sd15"), "data_dir": tmp_path}
    assert "10, and 12 are used" in _by_name(_plan("coco-sd15", num_images=12, **options))["prompts"].detail
    assert "9 from" in _by_name(_plan("coco-sd15", num_images=9, **options))["prompts"].detail


# References ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("protocol", "state"), [("tf-fid", "there"), ("pytorch-fid", "missing"), ("", "missing")], ids=str
)
def test_statistics_must_be_of_the_protocol(
    protocol: str, state: str, tiny_pipeline: Callable[[str], Path], tmp_path: Path
) -> None:
    generator = torch.Generator().manual_seed(7)
    empty = FrechetStatistics.empty(3, extractor="inception-v3-2048-tf", weight_hash="ab", protocol=protocol)
    empty.update(torch.randn(9, 3, generator=generator)).save(tmp_path / "reference.npz")
    found = _by_name(_plan("cifar10", model_dir=tiny_pipeline("ddpm"), data_dir=tmp_path))
    assert found["reference"].state == state
    if state == "missing":
        assert "--save-reference-statistics" in found["reference"].remedy


def test_a_folder_of_images_is_a_reference(
    tiny_pipeline: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options: dict[str, Any] = {"model_dir": tiny_pipeline("ddpm"), "data_dir": tmp_path}
    assert _by_name(_plan("cifar10", **options))["reference"].state == "missing"
    (tmp_path / "reference").mkdir()
    assert "no images in it" in _by_name(_plan("cifar10", **options))["reference"].detail
    Image.new("RGB", (8, 8)).save(tmp_path / "reference" / "a.png")
    found = _by_name(_plan("cifar10", **options))
    assert found["reference"].state == "there" and _missing(found) == ["measure"]
    made = CallableExtractor(lambda x: x.double().mean((2, 3)), "mean")
    monkeypatch.setattr("lmlangevin.evaluation.extractors.load_extractor", lambda *args, **options: made)
    weights = tmp_path / "weights.pth"
    weights.touch()
    found = _by_name(_plan("cifar10", **options, inception_weights=weights))
    assert found["measure"].detail == "protocol tf-fid, mean" and _missing(found) == []


# Disk and time ------------------------------------------------------------------------------------------------------


def test_too_small_a_disk_is_missing_space(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = _plan("cifar10", model="embedded", out=tmp_path / "a" / "b")
    images = sum(len(cell.arms) for cell in plan.cells) * 600
    asked: list[Path] = []

    def at(free: int) -> Callable[[Path], Any]:
        def answer(place: Path) -> Any:
            asked.append(place)
            return Usage(0, 0, free)

        return answer

    for free, state in ((images * 32 * 32 * 3, "there"), (images * 32 * 32, "missing")):
        monkeypatch.setattr(needs.shutil, "disk_usage", at(free))
        assert _by_name(plan)["disk space"].state == state
    assert set(asked) == {tmp_path}


def test_the_time_comes_from_the_cells_that_are_done(tmp_path: Path) -> None:
    from lmlangevin.reproduce.record import FORMAT

    plan = _plan("cifar10", model="embedded", out=tmp_path, nfe=(5, 6), schedulers=("pndm",))
    arm = {"nfe": 5, "guidance_evaluations": 0, "seconds": 30.0}
    content = {key: {} for key in ("settings", "versions", "measure")}
    content |= {key: [] for key in ("asked", "notes", "arms", "baselines")} | {"status": "running", "whole": False}
    content |= {"format": FORMAT, "cells": {"pndm|5": {"arms": {"plain": arm}}}}
    (tmp_path / "result.json").write_text(json.dumps(content))
    found = _by_name(plan)
    assert found["work"].detail.startswith("1 cells that are left of 2, 3,600 ")
    # 3000 evaluations in 30 s, and 3600 to go.
    assert found["time"].detail == "about 36 s at the 100 evaluations a second so far"
    again = _plan("cifar10", model="embedded", out=tmp_path, nfe=(5, 6), schedulers=("pndm",), overwrite=True)
    assert _by_name(again)["work"].detail.startswith("2 cells, ")

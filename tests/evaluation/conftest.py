"""Folders of small images, from seeds, and a stand-in for torch-fidelity's Inception."""

from __future__ import annotations

import json
import sys
import types
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from lmlangevin.evaluation import extractors

MakeImages = Callable[..., list[Path]]


@pytest.fixture
def make_images() -> MakeImages:
    def make(folder: Path, seed: int, count: int, size: tuple[int, int] = (32, 32)) -> list[Path]:
        """Write `count` blurred random PNGs named 000000.png and so on; size is (width, height)."""
        folder.mkdir(parents=True, exist_ok=True)
        generator = np.random.default_rng(seed)
        paths = []
        for index in range(count):
            coarse = Image.fromarray(generator.integers(0, 256, (5, 5, 3), dtype=np.uint8))
            paths.append(folder / f"{index:06d}.png")
            coarse.resize(size, Image.Resampling.BILINEAR).save(paths[-1])
        return paths

    return make


@pytest.fixture
def make_job(make_images: MakeImages) -> Callable[..., Path]:
    def make(folder: Path, seed: int, count: int, runs: tuple[str, ...] = ("plain", "lml"), **changes: Any) -> Path:
        """Write what `lml generate` leaves: runs, a grid picture and a manifest, here with its images in reverse."""
        for index, run in enumerate(runs):
            make_images(folder / run, seed + index, count)
        Image.new("RGB", (90, 70), (200, 30, 40)).save(folder / "grid.png")
        images = [
            {"id": k, "seed": seed + k, "files": {run: f"{run}/{k:06d}.png" for run in runs}} for k in range(count)
        ]
        manifest = {"format": "lmlangevin-generate-1", "status": "complete", "images": images[::-1]} | changes
        (folder / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
        return folder

    return make


class SmallInception(nn.Module):
    """The names and the habits of torch-fidelity's class, with layers of a few numbers."""

    out = 8

    def __init__(self, name: str, features_list: list[str], feature_extractor_weights_path: Any = None) -> None:
        super().__init__()
        assert features_list == ["2048"]
        for layer in extractors._LAYERS:
            self.add_module(layer, nn.Identity())
        self.Conv2d_1a_3x3 = nn.Conv2d(3, 6, 3, stride=16)
        self.MaxPool_1 = nn.ReLU()
        self.Mixed_7c = nn.Conv2d(6, self.out, 1)
        self.AvgPool = nn.AdaptiveAvgPool2d(1)
        self.load_state_dict(torch.load(feature_extractor_weights_path, weights_only=False))
        self.requires_grad_(False).eval()

    def forward(self, x: Tensor) -> tuple[Tensor]:
        x = (nn.functional.interpolate(x.float(), (299, 299)) - 128) / 128
        return (self.AvgPool(self.Mixed_7c(self.MaxPool_1(self.Conv2d_1a_3x3(x)))).flatten(1),)

    @classmethod
    def state(cls, seed: int) -> dict[str, Tensor]:
        generator = torch.Generator().manual_seed(seed)
        shapes = {
            "Conv2d_1a_3x3.weight": (6, 3, 3, 3),
            "Conv2d_1a_3x3.bias": (6,),
            "Mixed_7c.weight": (cls.out, 6, 1, 1),
            "Mixed_7c.bias": (cls.out,),
        }
        return OrderedDict((name, torch.randn(shape, generator=generator)) for name, shape in shapes.items())


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch) -> type[SmallInception]:
    """Put the stand-in where torch-fidelity would be."""
    package = types.ModuleType("torch_fidelity")
    module: Any = types.ModuleType("torch_fidelity.feature_extractor_inceptionv3")
    package.__path__ = []
    module.FeatureExtractorInceptionV3 = SmallInception
    monkeypatch.setitem(sys.modules, package.__name__, package)
    monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setattr(extractors.InceptionExtractor, "dim", SmallInception.out)
    return SmallInception


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    """A file of the stand-in's weights."""
    path = tmp_path / "weights.pth"
    torch.save(SmallInception.state(420), path)
    return path

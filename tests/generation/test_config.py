from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from lmlangevin.core import LMLError
from lmlangevin.generation import GenerateConfig, generate

MISTAKES: list[tuple[dict[str, Any], str, str]] = [
    ({"steps": 0}, "steps=0", "such as 8"),
    ({"steps": 1001}, "steps=1001", "give less"),
    ({"steps": 6, "nfe": 8}, "steps=6 and nfe=8 contradict", "give one of them"),
    ({"nfe": 0}, "nfe=0", "whole number from 1"),
    ({"nfe": 10**9}, "nfe=1000000000", "whole number from 1"),
    ({"nfe": True}, "nfe=True", "whole number from 1"),
    ({"nfe": 1001}, "steps=1001", "give less"),
    ({"nfe": 1, "scheduler": "pndm"}, "nfe=1", "give 2"),
    ({"nfe": 8, "scheduler": "heun", "lml": False}, "nfe=8", "give 7 or 9"),
    ({"overwrite": True, "resume": True}, "overwrite and resume", "give one"),
    ({"num_images": 0}, "num_images=0", "1 or more"),
    ({"batch_size": -2}, "batch_size=-2", "1 or more"),
    ({"num_images": 10**11}, "num_images=100000000000", "give less"),
    ({"seed": -1}, "seed=-1", "0 or more"),
    ({"seed": 2**32 - 10}, "2**32", "at most 4294967232"),
    ({"scheduler": "heun"}, "scheduler='heun'", "dpmpp-2m"),
    ({"scheduler": "ddim", "sigmas": "lu"}, "grid='lu'", "trailing"),
    ({"sigmas": "cosine"}, "sigmas='cosine'", "karras"),
    ({"timestep_spacing": "even"}, "timestep_spacing='even'", "leading"),
    ({"timestep_spacing": "leading", "sigmas": "karras"}, "both choose the time grid", "one of them"),
    ({"model": "resnet"}, "model='resnet'", "embedded"),
    ({"gain": 0.5, "kappa": 0.5}, "gain=0.5", "give gain alone"),
    ({"gain": float("nan")}, "gain=nan", "finite"),
    ({"gain": 2.5}, "gain=2.5 is out of range: beyond 2", "such as 0.5, or --force"),
    ({"gain": -100.0}, "gain=-100.0 is out of range: beyond 2 of either sign", "images end as noise; give a gain"),
    ({"kappa": 1.0, "damping": 0.01}, "kappa=1.0 with damping=0.01, a gain of 100, is out of range", "--force"),
    ({"damping_mode": "absolute"}, "has no default damping", "give damping="),
    ({"damping_mode": "log"}, "damping_mode='log'", "'absolute'"),
    ({"gain": 0.5, "damping_mode": "absolute"}, "damping_mode='absolute'", "give kappa and damping"),
    ({"lml": False, "damping_mode": "absolute", "damping": 1.0}, "damping=1.0 has no effect with no-lml", "leave one"),
    ({"kappa": 3.0}, "kappa=3.0", "[-1, 1]"),
    ({"kappa": 0.5, "damping": 0.0}, "damping=0.0", "above 0"),
    ({"rank": 0}, "rank=0", "from 1 to"),
    ({"control": "magic"}, "control='magic'", "constant"),
    ({"placement": "nowhere"}, "placement='nowhere'", "reference"),
    ({"lml": False, "compare": True}, "no-lml", "leave one"),
    ({"lml": False, "gain": 0.2}, "no-lml", "leave one"),
    ({"lml": False, "control": "adaptive"}, "control=adaptive has no effect with no-lml", "leave one"),
    ({"lml": False, "placement": "reference"}, "placement=reference", "leave one"),
    ({"lml": False, "rank": 2}, "rank=2", "leave one"),
    ({"control": "adaptive", "rank": 2}, "rank=2 has no meaning", "leave rank out"),
    ({"prompt": "a fox"}, "prompt='a fox'", "unconditional"),
    ({"guidance_scale": 7.5}, "guidance_scale=7.5", "unconditional"),
    ({"dtype": "float8"}, "dtype='float8'", "bfloat16"),
    ({"device": "tpu"}, "device='tpu'", "cuda:N"),
    ({"device": "cuda:99"}, "device='cuda:99'", "give --device"),
    ({"scheduler": "flow-euler"}, "samples flow-matching models", "analytic-cifar10"),
    ({"scheduler": "ddim", "flow_shift": 3.0}, "flow_shift=3.0", "flow-euler"),
    (
        {"scheduler": "flow-euler", "model": "analytic-cifar10", "flow_shift": -1.0},
        "flow_shift=-1.0",
        "such as 3",
    ),
]


@pytest.mark.parametrize(("settings", "named", "remedy"), MISTAKES, ids=[str(m[0]) for m in MISTAKES])
def test_a_mistake_is_one_line_that_names_it_and_the_remedy(
    settings: dict[str, Any], named: str, remedy: str, tmp_path: Path
) -> None:
    with pytest.raises(LMLError) as caught:
        GenerateConfig(out=tmp_path / "out", **settings)
    message = str(caught.value)
    assert named in message
    assert remedy in message
    assert "\n" not in message
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("out", "words"), [("", "out='' is no folder"), ("a" * 300, "cannot be written")])
def test_a_name_that_is_no_folder_is_refused(out: str, words: str, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(LMLError, match=words):
        generate(GenerateConfig(out=out, model="analytic-cifar10", num_images=1, steps=1))
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_no_pipeline_is_refused(tmp_path: Path) -> None:
    with pytest.raises(LMLError, match="model_index.json"):
        GenerateConfig(out=tmp_path / "out", model=str(tmp_path))


def test_a_url_stays_a_url_and_everything_else_is_a_path(tmp_path: Path) -> None:
    assert GenerateConfig(out="memory://a/b").out == "memory://a/b"
    assert GenerateConfig(out=str(tmp_path)).out == tmp_path
    assert GenerateConfig(out=tmp_path).out == tmp_path
    with pytest.raises(LMLError, match="lost a slash as a path; give it as text"):
        GenerateConfig(out=Path("s3://bucket/run"))


def test_steps_and_evaluations(tmp_path: Path) -> None:
    def config(**settings: Any) -> GenerateConfig:
        return GenerateConfig(out=tmp_path, **settings)

    assert (config().steps, config().nfe) == (8, None)
    assert config(steps=5).steps == 5
    assert config(nfe=6, scheduler="pndm").steps == 5
    assert config(nfe=7, scheduler="heun", lml=False).steps == 4
    made = config(nfe=9)
    assert GenerateConfig(out=tmp_path, **made.as_dict()) == made
    assert dataclasses.replace(made, seed=4).steps == 9


@pytest.mark.parametrize(
    "settings",
    [
        {"gain": 2.0},
        {"gain": -2.0},
        {"kappa": 1.0, "damping": 0.5},
        {"kappa": 1.0, "damping": 1e-3, "damping_mode": "absolute"},
        {"gain": 100.0, "force": True},
    ],
    ids=str,
)
def test_a_gain_within_the_bound_or_forced_is_taken(settings: dict[str, Any], tmp_path: Path) -> None:
    config = GenerateConfig(out=tmp_path, **settings)
    keys = config.lml_keys()
    assert {key: keys[key] for key in settings if key != "force"} == {k: v for k, v in settings.items() if k != "force"}
    assert config.chosen and GenerateConfig(out=tmp_path, **config.as_dict()) == config

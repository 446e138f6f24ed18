"""What the page's form may hold, and what becomes of it."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

import pytest

from lmlangevin.app.settings import (
    AUTOMATIC,
    GAIN,
    OWN,
    Form,
    Offer,
    batch_size,
    grid_choices,
    read_form,
    scheduler_choices,
    start_form,
)
from lmlangevin.core import LMLError
from lmlangevin.generation import GenerateConfig
from lmlangevin.scenes import DEMO_PROMPTS

PUBLIC = Offer()
LOCAL = Offer(any_model=True)
PIPELINE = Offer(models=("embedded", "owner/model"))


def _job(offer: Offer = PUBLIC, **fields: Any) -> dict[str, Any]:
    return read_form(Form(**fields), offer).job


def test_the_form_as_it_comes_is_a_job_that_the_package_takes(tmp_path: Path) -> None:
    config = GenerateConfig(out=tmp_path, **_job())
    assert (config.model, config.scheduler, config.steps, config.timestep_spacing) == (
        "embedded",
        "ddim",
        8,
        "trailing",
    )
    assert config.compare and config.control is None and config.gain is None


BAD: dict[str, tuple[dict[str, Any], str]] = {
    "no model": ({"model": None}, "Model is empty; choose one of the list."),
    "blank model": ({"model": "  "}, "Model is empty"),
    "folder": ({"model": "/etc"}, "Model '/etc' is not offered here; choose one of scenes, embedded, analytic-cifar10"),
    "hub": ({"model": "owner/name"}, "is not offered here"),
    "list": ({"model": ["embedded"]}, "Model is empty"),
    "long name": ({"model": "x" * 5000}, "Model 'xxx"),
    "sampler": ({"scheduler": "rk4"}, "Sampler 'rk4' is unknown; choose one of own, ddim"),
    "heun": ({"scheduler": "heun"}, "Sampler 'heun' is unknown"),
    "grid": ({"grid": "square"}, "Time grid 'square' is unknown"),
    "unhashable": ({"grid": {"a": 1}}, "Time grid"),
    "no steps": ({"steps": None}, "Steps is empty; give a number from 1 to 50."),
    "zero steps": ({"steps": 0}, "Steps is 0; give a number from 1 to 50."),
    "many steps": ({"steps": 51}, "Steps is 51; give a number from 1 to 50."),
    "half a step": ({"steps": 2.5}, "Steps is 2.5; give a whole number from 1 to 50."),
    "words": ({"steps": "eight"}, "Steps 'eight' is no number; give one from 1 to 50."),
    "truth": ({"steps": True}, "Steps 'True' is no number"),
    "nan": ({"images": math.nan}, "Images 'nan' is no number"),
    "inf": ({"images": math.inf}, "Images 'inf' is no number"),
    "many images": ({"images": 513}, "Images is 513; give a number from 1 to 512."),
    "seed": ({"seed": -1}, "First seed is -1; give a number from 0 to 4294967232."),
    "last seed": ({"seed": 2**32 - 63}, "First seed is 4294967233"),
    "control": ({"control": "magic"}, "Correction 'magic' is unknown"),
    "gain": ({"control": GAIN, "gain": 2.5}, "Gain is 2.5; give a number from -2 to 2."),
    "no gain": ({"control": GAIN, "gain": None}, "Gain is empty; give a number from -2 to 2."),
    "calibration": ({"control": "calibrated", "steps": 9}, "give one of 5, 6, 7, 8, 10, 12, 15, 20."),
}


@pytest.mark.parametrize(("fields", "sentence"), BAD.values(), ids=BAD.keys())
def test_what_is_out_of_bounds_is_refused_in_a_sentence(fields: dict[str, Any], sentence: str) -> None:
    with pytest.raises(LMLError) as caught:
        _job(**fields)
    said = str(caught.value)
    assert sentence in said
    assert said.endswith(".") and "\n" not in said and len(said) < 300


def test_the_last_seed_that_is_allowed_is_one_that_the_package_takes(tmp_path: Path) -> None:
    assert GenerateConfig(out=tmp_path, **_job(seed=2**32 - 64)).seed == 4294967232


def test_another_model_is_a_matter_of_where_the_page_can_be_reached() -> None:
    assert _job(LOCAL, model=" owner/name ", scheduler=OWN, images=1)["model"] == "owner/name"
    assert _job(PIPELINE, model="owner/model", scheduler=OWN, images=2)["model"] == "owner/model"
    with pytest.raises(LMLError, match="not offered here"):
        _job(PIPELINE, model="owner/other")


def test_a_pipeline_gets_fewer_images_one_at_a_time_and_what_was_left_empty_is_left_to_it() -> None:
    job = _job(PIPELINE, model="owner/model", scheduler=OWN, grid=OWN, images=3, prompt="  a fox ", guidance=" 5 ")
    assert (job["num_images"], job["batch_size"], job["prompt"], job["guidance_scale"]) == (3, 1, "a fox", 5.0)
    assert not {"height", "width", "scheduler", "timestep_spacing", "sigmas"} & set(job)
    assert _job(PIPELINE, model="owner/model", images=1, side="128")["height"] == 128
    assert "prompt" not in _job(PIPELINE, model="owner/model", images=1)
    for fields, sentence in (
        ({"images": 17}, "Images is 17; give a number from 1 to 16."),
        ({"side": "2048"}, "Side is 2048; give a number from 64 to 1024."),
        ({"side": "big"}, "Side 'big' is no number; give one from 64 to 1024."),
        ({"guidance": "nan"}, "Guidance 'nan' is no number"),
        ({"guidance": "-1"}, "Guidance is -1; give a number from 0 to 30."),
        ({"prompt": "a" * 1001}, "Prompt has 1001 characters; give 1000 or fewer."),
        ({"control": "calibrated"}, "for embedded and analytic-cifar10 only"),
    ):
        with pytest.raises(LMLError, match=sentence.replace("(", r"\(")):
            _job(PIPELINE, **({"model": "owner/model", "images": 1} | fields))


@pytest.mark.parametrize("prompt", ["/etc/passwd", "~/x y", "../app.py", "notes.txt", r"C:\secret", ".env", "a/b"])
def test_strangers_cannot_ask_by_a_prompt_whether_a_file_is_there(prompt: str) -> None:
    with pytest.raises(LMLError, match="looks like the name of a file"):
        _job(PIPELINE, model="owner/model", images=1, prompt=prompt)


@pytest.mark.parametrize("prompt", ["a fox, 35mm f/1.8.", "day/night in a city", "fox", "Mr. Fox waits."])
def test_a_prompt_of_words_is_no_file(prompt: str) -> None:
    assert _job(PIPELINE, model="owner/model", images=1, prompt=prompt)["prompt"] == prompt


def test_a_built_in_model_is_given_no_prompt_that_was_left_from_another_one() -> None:
    assert not {"prompt", "guidance_scale", "height"} & set(_job(prompt="a fox", guidance="5", side="512"))


@pytest.mark.parametrize(
    ("scheduler", "model", "expected"),
    [("ddim", "embedded", "euler"), ("flow-unipc", "analytic-cifar10", "flow-euler"), (OWN, "embedded", "euler")],
)
def test_a_calibration_brings_its_sampler_and_grid(scheduler: str, model: str, expected: str, tmp_path: Path) -> None:
    settings = read_form(Form(model=model, scheduler=scheduler, control="calibrated", steps=6, grid="karras"), PUBLIC)
    config = GenerateConfig(out=tmp_path, **settings.job)
    assert (config.scheduler, config.control, config.grid) == (expected, "calibrated", None)
    assert "Euler" in settings.notes[0]


def test_each_control_is_what_it_says() -> None:
    assert _job(control=GAIN, gain=-0.25)["gain"] == -0.25
    assert "gain" not in _job(control=AUTOMATIC, gain=0.5) and "control" not in _job(control=AUTOMATIC)
    assert _job(control="adaptive")["control"] == "adaptive"
    assert _job(grid="karras", scheduler="unipc")["sigmas"] == "karras"


@pytest.mark.parametrize("images", [1, 16, 64, 100, 512])
def test_batches_are_small_enough_to_be_stopped_between(images: int) -> None:
    assert 1 <= batch_size(images, small=True) <= 32
    assert images / batch_size(images, small=True) >= min(4, images / 4)
    assert batch_size(images, small=False) == 1


def test_samplers_and_grids_are_those_that_can_be_run(tmp_path: Path) -> None:
    for model in ("embedded", "analytic-cifar10"):
        for _, scheduler in scheduler_choices(model):
            for _, grid in grid_choices(scheduler):
                GenerateConfig(out=tmp_path, **_job(model=model, scheduler=scheduler, grid=grid))
    assert [name for _, name in scheduler_choices("owner/model")][:2] == [OWN, "ddim"]
    assert grid_choices("no sampler") == [("default", OWN)]
    assert "flow-euler" not in [name for _, name in scheduler_choices("embedded")]
    assert [name for _, name in scheduler_choices("scenes")][:2] == [OWN, "ddim"]
    flows = [name for _, name in scheduler_choices("scenes-flow")]
    assert "flow-euler" in flows and "ddim" not in flows


@pytest.mark.parametrize("model", Offer().models)
def test_where_a_model_starts_is_a_job_that_the_package_takes(model: str, tmp_path: Path) -> None:
    form = start_form(model)
    assert form.scheduler in [name for _, name in scheduler_choices(model)]
    assert form.grid in [name for _, name in grid_choices(form.scheduler)]
    config = GenerateConfig(out=tmp_path, **read_form(form, PUBLIC).job)
    assert (config.model, config.compare) == (model, True)


def test_scenes_start_with_a_prompt_guidance_of_3_and_6_steps_and_draw_their_examples_without_one(
    tmp_path: Path,
) -> None:
    start = start_form("scenes")
    config = GenerateConfig(out=tmp_path, **read_form(start, PUBLIC).job)
    assert (config.steps, config.guidance_scale, config.scheduler, config.grid) == (6, 3.0, "unipc", "trailing")
    assert config.prompt in DEMO_PROMPTS and config.count == 8
    job = _job(**vars(start) | {"prompt": " ", "images": 20, "side": "512"})
    config = GenerateConfig(out=tmp_path, **job)
    assert [config.prompt_of(k) for k in (0, 2, 3, 19)] == [DEMO_PROMPTS[k] for k in (0, 0, 1, 6)]
    assert config.height is None  # a side that was left from another pipeline: scenes have one size
    assert _job(**vars(start) | {"images": 512})["batch_size"] == 32
    with pytest.raises(LMLError, match="calibrated.*for embedded and analytic-cifar10 only"):
        _job(**vars(start) | {"control": "calibrated"})


def test_a_model_whose_weights_are_not_there_is_not_offered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lmlangevin.generation.checks.scenes_there", lambda: ())
    assert Offer().models == ("embedded", "analytic-cifar10")


@pytest.mark.parametrize("field", ["max_steps", "max_images", "max_pipeline_images", "max_seconds", "queue"])
def test_an_offer_of_nothing_is_refused(field: str) -> None:
    with pytest.raises(LMLError, match=f"{field}=0 is too small"):
        dataclasses.replace(PUBLIC, **{field: 0})
    with pytest.raises(LMLError, match="max_side=8"):
        Offer(max_side=8)
    with pytest.raises(LMLError, match="models is empty"):
        Offer(models=())

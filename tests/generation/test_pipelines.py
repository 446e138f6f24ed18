from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from lmlangevin.core import LMLError
from lmlangevin.generation import GenerateConfig, generate, load_model


def _pixels(folder: Path) -> np.ndarray:
    rows = []
    for path in sorted(folder.glob("*.png")):
        with Image.open(path) as picture:
            rows.append(np.asarray(picture).astype(int))
    return np.stack(rows)


def _config(out: Path, model: Path, **settings: Any) -> GenerateConfig:
    return GenerateConfig(out=out, model=str(model), **{"steps": 3, "num_images": 3, "batch_size": 2} | settings)


def test_an_unconditional_pipeline_goes_through_the_plain_loop(pixel_pipeline: Path, tmp_path: Path) -> None:
    config = _config(tmp_path / "a", pixel_pipeline, gain=0.5)
    model = load_model(config, flow=False)
    assert (model.shape, model.measured, model.family) == ((3, 16, 16), True, "DDPMPipeline")
    result = generate(config)
    assert _pixels(result.out / "images").shape == (3, 16, 16, 3)
    assert result.runs["images"].nfe == 3
    # Its own scheduler configuration is kept where the sampler has such a key.
    assert result.runs["images"].scheduler.config.clip_sample is True
    generate(_config(tmp_path / "b", pixel_pipeline, gain=0.5, batch_size=3))
    assert np.abs(_pixels(tmp_path / "b" / "images") - _pixels(tmp_path / "a" / "images")).max() <= 1


def test_text_to_image_takes_a_prompt_and_guidance_is_counted_apart(text_pipeline: Path, tmp_path: Path) -> None:
    result = generate(
        _config(tmp_path / "a", text_pipeline, prompt="a red fox", guidance_scale=4.0, compare=True, gain=0.5)
    )
    for run in result.runs.values():
        assert (run.nfe, run.guidance_evaluations) == (3, 3)
    assert _pixels(tmp_path / "a" / "lml").shape == (3, 16, 16, 3)
    manifest = json.loads(result.manifest.read_text())
    assert manifest["config"]["prompt"] == "a red fox"
    assert manifest["model"]["class"] == "StableDiffusionPipeline"
    assert len(manifest["runs"]["lml"]["corrections"]) == 3
    # Without guidance nothing is doubled, and the images differ.
    unguided = generate(_config(tmp_path / "b", text_pipeline, prompt="a red fox", guidance_scale=1.0, gain=0.5))
    assert (unguided.runs["images"].nfe, unguided.runs["images"].guidance_evaluations) == (3, 0)
    assert not np.array_equal(_pixels(tmp_path / "b" / "images"), _pixels(tmp_path / "a" / "lml"))


def test_pipeline_images_do_not_depend_on_the_batch_size(text_pipeline: Path, tmp_path: Path) -> None:
    for batch in (1, 3):
        generate(_config(tmp_path / str(batch), text_pipeline, prompt="fox", gain=0.5, batch_size=batch))
    assert np.abs(_pixels(tmp_path / "1" / "images") - _pixels(tmp_path / "3" / "images")).max() <= 1


def test_gain_0_equals_the_plain_pipeline(text_pipeline: Path, tmp_path: Path) -> None:
    generate(_config(tmp_path, text_pipeline, prompt="fox", gain=0.0, compare=True))
    assert np.array_equal(_pixels(tmp_path / "plain"), _pixels(tmp_path / "lml"))


def test_the_preset_is_halved_and_said_once_where_it_was_not_measured(text_pipeline: Path, tmp_path: Path) -> None:
    from diffusers import DDIMScheduler

    from lmlangevin.schedulers import find_preset

    result = generate(_config(tmp_path, text_pipeline, prompt="fox", compare=True))
    scheduler = result.runs["lml"].scheduler
    assert scheduler.config.gain == find_preset(DDIMScheduler, {"timestep_spacing": "leading"}).gain / 2
    assert scheduler.config.preset.endswith("/halved")
    assert sum("half" in note for note in result.notes) == 1


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({}, "give --prompt"),
        ({"prompt": "fox", "scheduler": "flow-euler"}, "samples flow-matching models"),
    ],
    ids=str,
)
def test_what_a_text_pipeline_cannot_do_is_refused(
    settings: dict[str, Any], words: str, text_pipeline: Path, tmp_path: Path
) -> None:
    with pytest.raises(LMLError, match=words):
        generate(_config(tmp_path / "out", text_pipeline, **settings))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        # The pipeline's own default is 0.8.
        (
            {"steps": 1},
            "strength=0.8 of steps=1 is less than one step; give --strength 1 or more, or --steps 2 or more",
        ),
        ({"arguments": {"strength": 0.01}}, "argument strength=0.01 is the job's own to give; give --strength"),
        ({"arguments": {"guidance_scale": 1}}, "argument guidance_scale=1 is the job's own to give"),
    ],
    ids=str,
)
def test_a_strength_of_no_step_is_refused_before_anything_is_written(
    settings: dict[str, Any], words: str, text_pipeline: Path, tmp_path: Path
) -> None:
    from PIL import Image

    Image.new("RGB", (16, 16)).save(tmp_path / "start.png")
    given = {"prompt": "fox", "image": str(tmp_path / "start.png"), **settings}
    with pytest.raises(LMLError, match=words):
        generate(_config(tmp_path / "out", text_pipeline, **given))
    assert not (tmp_path / "out").exists()


def test_the_papers_lambda_reaches_the_scheduler(pixel_pipeline: Path, tmp_path: Path) -> None:
    settings = {"kappa": 0.2, "damping": 3.0, "damping_mode": "absolute"}
    result = generate(_config(tmp_path / "out", pixel_pipeline, **settings))
    config = result.runs["images"].scheduler.config
    assert {key: config[key] for key in settings} == settings
    relative = generate(_config(tmp_path / "relative", pixel_pipeline, kappa=0.2, damping=3.0))
    assert relative.runs["images"].corrections != result.runs["images"].corrections


@pytest.mark.parametrize("settings", [{"prompt": "fox"}, {"guidance_scale": 2.0}], ids=str)
def test_an_unconditional_pipeline_takes_neither_text_nor_guidance(
    settings: dict[str, Any], pixel_pipeline: Path, tmp_path: Path
) -> None:
    with pytest.raises(LMLError, match="a DDPMPipeline, which is unconditional; leave it out"):
        generate(_config(tmp_path / "out", pixel_pipeline, **settings))
    assert not (tmp_path / "out").exists()


def test_flow_models_take_flow_samplers_only(flow_pipeline: Path, tmp_path: Path) -> None:
    with pytest.raises(LMLError, match="predicts a flow velocity; give --scheduler flow-euler"):
        generate(_config(tmp_path / "out", flow_pipeline, scheduler="unipc"))
    assert not (tmp_path / "out").exists()
    result = generate(_config(tmp_path / "own", flow_pipeline, scheduler="flow-euler", gain=0.5))
    assert result.runs["images"].scheduler.config.shift == 2.0
    result = generate(_config(tmp_path / "shift", flow_pipeline, scheduler="flow-euler", gain=0.5, flow_shift=5.0))
    assert result.runs["images"].scheduler.config.shift == 5.0


def test_a_model_that_cannot_be_found_names_the_remedy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from diffusers.pipelines.pipeline_utils import DiffusionPipeline

    def offline(*args: Any, **kwargs: Any) -> None:
        raise OSError("no connection\nto the hub")

    monkeypatch.setattr(DiffusionPipeline, "from_pretrained", offline)
    with pytest.raises(LMLError, match="hf download nobody/nothing") as caught:
        generate(GenerateConfig(out=tmp_path / "out", model="nobody/nothing"))
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_weights_that_could_run_code_are_not_loaded(pixel_pipeline: Path, tmp_path: Path) -> None:
    folder = tmp_path / "pickled"
    shutil.copytree(pixel_pipeline, folder)
    (folder / "unet" / "diffusion_pytorch_model.safetensors").unlink()
    torch.save({}, folder / "unet" / "diffusion_pytorch_model.bin")
    with pytest.raises(LMLError, match="safetensors"):
        generate(_config(tmp_path / "out", folder))
    assert not (tmp_path / "out").exists()

"""The text-to-image models as diffusers knows them, and through `lml generate`, whatever their weights have learned."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from diffusers import AutoPipelineForImage2Image, AutoPipelineForInpainting, DiffusionPipeline
from PIL import Image

from lmlangevin.cli import cli
from lmlangevin.core import LMLError
from lmlangevin.generation import GenerateConfig
from lmlangevin.generation.images import read_png
from lmlangevin.scenes import DEMO_PROMPTS, SIZE, draw, load_pipeline, model_source, sample_scenes
from lmlangevin.scenes.models import scenes_there

CLASSES = {"scenes": "StableDiffusionPipeline", "scenes-flow": "StableDiffusion3Pipeline"}
PROMPT = DEMO_PROMPTS[1]


@pytest.fixture(scope="module", params=scenes_there())
def pipe(request: pytest.FixtureRequest) -> Any:
    """A model, loaded once; who changes it changes it back."""
    loaded: Any = DiffusionPipeline.from_pretrained(model_source(request.param), local_files_only=True)
    loaded.set_progress_bar_config(disable=True)
    assert type(loaded).__name__ == CLASSES[request.param]
    return loaded


def _draw(pipe: Any, prompt: str = PROMPT, steps: int = 2, **arguments: Any) -> np.ndarray:
    """Return one image, (64, 64, 3) in [0, 1]."""
    given = {"guidance_scale": 3.0, "generator": torch.Generator().manual_seed(7)} | arguments
    [image] = pipe(prompt, num_inference_steps=steps, output_type="np", **given).images
    assert image.shape == (SIZE, SIZE, 3) and np.isfinite(image).all()
    return image


@pytest.fixture(scope="module")
def picture() -> Image.Image:
    pixels = (draw(sample_scenes(seeds=[5], objects=2))[0].permute(1, 2, 0) + 1) * 127.5
    return Image.fromarray(pixels.round().clamp(0, 255).byte().numpy())


def test_scenes_come_with_the_package() -> None:
    assert "scenes" in scenes_there()
    for name in scenes_there():
        files = [path for path in Path(model_source(name)).rglob("*") if path.is_file()]
        assert sum(path.stat().st_size for path in files) <= 6 * 2**20
        assert not [path.name for path in files if path.suffix in (".bin", ".pt", ".ckpt", ".pkl")]


def test_a_model_is_saved_and_loaded_again(pipe: Any, tmp_path: Path) -> None:
    pipe.save_pretrained(tmp_path)
    again: Any = DiffusionPipeline.from_pretrained(tmp_path, local_files_only=True)
    again.set_progress_bar_config(disable=True)
    assert again.scheduler.config == pipe.scheduler.config
    assert np.array_equal(_draw(again), _draw(pipe))


def test_prompts_guidance_and_negative_prompts_change_the_image(pipe: Any) -> None:
    image = _draw(pipe)
    assert np.array_equal(_draw(pipe, negative_prompt=""), image)
    for name, other in {
        "prompt": _draw(pipe, "a red circle"),
        "guidance": _draw(pipe, guidance_scale=7.5),
        "no guidance": _draw(pipe, guidance_scale=1.0),
        "negative prompt": _draw(pipe, negative_prompt="a yellow star"),
    }.items():
        assert np.abs(other - image).max() > 0.01, name


def test_the_less_strength_the_nearer_to_the_picture_that_it_starts_from(pipe: Any, picture: Image.Image) -> None:
    to_image = AutoPipelineForImage2Image.from_pipe(pipe)
    target = np.asarray(picture) / 255
    little, much = (
        np.abs(_draw(to_image, image=picture, strength=strength, steps=4) - target).mean() for strength in (0.25, 1.0)
    )
    assert little < much


def test_inpainting_paints_where_the_mask_is_white(pipe: Any, picture: Image.Image) -> None:
    inpaint = AutoPipelineForInpainting.from_pipe(pipe)
    mask = np.zeros((SIZE, SIZE), np.uint8)
    mask[:, SIZE // 2 :] = 255
    image = _draw(inpaint, image=picture, mask_image=Image.fromarray(mask), strength=1.0)
    error = np.abs(image - np.asarray(picture) / 255).mean(axis=(0, 2))
    # A latent is four pixels wide, and its decoder looks beyond it.
    assert error[: SIZE // 2 - 8].mean() < error[SIZE // 2 + 8 :].mean()


def test_a_lora_is_loaded_and_taken_off(pipe: Any, tmp_path: Path) -> None:
    from diffusers.utils.state_dict_utils import convert_state_dict_to_diffusers
    from peft import LoraConfig
    from peft.utils.save_and_load import get_peft_model_state_dict

    name = "unet" if hasattr(pipe, "unet") else "transformer"
    network = copy.deepcopy(getattr(pipe, name))
    torch.manual_seed(8)
    network.add_adapter(LoraConfig(r=2, target_modules=["to_q", "to_v"], init_lora_weights=False))
    layers = convert_state_dict_to_diffusers(get_peft_model_state_dict(network))
    pipe.save_lora_weights(tmp_path, **{f"{name}_lora_layers": layers})
    before = _draw(pipe)
    pipe.load_lora_weights(tmp_path)
    assert np.abs(_draw(pipe) - before).max() > 0.01
    pipe.unload_lora_weights()
    assert np.array_equal(_draw(pipe), before)


@pytest.mark.parametrize("model", scenes_there())
def test_lml_generate_draws_and_scores_the_examples(model: str, tmp_path: Path) -> None:
    words = f"generate --model {model} --steps 2 --num-images 4 --batch-size 4 --guidance-scale 3 --gain 0.3 --compare"
    result = CliRunner().invoke(cli, [*words.split(), "--out", str(tmp_path)])
    assert result.exit_code == 0, result.output
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    assert [image["prompt"] for image in manifest["images"][:4]] == list(DEMO_PROMPTS[:4])
    images = {run: [np.asarray(read_png((tmp_path / run / f"{k:06d}.png").read_bytes())) for k in range(4)]
              for run in ("plain", "lml")}  # fmt: skip
    assert {image.shape for image in images["plain"]} == {(SIZE, SIZE, 3)}
    assert any((a != b).any() for a, b in zip(images["plain"], images["lml"], strict=True))
    runs = manifest["scenes"]["runs"]
    assert manifest["scenes"]["images"] == 4
    for run, values in runs.items():
        assert all(value is None or 0 <= value <= 1 for value in values.values())
        assert f"{run}: right in colour {100 * values['colour']:.1f}%" in result.stdout
    assert "difference lml - plain, points with 95% interval: colour" in result.stdout
    assert "never saw" not in result.stdout
    # The scores are those of the images: the difference of the runs is that of their means.
    difference = manifest["scenes"]["difference"]["colour"]["difference"]
    assert difference == pytest.approx(runs["lml"]["colour"] - runs["plain"]["colour"])


def test_words_that_the_models_never_saw_are_told(tmp_path: Path) -> None:
    words = "generate --model scenes --steps 1 --num-images 1 --no-lml --prompt".split()
    result = CliRunner().invoke(cli, [*words, "a red fox and a pink owl", "--out", str(tmp_path)])
    assert result.exit_code == 0, result.output
    assert "model='scenes' never saw the words fox, pink, owl. It knows the shapes circle, square" in result.stdout


def test_a_model_that_is_not_there_is_refused_in_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for place in ("scenes.models", "generation.checks"):
        monkeypatch.setattr(f"lmlangevin.{place}.scenes_there", lambda: ("scenes",))
    with pytest.raises(LMLError, match="model='scenes-flow' does not lie in this copy .* give one of scenes, embedded"):
        GenerateConfig(out=tmp_path / "out", model="scenes-flow", prompt="a red circle")
    with pytest.raises(LMLError, match="name='scenes-flow' does not lie in this copy .* give one of scenes"):
        load_pipeline("scenes-flow")
    with pytest.raises(LMLError, match="name='seens' is unknown; give one of scenes"):
        load_pipeline("seens")
    assert not (tmp_path / "out").exists()

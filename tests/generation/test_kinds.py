"""`lml generate` on every kind of pipeline, loaded from a folder as a user would."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from lmlangevin.core import LMLError
from lmlangevin.generation import GenerateConfig, generate

GUIDED = {"prompt": "a fox", "guidance_scale": 4.0}
SHORT = {"max_sequence_length": 77}
SQUARE = {"height": 64, "width": 64}
VIDEO = {"height": 32, "width": 32, "arguments": SHORT}

# Settings, sampler of the folder, network evaluations in 4 steps, those for guidance.
KINDS: dict[str, tuple[dict[str, Any], str, int, int]] = {
    "ddpm": ({}, "ddim", 4, 0),
    "ldm": ({}, "ddim", 4, 0),
    "sd15": (GUIDED | {"negative_prompt": "a dog"}, "pndm", 5, 5),
    "sd2-base": (GUIDED, "pndm", 5, 5),
    "sd21": (GUIDED, "ddim", 4, 4),
    "sd15-img2img": (GUIDED | {"image": "{start}", "strength": 0.5}, "pndm", 3, 3),
    "sd15-inpaint": (GUIDED | {"image": "{start}", "mask_image": "{mask}"}, "pndm", 5, 5),
    "sd15-inpaint9": (GUIDED | {"image": "{start}", "mask_image": "{mask}"}, "pndm", 5, 5),
    "sd15-canny": (GUIDED | {"control_image": "{start}"}, "pndm", 5, 5),
    "sd15-depth": (GUIDED | {"control_image": "{start}"}, "pndm", 5, 5),
    "sd15-pose": (GUIDED | {"control_image": "{start}"}, "pndm", 5, 5),
    "sdxl": (GUIDED, "euler", 4, 4),
    "sdxl-img2img": (GUIDED | {"image": "{start}", "strength": 0.5}, "euler", 2, 2),
    "sdxl-canny": (GUIDED | {"control_image": "{start}"}, "euler", 4, 4),
    "pixart": (
        GUIDED | SQUARE | {"arguments": SHORT | {"use_resolution_binning": False, "clean_caption": False}},
        "dpmpp-2m",
        4,
        4,
    ),
    "sd3": (GUIDED | {"arguments": SHORT}, "flow-euler", 4, 4),
    "flux": (GUIDED | SQUARE | {"arguments": SHORT}, "flow-euler", 4, 0),
    "wan": (GUIDED | VIDEO | {"num_frames": 5}, "flow-unipc", 4, 4),
    "ltx": (GUIDED | VIDEO | {"num_frames": 9}, "flow-euler", 4, 4),
}


@pytest.fixture
def fill(tmp_path: Path) -> Callable[[dict[str, Any]], dict[str, Any]]:
    """Put the paths of pictures into settings."""
    rng = np.random.default_rng(5)
    for name in ("start", "mask"):
        pixels = rng.integers(0, 255, (64, 64, 3), dtype=np.uint8)
        if name == "mask":
            pixels[:] = 0
            pixels[:, :32] = 255
        Image.fromarray(pixels).save(tmp_path / f"{name}.png")

    def filled(settings: dict[str, Any]) -> dict[str, Any]:
        named = {k: v for k, v in settings.items() if isinstance(v, str) and v.startswith("{")}
        return settings | {key: str(tmp_path / f"{value[1:-1]}.png") for key, value in named.items()}

    return filled


def _pixels(folder: Path) -> np.ndarray:
    rows = []
    for path in sorted(folder.glob("*.png")):
        with Image.open(path) as picture:
            frames = getattr(picture, "n_frames", 1)
            for frame in range(frames):
                picture.seek(frame)
                rows.append(np.asarray(picture.convert("RGB")).astype(int))
    return np.stack(rows)


def test_every_kind_is_here() -> None:
    from tiny_pipelines import KINDS as built

    assert set(KINDS) == set(built)


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_is_generated(
    kind: str, tiny_pipeline: Any, fill: Callable[[dict[str, Any]], dict[str, Any]], tmp_path: Path
) -> None:
    settings, sampler, nfe, guided = KINDS[kind]
    settings = fill(settings)
    config = GenerateConfig(
        out=tmp_path / "out",
        model=str(tiny_pipeline(kind)),
        steps=4,
        num_images=3,
        batch_size=2,
        compare=True,
        gain=0.4,
        **settings,
    )
    assert config.scheduler == sampler
    result = generate(config)
    plain, lml = _pixels(tmp_path / "out" / "plain"), _pixels(tmp_path / "out" / "lml")
    frames = settings.get("num_frames", 1)
    assert plain.shape == lml.shape and len(plain) == 3 * frames
    assert (plain != lml).any() and len({picture.tobytes() for picture in plain}) > frames
    for run in result.runs.values():
        assert (run.nfe, run.guidance_evaluations, run.non_finite) == (nfe, guided, 0)
    manifest = json.loads(Path(str(result.manifest)).read_text())
    assert manifest["status"] == "complete" and len(manifest["runs"]["lml"]["corrections"]) == nfe
    # The third image alone, in another batch: the same up to rounding.
    alone = GenerateConfig(
        out=tmp_path / "alone", **config.as_dict() | {"num_images": 1, "seed": 2, "compare": False, "nfe": None}
    )
    generate(alone)
    assert np.abs(_pixels(tmp_path / "alone" / "images") - lml[2 * frames :]).max() <= 1


@pytest.mark.parametrize(
    ("kind", "extra", "family"),
    [
        ("sd15", {"image": "{start}", "strength": 0.5}, "StableDiffusionImg2ImgPipeline"),
        ("sd15", {"image": "{start}", "mask_image": "{mask}"}, "StableDiffusionInpaintPipeline"),
        ("sd15", {"control_image": "{start}", "controlnet": "controlnet"}, "StableDiffusionControlNetPipeline"),
        (
            "sd15",
            {"image": "{start}", "control_image": "{start}", "controlnet": "controlnet", "strength": 0.5},
            "StableDiffusionControlNetImg2ImgPipeline",
        ),
        ("sd3", {"image": "{start}", "strength": 0.5, "arguments": SHORT}, "StableDiffusion3Img2ImgPipeline"),
    ],
    ids=str,
)
def test_a_text_pipeline_becomes_the_one_that_takes_the_pictures(
    kind: str,
    extra: dict[str, Any],
    family: str,
    tiny_pipeline: Any,
    fill: Callable[[dict[str, Any]], dict[str, Any]],
    tmp_path: Path,
) -> None:
    if "controlnet" in extra:
        extra = extra | {"controlnet": str(tiny_pipeline("sd15-canny") / "controlnet")}
    settings = GUIDED | fill(extra)
    out, model = tmp_path / "out", str(tiny_pipeline(kind))
    result = generate(GenerateConfig(out=out, model=model, steps=4, num_images=2, gain=0.4, **settings))
    manifest = json.loads(Path(str(result.manifest)).read_text())
    assert manifest["model"]["class"] == family
    assert result.runs["images"].non_finite == 0


def test_prompts_of_a_file_make_the_images_that_each_makes_alone(tiny_pipeline: Any, tmp_path: Path) -> None:
    (tmp_path / "prompts.csv").write_text("image_id,text\n9,a fox\n4,../a bird/../..\n", encoding="utf-8")
    model = str(tiny_pipeline("sd15"))
    common: dict[str, Any] = {"model": model, "steps": 3, "gain": 0.4, "guidance_scale": 4.0, "scheduler": "ddim"}
    generate(
        GenerateConfig(
            out=tmp_path / "all", prompt_file=str(tmp_path / "prompts.csv"), images_per_prompt=2, batch_size=3, **common
        )
    )
    images = json.loads((tmp_path / "all" / "manifest.json").read_text())["images"]
    assert [(image["prompt"], image["prompt_id"]) for image in images][1::2] == [("a fox", 9), ("../a bird/../..", 4)]
    together = _pixels(tmp_path / "all" / "images")
    # A prompt is no path: nothing lies beside the job.
    assert sorted(path.name for path in tmp_path.iterdir()) == ["all", "prompts.csv"]
    generate(
        GenerateConfig(out=tmp_path / "one", prompt="../a bird/../..", num_images=1, seed=3, batch_size=1, **common)
    )
    assert np.abs(_pixels(tmp_path / "one" / "images")[0] - together[3]).max() <= 1


def test_lora_weights_change_the_images_by_their_scale(tiny_pipeline: Any, tmp_path: Path) -> None:
    from diffusers import DiffusionPipeline
    from diffusers.utils.state_dict_utils import convert_state_dict_to_diffusers
    from peft import LoraConfig
    from peft.utils.save_and_load import get_peft_model_state_dict

    pipe: Any = DiffusionPipeline.from_pretrained(tiny_pipeline("sd15"))
    torch.manual_seed(8)
    pipe.unet.add_adapter(LoraConfig(r=2, target_modules=["to_q", "to_v"], init_lora_weights=False))
    layers = convert_state_dict_to_diffusers(get_peft_model_state_dict(pipe.unet))
    pipe.save_lora_weights(tmp_path / "lora", unet_lora_layers=layers)
    common: dict[str, Any] = {"model": str(tiny_pipeline("sd15")), "steps": 3, "num_images": 2, "gain": 0.4, **GUIDED}
    file = str(tmp_path / "lora" / "pytorch_lora_weights.safetensors")
    made = {}
    for name, extra in (
        ("plain", {}),
        ("folder", {"lora": str(tmp_path / "lora")}),
        ("file", {"lora": file}),
        ("none", {"lora": file, "lora_scale": 0.0}),
    ):
        generate(GenerateConfig(out=tmp_path / name, **common, **extra))
        made[name] = _pixels(tmp_path / name / "images")
    assert (made["folder"] != made["plain"]).any()
    assert np.array_equal(made["folder"], made["file"])
    assert np.array_equal(made["none"], made["plain"])
    for kind, words in (("flux", "none of its weights is of this model"), ("ldm", "LDMPipeline takes none")):
        settings = KINDS[kind][0] if kind == "flux" else {}
        with pytest.raises(LMLError, match=words):
            generate(GenerateConfig(out=tmp_path / "bad", model=str(tiny_pipeline(kind)), lora=file, **settings))
    assert not (tmp_path / "bad").exists()


def test_ways_to_save_memory_do_not_change_the_images(tiny_pipeline: Any, tmp_path: Path) -> None:
    common: dict[str, Any] = {"model": str(tiny_pipeline("sd15")), "steps": 3, "num_images": 2, "gain": 0.4, **GUIDED}
    generate(GenerateConfig(out=tmp_path / "a", **common))
    slices = ("attention-slicing", "vae-slicing")
    generate(GenerateConfig(out=tmp_path / "b", memory=slices, **common))
    assert np.abs(_pixels(tmp_path / "a" / "images") - _pixels(tmp_path / "b" / "images")).max() <= 1
    with pytest.raises(LMLError, match="model-cpu-offload.* moves networks to a GPU and back; give --device cuda"):
        generate(GenerateConfig(out=tmp_path / "c", memory=("model-cpu-offload",), **common))
    with pytest.raises(LMLError, match="vae-tiling.*: LDMPipeline has none"):
        generate(GenerateConfig(out=tmp_path / "c", model=str(tiny_pipeline("ldm")), memory=("vae-tiling",)))
    assert not (tmp_path / "c").exists()


def test_the_release_is_a_third_run_on_the_same_seeds(tiny_pipeline: Any, tmp_path: Path) -> None:
    config = GenerateConfig(
        out=tmp_path / "a",
        model=str(tiny_pipeline("sd15")),
        scheduler="ddim",
        steps=3,
        num_images=2,
        gain=0.4,
        compare=True,
        release="float64@0.001",
        **GUIDED,
    )
    result = generate(config)
    assert list(result.runs) == ["plain", "lml", "release"]
    plain, release = _pixels(tmp_path / "a" / "plain"), _pixels(tmp_path / "a" / "release")
    # In float64 its formula is the identity.
    assert np.array_equal(plain, release)
    generate(GenerateConfig(out=tmp_path / "b", **config.as_dict() | {"release": "float32@1e-6", "overwrite": False}))
    assert (_pixels(tmp_path / "b" / "release") != plain).any()


@pytest.mark.parametrize(
    ("kind", "settings", "words"),
    [
        ("flux", {"prompt": "fox", "height": 64, "width": 72}, "multiples of 16; give 64"),
        ("sd15", {}, "which needs prompt; give --prompt"),
        ("sd15-canny", {"prompt": "fox"}, "needs image; give --control-image"),
        ("sd15-img2img", {"prompt": "fox"}, "needs image; give --image"),
        ("sd15", {"prompt": "fox", "control_image": "{start}"}, "takes none; give --controlnet with it"),
        ("sd15", {"prompt": "fox", "num_frames": 3}, "num_frames=3 .* takes none; leave it out"),
        ("sd15", {"prompt": "fox", "arguments": {"style": "x"}}, "style='x' .* takes none"),
        ("sd15", {"prompt": "fox", "arguments": {"num_inference_steps": 3}}, "the job's own to give; give --steps"),
        ("sd15", {"prompt": "fox", "arguments": {"num_images_per_prompt": 3}}, "give --images-per-prompt"),
        ("sd15", {"prompt": "fox", "arguments": {"negative_prompt": "b"}}, "give --negative-prompt"),
        ("sd15", {"prompt": "fox", "arguments": {"timesteps": [900, 500]}}, "give --steps"),
        ("sd15", {"prompt": "fox", "image": "{start}", "nfe": 6}, "nfe=6 with an image to start from"),
        ("sd15", {"prompt": "fox", "image": "{start}", "nfe": 6, "strength": 0.5}, "strength says; give --steps"),
        ("ldm", {"prompt": "fox"}, "prompt=.* LDMPipeline takes none"),
        ("ldm", {"image": "{start}"}, "no version that takes a picture"),
        ("wan", {"prompt": "fox", "scheduler": "unipc"}, "predicts a flow velocity"),
    ],
    ids=str,
)
def test_what_a_pipeline_cannot_do_is_refused_before_a_folder_is_made(
    kind: str,
    settings: dict[str, Any],
    words: str,
    tiny_pipeline: Any,
    fill: Callable[[dict[str, Any]], dict[str, Any]],
    tmp_path: Path,
) -> None:
    with pytest.raises(LMLError, match=words) as caught:
        generate(GenerateConfig(out=tmp_path / "out", model=str(tiny_pipeline(kind)), **fill(settings)))
    assert "\n" not in str(caught.value) and not (tmp_path / "out").exists()


def test_a_sampler_without_a_measured_gain_stays_plain_and_says_so(tiny_pipeline: Any, tmp_path: Path) -> None:
    settings = KINDS["wan"][0]
    result = generate(
        GenerateConfig(
            out=tmp_path / "out", model=str(tiny_pipeline("wan")), steps=2, num_images=1, compare=True, **settings
        )
    )
    assert np.array_equal(_pixels(tmp_path / "out" / "plain"), _pixels(tmp_path / "out" / "lml"))
    assert [note for note in result.notes if "No gain was measured for flow-unipc" in note and "flow-euler" in note]


def test_a_pipeline_that_is_unsafe_with_a_history_is_refused_by_name(
    tiny_pipeline: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from lmlangevin.schedulers import refused

    monkeypatch.setattr(refused, "refusal", lambda family: "it goes back in time")
    model = str(tiny_pipeline("sd15"))
    with pytest.raises(LMLError, match="StableDiffusionPipeline, which LML does not support: it goes back in time"):
        generate(GenerateConfig(out=tmp_path / "out", model=model, prompt="a fox", num_images=1))
    assert not (tmp_path / "out").exists()
    generate(GenerateConfig(out=tmp_path / "out", model=model, prompt="a fox", num_images=1, steps=2, lml=False))

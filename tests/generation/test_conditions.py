"""What a pipeline is given beside noise: checked before a model is loaded, and kept for each image."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from lmlangevin.core import LMLError
from lmlangevin.generation import GenerateConfig, generate
from lmlangevin.generation.conditions import MEMORY
from lmlangevin.generation.folder import find_job
from lmlangevin.generation.images import first_frame, from_arrays, png_bytes, read_png
from lmlangevin.generation.store import open_store

HUB = "owner/name"


def _picture(path: Path, colour: tuple[int, int, int] = (200, 30, 60), size: int = 24) -> Path:
    Image.new("RGB", (size, size), colour).save(path)
    return path


@pytest.fixture
def files(tmp_path: Path) -> Path:
    _picture(tmp_path / "start.png")
    (tmp_path / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\nnot a picture")
    (tmp_path / "empty").mkdir()
    (tmp_path / "three").mkdir()
    for index in range(3):
        _picture(tmp_path / "three" / f"{index}.png", (80 * index, 0, 0))
    (tmp_path / "prompts.txt").write_text("one\ntwo\nthree\n", encoding="utf-8")
    return tmp_path


MISTAKES: list[tuple[dict[str, Any], str, str]] = [
    ({"prompt": "  "}, "prompt='  ' is empty", "give a line of text"),
    ({"prompt": "a\nb"}, "prompt holds the character '\\n'", "give one line"),
    ({"prompt": "{prompts.txt}"}, "is the name of a file", "--prompt-file"),
    ({"prompt": "fox", "prompt_file": "{prompts.txt}"}, "exclude each other", "give one"),
    ({"prompt_file": "{nowhere.txt}"}, "cannot be read", "one prompt a line"),
    ({"prompt_file": "{prompts.txt}", "images_per_prompt": 0}, "images_per_prompt=0", "1 or more"),
    ({"images_per_prompt": 2}, "images_per_prompt=2 goes with prompt_file", "num_images"),
    ({"prompt_file": "{prompts.txt}", "num_images": 4}, "num_images=4 is more than the 3", "3 or fewer"),
    ({"guidance_scale": float("inf")}, "guidance_scale=inf", "such as 7.5"),
    ({"guidance_scale": -1.0}, "guidance_scale=-1.0 is negative", "give 0 or more"),
    ({"arguments": {"true_cfg_scale": -2}}, "true_cfg_scale=-2 is negative", "give 0 or more"),
    (
        {"image": "{start.png}", "strength": 0.1, "steps": 5},
        "strength=0.1 of steps=5",
        "--strength 0.2 or more, or --steps 10",
    ),
    ({"image": "{start.png}", "strength": 0.99, "steps": 1}, "strength=0.99 of steps=1", "--strength 1 or more"),
    ({"height": 100, "width": 96}, "height=100 fits no model", "multiple of 8"),
    ({"height": 0, "width": 96}, "height=0 fits no model", "multiple of 8"),
    ({"height": 64}, "height=64 and width=None", "give both"),
    ({"num_frames": 0}, "num_frames=0", "1 or more"),
    ({"strength": 0.5}, "strength=0.5 needs a picture", "--image"),
    ({"mask_image": "{start.png}"}, "needs a picture to start from", "--image"),
    ({"image": "{start.png}", "strength": 1.5}, "strength=1.5", "up to 1"),
    ({"image": "{nowhere.png}"}, "is not there", "give a picture"),
    ({"image": "{empty}"}, "is a folder without pictures", "give another"),
    ({"image": "{three}", "prompt": "fox"}, "holds 3 pictures for 1 prompt;", "one for all"),
    ({"controlnet": HUB}, "needs something to follow", "--control-image"),
    ({"lora": "nowhere.safetensors"}, "lora='nowhere.safetensors' is not there", "give a safetensors file"),
    ({"memory": ("slicing",)}, "memory='slicing' is unknown", "vae-slicing"),
    ({"arguments": 3}, "arguments=3 is no mapping", "names and values"),
    ({"release": "float32@0.001"}, "third run", "--compare"),
    ({"release": "float32", "compare": True}, "is no DTYPE@LAMBDA", "float32@0.001"),
    ({"release": "float32@nan", "compare": True}, "is no DTYPE@LAMBDA", "float32@0.001"),
    ({"release": "int8@0.1", "compare": True}, "is no DTYPE@LAMBDA", "float32@0.001"),
    ({"release": "float32@0.1", "compare": True, "scheduler": "unipc"}, "not defined for scheduler='unipc'", "ddim"),
]


@pytest.mark.parametrize(("settings", "named", "remedy"), MISTAKES, ids=[str(m[0]) for m in MISTAKES])
def test_a_mistake_is_one_line_before_anything_is_loaded(
    settings: dict[str, Any], named: str, remedy: str, files: Path
) -> None:
    filled = {
        key: str(files / value[1:-1]) if isinstance(value, str) and value.startswith("{") else value
        for key, value in settings.items()
    }
    with pytest.raises(LMLError) as caught:
        GenerateConfig(out=files / "out", model=HUB, **filled)
    text = str(caught.value)
    assert named in text and remedy in text.split(named)[1] and "\n" not in text
    assert not (files / "out").exists()


def test_built_in_models_take_none_of_it(files: Path) -> None:
    for name, value in (
        ("prompt", "fox"),
        ("height", 64),
        ("image", str(files / "start.png")),
        ("lora", HUB),
        ("memory", ("vae-slicing",)),
        ("arguments", {"eta": 0.0}),
    ):
        with pytest.raises(LMLError, match=f"{name}=.* does not fit model='embedded', which is unconditional"):
            GenerateConfig(out=files / "out", **{name: value})


def test_prompts_are_dealt_to_images_in_order(files: Path) -> None:
    config = GenerateConfig(out=files / "out", model=HUB, prompt_file=str(files / "prompts.txt"), images_per_prompt=2)
    assert config.num_images == 6
    assert [config.prompt_of(k) for k in range(6)] == ["one", "one", "two", "two", "three", "three"]
    assert config.prompt_id_of(0) is None
    few = dataclasses.replace(config, num_images=3)
    assert few.num_images == 3
    again = GenerateConfig(out=files / "out", **json.loads(json.dumps(config.as_dict())))
    assert again == config


def test_pictures_of_a_folder_belong_to_the_prompts_by_name(files: Path) -> None:
    config = GenerateConfig(
        out=files / "out",
        model=HUB,
        prompt_file=str(files / "prompts.txt"),
        images_per_prompt=2,
        image=str(files / "three"),
        control_image=str(files / "start.png"),
        height=16,
        width=32,
    )
    colours = [config.picture_of("image", k).getpixel((0, 0)) for k in range(6)]
    assert colours == [(80 * (k // 2), 0, 0) for k in range(6)]
    assert {config.picture_of("control_image", k).size for k in range(6)} == {(32, 16)}
    found = config.inputs()
    assert set(found) == {"prompt_file", "image", "control_image"}
    _picture(files / "three" / "2.png", (1, 2, 3))
    assert config.inputs()["image"] != found["image"]
    assert config.inputs()["control_image"] == found["control_image"]


def test_a_broken_picture_is_found_before_a_model_is_loaded(files: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from diffusers.pipelines.pipeline_utils import DiffusionPipeline

    def load(*args: Any, **kwargs: Any) -> None:
        raise AssertionError("a model was loaded")

    monkeypatch.setattr(DiffusionPipeline, "from_pretrained", load)
    with pytest.raises(LMLError, match="image=.*broken.png.* cannot be read as a picture .*give another file"):
        generate(GenerateConfig(out=files / "out", model=HUB, image=str(files / "broken.png")))
    assert not (files / "out").exists()


def test_a_job_goes_on_with_equal_files_only(files: Path, text_pipeline: Path) -> None:
    prompts = files / "prompts.txt"
    config = GenerateConfig(
        out=files / "out", model=str(text_pipeline), prompt_file=str(prompts), steps=2, batch_size=2, gain=0.5
    )
    result = generate(config)
    manifest = json.loads(Path(str(result.manifest)).read_text())
    assert [image["prompt"] for image in manifest["images"]] == ["one", "two", "three"]
    assert set(manifest["inputs"]) == {"prompt_file"}
    store = open_store(config.out)
    # Another batch size and other ways of saving memory are the same job.
    assert find_job(store, dataclasses.replace(config, resume=True, batch_size=1, memory=MEMORY[:1])) is not None
    prompts.write_text("one\ntwo\nfour\n", encoding="utf-8")
    with pytest.raises(LMLError, match="another configuration: prompt_file"):
        find_job(store, dataclasses.replace(config, resume=True))


def test_arrays_become_pictures_and_what_is_no_number_is_told() -> None:
    import numpy as np

    rng = np.random.default_rng(3)
    values = rng.random((2, 4, 6, 3), dtype=np.float32) * 1.2 - 0.1
    values[1, 2, 3, 0] = np.nan
    pictures, finite = from_arrays(values)
    assert finite == [True, False]
    expected = np.round(values[0].clip(0, 1) * 255).astype(np.uint8)
    assert np.array_equal(np.asarray(pictures[0]), expected)
    assert np.asarray(pictures[1])[2, 3, 0] == 128
    videos, finite = from_arrays(rng.random((2, 5, 4, 6, 3), dtype=np.float32))
    assert finite == [True, True] and len(videos) == 2 and len(list(videos[0])) == 5  # type: ignore[arg-type]


def test_a_video_is_an_animated_png() -> None:
    import io

    import numpy as np

    videos, _ = from_arrays(np.random.default_rng(4).random((1, 5, 8, 8, 3), dtype=np.float32))
    data = png_bytes(videos[0])
    with Image.open(io.BytesIO(data)) as stored:
        assert stored.n_frames == 5  # type: ignore[attr-defined]
        assert stored.info["duration"] == 62
    assert np.array_equal(np.asarray(read_png(data)), np.asarray(first_frame(videos[0])))


def test_pictures_of_a_folder_leave_out_what_is_hidden(files: Path) -> None:
    (files / "three" / "._0.png").write_bytes(b"metadata")
    (files / "three" / "4.png").mkdir()
    config = GenerateConfig(
        out=files / "out", model=HUB, prompt_file=str(files / "prompts.txt"), image=str(files / "three"), strength=0.5
    )
    assert [config.picture_of("image", k).getpixel((0, 0)) for k in range(3)] == [(80 * k, 0, 0) for k in range(3)]

"""The reader of scenes in the place of BLIP and UniDet, on drawn pictures of which everything is known."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner
from PIL import Image

from lmlangevin.cli import cli
from lmlangevin.evaluation.compbench.names import file_name
from lmlangevin.scenes import Request, draw, sample_scenes


def layout(folder: Path, *, swap: bool = False) -> list[str]:
    """Draw twelve scenes with a relation as a sampler's folder; if `swap`, under the prompt of the next one."""
    scenes = sample_scenes(range(2 * 10**13, 2 * 10**13 + 40), 2)
    images = ((draw(scenes) + 1) * 127.5).round().byte().permute(0, 2, 3, 1).numpy()
    chosen = [i for i in range(40) if scenes.relation(i)][:12]
    prompts = [str(Request(scenes.nouns(i), scenes.relation(i))) for i in chosen]
    told = prompts[1:] + prompts[:1] if swap else prompts
    (folder / "samples").mkdir(parents=True)
    for index, (i, prompt) in enumerate(zip(chosen, told, strict=True)):
        Image.fromarray(images[i]).save(folder / "samples" / file_name(prompt, index))
    return told


def score(*words: str) -> str:
    result = CliRunner().invoke(cli, ["compbench", "score", *words])
    assert result.exit_code == 0, result.output
    return result.output


@pytest.mark.parametrize("category", ["color", "complex"])
def test_drawn_scenes_fulfil_their_own_prompts(tmp_path: Path, category: str) -> None:
    home = tmp_path / "model" / category / "drawn"
    layout(home)
    out = score(str(home), "--vqa", "scenes")
    assert "BLIP-VQA 1.0000" in out and "spatial relation 1.0000" in out
    rows = json.loads((home / "labels/annotation_obj_detection_2d/vqa_result.json").read_text())
    assert [row["question_id"] for row in rows] == list(range(12)) and {row["answer"] for row in rows} == {1.0}
    whole = home / "annotation_3_in_1/vqa_result.json"
    assert whole.is_file() == (category == "complex")
    if whole.is_file():
        assert {row["answer"] for row in json.loads(whole.read_text())} == {1.0}


def test_other_scenes_fulfil_them_less_and_a_comparison_says_so(tmp_path: Path) -> None:
    homes = [tmp_path / "model" / "color" / name for name in ("swapped", "drawn")]
    layout(homes[0], swap=True)
    assert "BLIP-VQA 0.0" in score(str(homes[0]), "--vqa", "scenes")


@pytest.mark.parametrize(
    ("words", "remedy"),
    [((), "give one of --blip-model and --vqa scenes"), (("--vqa", "scenes", "--blip-model", "x"), "give one of")],
)
def test_one_of_two_networks_is_named(tmp_path: Path, words: tuple[str, ...], remedy: str) -> None:
    layout(tmp_path / "a" / "color" / "b")
    result = CliRunner().invoke(cli, ["compbench", "score", str(tmp_path / "a/color/b"), *words])
    assert result.exit_code != 0 and remedy in result.stderr


def test_prompts_without_objects_are_refused(tmp_path: Path) -> None:
    home = tmp_path / "model" / "color" / "s"
    (home / "samples").mkdir(parents=True)
    Image.new("RGB", (64, 64)).save(home / "samples" / file_name("a photo of a fox", 0))
    result = CliRunner().invoke(cli, ["compbench", "score", str(home), "--vqa", "scenes"])
    assert result.exit_code != 0 and "names no objects of scenes" in result.stderr


def test_images_of_another_size_are_refused(tmp_path: Path) -> None:
    home = tmp_path / "model" / "color" / "s"
    (home / "samples").mkdir(parents=True)
    Image.new("RGB", (32, 32)).save(home / "samples" / file_name("a red circle", 0))
    result = CliRunner().invoke(cli, ["compbench", "score", str(home), "--vqa", "scenes"])
    assert result.exit_code != 0 and "the reader takes images of 64x64" in result.stderr

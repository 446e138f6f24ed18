"""BLIP-VQA of a folder: rounding, the official files, and runs that are stopped. The network is a formula here."""

from __future__ import annotations

import json
import sys
import types
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from torch import Tensor

from lmlangevin.core.errors import LMLError
from lmlangevin.evaluation.compbench import LABEL
from lmlangevin.evaluation.compbench.blip import prepare_image
from lmlangevin.evaluation.compbench.chunks import SpacyChunker, chunker_name, questions
from lmlangevin.evaluation.compbench.layout import read_samples
from lmlangevin.evaluation.compbench.vqa import PROGRESS_FILE, BlipScores, answer_of, score_folder, scorer_of

# Questions -----------------------------------------------------------------------------------------------------------


def by_comma(prompt: str) -> list[str]:
    return [chunk for chunk in prompt.split(", ") if chunk]


def test_questions_are_the_first_eight_chunks_that_name_a_thing() -> None:
    prompt = "a chicken, the left, a girl, top, Top, the side, the right, the right hand"
    assert questions(prompt, by_comma) == ("a chicken?", "a girl?", "Top?", "the right hand?")
    assert questions(", ".join(f"thing {k}" for k in range(12)), by_comma) == tuple(f"thing {k}?" for k in range(8))
    # What is left out does not count among the eight.
    assert len(questions("top, " * 5 + ", ".join("abcdefghij"), by_comma)) == 8
    assert questions("", by_comma) == ()
    assert chunker_name(by_comma) == "by_comma"


def test_spacy_is_asked_for_noun_chunks_and_names_its_versions(monkeypatch: pytest.MonkeyPatch) -> None:
    class Pipeline:
        meta = {"version": "3.8.0"}

        def __call__(self, text: str) -> Any:
            return types.SimpleNamespace(noun_chunks=[types.SimpleNamespace(text=word) for word in text.split(" and ")])

    def load(name: str) -> Pipeline:
        assert name == "en_core_web_sm"
        return Pipeline()

    spacy: Any = types.ModuleType("spacy")
    spacy.__version__, spacy.load = "3.8.7", load
    monkeypatch.setitem(sys.modules, "spacy", spacy)
    chunker = SpacyChunker()
    assert chunker("a cat and a dog") == ["a cat", "a dog"]
    assert chunker_name(chunker) == "spacy 3.8.7, en_core_web_sm 3.8.0"
    spacy.load = lambda name: (_ for _ in ()).throw(OSError("[E050] Can't find model 'en_core_web_sm'."))
    commands = r"\[compbench\]' and then python -m spacy download en_core_web_sm"
    with pytest.raises(LMLError, match=rf"E050.*; run pip install .*{commands}"):
        SpacyChunker()
    monkeypatch.setitem(sys.modules, "spacy", None)
    with pytest.raises(LMLError, match=commands):
        SpacyChunker()


# Answers -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("probabilities", "answer"),
    [
        ([], "1.0000"),
        ([0.75], "0.7500"),
        ([0.75, 0.75, 0.75], "0.4219"),  # 0.421875
        ([0.5] * 8, "0.0039"),
        ([0.95004, 0.95004], "0.9025"),  # 0.9026 if the factors kept their digits
        ([0.99996, 0.5], "0.5000"),
        ([0.00004, 0.9], "0.0000"),
        # In float32, as the official script has it; float64 would give 0.4993 and 0.4991.
        ([0.5, 0.9985], "0.4992"),
        ([0.5, 0.9983], "0.4992"),
    ],
)
def test_factors_and_product_are_rounded_to_four_decimals(probabilities: list[float], answer: str) -> None:
    assert answer_of(probabilities) == answer


# A folder ------------------------------------------------------------------------------------------------------------


class Formula:
    """P(yes) is the image's first red value over 255 for the first question, and 0.5 for every other."""

    name, weight_hash, resolution = "formula", "ab" * 32, 4

    def __init__(self, die_at: int = 10**9) -> None:
        self.calls: list[int] = []
        self._die_at = die_at

    def prepare(self, path: Path) -> Tensor:
        return prepare_image(path, self.resolution)

    def probabilities(self, images: Tensor, questions: Sequence[Sequence[str]], batch_size: int) -> list[list[float]]:
        if len(self.calls) == self._die_at:
            raise KeyboardInterrupt
        assert len(images) == len(questions) <= batch_size and images.shape[1:] == (3, 4, 4)
        self.calls.append(len(images))
        red = (images[:, 0, 0, 0] * 0.26862954 + 0.48145466).tolist()
        return [[value, *[0.5] * (len(texts) - 1)][: len(texts)] for value, texts in zip(red, questions, strict=True)]


PROMPTS = ["a cat, a dog", "a bowl", ""]
REDS = [255, 51, 204, 102, 0, 153]
ANSWERS = ["0.5000", "0.1000", "0.8000", "0.4000", "1.0000", "1.0000"]


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """Six plain pictures of three prompts; the last prompt has no noun chunk."""
    folder = tmp_path / "color" / "lml"
    (folder / "samples").mkdir(parents=True)
    for k, red in enumerate(REDS):
        Image.new("RGB", (9, 7), (red, 0, 0)).save(folder / "samples" / f"{PROMPTS[k // 2]}_{k:06d}.png")
    return folder


def score(home: Path, blip: Any = None, chunker: Callable[[str], list[str]] = by_comma, **options: Any) -> BlipScores:
    options = {"batch_size": 4} | options
    return score_folder(home, read_samples(home), blip or Formula(), chunker, **options)


def official(home: Path) -> Any:
    return json.loads((home / "annotation_blip" / "vqa_result.json").read_text())


def files(home: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (home / "annotation_blip").iterdir()}


def test_the_official_files_are_written_and_the_answers_kept(home: Path) -> None:
    seen: list[tuple[str, int, int]] = []
    found = score(home, progress=lambda *report: seen.append(report))
    assert official(home) == [{"question_id": k, "answer": answer} for k, answer in enumerate(ANSWERS)]
    assert found.scores == tuple(map(float, ANSWERS)) and found.mean == pytest.approx(3.8 / 6)
    text = (home / "annotation_blip" / "blip_vqa_score.txt").read_text()
    assert text.startswith("BLIP-VQA score:") and float(text.split(":")[1]) == pytest.approx(3.8 / 6)
    assert seen == [("lml", 4, 6), ("lml", 6, 6)]
    assert (found.computed, found.without_questions, found.prompts) == (6, 2, 3)
    assert (
        found.notes[0].startswith("3 prompts where") and "2 images have a prompt without noun chunks" in found.notes[1]
    )
    kept = json.loads((home / PROGRESS_FILE).read_text())
    assert kept["label"] == LABEL and kept["scorer"] == found.scorer
    assert found.scorer == {"weight_hash": "ab" * 32, "resolution": 4, "chunker": "by_comma"}
    entry = kept["images"]["a cat, a dog_000001.png"]
    assert entry["questions"] == ["a cat?", "a dog?"] and entry["p_yes"] == pytest.approx([0.2, 0.5], abs=1e-6)
    assert scorer_of(home) == found.scorer
    assert found.as_dict()["images_each"] == 2 and json.dumps(found.as_dict())


def test_a_run_that_is_stopped_goes_on_and_ends_as_one_that_was_not(home: Path, tmp_path: Path) -> None:
    whole = score(home)
    expected = files(home)
    for path in list((home / "annotation_blip").iterdir()):
        path.unlink()
    with pytest.raises(KeyboardInterrupt):
        score(home, Formula(die_at=2), batch_size=2)
    # Two of three batches are known, and nothing looks like a result.
    assert list(files(home)) == [Path(PROGRESS_FILE).name]
    assert len(json.loads((home / PROGRESS_FILE).read_text())["images"]) == 4
    assert scorer_of(home) is None
    blip = Formula()
    seen: list[tuple[str, int, int]] = []
    again = score(home, blip, batch_size=2, progress=lambda *report: seen.append(report))
    assert blip.calls == [2] and seen == [("lml", 6, 6)]
    assert (again.scores, again.computed) == (whole.scores, 2)
    assert files(home) == expected
    blip = Formula()
    assert score(home, blip).computed == 0 and blip.calls == [] and files(home) == expected


def test_an_image_that_changed_is_looked_at_again_and_one_that_is_gone_forgotten(home: Path) -> None:
    score(home)
    Image.new("RGB", (9, 7), (51, 0, 0)).save(home / "samples" / "a bowl_000002.png")
    with pytest.raises(KeyboardInterrupt):
        score(home, Formula(die_at=0))
    # The old result is of other images by now.
    assert list(files(home)) == [Path(PROGRESS_FILE).name]
    blip = Formula()
    assert score(home, blip).scores == (0.5, 0.1, 0.2, 0.4, 1.0, 1.0)
    assert blip.calls == [1]
    for k in (4, 5):
        (home / "samples" / f"_{k:06d}.png").unlink()
    blip = Formula()
    assert score(home, blip).scores == (0.5, 0.1, 0.2, 0.4) and blip.calls == []
    assert len(official(home)) == 4
    assert score(home).computed == 0


def test_a_result_of_another_script_is_never_replaced(home: Path) -> None:
    foreign = [{"question_id": k, "answer": "0.1234"} for k in range(6)]
    (home / "annotation_blip").mkdir()
    (home / "annotation_blip" / "vqa_result.json").write_text(json.dumps(foreign))
    with pytest.raises(LMLError, match="is not of lml compbench score; move it away"):
        score(home)
    assert official(home) == foreign and scorer_of(home) is None
    (home / "annotation_blip" / "vqa_result.json").unlink()
    score(home)
    # The official script, run over a result of this package.
    (home / "annotation_blip" / "vqa_result.json").write_text(json.dumps(foreign))
    with pytest.raises(LMLError, match="is not of lml compbench score"):
        score(home)
    assert official(home) == foreign and scorer_of(home) is None


def test_answers_of_two_scorers_never_mix(home: Path) -> None:
    score(home)
    before = files(home)
    other = Formula()
    other.weight_hash = "cd" * 32
    with pytest.raises(LMLError, match="have weight_hash 'ab.*' and not 'cd.*'; .*delete the file to score anew"):
        score(home, other)
    with pytest.raises(LMLError, match="have chunker 'by_comma' and not 'list'"):
        score(home, chunker=list)
    assert files(home) == before


@pytest.mark.parametrize("text", ["[]", "{}", '{"format": "x", "scorer": {}, "images": {}}', "no JSON"])
def test_damaged_answers_are_told(home: Path, text: str) -> None:
    (home / "annotation_blip").mkdir()
    (home / PROGRESS_FILE).write_text(text)
    with pytest.raises(LMLError, match="damaged; delete the file|cannot be read .*; delete it"):
        score(home)


def test_arguments_without_sense_are_refused(home: Path) -> None:
    with pytest.raises(LMLError, match="batch_size 0"):
        score(home, batch_size=0)
    with pytest.raises(LMLError, match="samples: none given"):
        score_folder(home, [], Formula(), by_comma)  # pyright: ignore[reportArgumentType]
    assert not (home / "annotation_blip").exists()

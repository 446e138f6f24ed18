"""Results of the official scripts, the 3-in-1 score, and paired differences."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from statistics import NormalDist
from typing import Any

import numpy as np
import pytest
from scipy import stats

from lmlangevin.core.errors import LMLError
from lmlangevin.evaluation.compbench import CATEGORIES
from lmlangevin.evaluation.compbench.bootstrap import paired_difference, prompt_means
from lmlangevin.evaluation.compbench.compare import compare_folders
from lmlangevin.evaluation.compbench.layout import read_samples
from lmlangevin.evaluation.compbench.prompts import ComplexKinds
from lmlangevin.evaluation.compbench.scores import METRIC_OF, METRICS, read_scores, three_in_one, write_scores

PROMPTS = ["The hat was on top.", "the dog was lying.", "The cat sat near it", "The cup."]


def lay(folder: Path, prompts: list[str] = PROMPTS, each: int = 2, first: int = 0) -> Path:
    """An empty file for each image, in the order of prompts."""
    (folder / "samples").mkdir(parents=True)
    for k, prompt in enumerate(prompt for prompt in prompts for _ in range(each)):
        (folder / "samples" / f"{prompt}_{first + k:06d}.png").touch()
    return folder


def put(folder: Path, name: str, answers: Mapping[int, Any]) -> None:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps([{"question_id": k, "answer": answer} for k, answer in answers.items()]))


# Results -------------------------------------------------------------------------------------------------------------


def test_results_are_read_at_the_official_paths(tmp_path: Path) -> None:
    assert set(METRIC_OF) == set(CATEGORIES) and set(METRIC_OF.values()) == set(METRICS)
    home = lay(tmp_path / "lml")
    samples = read_samples(home)
    places = {
        "blip": "annotation_blip",
        "clip": "annotation_clip",
        "unidet-2d": "labels/annotation_obj_detection_2d",
        "unidet-3d": "labels/annotation_obj_detection_3d",
        "numeracy": "annotation_num",
        "3-in-1": "annotation_3_in_1",
    }
    for seed, (metric, place) in enumerate(places.items()):
        with pytest.raises(LMLError, match=f"has no {place}/vqa_result.json; run .*"):
            read_scores(home, metric, samples)
        answers = np.random.default_rng(1000 + seed).random(8).round(4)
        # BLIP's answers are text, the others' are numbers; and no script promises an order.
        text = [f"{answer:.4f}" if metric == "blip" else answer for answer in answers.tolist()]
        put(home, f"{place}/vqa_result.json", {k: text[k] for k in (3, 1, 0, 2, 7, 6, 5, 4)})
        assert read_scores(home, metric, samples) == tuple(answers.tolist())
    with pytest.raises(LMLError, match="metric 'vqa': unknown; give one of blip, clip"):
        read_scores(home, "vqa", samples)


def test_older_paths_of_unidet_are_known(tmp_path: Path) -> None:
    home = lay(tmp_path / "lml", ["a", "b"], 1)
    put(home, "annotation_obj_detection/vqa_result.json", {0: 0.1, 1: 0.2})
    assert read_scores(home, "unidet-2d", read_samples(home)) == (0.1, 0.2)
    put(home, "labels/annotation_obj_detection/vqa_result.json", {0: 0.3, 1: 0.4})
    assert read_scores(home, "unidet-2d", read_samples(home)) == (0.3, 0.4)


def test_unidets_scripts_number_by_file_and_the_others_by_place(tmp_path: Path) -> None:
    home = lay(tmp_path / "lml", ["a", "b"], 2, first=40)
    samples = read_samples(home)
    put(home, "annotation_num/vqa_result.json", {43: 0.3, 40: 0.0, 41: 0.1, 42: 0.2})
    put(home, "annotation_clip/vqa_result.json", {0: 0.0, 1: 0.1, 2: 0.2, 3: 0.3})
    assert read_scores(home, "numeracy", samples) == read_scores(home, "clip", samples) == (0.0, 0.1, 0.2, 0.3)
    put(home, "annotation_num/vqa_result.json", {0: 0.0, 1: 0.1, 2: 0.2, 3: 0.3})
    with pytest.raises(LMLError, match="has 4 answers that are not those of the 4 images; run the official UniDet"):
        read_scores(home, "numeracy", samples)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "cannot be read"),
        ("3", "is no list of question_id and answer"),
        ('[{"question_id": 0}]', "is no list of question_id and answer"),
        ('[{"question_id": 0, "answer": "yes"}]', "is no list of question_id and answer"),
        ('[{"question_id": 0, "answer": 1}, {"question_id": 0, "answer": 1}]', "has an image twice"),
        ('[{"question_id": 0, "answer": NaN}, {"question_id": 1, "answer": 1}]', "an answer that is no number"),
        ('[{"question_id": 0, "answer": 1}]', "has 1 answers that are not those of the 2 images"),
    ],
)
def test_results_that_are_none_are_refused(tmp_path: Path, text: str, message: str) -> None:
    home = lay(tmp_path / "lml", ["a", "b"], 1)
    (home / "annotation_clip").mkdir()
    (home / "annotation_clip" / "vqa_result.json").write_text(text)
    with pytest.raises(LMLError, match=message):
        read_scores(home, "clip", read_samples(home))


# 3-in-1 --------------------------------------------------------------------------------------------------------------

KINDS = ComplexKinds(
    all=frozenset({"the hat was on top", "the dog was lying", "the cat sat near it", "the cup"}),
    spatial=frozenset({"the hat was on top"}),
    # A prompt of both kinds counts as spatial.
    action=frozenset({"the dog was lying", "the hat was on top"}),
)


def test_the_three_scores_are_weighted_by_the_kind_of_the_prompt(tmp_path: Path) -> None:
    home = lay(tmp_path / "lml", first=10)
    put(home, "annotation_blip/vqa_result.json", {k: f"0.{k + 1}000" for k in range(8)})
    put(home, "labels/annotation_obj_detection_2d/vqa_result.json", {10 + k: 0.5 + k / 100 for k in range(8)})
    put(home, "annotation_clip/vqa_result.json", {k: 0.3 for k in range(8)})
    found = three_in_one(home, read_samples(home), KINDS)
    expected = [
        (0.1 + 0.50) / 2, (0.2 + 0.51) / 2,
        (0.3 + 0.3) / 2, (0.4 + 0.3) / 2,
        (0.5 + 0.54 + 0.3) / 3, (0.6 + 0.55 + 0.3) / 3,
        (0.7 + 0.56 + 0.3) / 3, (0.8 + 0.57 + 0.3) / 3,
    ]  # fmt: skip
    assert found == pytest.approx(expected, rel=1e-12)
    rows = json.loads((home / "annotation_3_in_1" / "vqa_result.json").read_text())
    assert [row["question_id"] for row in rows] == list(range(8))
    assert [row["answer"] for row in rows] == list(found)
    text = (home / "annotation_3_in_1" / "vqa_score.txt").read_text()
    assert text.startswith("score avg:") and float(text.split(":")[1]) == pytest.approx(sum(expected) / 8)
    assert read_scores(home, "3-in-1", read_samples(home)) == found


def test_a_3_in_1_score_needs_prompts_of_its_category_and_all_three_results(tmp_path: Path) -> None:
    home = lay(tmp_path / "lml")
    samples = read_samples(home)
    put(home, "annotation_blip/vqa_result.json", {k: "0.5" for k in range(8)})
    with pytest.raises(LMLError, match="has no labels/annotation_obj_detection_2d/vqa_result.json"):
        three_in_one(home, samples, KINDS)
    fewer = ComplexKinds(KINDS.all - {"the cup"}, KINDS.spatial, KINDS.action)
    with pytest.raises(LMLError, match="'The cup.' is no prompt of the category complex"):
        three_in_one(home, samples, fewer)
    assert not (home / "annotation_3_in_1").exists()


# Paired differences --------------------------------------------------------------------------------------------------


def sides(seed: int, count: int) -> tuple[dict[str, float], dict[str, float]]:
    """Scores of two samplers that share how hard a prompt is."""
    generator = np.random.default_rng(seed)
    hard, change = generator.random(count), generator.normal(0.02, 0.05, count)
    names = [f"prompt {k}" for k in range(count)]
    return dict(zip(names, hard.tolist(), strict=True)), dict(zip(names, (hard + change).tolist(), strict=True))


def test_the_interval_is_that_of_normal_theory(tmp_path: Path) -> None:
    a, b = sides(1100, 300)
    found = paired_difference(a, b, seed=3)
    differences = np.array(list(b.values())) - np.array(list(a.values()))
    error = differences.std() / np.sqrt(300)
    assert found.difference == pytest.approx(differences.mean(), abs=1e-12)
    assert found.difference == pytest.approx(found.mean_b - found.mean_a)
    # Two ends of 10,000 resamples are known to about 0.03 standard errors.
    half = NormalDist().inv_cdf(0.975) * error
    assert (found.low, found.high) == pytest.approx(
        (differences.mean() - half, differences.mean() + half), abs=0.12 * error
    )
    assert found.above_zero == pytest.approx(NormalDist().cdf(differences.mean() / error), abs=0.01)
    # Unpaired, the interval would be ten times as wide.
    assert found.high - found.low < 0.2 * 2 * 1.96 * np.sqrt(2 * np.var(list(a.values())) / 300)


def test_the_interval_is_that_of_scipy() -> None:
    a, b = sides(1101, 40)
    differences = np.array(list(b.values())) - np.array(list(a.values()))
    for confidence in (0.8, 0.95):
        found = paired_difference(a, b, confidence=confidence, seed=4)
        theirs = stats.bootstrap(
            (differences,), np.mean, n_resamples=10_000, confidence_level=confidence, method="percentile", batch=1000
        ).confidence_interval
        width = theirs.high - theirs.low
        assert (found.low, found.high) == pytest.approx((theirs.low, theirs.high), abs=0.03 * width)


def test_a_constant_difference_has_no_spread() -> None:
    # Eighths, so that sums are exact.
    a = {f"{k}": k / 8 for k in range(7)}
    found = paired_difference(a, {prompt: value + 0.125 for prompt, value in a.items()}, resamples=1234)
    assert (found.difference, found.low, found.high, found.above_zero) == (0.125, 0.125, 0.125, 1.0)
    assert (found.prompts, found.resamples) == (7, 1234)
    same = paired_difference(a, dict(a))
    assert (same.difference, same.low, same.high, same.above_zero) == (0, 0, 0, 0)


def test_the_order_of_prompts_is_that_of_the_first_side_and_the_seed_decides() -> None:
    a, b = sides(1102, 30)
    found = paired_difference(a, b, seed=5)
    assert paired_difference(a, dict(reversed(b.items())), seed=5) == found
    other = paired_difference(a, b, seed=6)
    assert other != found and other.low == pytest.approx(found.low, abs=0.01)
    mirrored = paired_difference(b, a, seed=5)
    assert (mirrored.low, mirrored.high) == pytest.approx((-found.high, -found.low))
    assert json.loads(json.dumps(found.as_dict()))["interval"] == [found.low, found.high]


@pytest.mark.parametrize(
    ("a", "b", "options", "message"),
    [
        ({"x": 1.0, "y": 0.5}, {"x": 1.0}, {}, "a: 1 prompts, such as 'y', are not on the other side"),
        ({"x": 1.0}, {"x": 1.0, "z": 0.5}, {}, "b: 1 prompts, such as 'z', are not on the other side"),
        ({"x": 1.0}, {"x": 1.0}, {}, "1 prompt; a bootstrap over prompts needs 2 or more"),
        ({"x": 1.0, "y": float("nan")}, {"x": 1.0, "y": 1.0}, {}, "scores that are not finite"),
        ({"x": 1.0, "y": 0.5}, {"x": 1.0, "y": 1.0}, {"resamples": 10}, "resamples 10"),
        ({"x": 1.0, "y": 0.5}, {"x": 1.0, "y": 1.0}, {"confidence": 1.0}, "confidence 1.0"),
        ({"x": 1.0, "y": 0.5}, {"x": 1.0, "y": 1.0}, {"seed": -1}, "seed -1"),
    ],
)
def test_what_cannot_be_paired_is_refused(
    a: dict[str, float], b: dict[str, float], options: dict[str, Any], message: str
) -> None:
    with pytest.raises(LMLError, match=message):
        paired_difference(a, b, **options)


# Two folders ---------------------------------------------------------------------------------------------------------


def test_two_folders_are_compared_by_the_score_of_their_category(tmp_path: Path) -> None:
    homes = [lay(tmp_path / "spatial" / name, ["a", "b", "c"], 2, first) for name, first in (("plain", 0), ("lml", 6))]
    values = ([0.1, 0.3, 0.5, 0.5, 0.0, 0.2], [0.5, 0.3, 0.25, 0.25, 0.9, 0.7])
    for home, row, first in zip(homes, values, (0, 6), strict=True):
        put(home, "labels/annotation_obj_detection_2d/vqa_result.json", dict(enumerate(row, first)))
    found = compare_folders(homes[0], homes[1] / "samples", resamples=500, seed=9)
    assert found.metric == "unidet-2d"
    assert prompt_means(read_samples(homes[0]), values[0]) == pytest.approx({"a": 0.2, "b": 0.5, "c": 0.1})
    expected = paired_difference({"a": 0.2, "b": 0.5, "c": 0.1}, {"a": 0.4, "b": 0.25, "c": 0.8}, resamples=500, seed=9)
    assert found.paired.difference == pytest.approx((0.2 - 0.25 + 0.7) / 3)
    assert (found.paired.low, found.paired.high) == pytest.approx((expected.low, expected.high))
    assert found.notes == (
        "3 prompts where the validation set of a category has 300: no published score compares.",
        "It is not known whether both samplers started from the same seeds.",
    )
    assert json.dumps(found.as_dict())
    with pytest.raises(LMLError, match="has no annotation_clip/vqa_result.json"):
        compare_folders(*homes, metric="clip")
    with pytest.raises(LMLError, match="resamples 10"):
        compare_folders(*homes, resamples=10)


def test_seeds_and_numbers_of_images_are_looked_at(tmp_path: Path) -> None:
    homes = [lay(tmp_path / "non_spatial" / name, ["a", "b"], each) for name, each in (("plain", 2), ("lml", 3))]
    records = [{"first": 0, "count": 4}, {"first": 7, "count": 6}]
    for home, each, seeds in zip(homes, (2, 3), records, strict=True):
        put(home, "annotation_clip/vqa_result.json", {k: k / 16 for k in range(2 * each)})
        record = {"format": "lmlangevin-compbench-export-1", "seeds": seeds}
        (home / "lml_export.json").write_text(json.dumps(record))
    found = compare_folders(*homes)
    assert (found.seeds_a, found.seeds_b) == tuple(records)
    assert "Not all prompts have equally many images" in found.notes[1]
    assert "did not start from the same seeds" in found.notes[2]
    assert len(compare_folders(homes[0], homes[0]).notes) == 1


def test_what_two_scorers_made_is_not_compared(tmp_path: Path) -> None:
    homes = [lay(tmp_path / name / "x", ["a", "b"], 1) for name in ("color", "shape")]
    for home in homes:
        write_scores(home, "blip", ["0.5000", "0.2500"])
    with pytest.raises(LMLError, match="do not lie in one folder of a known category; give --metric"):
        compare_folders(*homes)
    assert compare_folders(*homes, metric="blip").paired.difference == 0
    entries = {
        f"{prompt}_{k:06d}.png": {"sha256": "0", "questions": [], "answer": answer}
        for k, (prompt, answer) in enumerate((("a", "0.5000"), ("b", "0.2500")))
    }
    content = {"format": "lmlangevin-blip-vqa-1", "scorer": {"weight_hash": "ab"}, "images": entries}
    (homes[0] / "annotation_blip" / "lml_blip_vqa.json").write_text(json.dumps(content))
    with pytest.raises(LMLError, match=r"of two scorers \({'weight_hash': 'ab'} and another script\)"):
        compare_folders(*homes, metric="blip")

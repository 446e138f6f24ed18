"""`lml compbench` as a user runs it; the networks are formulas here."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result
from PIL import Image

from lmlangevin import cli
from lmlangevin.evaluation.compbench import CATEGORIES, LABEL, blip, chunks
from lmlangevin.evaluation.compbench.scores import METRICS

PROMPTS = ["a red cube and a bowl", "a blue bowl", "a cat"]


def invoke(*args: object) -> Result:
    return CliRunner().invoke(cli.cli, ["compbench", *(str(arg) for arg in args)])


def make_job(folder: Path, seed: int) -> Path:
    """Write what `lml generate --compare` leaves: two images for each prompt, whose first pixel is a score."""
    generator = np.random.default_rng(seed)
    for run, brightest in (("plain", 128), ("lml", 256)):
        (folder / run).mkdir(parents=True)
        for k in range(6):
            red = int(generator.integers(brightest - 128, brightest))
            Image.new("RGB", (8, 8), (red, 9, 9)).save(folder / run / f"{k:06d}.png")
    images = [
        {
            "id": k,
            "seed": 50 + k,
            "prompt": PROMPTS[k // 2],
            "files": {run: f"{run}/{k:06d}.png" for run in ("plain", "lml")},
        }
        for k in range(6)
    ]
    content = {"format": "lmlangevin-generate-1", "status": "complete", "job": "0a", "images": images}
    (folder / "manifest.json").write_text(json.dumps(content))
    return folder


class Red:
    """P(yes) is the first red value over 255, whatever is asked."""

    name, weight_hash, resolution = "red", "ef" * 32, 2

    def prepare(self, path: Path) -> Any:
        return blip.prepare_image(path, self.resolution)

    def probabilities(self, images: Any, questions: Any, batch_size: int) -> list[list[float]]:
        values = (images[:, 0, 0, 0] * 0.26862954 + 0.48145466).tolist()
        return [[value] * len(texts) for value, texts in zip(values, questions, strict=True)]


class ByAnd:
    name = "and"

    def __call__(self, prompt: str) -> list[str]:
        return prompt.split(" and ")


@pytest.fixture
def formulas(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    """Put formulas in place of BLIP and spaCy; return what was asked to be loaded."""
    asked: list[tuple[str, str]] = []

    def load(source: str, *, device: str) -> Red:
        asked.append((source, device))
        return Red()

    monkeypatch.setattr(blip, "load_blip", load)
    monkeypatch.setattr(chunks, "SpacyChunker", ByAnd)
    return asked


def exported(tmp_path: Path) -> dict[str, Path]:
    job = make_job(tmp_path / "job", 1200)
    homes = {}
    for run in ("plain", "lml"):
        options = ["--save-dir", tmp_path / "save", "--model", "tiny", "--category", "color", "--sampler", run]
        done = invoke("export", job, "--run", run, *options)
        assert (done.exit_code, done.stderr) == (0, "")
        assert done.stdout.splitlines()[0] == "6 images added, 0 there already, 0 missing"
        homes[run] = tmp_path / "save" / "tiny" / "color" / run
        assert done.stdout.splitlines()[-1] == f"Sampler: {homes[run]}"
    return homes


def score_of(path: Path, factors: int) -> float:
    red = float(f"{np.asarray(Image.open(path))[0, 0, 0] / 255:.4f}")
    return round(red**factors, 4)


def test_from_a_job_to_a_table(tmp_path: Path, formulas: list[tuple[str, str]]) -> None:
    homes = exported(tmp_path)
    out = tmp_path / "score.json"
    done = invoke("score", homes["plain"], homes["lml"], "--blip-model", "some/blip", "--batch-size", 4, "--out", out)
    assert (done.exit_code, done.stderr) == (0, "")
    assert formulas == [("some/blip", "cpu")]
    means = {}
    for run, home in homes.items():
        names = sorted((home / "samples").iterdir(), key=lambda path: path.name.split("_")[1])
        scores = [score_of(path, 2 if " and " in path.name else 1) for path in names]
        rows = json.loads((home / "annotation_blip" / "vqa_result.json").read_text())
        assert [float(row["answer"]) for row in rows] == pytest.approx(scores, abs=1.01e-4)
        means[run] = sum(float(row["answer"]) for row in rows) / 6
        assert f"{home}: BLIP-VQA {means[run]:.4f}, 6 images of 3 prompts" in done.stdout.splitlines()
    assert done.stdout.splitlines()[-2:] == [f"T2I-CompBench here: {LABEL}.", f"Result: {out}"]
    content = json.loads(out.read_text())
    assert (content["format"], content["kind"], content["label"]) == ("lmlangevin-compbench-1", "score", LABEL)
    assert [row["mean"] for row in content["results"]] == pytest.approx([means["plain"], means["lml"]])
    assert content["results"][0]["seeds"] == {"first": 50, "count": 6} and content["results"][0]["model"] == "red"
    assert {"lmlangevin", "python", "torch", "numpy"} <= set(content["versions"])
    again = invoke("score", homes["lml"], "--blip-model", "some/blip")
    assert f"BLIP-VQA {means['lml']:.4f}, 6 images of 3 prompts, 6 of them known" in again.stdout

    out = tmp_path / "compare.json"
    done = invoke("compare", homes["plain"], homes["lml"], "--resamples", 400, "--seed", 2, "--out", out)
    assert (done.exit_code, done.stderr) == (0, "")
    content = json.loads(out.read_text())
    assert content["kind"] == "compare" and content["metric"] == "blip" and content["prompts"] == 3
    assert content["difference"] == pytest.approx(means["lml"] - means["plain"])
    assert content["interval"][0] <= content["difference"] <= content["interval"][1]
    assert (content["resamples"], content["seed"], content["a"]["seeds"]) == (400, 2, {"first": 50, "count": 6})
    row = next(line for line in done.stdout.splitlines() if line.startswith("| blip"))
    assert f"| {means['plain']:.4f} | {means['lml']:.4f} | {content['difference']:+.4f} |" in row
    assert f"{content['interval'][0]:+.4f} to {content['interval'][1]:+.4f}" in row
    assert "Paired bootstrap over prompts, 400 resamples, seed 2." in done.stdout
    assert "seeds" not in "".join(content["notes"]) and f"T2I-CompBench here: {LABEL}." in done.stdout


def test_the_3_in_1_score(tmp_path: Path) -> None:
    dataset = tmp_path / "clone" / "examples" / "dataset"
    dataset.mkdir(parents=True)
    for name, lines in (("val", PROMPTS), ("val_spatial", PROMPTS[:1]), ("val_action", PROMPTS[1:2])):
        (dataset / f"complex_{name}.txt").write_text("\n".join(lines))
    home = tmp_path / "complex" / "lml"
    (home / "samples").mkdir(parents=True)
    for k, prompt in enumerate(PROMPTS):
        (home / "samples" / f"{prompt}_{k:06d}.png").touch()
    for place, value in (
        ("annotation_blip", 0.5),
        ("labels/annotation_obj_detection_2d", 0.1),
        ("annotation_clip", 0.3),
    ):
        (home / place).mkdir(parents=True)
        rows = [{"question_id": k, "answer": value} for k in range(3)]
        (home / place / "vqa_result.json").write_text(json.dumps(rows))
    out = tmp_path / "out.json"
    done = invoke("three-in-one", home, "--prompts", tmp_path / "clone", "--out", out)
    assert (done.exit_code, done.stderr) == (0, "")
    assert done.stdout.splitlines()[0] == f"{home}: 3-in-1 {(0.3 + 0.4 + 0.3) / 3:.4f}, 3 images of 3 prompts"
    assert f"T2I-CompBench here: {LABEL}." in done.stdout
    assert json.loads(out.read_text())["mean"] == pytest.approx(1 / 3)
    assert len(json.loads((home / "annotation_3_in_1" / "vqa_result.json").read_text())) == 3


def test_ctrl_c_says_how_to_go_on(
    tmp_path: Path, formulas: list[tuple[str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    def stopped(*args: Any) -> None:
        raise KeyboardInterrupt

    home = exported(tmp_path)["lml"]
    monkeypatch.setattr(Red, "probabilities", stopped)
    done = invoke("score", home, "--blip-model", "some/blip")
    assert done.exit_code == 130
    assert done.stderr == "lml: interrupted; what was scored is kept: run the same command again to go on.\n"


MISTAKES = {
    "no layout": (["score", "job", "--blip-model", "x"], "has no samples/ in it"),
    "no model": (["score", "job"], "give one of --blip-model and --vqa scenes"),
    "no folders": (["score", "--blip-model", "x"], "see 'lml compbench score --help'"),
    "suffix": (["score", "save/tiny/color/lml", "--blip-model", "x", "--out", "r.txt"], "ends in .json"),
    "no spaCy": (["score", "save/tiny/color/lml", "--blip-model", "x"], "python -m spacy download en_core_web_sm"),
    "other prompts": (
        ["score", "save/tiny/color/lml", "--blip-model", "x", "--prompts", "p.txt"],
        "has 2 prompts, such as",
    ),
    "not scored": (
        ["compare", "save/tiny/color/plain", "save/tiny/color/lml"],
        "has no annotation_blip/vqa_result.json",
    ),
    "unknown metric": (
        ["compare", "save/tiny/color/plain", "save/tiny/color/lml", "--metric", "x"],
        "give one of blip, clip",
    ),
    "no clone": (["three-in-one", "save/tiny/color/lml", "--prompts", "p.txt"], "give the clone's folder"),
    "category": (
        ["export", "job", "--run", "lml", "--save-dir", "d", "--model", "m", "--category", "x", "--sampler", "s"],
        "give one of color, shape",
    ),
    "no such run": (
        ["export", "job", "--save-dir", "d", "--model", "m", "--category", "color", "--sampler", "s"],
        "give one of them by --run",
    ),
}


@pytest.mark.parametrize(("options", "remedy"), MISTAKES.values(), ids=MISTAKES.keys())
def test_a_mistake_is_one_line_and_nothing_is_written(
    options: list[str], remedy: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "spacy", None)
    exported(tmp_path)
    Path("p.txt").write_text("a cat\n")
    before = sorted(tmp_path.rglob("*"))
    result = invoke(*options)
    assert (result.exit_code, result.stdout, result.stderr.count("\n")) == (2, "", 1)
    assert remedy in result.stderr
    assert sorted(tmp_path.rglob("*")) == before


def test_help_names_the_categories_and_scores() -> None:
    from lmlangevin.commands.compbench import CATEGORY_NAMES, METRIC_NAMES

    assert CATEGORY_NAMES.split(", ") == list(CATEGORIES)
    assert METRIC_NAMES.split(", ") == list(METRICS)
    shown = invoke("--help").stdout
    assert all(name in shown for name in ("export", "score", "compare", "three-in-one"))
    assert "re-implementation" in shown and "\\b" not in shown


def test_importing_the_command_is_light() -> None:
    root = str(Path(cli.__file__).parent)
    # The package's own __init__ stands aside: what this module imports is the question here.
    code = (
        "import sys, types\n"
        "package = types.ModuleType('lmlangevin')\n"
        f"package.__path__ = [{root!r}]\n"
        "sys.modules['lmlangevin'] = package\n"
        "import lmlangevin.commands.compbench\n"
        "heavy = ('torch', 'transformers', 'spacy', 'numpy', 'PIL', 'rich', 'lmlangevin.evaluation')\n"
        "print([name for name in heavy if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == "[]"

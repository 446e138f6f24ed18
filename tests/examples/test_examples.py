"""The scripts of examples/, in small sizes: that they run, and that what they print is right."""

from __future__ import annotations

import ast
import re
import runpy
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

FOLDER = Path(__file__).parents[2] / "examples"
SCRIPTS = sorted(FOLDER.glob("*.py"))

Run = Callable[..., str]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Run:
    """Run a script as `python examples/NAME.py WORDS` does, in an empty folder, and return what it prints."""

    def script(name: str, *words: object) -> str:
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(sys, "argv", [name, *map(str, words)])
        runpy.run_path(str(FOLDER / name), run_name="__main__")
        return capsys.readouterr().out

    return script


def numbers(text: str, pattern: str) -> list[float]:
    return [float(found) for found in re.findall(pattern, text)]


def test_a_pipeline_to_lml_and_back(run: Run, tmp_path: Path) -> None:
    out = run("pipeline_to_lml.py", "--num-images", 3, "--steps", 6, "--fine-steps", 24)
    assert "DDIMLMLScheduler with adaptive control" in out
    assert "the plain images come back: True" in out
    plain, lml = numbers(out, r"RMSE (\d\.\d+)")
    assert 0 < lml < 0.8 * plain
    picture = np.asarray(Image.open(tmp_path / "pipeline_to_lml.png").convert("RGB"))
    assert picture.shape == (64, 96, 3)
    assert not np.array_equal(picture[:32], picture[32:])


def test_text_to_image_draws_and_scores_every_sampler(run: Run, tmp_path: Path) -> None:
    out = run("text_to_image.py", "--steps", 3, "--fine-steps", 8, "--images-per-prompt", 1)
    lines = re.findall(r"^(.+), (\d+) evaluations: colour \d+%, .* RMSE (\d\.\d+)", out, flags=re.M)
    assert [(name, nfe) for name, nfe, _ in lines] == [
        ("as shipped: PNDM", "3"), ("plain: UniPC", "3"), ("LML", "3"), ("converged", "8")
    ]  # fmt: skip
    assert float(lines[3][2]) == 0 < min(float(error) for _, _, error in lines[:3])
    assert np.asarray(Image.open(tmp_path / "text_to_image.png").convert("RGB")).shape[1] > 8 * 128


def test_a_calibration_is_fitted_saved_and_loaded(run: Run, tmp_path: Path) -> None:
    options = {"steps": 4, "num-seeds": 4, "iterations": 2, "fine-steps": 12, "num-images": 3}
    out = run("calibrate_and_save.py", *(word for key, value in options.items() for word in (f"--{key}", value)))
    before, after = (
        numbers(out, rf"fitted seeds:   RMSE {side}")[0] for side in (r"(\d\.\d+) ->", r"\d\.\d+ -> (\d\.\d+)")
    )
    assert after < 0.7 * before
    plain, calibrated = (
        numbers(out, rf"fresh seeds: .*{word} (?:RMSE )?(\d\.\d+)")[0] for word in ("plain", "calibrated")
    )
    assert calibrated < plain
    assert "the loaded pipeline draws the same images: True" in out
    assert (tmp_path / "calibrated" / "gains.json").is_file()


def test_a_scheduler_of_ones_own(run: Run) -> None:
    out = run("own_scheduler.py", "--num-images", 2, "--steps", 6, "--fine-steps", 24, "--gain", 0.4)
    assert "EvenLMLScheduler, a subclass of yours: True" in out
    assert "gain 0 is the plain scheduler: True" in out
    assert "saved and loaded, draws the same images: True" in out
    plain, lml = numbers(out, r"RMSE (\d\.\d+)")
    assert lml < plain


def test_the_scheduler_of_the_example_solves_the_equation() -> None:
    """On x0 = 0 the noise is x / sigma, and the solution is x in proportion to sigma."""
    import torch

    scheduler = runpy.run_path(str(FOLDER / "own_scheduler.py"))["EvenScheduler"]()
    scheduler.set_timesteps(5)
    abar = [float(scheduler.alphas_cumprod[t]) for t in scheduler.timesteps]
    x = torch.full((1, 3), 2.0, dtype=torch.float64)
    for k, timestep in enumerate(scheduler.timesteps):
        noise = x / (1 - abar[k]) ** 0.5
        x = scheduler.step(noise, timestep, x).prev_sample
        sigma = (1 - abar[k + 1]) ** 0.5 if k + 1 < len(abar) else 0.0
        expected = torch.full_like(x, 2.0 / (1 - abar[0]) ** 0.5 * sigma)
        torch.testing.assert_close(x, expected, rtol=1e-9, atol=1e-12)
    ratios = [((1 - a) / a) ** 0.5 for a in abar]
    steps = [np.log(a / b) for a, b in zip(ratios, ratios[1:], strict=False)]
    # Even, but for the last timesteps, which are whole numbers.
    assert max(steps[:-1]) < 1.05 * min(steps[:-1])


def test_a_benchmark_of_ones_own(run: Run) -> None:
    with pytest.warns(UserWarning, match="singular"):
        out = run(
            "own_benchmark.py", "--blocks", 2, "--block-size", 3, "--steps", 3, "--sampler", "euler", "--gain", 0.7
        )
    line = next(line for line in out.splitlines() if line.startswith("euler"))
    plain, lml, difference = (numbers(line, rf"{word} ([+-]?\d+\.\d+)")[0] for word in ("plain", "LML", "difference"))
    assert plain > 0 and abs(lml - plain - difference) < 0.002
    lower = int(re.findall(r"lower in (\d) of 2", line)[0])
    assert lower in (0, 1, 2) and (lower < 2 or difference < 0)


def test_a_sampler_of_k_diffusion(run: Run) -> None:
    out = run("k_diffusion_sampler.py", "--num-images", 2, "--steps", 7, "--fine-steps", 24)
    plain, default, adaptive = numbers(out, r"RMSE (\d\.\d+)")
    assert default < plain and adaptive < plain
    angles = numbers(out, r"angle (\d+\.\d+) degrees")
    assert len(angles) == 7 and angles[0] == 0 and max(angles) > 0.1


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.name)
def test_examples_say_what_they_do_and_import_public_names(path: Path) -> None:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    text = ast.get_docstring(tree) or ""
    assert all(word in text for word in ("Shows: ", "Prints: ", "Takes: ", f"python examples/{path.name}"))
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "lmlangevin":
            module = __import__(node.module or "", fromlist=["__all__"])
            assert {alias.name for alias in node.names} <= set(module.__all__), node.module


def test_the_list_of_examples_is_complete() -> None:
    listed = re.findall(r"\((\w+\.py)\)", (FOLDER / "README.md").read_text(encoding="utf-8"))
    assert sorted(listed) == [path.name for path in SCRIPTS]
    assert len(SCRIPTS) == 6

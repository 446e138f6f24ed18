from __future__ import annotations

import json
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from lmlangevin import cli
from lmlangevin.core import LMLError

SUITE = """
title = "Small"

[identity]
sizes = [48]
lambdas = [0.001]
dtypes = ["float64", "float32"]
samples = 8
seed = 5

[[parts]]
name = "mix"
model = "analytic-cifar10"
samplers = ["ddim", "heun"]
grids = ["default"]
nfe = [3, 4]
arms = ["plain", "preset", "release=float32"]
measures = ["rmse", "fd"]
blocks = 2
images = 65
first_seed = 31
"""


@pytest.fixture(autouse=True)
def coarse(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("lmlangevin.bench.models.RUNGE_KUTTA_STEPS", 8)
    monkeypatch.setattr("lmlangevin.bench.models.REFERENCE_SAMPLES", 500)
    monkeypatch.setattr("lmlangevin.bench.runner.ENDPOINT_STEPS", 8)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def suite(tmp_path: Path) -> Path:
    path = tmp_path / "small.toml"
    path.write_text(SUITE, encoding="utf-8")
    return path


def invoke(*args: object) -> Result:
    return CliRunner().invoke(cli.cli, ["bench", *map(str, args)])


def test_a_suite_of_ones_own_is_measured_once_and_shown(suite: Path, tmp_path: Path) -> None:
    out, page = tmp_path / "results", tmp_path / "docs" / "page.md"
    first = invoke("--suite", suite, "--out", out, "--page", page)
    assert first.exit_code == 0, first.output
    assert "mix: 7 cells" in first.stderr
    assert "Small: about" in first.stderr
    assert "DDIM" in first.stdout
    record = json.loads((out / "small-mix.json").read_text(encoding="utf-8"))
    # Heun costs odd numbers only, so 4 evaluations are 3 again.
    assert sorted(record["cells"]) == sorted(
        [f"ddim|leading|zero|{nfe}|{arm}" for nfe in (3, 4) for arm in ("plain", "gain=1", "release=float32@0.0008")]
        + ["heun|linspace||3|plain"]
    )
    assert record["command"] == f"lml bench --suite {shlex.quote(str(suite))}"
    identity = json.loads((out / "small-identity.json").read_text(encoding="utf-8"))
    assert [row["dtype"] for row in identity["rows"]] == ["float64", "float32"]
    assert page.is_file()
    written = (out / "small-mix.json").read_bytes()
    second = invoke("--suite", suite, "--out", out)
    assert second.exit_code == 0
    assert "mix: nothing missing" in second.stderr
    assert second.stdout == first.stdout.split("Page:")[0]
    assert json.loads(written)["cells"] == json.loads((out / "small-mix.json").read_text(encoding="utf-8"))["cells"]


def test_an_estimate_runs_nothing(suite: Path, tmp_path: Path) -> None:
    result = invoke("--suite", suite, "--out", tmp_path / "results", "--estimate")
    assert result.exit_code == 0
    assert "million evaluations, about" in result.stderr
    assert not (tmp_path / "results").exists()


def test_one_part_can_be_run_alone(suite: Path, tmp_path: Path) -> None:
    assert invoke("--suite", suite, "--out", tmp_path / "results", "--part", "identity").exit_code == 0
    assert [path.name for path in (tmp_path / "results").iterdir()] == ["small-identity.json"]


def test_a_part_without_its_model_is_left_out_and_says_how_to_make_it(suite: Path, tmp_path: Path) -> None:
    part = SUITE[SUITE.index("[[parts]]") :].replace('"mix"', '"other"')
    file = 'model = "mix/mixture.safetensors"\nmake = "python tools/fit_mixture.py --out mix"'
    suite.write_text(SUITE + part.replace('model = "analytic-cifar10"', file), encoding="utf-8")
    result = invoke("--suite", suite, "--out", tmp_path / "results", "--estimate")
    assert result.exit_code == 0, result.output
    assert "other: left out." in result.stderr and "make it: python tools/fit_mixture.py --out mix" in result.stderr
    assert "mix: 7 cells" in result.stderr
    named = invoke("--suite", suite, "--out", tmp_path / "results", "--part", "other")
    assert isinstance(named.exception, LMLError) or named.exit_code == 2


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--suite", "huge"], "suite='huge' is unknown"),
        (["--suite", "quick", "--part", "nothing"], "part='nothing'"),
    ],
)
def test_a_mistake_is_one_line(arguments: list[str], words: str, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "lmlangevin", "bench", *arguments, "--out", str(tmp_path / "results")],
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert words in done.stderr
    assert not (tmp_path / "results").exists()

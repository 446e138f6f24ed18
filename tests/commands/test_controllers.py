"""A controller of the user's own is named on the command line."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from lmlangevin.cli import cli
from lmlangevin.core import damping

MODULE = """
from lmlangevin.core import Damping, register_controller

@register_controller("late")
def late(history, config):
    kappa, damping = config.resolved()
    return Damping(kappa if history.step >= 2 else 0.0, damping)
"""

SUITE = """
title = "Late"
[[parts]]
name = "noise"
model = "analytic-cifar10"
samplers = ["ddim"]
grids = ["trailing"]
nfe = [4]
arms = ["plain", "control=late"]
finals = ["zero"]
blocks = 2
images = 4
first_seed = 1
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Return the folder that `lml` is called in: it holds a module, and is not on the module path."""
    (tmp_path / "my_controls.py").write_text(MODULE)
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry])
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    damping._CONTROLLERS.pop("late", None)
    sys.modules.pop("my_controls", None)


def _lml(*words: Any) -> Any:
    return CliRunner().invoke(cli, [str(word) for word in words], prog_name="lml")


def test_generate_takes_a_controller_of_the_users_own(folder: Path, pixel_pipeline: Path) -> None:
    words = ("generate", "--model", pixel_pipeline, "--steps", 4, "--num-images", 1, "--gain", 0.5, "--out")
    for more, message in (
        (("--control", "late"), "control='late' is unknown"),
        (("--controller", "my_controls:early"), "controller='my_controls:early' names no controller"),
        (("--control", "adaptive", "--controller", "my_controls:late"), "exclude each other; give one"),
    ):
        failed = _lml(*words, folder / "out", *more)
        assert (failed.exit_code, failed.stderr.count("\n")) == (2, 1) and message in failed.stderr
        assert not (folder / "out").exists()
    done = _lml(*words, folder / "out", "--controller", "my_controls:late")
    assert done.exit_code == 0, done.stderr
    manifest = json.loads((folder / "out" / "manifest.json").read_text())
    assert manifest["config"]["control"] == "late"
    gains = [step["gain"][0] for step in manifest["runs"]["images"]["corrections"]]
    assert gains[:2] == [0, 0] and gains[2] > 0.4


def test_a_suite_takes_a_controller_of_the_users_own(folder: Path) -> None:
    (folder / "late.toml").write_text(SUITE)
    words = ("bench", "--suite", "late.toml", "--out", "results", "--estimate")
    failed = _lml(*words)
    assert failed.exit_code == 2 and "arms='control=late'" in failed.stderr and "is unknown" in failed.stderr
    done = _lml(*words, "--controller", "my_controls:late")
    assert done.exit_code == 0 and "noise: 2 cells" in done.stderr

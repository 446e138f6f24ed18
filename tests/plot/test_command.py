from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from PIL import Image

from lmlangevin.cli import cli
from lmlangevin.generation.images import GAP, LABEL_WIDTH, MARGIN, TILE


def run(*words: object) -> Result:
    return CliRunner().invoke(cli, ["plot", *map(str, words)])


def test_the_command_draws_and_says_where(compared: Path, tmp_path: Path) -> None:
    shown = run(compared, "--out", tmp_path, "--seeds", "31,33", "--scale", "8")
    assert shown.exit_code == 0, shown.output
    assert shown.stdout.splitlines() == [
        f"Images: {tmp_path / 'arms.png'}",
        f"Differences: {tmp_path / 'differences.png'}",
    ]
    with Image.open(tmp_path / "arms.png") as picture:
        assert picture.width == 2 * MARGIN + LABEL_WIDTH + 2 * (TILE + GAP)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["gone"], "'gone' is not there"),
        ([], "MANIFEST"),
        (["x", "--seeds", "3-1"], "'3-1' is no list of seeds"),
        (["x", "--seeds", "a"], "'a' is no list of seeds"),
        (["x", "--seeds", "0-9999"], "of 1000 at most"),
        (["x", "--columns", "0"], "--columns"),
    ],
)
def test_a_mistake_is_one_line(words: list[str], told: str) -> None:
    shown = run(*words)
    assert shown.exit_code == 2
    assert shown.stdout == "" and shown.stderr.count("\n") == 1 and told in shown.stderr


def test_seeds_are_taken_in_the_order_in_which_they_are_written() -> None:
    from lmlangevin.commands.plot import Seeds

    assert Seeds().convert("7, 0,3-5", None, None) == (7, 0, 3, 4, 5)

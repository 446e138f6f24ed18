"""One version, told alike everywhere; and what `make dist` looks at in a wheel."""

from __future__ import annotations

import re
import tomllib
import zipfile
from pathlib import Path

import pytest

import check_release
import lmlangevin

ROOT = Path(__file__).parents[1]


def test_the_version_is_written_once() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    assert "version" in project["project"]["dynamic"] and "version" not in project["project"]
    assert project["tool"]["hatch"]["version"]["path"] == "src/lmlangevin/_version.py"
    assert check_release.version() == lmlangevin.__version__
    assert re.fullmatch(r"\d+\.\d+\.\d+(\.dev\d+|rc\d+)?", lmlangevin.__version__)


def test_the_citation_is_of_this_version() -> None:
    text = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    said = dict(re.findall(r"^([a-z-]+): *(\S.*)$", text, flags=re.M))
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert said["version"] == lmlangevin.__version__
    assert (said["title"], said["license"]) == (project["name"], project["license"])
    assert "https://arxiv.org/abs/2505.24222" in text


def test_the_changes_have_a_section_for_this_version() -> None:
    first = re.findall(r"^## (.+)$", (ROOT / "CHANGES.md").read_text(encoding="utf-8"), flags=re.M)[0]
    if ".dev" in lmlangevin.__version__:
        assert first in ("Unreleased", f"{lmlangevin.__version__.partition('.dev')[0]} (unreleased)")
    else:
        assert re.fullmatch(rf"{re.escape(lmlangevin.__version__)} \(\d{{4}}-\d\d-\d\d\)", first)


def make_wheel(folder: Path, names: list[str], *, version: str = lmlangevin.__version__) -> Path:
    path = folder / "lmlangevin-x-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for name in names:
            archive.writestr(name, "")
        about = f"Name: lmlangevin\nVersion: {version}\nLicense-Expression: Apache-2.0\n"
        archive.writestr("lmlangevin-x.dist-info/METADATA", about)
        archive.writestr("lmlangevin-x.dist-info/licenses/LICENSE", "")
    return path


WHOLE = ["cli.py", *check_release.NEEDED]


@pytest.mark.parametrize(
    ("left_out", "added", "told"),
    [
        (None, None, None),
        ("cli.py", None, "lacks cli.py"),
        ("py.typed", None, "lacks py.typed"),
        ("assets/presets.json", None, "lacks assets/presets.json"),
        (None, "lmlangevin/notes.txt", "holds notes.txt, which is not tracked"),
        (None, "tests/conftest.py", "would install tests/conftest.py beside the package"),
        (None, "benchmarks/tables.py", "would install benchmarks/tables.py"),
    ],
)
def test_a_wheel_holds_the_package_and_nothing_else(
    left_out: str | None, added: str | None, told: str | None, tmp_path: Path
) -> None:
    names = [f"lmlangevin/{name}" for name in WHOLE if name != left_out] + ([added] if added else [])
    mistakes = list(check_release.wheel_mistakes(make_wheel(tmp_path, names), WHOLE))
    assert len(mistakes) == (told is not None)
    assert told is None or told in mistakes[0]


def test_a_wheel_of_another_version_or_too_large_is_a_mistake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = [f"lmlangevin/{name}" for name in WHOLE]
    (mistake,) = check_release.wheel_mistakes(make_wheel(tmp_path, names, version="9.9"), WHOLE)
    assert "Version is '9.9'" in mistake
    monkeypatch.setattr(check_release, "LARGEST", 100)
    (mistake,) = check_release.wheel_mistakes(make_wheel(tmp_path, names), WHOLE)
    assert "more than" in mistake


def test_the_files_that_a_wheel_needs_are_in_the_tree() -> None:
    assert all((ROOT / "src" / "lmlangevin" / name).is_file() for name in check_release.NEEDED)
    assert all((ROOT / name).exists() for name in check_release.SDIST)

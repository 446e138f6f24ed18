"""Hints to install an extra work where the package came from: a clone, a repository, a file or an index."""

from __future__ import annotations

import ast
import importlib.metadata
import json
import shlex
from pathlib import Path

import pytest

from lmlangevin.install import install_hint

ROOT = Path(__file__).parents[1] / "src" / "lmlangevin"

ORIGINS = {
    "index": (None, "lmlangevin[fid]", False),
    "editable clone": (
        {"url": "file:///home/a%20b/lml", "dir_info": {"editable": True}},
        "/home/a b/lml[fid]",
        True,
    ),
    "clone": ({"url": "file:///srv/lml", "dir_info": {}}, "/srv/lml[fid]", False),
    "repository": (
        {"url": "https://host/lml.git", "vcs_info": {"vcs": "git", "commit_id": "abc", "requested_revision": "main"}},
        "lmlangevin[fid] @ git+https://host/lml.git@abc",
        False,
    ),
    "part of a repository": (
        {"url": "https://host/all.git", "vcs_info": {"vcs": "git", "commit_id": "abc"}, "subdirectory": "lml"},
        "lmlangevin[fid] @ git+https://host/all.git@abc#subdirectory=lml",
        False,
    ),
    "file": (
        {"url": "file:///tmp/lmlangevin-1-py3-none-any.whl", "archive_info": {}},
        "lmlangevin[fid] @ file:///tmp/lmlangevin-1-py3-none-any.whl",
        False,
    ),
}


class _Distribution:
    def __init__(self, text: str | None) -> None:
        self._text = text

    def read_text(self, name: str) -> str | None:
        assert name == "direct_url.json"
        return self._text


@pytest.mark.parametrize("kind", ORIGINS)
def test_the_command_is_for_where_the_package_came_from(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    record, requirement, editable = ORIGINS[kind]
    text = None if record is None else json.dumps(record)
    monkeypatch.setattr(importlib.metadata, "distribution", lambda name: _Distribution(text))
    words = shlex.split(install_hint("fid"))
    assert words == ["run", "pip", "install", *(["-e"] if editable else []), requirement]


def test_a_package_that_was_never_installed_has_a_hint(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> None:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "distribution", missing)
    assert install_hint("app") == "run pip install 'lmlangevin[app]'"
    for damaged in ("{", "[]", "{}"):
        monkeypatch.setattr(importlib.metadata, "distribution", lambda name, text=damaged: _Distribution(text))
        assert install_hint("app") == "run pip install 'lmlangevin[app]'"


def test_no_message_names_a_command_of_its_own() -> None:
    for path in sorted(ROOT.rglob("*.py")):
        if path.name == "install.py":
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                assert "pip install " not in node.value, f"{path}:{node.lineno}"

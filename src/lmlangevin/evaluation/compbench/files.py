"""Files of results: written whole or not at all, with the versions behind them."""

from __future__ import annotations

import datetime
import json
from pathlib import Path
from typing import Any

from lmlangevin._version import installed_versions
from lmlangevin.evaluation.compbench import LABEL
from lmlangevin.files import read_json, write_text

FORMAT = "lmlangevin-compbench-1"
PACKAGES = ("torch", "transformers", "tokenizers", "spacy", "en_core_web_sm", "numpy", "pillow")


def write_result(path: Path, kind: str, content: dict[str, Any]) -> None:
    """Write a result as JSON, with the label, the time and the versions.

    Args:
        path: the file.
        kind: `"score"`, `"compare"` or `"three-in-one"`.
        content: what was found, as JSON takes it.

    Raises:
        LMLError: it cannot be written.
    """
    created = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    head = {"format": FORMAT, "kind": kind, "label": LABEL, "created": created, "versions": versions()}
    write_text(path, json.dumps({**head, **content}, indent=1, allow_nan=False) + "\n")


def versions() -> dict[str, str]:
    """Return the versions of what a score depends on."""
    return installed_versions(PACKAGES)


def read_result(path: Path, what: str) -> Any:
    """Return what a JSON file holds.

    Args:
        path: the file.
        what: what it is, for messages.

    Raises:
        LMLError: it cannot be read as JSON.
    """
    return read_json(path, f"{what} {str(path)!r}:", "delete it, or make it again")

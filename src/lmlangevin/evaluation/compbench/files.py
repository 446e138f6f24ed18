"""Files of results: written whole or not at all, with the versions behind them."""

from __future__ import annotations

import contextlib
import datetime
import json
import os
from pathlib import Path
from typing import Any

from lmlangevin._version import installed_versions
from lmlangevin.core.errors import LMLError
from lmlangevin.evaluation.compbench import LABEL

FORMAT = "lmlangevin-compbench-1"
PACKAGES = ("torch", "transformers", "tokenizers", "spacy", "en_core_web_sm", "numpy", "pillow")


def write_text(path: Path, text: str) -> None:
    """Write a text file under a temporary name and rename it; its folder is made where it is not there.

    Raises:
        LMLError: it cannot be written.
    """
    part = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        part.write_text(text, encoding="utf-8")
        os.replace(part, path)
    except OSError as error:
        raise LMLError(f"file {str(path)!r}: cannot be written ({error.strerror}); see to its folder") from error
    finally:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)


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


def read_json(path: Path, what: str) -> Any:
    """Return what a JSON file holds.

    Args:
        path: the file.
        what: what it is, for messages.

    Raises:
        LMLError: it cannot be read as JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise LMLError(f"{what} {str(path)!r}: cannot be read ({error}); delete it, or make it again") from error

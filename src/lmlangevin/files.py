"""Files: written whole or not at all, and read as JSON, each with one sentence for what goes wrong."""

from __future__ import annotations

import contextlib
import json
import os
import re
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lmlangevin.core.errors import LMLError

TEMPORARY = re.compile(r"\..+\.tmp")
"""Names that `temporary_name` returns. What a killed process left under such a name may be deleted."""

_KEPT = 40
"""Characters of a file's name in its temporary name, so that a long name does not become too long for a folder."""


@contextlib.contextmanager
def atomic_write(path: str | Path, subject: str | None = None) -> Iterator[Path]:
    """Replace a file in one move: a reader sees the old file or the new one, never half of one.

    The body writes to the path that it is given, in the same folder and of a name that nobody else has. When the body
    ends, that file is renamed. When it fails, the file is removed, and what stood at `path` stays.

    Args:
        path: The file. Its folder must be there, or be made by the body.
        subject: What a message calls the file; None is `file 'PATH'`.

    Yields:
        The path to write to.

    Raises:
        LMLError: If the file cannot be written: no such folder, no space, no permission.
    """
    target = Path(path)
    subject = subject or f"file {str(path)!r}"
    if not target.name:
        raise LMLError(f"{subject} is a folder; give the name of a file.")
    part = target.with_name(temporary_name(target.name))
    try:
        yield part
        os.replace(part, target)
    except OSError as error:
        raise LMLError(
            f"{subject} cannot be written ({reason_of(error)}); see to its folder, space and permissions, or give "
            "another file."
        ) from error
    finally:
        # Gone after the rename. Where it cannot be deleted, the error above says why.
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)


def write_text(path: str | Path, text: str) -> None:
    """Write a UTF-8 text file in one move; its folder is made where it is not there.

    Raises:
        LMLError: If it cannot be written.
    """
    with atomic_write(path) as part:
        part.parent.mkdir(parents=True, exist_ok=True)
        part.write_text(text, encoding="utf-8")


def read_json(path: str | Path, subject: str, remedy: str) -> Any:
    """Return what a JSON file holds.

    Args:
        path: The file, UTF-8.
        subject: What a message calls it, such as `path 'gains.json'`.
        remedy: What to do where it cannot be read.

    Raises:
        LMLError: If there is no such file, or it is no JSON.
    """
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise LMLError(f"{subject} cannot be read ({reason_of(error)}); {remedy}.") from error
    except (ValueError, RecursionError) as error:
        raise LMLError(f"{subject} cannot be read (it is not JSON: {reason_of(error)}); {remedy}.") from error


def split_lines(text: str) -> list[str]:
    r"""Return the lines of a text, which end at `\n`, `\r\n` or `\r`.

    `str.splitlines` ends them at form feeds, U+0085, U+2028 and others as well, and cuts a line of text there.
    """
    return re.split(r"\r\n|\r|\n", text)


def temporary_name(name: str) -> str:
    """Return a name to write a file under before it is renamed."""
    # Unique, because two machines may have processes of one number.
    return f".{name[-_KEPT:]}.{uuid.uuid4().hex[:12]}.tmp"


def reason_of(error: BaseException) -> str:
    """Return what an error says, in one short line."""
    strerror = getattr(error, "strerror", None)
    text = " ".join((strerror or str(error) or type(error).__name__).split())
    return text if len(text) <= 240 else text[:240] + "..."

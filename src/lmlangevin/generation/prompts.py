"""Files of prompts: plain lines, a table of captions, or the caption annotations of MS-COCO."""

from __future__ import annotations

import csv
import hashlib
import io
import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lmlangevin.core.errors import LMLError

LONGEST = 4000
"""Characters of a prompt, at most: a file with longer ones is no list of prompts."""

_ID_COLUMNS = ("image_id", "id")
_TEXT_COLUMNS = ("text", "caption", "prompt")


@dataclass(frozen=True)
class Prompts:
    """The prompts of a file, in its order.

    Attributes:
        texts: One or more, each a line of text.
        ids: What the file calls each of them, such as the image that a caption describes; None for plain lines.
        sha256: Hash of the file's bytes.
    """

    texts: tuple[str, ...]
    ids: tuple[int, ...] | None
    sha256: str


def example_prompts() -> Prompts:
    """Return the example prompts of the scenes models."""
    from lmlangevin.scenes import DEMO_PROMPTS

    return Prompts(DEMO_PROMPTS, None, hashlib.sha256("\n".join(DEMO_PROMPTS).encode()).hexdigest())


def check_prompt(name: str, text: Any) -> None:
    """Check one prompt.

    Args:
        name: What a message calls it.
        text: The prompt.

    Raises:
        LMLError: If it is empty, too long, holds control characters, or is the name of a file.
    """
    if not isinstance(text, str) or not text.strip():
        raise LMLError(f"{name}={text!r} is empty; give a line of text, or leave it out.")
    if len(text) > LONGEST:
        raise LMLError(f"{name} has {len(text)} characters; give {LONGEST} or fewer.")
    if not text.isprintable():
        odd = next(c for c in text if not c.isprintable())
        raise LMLError(f"{name} holds the character {odd!r}; give one line of text.")


def read_prompts(path: str | Path) -> Prompts:
    """Read a file of prompts.

    - `.txt`, or any other name: one prompt a line; empty lines are passed over.
    - `.csv` and `.tsv`: a header, with a column `text`, `caption` or `prompt`, and perhaps `image_id` or `id`.
    - `.json`: a list of texts, a list of objects with the same keys, or the annotations of MS-COCO
      (`{"annotations": [{"image_id": ..., "caption": ...}, ...]}`), of which the first caption of each image is taken.

    Args:
        path: The file, UTF-8.

    Raises:
        LMLError: If it cannot be read, is of no such form, or holds no prompt or one that `check_prompt` refuses.
    """
    name = f"prompt_file={str(path)!r}"
    try:
        data = Path(path).read_bytes()
        text = data.decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise LMLError(f"{name} cannot be read ({error}); give a UTF-8 text file of one prompt a line.") from error
    suffix = Path(path).suffix.lower()
    if suffix in (".csv", ".tsv"):
        rows = _table(name, text, "\t" if suffix == ".tsv" else ",")
    elif suffix == ".json":
        rows = _json(name, text)
    else:
        rows = [(None, line.strip()) for line in text.splitlines() if line.strip()]
    if not rows:
        raise LMLError(f"{name} holds no prompt; give one a line.")
    texts = tuple(" ".join(caption.split()) for _, caption in rows)
    for index, caption in enumerate(texts):
        check_prompt(f"{name}: prompt {index + 1}", caption)
    ids = tuple(identity for identity, _ in rows if identity is not None)
    if len(set(ids)) < len(ids):
        twice = next(identity for identity in ids if ids.count(identity) > 1)
        raise LMLError(f"{name} has image_id {twice} twice; give one caption an image.")
    return Prompts(texts, ids if len(ids) == len(texts) else None, hashlib.sha256(data).hexdigest())


def _table(name: str, text: str, delimiter: str) -> list[tuple[int | None, str]]:
    reader = csv.DictReader(io.StringIO(text), delimiter=delimiter)
    try:
        return list(_objects(name, reader))
    except csv.Error as error:
        raise LMLError(f"{name} is no table ({error}); give a header with image_id and text.") from error


def _json(name: str, text: str) -> list[tuple[int | None, str]]:
    try:
        content = json.loads(text)
    except ValueError as error:
        raise LMLError(f"{name} is no JSON ({error}); give a list of texts, or captions of MS-COCO.") from error
    if isinstance(content, dict) and isinstance(content.get("annotations"), list):
        # MS-COCO has five captions an image.
        first: dict[int | None, str] = {}
        for identity, caption in _objects(name, content["annotations"]):
            first.setdefault(identity, caption)
        return list(first.items())
    if not isinstance(content, list):
        raise LMLError(f"{name} holds no list; give a list of texts, or captions of MS-COCO.")
    if all(isinstance(item, str) for item in content):
        return [(None, item) for item in content]
    return list(_objects(name, content))


def _objects(name: str, items: Iterable[Any]) -> Iterable[tuple[int | None, str]]:
    for index, item in enumerate(items):
        row = item if isinstance(item, dict) else {}
        caption = next((row[key] for key in _TEXT_COLUMNS if isinstance(row.get(key), str)), None)
        if caption is None:
            raise LMLError(
                f"{name}: entry {index + 1} has no {' or '.join(_TEXT_COLUMNS)}; give a header that names it."
            )
        identity = next((row[key] for key in _ID_COLUMNS if row.get(key) not in (None, "")), None)
        try:
            yield None if identity is None else int(identity), caption
        except (TypeError, ValueError):
            raise LMLError(f"{name}: entry {index + 1} has image_id {identity!r}; give a whole number.") from None

"""Files of prompts: plain lines, a table of captions, or the caption annotations of MS-COCO."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import re
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lmlangevin.core.errors import LMLError
from lmlangevin.files import reason_of, split_lines

LONGEST = 4000
"""Characters of a prompt, at most: a file with longer ones is no list of prompts."""

_ID_COLUMNS = ("image_id", "id")
_TEXT_COLUMNS = ("text", "caption", "prompt")
_SPACES = " \t\r\n"
_REFUSED = {
    "Cc": "a control character",
    "Cs": "half of a surrogate pair",
    "Zl": "a line break",
    "Zp": "a line break",
}
"""Unicode categories that no prompt holds. All others pass: joiners, emoji of any year, spaces of any width."""


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
    """Check one prompt: any Unicode text but control characters, lone surrogates and line breaks.

    Args:
        name: What a message calls it.
        text: The prompt.

    Raises:
        LMLError: If it is empty, too long, or holds such a character.
    """
    if not isinstance(text, str) or not text.strip():
        raise LMLError(f"{name}={text!r} is empty; give a line of text, or leave it out.")
    if len(text) > LONGEST:
        raise LMLError(f"{name} has {len(text)} characters; give {LONGEST} or fewer.")
    for character in text:
        what = _REFUSED.get(unicodedata.category(character))
        if what is not None:
            raise LMLError(f"{name} holds the character {ascii(character)}, {what}; give one line of text.")


def read_prompts(path: str | Path) -> Prompts:
    r"""Read a file of prompts.

    - `.txt`, or any other name: one prompt a line; empty lines are passed over.
    - `.csv` and `.tsv`: a header, with a column `text`, `caption` or `prompt`, and perhaps `image_id` or `id`.
    - `.jsonl` and `.ndjson`: an object with the same keys, or a text, on each line.
    - `.json`: a list of texts, a list of objects with the same keys, or the annotations of MS-COCO
      (`{"annotations": [{"image_id": ..., "caption": ...}, ...]}`), of which the first caption of each image is taken;
      without any `image_id` all of them.

    Lines end at `\n`, `\r\n` or `\r` and nowhere else. Spaces, tabs and line ends inside a prompt become one space.

    Args:
        path: The file, UTF-8.

    Raises:
        LMLError: If it cannot be read, is of no such form, holds no prompt or one that `check_prompt` refuses, has a
            row of more fields than columns, or ids that are no whole numbers, twice the same, or missing in some rows.
    """
    name = f"prompt_file={str(path)!r}"
    try:
        data = Path(path).read_bytes()
        text = data.decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise LMLError(f"{name} cannot be read ({error}); give a UTF-8 text file of one prompt a line.") from error
    suffix = Path(path).suffix.lower()
    if suffix in (".csv", ".tsv"):
        captions, ids = _columns(name, _table(name, text, "\t" if suffix == ".tsv" else ","))
    elif suffix in (".jsonl", ".ndjson"):
        lines = enumerate(split_lines(text), 1)
        captions, ids = _columns(name, [_parse(f"{name}: line {k}", line) for k, line in lines if line.strip()])
    elif suffix == ".json":
        captions, ids = _document(name, _parse(name, text))
    else:
        captions, ids = [line for line in split_lines(text) if line.strip()], None
    if not captions:
        raise LMLError(f"{name} holds no prompt; give one a line.")
    texts = tuple(re.sub(f"[{_SPACES}]+", " ", caption).strip(" ") for caption in captions)
    for index, caption in enumerate(texts):
        check_prompt(f"{name}: prompt {index + 1}", caption)
    if ids is not None and len(set(ids)) < len(ids):
        twice = next(identity for identity in ids if ids.count(identity) > 1)
        raise LMLError(f"{name} has image_id {twice} twice; give one caption an image.")
    return Prompts(texts, None if ids is None else tuple(ids), hashlib.sha256(data).hexdigest())


def _table(name: str, text: str, delimiter: str) -> list[Mapping[Any, Any]]:
    line = 0

    def lines() -> Iterator[str]:
        # The reader's own count leaves out the line that it fails in.
        nonlocal line
        for line, content in enumerate(io.StringIO(text, newline=""), 1):  # noqa: B007
            yield content

    remedy = 'give a text that holds quotes or the delimiter between double quotes (")'
    rows = []
    try:
        # strict: a quote that is never closed would swallow the lines below it.
        for row in csv.DictReader(lines(), delimiter=delimiter, strict=True):
            if None in row:
                raise LMLError(f"{name}: line {line} has more fields than the header has columns; {remedy}.")
            rows.append(row)
    except csv.Error as error:
        raise LMLError(f"{name}: line {line} is no row of a table ({error}); {remedy}.") from error
    return rows


def _parse(subject: str, text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise LMLError(
            f"{subject} is no JSON ({reason_of(error)}); give a list of texts, or captions of MS-COCO."
        ) from error


def _document(name: str, content: Any) -> tuple[list[str], list[int] | None]:
    """Return the captions and ids of a JSON file."""
    if isinstance(content, dict) and isinstance(content.get("annotations"), list):
        # An annotation's own id is no image's.
        captions, ids = _columns(name, content["annotations"], ("image_id",))
        if ids is None:
            return captions, None
        # MS-COCO has five captions an image.
        first: dict[int, str] = {}
        for identity, caption in zip(ids, captions, strict=True):
            first.setdefault(identity, caption)
        return list(first.values()), list(first)
    if not isinstance(content, list):
        raise LMLError(f"{name} holds no list; give a list of texts, or captions of MS-COCO.")
    return _columns(name, content)


def _columns(
    name: str, items: Sequence[Any], id_columns: tuple[str, ...] = _ID_COLUMNS
) -> tuple[list[str], list[int] | None]:
    """Return the captions and the ids of objects, or of texts, which have no ids.

    The ids are those of one column, the first that any of the objects has.
    """
    rows = [{"text": item} if isinstance(item, str) else item if isinstance(item, Mapping) else {} for item in items]
    column = next((key for key in id_columns if any(_given(row, key) for row in rows)), None)
    captions, ids = [], []
    for index, row in enumerate(rows):
        entry = f"{name}: entry {index + 1}"
        caption = next((row[key] for key in _TEXT_COLUMNS if isinstance(row.get(key), str)), None)
        if caption is None:
            raise LMLError(f"{entry} has no {' or '.join(_TEXT_COLUMNS)}; give a header that names it.")
        captions.append(caption)
        if column is None:
            continue
        if not _given(row, column):
            raise LMLError(f"{entry} has no {column}, and others have one; give it to all, or to none.")
        identity = _whole(row[column])
        if identity is None:
            raise LMLError(f"{entry} has {column} {row[column]!r}; give a whole number.")
        ids.append(identity)
    return captions, None if column is None else ids


def _given(row: Mapping[Any, Any], key: str) -> bool:
    return row.get(key) not in (None, "")


def _whole(value: Any) -> int | None:
    """Return a whole number, given as one or as its digits; None for anything else."""
    if isinstance(value, str):
        return int(value) if re.fullmatch(r"\s*[+-]?[0-9]{1,18}\s*", value) else None
    if isinstance(value, bool) or not isinstance(value, (int, float)) or value != value or abs(value) >= 10**18:
        return None
    return int(value) if value == int(value) else None

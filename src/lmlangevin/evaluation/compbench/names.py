"""Names of image files in T2I-CompBench's layout: the prompt, an underscore and the number of the image.

The official scripts take what stands before the underscore as the prompt, so a prompt is written as it is wherever a
file's name can hold it. That is so for every prompt of the validation files.
"""

from __future__ import annotations

import os
import re
import unicodedata
from urllib.parse import unquote_to_bytes

from lmlangevin.core.errors import LMLError

LONGEST = 255
"""Bytes of a file's name, at most: the limit of the usual file systems."""

# A prompt's end is never the name's end, so neither trailing dots and spaces nor names of devices need anything.
_ENCODED = frozenset('%_/\\<>"|?*')
_NAME = re.compile(r"(?P<prompt>[^_]*)_(?P<index>[0-9]+)\.(?:png|jpg|jpeg|webp|bmp)", re.IGNORECASE | re.DOTALL)


def file_name(prompt: str, index: int, *, windows: bool = os.name == "nt") -> str:
    r"""Return the name of an image's file.

    `file_name("a red cube.", 7)` is `"a red cube._000007.png"`. Characters that a name cannot hold or that would be
    misread are percent-encoded as UTF-8: `%`, `_`, `/`, `\`, `<`, `>`, `"`, `|`, `?`, `*`, what is not printable, and
    a dot at the beginning.

    Args:
        prompt: any text.
        index: number of the image, counted through all prompts, 0 or more.
        windows: encode `:` as well, which a prompt of the category color holds and only Windows refuses.

    Raises:
        LMLError: index < 0, text that is no Unicode, or a name of more than `LONGEST` bytes.
    """
    if index < 0:
        raise LMLError(f"index {index}: give the number of an image, 0 or more")
    try:
        text = "".join(_encoded(c) if _is_encoded(c, windows) else c for c in prompt)
    except UnicodeEncodeError as error:
        raise LMLError(f"prompt {prompt!r}: is no Unicode text ({error.reason}); mend the file of prompts") from error
    if text.startswith("."):
        text = _encoded(".") + text[1:]
    name = f"{text}_{index:06d}.png"
    size = len(name.encode())
    if size > LONGEST:
        raise LMLError(
            f"prompt {prompt[:40]!r}...: its file's name would have {size} bytes and a name can have {LONGEST}; give a "
            "shorter prompt"
        )
    return name


def _is_encoded(character: str, windows: bool) -> bool:
    if character in _ENCODED or (windows and character == ":"):
        return True
    # Controls, formats, surrogates, private and unassigned; separators of lines and paragraphs.
    return unicodedata.category(character)[0] == "C" or unicodedata.category(character) in ("Zl", "Zp")


def _encoded(character: str) -> str:
    return "".join(f"%{byte:02X}" for byte in character.encode())


def parse_name(name: str) -> tuple[str, int]:
    """Return the prompt and the number that a file's name holds.

    A name that the official scripts wrote is read as they read it: a `%` without two digits behind it stays one.

    Args:
        name: name of a .png, .jpg, .jpeg, .webp or .bmp file, without its folder.

    Raises:
        LMLError: it is of another form, or what is encoded in it is no text.
    """
    match = _NAME.fullmatch(name)
    if match is None:
        raise LMLError(f"file {name!r}: is not named prompt_000000.png, with one underscore; rename it or take it away")
    try:
        return unquote_to_bytes(match["prompt"]).decode(), int(match["index"])
    except UnicodeError as error:
        raise LMLError(f"file {name!r}: holds no text that can be decoded; rename it or take it away") from error

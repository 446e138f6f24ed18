"""The blocks of code in README and docs, for the tests that run them.

A block may be left out of what is run by a comment above it that says why:

    <!-- not run: it needs a GPU -->
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
_BLOCK = re.compile(
    r"^(?:<!-- not run: (?P<reason>[^>]*?) -->\n+)?```(?P<language>\w*)\n(?P<text>.*?)^```[ ]*$", flags=re.S | re.M
)
_SEPARATORS = {";", "&&", "||", "|", "&"}
_KEYWORDS = {"do", "until", "while", "then"}


@dataclass(frozen=True)
class Block:
    """A fenced block of a page.

    Attributes:
        page: The page's file.
        line: Of its first line of code, from 1.
        language: What stands behind the fence, perhaps nothing.
        text: The code.
        reason: Why it is not run; None where it is.
    """

    page: Path
    line: int
    language: str
    text: str
    reason: str | None


def pages() -> list[Path]:
    """Return README and all other pages with code for users."""
    patterns = ("*.md", "docs/*.md", "integrations/*/README.md", "examples/*.md", "src/lmlangevin/assets/*/README.md")
    return sorted(path for pattern in patterns for path in ROOT.glob(pattern))


def blocks(page: Path, language: str) -> list[Block]:
    """Return the blocks of a page in a language, in order."""
    text = page.read_text(encoding="utf-8")
    return [
        Block(page, text.count("\n", 0, match.start("text")) + 1, match["language"], match["text"], match["reason"])
        for match in _BLOCK.finditer(text)
        if match["language"] == language
    ]


def shell_commands(text: str) -> Iterator[list[str]]:
    """Yield the simple commands of a block of shell, without keywords and comments.

    Lines that go on are joined, and a variable of a `for` stands for the first of its words.
    """
    variables: dict[str, str] = {}
    for line in re.sub(r"\\\n\s*", " ", text).splitlines():
        lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
        lexer.whitespace_split = True
        command: list[str] = []
        for token in [*lexer, ";"]:
            if token not in _SEPARATORS:
                command.append(re.sub(r"\$(\w+)", lambda m: variables.get(m[1], m[0]), token))
                continue
            while command and command[0] in _KEYWORDS:
                command = command[1:]
            if command[:1] == ["for"]:
                variables[command[1]] = command[3]
            elif command and command[0] not in (":", "done", "fi"):
                yield command
            command = []

"""Prompts of T2I-CompBench, read from the user's clone of it or from a file of one prompt a line."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from lmlangevin.core.errors import LMLError
from lmlangevin.evaluation.compbench import CATEGORIES, PROMPTS_EACH
from lmlangevin.files import split_lines

_DATASET = Path("examples") / "dataset"


@dataclass(frozen=True)
class ComplexKinds:
    """Which prompts of the category complex hold which relation; keys are those of `complex_key`.

    Args:
        all: every prompt of the category.
        spatial: prompts with a spatial relation and attributes.
        action: prompts with an action and attributes.
    """

    all: frozenset[str]
    spatial: frozenset[str]
    action: frozenset[str]


def tidy(prompt: str) -> str:
    """Return a prompt with single spaces and none at its ends, which is how prompts are compared."""
    return " ".join(prompt.split())


def complex_key(prompt: str) -> str:
    """Return what a prompt of the category complex is looked up by: up to its first full stop, in small letters."""
    return tidy(prompt.split(".")[0]).lower()


def check_category(category: str | None) -> None:
    """Check the name of a category.

    Raises:
        LMLError: there is none of that name.
    """
    if category not in CATEGORIES:
        raise LMLError(f"category {category!r}: unknown; give one of {', '.join(CATEGORIES)}")


def read_prompts(source: str | Path, category: str | None = None) -> tuple[str, ...]:
    """Read the validation prompts of a category.

    Args:
        source: a clone of T2I-CompBench, its folder examples/dataset, or a text file of one prompt a line (UTF-8; what
            follows a tab is left out, as the official scripts do, and so are empty lines).
        category: a name of `CATEGORIES`, which chooses the file in a clone; a text file needs none.

    Returns:
        The prompts in the file's order, each by `tidy`.

    Raises:
        LMLError: a clone and no known category, or a file that is not there, cannot be read or holds no prompt.
    """
    path = Path(source)
    if not path.is_dir():
        return _read_lines(path)
    check_category(category)
    return _read_lines(_in_clone(path, f"{category}_val.txt"))


def read_complex_kinds(clone: str | Path) -> ComplexKinds:
    """Read which prompts of the category complex hold a spatial relation, and which an action.

    Args:
        clone: a clone of T2I-CompBench, or its folder examples/dataset.

    Raises:
        LMLError: it is no folder, or one of the three files cannot be read.
    """
    folder = Path(clone)
    if not folder.is_dir():
        raise LMLError(
            f"prompts {str(clone)!r}: the 3-in-1 score needs three files of the clone; give the clone's folder"
        )
    names = ("complex_val.txt", "complex_val_spatial.txt", "complex_val_action.txt")
    return ComplexKinds(*(frozenset(map(complex_key, _read_lines(_in_clone(folder, name)))) for name in names))


def count_note(prompts: int) -> str | None:
    """Return what a reader must know of a number of prompts that is not a validation set's, else None."""
    if prompts == PROMPTS_EACH:
        return None
    return f"{prompts} prompts where the validation set of a category has {PROMPTS_EACH}: no published score compares."


def _in_clone(folder: Path, name: str) -> Path:
    inner = folder / _DATASET / name
    return inner if inner.is_file() else folder / name


def _read_lines(path: Path) -> tuple[str, ...]:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise LMLError(
            f"prompts {str(path)!r}: cannot be read ({getattr(error, 'strerror', None) or error}); give a clone of "
            "T2I-CompBench, or a UTF-8 text file of one prompt a line"
        ) from error
    prompts = tuple(prompt for line in split_lines(text) if (prompt := tidy(line.split("\t")[0])))
    if not prompts:
        raise LMLError(f"prompts {str(path)!r}: holds no prompt; give one a line")
    return prompts

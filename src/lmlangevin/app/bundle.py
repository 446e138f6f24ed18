"""What a visitor takes home of a run: the images with the manifest in one file, and the lines that repeat it."""

from __future__ import annotations

import dataclasses
import json
import zipfile
from pathlib import Path
from typing import Any

from lmlangevin.generation.config import GenerateConfig
from lmlangevin.generation.manifest import MANIFEST

SCRIPT = "repeat.py"
_LEFT_OUT = ("out", "overwrite", "resume", "nfe")
"""What says nothing of the images, and what the steps say already."""


def repeat_script(config: GenerateConfig, out: str = "lml-images") -> str:
    """Return the five lines of Python that make a job's images again, in a folder of the working directory.

    Args:
        config: The job.
        out: The folder that they write to.

    Returns:
        Lines that need the package alone. Settings that are the defaults are left out, but for the steps.
    """
    given = [_literal(out)]
    for item in dataclasses.fields(config):
        value = getattr(config, item.name)
        if item.init and item.name not in _LEFT_OUT and (value != item.default or item.name == "steps"):
            given.append(f"{item.name}={_literal(value)}")
    return (
        "from lmlangevin.generation import GenerateConfig, generate\n"
        "\n"
        f"config = GenerateConfig({', '.join(given)})\n"
        "result = generate(config)\n"
        'print(result.verdict or "done", result.pictures["compare"])\n'
    )


def _literal(value: Any) -> str:
    """Return a value as Python has it, texts in double quotes, which JSON escapes as Python does."""
    return json.dumps(value, ensure_ascii=False) if isinstance(value, str) else repr(value)


def write_bundle(folder: Path, config: GenerateConfig, target: Path) -> None:
    """Pack a finished job into a zip file: its images, pictures and manifest, and the script that repeats it.

    Args:
        folder: The job's folder.
        config: The job.
        target: The file to write; its folder must be there.
    """
    with zipfile.ZipFile(target, "w", zipfile.ZIP_STORED) as archive:  # PNG does not shrink
        for path in [folder / MANIFEST, *sorted(folder.rglob("*.png"))]:
            archive.write(path, path.relative_to(folder).as_posix())
        archive.writestr(SCRIPT, repeat_script(config))

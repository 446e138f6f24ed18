"""`manifest.json`: what was made and everything that is needed to make it again."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import math
import os
import platform
from pathlib import Path
from typing import Any

from torch import Tensor

FORMAT = "lmlangevin-generate-1"
MANIFEST = "manifest.json"
PACKAGES = ("torch", "diffusers", "transformers", "numpy", "pillow")


def package_versions() -> dict[str, str]:
    """Return the versions of what images depend on; a package that is not installed is left out."""
    from lmlangevin._version import __version__

    versions = {"lmlangevin": __version__, "python": platform.python_version()}
    for name in PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions


def noise_hash(noise: Tensor) -> str:
    """Return the SHA-256 of one image's initial noise: its float32 bytes, little-endian, row by row."""
    return hashlib.sha256(noise.contiguous().numpy().astype("<f4").tobytes()).hexdigest()


def write_manifest(folder: Path, content: dict[str, Any]) -> Path:
    """Write the manifest in one step: a reader sees the old one or the new one, never half of one."""
    path = folder / MANIFEST
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.write_text(json.dumps(_plain(content), indent=1, allow_nan=False) + "\n", encoding="utf-8")
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    return path


def _plain(value: Any) -> Any:
    """Return a value with what JSON does not know (not-a-number, infinity) as null."""
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def remove_job(folder: Path) -> None:
    """Delete the files of the job that a folder's manifest lists, and nothing else."""
    path = folder / MANIFEST
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        return
    root = folder.resolve()
    files = [name for image in content.get("images", []) for name in image["files"].values()]
    for name in (*files, *content.get("pictures", {}).values()):
        target = folder / name
        # A manifest is a file that anyone may have edited: it must not reach outside its own folder.
        if target.resolve().is_relative_to(root):
            target.unlink(missing_ok=True)
    path.unlink()
    for arm in ("images", "plain", "lml"):
        if (folder / arm).is_dir() and not any((folder / arm).iterdir()):
            (folder / arm).rmdir()

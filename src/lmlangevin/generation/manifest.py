"""`manifest.json`: what was made and everything that is needed to make it again."""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Iterable, Iterator
from typing import Any

from torch import Tensor

from lmlangevin._version import installed_versions
from lmlangevin.core.errors import LMLError
from lmlangevin.generation.config import GenerateConfig
from lmlangevin.generation.seeds import image_seeds
from lmlangevin.generation.store import Place, Store
from lmlangevin.values import differing, text

FORMAT = "lmlangevin-generate-1"
MANIFEST = "manifest.json"
PACKAGES = ("torch", "diffusers", "transformers", "numpy", "pillow")
ARMS = ("images", "plain", "lml", "release")
"""Names of runs, which are those of the folders that hold their images."""

MAY_DIFFER = ("batch_size", "compile", "device", "force", "memory", "nfe")
"""Settings that may be others when a job goes on: they change no image beyond rounding, and the steps say what `nfe`
does."""

_IMAGE = re.compile(rf"(?:{'|'.join(ARMS)})/\d{{6,}}\.png")
_PICTURE = re.compile(r"(?:grid|compare)\.png")


def package_versions() -> dict[str, str]:
    """Return the versions of what images depend on."""
    return installed_versions(PACKAGES)


def noise_hash(noise: Tensor) -> str:
    """Return the SHA-256 of one image's initial noise: its float32 bytes, little-endian, row by row."""
    return hashlib.sha256(noise.contiguous().numpy().astype("<f4").tobytes()).hexdigest()


def run_names(config: GenerateConfig) -> tuple[str, ...]:
    """Return the names of a job's runs: `plain`, `lml` and perhaps `release` of a comparison, otherwise `images`."""
    if not config.compare:
        return ("images",)
    return ("plain", "lml", "release") if config.release else ("plain", "lml")


def image_name(run: str, index: int) -> str:
    """Return the name of an image's file."""
    return f"{run}/{index:06d}.png"


def image_entries(config: GenerateConfig, hashes: NoiseHashes | None = None) -> Iterator[dict[str, Any]]:
    """Yield what the manifest says of each image, made one at a time: a job may have very many."""
    runs = run_names(config)
    for index, seed in enumerate(image_seeds(config.seed, config.count)):
        entry: dict[str, Any] = {"id": index, "seed": seed, "prompt": config.prompt_of(index)}
        if (identity := config.prompt_id_of(index)) is not None:
            entry["prompt_id"] = identity
        entry["files"] = {run: image_name(run, index) for run in runs}
        if hashes is not None and (noise := hashes.get(index)) is not None:
            entry["noise_sha256"] = noise
        yield entry


class NoiseHashes:
    """The noise hashes of a job's images, in 33 bytes each.

    Args:
        count: Number of images.
    """

    def __init__(self, count: int) -> None:
        self._bytes = bytearray(32 * count)
        self._known = bytearray(count)

    def put(self, index: int, value: str) -> None:
        """Keep the hash (64 hexadecimal digits) of an image."""
        self._bytes[32 * index : 32 * index + 32] = bytes.fromhex(value)
        self._known[index] = 1

    def get(self, index: int) -> str | None:
        """Return the hash of an image, None where there is none."""
        return self._bytes[32 * index : 32 * index + 32].hex() if self._known[index] else None


def job_key(config: GenerateConfig) -> str:
    """Return what marks the records of a job: one word for all settings and files that its images depend on."""
    settings = [FORMAT, comparable(config.as_dict()), config.inputs()]
    return hashlib.sha256(text(settings).encode()).hexdigest()[:16]


def comparable(settings: dict[str, Any]) -> dict[str, Any]:
    """Return the settings that may not be others when a job goes on."""
    return {key: value for key, value in settings.items() if key not in MAY_DIFFER}


def differences(found: dict[str, Any], asked: dict[str, Any]) -> str | None:
    """Return in words where settings differ, each with what the folder has and what was asked; None if nowhere."""
    words = [
        f"{key} (the folder has {found.get(key)!r}, asked was {asked.get(key)!r})" for key in differing(found, asked)
    ]
    return ", ".join(words) or None


def write_manifest(store: Store, content: dict[str, Any], images: Iterable[dict[str, Any]]) -> Place:
    """Write the manifest in one step: a reader sees the old one or the new one, never half of one.

    Args:
        store: Where the job lies.
        content: All but the images.
        images: What it says of each image; each becomes a line of its own.

    Returns:
        Where it is.
    """
    head = json.dumps(json_values(content), indent=1, allow_nan=False).removesuffix("\n}")
    lines = ",\n".join(f"  {json.dumps(entry, allow_nan=False)}" for entry in images)
    store.write(MANIFEST, f'{head},\n "images": [\n{lines}\n ]\n}}\n'.encode())
    return store.place(MANIFEST)


def read_manifest(store: Store) -> dict[str, Any] | None:
    """Return a folder's manifest, None where there is none.

    Raises:
        LMLError: If it is no manifest of this command.
    """
    try:
        content = json.loads(store.read(MANIFEST))
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise LMLError(_not_ours(store)) from error
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise LMLError(_not_ours(store))
    return content


def _not_ours(store: Store) -> str:
    return f"out={store.shown!r} holds a {MANIFEST} that is none of lml generate; give another folder, or --overwrite."


def json_values(value: Any) -> Any:
    """Return a value with what JSON does not know (not-a-number, infinity) as null."""
    if isinstance(value, dict):
        return {str(key): json_values(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [json_values(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def listed_files(content: dict[str, Any]) -> list[str]:
    """Return the names of the images and pictures that a manifest lists.

    A manifest is a file that anyone may have edited: what is no name that a job would give is left out.
    """
    images = content.get("images")
    entries = images if isinstance(images, list) else []
    files = [entry.get("files") for entry in entries if isinstance(entry, dict)]
    names = [name for item in files if isinstance(item, dict) for name in item.values()]
    pictures = content.get("pictures")
    found = [name for name in names if isinstance(name, str) and _IMAGE.fullmatch(name)]
    if isinstance(pictures, dict):
        found += [name for name in pictures.values() if isinstance(name, str) and _PICTURE.fullmatch(name)]
    return found

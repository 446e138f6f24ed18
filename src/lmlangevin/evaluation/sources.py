"""What a user names as images: a folder, a run of `lml generate`, or a statistics file; and batches read from it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lmlangevin.core.errors import LMLError
from lmlangevin.evaluation.protocols import Preparation, Protocol
from lmlangevin.files import read_json
from lmlangevin.pictures import SUFFIXES, picture_files, read_rgb

# As lmlangevin.generation.manifest has it. Written out, since generation builds on evaluation; a test keeps them equal.
MANIFEST_FORMAT = "lmlangevin-generate-1"


@dataclass(frozen=True)
class ImageFiles:
    """Image files, in the order of their seeds where a manifest tells them, otherwise of their names.

    Args:
        name: what the user named.
        argument: the argument that named it, for messages.
        files: the files; they are opened when their batch is due.
        run: the run of a manifest that they are; None for a plain folder.
        notes: what a reader of a number made from them must know.
    """

    name: str
    argument: str
    files: tuple[Path, ...]
    run: str | None = None
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.files)


@dataclass(frozen=True)
class StatisticsFile:
    """A file of Frechet statistics.

    Args:
        name: what the user named.
        argument: the argument that named it, for messages.
        path: an .npz file.
    """

    name: str
    argument: str
    path: Path


def open_source(named: str | Path, *, run: str | None = None, argument: str = "images") -> ImageFiles | StatisticsFile:
    """Find out what a path names, without reading an image.

    Args:
        named: a folder of images (.png, .jpg, .jpeg, .webp, .bmp; sorted by name, hidden files and subfolders left
            out), a folder or manifest of `lml generate`, or an .npz file of statistics.
        run: which run of a manifest: `"plain"`, `"lml"` or `"images"`. A manifest of one run needs none.
        argument: for messages.

    Raises:
        LMLError: there is no such thing, it holds no images, its manifest is damaged, lists files outside its folder
            or that are not there, or `run` is missing, unknown or without effect.
    """
    path, where = Path(named), f"{argument} {str(named)!r}"
    if path.is_dir():
        content = _read_manifest(path / "manifest.json", where) if (path / "manifest.json").exists() else None
        if content is not None:
            return _open_run(path, content, run, argument, str(named))
    elif not path.is_file():
        raise LMLError(f"{where}: not there; give a folder of images, a manifest.json of lml generate or an .npz file")
    elif path.suffix == ".json":
        content = _read_manifest(path, where)
        if content is None:
            raise LMLError(f"{where}: no manifest of lml generate; give the manifest.json that it wrote, or a folder")
        return _open_run(path.parent, content, run, argument, str(named))
    if run is not None:
        raise LMLError(f"run {run!r}: {where} is no folder of lml generate with a manifest.json; leave it out")
    if path.is_dir():
        return _open_folder(path, argument, str(named))
    if path.suffix == ".npz":
        return StatisticsFile(str(named), argument, path)
    raise LMLError(f"{where}: neither a folder nor statistics; give a folder of images or a file that ends in .npz")


def _open_folder(folder: Path, argument: str, named: str) -> ImageFiles:
    files = tuple(picture_files(folder))
    if not files:
        inner = sorted(entry.name for entry in folder.iterdir() if entry.is_dir() and not entry.name.startswith("."))
        hint = f"; subfolders are not searched, name one of {', '.join(inner[:5])}" if inner else ""
        raise LMLError(f"{argument} {named!r}: no images in it; give a folder with {', '.join(SUFFIXES)} files{hint}")
    return ImageFiles(named, argument, files)


# Manifests ----------------------------------------------------------------------------------------------------------


def _read_manifest(path: Path, where: str) -> dict[str, Any] | None:
    """Return the content of a manifest of `lml generate`, None for JSON of anybody else."""
    # A damaged one does not make its folder a plain one: beside its manifest a job keeps pictures that are no samples.
    content = read_json(path, f"{where}: its {path.name}", "name the folder of the images")
    return content if isinstance(content, dict) and content.get("format") == MANIFEST_FORMAT else None


def _open_run(folder: Path, content: dict[str, Any], run: str | None, argument: str, named: str) -> ImageFiles:
    where = f"{argument} {named!r}"
    try:
        rows = [(int(image["seed"]), dict(image["files"])) for image in content["images"]]
    except (TypeError, KeyError, ValueError, OverflowError) as error:
        raise LMLError(f"{where}: its manifest is damaged; run lml generate again, or name a run's folder") from error
    if not rows:
        raise LMLError(f"{where}: its manifest lists no images; run lml generate again")
    # In the order of the first image, so that a user reads them as they were made.
    runs = [name for name in rows[0][1] if all(name in files for _, files in rows)]
    if run is None and len(runs) == 1:
        run = runs[0]
    if run is None:
        folders = " or ".join(repr(str(folder / name)) for name in runs)
        option = "give --run, or name" if argument == "generated" else "name"
        raise LMLError(f"{where}: has the runs {', '.join(runs)}; {option} {folders}")
    if run not in runs:
        raise LMLError(f"run {run!r}: {where} has the runs {', '.join(runs)}; give one of them")
    status = content.get("status")
    root = folder.resolve()
    # The sort keeps the order of images that have equal seeds.
    names = [files[run] for _, files in sorted(rows, key=lambda row: row[0])]
    paths = tuple(_inside(root, name, where, status) for name in names)
    if len(set(paths)) < len(paths):
        raise LMLError(f"{where}: its manifest lists a file twice, which counts an image twice; run lml generate again")
    notes = () if status == "complete" else (f"The job of {where} is not complete (its status is {status!r}).",)
    return ImageFiles(named, argument, paths, run, notes)


def _inside(root: Path, name: Any, where: str, status: Any) -> Path:
    """Return a manifest's file; a manifest is a file that anyone may have edited, so it must not reach outside."""
    try:
        path = (root / name).resolve()
        inside = path.is_relative_to(root)
        found = inside and path.is_file()
    except (TypeError, ValueError, OSError):  # no string, a null byte, a name that is too long
        raise LMLError(f"{where}: its manifest lists {name!r}, which names no file; run lml generate again") from None
    if not inside:
        raise LMLError(f"{where}: its manifest lists {name!r}, which is not in its folder; name the images' own folder")
    if not found:
        raise LMLError(f"{where}: {name!r} of its manifest is not there (status {status!r}); run lml generate again")
    return path


# Images -------------------------------------------------------------------------------------------------------------


@dataclass
class SizeCount:
    """How many of the images read had which sides, (width, height)."""

    counts: dict[tuple[int, int], int] = field(default_factory=dict)

    def add(self, size: tuple[int, int]) -> None:
        """Count one image."""
        self.counts[size] = self.counts.get(size, 0) + 1

    def other_than(self, side: int) -> int:
        """Return how many are not squares of a side."""
        return sum(count for size, count in self.counts.items() if size != (side, side))


def read_image(path: Path, protocol: Protocol, argument: str = "images", sizes: SizeCount | None = None) -> Tensor:
    """Read one image as a protocol prepares it.

    Args:
        path: an image file. It becomes 8-bit RGB as `lmlangevin.pictures.read_rgb` says: turned by its EXIF
            orientation, 16-bit grey values scaled, transparent pixels white.
        protocol: says how.
        argument: for messages.
        sizes: counts the size that the file has.

    Returns:
        uint8, (3, H, W).

    Raises:
        LMLError: the file cannot be decoded, has 32 bits a channel, or another size than the protocol's.
    """
    import numpy as np
    from PIL import Image

    where = f"{argument}: file {str(path)!r}"
    picture = read_rgb(path, f"{where} cannot be decoded", "repair it, or take it away and count it")
    if sizes is not None:
        sizes.add(picture.size)
    side = protocol.size
    if protocol.preparation is Preparation.EXACT and picture.size != (side, side):
        raise LMLError(
            f"{where} is {picture.width}x{picture.height}; protocol {protocol.name!r} takes {side}x{side} and resizes "
            "nothing, give images of that size or another protocol"
        )
    if protocol.preparation is Preparation.CROP:
        assert side is not None  # a protocol checks it
        short = min(picture.size)
        left, top = (picture.width - short) // 2, (picture.height - short) // 2
        picture = picture.crop((left, top, left + short, top + short)).resize((side, side), Image.Resampling.BICUBIC)
    return torch.from_numpy(np.array(picture)).permute(2, 0, 1)


def image_batches(
    files: Sequence[Path],
    protocol: Protocol,
    batch_size: int,
    *,
    argument: str = "images",
    sizes: SizeCount | None = None,
) -> Iterator[Tensor]:
    """Read images in batches, in order, holding no more than one batch.

    Args:
        files: the files.
        protocol: says how images are prepared.
        batch_size: images in a batch, at most. Neighbours of different sizes go to different batches.
        argument: for messages.
        sizes: counts the sizes that the files have.

    Yields:
        uint8, (n, 3, H, W), n <= batch_size.

    Raises:
        LMLError: batch_size < 1, or what `read_image` raises.
    """
    if batch_size < 1:
        raise LMLError(f"batch_size {batch_size}: give a whole number >= 1")
    batch: list[Tensor] = []
    for path in files:
        image = read_image(path, protocol, argument, sizes)
        if batch and (len(batch) == batch_size or image.shape != batch[0].shape):
            yield torch.stack(batch)
            batch = []
        batch.append(image)
    if batch:
        yield torch.stack(batch)

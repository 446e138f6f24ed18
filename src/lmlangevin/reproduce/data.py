"""Where under a data folder a preset looks for its reference, its prompts and its pictures, and what it finds there."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lmlangevin.core.errors import LMLError
from lmlangevin.pictures import picture_files
from lmlangevin.reproduce.plan import Plan

REFERENCE_FILE = "reference.npz"
REFERENCE_FOLDER = "reference"
CAPTIONS = ("captions_val2014.json", "annotations/captions_val2014.json", "prompts.csv", "prompts.json", "prompts.txt")
CLONES = (".", "T2I-CompBench", "T2I-CompBench-main")
CONTROL = "control"


@dataclass(frozen=True)
class PromptList:
    """Prompts that a cell may be given.

    Attributes:
        texts: The prompts that are used, in order.
        file: Where they are from.
        sha256: Of the file.
    """

    texts: tuple[str, ...]
    file: Path
    sha256: str


def find_reference(plan: Plan) -> Path:
    """Return the statistics file or the folder of reference images.

    Raises:
        LMLError: There is neither, or the statistics are of another protocol.
    """
    folder = _data_dir(plan)
    path = folder / REFERENCE_FILE
    if path.is_file():
        from lmlangevin.evaluation.frechet import FrechetStatistics

        side = FrechetStatistics.load(path)
        if side.protocol != plan.protocol.reference_name:
            raise LMLError(
                f"reference {str(path)!r}: is of protocol {side.protocol or 'nobody says which'}; make it by lml fid "
                f"--protocol {plan.protocol.reference_name} --save-reference-statistics, or give images"
            )
        return path
    images = folder / REFERENCE_FOLDER
    if images.is_dir():
        from lmlangevin.evaluation.sources import open_source

        open_source(images, argument="reference")
        return images
    raise LMLError(
        f"data_dir {str(folder)!r}: has neither {REFERENCE_FILE} nor {REFERENCE_FOLDER}/; put {plan.preset.reference} "
        "there"
    )


def find_prompts(plan: Plan, category: str) -> PromptList:
    """Return the prompts of a category, or the captions of MS-COCO: as many as are used, from the first.

    Raises:
        LMLError: They are not there, cannot be read, or are too few.
    """
    folder = _data_dir(plan)
    if plan.preset.prompts == "compbench":
        from lmlangevin.evaluation.compbench.prompts import read_prompts as read_category

        homes = [folder / name for name in CLONES]
        files = [home / inner / f"{category}_val.txt" for home in homes for inner in ("examples/dataset", ".")]
        path = next((file for file in files if file.is_file()), None)
        if path is None:
            raise LMLError(
                f"data_dir {str(folder)!r}: has no T2I-CompBench/examples/dataset/{category}_val.txt; clone "
                "github.com/Karine-Huang/T2I-CompBench there"
            )
        texts = read_category(path)
    else:
        from lmlangevin.generation.prompts import read_prompts as read_captions

        path = next((folder / name for name in CAPTIONS if (folder / name).is_file()), None)
        if path is None:
            raise LMLError(f"data_dir {str(folder)!r}: has no {CAPTIONS[0]}; put the captions of MS-COCO there")
        texts = read_captions(path).texts
    wanted = plan.preset.prompt_count
    if len(texts) < wanted:
        raise LMLError(f"prompts {str(path)!r}: {len(texts)}, and {wanted} are used; give more, or --num-images")
    with path.open("rb") as stream:
        return PromptList(texts[:wanted], path, hashlib.file_digest(stream, "sha256").hexdigest())


def find_control(plan: Plan, category: str) -> tuple[Path, ...]:
    """Return the pictures that a ControlNet follows, one for each prompt that is used, in the order of their names.

    Raises:
        LMLError: There are fewer than prompts.
    """
    folder = _data_dir(plan) / CONTROL / category
    files = [file for file in picture_files(folder) if file.suffix.lower() == ".png"] if folder.is_dir() else []
    count = plan.preset.prompt_count
    if len(files) < count:
        raise LMLError(
            f"control {str(folder)!r}: holds {len(files)} PNG files for {count} prompts; put one for each there, in "
            "the order of their names"
        )
    return tuple(files[:count])


def fingerprint(reference: Path) -> dict[str, Any]:
    """Return what tells one reference from another: a file's hash, or the names and sizes of a folder's files."""
    digest = hashlib.sha256()
    if reference.is_file():
        digest.update(reference.read_bytes())
        return {"name": reference.name, "sha256": digest.hexdigest()}
    files = sorted(file for file in reference.iterdir() if file.is_file() and not file.name.startswith("."))
    for file in files:
        digest.update(f"{file.name} {file.stat().st_size}\n".encode())
    return {"name": reference.name, "files": len(files), "listing_sha256": digest.hexdigest()}


def _data_dir(plan: Plan) -> Path:
    folder = plan.config.data_dir
    if folder is None:
        raise LMLError("data_dir: none given; give --data-dir FOLDER")
    if not folder.is_dir():
        raise LMLError(f"data_dir {str(folder)!r}: is no folder; give --data-dir FOLDER")
    return folder

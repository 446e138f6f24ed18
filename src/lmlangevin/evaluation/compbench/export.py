"""Writer of T2I-CompBench's folder layout, from the finished images of a job of `lml generate`."""

from __future__ import annotations

import filecmp
import json
import os
import re
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

from lmlangevin.core.errors import LMLError
from lmlangevin.evaluation.compbench import IMAGES_EACH
from lmlangevin.evaluation.compbench.files import read_result
from lmlangevin.evaluation.compbench.layout import SAMPLES
from lmlangevin.evaluation.compbench.names import file_name, parse_name
from lmlangevin.evaluation.compbench.prompts import check_category, count_note, tidy
from lmlangevin.evaluation.sources import MANIFEST_FORMAT
from lmlangevin.files import atomic_write, write_text

RECORD = "lml_export.json"
"""File beside `samples` that says which job its images are of."""

_RECORD_FORMAT = "lmlangevin-compbench-export-1"
_PART = re.compile(r"[A-Za-z0-9][A-Za-z0-9 ._+=-]*")


@dataclass(frozen=True)
class Export:
    """What an export did.

    Args:
        folder: the sampler folder.
        added: images that were put there now.
        there: images that were there already.
        missing: images that the job has not made yet.
        notes: what a user should know.
    """

    folder: Path
    added: int
    there: int
    missing: int
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Image:
    source: Path
    name: str
    prompt: str
    seed: int


def export_job(
    job: str | Path,
    save_dir: str | Path,
    *,
    model: str,
    category: str,
    sampler: str,
    run: str | None = None,
    prompts: Sequence[str] | None = None,
) -> Export:
    """Put the images of a job where the scripts of T2I-CompBench look for them.

    An image becomes a hard link to the job's file, or a copy where the file system has no links. One that is there
    already is left alone, so a job that was not complete, or an export that was interrupted, is exported again by the
    same call. Image `id` of the job gets the number `id`.

    Args:
        job: folder of a job of `lml generate`, with its manifest.json.
        save_dir: the layout's folder.
        model: name of the model's folder.
        category: a category of T2I-CompBench.
        sampler: name of the sampler's folder.
        run: which run of the job; a job of one run needs none.
        prompts: the prompts that the job must have, in this order, each for a block of images of equal size.

    Returns:
        What was done.

    Raises:
        LMLError: a name that is no folder's name, a job without prompts or with others, files of the manifest that are
            not in the job's folder, or a samples folder that holds other images. Nothing is written then.
    """
    check_category(category)
    for argument, name in (("model", model), ("sampler", sampler)):
        # A name with a separator could lead out of save_dir.
        if not _PART.fullmatch(name) or name.endswith((".", " ")):
            raise LMLError(
                f"{argument} {name!r}: is to be a folder's name; give letters, digits and ' ._+=-', a letter or digit "
                "first"
            )
    root = Path(job)
    where = f"job {str(job)!r}"
    content = _read_manifest(root, where)
    run, images = _list_images(root, content, run, where)
    _check_prompts(images, prompts, where)
    folder = Path(save_dir) / model / category / sampler
    record = _record(content, images, run, {"model": model, "category": category, "sampler": sampler})
    _check_folder(folder, images, record)
    write_text(folder / RECORD, json.dumps(record, indent=1) + "\n")

    counts = {"added": 0, "there": 0, "missing": 0}
    for image in images:
        counts[_put(image, folder / SAMPLES)] += 1
    return Export(folder, **counts, notes=tuple(_notes(content, images, counts["missing"])))


def read_record(folder: Path) -> dict[str, Any] | None:
    """Return what `export_job` noted beside the samples of a sampler folder, None where it did not.

    Raises:
        LMLError: the file cannot be read.
    """
    path = folder / RECORD
    if not path.is_file():
        return None
    content = read_result(path, "record")
    return content if isinstance(content, dict) and content.get("format") == _RECORD_FORMAT else None


# Before a file is written -------------------------------------------------------------------------------------------


def _read_manifest(root: Path, where: str) -> dict[str, Any]:
    path = root / "manifest.json"
    if not path.is_file():
        raise LMLError(f"{where}: has no manifest.json; give the folder of a job of lml generate")
    content = read_result(path, "manifest")
    if not isinstance(content, dict) or content.get("format") != MANIFEST_FORMAT:
        raise LMLError(f"{where}: its manifest.json is none of lml generate; give the folder of a job of lml generate")
    return content


def _list_images(root: Path, content: dict[str, Any], run: str | None, where: str) -> tuple[str, list[_Image]]:
    """Return the run and its images by their ids; their files need not be there yet."""
    try:
        rows = sorted(
            (int(row["id"]), int(row["seed"]), row["prompt"], dict(row["files"])) for row in content["images"]
        )
    except (TypeError, KeyError, ValueError, OverflowError) as error:
        raise LMLError(f"{where}: its manifest is damaged; run lml generate again") from error
    if [row[0] for row in rows] != list(range(len(rows))) or not rows:
        raise LMLError(f"{where}: its manifest does not number its images 0, 1, 2 and so on; run lml generate again")
    runs = list(rows[0][3])
    if run is None and len(runs) == 1:
        run = runs[0]
    if run is None or run not in runs:
        raise LMLError(f"run {run!r}: {where} has the runs {', '.join(runs)}; give one of them by --run")
    base = root.resolve()
    images = []
    for index, seed, prompt, files in rows:
        if not isinstance(prompt, str) or not prompt.strip():
            raise LMLError(f"{where}: image {index} has no prompt; give a job of a text-to-image model")
        source = (base / str(files.get(run, ""))).resolve()
        # A manifest is a file that anyone may have edited.
        if source == base or not source.is_relative_to(base):
            raise LMLError(f"{where}: image {index} of its manifest is not in its folder; run lml generate again")
        images.append(_Image(source, file_name(prompt, index), prompt, seed))
    return run, images


def _check_prompts(images: Sequence[_Image], prompts: Sequence[str] | None, where: str) -> None:
    if prompts is None:
        return
    each, left = divmod(len(images), len(prompts))
    expected = [tidy(prompt) for prompt in prompts for _ in range(each)]
    if left or not each:
        raise LMLError(
            f"{where}: has {len(images)} images, no multiple of the {len(prompts)} prompts given; give the prompts "
            "that it was made from"
        )
    for index, (image, prompt) in enumerate(zip(images, expected, strict=True)):
        if tidy(image.prompt) != prompt:
            raise LMLError(
                f"{where}: image {index} is of {image.prompt!r} and not of {prompt!r}; give the prompts that it was "
                "made from"
            )


def _record(content: dict[str, Any], images: Sequence[_Image], run: str, names: dict[str, str]) -> dict[str, Any]:
    return {
        "format": _RECORD_FORMAT,
        **names,
        "job": content.get("job"),
        "run": run,
        "num_images": len(images),
        "seeds": {"first": images[0].seed, "count": len(images)},
        "config": content.get("config"),
        "versions": content.get("versions"),
    }


def _check_folder(folder: Path, images: Sequence[_Image], record: dict[str, Any]) -> None:
    """Raise where the samples folder holds anything that is not of these images, or another picture in one's place."""
    earlier = read_record(folder)
    remedy = "give another --sampler, or take them away"
    if earlier is not None and any(earlier.get(key) != record[key] for key in ("job", "run", "num_images")):
        raise LMLError(f"folder {str(folder)!r}: holds images of another job or run; {remedy}")
    inner = folder / SAMPLES
    if not inner.is_dir():
        return
    ours = {image.name: image for image in images}
    for entry in inner.iterdir():
        if entry.name.startswith("."):
            continue
        image = ours.get(entry.name)
        if image is None:
            parse_name(entry.name)
            raise LMLError(f"folder {str(folder)!r}: holds {entry.name!r}, which is not of this job; {remedy}")
        if image.source.is_file() and not _same(image.source, entry):
            raise LMLError(f"folder {str(folder)!r}: has another picture as {entry.name!r}; {remedy}")


def _same(one: Path, other: Path) -> bool:
    return os.path.samefile(one, other) or filecmp.cmp(one, other, shallow=False)


# Writing ------------------------------------------------------------------------------------------------------------


def _put(image: _Image, inner: Path) -> str:
    """Link or copy one image; return which count it belongs to."""
    target = inner / image.name
    if target.exists():
        return "there"
    if not image.source.is_file():
        return "missing"
    with atomic_write(target) as part:
        inner.mkdir(parents=True, exist_ok=True)
        try:
            # A job replaces a file by renaming another over it, so a link keeps the picture that it was made for.
            os.link(image.source, part)
        except OSError:  # another file system, or one without links
            shutil.copyfile(image.source, part)
    return "added"


def _notes(content: dict[str, Any], images: Sequence[_Image], missing: int) -> list[str]:
    notes = []
    if missing:
        status = content.get("status")
        notes.append(
            f"{missing} images are not made yet (the job's status is {status!r}); export again when it is done."
        )
    blocks = [(prompt, len(list(block))) for prompt, block in groupby(tidy(image.prompt) for image in images)]
    count = count_note(len(blocks))
    if count is not None:
        notes.append(count)
    sizes = sorted({size for _, size in blocks})
    if sizes != [IMAGES_EACH]:
        notes.append(
            f"Blocks of {' and '.join(map(str, sizes[:5]))} images of one prompt where the official scripts have "
            f"{IMAGES_EACH}: their 3-in-1 script cannot read them, lml compbench three-in-one can."
        )
    return notes

"""The place of a job: whether one may start or go on there, its manifest, and what of it is still to be made."""

from __future__ import annotations

import dataclasses
import datetime
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from lmlangevin.core.errors import LMLError
from lmlangevin.generation.config import GenerateConfig
from lmlangevin.generation.ledger import RECORDS, Ledger
from lmlangevin.generation.manifest import (
    ARMS,
    FORMAT,
    MANIFEST,
    comparable,
    differences,
    image_entries,
    job_key,
    json_values,
    listed_files,
    package_versions,
    read_manifest,
    write_manifest,
)
from lmlangevin.generation.models import LoadedModel
from lmlangevin.generation.plan import RunResult
from lmlangevin.generation.store import Store
from lmlangevin.generation.summary import picture_names

_OUTCOME = ("completed", "verdict", "frechet")
"""What a manifest says of a finished job alone."""


@dataclass(frozen=True)
class Opened:
    """A job that may be worked on.

    Attributes:
        manifest: Its manifest, without the images.
        pending: For each run the images that are to be made, in order.
        whole: Whether it was complete, and everything is there.
        notes: Lines about this attempt that a user should read.
    """

    manifest: dict[str, Any]
    pending: dict[str, list[int]]
    whole: bool = False
    notes: list[str] = field(default_factory=list)

    @property
    def job(self) -> str:
        """What marks the job's records."""
        return self.manifest["job"]


def find_job(store: Store, config: GenerateConfig) -> dict[str, Any] | None:
    """Check, without writing, that a job may be done in a place.

    Args:
        store: The place.
        config: The job.

    Returns:
        The manifest, without the images, of the job that is to go on; None where one starts.

    Raises:
        LMLError: If the place cannot be written, holds a job that is neither to go on nor to be replaced, or one of
            another configuration.
    """
    store.check_writable()
    if config.overwrite:
        return None
    content = read_manifest(store)
    if content is None:
        # A job writes its manifest first and deletes it last, so these are somebody else's.
        found = [name for name in (*ARMS, RECORDS) if store.exists(name)]
        if found:
            raise LMLError(
                f"out={store.shown!r} holds {', '.join(found)} and no {MANIFEST}; give another folder, or --overwrite."
            )
        return None
    if not config.resume:
        raise LMLError(
            f"out={store.shown!r} already holds a job ({content.get('status')}); give --resume to go on with it, "
            "--overwrite to replace it, or another folder."
        )
    settings = content.get("config")
    kinds = {"config": dict, "job": str, "status": str, "runs": dict, "versions": dict, "attempts": list}
    if not isinstance(settings, dict) or not all(isinstance(content.get(key), kind) for key, kind in kinds.items()):
        raise LMLError(f"out={store.shown!r} holds a job that cannot be resumed; give another folder, or --overwrite.")
    defaults = {item.name: item.default for item in dataclasses.fields(config)}
    asked = config.as_dict()
    known = {key: defaults[key] for key in asked} | settings  # settings that are younger than the folder
    _refuse_another(store, differences(comparable(known), comparable(asked)))
    _refuse_another(store, differences(content.get("inputs", {}), config.inputs()))
    content.pop("images", None)
    return content


def open_job(
    store: Store,
    config: GenerateConfig,
    model: LoadedModel,
    runs: Sequence[RunResult],
    *,
    notes: Sequence[str],
    earlier: dict[str, Any] | None,
    processes: int,
    told: Callable[[int, int], None] | None = None,
) -> Opened:
    """Start a job in its place, or see what is left of it, and write its manifest.

    Args:
        store: The place.
        config: The job.
        model: Its model.
        runs: Its runs.
        notes: What was found while they were built.
        earlier: What `find_job` returned.
        processes: How many work on it.
        told: Called with (images looked at, images to look at) while finished images are checked.

    Raises:
        LMLError: If the place cannot be written, or the samplers are no longer what they were.
    """
    attempt = {
        "started": now(),
        "processes": processes,
        "batch_size": config.batch_size,
        "device": config.device,
        "threads": torch.get_num_threads(),
    }
    if earlier is None:
        return _start(store, config, model, runs, notes=notes, attempt=attempt)
    manifest = earlier
    _refuse_another(store, _changed_samplers(manifest, runs))
    names = [run.name for run in runs]
    store.sweep(["", *names, RECORDS])
    store.make_folders([*names, RECORDS])
    pending = Ledger(store, manifest["job"], names, config.count).check(told)
    missing, images = sum(map(len, pending.values())), config.count * len(runs)
    if manifest["status"] == "complete" and not missing and all(map(store.exists, picture_names(config).values())):
        return Opened(manifest, pending, True, [f"Nothing was missing: all {images} images are there and whole."])
    versions = package_versions()
    if versions != manifest["versions"]:
        attempt["versions"] = versions
    manifest |= {
        "status": "running",
        "attempts": [*manifest["attempts"], attempt],
        "runs": {run.name: run.describe_sampler() for run in runs},
    }
    manifest["notes"] = [*notes, *_version_notes(manifest)]
    for key in _OUTCOME:
        manifest.pop(key, None)
    write_manifest(store, manifest, image_entries(config))
    return Opened(manifest, pending, False, [f"Resumed: {images - missing} of {images} images were finished."])


def _start(
    store: Store,
    config: GenerateConfig,
    model: LoadedModel,
    runs: Sequence[RunResult],
    *,
    notes: Sequence[str],
    attempt: dict[str, Any],
) -> Opened:
    names = [run.name for run in runs]
    manifest = {
        "format": FORMAT,
        "status": "running",
        "job": job_key(config),
        "created": attempt["started"],
        "versions": package_versions(),
        "threads": attempt["threads"],
        "config": config.as_dict(),
        "inputs": config.inputs(),
        "model": {"name": model.name, "class": model.family},
        "notes": list(notes),
        "pictures": picture_names(config),
        "attempts": [attempt],
        "runs": {run.name: run.describe_sampler() for run in runs},
    }
    if config.overwrite:
        remove_job(store)
    store.make_folders([])
    store.sweep(["", *names, RECORDS])
    Ledger(store, manifest["job"], names, config.count).clear()
    # The manifest first: a folder always says what it holds.
    write_manifest(store, manifest, image_entries(config))
    store.make_folders([*names, RECORDS])
    return Opened(manifest, {name: list(range(config.count)) for name in names})


def remove_job(store: Store) -> None:
    """Delete the files of the job that a folder's manifest lists, and nothing else; the manifest last."""
    try:
        content = read_manifest(store)
    except LMLError:  # somebody else's, and not ours to delete
        return
    if content is None:
        return
    Ledger(store, "", (), 0).clear()
    store.remove(listed_files(content))
    for folder in (*ARMS, RECORDS):
        store.remove_empty(folder)
    store.remove([MANIFEST])


def check_seen(store: Store) -> None:
    """Check that a process sees the place where the first one has opened the job.

    Raises:
        LMLError: If it does not.
    """
    if not store.exists(MANIFEST):
        raise LMLError(
            f"out={store.shown!r} is not one place for all processes, since the manifest that the first has written is "
            "not there; give a folder that they share, or the URL of a store."
        )


def now() -> str:
    """Return the time of day, UTC, to the second."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


def _refuse_another(store: Store, words: str | None) -> None:
    if words is not None:
        raise LMLError(
            f"out={store.shown!r} holds a job of another configuration: {words}; give what the folder has to --resume "
            "it, another folder, or --overwrite."
        )


def _changed_samplers(manifest: dict[str, Any], runs: Sequence[RunResult]) -> str | None:
    """Return in words how the samplers differ from the folder's: a preset may have changed with the package."""
    words = []
    for run in runs:
        found = manifest["runs"].get(run.name, {})
        asked = json_values(run.describe_sampler())
        # Another diffusers may know other settings, and a label says where a gain comes from, not what it is.
        common = found.get("scheduler_config", {}).keys() & asked["scheduler_config"].keys()
        common -= {"_diffusers_version", "preset"}
        before = {key: found["scheduler_config"][key] for key in sorted(common)}
        after = {key: asked["scheduler_config"][key] for key in sorted(common)}
        before["scheduler_class"], after["scheduler_class"] = found.get("scheduler_class"), asked["scheduler_class"]
        words.append(differences(before, after))
    return ", ".join(word for word in words if word) or None


def _version_notes(manifest: dict[str, Any]) -> list[str]:
    """Return a line for each package that was another one when the job went on."""
    changes = {
        (name, manifest["versions"].get(name), version)
        for attempt in manifest["attempts"]
        for name, version in attempt.get("versions", {}).items()
        if version != manifest["versions"].get(name)
    }
    return [
        f"Resumed with {name} {later}, begun with {earlier or 'none'}: images may differ by more than rounding."
        for name, earlier, later in sorted(changes, key=str)
    ]

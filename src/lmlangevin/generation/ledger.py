"""What of a job is finished: one small record for each batch, written after its images.

An image counts as finished if a record names it and its file can be decoded. Whatever kills a process, then, costs the
batch that it was at. Sums over images (of angles, seconds and so on) are kept in the records, so that a job that was
interrupted ends with the figures of one that was not.
"""

from __future__ import annotations

import dataclasses
import json
import re
import time
import uuid
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from lmlangevin.core.errors import LMLError
from lmlangevin.generation.images import decodes
from lmlangevin.generation.manifest import ARMS, NoiseHashes, image_name
from lmlangevin.generation.store import Store

RECORDS = "records"
COMPACTED = f"{RECORDS}/all.json"
FORMAT = "lmlangevin-records-1"
_NAME = re.compile(rf"(?:all|(?:{'|'.join(ARMS)})-\d{{6,}}-[0-9a-f]{{8}})\.json")


@dataclass(frozen=True)
class Record:
    """One finished batch of a run.

    Attributes:
        run: Name of the run.
        ids: Its images.
        mode: Mode of their files, such as `"RGB"`.
        size: Their (width, height).
        noise_sha256: Hash of each image's initial noise; None where a pipeline drew it.
        seconds: Time spent sampling.
        nfe: Network evaluations of each image, guidance apart.
        guidance_evaluations: Further evaluations of each image that guidance cost.
        non_finite: Those of the images in which a value was not finite.
        timesteps: The sampler's.
        corrections: For each step the sums over the images of: the angle, the identity flag, and each gain. Empty for
            a plain sampler.
    """

    run: str
    ids: tuple[int, ...]
    mode: str
    size: tuple[int, int]
    noise_sha256: tuple[str, ...] | None
    seconds: float
    nfe: int
    guidance_evaluations: int
    non_finite: tuple[int, ...]
    timesteps: tuple[float, ...]
    corrections: tuple[tuple[float, ...], ...]

    @classmethod
    def parse(cls, value: Any) -> Record | None:
        """Return the record that a file's JSON holds, None where it does not hold one."""
        try:
            ids = tuple(int(k) for k in value["ids"])
            hashes = value["noise_sha256"]
            width, height = value["size"]
            record = cls(
                run=str(value["run"]),
                ids=ids,
                mode=str(value["mode"]),
                size=(int(width), int(height)),
                noise_sha256=None if hashes is None else tuple(bytes.fromhex(h).hex() for h in hashes),
                seconds=float(value["seconds"]),
                nfe=int(value["nfe"]),
                guidance_evaluations=int(value["guidance_evaluations"]),
                non_finite=tuple(int(k) for k in value["non_finite"]),
                timesteps=tuple(float(t) for t in value["timesteps"]),
                corrections=tuple(tuple(float(x) for x in row) for row in value["corrections"]),
            )
        except (KeyError, TypeError, ValueError):
            return None
        hashed = record.noise_sha256
        whole = hashed is None or (len(hashed) == len(ids) and all(len(h) == 64 for h in hashed))
        return record if whole and ids and len(set(ids)) == len(ids) else None


@dataclass(frozen=True)
class Totals:
    """What the records of a run add up to.

    Attributes:
        nfe: Network evaluations of each image, guidance apart.
        guidance_evaluations: Further evaluations of each image that guidance cost.
        seconds: Time spent sampling, added up over batches and processes.
        non_finite: Number of images in which a value was not finite.
        timesteps: The sampler's.
        corrections: For each step the mean gains, the mean rotation in radians, the share of images left alone.
    """

    nfe: int
    guidance_evaluations: int
    seconds: float
    non_finite: int
    timesteps: list[float]
    corrections: list[dict[str, Any]]

    @classmethod
    def of(cls, records: Sequence[Record]) -> Totals:
        """Return the totals of a run's records, at least one, in a fixed order: sums of floats depend on it."""
        count, sums = 0, []
        for record in records:
            count += len(record.ids) if record.corrections else 0
            for index, row in enumerate(record.corrections):
                if index == len(sums):
                    sums.append(list(row))
                else:
                    sums[index] = [a + b for a, b in zip(sums[index], row, strict=True)]
        return cls(
            nfe=max(record.nfe for record in records),
            guidance_evaluations=max(record.guidance_evaluations for record in records),
            seconds=sum(record.seconds for record in records),
            non_finite=sum(len(record.non_finite) for record in records),
            timesteps=list(records[0].timesteps),
            corrections=[
                {"step": step, "gain": [g / count for g in gains], "angle": angle / count, "identity": identity / count}
                for step, (angle, identity, *gains) in enumerate(sums)
            ],
        )


class Ledger:
    """The records of a job, in the folder `records` of its place.

    Args:
        store: Where the job lies.
        job: What marks its records, so that those of another job in the same place are never taken for its own.
        runs: Names of its runs.
        count: Number of images of each.
    """

    def __init__(self, store: Store, job: str, runs: Sequence[str], count: int) -> None:
        self._store = store
        self._job = job
        self._runs = tuple(runs)
        self._count = count

    def add(self, record: Record) -> None:
        """Write the record of a batch, whose images must be written already.

        Raises:
            LMLError: If it cannot be written.
        """
        # Unique, because two processes may finish the same images where a job was started twice.
        name = f"{RECORDS}/{record.run}-{record.ids[0]:06d}-{uuid.uuid4().hex[:8]}.json"
        self._store.write(name, self._dump([record]))

    def clear(self) -> None:
        """Delete all records, of whatever job."""
        self._store.remove(f"{RECORDS}/{name}" for name in self._store.names(RECORDS) if _NAME.fullmatch(name))

    def check(self, told: Callable[[int, int], None] | None = None) -> dict[str, list[int]]:
        """See what is finished, and forget what is not: a record of which one image cannot be decoded is deleted.

        Args:
            told: Called with (images looked at, images to look at) every so often.

        Returns:
            For each run the images that are still to be made, in order.
        """
        entries, useless = self._load()
        broken = self._broken([record for _, record in entries], told)
        kept = [entry for k, entry in enumerate(entries) if k not in broken]
        lost = {entries[k][0] for k in broken}
        if COMPACTED in lost:
            # The others in that file keep their places. Before the records of single batches go, as in `compact`.
            self._store.write(COMPACTED, self._dump(record for name, record in kept if name == COMPACTED))
        self._store.remove(sorted((lost | useless) - {COMPACTED}))
        done: dict[str, set[int]] = {run: set() for run in self._runs}
        for _, record in kept:
            done[record.run].update(record.ids)
        return {run: [k for k in range(self._count) if k not in done[run]] for run in self._runs}

    def collect(self, waits: Sequence[float] = ()) -> dict[str, list[Record]]:
        """Return the records of a finished job: for each run, in the order of their images.

        Args:
            waits: Seconds to wait before looking again, where images lack a record: a folder that machines share may
                show what others wrote a minute late.

        Raises:
            LMLError: If images of the job have no record.
        """
        by_run, missing = self._gather()
        for seconds in waits:
            if missing:
                time.sleep(seconds)
                by_run, missing = self._gather()
        if missing:
            raise LMLError(
                f"out={self._store.shown!r} lacks {missing} images at the end of the job; see that no other job writes "
                "there, then run it again with --resume."
            )
        return by_run

    def compact(self, by_run: dict[str, list[Record]]) -> None:
        """Put all records into one file. Killed in between, it leaves some twice, and they are counted once."""
        names = [f"{RECORDS}/{name}" for name in self._store.names(RECORDS)]
        self._store.write(COMPACTED, self._dump(record for records in by_run.values() for record in records))
        self._store.remove(name for name in names if name != COMPACTED)

    def hashes(self, by_run: dict[str, list[Record]]) -> NoiseHashes:
        """Return the noise hashes of all images that have one; the runs of a comparison share their noise."""
        hashes = NoiseHashes(self._count)
        for records in by_run.values():
            for record in records:
                for index, value in zip(record.ids, record.noise_sha256 or (), strict=False):
                    hashes.put(index, value)
        return hashes

    def _dump(self, records: Iterable[Record]) -> bytes:
        head = {"format": FORMAT, "job": self._job}
        lines = ",\n".join(json.dumps(dataclasses.asdict(record), separators=(",", ":")) for record in records)
        return f'{json.dumps(head)[:-1]}, "records": [\n{lines}\n]}}\n'.encode()

    def _gather(self) -> tuple[dict[str, list[Record]], int]:
        """Return the records of each run in the order of their images, and how many images have none."""
        by_run: dict[str, list[Record]] = {run: [] for run in self._runs}
        for _, record in sorted(self._load()[0], key=lambda entry: entry[1].ids):
            by_run[record.run].append(record)
        missing = sum(self._count - sum(len(r.ids) for r in records) for records in by_run.values())
        return by_run, missing

    def _load(self) -> tuple[list[tuple[str, Record]], set[str]]:
        """Return the records, each with its file, and the files that hold none that counts.

        The compacted file comes first, and a record is passed over if one before it has its images.
        """
        names = sorted((f"{RECORDS}/{name}" for name in self._store.names(RECORDS)), key=lambda n: (n != COMPACTED, n))
        seen: dict[str, set[int]] = {run: set() for run in self._runs}
        entries, useless = [], set()
        for name, records in zip(names, self._store.read_each(names, self._parse), strict=True):
            before = len(entries)
            for record in records:
                if seen[record.run].isdisjoint(record.ids):
                    seen[record.run].update(record.ids)
                    entries.append((name, record))
            if len(entries) == before:
                useless.add(name)
        return entries, useless

    def _parse(self, name: str, data: bytes | None) -> list[Record]:
        """Return the records of a file that are this job's; none of a file that is no such file or is gone."""
        try:
            content = json.loads(data or b"null")
        except ValueError:
            return []
        del name
        if not isinstance(content, dict) or (content.get("format"), content.get("job")) != (FORMAT, self._job):
            return []
        items = content.get("records")
        records = [Record.parse(item) for item in (items if isinstance(items, list) else [])]
        return [r for r in records if r is not None and r.run in self._runs and self._has(r.ids)]

    def _has(self, ids: Sequence[int]) -> bool:
        return 0 <= min(ids) and max(ids) < self._count

    def _broken(self, records: Sequence[Record], told: Callable[[int, int], None] | None) -> set[int]:
        """Return the indices of the records that name an image whose file is not whole."""
        owners = {image_name(record.run, index): k for k, record in enumerate(records) for index in record.ids}

        def look(name: str, data: bytes | None) -> int | None:
            owner = owners[name]
            return None if decodes(data, records[owner].mode, records[owner].size) else owner

        broken: set[int] = set()
        for done, owner in enumerate(self._store.read_each(list(owners), look), 1):
            if owner is not None:
                broken.add(owner)
            if told is not None and (done % 500 == 0 or done == len(owners)):
                told(done, len(owners))
        return broken

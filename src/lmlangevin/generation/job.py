"""`generate`: sample a job's images, write them with their manifest, and compare the two samplers."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from lmlangevin.generation.batches import Progress, deal, make_images
from lmlangevin.generation.config import GenerateConfig
from lmlangevin.generation.distance import has_distance, measure_distances
from lmlangevin.generation.folder import Opened, check_seen, find_job, now, open_job
from lmlangevin.generation.ledger import Ledger, Totals
from lmlangevin.generation.manifest import MANIFEST, image_entries, write_manifest
from lmlangevin.generation.models import LoadedModel, load_model
from lmlangevin.generation.plan import RunResult, plan_runs
from lmlangevin.generation.processes import Processes, join_processes, launched_alone
from lmlangevin.generation.scene_scores import score_lines, score_runs, unknown_word_note
from lmlangevin.generation.store import Place, Store, open_store
from lmlangevin.generation.summary import finite_notes, picture_names, verdict, write_pictures

_WAITS = (1.0, 5.0, 30.0, 60.0)
"""Seconds between looks for what other machines have written to a shared folder."""


@dataclass(frozen=True)
class GenerateResult:
    """What a job made.

    Attributes:
        out: Its folder, or URL.
        manifest: The manifest.
        pictures: Place of the `"grid"` picture and, for a comparison, of the `"compare"` picture.
        runs: The runs, by name.
        notes: Lines that a user should read, such as a halved preset.
        verdict: The comparison in one plain line; None without distances.
        processes: How many processes worked on it, this time.
    """

    out: Place
    manifest: Place
    pictures: dict[str, Place]
    runs: dict[str, RunResult]
    notes: tuple[str, ...]
    verdict: str | None
    processes: int = 1


def generate(config: GenerateConfig, progress: Progress | None = None) -> GenerateResult:
    """Run a job, or what is left of it.

    Writes `OUT/images/000000.png` and so on (with `compare` `OUT/plain/` and `OUT/lml/` instead), `OUT/grid.png`,
    `OUT/compare.png` and `OUT/manifest.json`. The manifest is there from the start with `"status": "running"`, so
    that a folder always says what it holds; `OUT/records/` says which images are finished. Where a launcher has
    started several processes (`WORLD_SIZE`), each of them calls this, and makes its share.

    Args:
        config: The job.
        progress: Told of each finished batch: with several processes, of this one's own share.

    Returns:
        What was made; the same in every process.

    Raises:
        LMLError: If the job cannot be done as asked. Whatever can be known beforehand is checked before anything is
            written.
    """
    from lmlangevin.schedulers.names import find_scheduler

    processes = join_processes()
    store = processes.together(lambda: open_store(config.out))
    earlier = processes.by_first(lambda: find_job(store, config))
    notes = list(config.notes)

    def prepare() -> tuple[GenerateConfig, LoadedModel, list[RunResult], bool]:
        own = dataclasses.replace(config, device=processes.device(config.device))
        notes.extend(filter(None, [unknown_word_note(own.model, own.texts)]))
        model = load_model(own, flow=find_scheduler(own.scheduler).flow)
        return own, model, plan_runs(own, model, notes), has_distance(own, model, notes)

    own, model, runs, measured = processes.together(prepare)
    told = None if progress is None else lambda done, count: progress("checked", done, count)
    opened = processes.by_first(
        lambda: open_job(store, config, model, runs, notes=notes, earlier=earlier, processes=processes.count, told=told)
    )
    processes.together(lambda: check_seen(store))
    job = _Job(own, store, runs, opened, processes)
    if opened.whole:
        return job.result(*processes.by_first(job.recall))
    job.make(model, progress)
    processes.wait()
    distances, description = measure_distances(own, model, store, processes) if measured else ({}, None)
    return job.result(*processes.by_first(lambda: job.finish(distances, description)))


class _Job:
    """A job that is open, in one of its processes.

    Args:
        config: The job, on this process's device.
        store: Where it lies.
        runs: Its runs.
        opened: What is known of it.
        processes: Who works on it.
    """

    def __init__(
        self, config: GenerateConfig, store: Store, runs: Sequence[RunResult], opened: Opened, processes: Processes
    ) -> None:
        self._config = config
        self._store = store
        self._runs = list(runs)
        self._opened = opened
        self._processes = processes
        self._ledger = Ledger(store, opened.job, [run.name for run in runs], config.count)

    def make(self, model: LoadedModel, progress: Progress | None) -> None:
        """Make this process's share of the images."""
        for run in self._runs:
            pending = self._opened.pending[run.name]
            share = deal(pending, self._config.batch_size, self._processes.count)[self._processes.rank]
            # Alone, the bar goes on where an earlier attempt ended.
            before = self._config.count - len(pending) if self._processes.count == 1 else 0
            total = before + sum(map(len, share))

            def tell(done: int, name: str = run.name, before: int = before, total: int = total) -> None:
                if progress is not None:
                    progress(name, before + done, total)

            make_images(self._config, model, run, share, store=self._store, ledger=self._ledger, progress=tell)

    def finish(
        self, distances: dict[str, float], description: dict[str, Any] | None
    ) -> tuple[dict[str, Totals], dict[str, float], list[str], str | None]:
        """Write what there is one of, in the first process: pictures, the compacted records, the last manifest."""
        records = self._ledger.collect(_WAITS if self._processes.count > 1 else ())
        totals = {name: Totals.of(found) for name, found in records.items()}
        for run in self._runs:
            run.fill(totals[run.name], distances.get(run.name))
        write_pictures(self._config, self._runs, self._store)
        self._ledger.compact(records)
        manifest = self._opened.manifest
        manifest |= {
            "status": "complete",
            "completed": now(),
            "notes": [*manifest["notes"], *finite_notes(self._config, self._runs)],
            "runs": {run.name: run.describe(self._config.count) for run in self._runs},
            "verdict": verdict(distances.get("plain"), distances.get("lml")),
        }
        if description is not None:
            manifest["frechet"] = description
        if (scores := score_runs(self._config, self._store)) is not None:
            manifest["scenes"] = scores
            manifest["notes"] += score_lines(scores)
        write_manifest(self._store, manifest, image_entries(self._config, self._ledger.hashes(records)))
        return totals, distances, manifest["notes"], manifest["verdict"]

    def recall(self) -> tuple[dict[str, Totals], dict[str, float], list[str], str | None]:
        """Return what `finish` returned when the job was completed."""
        manifest = self._opened.manifest
        totals = {name: Totals.of(found) for name, found in self._ledger.collect().items()}
        distances = {name: run["frechet_distance"] for name, run in manifest["runs"].items()}
        return totals, distances, manifest["notes"], manifest["verdict"]

    def result(
        self, totals: dict[str, Totals], distances: dict[str, float], notes: list[str], words: str | None
    ) -> GenerateResult:
        """Return the result, from what the first process found out."""
        for run in self._runs:
            run.fill(totals[run.name], distances.get(run.name))
        alone = ["`accelerate launch --cpu` started one process only; give --multi_gpu in its place, GPUs or not."]
        return GenerateResult(
            out=self._store.out,
            manifest=self._store.place(MANIFEST),
            pictures={name: self._store.place(file) for name, file in picture_names(self._config).items()},
            runs={run.name: run for run in self._runs},
            notes=(*notes, *self._opened.notes, *(alone if launched_alone() else [])),
            verdict=words,
            processes=self._processes.count,
        )

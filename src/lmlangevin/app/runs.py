"""A visitor's run: the job in a thread of its own, what is known of it while it goes on, and how it is stopped."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import queue
import shutil
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from PIL import Image
from torch import nn

from lmlangevin.app.bundle import repeat_script, write_bundle
from lmlangevin.app.distance import has_small_distance, small_distances
from lmlangevin.app.evaluations import looking_in
from lmlangevin.app.settings import Offer, Settings
from lmlangevin.core.errors import LMLError
from lmlangevin.generation.config import GenerateConfig
from lmlangevin.generation.images import read_png
from lmlangevin.generation.job import GenerateResult, generate
from lmlangevin.generation.ledger import RECORDS, Record, Totals
from lmlangevin.generation.manifest import MANIFEST, image_name, run_names

SHOWN = 16
"""Images of each sampler that are shown, at most; the rest is in the download."""

_PATIENCE = 0.2
"""Seconds until who waits notices that a run was stopped."""

_PACE = 0.2
"""Seconds between tellings of the progress within a batch, at least."""


class StoppedError(Exception):
    """The visitor has stopped the run, or is gone."""


@dataclass(frozen=True)
class Snapshot:
    """What is known of a run that goes on.

    Attributes:
        stage: What it is at: `"wait"`, `"load"`, `"plain"`, `"lml"` or `"finish"`.
        done: Images of this stage that are finished.
        count: Images of each sampler.
        pictures: For each sampler the finished images, in order, up to `SHOWN`.
        timesteps: Of the sampler with LML, as soon as a batch of it is finished.
        corrections: For each of its steps what LML did, on average over the finished images.
        begun: How much of the batch that goes on is done, in images.
        ahead: Runs that come before it, while it waits.
    """

    stage: str
    done: int
    count: int
    pictures: dict[str, list[Image.Image]] = field(default_factory=dict)
    timesteps: list[float] = field(default_factory=list)
    corrections: list[dict[str, Any]] = field(default_factory=list)
    begun: float = 0.0
    ahead: int = 0

    @property
    def share(self) -> float:
        """How much of the run is done, from 0 to 1."""
        before = {"plain": 0, "lml": self.count, "finish": 2 * self.count}.get(self.stage, 0)
        return min(1.0, (before + self.done + self.begun) / (2 * self.count))


@dataclass(frozen=True)
class Finished:
    """A run that is done.

    Attributes:
        model: Its model.
        last: Its last snapshot.
        result: What the job returned. Its folder is gone.
        distances: The Frechet distance of each sampler's images; None where there is none.
        notes: Lines that a visitor should read.
        scores: Those of a job that draws scenes, as `score_runs` returns them; None of another.
        script: The Python that repeats it.
        bundle: The zip file of images, manifest and script, until `Run.remove`.
    """

    model: str
    last: Snapshot
    result: GenerateResult
    distances: Mapping[str, float | None]
    notes: tuple[str, ...]
    script: str
    bundle: Path
    scores: dict[str, Any] | None = None


class Slot:
    """The place that a run needs. Runs take it in turn, and hold it until they have ended, whoever has left by then."""

    def __init__(self) -> None:
        self._line: list[object] = []
        self._moved = threading.Condition()

    @contextlib.contextmanager
    def taken(self, stop: threading.Event, told: Callable[[int], None]) -> Iterator[None]:
        """Hold the place while a `with` block runs, waiting for it first.

        Args:
            stop: Set when the run is stopped.
            told: Told how many runs are ahead, at first and whenever that changes; not where none is.

        Raises:
            StoppedError: If the run is stopped while it waits.
        """
        ticket, known = object(), 0
        with self._moved:
            self._line.append(ticket)
        try:
            with self._moved:
                while ahead := self._line.index(ticket):
                    if stop.is_set():
                        raise StoppedError
                    if ahead != known:
                        told(ahead)
                        known = ahead
                    self._moved.wait(_PATIENCE)
            yield
        finally:
            with self._moved:
                self._line.remove(ticket)
                self._moved.notify_all()


class Run:
    """One run. It writes to a temporary folder of its own, which is gone when the run ends, however it does.

    Args:
        settings: What was asked for.
        offer: What the server allows.
        slot: Where it takes its place.

    Raises:
        LMLError: If the settings do not go together. Nothing is loaded or written for that.
    """

    def __init__(self, settings: Settings, offer: Offer, slot: Slot) -> None:
        self._settings = settings
        self._limit = offer.max_seconds
        self._slot = slot
        self._stop = threading.Event()
        self._told: queue.Queue[Snapshot | Finished | Exception] = queue.Queue()
        self._home = Path(tempfile.mkdtemp(prefix="lml-app-"))
        self._deadline = 0.0
        self._last = Snapshot("wait", 0, settings.job["num_images"])
        self._evaluations: Counter[int] = Counter()
        self._looked = 0.0
        try:
            self.config = GenerateConfig(out=self._home / "job", **settings.job)
        except BaseException:
            self.remove()
            raise

    @property
    def active(self) -> bool:
        """Whether it goes on or waits for its turn."""
        return not self._stop.is_set()

    def stop(self) -> None:
        """End the run after the evaluation that it is at. Any thread may call it, at any time, more than once."""
        self._stop.set()

    def remove(self) -> None:
        """Delete what the run has left: its bundle."""
        shutil.rmtree(self._home, ignore_errors=True)

    def watch(self) -> Iterator[Snapshot | Finished]:
        """Start the run, and yield what becomes of it. Whoever leaves off listening stops it.

        Yields:
            Snapshots, the newest at each time, and at the end `Finished`.

        Raises:
            LMLError: If the job cannot be done as asked, or takes too long.
            StoppedError: If it was stopped.
        """
        worker = threading.Thread(target=self._work, name="lml-app-run", daemon=True)
        worker.start()
        try:
            while True:
                try:
                    news = self._told.get(timeout=_PATIENCE)
                except queue.Empty:
                    if self._stop.is_set():  # the run itself may be loading a model, and notices later
                        raise StoppedError from None
                    continue
                # A slow visitor is told how things stand and not how they stood.
                while isinstance(news, Snapshot) and not self._told.empty():
                    news = self._told.get()
                if isinstance(news, Exception):
                    raise news
                yield news
                if isinstance(news, Finished):
                    return
        finally:
            self.stop()

    def _work(self) -> None:
        try:
            self._told.put(self._last)
            with self._slot.taken(self._stop, self._wait), looking_in(self._look):
                self._deadline = time.monotonic() + self._limit
                self._told.put(self._job())
        except Exception as error:  # whoever watches raises it again
            self.remove()
            self._told.put(error)

    def _job(self) -> Finished:
        self._check()
        self._tell(Snapshot("load", 0, self.config.count))
        folder = self._home / "job"
        result = generate(self.config, self._progress)
        self._check()
        distances = {name: run.frechet_distance for name, run in result.runs.items()}
        if None in distances.values() and has_small_distance(self.config):
            distances = small_distances(self.config)
            self._check()
        bundle = self._home / f"lml-{self.config.scheduler}-{self.config.steps}.zip"
        write_bundle(folder, self.config, bundle)
        scores = json.loads((folder / MANIFEST).read_bytes()).get("scenes")
        shutil.rmtree(folder)
        lml = result.runs["lml"]
        last = Snapshot("finish", 0, self.config.count, self._last.pictures, list(lml.timesteps), list(lml.corrections))
        notes = (*self._settings.notes, *result.notes)
        return Finished(self.config.model, last, result, distances, notes, repeat_script(self.config), bundle, scores)

    def _wait(self, ahead: int) -> None:
        self._tell(dataclasses.replace(self._last, ahead=ahead))

    def _look(self, network: nn.Module) -> None:
        """Look in before an evaluation: whether the run is to go on, and how far the batch is."""
        self._check()
        self._evaluations[id(network)] += 1
        if self._last.stage in run_names(self.config) and time.monotonic() > self._looked + _PACE:
            self._looked = time.monotonic()
            # The denoiser is what is evaluated most. Samplers differ by an evaluation or two from one a step.
            share = min(1.0, max(self._evaluations.values()) / (self.config.steps or 1))
            batch = min(self.config.batch_size, self._last.count - self._last.done)
            self._tell(dataclasses.replace(self._last, begun=batch * share))

    def _progress(self, run: str, done: int, count: int) -> None:
        self._check()
        self._evaluations.clear()
        # The pictures and records of this batch are on disk by now.
        pictures = {name: self._pictures(name) for name in run_names(self.config)}
        totals = self._totals() if run == "lml" and done else None
        if totals is None:
            self._tell(Snapshot(run, done, count, pictures))
        else:
            self._tell(Snapshot(run, done, count, pictures, totals.timesteps, totals.corrections))
        if run == "lml" and done == count:
            self._tell(Snapshot("finish", 0, count, pictures, self._last.timesteps, self._last.corrections))

    def _check(self) -> None:
        if self._stop.is_set():
            raise StoppedError
        if time.monotonic() > self._deadline:
            raise LMLError(
                f"The run took longer than the {self._limit:g} s that one may take here; ask for fewer images or steps."
            )

    def _tell(self, snapshot: Snapshot) -> None:
        self._last = snapshot
        self._told.put(snapshot)

    def _pictures(self, run: str) -> list[Image.Image]:
        """Return a sampler's images that are finished; those that were read before are not read again."""
        found = list(self._last.pictures.get(run, []))
        for index in range(len(found), min(SHOWN, self.config.count)):
            path = self._home / "job" / image_name(run, index)
            if not path.is_file():
                break
            found.append(read_png(path.read_bytes()))
        return found

    def _totals(self) -> Totals:
        """Return what the records of the sampler with LML add up to."""
        paths = sorted((self._home / "job" / RECORDS).glob("lml-*.json"))
        items = [item for path in paths for item in json.loads(path.read_bytes())["records"]]
        return Totals.of([record for record in map(Record.parse, items) if record is not None])


class Sessions:
    """The runs of the visitors, each by what marks its visitor, so that nobody reaches another's."""

    def __init__(self) -> None:
        self._runs: dict[str, Run] = {}
        self._lock = threading.Lock()

    def begin(self, visitor: str, run: Run, *, most: int) -> None:
        """Remember a visitor's run. An earlier one of the same visitor is stopped, and what it left is deleted.

        Args:
            visitor: Who asks for it.
            run: The run, which is deleted if it is refused.
            most: Runs of all visitors that may go on or wait, this one included.

        Raises:
            LMLError: If there are too many.
        """
        self.leave(visitor)
        with self._lock:
            waiting = sum(other.active for other in self._runs.values())
            if waiting < most:
                self._runs[visitor] = run
                return
        run.remove()
        raise LMLError(f"{waiting} runs go on or wait already, which is the most here; try again in a minute.")

    def run_of(self, visitor: str) -> Run | None:
        """Return a visitor's run, None without one."""
        with self._lock:
            return self._runs.get(visitor)

    def leave(self, visitor: str) -> None:
        """Forget a visitor who is gone, and stop and delete what is left."""
        with self._lock:
            run = self._runs.pop(visitor, None)
        if run is not None:
            run.stop()
            run.remove()

    def close(self) -> None:
        """Forget all visitors."""
        with self._lock:
            visitors = list(self._runs)
        for visitor in visitors:
            self.leave(visitor)

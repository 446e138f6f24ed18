"""A visitor's run: what it tells, how it ends, and that nothing of it is left."""

from __future__ import annotations

import runpy
import shutil
import tempfile
import threading
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from lmlangevin.app import runs as runs_module
from lmlangevin.app.runs import SHOWN, Finished, Run, Sessions, Slot, Snapshot, StoppedError
from lmlangevin.app.settings import Form, Offer, read_form
from lmlangevin.core import LMLError
from lmlangevin.generation.images import read_png

OFFER = Offer()


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where temporary folders are made, so that a test sees what is left of them."""
    place = tmp_path / "temporary"
    place.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(place))
    return place


def _run(slot: Slot | None = None, offer: Offer = OFFER, **fields: Any) -> Run:
    form = Form(**({"model": "analytic-cifar10", "steps": 3, "images": 8} | fields))
    return Run(read_form(form, offer), offer, slot or Slot())


def _all(run: Run) -> tuple[list[Snapshot], Finished]:
    *snapshots, last = run.watch()
    assert isinstance(last, Finished)
    return [news for news in snapshots if isinstance(news, Snapshot)], last


def _wait_for(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


def _left(home: Path) -> list[str]:
    return [path.name for path in home.iterdir() if path.name.startswith("lml-app-")]


class Slowly:
    """A visitor who looks at every snapshot: the next batch waits for that."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.reached = threading.Semaphore(0)
        self.go_on = threading.Event()
        original = Run._progress

        def progress(run: Run, name: str, done: int, count: int) -> None:
            original(run, name, done, count)
            self.reached.release()
            if done:
                assert self.go_on.wait(60)

        monkeypatch.setattr(Run, "_progress", progress)


def test_a_run_tells_its_progress_and_leaves_only_the_bundle(home: Path) -> None:
    run = _run()
    assert run.active
    snapshots, last = _all(run)
    shares = [snapshot.share for snapshot in snapshots]
    assert shares == sorted(shares) and 0 <= shares[0] and shares[-1] <= 1
    assert snapshots[0].stage in ("wait", "load")
    assert (len(last.last.pictures["plain"]), len(last.last.pictures["lml"])) == (8, 8)
    assert last.result.runs["plain"].nfe == last.result.runs["lml"].nfe == 3
    assert [len(step["gain"]) for step in last.last.corrections] == [1, 1, 1]
    assert len(last.last.timesteps) == 3 and last.last.timesteps[0] > last.last.timesteps[-1]
    assert max(step["angle"] for step in last.last.corrections) > 0
    assert last.distances == {"plain": None, "lml": None}
    assert not run.active
    assert [path.name for path in last.bundle.parent.iterdir()] == [last.bundle.name]
    run.remove()
    assert _left(home) == []


def test_what_is_shown_while_it_goes_on_is_what_is_finished(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    slowly = Slowly(monkeypatch)
    watched = _run().watch()
    seen: list[Snapshot] = []
    while not (seen and seen[-1].stage == "lml" and seen[-1].done == 4):
        news = next(watched)
        assert isinstance(news, Snapshot)
        seen.append(news)
        if news.stage == "plain" and news.done == 4:
            assert [len(news.pictures[name]) for name in ("plain", "lml")] == [4, 0]
            assert news.corrections == [] and news.share == 0.25
            slowly.go_on.set()
        if news.stage == "plain" and news.done == 8:
            slowly.go_on.clear()
        if news.stage == "lml" and news.done == 0:
            slowly.go_on.set()
    assert [len(seen[-1].pictures[name]) for name in ("plain", "lml")] == [8, 4]
    # The plot is live: half of the images with LML are finished, and what was done to them is known.
    assert len(seen[-1].corrections) == len(seen[-1].timesteps) == 3
    watched.close()


def test_the_bundle_holds_the_images_the_manifest_and_a_script_that_makes_them_again(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = _run(model="embedded", steps=3, images=3, seed=41, scheduler="dpmpp-2m", grid="karras", control="gain")
    _, last = _all(run)
    work = tmp_path / "work"
    with zipfile.ZipFile(last.bundle) as archive:
        archive.extractall(work)
    names = {path.relative_to(work).as_posix() for path in work.rglob("*") if path.is_file()}
    images = {f"{name}/{index:06d}.png" for name in ("plain", "lml") for index in range(3)}
    assert names == images | {"manifest.json", "grid.png", "compare.png", "repeat.py"}
    assert (work / "repeat.py").read_text(encoding="utf-8") == last.script
    assert len(last.script.splitlines()) == 5
    monkeypatch.chdir(work)
    runpy.run_path("repeat.py")  # in a process of its own: test_browser.py
    for index, name in enumerate(sorted(images)):
        shown = np.asarray(read_png((work / name).read_bytes()))
        assert np.array_equal(np.asarray(read_png((work / "lml-images" / name).read_bytes())), shown)
        assert shown.std() > 1, index
    assert not np.array_equal(*[np.asarray(last.last.pictures[name][0]) for name in ("plain", "lml")])
    run.remove()


def test_a_run_is_stopped_between_batches_and_leaves_nothing(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    slowly = Slowly(monkeypatch)
    run = _run(images=64)
    watched = run.watch()
    while next(watched).stage != "plain":  # type: ignore[union-attr]
        pass
    run.stop()
    run.stop()
    slowly.go_on.set()
    with pytest.raises(StoppedError):
        for _ in watched:
            pass
    _wait_for(lambda: _left(home) == [])


def test_whoever_leaves_off_listening_stops_the_run(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    slowly = Slowly(monkeypatch)
    run = _run(images=64)
    watched = run.watch()
    next(watched)
    assert slowly.reached.acquire(timeout=60)
    watched.close()
    assert not run.active
    slowly.go_on.set()
    _wait_for(lambda: _left(home) == [])


def test_a_visitor_who_cancels_need_not_wait_for_what_cannot_be_stopped(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loading, loaded = threading.Event(), threading.Event()

    def load(*args: Any) -> None:
        loading.set()
        assert loaded.wait(60)
        raise LMLError("There is no such model.")

    monkeypatch.setattr(runs_module, "generate", load)
    run = _run()
    watched = run.watch()
    next(watched)
    assert loading.wait(60)
    run.stop()
    with pytest.raises(StoppedError):
        for _ in watched:
            pass
    loaded.set()
    _wait_for(lambda: _left(home) == [])


def test_a_run_is_stopped_within_a_batch(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    looks = []
    original = Run._look

    def look(run: Run, network: Any) -> None:
        looks.append(type(network).__name__)
        if len(looks) == 3:
            run.stop()
        original(run, network)

    monkeypatch.setattr(Run, "_look", look)
    with pytest.raises(StoppedError):
        for _ in _run(images=4, steps=20).watch():
            pass
    assert looks == ["AnalyticModel"] * 3
    assert _left(home) == []


def test_progress_is_told_within_a_batch(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[Snapshot] = []
    original = Run._tell

    def tell(run: Run, snapshot: Snapshot) -> None:
        told.append(snapshot)
        original(run, snapshot)

    monkeypatch.setattr(Run, "_tell", tell)
    monkeypatch.setattr(runs_module, "_PACE", -1.0)
    _all(_run(images=6, steps=4))  # batches of 4 and of 2
    plain = [(snapshot.done, snapshot.begun) for snapshot in told if snapshot.stage == "plain"]
    first, second = [1.0, 2.0, 3.0, 4.0], [0.5, 1.0, 1.5, 2.0]
    assert plain == [(0, 0), *((0, n) for n in first), (4, 0), *((4, n) for n in second), (6, 0)]
    shares = [snapshot.share for snapshot in told]
    assert shares == sorted(shares)


def test_a_run_that_takes_too_long_is_ended_with_a_sentence(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(runs_module.time, "monotonic", lambda: now[0])
    original = Run._look

    def look(run: Run, network: Any) -> None:
        now[0] += 40
        original(run, network)

    monkeypatch.setattr(Run, "_look", look)
    with pytest.raises(LMLError, match="longer than the 60 s that one may take here; ask for fewer images or steps"):
        for _ in _run(offer=Offer(max_seconds=60)).watch():
            pass
    assert now[0] == 180
    assert _left(home) == []


def test_settings_that_do_not_go_together_are_refused_before_anything_is_made(home: Path) -> None:
    with pytest.raises(LMLError, match="'lu' is not offered by DDIM"):
        _run(scheduler="ddim", grid="lu")
    with pytest.raises(LMLError, match="flow-matching models"):
        _run(model="embedded", scheduler="flow-euler", grid="own")
    assert _left(home) == []


def test_what_the_job_refuses_later_is_raised_where_it_is_watched(home: Path) -> None:
    offer = Offer(models=("owner/absent",))
    run = _run(offer=offer, model="owner/absent", scheduler="own", grid="own", images=1)
    with pytest.raises(LMLError, match="cannot be loaded"):
        for _ in run.watch():
            pass
    assert _left(home) == []


@pytest.mark.parametrize(
    ("model", "sentence"),
    [
        ("../../other", "holds no model_index.json"),
        ("../../absent", "is unknown"),
        ("/etc/passwd", "is unknown"),
        ("~/pipeline", "is unknown"),
        ("file:///etc", "is unknown"),
        ("a\0b", "is unknown"),
    ],
)
def test_a_name_that_is_no_pipeline_is_refused_where_any_may_be_given(
    model: str, sentence: str, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "other").mkdir()
    (tmp_path / "deep" / "down").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "deep" / "down")
    with pytest.raises(LMLError, match=sentence):
        for _ in _run(offer=Offer(any_model=True), model=model, scheduler="own", grid="own", images=1).watch():
            pass
    assert _left(home) == []


def test_weights_that_are_pickled_are_not_loaded(home: Path, text_pipeline: Path, tmp_path: Path) -> None:
    folder = tmp_path / "pickled"
    shutil.copytree(text_pipeline, folder)
    [weights] = (folder / "unet").glob("*.safetensors")
    torch.save(load_file(weights), weights.with_suffix(".bin"))
    weights.unlink()
    fields = {"model": str(folder), "scheduler": "own", "grid": "own", "images": 1}
    with pytest.raises(LMLError, match="safetensors"):
        for _ in _run(offer=Offer(any_model=True), **fields).watch():
            pass
    assert _left(home) == []


def test_a_defect_is_raised_as_it_is(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*args: Any) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(runs_module, "generate", broken)
    with pytest.raises(ZeroDivisionError):
        for _ in _run().watch():
            pass
    assert _left(home) == []


def test_a_local_pipeline_runs_with_its_prompt(home: Path, text_pipeline: Path) -> None:
    offer = Offer(any_model=True)
    fields = {"model": str(text_pipeline), "scheduler": "own", "grid": "own", "images": 2, "steps": 2}
    run = _run(offer=offer, prompt="a fox", guidance="3", **fields)
    _, last = _all(run)
    assert run.config.prompt == "a fox"
    assert len(last.last.pictures["lml"]) == 2
    assert last.result.runs["lml"].guidance_evaluations == 2
    assert 'prompt="a fox"' in last.script
    run.remove()


def _unheard(ahead: int) -> None:
    del ahead


def test_one_run_at_a_time_and_a_stopped_one_gives_its_place_back(home: Path) -> None:
    slot = Slot()
    never, stopped = threading.Event(), threading.Event()
    stopped.set()
    with slot.taken(never, _unheard):
        run = _run(slot)
        watched = run.watch()
        seen = [next(watched)]
        while seen[-1] != Snapshot("wait", 0, 8, ahead=1):
            seen.append(next(watched))
        run.stop()
        with pytest.raises(StoppedError):
            next(watched)
        with pytest.raises(StoppedError), slot.taken(stopped, _unheard):
            pass
    with pytest.raises(KeyError), slot.taken(never, _unheard):
        raise KeyError
    with slot.taken(never, _unheard):
        pass


def test_runs_take_the_place_in_turn() -> None:
    slot, never = Slot(), threading.Event()
    turns: list[str] = []
    told: dict[str, list[int]] = {"a": [], "b": []}

    def take(name: str) -> None:
        with slot.taken(never, told[name].append):
            turns.append(name)

    threads = [threading.Thread(target=take, args=(name,)) for name in told]
    with slot.taken(never, _unheard):
        for place, thread in enumerate(threads, start=1):
            thread.start()
            _wait_for(lambda place=place: told["ab"[place - 1]] == [place])
    for thread in threads:
        thread.join(60)
    assert turns == ["a", "b"]
    assert told["a"] == [1] and told["b"][0] == 2


def test_the_distance_of_a_small_batch_is_measured_and_of_a_smaller_one_not(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from lmlangevin.app import distance

    monkeypatch.setattr(distance, "FEWEST", 6)
    monkeypatch.setattr("lmlangevin.generation.distance.REFERENCE_SAMPLES", 300)
    _, last = _all(_run(images=6, control="gain", gain=0.0, steps=2))
    assert last.distances["plain"] == last.distances["lml"]  # a gain of 0 makes the same images
    assert last.distances["plain"] is not None and last.distances["plain"] > 0.1
    _, few = _all(_run(images=5, steps=2))
    assert few.distances == {"plain": None, "lml": None}


def test_a_visitor_has_one_run_and_reaches_no_other(home: Path) -> None:
    sessions = Sessions()
    first, second, other = _run(), _run(), _run()
    sessions.begin("a", first, most=9)
    sessions.begin("b", other, most=9)
    sessions.begin("a", second, most=9)
    assert not first.active and other.active and second.active
    assert (sessions.run_of("a"), sessions.run_of("b"), sessions.run_of("c")) == (second, other, None)
    sessions.leave("a")
    sessions.leave("a")
    assert not second.active and other.active and sessions.run_of("a") is None
    sessions.close()
    assert not other.active and _left(home) == []


def test_too_many_runs_are_refused_and_an_ended_one_does_not_count(home: Path) -> None:
    sessions = Sessions()
    first, second = _run(), _run()
    sessions.begin("a", first, most=2)
    sessions.begin("b", second, most=2)
    with pytest.raises(LMLError, match="2 runs go on or wait already, which is the most here"):
        sessions.begin("c", _run(), most=2)
    assert sessions.run_of("c") is None
    assert len(_left(home)) == 2
    first.stop()
    sessions.begin("c", _run(), most=2)
    sessions.close()


def test_no_more_pictures_are_kept_than_are_shown(home: Path) -> None:
    _, last = _all(_run(images=SHOWN + 3, steps=1))
    assert [len(last.last.pictures[name]) for name in ("plain", "lml")] == [SHOWN, SHOWN]

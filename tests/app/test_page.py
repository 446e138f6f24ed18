"""The page's functions as gradio calls them, and what it is served with; no browser."""

from __future__ import annotations

import asyncio
import json
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("gradio", reason="gradio is not installed: pip install -c constraints.txt -e '.[app]'")

import gradio as gr

from lmlangevin.app.page import NO_SCRIPT, _Page
from lmlangevin.app.runs import Run, Sessions
from lmlangevin.app.settings import Form, Offer

NOTHING = [(gr.skip(),) * 5]
"""What leaves the page as it is. A generator that yields nothing would empty it."""

QUICK = {"model": "analytic-cifar10", "steps": 2, "images": 3}


def _build(offer: Offer, sessions: Sessions) -> _Page:
    """Return a page, built where an event loop runs: gradio makes one where it finds none, and closes none of them."""

    async def build() -> _Page:
        return _Page(offer, sessions)

    return asyncio.run(build())


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


@pytest.fixture
def page(home: Path) -> Iterator[_Page]:
    sessions = Sessions()
    yield _build(Offer(queue=1), sessions)
    sessions.close()


def _visitor(name: str) -> Any:
    return SimpleNamespace(session_hash=name)


def _ask(page: _Page, visitor: str, **fields: Any) -> tuple[Any, ...]:
    return page.ask(_visitor(visitor), *vars(Form(**(QUICK | fields))).values())


def _folders(home: Path) -> list[str]:
    return [path.name for path in home.iterdir() if path.name.startswith("lml-app-")]


def test_a_run_from_asking_to_the_download(page: _Page, home: Path) -> None:
    status, script, download, generate, cancel = _ask(page, "a", seed=9, control="gain")
    assert "Waiting" in status and script == NO_SCRIPT
    assert (download["value"], download["interactive"]) == (None, False)
    assert (generate["interactive"], cancel["interactive"]) == (False, True)
    shown = []
    for update in page.go(_visitor("a")):
        shown.append(update)
        bundle = update[4].get("value")
        if bundle is not None:  # gradio copies it now; afterwards it is gone
            with zipfile.ZipFile(bundle) as archive:
                manifest = json.loads(archive.read("manifest.json"))
    assert [image["seed"] for image in manifest["images"]] == [9, 10, 11]
    status, pictures, plot, script, download = shown[-1]
    assert "Done: 3 images each" in status
    assert "seed=9" in script
    assert "<svg" in plot
    assert download["interactive"]
    drawn = [update[1] for update in shown if "plain" in update[1]]
    # Sent where something is new, and only there.
    assert len({(pictures["plain"], pictures["lml"]) for pictures in drawn}) == len(drawn) > 1
    assert drawn[-1]["plain"] != drawn[-1]["lml"]
    assert _folders(home) == []


def test_a_mistake_is_shown_and_no_run_is_left_from_before(page: _Page, home: Path) -> None:
    _ask(page, "a")
    status, *_, generate, cancel = _ask(page, "a", seed=-1)
    assert 'role="alert"' in status and "First seed is -1" in status
    assert (generate["interactive"], cancel["interactive"]) == (True, False)
    assert list(page.go(_visitor("a"))) == NOTHING
    assert _folders(home) == []


def test_visitors_do_not_meet(page: _Page) -> None:
    _ask(page, "a", seed=1)
    _ask(page, "b", seed=2)
    page.stop(_visitor("b"))
    assert "Stopped" in list(page.go(_visitor("b")))[-1][0]
    last = list(page.go(_visitor("a")))[-1]
    assert "seed=1" in last[3]
    assert list(page.go(_visitor("c"))) == NOTHING
    assert "Stopped" in page.stop(_visitor("c"))[0]


def test_a_visitor_who_leaves_is_forgotten(page: _Page, home: Path) -> None:
    _ask(page, "a")
    assert len(_folders(home)) == 1
    page.leave(_visitor("a"))
    assert _folders(home) == []


def test_too_many_visitors_are_told(page: _Page) -> None:
    _ask(page, "a")
    _ask(page, "b")
    assert "2 runs go on or wait already" in _ask(page, "c")[0]


def test_a_defect_is_told_without_its_details_and_logged(
    page: _Page, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(run: Run) -> Iterator[Any]:
        raise ZeroDivisionError("a secret of the server")
        yield

    monkeypatch.setattr(Run, "watch", broken)
    _ask(page, "a")
    [update] = page.go(_visitor("a"))
    assert "ZeroDivisionError" in update[0] and "secret" not in update[0]
    assert "a secret of the server" in caplog.text


def test_the_form_fits_the_model(page: _Page) -> None:
    conditions, scheduler, images = page.choose_model("owner/name", "ddim")
    assert conditions["visible"] and scheduler["value"] == "own" and images["value"] == 1
    conditions, scheduler, images = page.choose_model("embedded", "flow-euler")
    assert not conditions["visible"] and scheduler["value"] == "ddim" and "value" not in images
    assert page.choose_model("analytic-cifar10", "flow-euler")[1]["value"] == "flow-euler"
    assert page.choose_model(None, "ddim")[1]["value"] == "own"
    assert page.choose_scheduler("ddim", "karras")["value"] == "own"
    assert page.choose_scheduler("unipc", "karras")["value"] == "karras"
    gain, *closed = page.choose_control("gain")
    assert gain["visible"] and all(update["interactive"] for update in closed)
    gain, *closed = page.choose_control("calibrated")
    assert not gain["visible"] and not any(update["interactive"] for update in closed)


def test_nothing_can_be_called_but_by_the_page_and_runs_wait_for_each_other(page: _Page) -> None:
    for function in page.blocks.fns.values():
        assert function.api_visibility == "private", function.name
    [run] = [function for function in page.blocks.fns.values() if function.name == "go"]
    assert run.concurrency_limit == 1
    assert page.blocks._queue.max_size == 1


@pytest.mark.parametrize("any_model", [False, True])
def test_another_model_can_be_typed_only_where_it_is_offered(any_model: bool, home: Path) -> None:
    offer = Offer(models=("owner/model", "embedded"), any_model=any_model)
    page = _build(offer, Sessions())
    assert page.model.allow_custom_value == any_model
    assert page.conditions.visible and page.images.value == 16  # the first model is a pipeline

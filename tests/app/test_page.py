"""The page's functions as gradio calls them, and what it is served with; no browser."""

from __future__ import annotations

import asyncio
import json
import re
import tempfile
import threading
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
from lmlangevin.scenes import DEMO_PROMPTS

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


@pytest.fixture(scope="module")
def built() -> _Page:
    return _build(Offer(queue=1), Sessions())


@pytest.fixture
def page(built: _Page, home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[_Page]:
    """The page with no visitors; it keeps nothing else."""
    sessions = Sessions()
    monkeypatch.setattr(built, "_sessions", sessions)
    yield built
    sessions.close()


def _visitor(name: str) -> Any:
    return SimpleNamespace(session_hash=name)


OUTPUTS = ("status", "pictures", "plot", "script", "download", "generate", "cancel")


def _go(page: _Page, visitor: str, **fields: Any) -> Iterator[dict[str, Any]]:
    """Press Generate, and yield what the page is told to change."""
    for update in page.go(_visitor(visitor), *vars(Form(**(QUICK | fields))).values()):
        named = dict(zip(OUTPUTS, update, strict=True))
        yield {name: value for name, value in named.items() if value != gr.skip()}


def _folders(home: Path) -> list[str]:
    return [path.name for path in home.iterdir() if path.name.startswith("lml-app-")]


def test_a_run_from_the_button_to_the_download(page: _Page, home: Path) -> None:
    shown = []
    manifest: dict[str, Any] = {}
    for update in _go(page, "a", seed=9, control="gain"):
        shown.append(update)
        if update.get("download", {}).get("value") is not None:  # gradio copies it now; afterwards it is gone
            with zipfile.ZipFile(update["download"]["value"]) as archive:
                manifest = json.loads(archive.read("manifest.json"))
    assert [image["seed"] for image in manifest["images"]] == [9, 10, 11]
    first, last = shown[0], shown[-1]
    assert "Starting" in first["status"] and first["script"] == NO_SCRIPT
    assert (first["download"]["value"], first["download"]["interactive"]) == (None, False)
    assert (first["generate"]["interactive"], first["cancel"]["interactive"]) == (False, True)
    assert "Done: 3 images each" in last["status"] and "seed=9" in last["script"] and last["download"]["interactive"]
    assert [update["interactive"] for update in page.rest()] == [True, False]
    for name in ("pictures", "plot"):  # sent where something is new, and only there
        sent = [json.dumps(update[name]) for update in shown if name in update]
        assert len(set(sent)) == len(sent) > 1, name
    pictures = [update["pictures"] for update in shown if "pictures" in update]
    assert pictures[0]["plain"] == pictures[0]["lml"]  # both grey: nothing is left of an earlier run
    assert pictures[-1]["plain"] != pictures[-1]["lml"]
    assert _folders(home) == []


def test_a_mistake_is_shown_and_changes_nothing_else(page: _Page, home: Path) -> None:
    [update] = _go(page, "a", seed=-1)
    assert list(update) == ["status"]
    assert 'role="alert"' in update["status"] and "First seed is -1" in update["status"]
    [update] = _go(page, "a", model="../../etc")
    assert "is not offered here" in update["status"]
    assert _folders(home) == []


def test_visitors_do_not_meet(page: _Page) -> None:
    first, second = _go(page, "a", seed=1), _go(page, "b", seed=2)
    next(first)
    next(second)
    page.stop(_visitor("b"))
    assert "Stopped" in list(second)[-1]["status"]
    assert "seed=1" in list(first)[-1]["script"]
    assert page.stop(_visitor("c"))["interactive"] is False  # who has no run stops none


def test_a_visitor_who_waits_is_told_how_many_are_ahead(page: _Page) -> None:
    with page._slot.taken(threading.Event(), lambda ahead: None):
        waiting = _go(page, "a")
        while "One run is ahead of yours." not in next(waiting)["status"]:
            pass
    assert "Done" in list(waiting)[-1]["status"]


def test_a_visitor_who_leaves_is_forgotten(page: _Page, home: Path) -> None:
    going = _go(page, "a")
    next(going)
    assert len(_folders(home)) == 1
    page.leave(_visitor("a"))
    assert _folders(home) == []
    assert page._sessions.run_of("a") is None


def test_too_many_visitors_are_told_and_a_place_is_free_when_one_has_gone(page: _Page) -> None:
    held = [_go(page, visitor) for visitor in "ab"]
    for going in held:
        next(going)
    [update] = _go(page, "c")
    assert "2 runs go on or wait already" in update["status"]
    held[0].close()
    assert "Starting" in next(_go(page, "c"))["status"]


def test_a_defect_is_told_without_its_details_and_logged(
    page: _Page, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(run: Run) -> Iterator[Any]:
        raise ZeroDivisionError("a secret of the server")
        yield

    monkeypatch.setattr(Run, "watch", broken)
    *_, update = _go(page, "a")
    assert "ZeroDivisionError" in update["status"] and "secret" not in update["status"]
    assert "a secret of the server" in caplog.text


def test_the_form_fits_the_model(page: _Page) -> None:
    names = ("conditions", "prompt", "guidance", "examples", "side", "scheduler", "grid", "steps", "control", "images")

    def chosen(model: Any) -> dict[str, Any]:
        return dict(zip(names, page.choose_model(model), strict=True))

    form = chosen("owner/name")
    assert form["conditions"]["visible"] and form["side"]["visible"] and not form["examples"]["visible"]
    assert [form[name]["value"] for name in ("guidance", "scheduler", "grid", "images")] == ["", "own", "own", 1]
    form = chosen("scenes")
    assert form["conditions"]["visible"] and form["examples"]["visible"] and not form["side"]["visible"]
    assert [form[name]["value"] for name in ("guidance", "scheduler", "grid", "steps")] == ["3", "unipc", "trailing", 6]
    assert form["prompt"]["placeholder"] == "the 8 examples in turn" and "value" not in form["prompt"]
    form = chosen("embedded")
    assert not form["conditions"]["visible"]
    values = ["ddim", "trailing", 8, "automatic", 64]
    assert [form[name]["value"] for name in ("scheduler", "grid", "steps", "control", "images")] == values
    assert chosen(None)["scheduler"]["value"] == "own"
    prompt, examples = page.choose_example("a red circle")
    assert prompt["value"] == "a red circle" and examples["value"] is None
    assert page.choose_example(None) == page.choose_example(["x"]) == (gr.skip(), gr.skip())
    assert page.choose_scheduler("ddim", "karras")["value"] == "own"
    assert page.choose_scheduler("unipc", "karras")["value"] == "karras"
    gain, *closed = page.choose_control("gain")
    assert gain["visible"] and all(update["interactive"] for update in closed)
    gain, *closed = page.choose_control("calibrated")
    assert not gain["visible"] and not any(update["interactive"] for update in closed)


def test_everything_that_a_browser_sends_is_checked_here_and_the_queue_has_a_limit(page: _Page) -> None:
    for function in page.blocks.fns.values():
        assert function.api_visibility == "private", function.name
        assert function.name == "leave" or not function.preprocess, function.name
    [run] = [function for function in page.blocks.fns.values() if function.name == "go"]
    assert run.concurrency_limit == 3  # one that runs, one that waits, one that is told that there are too many
    assert page.blocks._queue.max_size == 1


@pytest.mark.parametrize("any_model", [False, True])
def test_another_model_can_be_typed_only_where_it_is_offered(any_model: bool, home: Path) -> None:
    offer = Offer(models=("owner/model", "embedded"), any_model=any_model)
    page = _build(offer, Sessions())
    assert page.model.allow_custom_value == any_model
    assert page.conditions.visible and page.images.value == 1  # the first model is a pipeline


def test_the_page_starts_with_scenes_and_a_prompt(page: _Page) -> None:
    assert (page.model.value, page.guidance.value, page.steps.value) == ("scenes", "3", 6)
    assert page.prompt.value == "a striped blue square and a yellow star"
    assert page.conditions.visible and page.examples.visible and not page.side.visible
    assert [example for example, _ in page.examples.choices] == list(DEMO_PROMPTS)
    assert [name for name, _ in page.model.choices][-2:] == ["embedded", "analytic-cifar10"]


def test_scores_of_scenes_and_unknown_words_are_shown(page: _Page) -> None:
    fields = {"model": "scenes", "prompt": "a red circle and a fox", "guidance": "3", "control": "gain"}
    said = list(_go(page, "a", **fields, scheduler="ddim", images=2))[-1]["status"]
    assert "Done: 2 images each" in said
    heads = re.findall("<th>([^<]+)</th>", said)
    assert heads == ["complete right", "colour right", "shape right", "evaluations an image", "seconds", "strength",
                     "plain", "with LML"]  # fmt: skip
    assert len(re.findall(r"<td>\d+%</td>", said)) == 6
    assert "Model &#x27;scenes&#x27; never saw the word fox." in said
    assert said.count("95% interval") == 1 and "right in" not in said

"""The page in a real Chromium, as people use it. `make test-browser` runs these; screenshots: build/browser."""

from __future__ import annotations

import io
import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import pytest
from PIL import Image

pytestmark = [pytest.mark.browser, pytest.mark.timeout(900)]

PATIENCE = 240_000
Visit: TypeAlias = Callable[..., Any]
Until: TypeAlias = Callable[[Callable[[], bool]], None]


def test_the_page_loads_and_fits_a_small_screen(visit: Visit) -> None:
    visitor = visit(None)
    assert "Ready" in visitor.status
    assert visitor.enabled("generate") and not visitor.enabled("cancel") and not visitor.enabled("download")
    for name in ("generate", "pictures", "plot", "script"):
        box = visitor.page.get_by_test_id(f"lml-{name}").bounding_box()
        assert box["x"] >= 0 and box["x"] + box["width"] <= 1280
        assert box["y"] + box["height"] <= 900
    visitor.shot("load")
    visitor.page.set_viewport_size({"width": 390, "height": 844})
    visitor.unconditional("embedded")
    visitor.control("calibrated")
    visitor.fill(images=4, steps=6)
    visitor.press("generate")
    visitor.expect("Done: 4 images each")
    for name in ("generate", "status", "pictures", "plot", "script"):
        box = visitor.page.get_by_test_id(f"lml-{name}").bounding_box()
        assert box["x"] >= 0 and box["x"] + box["width"] <= 390, name
    visitor.shot("phone")


def test_scenes_are_drawn_from_a_prompt_and_scored(visit: Visit, until: Until) -> None:
    visitor = visit(None)
    prompt = visitor.page.locator("#lml-prompt textarea")
    assert prompt.input_value() == "a striped blue square and a yellow star"
    visitor.choose("examples", "a cyan ring and a red square")
    until(lambda: prompt.input_value() == "a cyan ring and a red square")
    visitor.choose("examples", "a cyan ring and a red square")  # nothing stays chosen
    prompt.fill("a cyan ring and a red fox")
    visitor.fill(images=4)
    visitor.press("generate")
    said = visitor.expect("Done: 4 images each")
    assert "complete right" in said and "colour right" in said and "95% interval" in said
    assert "never saw the word fox" in said and "6 + 6 for guidance" in said
    assert 'prompt="a cyan ring and a red fox", guidance_scale=3.0' in visitor.script()
    visitor.shot("scenes")


def _same_pixels(one: Path, other: Path) -> bool:
    return np.array_equal(np.asarray(Image.open(one)), np.asarray(Image.open(other)))


def test_a_person_generates_looks_and_takes_it_home(visit: Visit, until: Until, tmp_path: Path) -> None:
    visitor = visit()
    grey = visitor.source("plain")
    visitor.press("generate")
    assert "images" in visitor.expect("Plain sampler")
    assert visitor.enabled("cancel") and not visitor.enabled("generate")
    visitor.expect("With LML")
    until(lambda: visitor.page.locator("#lml-plot svg path").count() > 20)
    visitor.shot("running")
    said = visitor.expect("Done: 64 images each")
    plain, lml = (float(re.findall(rf"^{name}\s+([\d.]+)", said, flags=re.M)[0]) for name in ("plain", "with LML"))
    assert 0 < lml < plain  # DDIM with 8 steps, where LML is at its best
    assert re.search(r"the distance to the CIFAR-10 training set is \d+% lower", said)
    assert len({grey, visitor.source("plain"), visitor.source("lml")}) == 3
    words = visitor.page.get_by_test_id("lml-plot").text_content()
    assert "angle of the correction" in words and "gain" in words and "time step" in words
    until(lambda: visitor.enabled("generate") and not visitor.enabled("cancel"))
    with visitor.download() as archive:
        names = archive.namelist()
        manifest = json.loads(archive.read("manifest.json"))
        script = archive.read("repeat.py").decode()
        archive.extractall(tmp_path)
    assert sum(name.startswith("lml/") for name in names) == sum(name.startswith("plain/") for name in names) == 64
    assert manifest["status"] == "complete" and manifest["config"]["steps"] == 8
    assert len(script.splitlines()) == 5
    assert visitor.script() == script
    # The five lines as they are, in a process of their own.
    again = [sys.executable, "repeat.py"]
    done = subprocess.run(again, cwd=tmp_path, capture_output=True, text=True, timeout=PATIENCE / 1000)
    assert done.returncode == 0, done.stderr
    images = [name for name in names if name.startswith(("plain/", "lml/"))]
    assert [name for name in images if not _same_pixels(tmp_path / name, tmp_path / "lml-images" / name)] == []


def _pixels(picture: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(picture)).convert("RGB")).astype(int)


def test_the_line_is_dragged_and_moved_by_keys_over_pictures_that_lie_exactly_on_each_other(
    visit: Visit,
    until: Until,
) -> None:
    visitor = visit()
    visitor.fill(images=4, steps=3)
    visitor.control("one gain")
    visitor.press("generate")
    visitor.expect("Done: 4 images each")
    wipe = visitor.page.locator(".lml-wipe")
    handle = wipe.locator("input")
    box = wipe.bounding_box()

    def share() -> float:
        line = wipe.locator(".lml-line").bounding_box()
        return (line["x"] + line["width"] / 2 - box["x"]) / box["width"]

    assert share() == pytest.approx(0.5, abs=0.01)
    middle = box["y"] + box["height"] / 3
    visitor.page.mouse.move(box["x"] + box["width"] / 2, middle)
    visitor.page.mouse.down()
    visitor.page.mouse.move(box["x"] + 0.2 * box["width"], middle, steps=5)
    visitor.page.mouse.up()
    assert share() == pytest.approx(0.2, abs=0.02)
    visitor.shot("wipe")
    handle.focus()
    visitor.page.add_style_tag(content=".lml-wipe .lml-line {display: none} .lml-wipe {outline: none !important}")
    shown = {name: _pixels(visitor.page.locator(f"img.lml-{name}").screenshot()) for name in ("plain", "lml")}
    assert np.abs(shown["plain"] - shown["lml"]).max() > 30
    for key, name in (("Home", "lml"), ("End", "plain")):
        visitor.page.keyboard.press(key)
        difference = np.abs(_pixels(wipe.screenshot()) - shown[name])
        # The three pictures may begin at different fractions of a pixel, so edges are left out.
        assert np.quantile(difference, 0.9) <= 12, (key, name)
        assert difference.mean() < 0.25 * np.abs(shown["plain"] - shown["lml"]).mean()
    # New pictures come under the line where it stands.
    visitor.page.keyboard.press("Home")
    for _ in range(20):
        visitor.page.keyboard.press("ArrowRight")
    at = handle.input_value()
    visitor.fill(seed=50)
    before = visitor.source("lml")
    visitor.press("generate")
    until(lambda: visitor.source("lml") != before and "Done" in visitor.status)
    assert handle.input_value() == at == "10"
    assert "inset(0px 0px 0px 10%)" in wipe.locator(".lml-over").evaluate("e => getComputedStyle(e).clipPath")


def test_a_run_is_cancelled_and_the_next_one_is_not_held_up(visit: Visit, until: Until, server: Any) -> None:
    visitor = visit()
    visitor.fill(images=512, steps=50)
    visitor.press("generate")
    visitor.expect("Plain sampler")
    assert len(server.runs()) == 1
    visitor.press("cancel")
    visitor.expect("Stopped")
    until(lambda: visitor.enabled("generate"))
    assert not visitor.enabled("cancel") and not visitor.enabled("download")
    visitor.shot("cancelled")
    until(lambda: server.runs() == [])
    visitor.fill(images=2, steps=2)
    visitor.press("generate")
    visitor.expect("Done: 2 images each")


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"seed": -5}, "First seed is -5; give a number from 0 to 4294967232."),
        ({"images": 5000}, "Images is 5000; give a number from 1 to 512."),
        ({"images": 2.5}, "Images is 2.5; give a whole number from 1 to 512."),
        ({"images": ""}, "Images is empty; give a number from 1 to 512."),
    ],
    ids=lambda value: "" if isinstance(value, str) else str(value),
)
def test_bad_numbers_are_told_in_a_sentence(fields: dict[str, Any], sentence: str, visit: Visit) -> None:
    visitor = visit()
    before = visitor.source("plain"), visitor.script()
    visitor.fill(**fields)
    visitor.press("generate")
    alert = visitor.page.get_by_role("alert").get_by_text(sentence)
    alert.wait_for(timeout=PATIENCE)
    visitor.page.wait_for_timeout(1000)
    assert alert.is_visible() and visitor.enabled("generate") and not visitor.enabled("cancel")
    assert (visitor.source("plain"), visitor.script()) == before


def test_bad_words_are_told_in_a_sentence_and_the_page_works_on(visit: Visit, tmp_path: Path) -> None:
    visitor = visit()
    model = visitor.page.locator("#lml-model input")
    for name, sentence in (
        ("<b>no such model</b>", "is unknown; give scenes, "),
        (str(tmp_path), "holds no model_index.json"),
    ):
        model.fill(name)
        model.press("Enter")
        visitor.page.get_by_test_id("lml-prompt").wait_for(timeout=PATIENCE)
        visitor.press("generate")
        visitor.expect(sentence)
        assert visitor.page.locator("#lml-status b", has_text="no such model").count() == 0
    visitor.shot("bad-input")
    visitor.unconditional("analytic-cifar10")
    visitor.control("one gain")
    visitor.fill(gain=7)
    visitor.press("generate")
    visitor.expect("Gain is 7; give a number from -2 to 2.")
    visitor.fill(gain=0.4, images=3)
    visitor.press("generate")
    assert "gain 0.4" in visitor.expect("Done: 3 images each")


def test_samplers_bring_their_grids_and_not_every_number_of_steps_is_calibrated(visit: Visit) -> None:
    visitor = visit()
    visitor.choose("scheduler", "DPM-Solver++(2M)")
    visitor.page.wait_for_timeout(500)
    visitor.choose("grid", "karras")
    visitor.fill(images=2, steps=4)
    visitor.press("generate")
    visitor.expect("Done: 2 images each")
    assert 'scheduler="dpmpp-2m"' in visitor.script() and 'sigmas="karras"' in visitor.script()
    visitor.control("calibrated")
    visitor.press("generate")
    visitor.expect("give one of 5, 6, 7, 8, 10, 12, 15, 20")


def test_a_calibration_brings_its_own_sampler_and_grid(visit: Visit, until: Until) -> None:
    visitor = visit()
    visitor.control("calibrated")
    visitor.fill(steps=6)
    visitor.press("generate")
    said = visitor.expect("Done: 64 images each")
    assert "calibrated control" in said and "the plain images are Euler's too" in said
    assert "3 steps back" in visitor.page.get_by_test_id("lml-plot").text_content()
    until(lambda: visitor.enabled("generate"))
    visitor.page.mouse.move(0, 0)
    visitor.shot("app")  # docs/images/app.png


def test_two_visitors_take_turns_and_do_not_see_each_other(visit: Visit, server: Any) -> None:
    first, second = visit(), visit()
    empty = second.source("plain")
    first.fill(images=32, steps=20)  # long enough for all that the second one does meanwhile
    first.press("generate")
    first.expect("Plain sampler")
    second.fill(images=5, steps=3, seed=900)
    second.press("generate")
    second.expect("One run is ahead of yours.")
    second.shot("two-visitors-waiting")
    assert second.source("plain") == second.source("lml")  # grey
    # One who gives up takes nothing from the other.
    second.press("cancel")
    second.expect("Stopped")
    assert "Stopped" not in first.status
    second.press("generate")
    second.expect("One run is ahead of yours.")
    first.expect("Done: 32 images each")
    second.expect("Done: 5 images each")
    first.shot("two-visitors-first")
    second.shot("two-visitors-second")
    assert "Done: 32 images each" in first.status
    assert first.source("plain") != second.source("plain") != empty
    assert "seed=900" in second.script() and "seed=" not in first.script()
    with first.download() as archive:
        assert json.loads(archive.read("manifest.json"))["config"]["num_images"] == 32
    with second.download() as archive:
        assert [image["seed"] for image in json.loads(archive.read("manifest.json"))["images"]][0] == 900
    third = visit()
    assert third.source("plain") == empty and "Ready" in third.status and not third.enabled("download")


def test_a_visitor_who_closes_the_page_ends_the_run(visit: Visit, until: Until, server: Any) -> None:
    visitor, other = visit(), visit()
    visitor.fill(images=512, steps=30)
    visitor.press("generate")
    visitor.expect("Plain sampler")
    visitor.page.close()
    until(lambda: server.runs() == [])
    other.fill(images=2, steps=2)
    other.press("generate")
    other.expect("Done: 2 images each")


def test_a_pipeline_of_this_machine_takes_a_prompt(visit: Visit, text_pipeline: Path) -> None:
    visitor = visit()
    model = visitor.page.locator("#lml-model input")
    model.fill(str(text_pipeline))
    model.press("Enter")
    prompt = visitor.page.locator("#lml-prompt textarea")
    prompt.fill("a fox")
    visitor.page.get_by_label("Guidance").fill("2.5")
    visitor.fill(images=2, steps=3)
    visitor.press("generate")
    said = visitor.expect("Done: 2 images each")
    assert "3 + 3 for guidance" in said and "built-in models only" in said
    assert 'prompt="a fox", guidance_scale=2.5' in visitor.script() or 'prompt="a fox"' in visitor.script()
    visitor.shot("pipeline")


def _ask_directly(visitor: Any, address: str, **fields: Any) -> str:
    """Ask for a run without the page, and return the answer."""
    form = {"model": "embedded", "prompt": "", "guidance": "", "side": "", "scheduler": "ddim", "grid": "trailing"}
    form |= {"steps": 8, "control": "automatic", "gain": 0.5, "images": 1, "seed": 0} | fields
    calls = f"{address}gradio_api/call/go"
    asked = visitor.page.request.post(calls, data={"data": list(form.values())}).json()
    return visitor.page.request.get(f"{calls}/{asked['event_id']}").text()


def test_the_space_serves_its_page_to_strangers(visit_space: Any, space: Any) -> None:
    visitor = visit_space
    model = visitor.page.locator("#lml-model input")
    model.fill("owner/name")
    model.press("Enter")
    model.blur()
    assert model.input_value() in ("scenes", "embedded", "analytic-cifar10")
    visitor.fill(images=2, steps=2)
    visitor.press("generate")
    visitor.expect("Done: 2 images each")
    visitor.shot("space")
    # Whoever goes round the page meets the same bounds, in the same sentences.
    for fields, sentence in (
        ({"model": "owner/name"}, "is not offered here"),
        ({"model": "../../etc"}, "is not offered here"),
        ({"model": {"path": "/etc/passwd"}}, "Model is empty"),
        ({"steps": 10**6}, "Steps is 1000000; give a number from 1 to 50."),
        ({"images": 257}, "Images is 257; give a number from 1 to 256."),
        ({"scheduler": "__class__"}, "is unknown; choose one of"),
    ):
        assert sentence in _ask_directly(visitor, space.address, **fields), fields

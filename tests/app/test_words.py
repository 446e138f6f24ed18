"""What the page says and shows: the package's sentences in the page's words, nothing of a visitor as HTML."""

from __future__ import annotations

import base64
import re
from types import SimpleNamespace
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image

from lmlangevin.app import words
from lmlangevin.app.pictures import picture_values
from lmlangevin.app.plot import correction_html
from lmlangevin.app.runs import Finished, Snapshot
from lmlangevin.generation.images import read_png


@pytest.mark.parametrize(
    ("sentence", "said"),
    [
        ("Give --gain to choose it yourself.", "Give Gain to choose it yourself."),
        ("steps=0 is too small.", "Steps 0 is too small."),
        ("guidance_scale=5 does not fit model='a=b'.", "Guidance 5 does not fit Model 'a=b'."),
        ("kappa=3 and --no-such-option", "kappa=3 and no-such-option"),
    ],
)
def test_options_are_called_what_the_page_calls_them(sentence: str, said: str) -> None:
    assert words.page_words(sentence) == said


def test_nothing_that_a_visitor_wrote_becomes_html() -> None:
    said = words.failed("Model '<img src=x onerror=alert(1)>' is not offered here.")
    assert "<img" not in said and "&lt;img" in said
    assert 'role="alert"' in said
    assert "<b>" not in words.broken("<b>").removeprefix("<div").split("</b>", 1)[1]


def test_progress_is_told_with_a_bar() -> None:
    said = words.going(Snapshot("lml", 4, 16))
    assert "4 of 16 images" in said and 'value="0.625"' in said
    assert 'value="0.688"' in words.going(Snapshot("lml", 4, 16, begun=2.0))
    assert "images" not in words.going(Snapshot("load", 0, 16))
    assert "3 runs are ahead of yours." in words.going(Snapshot("wait", 0, 16, ahead=3))


def _finished(
    plain: float | None,
    lml: float | None,
    *,
    verdict: str | None = None,
    model: str = "embedded",
    angles: tuple[float, ...] = (0.0, 0.1),
    **config: Any,
) -> Finished:
    def run(name: str) -> Any:
        keys = {"control": "constant", "gain": 0.7, "preset": "1/x/y"} | config
        settings = SimpleNamespace(get=keys.get, **keys)
        return SimpleNamespace(
            name=name,
            nfe=8,
            guidance_evaluations=0,
            seconds=1.25,
            gain=keys["gain"],
            scheduler=SimpleNamespace(config=settings),
        )

    result: Any = SimpleNamespace(runs={name: run(name) for name in ("plain", "lml")}, verdict=verdict)
    notes = ("A Frechet distance needs --num-images 512 or more, so none is shown.", "Give --gain to try <one>.")
    distances = {"plain": plain, "lml": lml}
    steps = [{"angle": angle, "gain": [0.0], "identity": 0.0} for angle in angles]
    return Finished(model, Snapshot("finish", 0, 64, corrections=steps), result, distances, notes, "", Any)  # type: ignore[arg-type]


def test_a_finished_run_is_told_with_both_distances_and_what_they_are_worth() -> None:
    said = words.done(_finished(3.2, 2.88))
    assert "3.200" in said and "2.880" in said
    assert "the CIFAR-10 training set is 10% lower" in said and "Fewer than 512 images raise both" in said
    assert "own exact samples is 10% lower" in words.done(_finished(3.2, 2.88, model="analytic-cifar10"))
    assert "gain 0.7 (preset)" in said
    assert "Give Gain to try &lt;one&gt;." in said and "needs" not in said
    assert "25% higher" in words.done(_finished(2.0, 2.5))
    assert "not comparable" in words.done(_finished(0.0, 2.5))
    assert "adaptive control" in words.done(_finished(2.0, 2.5, control="adaptive", gain=None))


def test_without_a_distance_the_page_says_why() -> None:
    assert "from 64 images on" in words.done(_finished(None, None))
    assert "built-in models only" in words.done(_finished(None, None, model="owner/model"))
    said = words.done(_finished(2.5, 2.2, verdict="Frechet distance 2.500 plain, 2.200 with LML."))
    assert "Fréchet distance 2.500 plain" in said and "decide" not in said


def test_a_correction_that_was_none_is_told() -> None:
    assert "LML changed nothing" in words.done(_finished(2.5, 2.5, angles=(0.0, 0.0)))
    assert "LML changed nothing" not in words.done(_finished(2.5, 2.5))


def _numbers(svg: str) -> list[str]:
    return [text for text in ElementTree.fromstring(svg).itertext() if text.strip()]


def test_the_plot_shows_the_angle_in_degrees_and_each_gain() -> None:
    steps = [{"angle": 0.0, "gain": [0.0]}, {"angle": np.pi / 4, "gain": [0.5, -0.25]}]
    svg = correction_html([900.0, 400.0], steps)
    said = _numbers(svg)
    assert {"angle of the correction, degrees", "gain", "time step"} <= {text.strip() for text in said}
    assert any("2 steps back" in text for text in said)
    top = max(
        float(text.replace("\u2212", "-")) for text in said if re.fullmatch(r"[\u2212-]?\d+(\.\d+)?", text.strip())
    )
    assert top == 1000  # the time axis
    assert "40" in [text.strip() for text in said]  # the degrees reach 45
    assert "<?xml" not in svg
    assert len(_numbers(correction_html([900.0, 400.0], [{"angle": 0.1, "gain": [0.2]}]))) < len(said)


def test_the_plot_without_steps_is_empty_axes() -> None:
    ElementTree.fromstring(correction_html((), ()))


def test_pictures_that_are_not_finished_are_grey_and_both_grids_are_of_one_size() -> None:
    picture = Image.new("RGB", (32, 32), (200, 10, 10))
    values = picture_values(Snapshot("lml", 1, 3, {"plain": [picture] * 3, "lml": [picture]}))
    grids = [
        np.asarray(read_png(base64.b64decode(values[name].removeprefix("data:image/png;base64,"))))
        for name in ("plain", "lml")
    ]
    assert grids[0].shape == grids[1].shape
    red = [(grid == (200, 10, 10)).all(axis=-1).sum() for grid in grids]
    assert red[0] == 3 * red[1] > 0
    assert picture_values(None)["plain"] == picture_values(None)["lml"]

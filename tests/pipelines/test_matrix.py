"""Every cell of the tables of docs/pipelines.md: what runs, and what does not for the reason that stands there."""

from __future__ import annotations

import inspect
import re
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch

from lmlangevin import apply_lml
from lmlangevin.schedulers.mixin import LML_DEFAULTS
from pipeline_matrix import CELLS, FLOW, OWN, PAGE, REASONS, TABLES, Cell, render
from tiny_pipelines import KINDS

RUNNING = [cell for cell in CELLS if cell.reason is None or REASONS[cell.reason].error is None and cell.reason != "j"]
FAILING = [cell for cell in CELLS if cell.reason is not None and REASONS[cell.reason].error is not None]


@pytest.fixture(autouse=True)
def known_warnings() -> Iterator[None]:
    """diffusers announces that it may drop the noise-predicting DPM-Solver."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="`algorithm_types dpmsolver and sde-dpmsolver` is deprecated")
        yield


@pytest.fixture
def pipe_of(loaded: Callable[..., Any]) -> Callable[..., Any]:
    """The pipeline of a cell, with its own scheduler told what the cell says, and LML applied or not."""

    def make(cell: Cell, *, lml: bool = True, **keys: Any) -> Any:
        config = {} if cell.prediction == FLOW else {"prediction_type": cell.prediction}
        pipe = loaded(cell.kind, cell.dtype, **config)
        apply_lml(pipe, scheduler=None if cell.sampler == OWN else cell.sampler, **{"gain": 0.0, **keys})
        if not lml:  # the sampler of the cell, which need not be the one that remove_lml gives back
            kept = {key: value for key, value in pipe.scheduler.config.items() if key not in LML_DEFAULTS}
            pipe.scheduler = pipe.scheduler._lml_base.from_config(kept)
        return pipe

    return make


@pytest.mark.parametrize("cell", RUNNING, ids=str)
def test_a_cell_that_runs(cell: Cell, pipe_of: Callable[..., Any], run: Callable[..., torch.Tensor]) -> None:
    kind, steps = KINDS[cell.kind], cell.steps
    first_is_special = cell.reason == "h"
    plain = run(pipe_of(cell, lml=False), kind, steps=steps)
    assert plain.isfinite().all() and plain.std() > 0.01
    assert torch.equal(run(pipe_of(cell), kind, steps=steps), plain)  # gain 0

    pipe = pipe_of(cell, gain=0.5, record=True)
    calls: list[int] = []
    with getattr(pipe, kind.denoiser).register_forward_pre_hook(lambda *_: calls.append(1)):
        first = run(pipe, kind, steps=steps)
    assert first.dtype == plain.dtype and first.isfinite().all() and not torch.equal(first, plain)
    evaluations = len(calls) // kind.calls
    assert len(pipe.scheduler.lml_history) == evaluations >= 3
    second = run(pipe, kind, steps=steps)
    assert torch.equal(first, second) != first_is_special
    if first_is_special:
        assert torch.equal(run(pipe, kind, steps=steps), second)
        pipe = pipe_of(cell, lml=False)
        assert torch.equal(run(pipe, kind, steps=steps), plain)
        assert not torch.equal(run(pipe, kind, steps=steps), plain)  # the plain sampler is no other


@pytest.mark.parametrize("cell", FAILING, ids=str)
def test_a_cell_that_cannot_run(cell: Cell, pipe_of: Callable[..., Any], run: Callable[..., torch.Tensor]) -> None:
    reason = REASONS[cell.reason or ""]
    before: Any = None
    for lml in (True, False):
        with pytest.raises(Exception, match=reason.message) as caught:
            before = None
            pipe = pipe_of(cell, lml=lml, gain=0.5)
            before = pipe.scheduler
            run(pipe, KINDS[cell.kind], steps=cell.steps)
        assert type(caught.value).__name__ == reason.error and "\n" not in str(caught.value)
        # The package's own refusals come before any work; diffusers' come from the plain sampler as well.
        assert (before is None) == (reason.error == "LMLError")


@pytest.mark.parametrize("cell", [cell for cell in CELLS if cell.reason == "j"], ids=str)
def test_a_scheduler_without_a_choice_of_predictions(cell: Cell, loaded: Callable[..., Any]) -> None:
    assert "prediction_type" not in inspect.signature(type(loaded(cell.kind).scheduler).__init__).parameters


def test_no_cell_is_left_out() -> None:
    assert len(CELLS) == len(set(CELLS)) == len(RUNNING) + len(FAILING) + sum(cell.reason == "j" for cell in CELLS)
    assert {cell.reason for cell in CELLS} - {None} == set(REASONS)
    assert {cell.kind for cell in CELLS} == set(KINDS)
    # Nobody can hide a failure behind a reason: by far the most cells run.
    assert len(RUNNING) > 250


def test_the_page_shows_these_cells() -> None:
    text = PAGE.read_text(encoding="utf-8")
    assert render(text) == text, "run python tools/pipeline_matrix.py: docs/pipelines.md is out of date"
    assert set(re.findall(r"<!-- table:(\w+) -->", text)) == set(TABLES)
    assert all(table() in text for table in TABLES.values())

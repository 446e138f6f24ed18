"""The page itself: its form, its results, and what happens when something is pressed."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

try:
    import gradio as gr
except ModuleNotFoundError as error:
    if error.name != "gradio":
        raise
    raise ImportError("lml app needs gradio: pip install 'lmlangevin[app]'") from error

from lmlangevin.app import words
from lmlangevin.app.pictures import SCRIPT, TEMPLATE, picture_values
from lmlangevin.app.plot import correction_svg
from lmlangevin.app.runs import Finished, Run, Sessions, Slot, Snapshot, StoppedError
from lmlangevin.app.settings import (
    AUTOMATIC,
    GAIN,
    OWN,
    SMALLEST_SIDE,
    Form,
    Offer,
    grid_choices,
    read_form,
    scheduler_choices,
)
from lmlangevin.app.style import HEADER
from lmlangevin.core.damping import ADAPTIVE, CALIBRATED
from lmlangevin.core.errors import LMLError
from lmlangevin.generation.config import BUILT_IN

logger = logging.getLogger(__name__)

NO_SCRIPT = "# five lines that repeat a run, when it is done"

_FORGET_AFTER = (600, 3600)
"""Seconds between looks for copies of pictures and downloads, and how old they must be to be deleted."""

_CONTROL_TITLES = (
    ("automatic", AUTOMATIC),
    ("one gain", GAIN),
    ("adaptive", ADAPTIVE),
    ("calibrated", CALIBRATED),
)


def build_page(offer: Offer, sessions: Sessions) -> gr.Blocks:
    """Return the page, which is not served yet.

    Args:
        offer: What its visitors may do.
        sessions: Where their runs are kept.
    """
    return _Page(offer, sessions).blocks


class _Page:
    """The components of the page and the functions behind them.

    Nothing of a visitor is kept here: one object serves all of them.
    """

    def __init__(self, offer: Offer, sessions: Sessions) -> None:
        self._offer = offer
        self._sessions = sessions
        self._slot = Slot()
        self.blocks = gr.Blocks(title="LML", analytics_enabled=False, fill_width=True, delete_cache=_FORGET_AFTER)
        with self.blocks:
            gr.HTML(HEADER, padding=False)
            with gr.Row(elem_id="lml-main"):
                with gr.Column(scale=0, min_width=300, elem_id="lml-form"):
                    self._form()
                with gr.Column(scale=1, min_width=320):
                    self._results()
            self._wire()

    # Components ----------------------------------------------------------------------------------------------------

    def _form(self) -> None:
        offer, start = self._offer, Form(model=self._offer.models[0])
        pipeline = start.model not in BUILT_IN
        self.model = gr.Dropdown(
            list(offer.models),
            value=start.model,
            label="Model",
            info="or a pipeline's folder or hub id" if offer.any_model else None,
            allow_custom_value=offer.any_model,
            elem_id="lml-model",
        )
        with gr.Group(visible=pipeline) as self.conditions:
            self.prompt = gr.Textbox(label="Prompt", lines=2, max_length=1000, elem_id="lml-prompt")
            with gr.Row():
                self.guidance = gr.Textbox(
                    label="Guidance", placeholder="default", min_width=90, max_length=20, elem_id="lml-guidance"
                )
                self.side = gr.Textbox(
                    label=f"Side, {SMALLEST_SIDE} to {offer.max_side}",
                    placeholder="default",
                    min_width=90,
                    max_length=20,
                    elem_id="lml-side",
                )
        with gr.Row():
            self.scheduler = gr.Dropdown(
                scheduler_choices(start.model),
                value=OWN if pipeline else start.scheduler,
                label="Sampler",
                min_width=110,
                elem_id="lml-scheduler",
            )
            self.grid = gr.Dropdown(
                grid_choices(start.scheduler),
                value=OWN if pipeline else start.grid,
                label="Time grid",
                min_width=110,
                elem_id="lml-grid",
            )
        self.steps = gr.Slider(
            1, offer.max_steps, value=min(start.steps, offer.max_steps), step=1, label="Steps", elem_id="lml-steps"
        )
        self.control = gr.Radio(list(_CONTROL_TITLES), value=start.control, label="Correction", elem_id="lml-control")
        self.gain = gr.Number(label="Gain", value=start.gain, step=0.05, visible=False, elem_id="lml-gain")
        with gr.Row():
            self.images = gr.Number(
                label="Images",
                value=min(start.images, offer.images_of(start.model)),
                min_width=110,
                elem_id="lml-images",
            )
            self.seed = gr.Number(label="First seed", value=start.seed, min_width=110, elem_id="lml-seed")
        with gr.Row():
            self.generate = gr.Button("Generate", variant="primary", min_width=110, elem_id="lml-generate")
            self.cancel = gr.Button("Cancel", interactive=False, min_width=110, elem_id="lml-cancel")
        self.download = gr.DownloadButton("Download all", interactive=False, elem_id="lml-download")

    def _results(self) -> None:
        self.status = gr.HTML(words.idle(), elem_id="lml-status", padding=False)
        self.pictures = gr.HTML(
            picture_values(None), html_template=TEMPLATE, js_on_load=SCRIPT, elem_id="lml-pictures", padding=False
        )
        self.plot = gr.HTML(correction_svg((), ()), elem_id="lml-plot", padding=False)
        self.script = gr.Code(
            NO_SCRIPT,
            label="The same images in Python",
            language="python",
            lines=5,
            max_lines=7,
            wrap_lines=True,
            interactive=False,
            elem_id="lml-script",
        )

    # Events --------------------------------------------------------------------------------------------------------

    def _wire(self) -> None:
        fields = [
            self.model, self.prompt, self.guidance, self.side, self.scheduler, self.grid, self.steps, self.control,
            self.gain, self.images, self.seed,
        ]  # fmt: skip
        buttons = [self.generate, self.cancel]
        shown = [self.status, self.pictures, self.plot, self.script, self.download]
        quick: dict[str, Any] = {"queue": False, "show_progress": "hidden", "api_visibility": "private"}
        self.model.change(self.choose_model, [self.model, self.scheduler], self._of_model(), **quick)
        self.scheduler.change(self.choose_scheduler, [self.scheduler, self.grid], [self.grid], **quick)
        self.control.change(self.choose_control, [self.control], [self.gain, self.scheduler, self.grid], **quick)
        asked = self.generate.click(self.ask, fields, [self.status, self.script, self.download, *buttons], **quick)
        going = asked.success(
            self.go,
            None,
            shown,
            show_progress="hidden",
            api_visibility="private",
            concurrency_limit=1,
            concurrency_id="lml-run",
        )
        going.then(self.rest, None, buttons, **quick)
        self.cancel.click(self.stop, None, [self.status, *buttons], cancels=[going], **quick)
        self.blocks.unload(self.leave)
        self.blocks.queue(max_size=self._offer.queue, default_concurrency_limit=4, api_open=False)

    def _of_model(self) -> list[Any]:
        return [self.conditions, self.scheduler, self.images]

    def choose_model(self, model: Any, scheduler: Any) -> tuple[Any, Any, Any]:
        """Fit the form to a model: prompts for pipelines, samplers that it can be sampled with."""
        name = str(model or "")
        choices = scheduler_choices(name)
        names = [choice for _, choice in choices]
        kept = scheduler if scheduler in names and (name in BUILT_IN or scheduler == OWN) else names[0]
        images = gr.update() if name in BUILT_IN else gr.update(value=1)
        return gr.update(visible=name not in BUILT_IN), gr.update(choices=choices, value=kept), images

    def choose_scheduler(self, scheduler: Any, grid: Any) -> Any:
        """Fit the time grids to a sampler."""
        choices = grid_choices(str(scheduler))
        return gr.update(choices=choices, value=grid if grid in [name for _, name in choices] else OWN)

    def choose_control(self, control: Any) -> tuple[Any, Any, Any]:
        """Show the gain where it is asked for, and close what a calibration brings with it."""
        own = gr.update(interactive=control != CALIBRATED)
        return gr.update(visible=control == GAIN), own, own

    def ask(self, request: gr.Request, *values: Any) -> tuple[Any, ...]:
        """Check the form, and remember the run that it asks for."""
        visitor = str(request.session_hash)
        try:
            run = Run(read_form(Form(*values), self._offer), self._offer, self._slot)
            self._sessions.begin(visitor, run, most=self._offer.queue + 1)
        except LMLError as error:
            # Without a run of the visitor `go` knows that there is nothing to do.
            self._sessions.leave(visitor)
            return words.failed(str(error)), gr.skip(), gr.skip(), *_buttons(busy=False)
        return words.queued(), NO_SCRIPT, gr.update(value=None, interactive=False), *_buttons(busy=True)

    def go(self, request: gr.Request) -> Iterator[tuple[Any, ...]]:
        """Do the visitor's run, and show how it goes."""
        run = self._sessions.run_of(str(request.session_hash))
        if run is None:
            yield (gr.skip(),) * 5  # gradio empties what a generator ends without
            return
        drawn = -1
        try:
            for news in run.watch():
                snapshot = news.last if isinstance(news, Finished) else news
                count = sum(map(len, snapshot.pictures.values()))
                pictures, drawn = gr.skip() if count == drawn else picture_values(snapshot), count
                if isinstance(news, Finished):
                    bundle = gr.update(value=str(news.bundle), interactive=True)
                    yield words.done(news), pictures, _plot(snapshot), news.script, bundle
                else:
                    yield words.going(news), pictures, _plot(snapshot), gr.skip(), gr.skip()
        except StoppedError:
            yield words.stopped(), *[gr.skip()] * 4
        except LMLError as error:
            yield words.failed(str(error)), *[gr.skip()] * 4
        except Exception as error:  # a defect, or a library's: the page goes on for the others
            logger.exception("A run of the page broke.")
            yield words.broken(type(error).__name__), *[gr.skip()] * 4
        finally:
            run.stop()
            run.remove()  # gradio has copied the bundle by now

    def rest(self) -> tuple[Any, Any]:
        """Give the buttons back after a run, whatever became of it."""
        return _buttons(busy=False)

    def stop(self, request: gr.Request) -> tuple[Any, ...]:
        """End the visitor's run."""
        run = self._sessions.run_of(str(request.session_hash))
        if run is not None:
            run.stop()
        return words.stopped(), *_buttons(busy=False)

    def leave(self, request: gr.Request) -> None:
        """Clean up after a visitor who is gone."""
        self._sessions.leave(str(request.session_hash))


def _buttons(*, busy: bool) -> tuple[Any, Any]:
    return gr.update(interactive=not busy), gr.update(interactive=busy)


def _plot(snapshot: Snapshot) -> Any:
    if snapshot.stage == "plain" and snapshot.done:
        return gr.skip()  # the axes are empty until LML's turn
    return correction_svg(snapshot.timesteps, snapshot.corrections)

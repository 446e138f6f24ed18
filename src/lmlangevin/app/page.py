"""The page itself: its form, its results, and what happens when something is pressed."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

from lmlangevin.core.errors import LMLError
from lmlangevin.install import install_hint

try:
    import gradio as gr
except ModuleNotFoundError as error:
    if error.name != "gradio":
        raise
    raise LMLError(f"The page needs gradio; {install_hint('app')}.") from error

from lmlangevin.app import words
from lmlangevin.app.pictures import SCRIPT, TEMPLATE, picture_values
from lmlangevin.app.plot import correction_html
from lmlangevin.app.runs import Finished, Run, Sessions, Slot, Snapshot, StoppedError
from lmlangevin.app.settings import (
    AUTOMATIC,
    GAIN,
    LONGEST_PROMPT,
    OWN,
    SMALLEST_SIDE,
    Form,
    Offer,
    grid_choices,
    read_form,
    scheduler_choices,
    start_form,
)
from lmlangevin.app.style import HEADER
from lmlangevin.core.damping import ADAPTIVE, CALIBRATED
from lmlangevin.generation.checks import BUILT_IN
from lmlangevin.scenes.models import SCENES
from lmlangevin.scenes.prompts import DEMO_PROMPTS

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
        offer, start = self._offer, start_form(self._offer.models[0])
        scenes = start.model in SCENES
        self.model = gr.Dropdown(
            list(offer.models),
            value=start.model,
            label="Model",
            info="or a pipeline's folder or hub id" if offer.any_model else None,
            allow_custom_value=offer.any_model,
            elem_id="lml-model",
        )
        with gr.Group(visible=start.model not in BUILT_IN) as self.conditions:
            self.prompt = gr.Textbox(
                start.prompt,
                label="Prompt",
                lines=2,
                max_length=LONGEST_PROMPT,
                placeholder=_no_prompt(scenes=scenes),
                elem_id="lml-prompt",
            )
            with gr.Row():
                self.guidance = gr.Textbox(
                    start.guidance,
                    label="Guidance",
                    placeholder="default",
                    min_width=90,
                    max_length=20,
                    elem_id="lml-guidance",
                )
                self.examples = gr.Dropdown(
                    list(DEMO_PROMPTS),
                    value=None,
                    label="Examples",
                    visible=scenes,
                    min_width=150,
                    elem_id="lml-examples",
                )
                self.side = gr.Textbox(
                    label=f"Side, {SMALLEST_SIDE} to {offer.max_side}",
                    placeholder="default",
                    visible=not scenes,
                    min_width=90,
                    max_length=20,
                    elem_id="lml-side",
                )
        with gr.Row():
            self.scheduler = gr.Dropdown(
                scheduler_choices(start.model),
                value=start.scheduler,
                label="Sampler",
                min_width=110,
                elem_id="lml-scheduler",
            )
            self.grid = gr.Dropdown(
                grid_choices(start.scheduler),
                value=start.grid,
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
        self.download = gr.DownloadButton("Download all (zip)", interactive=False, elem_id="lml-download")

    def _results(self) -> None:
        self.status = gr.HTML(words.idle(), elem_id="lml-status", padding=False)
        self.pictures = gr.HTML(
            picture_values(None), html_template=TEMPLATE, js_on_load=SCRIPT, elem_id="lml-pictures", padding=False
        )
        self.plot = gr.HTML(correction_html((), ()), elem_id="lml-plot", padding=False)
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
        shown = [self.status, self.pictures, self.plot, self.script, self.download, self.generate, self.cancel]
        # What comes from a browser is checked here, by `read_form`, and not by the components, which do it otherwise
        # each, and log a traceback where somebody goes round the page.
        common: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private", "preprocess": False}
        quick: dict[str, Any] = common | {"queue": False}
        of_model = [
            self.conditions, self.prompt, self.guidance, self.examples, self.side, self.scheduler, self.grid,
            self.steps, self.control, self.images,
        ]  # fmt: skip
        self.model.change(self.choose_model, [self.model], of_model, **quick)
        self.examples.change(self.choose_example, [self.examples], [self.prompt, self.examples], **quick)
        self.scheduler.change(self.choose_scheduler, [self.scheduler, self.grid], [self.grid], **quick)
        self.control.change(self.choose_control, [self.control], [self.gain, self.scheduler, self.grid], **quick)
        # Runs wait in the line of the `Slot`, which tells them how many are ahead, and not in gradio's queue. What goes
        # beyond the offer is refused by `Sessions` in a sentence; gradio's bound is for whoever outruns that.
        most = self._offer.queue + 1
        going = self.generate.click(
            self.go, fields, shown, concurrency_limit=most + 1, concurrency_id="lml-run", **common
        )
        going.then(self.rest, None, [self.generate, self.cancel], **quick)
        # Not by gradio's `cancels`, which ends whatever `going` is at by then: a next run too, of whoever is quick.
        self.cancel.click(self.stop, None, [self.cancel], **quick)
        self.blocks.unload(self.leave)
        self.blocks.queue(max_size=self._offer.queue, default_concurrency_limit=4, api_open=False)

    def choose_model(self, model: Any) -> tuple[Any, ...]:
        """Put the form to where a run of a model starts; the prompt, the gain and the seed stay as they are."""
        name = str(model or "")
        start, scenes = start_form(name), name in SCENES
        return (
            gr.update(visible=name not in BUILT_IN),
            gr.update(placeholder=_no_prompt(scenes=scenes)),
            gr.update(value=start.guidance),
            gr.update(visible=scenes),
            gr.update(visible=not scenes),
            gr.update(choices=scheduler_choices(name), value=start.scheduler),
            gr.update(choices=grid_choices(start.scheduler), value=start.grid),
            gr.update(value=min(start.steps, self._offer.max_steps)),
            gr.update(value=start.control),
            gr.update(value=min(start.images, self._offer.images_of(name))),
        )

    def choose_example(self, example: Any) -> tuple[Any, Any]:
        """Take an example into the prompt, and give the list back, so that the same one can be chosen again."""
        if example not in DEMO_PROMPTS:
            return gr.skip(), gr.skip()
        return gr.update(value=example), gr.update(value=None)

    def choose_scheduler(self, scheduler: Any, grid: Any) -> Any:
        """Fit the time grids to a sampler."""
        choices = grid_choices(str(scheduler))
        return gr.update(choices=choices, value=grid if grid in [name for _, name in choices] else OWN)

    def choose_control(self, control: Any) -> tuple[Any, Any, Any]:
        """Show the gain where it is asked for, and close what a calibration brings with it."""
        own = gr.update(interactive=control != CALIBRATED)
        return gr.update(visible=control == GAIN), own, own

    def go(self, request: gr.Request, *values: Any) -> Iterator[tuple[Any, ...]]:
        """Do the run that a visitor's form asks for, and show how it goes."""
        visitor = str(request.session_hash)
        try:
            run = Run(read_form(Form(*values), self._offer), self._offer, self._slot)
            self._sessions.begin(visitor, run, most=self._offer.queue + 1)
        except LMLError as error:
            yield _show(status=words.failed(str(error)))
            return
        pictures = plotted = -1
        try:
            generate, cancel = _buttons(busy=True)
            no_file = gr.update(value=None, interactive=False)
            yield _show(status=words.starting(), script=NO_SCRIPT, download=no_file, generate=generate, cancel=cancel)
            for news in run.watch():
                last = news.last if isinstance(news, Finished) else news
                changes: dict[str, Any] = {}
                # Pictures and plots are large, so they are sent where they are new.
                if (count := sum(map(len, last.pictures.values()))) != pictures:
                    changes["pictures"], pictures = picture_values(last), count
                if (mark := _plot_mark(last)) != plotted:
                    changes["plot"], plotted = correction_html(last.timesteps, last.corrections), mark
                if isinstance(news, Finished):
                    bundle = gr.update(value=str(news.bundle), interactive=True)
                    yield _show(status=words.done(news), script=news.script, download=bundle, **changes)
                else:
                    yield _show(status=words.going(news), **changes)
        except StoppedError:
            yield _show(status=words.stopped())
        except LMLError as error:
            yield _show(status=words.failed(str(error)))
        except Exception as error:  # a defect, or a library's: the page goes on for the others
            logger.exception("A run of the page broke.")
            yield _show(status=words.broken(type(error).__name__))
        finally:
            run.stop()
            run.remove()  # gradio has copied the bundle by now

    def rest(self) -> tuple[Any, Any]:
        """Give the buttons back after a run, whatever became of it."""
        return _buttons(busy=False)

    def stop(self, request: gr.Request) -> Any:
        """End the visitor's run; `go` shows that, and gives the buttons back."""
        run = self._sessions.run_of(str(request.session_hash))
        if run is not None:
            run.stop()
        return gr.update(interactive=False)

    def leave(self, request: gr.Request) -> None:
        """Clean up after a visitor who is gone."""
        self._sessions.leave(str(request.session_hash))


def _no_prompt(*, scenes: bool) -> str:
    """Return what stands in an empty prompt."""
    return f"the {len(DEMO_PROMPTS)} examples in turn" if scenes else ""


def _buttons(*, busy: bool) -> tuple[Any, Any]:
    return gr.update(interactive=not busy), gr.update(interactive=busy)


def _show(**changes: Any) -> tuple[Any, ...]:
    """Return an update of what a run shows, in the order of its outputs; what is not named stays as it is."""
    order = ("status", "pictures", "plot", "script", "download", "generate", "cancel")
    return tuple(changes.get(name, gr.skip()) for name in order)


def _plot_mark(last: Snapshot) -> int:
    """Return what changes where there is something new to plot: of how many images with LML it is the average."""
    return len(last.corrections) and (last.count if last.stage == "finish" else last.done)

"""What the page says, as HTML. Whatever came from a visitor is escaped here."""

from __future__ import annotations

import re
from collections.abc import Sequence
from html import escape

from lmlangevin.app.distance import FEWEST
from lmlangevin.app.runs import Finished, Snapshot
from lmlangevin.core.damping import CONSTANT
from lmlangevin.generation.checks import BUILT_IN
from lmlangevin.generation.distance import SMALLEST_COUNT
from lmlangevin.generation.plan import RunResult
from lmlangevin.generation.scene_scores import SHOWN, score_lines
from lmlangevin.scenes.models import SCENES

_STAGES = {
    "wait": "Starting",
    "load": "Loading the model",
    "plain": "Plain sampler",
    "lml": "With LML",
    "finish": "Measuring and packing",
}

_LABELS = {
    "model": "Model",
    "scheduler": "Sampler",
    "steps": "Steps",
    "num-images": "Images",
    "seed": "First seed",
    "gain": "Gain",
    "control": "Correction",
    "prompt": "Prompt",
    "guidance-scale": "Guidance",
    "height": "Side",
    "width": "Side",
    "timestep-spacing": "Time grid",
    "sigmas": "Time grid",
}
"""What the page calls the options that the package's sentences name."""


def page_words(sentence: str) -> str:
    """Return one of the package's sentences with the page's labels in place of options and arguments."""

    def option(match: re.Match[str]) -> str:
        return _LABELS.get(match[1], match[1])

    def argument(match: re.Match[str]) -> str:
        label = _LABELS.get(match[1].replace("_", "-"))
        return match[0] if label is None else f"{label} "

    return re.sub(r"\b([a-z_]+)=", argument, re.sub(r"--([a-z][a-z-]*)", option, sentence))


def idle() -> str:
    """Return what the page says before a run."""
    return _box("idle", "Ready", "Choose what to sample, and press Generate.")


def starting() -> str:
    """Return what the page says of a run of which nothing is known yet."""
    return _box("busy", _STAGES["wait"], "", bar=0.0)


def stopped() -> str:
    """Return what the page says of a run that its visitor has stopped."""
    return _box("idle", "Stopped", "What was finished is shown; there is nothing to download.")


def failed(sentence: str) -> str:
    """Return what the page says of a mistake, in the page's words."""
    return _box("error", "That did not work", page_words(sentence))


def broken(kind: str) -> str:
    """Return what the page says of a defect; a visitor is not told more of the server than its kind."""
    return _box("error", "Something broke on the server", f"{kind}; its log has the details.")


def going(snapshot: Snapshot) -> str:
    """Return what the page says while a run goes on."""
    if snapshot.ahead:
        line = "One run is" if snapshot.ahead == 1 else f"{snapshot.ahead} runs are"
        return _box("busy", "Waiting", f"{line} ahead of yours.", bar=0.0)
    count = f"{snapshot.done} of {snapshot.count} images" if snapshot.stage in ("plain", "lml") else ""
    return _box("busy", _STAGES[snapshot.stage], count, bar=snapshot.share)


def done(finished: Finished) -> str:
    """Return what the page says of a finished run: distances or scores, what it took, and the job's notes."""
    runs, count = finished.result.runs, finished.last.count
    measured = _measured(finished)
    heads = "".join(f"<th>{escape(head)}</th>" for head in (*measured, "evaluations an image", "seconds", "strength"))
    rows = "".join(_row(title, [values[name] for values in measured.values()], runs[name]) for title, name in _ARMS)
    table = f"<table><thead><tr><th></th>{heads}</tr></thead><tbody>{rows}</tbody></table>"
    told = score_lines(finished.scores) if finished.scores is not None else []  # what the table says
    notes = [page_words(note) for note in finished.notes if "Frechet distance" not in note and note not in told]
    if not any(step["angle"] for step in finished.last.corrections):
        notes.append("LML changed nothing in this run. Choose another time grid or number of steps, or one gain.")
    lines = "".join(f"<p>{escape(note)}</p>" for note in [_distance_words(finished), *notes])
    return f'<div class="lml-box lml-done" role="status"><b>Done: {count} images each</b>{table}{lines}</div>'


_ARMS = (("plain", "plain"), ("with LML", "lml"))


def _measured(finished: Finished) -> dict[str, dict[str, str]]:
    """Return the columns of what was measured, with a cell for each run: distances, or scores of scenes."""
    if finished.scores is None:
        cells = {name: "–" if d is None else f"{d:.3f}" for name, d in finished.distances.items()}
        return {"Fréchet distance": cells}
    runs = finished.scores["runs"]
    # The whole prompt first: narrow screens show no other column of these.
    names = [name for name in ("complete", *SHOWN[:-1]) if runs["plain"][name] is not None]
    return {f"{name} right": {run: f"{values[name]:.0%}" for run, values in runs.items()} for name in names}


def _row(title: str, measured: Sequence[str], run: RunResult) -> str:
    guidance = f" + {run.guidance_evaluations} for guidance" if run.guidance_evaluations else ""
    cells = (*measured, f"{run.nfe}{guidance}", f"{run.seconds:.1f}", _strength(run))
    return f"<tr><th>{escape(title)}</th>{''.join(f'<td>{escape(cell)}</td>' for cell in cells)}</tr>"


def _strength(run: RunResult) -> str:
    if run.name == "plain":
        return "–"
    control = run.scheduler.config.control
    if control != CONSTANT:
        return f"{control} control"
    source = " (preset)" if run.scheduler.config.get("preset") else ""
    return f"gain {run.gain:g}{source}" if run.gain is not None else control


def _distance_words(finished: Finished) -> str:
    if finished.scores is not None:
        *_, last = score_lines(finished.scores)
        return last if "difference" in last else "Two images and more have an interval of the difference."
    if finished.model in SCENES:
        return "The prompt names no objects with their attributes, so nothing was scored."
    if finished.result.verdict is not None:
        return finished.result.verdict.replace("Frechet", "Fréchet")
    plain, lml = finished.distances.get("plain"), finished.distances.get("lml")
    if plain is not None and lml is not None:
        change = f"{abs(lml / plain - 1):.0%} {'lower' if lml < plain else 'higher'}" if plain > 0 else "not comparable"
        reference = "the CIFAR-10 training set" if finished.model == "embedded" else "the model's own exact samples"
        return (
            f"With LML the distance to {reference} is {change}. "
            f"Fewer than {SMALLEST_COUNT} images raise both, and a few percent are chance."
        )
    if finished.model in BUILT_IN:
        return f"A Fréchet distance is measured from {FEWEST} images on."
    return "A Fréchet distance is measured for the built-in models only."


def _box(kind: str, title: str, text: str, *, bar: float | None = None) -> str:
    role = "alert" if kind == "error" else "status"
    progress = "" if bar is None else f'<progress max="1" value="{bar:.3f}"></progress>'
    words = f" <span>{escape(text)}</span>" if text else ""
    return f'<div class="lml-box lml-{kind}" role="{role}"><b>{escape(title)}</b>{words}{progress}</div>'

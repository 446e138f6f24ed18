"""What is promised of each tiny pipeline: the list that the tests run and that the tables of docs/pipelines.md show.

    python tools/pipeline_matrix.py            # writes the tables into docs/pipelines.md
    python tools/pipeline_matrix.py --check    # fails if they are out of date

`tests/pipelines/test_matrix.py` runs every cell. One that cannot run has a reason, and the test sees that it fails for
that reason and no other.
"""

from __future__ import annotations

import argparse
import itertools
import re
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from lmlangevin.schedulers.names import SCHEDULERS
from lmlangevin.schedulers.refused import REFUSED_PIPELINES
from pipeline_audit import REVIEWED
from tiny_pipelines import KINDS

PAGE = Path(__file__).parents[1] / "docs" / "pipelines.md"

OWN = "own"
"""The scheduler that the pipeline comes with."""

PREDICTIONS = {"epsilon": "noise", "v_prediction": "v", "sample": "x0"}
"""What a scheduler can be told that a model predicts: diffusers' name, and the one in the tables."""
FLOW = "flow_prediction"

_EVERY_PREDICTION = ("ddpm", "sd15")
"""Kinds that go through all predictions with all samplers. Pipelines and predictions never meet: schedulers do."""

HALVES = ("bfloat16", "float16")


@dataclass(frozen=True)
class Reason:
    """Why a cell does not run as the others do.

    Attributes:
        text: For the page.
        error: Name of the exception's type; None where it runs all the same.
        message: What the exception's text must match.
    """

    text: str
    error: str | None = None
    message: str = ""


REASONS: dict[str, Reason] = {
    "a": Reason(
        "The model predicts noise and the sampler is for flows: `apply_lml` refuses.",
        "LMLError",
        "samples flow-matching models, and the model of this .* predicts noise; give 'ddim'",
    ),
    "b": Reason(
        "The model predicts a flow velocity and the sampler is for noise: `apply_lml` refuses.",
        "LMLError",
        "samples models that predict noise, and the model of this .* predicts a flow velocity; give 'flow-euler'",
    ),
    "c": Reason(
        "The sampler evaluates the network twice an interval: `apply_lml` refuses.",
        "LMLError",
        "it evaluates the network twice an interval; use ",
    ),
    "d": Reason(
        "The loop of `DDPMPipeline` passes a generator to every step and scales no input, which this sampler does not "
        "take or needs: `apply_lml` refuses.",
        "LMLError",
        "does not fit the loop of DDPMPipeline.*; give 'ddim'",
    ),
    "e": Reason(
        "Wan's configuration makes a flow sampler of every solver that can be one, and this one takes no flow "
        "velocity: `apply_lml` refuses.",
        "LMLError",
        "takes no flow velocity, .*; give 'flow-dpmpp-2m'",
    ),
    "f": Reason(
        "LTX gives sigmas of its own, and diffusers' `DPMSolverMultistepScheduler` takes none, with LML or without.",
        "ValueError",
        "does not support custom sigmas schedules",
    ),
    "g": Reason(
        "diffusers' `PNDMScheduler` has no such prediction, with LML or without.",
        "ValueError",
        "prediction_type given as sample must be one of `epsilon` or `v_prediction`",
    ),
    "h": Reason(
        "It runs, but `LDMPipeline` reads Euler's first sigma before it sets the timesteps, so that the first call "
        "starts from another noise level than all later ones, with LML or without.",
    ),
    "i": Reason(
        "`LDMPipeline` draws float32 noise for a network in half precision, and diffusers fails, with LML or without.",
        "RuntimeError",
        "Input type .* and bias type .* should be the same",
    ),
    "j": Reason("The scheduler has no choice of predictions: its models predict a flow velocity."),
}
"""Reasons by the letter that stands in the tables."""


@dataclass(frozen=True)
class Cell:
    """A pipeline with a sampler, a kind of prediction and a dtype.

    Attributes:
        kind: A key of `KINDS`.
        sampler: A short name of lmlangevin's, or `OWN`.
        prediction: What the scheduler is told that the model predicts, as diffusers calls it.
        dtype: Of the whole pipeline.
    """

    kind: str
    sampler: str
    prediction: str
    dtype: str = "float32"

    def __str__(self) -> str:
        return f"{self.kind}-{self.sampler}-{self.prediction}-{self.dtype}"

    @property
    def steps(self) -> int:
        """Steps to call the pipeline with, so that three are taken: from an image, a part of them is left out."""
        return 5 if "img2img" in self.kind else 3

    @property
    def reason(self) -> str | None:
        """The key of `REASONS` that applies, None for a cell that runs."""
        if self.kind == "ldm" and self.dtype in HALVES:
            return "i"
        sampler = KINDS[self.kind].sampler if self.sampler == OWN else self.sampler
        if sampler is None:
            return None
        entry, kind = SCHEDULERS[sampler], KINDS[self.kind]
        solves_both = entry.class_name in _FOR_BOTH and self.kind == "wan"
        if entry.flow != kind.flow and not solves_both:
            return "b" if kind.flow else "a"
        if self.kind == "ddpm" and sampler in ("unipc", "deis", "pndm", "euler", "heun"):
            return "d"
        if not entry.takes_lml:
            return "c"
        special = {("wan", "dpm-3"): "e", ("ltx", "flow-dpmpp-2m"): "f", ("ldm", "euler"): "h"}
        if sampler == "pndm" and self.prediction == "sample":
            return "g"
        if entry.class_name.startswith("FlowMatch") and self.prediction != FLOW:
            return "j"
        return special.get((self.kind, sampler))


_FOR_BOTH = ("DPMSolverMultistepScheduler", "UniPCMultistepScheduler", "DEISMultistepScheduler")
"""Solvers that become a flow's where the configuration says so, as Wan's does."""

SAMPLER_CELLS = [
    Cell(name, sampler, prediction)
    for name, kind in KINDS.items()
    for prediction in (PREDICTIONS if name in _EVERY_PREDICTION else (kind.prediction_type,))
    for sampler in (OWN, *SCHEDULERS)
]
"""Every pipeline with every sampler, float32."""

PREDICTION_CELLS = [
    Cell(name, OWN, prediction)
    for name, kind in KINDS.items()
    if name not in _EVERY_PREDICTION
    for prediction in PREDICTIONS
    if prediction != kind.prediction_type
]
"""The pipelines' own schedulers, told that their model predicts something else."""

DTYPE_CELLS = [Cell(name, OWN, kind.prediction_type, dtype) for name, kind in KINDS.items() for dtype in HALVES]
"""The pipelines' own schedulers in half precision."""

CELLS = [*SAMPLER_CELLS, *PREDICTION_CELLS, *DTYPE_CELLS]


@dataclass(frozen=True)
class Default:
    """What `apply_lml(pipe)` gives a pipeline.

    Attributes:
        scheduler: The plain class of the new scheduler.
        control: Its control.
        gain: Its gain.
        notice: What the log says, in part.
    """

    scheduler: str
    control: str
    gain: float
    notice: str


_HALF = "gets half of its scheduler's"
_ZERO = "on its time grid is 0, so the pipeline samples as before"
_NONE = "No gain was measured"

DEFAULTS: dict[str, Default] = {
    "ddpm": Default("DDIMScheduler", "constant", 1.0, "takes its place"),
    "ldm": Default("DDIMScheduler", "constant", 0.5, _HALF),
    **dict.fromkeys(
        (name for name, kind in KINDS.items() if kind.sampler == "pndm"),
        Default("PNDMScheduler", "constant", -0.025, _HALF),
    ),
    "sd21": Default("DDIMScheduler", "constant", 0.5, _HALF),
    **dict.fromkeys(("sdxl", "sdxl-img2img", "sdxl-canny"), Default("EulerDiscreteScheduler", "constant", 0.5, _HALF)),
    "pixart": Default("DPMSolverMultistepScheduler", "constant", 0.0, _ZERO),
    **dict.fromkeys(("sd3", "flux", "ltx"), Default("FlowMatchEulerDiscreteScheduler", "constant", 0.35, _HALF)),
    "wan": Default("UniPCMultistepScheduler", "constant", 0.0, _NONE),
}
"""By kind of pipeline. The gains are those of the presets, version 1."""


# The page -----------------------------------------------------------------------------------------------------------


def _row(columns: Iterable[str]) -> str:
    return f"| {' | '.join(columns)} |"


def _table(head: list[str], rows: Iterable[Iterable[str]]) -> str:
    return "\n".join([_row(head), _row(["---"] * len(head)), *map(_row, rows)])


def _mark(cell: Cell) -> str:
    return "✓" if cell.reason is None else cell.reason


def _grouped(cells: list[Cell]) -> Iterable[tuple[tuple[str, str], list[Cell]]]:
    return ((key, list(group)) for key, group in itertools.groupby(cells, lambda cell: (cell.kind, cell.prediction)))


def samplers_table() -> str:
    """Every pipeline with every sampler."""
    names = {**PREDICTIONS, FLOW: "flow velocity"}
    rows = ([KINDS[kind].title, names[p], *map(_mark, cells)] for (kind, p), cells in _grouped(SAMPLER_CELLS))
    return _table(["pipeline", "predicts", OWN, *SCHEDULERS], rows)


def predictions_table() -> str:
    """The own schedulers with other predictions, and in half precision."""
    rows = []
    for name, kind in KINDS.items():
        told = [Cell(name, OWN, prediction) for prediction in PREDICTIONS]
        halves = [Cell(name, OWN, kind.prediction_type, dtype) for dtype in HALVES]
        rows.append([kind.title, scheduler_class(name), *map(_mark, told), *map(_mark, halves)])
    return _table(["pipeline", "its scheduler", *PREDICTIONS.values(), *HALVES], rows)


def scheduler_class(name: str) -> str:
    """Return the class of a kind's own scheduler, as code."""
    sampler = KINDS[name].sampler
    return f"`{SCHEDULERS[sampler].class_name if sampler else 'DDPMScheduler'}`"


def reasons_list() -> str:
    """What the letters mean."""
    return "\n".join(f"- **{letter}**: {reason.text}" for letter, reason in REASONS.items())


def defaults_table() -> str:
    """What `apply_lml(pipe)` gives."""
    rows = []
    for name, kind in KINDS.items():
        default = DEFAULTS[name]
        made = (f"`{default.scheduler}`", default.control, f"{default.gain:g}")
        rows.append([kind.title, scheduler_class(name), *made])
    return _table(["pipeline", "comes with", "gets the LML version of", "control", "gain"], rows)


def refused_table() -> str:
    """The pipelines that are refused."""
    return _table(["refused", "because"], _by_reason(REFUSED_PIPELINES))


def reviewed_table() -> str:
    """The unusual pipelines that are not."""
    return _table(["safe", "because"], _by_reason(REVIEWED))


def _by_reason(table: dict[str, str]) -> list[list[str]]:
    groups: dict[str, list[str]] = {}
    for name, reason in sorted(table.items()):
        groups.setdefault(reason, []).append(f"`{name}`")
    return [[", ".join(names), reason] for reason, names in groups.items()]


TABLES = {
    "samplers": samplers_table,
    "predictions": predictions_table,
    "reasons": reasons_list,
    "defaults": defaults_table,
    "refused": refused_table,
    "reviewed": reviewed_table,
}


def render(text: str) -> str:
    """Return the page with its tables made anew.

    Args:
        text: The page; each table stands between `<!-- table:NAME -->` and `<!-- /table:NAME -->`.
    """
    for name, table in TABLES.items():
        pattern = rf"(<!-- table:{name} -->\n).*?(<!-- /table:{name} -->)"
        body = f"{table()}\n"
        text = re.sub(pattern, lambda found, body=body: f"{found[1]}{body}{found[2]}", text, flags=re.S)
    return text


def main() -> int:
    """Write the tables, or with --check say that they are out of date."""
    parser = argparse.ArgumentParser(description="Write the tables of docs/pipelines.md.")
    parser.add_argument("--check", action="store_true", help="write nothing, and fail if they are out of date")
    check = parser.parse_args().check
    text = PAGE.read_text(encoding="utf-8")
    made = render(text)
    if made == text:
        return 0
    print(f"{PAGE.name}: {'out of date' if check else 'updated'}")
    if not check:
        PAGE.write_text(made, encoding="utf-8")
    return int(check)


if __name__ == "__main__":
    sys.exit(main())

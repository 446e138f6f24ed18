"""`reproduce`: check, generate, measure and write, cell by cell; what is finished is never done again."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from lmlangevin.core.errors import LMLError
from lmlangevin.files import write_text
from lmlangevin.generation.processes import Processes, join_processes
from lmlangevin.reproduce import data
from lmlangevin.reproduce.measure import Measure, make_measure
from lmlangevin.reproduce.needs import check, refusal
from lmlangevin.reproduce.plan import Cell, Inputs, Plan, ReproduceConfig, make_plan
from lmlangevin.reproduce.record import COMPARE, CURVES, JOBS, PROMPTS, RESULT, TABLE, Record
from lmlangevin.reproduce.table import cell_line, render

if TYPE_CHECKING:
    from lmlangevin.evaluation.compbench.blip import Blip
    from lmlangevin.evaluation.compbench.chunks import Chunker

Progress: TypeAlias = Callable[[str, int, int], None]
"""Called as (what, done, in all) while images are made and measured."""

_SHOWN_NFE = 8
"""The comparison of which cell is shown: the first sampler's, at the number of evaluations that is nearest to this."""


@dataclass(frozen=True)
class ReproduceResult:
    """What a run has made.

    Attributes:
        out: Its folder.
        content: What `result.json` holds.
        table: The table's file.
        pictures: The curves, and the comparison of one cell where one has arms.
    """

    out: Path
    content: dict[str, Any]
    table: Path
    pictures: tuple[Path, ...]


def reproduce(
    config: ReproduceConfig,
    *,
    blip: Blip | None = None,
    chunker: Chunker | None = None,
    tell: Callable[[str], None] | None = None,
    progress: Progress | None = None,
) -> ReproduceResult:
    """Run a preset, or what is left of it.

    Writes `OUT/jobs/` (one folder of `lml generate` for each cell), `OUT/result.json` after every cell, and at the end
    `OUT/table.md`, `OUT/curves.png` and `OUT/compare.png`. Killed at any moment, it goes on with `resume`: a cell that
    is in the result is not touched again, and one that is not goes on where its job was. Where a launcher has started
    several processes, each calls this and makes its share of the images; the first measures.

    Args:
        config: What to run.
        blip: A BLIP in place of the one that is named by the config.
        chunker: What cuts prompts into noun chunks, in place of spaCy.
        tell: Given a line for each measured cell.
        progress: Told of images that are made and measured.

    Returns:
        What was made.

    Raises:
        LMLError: Something that is needed is missing; the sentence names all of it, and nothing was written.
    """
    plan = make_plan(config)
    processes = join_processes()

    def prepare() -> tuple[Record, Measure]:
        missing = refusal(plan, check(plan, blip=blip, chunker=chunker))
        if missing is not None:
            raise LMLError(missing)
        measure = make_measure(plan, blip=blip, chunker=chunker)
        return Record(plan, _describe(plan)), measure

    opened = _by_first(processes, prepare)
    inputs = processes.by_first(lambda: _write_inputs(plan, opened))
    done = processes.by_first(lambda: set(opened[0].cells) if opened else set())
    for place, cell in enumerate(plan.cells):
        if cell.key not in done:
            _run_cell(plan, cell, inputs[cell.category], processes, opened, progress)
            if tell is not None and opened is not None:
                tell(f"{cell_line(opened[0].content, cell.key)} ({place + 1} of {len(plan.cells)})")
    return processes.by_first(lambda: _finish(plan, opened))


_Opened: TypeAlias = "tuple[Record, Measure] | None"
"""The record and the measure in the first process; None in the others."""


def _by_first(processes: Processes, prepare: Callable[[], tuple[Record, Measure]]) -> _Opened:
    kept: list[tuple[Record, Measure]] = []
    # What is returned has to pickle, and neither does.
    processes.by_first(lambda: kept.append(prepare()))
    return kept[0] if kept else None


def _run_cell(
    plan: Plan, cell: Cell, inputs: Inputs, processes: Processes, opened: _Opened, progress: Progress | None
) -> None:
    from lmlangevin.generation import generate

    job = plan.job(cell, inputs)
    name = cell.key.replace("|", " ")

    def told(what: str, count: int, total: int) -> None:
        if progress is not None:
            progress(f"{name} {what}", count, total)

    made = generate(job, told)

    def measure() -> None:
        assert opened is not None  # by_first runs this where it is not
        record, measure = opened
        record.add(cell, made, measure.measure(cell, Path(job.out), told))

    processes.by_first(measure)


def _describe(plan: Plan) -> dict[str, Any]:
    """Return what tells the data of a run from others: hashes of prompts, pictures and the reference."""
    found: dict[str, Any] = {}
    if plan.config.dry_run:
        return found
    for category in plan.preset.categories or ("",) if plan.preset.prompts else ():
        found[f"prompts {category}".strip()] = data.find_prompts(plan, category).sha256
    if plan.preset.reference:
        found["reference"] = data.fingerprint(data.find_reference(plan))
    return found


def _write_inputs(plan: Plan, opened: _Opened) -> dict[str, Inputs]:
    """Write the result file, which says from here on what the folder holds, and the files that jobs are given."""
    assert opened is not None
    opened[0].save()
    preset, found = plan.preset, {}
    for category in preset.categories or ("",):
        if not preset.prompts:
            found[category] = Inputs()
            continue
        prompts = plan.out / PROMPTS / f"{category or 'prompts'}.txt"
        write_text(prompts, "".join(f"{text}\n" for text in _prompts(plan, category)))
        control = None
        if preset.controlnet:
            control = str(_control(plan, category))
        found[category] = Inputs(str(prompts), control, plan.controlnet)
    return found


def _prompts(plan: Plan, category: str) -> tuple[str, ...]:
    if plan.config.dry_run and plan.config.data_dir is None:
        from lmlangevin.reproduce.stand_ins import stand_in_prompts

        return stand_in_prompts(plan.preset.prompt_count)
    return data.find_prompts(plan, category).texts


def _control(plan: Plan, category: str) -> Path:
    """Return what a ControlNet follows: a picture for all prompts, or a folder of one for each."""
    if plan.config.dry_run and plan.config.data_dir is None:
        from lmlangevin.reproduce.stand_ins import draw_control

        path = plan.out / PROMPTS / "control.png"
        draw_control(path, plan.preset.resolution)
        return path
    folder = plan.out / PROMPTS / f"control-{category}"
    folder.mkdir(parents=True, exist_ok=True)
    # A job takes a whole folder, and a subset of the prompts has fewer.
    for place, file in enumerate(data.find_control(plan, category)):
        shutil.copyfile(file, folder / f"{place:06d}.png")
    return folder


def _finish(plan: Plan, opened: _Opened) -> ReproduceResult:
    from lmlangevin.reproduce.figure import draw_curves

    assert opened is not None
    record = opened[0]
    record.finish()
    write_text(plan.out / TABLE, render(record.content))
    draw_curves(record.content, plan.out / CURVES)
    pictures = [plan.out / CURVES]
    # The folder of a cell that is measured may have been deleted, to make room for others.
    shown = {cell.nfe: file for cell in reversed(plan.cells) if (file := _comparison(plan, cell)).is_file()}
    if shown:
        shutil.copyfile(shown[min(shown, key=lambda nfe: abs(nfe - _SHOWN_NFE))], plan.out / COMPARE)
        pictures.append(plan.out / COMPARE)
    return ReproduceResult(plan.out, record.content, plan.out / TABLE, tuple(pictures))


def _comparison(plan: Plan, cell: Cell) -> Path:
    return plan.out / JOBS / cell.folder / "compare.png"


__all__ = ["RESULT", "ReproduceConfig", "ReproduceResult", "reproduce"]

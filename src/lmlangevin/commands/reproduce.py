"""`lml reproduce`."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from lmlangevin.commands.generate import MISTAKE, interruptible
from lmlangevin.commands.progress import progress_bars

if TYPE_CHECKING:
    from lmlangevin.reproduce.needs import Need

_FOLDER = click.Path(path_type=Path, file_okay=False)
_FILE = click.Path(path_type=Path, dir_okay=False)
_MARKS = {"there": "✓", "missing": "✗", "fact": " "}


@click.command(context_settings={"show_default": True})
@click.argument("name", required=False)
@click.option("--model", help="A model that comes with the package, or a hub id.")
@click.option("--model-dir", type=_FOLDER, help="Folder of a pipeline, in place of --model.")
@click.option("--data-dir", type=_FOLDER, help="Folder of the reference, the prompts and the pictures.")
@click.option("--controlnet", help="Folder or hub id of a ControlNet, for a model without one.")
@click.option("--out", type=_FOLDER, help="Folder to write to.  [default: reproduce/NAME]")
@click.option("--num-images", type=int, help="Images of each arm and category.  [default: the preset's]")
@click.option("--nfe", type=int, multiple=True, help="Network evaluations; can be given several times.")
@click.option("--scheduler", "schedulers", multiple=True, help="One of the preset's samplers; several times for more.")
@click.option("--device", default="cpu", help="cpu, cuda, cuda:N or mps.")
@click.option("--dtype", help="Of the network: float32, bfloat16 or float16.  [default: the preset's]")
@click.option("--batch-size", type=int, help="Images sampled at once.  [default: the preset's]")
@click.option("--inception-weights", type=_FILE, help="File of Inception's weights.  [default: torch's cache]")
@click.option("--blip-model", help="Folder or hub id of a BLIP for VQA.  [default: Salesforce/blip-vqa-base]")
@click.option("--check", is_flag=True, help="Say what is needed and what of it is there, and stop.")
@click.option("--dry-run", is_flag=True, help="Run a handful of images through everything; no number means anything.")
@click.option("--resume", is_flag=True, help="Go on with an earlier run in the same folder, or start one.")
@click.option("--overwrite", is_flag=True, help="Replace an earlier run in the same folder.")
@click.option("--result", type=_FILE, help="Write the result to this .json file, too.")
def reproduce(name: str | None, check: bool, result: Path | None, **options: Any) -> None:
    """Run an experiment of the paper from a preset: check, generate, measure, and write the table.

    Without NAME the presets are listed. Columns are the plain sampler, LML, and the release's formula, whose rounding
    is all that it does at kappa = 0.
    """
    if name is None:
        _list()
        return
    from lmlangevin.core.errors import LMLError
    from lmlangevin.reproduce.plan import ReproduceConfig

    if result is not None and (result.suffix != ".json" or not result.absolute().parent.is_dir()):
        raise LMLError(f"result={str(result)!r}: give a name that ends in .json, in a folder that is there.")
    config = ReproduceConfig(name, **options)
    if check:
        _check(config)
    else:
        _run(config, result)


def _list() -> None:
    from lmlangevin.reproduce.preset import load_preset, preset_names

    for name in preset_names():
        preset = load_preset(name)
        click.echo(f"{name:22} {preset.title}")
        click.echo(f"{'':22} {preset.model}, {preset.published}; built in: {', '.join(preset.built_in) or 'none'}")
    click.echo("\nlml reproduce NAME --check ... says what a preset needs.")


def _check(config: Any) -> None:
    from lmlangevin.reproduce.needs import check, refusal
    from lmlangevin.reproduce.plan import make_plan

    plan = make_plan(config)
    preset = plan.preset
    click.echo(f"{preset.title}. {preset.paper}")
    samplers = f"three arms: {', '.join(preset.arms) or 'none'}; plain: {', '.join(preset.baselines) or 'none'}"
    click.echo(f"{samplers}; evaluations: {', '.join(map(str, preset.nfe))}; {preset.num_images:,} images an arm.\n")
    needs = check(plan)
    for need in needs:
        click.echo(_line(need))
    for words in preset.assumed:
        click.echo(f"Assumed: {words}")
    if refusal(plan, needs) is not None:
        raise click.exceptions.Exit(MISTAKE)


def _line(need: Need) -> str:
    remedy = f"; {need.remedy}" if need.remedy else ""
    return f"{_MARKS[need.state]} {need.what}: {need.detail}{remedy}"


def _run(config: Any, result: Path | None) -> None:
    from lmlangevin.files import write_text
    from lmlangevin.generation.processes import AgreedError, join_processes
    from lmlangevin.reproduce.record import dump
    from lmlangevin.reproduce.runner import reproduce as run

    with interruptible():
        processes = join_processes()
        try:
            with progress_bars(unit="images") if processes.first else contextlib.nullcontext() as progress:
                done = run(config, tell=lambda line: click.echo(line, err=True), progress=progress)
        except AgreedError:
            if processes.first:
                raise
            raise click.exceptions.Exit(MISTAKE) from None  # the first tells it
    if not processes.first:
        return
    if result is not None:
        write_text(result, dump(done.content))
    click.echo(done.table.read_text(encoding="utf-8"))
    for path in (done.table, *done.pictures, *([] if result is None else [result])):
        click.echo(f"Written: {path}")

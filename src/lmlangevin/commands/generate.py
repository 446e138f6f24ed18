"""`lml generate`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from lmlangevin.commands.progress import progress_bars

if TYPE_CHECKING:
    from lmlangevin.generation.job import GenerateResult, RunResult

# Written out, because the tables that hold them import diffusers; a test keeps them equal.
SCHEDULER_NAMES = "ddim, dpmpp-1, dpmpp-2m, dpmpp-3m, dpm-3, sde-dpmpp-2m, unipc, deis, pndm, euler, heun, flow-euler"


@click.command(context_settings={"show_default": True})
@click.option("--model", default="embedded", help="embedded, analytic-cifar10, a pipeline's folder, or a hub id.")
@click.option("--scheduler", default="ddim", help=f"One of {SCHEDULER_NAMES}.")
@click.option(
    "--steps", type=int, default=8, help="Steps of the sampler: one network evaluation each (pndm: one more)."
)
@click.option("--num-images", type=int, default=64, help="Number of images.")
@click.option("--batch-size", type=int, default=32, help="Images sampled at once; changes speed, not the images.")
@click.option("--seed", type=int, default=0, help="Image k starts from seed + k.")
@click.option("--timestep-spacing", help="Time grid: leading, trailing or linspace.  [default: the scheduler's]")
@click.option("--sigmas", help="Time grid by noise level instead: karras, exponential, beta or lu.")
@click.option("--flow-shift", type=float, help="Shift of a flow-matching grid.  [default: 3, or the pipeline's]")
@click.option("--gain", type=float, help="Strength of LML; 0 is none.  [default: the measured preset]")
@click.option("--kappa", type=float, help="The paper's kappa in [-1, 1], in place of --gain.")
@click.option("--damping", type=float, help="The paper's damping, relative, with --kappa.")
@click.option("--placement", default="score", help="Where LML acts: score, or reference for the paper's.")
@click.option("--control", default="constant", help="Controller of the damping.")
@click.option("--rank", type=int, default=1, help="Number of previous predictions that LML uses.")
@click.option("--no-lml", is_flag=True, help="Run the plain sampler.")
@click.option("--compare", is_flag=True, help="Run plain and LML on the same seeds and draw one picture.")
@click.option("--prompt", help="Text, for text-to-image models.")
@click.option("--guidance-scale", type=float, help="Strength of guidance.  [default: the pipeline's]")
@click.option("--dtype", default="float32", help="Of the network: float32, bfloat16 or float16.")
@click.option("--device", default="cpu", help="cpu, cuda, cuda:N or mps.")
@click.option("--overwrite", is_flag=True, help="Replace an earlier job in the same folder.")
@click.option("--out", required=True, type=click.Path(path_type=Path), help="Folder to write to.")
def generate(no_lml: bool, **options: Any) -> None:
    """Generate images, a grid picture and a manifest that says how to make them again."""
    from lmlangevin.generation import GenerateConfig
    from lmlangevin.generation import generate as run_job

    config = GenerateConfig(lml=not no_lml, **options)
    with progress_bars() as progress:
        result = run_job(config, progress)
    _report(result, config.num_images)


def _report(result: GenerateResult, count: int) -> None:
    for name, run in result.runs.items():
        click.echo(_run_line(name, run, count))
    for note in result.notes:
        click.echo(note)
    if result.verdict is not None:
        click.echo(result.verdict)
    label = "Comparison" if "compare" in result.pictures else "Grid"
    click.echo(f"{label}: {result.pictures.get('compare', result.pictures['grid'])}")
    click.echo(f"Manifest: {result.manifest}")


def _run_line(name: str, run: RunResult, count: int) -> str:
    guidance = f" and {run.guidance_evaluations} for guidance" if run.guidance_evaluations else ""
    speed = f"{run.seconds:.1f} s, {count / run.seconds:.1f} images/s" if run.seconds else "0 s"
    gain = "" if run.gain is None else f", gain {run.gain:g}"
    preset = run.scheduler.config.get("preset")
    source = f" (preset {preset})" if preset else ""
    noun = "image" if count == 1 else "images"
    return f"{name}: {count} {noun}, {run.nfe} network evaluations each{guidance}{gain}{source}, {speed}"

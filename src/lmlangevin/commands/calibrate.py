"""`lml calibrate`."""

from __future__ import annotations

import shlex
from typing import Any

import click

from lmlangevin.commands.progress import progress_bars


@click.command(context_settings={"show_default": True})
@click.option(
    "--model",
    default="embedded",
    help="embedded, analytic-cifar10, scenes or scenes-flow (text to image), a pipeline's folder, or a hub id.",
)
@click.option("--scheduler", default="euler", help="euler or flow-euler: grid and gains; another sampler: its gains.")
@click.option("--steps", type=int, help="Steps of the sampler.  [default: 8]")
@click.option("--nfe", type=int, help="Network evaluations of each image, in place of --steps.")
@click.option("--rank", type=int, default=2, help="Gains a step: previous predictions that it uses.")
@click.option("--num-seeds", type=int, default=64, help="Seeds to fit on, a quarter of them held out.")
@click.option("--seed", type=int, default=1_000_000_000, help="The first seed; keep them apart from those of images.")
@click.option("--teacher-steps", type=int, default=60, help="Steps of the fine solution.")
@click.option("--iterations", type=int, default=30, help="The most iterations of the fit.")
@click.option("--starts", type=int, default=1, help="Schedules to fit, each from another start; the best is kept.")
@click.option("--prior", type=float, default=1e-3, help="Pull towards the schedule that the fit starts from.")
@click.option("--timestep-spacing", help="Time grid of a sampler that keeps its own.")
@click.option("--sigmas", help="The same by noise level.")
@click.option("--warm-start", help="A calibration to start from, of any number of steps.")
@click.option("--prompt", help="Text, for models that take one.  [default: eight examples, for scenes and scenes-flow]")
@click.option("--prompt-file", help="One prompt a line, in place of --prompt.")
@click.option("--guidance-scale", type=float, help="Strength of guidance.  [default: the pipeline's]")
@click.option("--batch-size", type=int, default=32, help="Samples at once.")
@click.option("--dtype", default="float32", help="Of the network: float32, bfloat16 or float16.")
@click.option("--device", default="cpu", help="cpu, cuda, cuda:N or mps.")
@click.option("--overwrite", is_flag=True, help="Replace the file, and what an interrupted job left.")
@click.option("--resume", is_flag=True, help="Go on with an interrupted job, or start one.")
@click.option("--estimate", is_flag=True, help="Say what it would cost, and stop.")
@click.option("--out", required=True, help="The JSON file to write.")
def calibrate(estimate: bool, **options: Any) -> None:
    """Fit the time grid and the gains of a few-step sampler to a fine solution of your model."""
    from lmlangevin.calibration import CalibrateConfig, Calibration
    from lmlangevin.commands.generate import interruptible
    from lmlangevin.generation.scene_scores import unknown_word_note

    with interruptible():
        job = Calibration(CalibrateConfig(**options))
        note = unknown_word_note(job.config.model, job.config.prompts() or ())
        if note is not None:
            click.echo(note)
        effort = job.effort
        doubled = ", each doubled by guidance" if job.guided else ""
        click.echo(
            f"At most {effort.total:,} network evaluations{doubled}: {effort.teacher:,} for the teacher, "
            f"{effort.fit:,} for the fit, which ends sooner as a rule."
        )
        if estimate:
            return
        with progress_bars("", "evaluations") as progress:
            result = job.run(progress)
    before, after = result.fit.history[0], result.fit.history[result.fit.best]
    click.echo(
        f"RMSE to the fine solution: fitted seeds {before.fit_error:.4f} -> {after.fit_error:.4f}, "
        f"held-out seeds {before.heldout_error:.4f} -> {after.heldout_error:.4f} "
        f"({len(result.fit.history) - 1} iterations, {result.fit.evaluations:,} evaluations; {result.fit.stopped})."
    )
    click.echo(f"Calibration: {result.path}")
    words = ["--model", job.config.model, "--steps", job.config.steps]
    words += ["--control", "calibrated", "--calibration", result.path]
    own_grid = result.file.schedule.sigmas is not None
    for option, name in (
        *(() if own_grid else (("--timestep-spacing", "timestep_spacing"), ("--sigmas", "sigmas"))),
        ("--prompt", "prompt"),
        ("--prompt-file", "prompt_file"),
        ("--guidance-scale", "guidance_scale"),
    ):
        if options[name] is not None:
            words += [option, options[name]]
    click.echo(f"Use it: lml generate {' '.join(shlex.quote(str(word)) for word in words)} --out DIR")

"""The command `lml`.

Commands import what they need when they run, so that `lml --help` answers at once. A user's mistake is one line on
stderr and exit code 2, never a traceback.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

try:
    import click
except ModuleNotFoundError as error:  # the core installs without the command's packages
    raise SystemExit("lml needs packages that are not installed: pip install 'lmlangevin[cli]'") from error

from lmlangevin._version import __version__

if TYPE_CHECKING:
    from lmlangevin.generation.job import GenerateResult, RunResult

USER_MISTAKE = 2
INTERRUPTED = 130

# Written out, because the tables that hold them import diffusers; a test keeps them equal.
SCHEDULER_NAMES = "ddim, dpmpp-1, dpmpp-2m, dpmpp-3m, dpm-3, unipc, deis, pndm, euler, flow-euler"


class OneLineErrors(click.Group):
    """A command group that tells a user's mistake in one line."""

    def main(
        self,
        args: Sequence[str] | None = None,
        prog_name: str | None = None,
        complete_var: str | None = None,
        standalone_mode: bool = True,
        **extra: Any,
    ) -> Any:
        """Run the command, see `click.Command.main`."""
        if not standalone_mode:
            return super().main(args, prog_name, complete_var, standalone_mode=False, **extra)
        try:
            code = super().main(args, prog_name, complete_var, standalone_mode=False, **extra)
        except click.exceptions.Abort:
            _fail("interrupted; give --overwrite to run the job again in the same folder.", INTERRUPTED)
        except click.ClickException as error:
            path = error.ctx.command_path if isinstance(error, click.UsageError) and error.ctx else "lml"
            _fail(f"{error.format_message().rstrip('.')}; see '{path} --help'.")
        except ImportError as error:
            _fail(f"{error}; run pip install 'lmlangevin[cli]'.")
        except ValueError as error:
            # Imported here: at the top it would import torch for `lml --help`.
            from lmlangevin.core.errors import LMLError

            if not isinstance(error, LMLError):
                raise
            _fail(str(error))
        else:
            sys.exit(code if isinstance(code, int) else 0)


def _fail(message: str, code: int = USER_MISTAKE) -> None:
    click.echo(f"lml: {' '.join(message.split())}", err=True)
    sys.exit(code)


@click.group(
    "lml", cls=OneLineErrors, invoke_without_command=True, context_settings={"help_option_names": ["-h", "--help"]}
)
@click.version_option(__version__, prog_name="lml")
@click.pass_context
def cli(context: click.Context) -> None:
    r"""Diffusion sampling with the Levenberg-Marquardt-Langevin (LML) correction.

    \b
    lml generate --compare --out demo    plain and corrected images on the same seeds
    lml info                             schedulers, gains, models, versions
    """
    if context.invoked_subcommand is None:
        click.echo(context.get_help())


@cli.command(context_settings={"show_default": True})
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
    with _progress() as progress:
        result = run_job(config, progress)
    _report(result, config.num_images)


@contextlib.contextmanager
def _progress() -> Iterator[Callable[[str, int, int], None] | None]:
    """Show a bar a run on stderr, if a person is looking."""
    if not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    columns = (TextColumn("{task.description:>7}"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, TimeElapsedColumn(), TimeRemainingColumn(), console=Console(stderr=True)) as bars:
        tasks: dict[str, Any] = {}

        def update(run: str, done: int, count: int) -> None:
            if run not in tasks:
                tasks[run] = bars.add_task(run, total=count)
            bars.update(tasks[run], completed=done)

        yield update


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


@cli.command()
def info() -> None:
    """List schedulers with their time grids and gains, the built-in models, and versions."""
    from rich.console import Console

    from lmlangevin.generation.info import model_table, scheduler_table, version_line

    # Away from a terminal rich would break the tables at 80 columns.
    console = Console(width=None if sys.stdout.isatty() else 150)
    for table in (scheduler_table(), model_table()):
        console.print(table)
    console.print(version_line(), highlight=False)


def main() -> None:
    """Run `lml`."""
    cli(prog_name="lml")


if __name__ == "__main__":
    main()

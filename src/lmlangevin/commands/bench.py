"""`lml bench`."""

from __future__ import annotations

import os
import shlex
from pathlib import Path

import click

from lmlangevin.commands.controllers import controller_option, import_controller
from lmlangevin.commands.progress import progress_bars


@click.command(context_settings={"show_default": True})
@click.option("--suite", default="quick", help="quick, paper, control, calibrated, or the path of a TOML file.")
@click.option("--part", "parts", multiple=True, help="Run this part alone; can be given several times.")
@click.option(
    "--out",
    default=Path("benchmarks/results"),
    type=click.Path(path_type=Path, file_okay=False),
    help="Folder of the result files SUITE-PART.json.",
)
@click.option("--page", type=click.Path(path_type=Path, dir_okay=False), help="Write tables and figures to this page.")
@controller_option
@click.option("--estimate", is_flag=True, help="Say what is missing and how long it takes, and stop.")
def bench(
    suite: str, parts: tuple[str, ...], out: Path, page: Path | None, controller: str | None, estimate: bool
) -> None:
    """Measure samplers by a declared suite; only what the result files do not hold yet is run."""
    from lmlangevin.bench import runner
    from lmlangevin.bench.suite import IDENTITY, load_suite

    import_controller(controller)
    chosen = load_suite(suite)
    command = " ".join(["lml bench --suite", shlex.quote(suite), *(f"--part {name}" for name in parts)])
    runs = runner.plan(chosen, list(parts), out, _cache(), command)
    for part in runner.left_out(chosen, list(parts)):
        click.echo(f"{part.name}: left out. {part.absent}", err=True)
    total = 0.0
    for run in runs:
        cells, evaluations, seconds = runner.estimate(run)
        total += seconds
        what = f"{cells} cells, {evaluations / 1e6:.2f} million evaluations, about {_duration(seconds)}"
        click.echo(f"{run.part.name}: {what if cells else 'nothing missing'}", err=True)
    click.echo(f"{chosen.title}: about {_duration(total)} in all.", err=True)
    if estimate:
        return
    if not parts or IDENTITY in parts:
        runner.run_identity(chosen, out, command)
    with progress_bars() as progress:
        for run in runs:
            run.run(progress)
    from lmlangevin.bench.summary import summary

    click.echo(summary(chosen, out))
    if page is not None:
        from lmlangevin.bench.page import write_page

        click.echo(f"Page: {write_page(chosen, out, page)}")


def _cache() -> Path:
    """Return the folder for converged solutions of networks."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "lmlangevin" / "bench"


def _duration(seconds: float) -> str:
    minutes = seconds / 60
    if minutes < 1:
        return f"{seconds:.0f} s"
    return f"{minutes:.0f} min" if minutes < 90 else f"{minutes / 60:.1f} h"

"""`lml info`."""

from __future__ import annotations

import sys

import click


@click.command()
def info() -> None:
    """List schedulers with their time grids and gains, the built-in models and calibrations, and versions."""
    from rich.console import Console

    from lmlangevin.generation.info import calibration_line, model_table, scheduler_table, version_line

    # Away from a terminal rich would break the tables at 80 columns.
    console = Console(width=None if sys.stdout.isatty() else 150)
    for table in (scheduler_table(), model_table()):
        console.print(table)
    console.print(calibration_line(), highlight=False)
    console.print(version_line(), highlight=False)

"""Progress bars of the commands."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any


@contextlib.contextmanager
def progress_bars(suffix: str = "", unit: str = "") -> Iterator[Callable[[str, int, int], None] | None]:
    """Show a bar for each name that is reported on stderr; yield None where no person is looking.

    Args:
        suffix: Stands behind each name, such as `(process 1 of 3)`.
        unit: What is counted, such as `images`, to show its speed; empty shows none.
    """
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

    columns = (
        TextColumn("{task.description:>7}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[speed]}"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True)) as bars:
        tasks: dict[str, tuple[Any, int, float]] = {}

        def update(run: str, done: int, count: int) -> None:
            if run not in tasks:
                task = bars.add_task(f"{run} {suffix}".rstrip(), total=count, completed=done, speed="")
                tasks[run] = task, done, time.monotonic()
                return
            task, before, began = tasks[run]
            seconds = time.monotonic() - began
            # What was there at the first report was not made now.
            speed = f"{(done - before) / seconds:.1f} {unit}/s" if unit and seconds > 0 and done > before else ""
            bars.update(task, completed=done, speed=speed)

        yield update

"""`lml plot`."""

from __future__ import annotations

import re
from pathlib import Path

import click

MOST_SEEDS = 1000
_SEEDS = re.compile(r"(\d{1,10})(?:-(\d{1,10}))?")


class Seeds(click.ParamType):
    """Seeds as people write them: `0,5,7-9`."""

    name = "list"

    def convert(
        self, value: str | tuple[int, ...], param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[int, ...]:
        """Return the seeds in the order in which they were written."""
        if not isinstance(value, str):
            return value
        found: list[int] = []
        for word in value.split(","):
            match = _SEEDS.fullmatch(word.strip())
            first, last = (int(match[1]), int(match[2] or match[1])) if match else (1, 0)
            if not 0 <= last - first < MOST_SEEDS:
                self.fail(f"{value!r} is no list of seeds; give one such as 0,5,7-9, of {MOST_SEEDS} at most", param)
            found += range(first, last + 1)
        return tuple(found)


@click.command(context_settings={"show_default": True})
@click.argument("manifests", nargs=-1, required=True, metavar="MANIFEST...")
@click.option(
    "--out", default=Path("plots"), type=click.Path(path_type=Path, file_okay=False), help="Folder to write to."
)
@click.option("--seeds", type=Seeds(), help="Seeds to show, such as 0,5,7-9.  [default: the first --columns ones]")
@click.option("--columns", type=click.IntRange(1, 100), default=10, help="Images a row.")
@click.option("--scale", type=float, default=4.0, help="Factor of the differences between LML and plain images.")
def plot(manifests: tuple[str, ...], out: Path, seeds: tuple[int, ...] | None, columns: int, scale: float) -> None:
    """Draw images of equal seeds, their differences, and quality over evaluations.

    A MANIFEST is a folder or manifest of lml generate, or a result file of lml bench, lml reproduce or lml fid --out.
    """
    from lmlangevin.plot import plot as draw

    result = draw(manifests, out=out, seeds=seeds, columns=columns, scale=scale)
    for name, path in result.pictures.items():
        click.echo(f"{name.capitalize()}: {path}")
    for note in result.notes:
        click.echo(note)

"""`lml fid`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from lmlangevin.commands.progress import progress_bars

if TYPE_CHECKING:
    from lmlangevin.evaluation.result import FidResult

# Written out, because the table that holds them imports torch; a test keeps them equal.
PROTOCOL_NAMES = "embedded-cifar10, scenes, tf-fid, pytorch-fid, lml-coco"

_FILE = click.Path(dir_okay=False, path_type=Path)


@click.command(context_settings={"show_default": True})
@click.argument("generated")
@click.argument("reference")
@click.option("--protocol", default="embedded-cifar10", help=f"One of {PROTOCOL_NAMES}, or lml-coco@N for N images.")
@click.option("--run", help="Which run of GENERATED's manifest: plain, lml or images.")
@click.option("--blocks", type=int, help="Also measure this many disjoint blocks of the images: 3 or more say most.")
@click.option("--batch-size", type=int, default=50, help="Images read at once; changes speed and memory.")
@click.option("--device", default="cpu", help="cpu, cuda, cuda:N or mps.")
@click.option("--inception-weights", type=_FILE, help="File of Inception's weights.  [default: downloaded once]")
@click.option("--reference-n", type=int, help="Images behind a REFERENCE .npz that does not record them.")
@click.option("--assume-protocol", is_flag=True, help="Take an .npz that does not name its protocol for --protocol's.")
@click.option("--save-statistics", type=_FILE, help="Write the statistics of GENERATED to this .npz file.")
@click.option("--save-reference-statistics", type=_FILE, help="Write those of REFERENCE to this .npz file.")
@click.option("--out", type=_FILE, help="Write the result to this .json file.")
def fid(generated: str, reference: str, save_statistics: Path | None, out: Path | None, **options: Any) -> None:
    """Measure the Frechet distance of the GENERATED images to a REFERENCE.

    Both are a folder of images, a folder or manifest of lml generate, or an .npz file of statistics. REFERENCE may
    also be the word default: the statistics that come with protocol embedded-cifar10.
    """
    from lmlangevin.core.errors import LMLError
    from lmlangevin.evaluation.fid import fid as measure
    from lmlangevin.evaluation.result import write_result

    # Known before the work and not after it.
    if out is not None and (out.suffix != ".json" or not out.absolute().parent.is_dir()):
        raise LMLError(f"out {str(out)!r}: give a name that ends in .json, in a folder that is there")
    with progress_bars() as progress:
        result = measure(generated, reference, save_generated_statistics=save_statistics, progress=progress, **options)
    _report(result)
    for title, path in (("Statistics", save_statistics), ("Reference", options["save_reference_statistics"])):
        if path is not None:
            click.echo(f"{title}: {path}")
    if out is not None:
        write_result(result, out)
        click.echo(f"Result: {out}")


def _report(result: FidResult) -> None:
    label = result.protocol.label
    click.echo(f"{label} {result.value:.6g}")
    if result.log is not None:
        log = result.log
        # The labels say FID; a distance in other features has the same logarithms and another name.
        names = [name.replace("FID", label) for name in (log.natural_label, log.base10_label)]
        click.echo(f"{names[0]} {log.natural:.4f}, {names[1]} {log.base10:.4f}")
    run = "" if result.generated_run is None else f" of the run {result.generated_run}"
    click.echo(f"{result.generated_n} generated images{run}, {result.reference_n} in the reference")
    click.echo(f"Protocol {result.protocol.name}, extractor {result.extractor or 'not recorded'}")
    if result.blocks is not None:
        values = ", ".join(f"{value:.6g}" for value in result.blocks.values)
        click.echo(
            f"{result.blocks.n} blocks of {result.block_n} images: {result.blocks.mean:.6g} ± {result.blocks.sd:.2g} "
            f"(mean ± SD), values {values}"
        )
    for note in result.notes:
        click.echo(f"Note: {note}")

"""`lml compbench`."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from lmlangevin.commands.progress import progress_bars

if TYPE_CHECKING:
    from lmlangevin.evaluation.compbench.compare import Comparison
    from lmlangevin.evaluation.compbench.vqa import BlipScores

# Written out, because what holds them imports torch; a test keeps them equal.
CATEGORY_NAMES = "color, shape, texture, spatial, 3d_spatial, non_spatial, numeracy, complex"
METRIC_NAMES = "blip, clip, unidet-2d, unidet-3d, numeracy, 3-in-1"

_FOLDER = click.Path(path_type=Path)
_FILE = click.Path(dir_okay=False, path_type=Path)
_PROMPTS = "A clone of T2I-CompBench, or a text file of one prompt a line"


class Interrupted(click.exceptions.Abort):
    """The user has stopped the scoring; `lml` ends with this message and exit code."""

    message = "interrupted; what was scored is kept: run the same command again to go on."
    code = 130


@click.group("compbench", context_settings={"show_default": True})
def compbench() -> None:
    """T2I-CompBench: lay images out, score them, compare samplers.

    \b
    lml compbench export runs/color --run lml --save-dir DIR --model sd15 --category color --sampler lml
    lml compbench score DIR/sd15/color/plain DIR/sd15/color/lml --blip-model Salesforce/blip-vqa-base
    lml compbench compare DIR/sd15/color/plain DIR/sd15/color/lml

    BLIP-VQA here is a re-implementation, not yet compared with the official scripts on shared images.
    """  # noqa: D301  (click knows the character itself, not the two of a raw string)


@compbench.command("export")
@click.argument("job", type=_FOLDER)
@click.option("--run", help="Which run of the job: plain, lml, release or images.")
@click.option("--save-dir", type=_FOLDER, required=True, help="Folder of the layout.")
@click.option("--model", required=True, help="Name of the model's folder.")
@click.option("--category", required=True, help=f"One of {CATEGORY_NAMES}.")
@click.option("--sampler", required=True, help="Name of the sampler's folder.")
@click.option("--prompts", type=_FOLDER, help=f"{_PROMPTS}, which the job must have in this order.")
def export(
    job: Path, run: str | None, save_dir: Path, model: str, category: str, sampler: str, prompts: Path | None
) -> None:
    """Link the images of JOB, a folder of lml generate, into SAVE_DIR/MODEL/CATEGORY/SAMPLER/samples.

    A job that is not complete can be exported again when it is.
    """
    from lmlangevin.evaluation.compbench.export import export_job
    from lmlangevin.evaluation.compbench.prompts import read_prompts

    wanted = None if prompts is None else read_prompts(prompts, category)
    done = export_job(job, save_dir, model=model, category=category, sampler=sampler, run=run, prompts=wanted)
    click.echo(f"{done.added} images added, {done.there} there already, {done.missing} missing")
    _notes(done.notes)
    click.echo(f"Sampler: {done.folder}")


@compbench.command("score")
@click.argument("samples", nargs=-1, required=True, type=_FOLDER)
@click.option("--blip-model", help="Folder or hub id of a BLIP for VQA, such as Salesforce/blip-vqa-base.")
@click.option("--vqa", type=click.Choice(["blip", "scenes"]), default="blip", help="scenes: the reader of scenes.")
@click.option("--prompts", type=_FOLDER, help=f"{_PROMPTS}, which must be there and no others.")
@click.option("--unequal", is_flag=True, help="Also take prompts that have different numbers of images.")
@click.option("--batch-size", type=int, default=16, help="Images read at once; changes speed and memory.")
@click.option("--device", default="cpu", help="cpu, cuda, cuda:N or mps.")
@click.option("--out", type=_FILE, help="Write the result to this .json file.")
def score(
    samples: tuple[Path, ...],
    blip_model: str | None,
    vqa: str,
    prompts: Path | None,
    unequal: bool,
    batch_size: int,
    device: str,
    out: Path | None,
) -> None:
    """Measure BLIP-VQA of the images in SAMPLES, folders of samplers, and write it as the official script does.

    Stopped at any moment, the same command goes on.
    """
    from lmlangevin.core.errors import LMLError
    from lmlangevin.evaluation.compbench.compare import seeds_of
    from lmlangevin.evaluation.compbench.files import write_result
    from lmlangevin.evaluation.compbench.layout import read_samples, sampler_folder
    from lmlangevin.evaluation.compbench.prompts import read_prompts
    from lmlangevin.evaluation.compbench.vqa import score_folder

    _check_out(out)
    if (vqa == "blip") == (blip_model is None):
        raise LMLError(
            f"blip_model {blip_model!r}, vqa {vqa!r}: BLIP needs its model, and the reader has its own; give one of "
            "--blip-model and --vqa scenes"
        )
    homes = [sampler_folder(named) for named in samples]
    wanted = [None if prompts is None else read_prompts(prompts, home.absolute().parent.name) for home in homes]
    listed = [read_samples(home, prompts=p, unequal=unequal) for home, p in zip(homes, wanted, strict=True)]
    network, chunker = _scorer(blip_model, device)
    results = []
    for home, images in zip(homes, listed, strict=True):
        with _kept(), progress_bars(unit="images") as progress:
            found = score_folder(home, images, network, chunker, batch_size=batch_size, progress=progress)
        results.append(found)
        _report_score(found)
        if vqa == "scenes":
            _score_relations(found, network)
    _label()
    if out is not None:
        rows = [{**found.as_dict(), "seeds": seeds_of(found.folder)} for found in results]
        write_result(out, "score", {"results": rows})
        click.echo(f"Result: {out}")


@compbench.command("compare")
@click.argument("a", type=_FOLDER)
@click.argument("b", type=_FOLDER)
@click.option("--metric", help=f"One of {METRIC_NAMES}.  [default: that of the category]")
@click.option("--unequal", is_flag=True, help="Also take prompts that have different numbers of images.")
@click.option("--resamples", type=int, default=10_000, help="Resamples of the bootstrap over prompts.")
@click.option("--seed", type=int, default=0, help="Seed of the bootstrap.")
@click.option("--out", type=_FILE, help="Write the result to this .json file.")
def compare(a: Path, b: Path, metric: str | None, unequal: bool, resamples: int, seed: int, out: Path | None) -> None:
    """Compare the results of the sampler folder B with those of A on the same prompts, by a paired bootstrap."""
    from lmlangevin.evaluation.compbench.compare import compare_folders
    from lmlangevin.evaluation.compbench.files import write_result

    _check_out(out)
    found = compare_folders(a, b, metric=metric, resamples=resamples, seed=seed, unequal=unequal)
    _report_comparison(found)
    _label()
    if out is not None:
        write_result(out, "compare", found.as_dict())
        click.echo(f"Result: {out}")


@compbench.command("three-in-one")
@click.argument("folder", type=_FOLDER)
@click.option("--prompts", type=_FOLDER, required=True, help="A clone of T2I-CompBench, which says what prompts hold.")
@click.option("--unequal", is_flag=True, help="Also take prompts that have different numbers of images.")
@click.option("--out", type=_FILE, help="Write the result to this .json file.")
def three_in_one(folder: Path, prompts: Path, unequal: bool, out: Path | None) -> None:
    """Compute the 3-in-1 score of FOLDER, a sampler's of the category complex, from the three results in it."""
    from statistics import fmean

    from lmlangevin.evaluation.compbench import scores
    from lmlangevin.evaluation.compbench.compare import seeds_of
    from lmlangevin.evaluation.compbench.files import write_result
    from lmlangevin.evaluation.compbench.layout import read_samples, sampler_folder
    from lmlangevin.evaluation.compbench.prompts import count_note, read_complex_kinds, tidy

    _check_out(out)
    home = sampler_folder(folder)
    images = read_samples(home, unequal=unequal)
    found = scores.three_in_one(home, images, read_complex_kinds(prompts))
    count = len({tidy(image.prompt) for image in images})
    notes = [note for note in (count_note(count),) if note is not None]
    click.echo(f"{home}: 3-in-1 {fmean(found):.4f}, {len(images)} images of {count} prompts")
    _notes(notes)
    _label()
    if out is not None:
        row = {"folder": str(home), "metric": "3-in-1", "mean": fmean(found), "images": len(images), "prompts": count}
        write_result(out, "three-in-one", {**row, "seeds": seeds_of(home), "notes": notes})
        click.echo(f"Result: {out}")


def _scorer(blip_model: str | None, device: str) -> tuple[Any, Any]:
    """Return the network that answers, and what makes its questions of a prompt."""
    if blip_model is None:
        from lmlangevin.evaluation.compbench.scenes import SceneVqa, scene_chunks

        return SceneVqa(device), scene_chunks
    from lmlangevin.evaluation.compbench.blip import load_blip
    from lmlangevin.evaluation.compbench.chunks import SpacyChunker

    chunker = SpacyChunker()
    return load_blip(blip_model, device=device), chunker


def _score_relations(found: BlipScores, reader: Any) -> None:
    from statistics import fmean

    from lmlangevin.evaluation.compbench.scenes import has_relation, write_relations

    if all(has_relation(sample.prompt) for sample in found.samples):
        spatial = write_relations(found.folder, found.samples, reader, found.scores)
        click.echo(f"{found.folder}: spatial relation {fmean(spatial):.4f}")


@contextlib.contextmanager
def _kept() -> Iterator[None]:
    try:
        yield
    except KeyboardInterrupt:
        raise Interrupted from None


def _check_out(out: Path | None) -> None:
    """Raise before the work, and not after it, where the result could not be written."""
    from lmlangevin.core.errors import LMLError

    if out is not None and (out.suffix != ".json" or not out.absolute().parent.is_dir()):
        raise LMLError(f"out {str(out)!r}: give a name that ends in .json, in a folder that is there")


def _report_score(found: BlipScores) -> None:
    known = f", {len(found.samples) - found.computed} of them known" if found.computed < len(found.samples) else ""
    click.echo(
        f"{found.folder}: BLIP-VQA {found.mean:.4f}, {len(found.samples)} images of {found.prompts} prompts{known}"
    )
    _notes(found.notes)


def _report_comparison(found: Comparison) -> None:
    paired = found.paired
    click.echo(f"A: {found.a}, {found.images_a} images\nB: {found.b}, {found.images_b} images\n")
    click.echo(f"| score | prompts | A | B | B - A | {paired.confidence:.0%} interval | resamples above 0 |")
    click.echo("|---|---|---|---|---|---|---|")
    click.echo(
        f"| {found.metric} | {paired.prompts} | {paired.mean_a:.4f} | {paired.mean_b:.4f} | {paired.difference:+.4f} | "
        f"{paired.low:+.4f} to {paired.high:+.4f} | {paired.above_zero:.1%} |\n"
    )
    click.echo(f"Paired bootstrap over prompts, {paired.resamples} resamples, seed {paired.seed}.")
    _notes(found.notes)


def _notes(notes: tuple[str, ...] | list[str]) -> None:
    for note in notes:
        click.echo(f"Note: {note}")


def _label() -> None:
    from lmlangevin.evaluation.compbench import LABEL

    click.echo(f"T2I-CompBench here: {LABEL}.")

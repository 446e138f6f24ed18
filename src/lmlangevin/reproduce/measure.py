"""What a cell's images are measured by: a Frechet distance, or BLIP-VQA of T2I-CompBench."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, stdev
from typing import TYPE_CHECKING, Any, Protocol

from lmlangevin.core.errors import LMLError
from lmlangevin.reproduce.data import find_reference
from lmlangevin.reproduce.plan import BLIP, Cell, Plan
from lmlangevin.reproduce.preset import DRY_RUN
from lmlangevin.values import differing

if TYPE_CHECKING:
    from lmlangevin.evaluation.compbench.blip import Blip
    from lmlangevin.evaluation.compbench.chunks import Chunker
    from lmlangevin.evaluation.fid import Progress
    from lmlangevin.evaluation.result import FidResult

STATISTICS = "reference.npz"
"""File in the output folder that the statistics of the reference images are kept in."""
LAYOUT = "compbench"
"""Folder in the output folder that holds the layout of T2I-CompBench."""


@dataclass(frozen=True)
class Measurement:
    """What a cell's images gave.

    Attributes:
        arms: For each arm `value`, of all images, and `blocks`, of each block of seeds.
        differences: For each arm but the plain one what it has more than that, block by block.
        about: What the values depend on beside the images; the same for every cell of a run.
        notes: Lines that a reader needs.
    """

    arms: dict[str, dict[str, Any]]
    differences: dict[str, dict[str, Any]]
    about: dict[str, Any]
    notes: tuple[str, ...]


class Measure(Protocol):
    """What measures cells."""

    def measure(self, cell: Cell, job: Path, progress: Progress | None = None) -> Measurement:
        """Measure every arm of a finished job."""
        ...


def make_measure(plan: Plan, *, blip: Blip | None = None, chunker: Chunker | None = None) -> Measure:
    """Load what a plan measures with, before any image is made.

    Args:
        plan: The plan.
        blip: A BLIP in place of the one that the plan names.
        chunker: What cuts prompts into noun chunks, in place of spaCy.

    Raises:
        LMLError: Something cannot be had.
    """
    return BlipMeasure(plan, blip, chunker) if plan.preset.measure == "blip-vqa" else FidMeasure(plan)


def paired(plain: Sequence[float], other: Sequence[float]) -> dict[str, Any]:
    """Return how much more one arm has than the plain one, block by block: mean, standard deviation, values."""
    values = [b - a for a, b in zip(plain, other, strict=True)]
    return {"mean": fmean(values), "sd": stdev(values), "values": values}


class FidMeasure:
    """A Frechet distance under the plan's protocol.

    Args:
        plan: The plan.

    Raises:
        LMLError: The reference or the extractor cannot be had.
    """

    def __init__(self, plan: Plan) -> None:
        from lmlangevin.evaluation.extractors import load_extractor

        self._plan = plan
        self._extractor: Any = None
        self._reference: Path | None = None
        if plan.preset.protocol == DRY_RUN:
            from lmlangevin.reproduce.stand_ins import stand_in_extractor

            self._extractor = stand_in_extractor()
            return
        self._reference = find_reference(plan) if plan.preset.reference else None
        # `fid` loads it for itself; this is to know before the first image that it can.
        load_extractor(plan.protocol, inception_weights=plan.config.inception_weights, device=plan.config.device)

    def measure(self, cell: Cell, job: Path, progress: Progress | None = None) -> Measurement:
        """Measure every arm of a finished job."""
        found = {arm: self._fid(cell, job, arm, progress) for arm in cell.arms}
        first = found["plain"]
        about = {
            "kind": "fid",
            "label": first.protocol.label,
            "protocol": first.protocol.name,
            "extractor": first.extractor,
            "weight_hash": first.weight_hash,
            "reference_images": first.reference_n,
            "images_each_block": first.block_n,
        }
        notes = dict.fromkeys(note for result in found.values() for note in result.notes)
        arms = {arm: _row(result) for arm, result in found.items()}
        blocks = {arm: row["blocks"] for arm, row in arms.items()}
        others = {arm: paired(blocks["plain"], values) for arm, values in blocks.items() if arm != "plain"}
        return Measurement(arms, others, about, tuple(notes))

    def _fid(self, cell: Cell, job: Path, arm: str, progress: Progress | None) -> FidResult:
        from lmlangevin.evaluation.fid import DEFAULT_REFERENCE, fid

        plan = self._plan
        kept = plan.out / STATISTICS
        if self._extractor is not None and not kept.is_file():
            from lmlangevin.reproduce.stand_ins import stand_in_reference

            stand_in_reference().save(kept)
        reference = self._reference if self._extractor is None else kept
        save = None
        if reference is not None and reference.is_dir():
            # Its statistics are made once for all cells.
            reference, save = (kept, None) if kept.is_file() else (reference, kept)
        return fid(
            job,
            reference if reference is not None else DEFAULT_REFERENCE,
            plan.protocol,
            run=cell.run(arm),
            blocks=plan.preset.blocks,
            device=plan.config.device,
            inception_weights=plan.config.inception_weights,
            extractor=self._extractor,
            save_reference_statistics=save,
            progress=progress,
        )


def _row(result: FidResult) -> dict[str, Any]:
    assert result.blocks is not None  # asked for
    row: dict[str, Any] = {"value": result.value, "blocks": list(result.blocks.values)}
    if result.log is not None and result.protocol.label == "FID":
        row |= {"ln": result.log.natural, "log10": result.log.base10}
    return row


class BlipMeasure:
    """BLIP-VQA, with a paired bootstrap over prompts.

    Args:
        plan: The plan.
        blip: The network; None loads the one that the plan names.
        chunker: What cuts prompts; None is spaCy, or the trivial one in a dry run.

    Raises:
        LMLError: Either cannot be had.
    """

    def __init__(self, plan: Plan, blip: Blip | None = None, chunker: Chunker | None = None) -> None:
        from lmlangevin.evaluation.compbench.blip import load_blip
        from lmlangevin.evaluation.compbench.chunks import SpacyChunker
        from lmlangevin.reproduce.stand_ins import trivial_chunker

        self._plan = plan
        self._chunker = chunker or (trivial_chunker if plan.config.dry_run else SpacyChunker())
        self._blip = blip or load_blip(plan.config.blip_model or BLIP, device=plan.config.device)

    def measure(self, cell: Cell, job: Path, progress: Progress | None = None) -> Measurement:
        """Measure every arm of a finished job."""
        from lmlangevin.evaluation.compbench import LABEL
        from lmlangevin.evaluation.compbench.compare import compare_folders
        from lmlangevin.evaluation.compbench.export import export_job
        from lmlangevin.evaluation.compbench.layout import read_samples
        from lmlangevin.evaluation.compbench.vqa import score_folder

        plan, each = self._plan, self._plan.preset.images_per_prompt
        folders: dict[str, Path] = {}
        arms: dict[str, dict[str, Any]] = {}
        about: dict[str, Any] = {}
        notes: list[str] = []
        for arm in cell.arms:
            exported = export_job(
                job,
                plan.out / LAYOUT,
                model=plan.preset.name,
                category=cell.category,
                sampler=f"{cell.sampler}-{cell.nfe:03d}-{arm}",
                run=cell.run(arm),
            )
            samples = read_samples(exported.folder)
            scored = score_folder(exported.folder, samples, self._blip, self._chunker, progress=progress)
            folders[arm] = exported.folder
            scores = sorted(zip((sample.index for sample in samples), scored.scores, strict=True))
            blocks = [fmean(value for index, value in scores if index % each == k) for k in range(each)]
            arms[arm] = {"value": scored.mean, "blocks": blocks}
            about = {"kind": "blip-vqa", "label": "BLIP-VQA", "model": Path(scored.model).name, **scored.scorer}
            notes += [*exported.notes, *scored.notes]
        differences = {}
        for arm in cell.arms:
            if arm != "plain":
                found = compare_folders(folders["plain"], folders[arm], metric="blip").paired
                blocks = paired(arms["plain"]["blocks"], arms[arm]["blocks"])
                differences[arm] = {**blocks, "interval": [found.low, found.high], "confidence": found.confidence}
        return Measurement(arms, differences, about, (f"T2I-CompBench: {LABEL}.", *dict.fromkeys(notes)))


def check_same(known: dict[str, Any], found: dict[str, Any]) -> None:
    """Check that two measurements depend on the same things.

    Raises:
        LMLError: They do not.
    """
    for key in differing(known, found):
        raise LMLError(
            f"measure: {key} is {found.get(key)!r}, and the cells that were measured before have {known.get(key)!r}; "
            "give what they were measured with, or --overwrite"
        )

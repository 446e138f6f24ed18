"""A Frechet distance of what a user names to what a user names, under one protocol: the work behind `lml fid`."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TypeAlias

from torch import Tensor

from lmlangevin.core.errors import LMLError
from lmlangevin.evaluation.blocks import block_distances
from lmlangevin.evaluation.extractors import WEIGHTS_SHA256, Extractor, check_device, load_extractor
from lmlangevin.evaluation.frechet import (
    FrechetStatistics,
    feature_statistics,
    frechet_distance,
    load_reference_statistics,
    log_fid,
)
from lmlangevin.evaluation.protocols import (
    DEFAULT_PROTOCOL,
    PROTOCOLS,
    WITH_REFERENCE,
    Protocol,
    check_count,
    count_note,
    find_protocol,
)
from lmlangevin.evaluation.result import FidResult
from lmlangevin.evaluation.sources import ImageFiles, SizeCount, StatisticsFile, image_batches, open_source

DEFAULT_REFERENCE = "default"

Progress: TypeAlias = Callable[[str, int, int], None]
"""Called as ("generated" or "reference", images done, images in all) after each batch."""


def fid(
    generated: str | Path,
    reference: str | Path = DEFAULT_REFERENCE,
    protocol: str | Protocol = DEFAULT_PROTOCOL,
    *,
    run: str | None = None,
    blocks: int | None = None,
    batch_size: int = 50,
    device: str = "cpu",
    inception_weights: str | Path | None = None,
    extractor: Extractor | None = None,
    reference_n: int | None = None,
    assume_protocol: bool = False,
    save_generated_statistics: str | Path | None = None,
    save_reference_statistics: str | Path | None = None,
    progress: Progress | None = None,
) -> FidResult:
    """Measure the Frechet distance of generated images to a reference.

    Images are read batch by batch and only running sums are kept, so memory does not grow with their number.
    Whatever can be known beforehand is checked before an image is read.

    Args:
        generated: a folder of images, a folder or manifest of `lml generate`, or an .npz file of statistics.
        reference: likewise, or `"default"` for the statistics that come with protocols `embedded-cifar10` and
            `scenes`.
        protocol: a name that `find_protocol` takes, or a protocol of your own.
        run: which run of the manifest that `generated` names.
        blocks: also measure this many disjoint blocks of equal size of the generated images, in the order of their
            seeds or names; 2 or more. Images that do not fill a block count in the value and in no block.
        batch_size: images read at once.
        device: of the extractor.
        inception_weights: file of Inception's weights, for the protocols that use it.
        extractor: for a protocol whose extractor is `"callable"`, and only then.
        reference_n: number of images behind a reference file that does not record it.
        assume_protocol: take an .npz file that does not say how it was made (another tool's) as made under this
            protocol; for Inception only. The result has a note of it.
        save_generated_statistics: .npz file to write the statistics of the generated images to.
        save_reference_statistics: likewise for the reference.
        progress: told of each batch.

    Returns:
        The distance and its circumstances. A covariance of too few images is a note here and no warning.

    Raises:
        LMLError: an argument out of range or without effect, a source that cannot be read or fits the protocol not,
            another number of generated images than a strict protocol's, or statistics made in another way.
    """
    chosen = find_protocol(protocol) if isinstance(protocol, str) else protocol
    sources = (
        open_source(generated, run=run, argument="generated"),
        None if str(reference) == DEFAULT_REFERENCE else open_source(reference, argument="reference"),
    )
    saves = (save_generated_statistics, save_reference_statistics)
    _check(chosen, sources, saves, blocks, batch_size, device, inception_weights, extractor, reference_n)
    notes = [note for source in sources if isinstance(source, ImageFiles) for note in source.notes]
    stored = _load_stored(chosen, sources, reference_n, assume_protocol, notes)
    if extractor is None and any(isinstance(source, ImageFiles) for source in sources):
        extractor = load_extractor(chosen, inception_weights=inception_weights, device=device)
    stored = _agree(sources, stored, extractor)

    meter = _Meter(chosen, extractor, batch_size, progress)
    theirs = stored[1] or meter.measure(sources[1], "reference", chosen.reference_name, None)[0]
    _save(theirs, save_reference_statistics)
    theirs = replace(theirs, protocol=chosen.name)
    parts = [stored[0]] if stored[0] is not None else meter.measure(sources[0], "generated", chosen.name, blocks)
    ours = parts[0]
    for part in parts[1:]:
        ours = ours.merge(part)
    _save(ours, save_generated_statistics)

    notes += _notes(chosen, ours, theirs, default=sources[1] is None, sizes=meter.sizes)
    with warnings.catch_warnings():
        # Said once, by a note, and not again for every block.
        warnings.filterwarnings("ignore", message=".*singular covariance", category=UserWarning)
        value = frechet_distance(ours, theirs)
        spread = None if blocks is None else block_distances(parts[:blocks], theirs)
    if spread is not None:
        notes += _block_notes(parts, blocks or 0)
    if value == 0:
        notes.append("A distance of 0 has no logarithm: both sides have the same statistics.")
    return FidResult(
        value=value,
        log=log_fid(value) if value > 0 else None,
        protocol=chosen,
        generated=str(generated),
        generated_run=sources[0].run if isinstance(sources[0], ImageFiles) else None,
        reference=str(reference),
        generated_n=ours.n,
        reference_n=theirs.n,
        extractor=ours.extractor,
        weight_hash=ours.weight_hash,
        notes=tuple(notes),
        blocks=spread,
        block_n=None if spread is None else parts[0].n,
    )


# Before an image is read --------------------------------------------------------------------------------------------

_Sources: TypeAlias = tuple[ImageFiles | StatisticsFile, ImageFiles | StatisticsFile | None]
_Stored: TypeAlias = list[FrechetStatistics | None]
_REMEDY = "the two cannot be compared, give what was made in the same way, or make it again"


def _check(
    protocol: Protocol,
    sources: _Sources,
    saves: Sequence[str | Path | None],
    blocks: int | None,
    batch_size: int,
    device: str,
    inception_weights: str | Path | None,
    extractor: Extractor | None,
    reference_n: int | None,
) -> None:
    """Raise for what is wrong or has no effect."""
    check_device(device)
    if batch_size < 1:
        raise LMLError(f"batch_size {batch_size}: give a whole number >= 1")
    if extractor is None and protocol.extractor == "callable":
        raise LMLError(f"extractor None: protocol {protocol.name!r} brings none of its own; give a CallableExtractor")
    if extractor is not None and protocol.extractor != "callable":
        raise LMLError(
            f"extractor {extractor.extractor!r}: protocol {protocol.name!r} has its own; leave it out, or give a "
            "Protocol of yours whose extractor is 'callable'"
        )
    if inception_weights is not None and protocol.extractor != "inception":
        raise LMLError(
            f"inception_weights {str(inception_weights)!r}: protocol {protocol.name!r} has no Inception; leave it out"
        )
    built_in = PROTOCOLS.get(protocol.reference_name)
    if built_in is not None and find_protocol(protocol.name) != protocol:
        raise LMLError(f"protocol {protocol.name!r}: is the name of a built-in one; give yours another name")
    ours, theirs = sources
    if theirs is None and protocol.name not in WITH_REFERENCE:
        raise LMLError(
            f"reference 'default': protocol {protocol.name!r} has no statistics of its own; give images or an .npz file"
        )
    if reference_n is not None and not isinstance(theirs, StatisticsFile):
        raise LMLError(f"reference_n {reference_n}: only an .npz file as reference needs it; leave it out")
    for source in sources:
        if isinstance(source, ImageFiles) and len(source) < 2:
            raise LMLError(f"{source.argument} {source.name!r}: {len(source)} image; give 2 or more")
    if isinstance(ours, ImageFiles):
        check_count(protocol, len(ours), f"generated {ours.name!r}")
    if blocks is not None:
        if blocks < 2:
            raise LMLError(f"blocks {blocks}: one block has no spread; give 2 or more")
        if not isinstance(ours, ImageFiles):
            raise LMLError(f"blocks {blocks}: generated {ours.name!r} holds sums of all images; give the images")
        if len(ours) // blocks < 2:
            raise LMLError(f"blocks {blocks}: {len(ours)} images make blocks of fewer than 2; give fewer blocks")
    for source, path, argument in zip(sources, saves, ("generated", "reference"), strict=True):
        if path is None:
            continue
        if not isinstance(source, ImageFiles):
            raise LMLError(f"save_{argument}_statistics {str(path)!r}: {argument} is a statistics file; leave it out")
        if Path(path).suffix != ".npz" or not Path(path).absolute().parent.is_dir():
            raise LMLError(
                f"save_{argument}_statistics {str(path)!r}: give a name that ends in .npz, in a folder that is there"
            )


def _load_stored(
    protocol: Protocol, sources: _Sources, reference_n: int | None, assume_protocol: bool, notes: list[str]
) -> _Stored:
    """Load each side that is a file of statistics, None for images, and see that it names the protocol.

    A reference's number of images is free.
    """
    ours, _ = sources
    stored: list[FrechetStatistics | None] = []
    for source, n in zip(sources, (None, reference_n), strict=True):
        if not isinstance(source, StatisticsFile):
            stored.append(load_reference_statistics(protocol.name) if source is None else None)
            continue
        side = FrechetStatistics.load(source.path, n=n)
        where = f"{source.argument} {source.name!r}"
        if not (side.protocol or side.extractor or side.weight_hash):
            if protocol.extractor != "inception" or not assume_protocol:
                remedy = "give images, or statistics that lml fid saved"
                if protocol.extractor == "inception":
                    remedy = (
                        f"if you know that it was under {protocol.name!r}, give --assume-protocol, otherwise {remedy}"
                    )
                raise LMLError(
                    f"{where}: does not say how it was made, so it is not taken for {protocol.name!r}; {remedy}"
                )
            notes.append(f"{where} does not say how it was made; it was taken for {protocol.name} as you told.")
            side = replace(side, protocol=protocol.name)
        elif side.protocol not in (protocol.name, protocol.reference_name):
            raise LMLError(f"{where}: has protocol {side.protocol!r} and not {protocol.name!r}; {_REMEDY}")
        elif not side.extractor:
            raise LMLError(f"{where}: does not name its extractor; {_REMEDY}")
        if source is ours:
            # The base's word says how the images were prepared; that they are as many as they should be is seen here.
            check_count(protocol, side.n, where)
        stored.append(replace(side, protocol=protocol.name))
    if assume_protocol and all(side is None or side.extractor for side in stored):
        raise LMLError("assume_protocol: no .npz file here lacks the protocol's name; leave it out")
    return stored


def _agree(sources: _Sources, stored: _Stored, extractor: Extractor | None) -> _Stored:
    """See that the stored sides were made by one extractor, the one for images if there are any.

    A side that names none was let in on the user's word, and is taken to be of that extractor too.
    """
    made = extractor or next((side for side in stored if side is not None and side.extractor), None)
    if made is None:
        return stored
    agreed: _Stored = []
    for source, side in zip(sources, stored, strict=True):
        if side is None:
            agreed.append(None)
            continue
        where = "reference 'default'" if source is None else f"{source.argument} {source.name!r}"
        if not side.extractor:
            side = replace(side, extractor=made.extractor, weight_hash=made.weight_hash)
        for word in ("extractor", "weight_hash"):
            found, wanted = getattr(side, word), getattr(made, word)
            if found != wanted:
                raise LMLError(f"{where}: has {word} {found!r} and not {wanted!r}; {_REMEDY}")
        if made.dim not in (0, side.dim):
            raise LMLError(f"{where}: has {side.dim} features and not {made.dim}; {_REMEDY}")
        agreed.append(side)
    return agreed


# Measuring ----------------------------------------------------------------------------------------------------------


class _Meter:
    """Streams images into statistics, one of each block, and counts the sizes of the generated ones."""

    def __init__(
        self, protocol: Protocol, extractor: Extractor | None, batch_size: int, progress: Progress | None
    ) -> None:
        self._protocol = protocol
        self._extractor = extractor
        self._batch_size = batch_size
        self._progress = progress
        self.sizes = SizeCount()

    def measure(self, source: object, name: str, word: str, blocks: int | None) -> list[FrechetStatistics]:
        """Return the statistics of each block, and last those of the images that are left over, if any are.

        They carry `word` as their protocol.
        """
        assert isinstance(source, ImageFiles) and self._extractor is not None  # the other kinds are stored statistics
        size = len(source) // (blocks or 1)
        starts = list(range(0, len(source), size))
        return [
            feature_statistics(
                self._extractor,
                self._batches(source, start, start + size, name),
                protocol=word,
                batch_size=self._batch_size,
            )
            for start in starts
        ]

    def _batches(self, source: ImageFiles, start: int, stop: int, name: str) -> Iterator[Tensor]:
        done = start
        sizes = self.sizes if name == "generated" else None
        for batch in image_batches(
            source.files[start:stop], self._protocol, self._batch_size, argument=source.argument, sizes=sizes
        ):
            yield batch
            done += len(batch)
            if self._progress is not None:
                self._progress(name, done, len(source))


def _save(statistics: FrechetStatistics, path: str | Path | None) -> None:
    if path is None:
        return
    try:
        statistics.save(path)
    except OSError as error:
        raise LMLError(f"path {str(path)!r}: cannot be written ({error.strerror}); give another file") from error


def _notes(
    protocol: Protocol, ours: FrechetStatistics, theirs: FrechetStatistics, *, default: bool, sizes: SizeCount
) -> list[str]:
    notes = []
    count = count_note(protocol, ours.n)
    if count is not None:
        notes.append(count)
    if protocol.extractor in ("embedded", "scenes"):
        notes.append(
            f"The features are the {protocol.extractor} network's and not Inception's: no published FID compares with "
            "it."
        )
        if not default:
            notes.append(
                f"The reference is yours and not the protocol's ({protocol.reference}): compare within it only."
            )
    if protocol.extractor == "inception" and ours.weight_hash not in ("", WEIGHTS_SHA256):
        notes.append("The Inception weights are not the published ones: no published FID compares with this number.")
    if protocol.generated_size is not None:
        others = sizes.other_than(protocol.generated_size)
        if others:
            side = protocol.generated_size
            notes.append(f"{others} of {ours.n} generated images are not {side}x{side}, which the protocol has.")
    for name, side in (("generated", ours), ("reference", theirs)):
        if side.n <= side.dim:
            notes.append(
                f"{side.n} {name} images for {side.dim} features give a singular covariance: the number says little."
            )
    return notes


def _block_notes(parts: Sequence[FrechetStatistics], blocks: int) -> list[str]:
    size, left = parts[0].n, sum(part.n for part in parts[blocks:])
    notes = [f"A block has {size} images and the bias of {size}: compare block values with each other only."]
    if size <= parts[0].dim:
        notes.append(f"Blocks of {size} images for {parts[0].dim} features have singular covariances.")
    if left:
        notes.append(f"The last {left} images fill no block: they count in the value and in no block.")
    return notes

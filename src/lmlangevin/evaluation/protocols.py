"""Protocols: what has to be equal before two Frechet distances may stand in one table."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Literal

from lmlangevin.core.errors import LMLError

DEFAULT_PROTOCOL = "embedded-cifar10"


class Preparation(enum.Enum):
    """What is done to a decoded RGB image before the extractor sees its bytes."""

    EXACT = "exact"
    """Nothing: its sides must be `Protocol.size` already."""
    ANY = "any"
    """Nothing: the extractor takes any size."""
    CROP = "crop"
    """The largest centred square, resized to `Protocol.size` with Pillow's bicubic filter (antialiased)."""


@dataclass(frozen=True)
class Protocol:
    """One way of measuring a Frechet distance.

    Args:
        name: the word that statistics carry; those with another word are refused.
        extractor: `"embedded"`, `"scenes"`, `"inception"`, or `"callable"` for one that the caller brings.
        num_images: how many generated images it asks for, N. Other counts are measured, with a note, or refused where
            it is strict.
        preparation: what is done to an image file, the key of the rule.
        size: side in pixels that goes with `preparation`; None for ANY.
        rule: how Inception's input is made from the bytes, `"tf"` or `"pytorch"`; empty for other extractors.
        resize: the whole rule in words.
        reference: what it is measured against, in words.
        source: where it comes from.
        generated_size: side in pixels of generated images as they come; None where nothing is asked.
        strict: whether another number of generated images is refused. `name@N` is then the same protocol for N images.
        base: the protocol that this one differs from by `num_images` alone, empty for all others; the name is then
            `base@num_images`.

    Raises:
        LMLError: no name, N < 2, an unknown extractor, a size that does not go with the preparation, a rule that does
            not go with the extractor, or a name with an @ that is not `base@num_images`.
    """

    name: str
    extractor: Literal["embedded", "scenes", "inception", "callable"]
    num_images: int
    preparation: Preparation = Preparation.ANY
    size: int | None = None
    rule: Literal["", "tf", "pytorch"] = ""
    resize: str = ""
    reference: str = ""
    source: str = ""
    generated_size: int | None = None
    strict: bool = False
    base: str = ""

    def __post_init__(self) -> None:
        if not self.name:
            raise LMLError(f"name {self.name!r}: give the word that statistics of this protocol carry")
        if self.num_images < 2:
            raise LMLError(f"num_images {self.num_images}: give the number of generated images, >= 2")
        if self.extractor not in ("embedded", "scenes", "inception", "callable"):
            raise LMLError(f"extractor {self.extractor!r}: give 'embedded', 'scenes', 'inception' or 'callable'")
        if (self.size is None) != (self.preparation is Preparation.ANY):
            raise LMLError(f"size {self.size}: give a side in pixels for EXACT and CROP, and None for ANY")
        if self.rule not in (("tf", "pytorch") if self.extractor == "inception" else ("",)):
            raise LMLError(f"rule {self.rule!r}: give 'tf' or 'pytorch' for 'inception', and '' for other extractors")
        if ("@" in self.name or self.base) and self.name != f"{self.base}@{self.num_images}":
            raise LMLError(
                f"name {self.name!r}: an @ stands between base {self.base!r} and num_images, and nowhere else"
            )

    @property
    def reference_name(self) -> str:
        """The word that statistics of a reference carry: the same for every number of generated images.

        A reference is read, prepared and summed up without regard to what it will be compared with, so one file of
        statistics serves `lml-coco` and every `lml-coco@N`.
        """
        return self.base or self.name

    @property
    def label(self) -> str:
        """`"FID"` where the features are Inception's, otherwise `"FD"`."""
        return "FID" if self.extractor == "inception" else "FD"


_TF_RULE = "TensorFlow 1.x bilinear to 299x299 (no antialiasing, no half-pixel centres), then (x - 128) / 128"

WITH_REFERENCE = (DEFAULT_PROTOCOL, "scenes")
"""Protocols whose reference statistics come with the package."""

PROTOCOLS: Mapping[str, Protocol] = MappingProxyType(
    {
        protocol.name: protocol
        for protocol in (
            Protocol(
                name=DEFAULT_PROTOCOL,
                extractor="embedded",
                num_images=50_000,
                preparation=Preparation.EXACT,
                size=32,
                resize="none: images are 32x32",
                reference="the 50,000 CIFAR-10 training images (JPEG re-encoded), shipped as statistics.npz",
                source="this package, assets/features-cifar10",
            ),
            Protocol(
                name="scenes",
                extractor="scenes",
                num_images=10_000,
                preparation=Preparation.EXACT,
                size=64,
                resize="none: images are 64x64",
                reference="10,000 drawn scenes of the kind that the scenes models were trained on",
                source="this package, assets/scenes-reader",
            ),
            Protocol(
                name="tf-fid",
                extractor="inception",
                num_images=50_000,
                rule="tf",
                resize=f"uint8 images of any size; {_TF_RULE}",
                reference="images or statistics that you give",
                source="arXiv:1706.08500, with the weights and the resize of torch-fidelity",
            ),
            Protocol(
                name="pytorch-fid",
                extractor="inception",
                num_images=50_000,
                rule="pytorch",
                resize=(
                    "images of any size in [0, 1]; torch bilinear to 299x299 with align_corners=False and without "
                    "antialiasing, then 2x - 1"
                ),
                reference="images or statistics that you give",
                source="github.com/mseitzer/pytorch-fid, same weights as tf-fid",
            ),
            Protocol(
                name="lml-coco",
                extractor="inception",
                num_images=30_000,
                preparation=Preparation.CROP,
                size=512,
                rule="tf",
                resize=(
                    "centre-cropped to a square, Pillow's antialiased bicubic to 512x512, rounded to uint8; then as "
                    f"tf-fid: {_TF_RULE}"
                ),
                reference="your copy of the MS-COCO val2014 images, prepared in the same way",
                source=(
                    "this package; the prompts and reference statistics of arXiv:2505.24222 are unpublished, and this "
                    "does not claim to reproduce its numbers"
                ),
                generated_size=512,
                strict=True,
            ),
        )
    }
)
"""The built-in protocols by name, read-only."""


def find_protocol(name: str) -> Protocol:
    """Return a built-in protocol.

    Args:
        name: a name of `PROTOCOLS`, or `name@N` for the same protocol with N generated images, where it is strict.

    Raises:
        LMLError: there is none of that name.
    """
    if name in PROTOCOLS:
        return PROTOCOLS[name]
    base, _, count = name.partition("@")
    found = PROTOCOLS.get(base)
    if found is None or not found.strict:
        strict = ", ".join(f"{protocol.name}@N" for protocol in PROTOCOLS.values() if protocol.strict)
        raise LMLError(f"protocol {name!r}: unknown; give one of {', '.join(PROTOCOLS)}, or {strict} for N images")
    # One name for one protocol: no leading zeros, and the base's own count belongs to the base.
    number = int(count) if count.isascii() and count.isdigit() and len(count) < 10 else 0
    if number < 2 or str(number) != count:
        raise LMLError(
            f"protocol {name!r}: after the @ stands the number of generated images; give such as {base}@1000"
        )
    if number == found.num_images:
        raise LMLError(f"protocol {name!r}: is {base} itself; give {base}")
    return replace(found, name=name, num_images=number, base=base)


def check_count(protocol: Protocol, count: int, where: str) -> None:
    """Check a number of generated images under a strict protocol.

    Args:
        protocol: the protocol.
        count: the number.
        where: what holds them, for messages.

    Raises:
        LMLError: the protocol is strict and of another number.
    """
    if not protocol.strict or count == protocol.num_images:
        return
    base = protocol.reference_name
    own = base in PROTOCOLS and count == PROTOCOLS[base].num_images
    raise LMLError(
        f"{where}: {count} images, and protocol {protocol.name!r} is of {protocol.num_images}; give as many, or "
        f"--protocol {base if own else f'{base}@{count}'}, whose distances stand beside each other only"
    )


def count_note(protocol: Protocol, count: int) -> str | None:
    """Return what a reader must know of a number of generated images that is not the protocol's, else None."""
    if count == protocol.num_images:
        return None
    return f"{count} images where the protocol has {protocol.num_images}: compare only with results of the same N."

"""The result of a measurement, with what it takes to read it, and the file that keeps it."""

from __future__ import annotations

import datetime
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lmlangevin._version import installed_versions
from lmlangevin.evaluation.blocks import BlockValues
from lmlangevin.evaluation.frechet import LogFID
from lmlangevin.evaluation.protocols import Protocol
from lmlangevin.files import atomic_write

FORMAT = "lmlangevin-fid-1"
PACKAGES = ("torch", "torch-fidelity", "numpy", "pillow")


@dataclass(frozen=True)
class FidResult:
    """A Frechet distance with what it takes to read it.

    Attributes:
        value: The distance.
        log: Its logarithms; None where it is 0.
        protocol: The protocol.
        generated: What was named as generated.
        generated_run: The run of a manifest that was taken; None for anything else.
        reference: What was named as reference.
        generated_n: Number of generated images.
        reference_n: Number of reference images.
        extractor: Name of the extractor.
        weight_hash: SHA-256 of its weights.
        notes: Lines that a reader of the value needs.
        blocks: The distances of disjoint blocks of the generated images; None without blocks.
        block_n: Images in each block; None without blocks.
    """

    value: float
    log: LogFID | None
    protocol: Protocol
    generated: str
    generated_run: str | None
    reference: str
    generated_n: int
    reference_n: int
    extractor: str
    weight_hash: str
    notes: tuple[str, ...] = ()
    blocks: BlockValues | None = None
    block_n: int | None = None

    def as_dict(self) -> dict[str, Any]:
        """Return everything as JSON takes it."""
        return {
            "value": self.value,
            "ln": None if self.log is None else self.log.natural,
            "log10": None if self.log is None else self.log.base10,
            "protocol": {
                "name": self.protocol.name,
                "num_images": self.protocol.num_images,
                "resize": self.protocol.resize,
                "reference": self.protocol.reference,
                "source": self.protocol.source,
            },
            "extractor": self.extractor,
            "weight_hash": self.weight_hash,
            "generated": {"name": self.generated, "run": self.generated_run, "n": self.generated_n},
            "reference": {"name": self.reference, "n": self.reference_n},
            "blocks": None if self.blocks is None else {"images_each": self.block_n, **self.blocks.as_dict()},
            "notes": list(self.notes),
        }


def write_result(result: FidResult, path: str | Path) -> None:
    """Write a result with the versions behind it as JSON, complete as soon as it is visible.

    Raises:
        LMLError: the file cannot be written.
    """
    created = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    content = {"format": FORMAT, "created": created, "versions": installed_versions(PACKAGES), **result.as_dict()}
    with atomic_write(path, f"out {str(path)!r}") as part:
        part.write_text(json.dumps(content, indent=1, allow_nan=False) + "\n", encoding="utf-8")

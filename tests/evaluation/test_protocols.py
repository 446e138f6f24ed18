"""The protocols."""

from __future__ import annotations

from dataclasses import FrozenInstanceError, replace
from typing import Any

import pytest

from lmlangevin.core.errors import LMLError
from lmlangevin.evaluation.features import PROTOCOL
from lmlangevin.evaluation.frechet import load_reference_statistics
from lmlangevin.evaluation.protocols import PROTOCOLS, Preparation, count_note, find_protocol


def test_the_protocols_are_complete() -> None:
    assert list(PROTOCOLS) == ["embedded-cifar10", "tf-fid", "pytorch-fid", "lml-coco"]
    for name, protocol in PROTOCOLS.items():
        assert find_protocol(name) is protocol
        assert protocol.name == name
        assert all((protocol.resize, protocol.reference, protocol.source))
    assert [p.num_images for p in PROTOCOLS.values()] == [50_000, 50_000, 50_000, 30_000]
    assert [p.rule for p in PROTOCOLS.values()] == ["", "tf", "pytorch", "tf"]
    assert [p.label for p in PROTOCOLS.values()] == ["FD", "FID", "FID", "FID"]
    assert PROTOCOLS["lml-coco"].size == 512


def test_the_word_of_the_shipped_statistics_is_the_name_of_their_protocol() -> None:
    reference = load_reference_statistics()
    assert PROTOCOL == reference.protocol == find_protocol("embedded-cifar10").name
    assert reference.n == find_protocol("embedded-cifar10").num_images


def test_protocols_cannot_be_changed() -> None:
    table: Any = PROTOCOLS
    with pytest.raises(TypeError):
        table["mine"] = PROTOCOLS["tf-fid"]
    with pytest.raises(TypeError):
        del table["tf-fid"]
    protocol: Any = PROTOCOLS["tf-fid"]
    with pytest.raises(FrozenInstanceError):
        protocol.num_images = 100


def test_an_unknown_name_is_answered_with_the_known_ones() -> None:
    with pytest.raises(
        LMLError, match="protocol 'fid': unknown; give one of embedded-cifar10, tf-fid, pytorch-fid, lml-"
    ):
        find_protocol("fid")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"name": ""}, "name ''"),
        ({"num_images": 1}, "num_images 1"),
        ({"extractor": "clip"}, "extractor 'clip'"),
        ({"extractor": "callable"}, "rule 'tf'"),
        ({"rule": ""}, "rule ''"),
        ({"size": 64}, "size 64"),
        ({"preparation": Preparation.CROP}, "size None"),
    ],
)
def test_protocols_that_contradict_themselves_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(LMLError, match=message):
        replace(PROTOCOLS["tf-fid"], **changes)


def test_another_number_of_images_is_a_note() -> None:
    protocol = find_protocol("lml-coco")
    assert count_note(protocol, 30_000) is None
    for count in (500, 20_000):
        note = f"{count} images where the protocol has 30000: compare only with results of the same N."
        assert count_note(protocol, count) == note

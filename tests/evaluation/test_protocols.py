"""The protocols."""

from __future__ import annotations

from dataclasses import FrozenInstanceError, replace
from typing import Any

import pytest

from lmlangevin.core.errors import LMLError
from lmlangevin.evaluation.features import PROTOCOL
from lmlangevin.evaluation.frechet import load_reference_statistics
from lmlangevin.evaluation.protocols import PROTOCOLS, Preparation, check_count, count_note, find_protocol


def test_the_protocols_are_complete() -> None:
    assert list(PROTOCOLS) == ["embedded-cifar10", "scenes", "tf-fid", "pytorch-fid", "lml-coco"]
    for name, protocol in PROTOCOLS.items():
        assert find_protocol(name) is protocol
        assert protocol.name == name
        assert all((protocol.resize, protocol.reference, protocol.source))
    assert [p.num_images for p in PROTOCOLS.values()] == [50_000, 10_000, 50_000, 50_000, 30_000]
    assert [p.rule for p in PROTOCOLS.values()] == ["", "", "tf", "pytorch", "tf"]
    assert [p.label for p in PROTOCOLS.values()] == ["FD", "FD", "FID", "FID", "FID"]
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
        LMLError, match="protocol 'fid': unknown; give one of embedded-cifar10, scenes, tf-fid, pytorch-fid, lml-"
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
        ({"name": "tf-fid@1000"}, "name 'tf-fid@1000': an @ stands between base '' and num_images"),
        ({"base": "tf-fid"}, "name 'tf-fid': an @ stands"),
        ({"name": "mine@7", "base": "mine", "num_images": 8}, "name 'mine@7': an @ stands"),
    ],
)
def test_protocols_that_contradict_themselves_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(LMLError, match=message):
        replace(PROTOCOLS["tf-fid"], **changes)


def test_another_number_of_images_is_a_note_or_refused() -> None:
    protocol = find_protocol("tf-fid")
    assert count_note(protocol, 50_000) is None
    for count in (500, 20_000):
        note = f"{count} images where the protocol has 50000: compare only with results of the same N."
        assert count_note(protocol, count) == note
        check_count(protocol, count, "generated 'x'")
    assert [protocol.name for protocol in PROTOCOLS.values() if protocol.strict] == ["lml-coco"]
    strict = find_protocol("lml-coco")
    check_count(strict, 30_000, "generated 'x'")
    for count in (500, 29_999):
        with pytest.raises(LMLError, match=f"generated 'x': {count} images, .* or --protocol lml-coco@{count}, "):
            check_count(strict, count, "generated 'x'")


def test_a_strict_protocol_has_a_name_for_every_number() -> None:
    base, small = find_protocol("lml-coco"), find_protocol("lml-coco@1000")
    assert small == replace(base, name="lml-coco@1000", num_images=1000, base="lml-coco")
    assert small.reference_name == base.reference_name == "lml-coco"
    assert find_protocol("tf-fid").reference_name == "tf-fid"
    check_count(small, 1000, "generated 'x'")


@pytest.mark.parametrize("count", ["", "0", "1", "01000", "1e3", "-5", "1000 ", "a", "٣٠", "9" * 30])
def test_what_is_no_number_of_images_is_refused(count: str) -> None:
    with pytest.raises(LMLError, match="after the @ stands the number of generated images; give such as lml-coco@1000"):
        find_protocol(f"lml-coco@{count}")


def test_one_protocol_has_one_name() -> None:
    with pytest.raises(LMLError, match="protocol 'lml-coco@30000': is lml-coco itself; give lml-coco"):
        find_protocol("lml-coco@30000")
    for name in ("tf-fid@1000", "embedded-cifar10@50000", "@1000"):
        with pytest.raises(LMLError, match=f"protocol '{name}': unknown; .*, or lml-coco@N for N images"):
            find_protocol(name)

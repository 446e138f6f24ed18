"""The measurement behind `lml fid`: images and statistics, blocks, notes, and what is refused."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from lmlangevin.core.errors import LMLError
from lmlangevin.evaluation.extractors import WEIGHTS_SHA256, CallableExtractor
from lmlangevin.evaluation.features import load_feature_network
from lmlangevin.evaluation.fid import fid
from lmlangevin.evaluation.frechet import FrechetStatistics, feature_statistics, frechet_distance
from lmlangevin.evaluation.protocols import PROTOCOLS, Protocol, find_protocol
from lmlangevin.evaluation.result import FORMAT, FidResult, write_result

MINE = Protocol("mine", "callable", 12, resize="none", reference="mine", source="here")
MakeImages = Callable[..., list[Path]]


def corners(images: Tensor) -> Tensor:
    """Five features that no two random images share."""
    return images.double()[:, :, ::31, ::31].flatten(1)[:, :5] / 100


def extractor() -> CallableExtractor:
    return CallableExtractor(corners, "corners")


def loaded(paths: list[Path]) -> Tensor:
    return torch.stack([torch.from_numpy(np.array(Image.open(path))).permute(2, 0, 1) for path in paths])


def measured(paths: list[Path]) -> FrechetStatistics:
    return feature_statistics(extractor(), loaded(paths), protocol="mine")


def test_the_value_is_the_distance_of_the_images(make_images: MakeImages, tmp_path: Path) -> None:
    ours, theirs = make_images(tmp_path / "a", 600, 12), make_images(tmp_path / "b", 601, 15)
    seen: list[tuple[str, int, int]] = []
    result = fid(
        tmp_path / "a",
        tmp_path / "b",
        MINE,
        extractor=extractor(),
        batch_size=5,
        progress=lambda *report: seen.append(report),
    )
    assert result.value == pytest.approx(frechet_distance(measured(ours), measured(theirs)), rel=1e-12)
    assert result.log is not None and result.log.natural == pytest.approx(np.log(result.value))
    assert (result.generated_n, result.reference_n, result.notes) == (12, 15, ())
    assert (result.extractor, result.weight_hash, result.protocol) == ("corners", "", MINE)
    assert seen == [*(("reference", k, 15) for k in (5, 10, 15)), *(("generated", k, 12) for k in (5, 10, 12))]


def test_the_embedded_protocol_and_its_own_reference(make_images: MakeImages, tmp_path: Path) -> None:
    from lmlangevin.evaluation.frechet import load_reference_statistics

    paths = make_images(tmp_path / "a", 602, 9)
    result = fid(tmp_path / "a")
    statistics = feature_statistics(load_feature_network(), loaded(paths), protocol="embedded-cifar10")
    with pytest.warns(UserWarning, match="singular"):
        expected = frechet_distance(statistics, load_reference_statistics())
    assert result.value == pytest.approx(expected, rel=1e-6)
    assert (result.reference, result.reference_n) == ("default", 50_000)
    assert result.notes[0] == "9 images where the protocol has 50000: compare only with results of the same N."
    assert "no published FID compares" in result.notes[1]
    assert "9 generated images for 128 features" in result.notes[2]
    make_images(tmp_path / "b", 603, 9)
    assert any("The reference is yours" in note for note in fid(tmp_path / "a", tmp_path / "b").notes)


# Blocks -------------------------------------------------------------------------------------------------------------


def test_blocks_are_disjoint_in_the_order_of_seeds_and_the_rest_is_noted(
    make_job: Callable[..., Path], make_images: MakeImages, tmp_path: Path
) -> None:
    job, theirs = make_job(tmp_path / "job", 610, 23), make_images(tmp_path / "b", 611, 20)
    result = fid(job, tmp_path / "b", MINE, run="lml", blocks=3, extractor=extractor(), batch_size=4)
    paths, reference = sorted((job / "lml").iterdir()), measured(theirs)
    assert result.blocks is not None and result.block_n == 7
    expected = [frechet_distance(measured(paths[k : k + 7]), reference) for k in (0, 7, 14)]
    assert result.blocks.values == pytest.approx(expected, rel=1e-12)
    # The value is that of all images, not the mean of the blocks.
    assert result.value == pytest.approx(frechet_distance(measured(paths), reference), rel=1e-9)
    assert result.value < result.blocks.mean
    assert "The last 2 images fill no block: they count in the value and in no block." in result.notes
    assert any(note.startswith("A block has 7 images and the bias of 7") for note in result.notes)
    assert (result.generated_n, result.generated_run) == (23, "lml")
    whole = fid(job, tmp_path / "b", MINE, run="lml", extractor=extractor())
    assert result.value == pytest.approx(whole.value, rel=1e-9)


def test_more_blocks_than_images_in_one(make_images: MakeImages, tmp_path: Path) -> None:
    make_images(tmp_path / "a", 612, 11)
    result = fid(tmp_path / "a", blocks=4)
    assert result.blocks is not None and (result.blocks.n, result.block_n) == (4, 2)
    assert any("Blocks of 2 images for 128 features" in note for note in result.notes)
    assert any("last 3 images fill no block" in note for note in result.notes)


# Files of statistics ------------------------------------------------------------------------------------------------


def test_saved_statistics_stand_in_for_their_images(make_images: MakeImages, tmp_path: Path) -> None:
    make_images(tmp_path / "a", 620, 12)
    make_images(tmp_path / "b", 621, 14)
    saves = {"save_generated_statistics": tmp_path / "a.npz", "save_reference_statistics": tmp_path / "b.npz"}
    first = fid(tmp_path / "a", tmp_path / "b", MINE, extractor=extractor(), **saves)
    for generated, reference in (("a.npz", "b"), ("a", "b.npz"), ("a.npz", "b.npz")):
        again = fid(tmp_path / generated, tmp_path / reference, MINE, extractor=extractor())
        assert again.value == pytest.approx(first.value, rel=1e-9)
        assert (again.generated_n, again.reference_n) == (12, 14)


def test_two_files_of_statistics_need_no_extractor(tmp_path: Path, weights: Path) -> None:
    """Nor torch-fidelity, which is not there in this test."""
    words = {"extractor": "inception-v3-2048-tf", "weight_hash": WEIGHTS_SHA256, "protocol": "tf-fid"}
    for name, seed in (("a", 622), ("b", 623)):
        features = torch.randn(30, 4, generator=torch.Generator().manual_seed(seed)) + 1
        FrechetStatistics.empty(4, **words).update(features).save(tmp_path / f"{name}.npz")
    result = fid(tmp_path / "a.npz", tmp_path / "b.npz", "tf-fid")
    assert (result.extractor, result.weight_hash) == ("inception-v3-2048-tf", WEIGHTS_SHA256)
    assert result.notes == ("30 images where the protocol has 50000: compare only with results of the same N.",)


@pytest.mark.parametrize("word", ["protocol", "extractor", "weight_hash"])
def test_statistics_made_otherwise_are_refused_before_an_image_is_read(
    make_images: MakeImages, tmp_path: Path, word: str
) -> None:
    (tmp_path / "a").mkdir()
    for k in range(3):
        (tmp_path / "a" / f"{k}.png").write_text("would be told, if it were read")
    words = {"extractor": "corners", "weight_hash": "", "protocol": "mine"} | {word: "another"}
    features = torch.randn(30, 5, generator=torch.Generator().manual_seed(624))
    FrechetStatistics.empty(5, **words).update(features).save(tmp_path / "b.npz")
    with pytest.raises(LMLError, match=f"reference '.*b.npz': has {word} 'another' and not '.*'; the two cannot"):
        fid(tmp_path / "a", tmp_path / "b.npz", MINE, extractor=extractor())


def test_statistics_of_another_dimension_are_refused(make_images: MakeImages, tmp_path: Path) -> None:
    make_images(tmp_path / "a", 625, 3)
    network = load_feature_network()
    words = {"extractor": network.extractor, "weight_hash": network.weight_hash, "protocol": "embedded-cifar10"}
    features = torch.randn(30, 5, generator=torch.Generator().manual_seed(626))
    FrechetStatistics.empty(5, **words).update(features).save(tmp_path / "b.npz")
    with pytest.raises(LMLError, match="has 5 features and not 128"):
        fid(tmp_path / "a", tmp_path / "b.npz")


@pytest.fixture
def foreign(tmp_path: Path, stand_in: Any) -> Path:
    """Statistics as pytorch-fid writes them: mu and sigma, and no word more."""
    path, features = tmp_path / "foreign.npz", np.random.default_rng(627).normal(size=(60, stand_in.out))
    np.savez(path, mu=features.mean(0), sigma=np.cov(features, rowvar=False))
    return path


def test_foreign_statistics_are_taken_only_on_the_users_word(
    make_images: MakeImages, tmp_path: Path, foreign: Path, weights: Path
) -> None:
    make_images(tmp_path / "a", 628, 30, (40, 36))
    arguments: dict[str, Any] = {"inception_weights": weights}
    with pytest.raises(LMLError, match="give n, .*--reference-n"):
        fid(tmp_path / "a", foreign, "pytorch-fid", **arguments)
    arguments["reference_n"] = 60
    with pytest.raises(LMLError, match="does not say how it was made, .*; if you know .* give --assume-protocol"):
        fid(tmp_path / "a", foreign, "pytorch-fid", **arguments)
    result = fid(tmp_path / "a", foreign, "pytorch-fid", assume_protocol=True, **arguments)
    assert result.value > 0 and result.reference_n == 60
    assert (
        result.notes[0]
        == f"reference {str(foreign)!r} does not say how it was made; it was taken for pytorch-fid as you told."
    )
    assert any("weights are not the published ones" in note for note in result.notes)
    with pytest.raises(LMLError, match="is not taken for 'embedded-cifar10'; give images"):
        fid(tmp_path / "a", foreign, reference_n=60, assume_protocol=True)
    with pytest.raises(LMLError, match="assume_protocol: no .npz file here lacks"):
        fid(tmp_path / "a", tmp_path / "a", "tf-fid", assume_protocol=True, **{"inception_weights": weights})


def test_a_foreign_file_takes_the_words_of_the_other_side(foreign: Path, tmp_path: Path, stand_in: Any) -> None:
    features = torch.randn(40, stand_in.out, generator=torch.Generator().manual_seed(629))
    words = {"extractor": "inception-v3-2048-tf", "weight_hash": WEIGHTS_SHA256, "protocol": "tf-fid"}
    ours = FrechetStatistics.empty(stand_in.out, **words).update(features)
    ours.save(tmp_path / "ours.npz")
    result = fid(tmp_path / "ours.npz", foreign, "tf-fid", reference_n=60, assume_protocol=True)
    theirs = FrechetStatistics.load(foreign, n=60)
    assert result.value == pytest.approx(frechet_distance(replace(theirs, **words), ours), rel=1e-9)
    assert result.weight_hash == WEIGHTS_SHA256
    with np.load(foreign) as stored:
        named = {**stored, "n": 60, "protocol": "tf-fid"}
    np.savez(tmp_path / "half.npz", **named)
    with pytest.raises(LMLError, match="does not name its extractor"):
        fid(tmp_path / "ours.npz", tmp_path / "half.npz", "tf-fid")


# Inception's protocols ----------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("stand_in")
def test_inception_protocols_are_not_mixed(make_images: MakeImages, tmp_path: Path, weights: Path) -> None:
    make_images(tmp_path / "a", 630, 20, (50, 40))
    make_images(tmp_path / "b", 631, 20, (40, 40))
    values = {}
    # The word that statistics of a reference carry, for each protocol.
    words = {"tf-fid": "tf-fid", "pytorch-fid": "pytorch-fid", "lml-coco@20": "lml-coco"}
    for name, word in words.items():
        saved = tmp_path / f"{name}.npz"
        result = fid(tmp_path / "a", tmp_path / "b", name, inception_weights=weights, save_reference_statistics=saved)
        values[name] = result.value
        for other in words.keys() - {name}:
            with pytest.raises(LMLError, match=f"has protocol '{word}' and not '{other}'"):
                fid(tmp_path / "a", saved, other, inception_weights=weights)
    assert len(set(values.values())) == 3
    assert "20 of 20 generated images are not 512x512, which the protocol has." in result.notes


@pytest.mark.usefixtures("stand_in")
def test_other_weights_are_refused(make_images: MakeImages, tmp_path: Path, weights: Path, stand_in: Any) -> None:
    make_images(tmp_path / "a", 632, 10)
    saved, other = tmp_path / "a.npz", tmp_path / "other.pth"
    fid(tmp_path / "a", tmp_path / "a", "tf-fid", inception_weights=weights, save_reference_statistics=saved)
    torch.save(stand_in.state(633), other)
    with pytest.raises(LMLError, match="has weight_hash"):
        fid(tmp_path / "a", saved, "tf-fid", inception_weights=other)


# A strict number of images ------------------------------------------------------------------------------------------


@pytest.fixture
def coco(make_images: MakeImages, tmp_path: Path, stand_in: Any, weights: Path) -> Callable[..., FidResult]:
    """Measure under lml-coco with the stand-in for Inception."""
    del stand_in

    def measure(generated: str, reference: str, protocol: str, **options: Any) -> FidResult:
        if any(not name.endswith(".npz") for name in (generated, reference)):
            options["inception_weights"] = weights
        return fid(tmp_path / generated, tmp_path / reference, protocol, **options)

    make_images(tmp_path / "a12", 670, 12, (70, 50))
    make_images(tmp_path / "a15", 671, 15, (50, 70))
    make_images(tmp_path / "b", 672, 17, (60, 60))
    return measure


def test_another_number_is_never_called_by_the_same_name(coco: Callable[..., FidResult], tmp_path: Path) -> None:
    for path in (tmp_path / "a12").iterdir():
        path.write_text("would be told, if it were read")
    remedy = "12 images, and protocol 'lml-coco' is of 30000; give as many, or --protocol lml-coco@12, whose"
    with pytest.raises(LMLError, match=f"generated '.*a12': {remedy}"):
        coco("a12", "b", "lml-coco")
    with pytest.raises(LMLError, match="15 images, and protocol 'lml-coco@12' is of 12; .* lml-coco@15, whose"):
        coco("a15", "b", "lml-coco@12")
    result = coco("a15", "b", "lml-coco@15")
    assert (result.protocol.name, result.protocol.num_images) == ("lml-coco@15", 15)
    assert (result.generated_n, result.reference_n) == (15, 17)
    assert not any("where the protocol has" in note for note in result.notes)
    assert result.as_dict()["protocol"]["name"] == "lml-coco@15"


def test_one_reference_serves_every_number_and_generated_statistics_their_own(
    coco: Callable[..., FidResult], tmp_path: Path
) -> None:
    saves = {"save_generated_statistics": tmp_path / "a12.npz", "save_reference_statistics": tmp_path / "b.npz"}
    first = coco("a12", "b", "lml-coco@12", **saves)
    assert FrechetStatistics.load(tmp_path / "b.npz").protocol == "lml-coco"
    assert FrechetStatistics.load(tmp_path / "a12.npz").protocol == "lml-coco@12"
    assert coco("a12", "b.npz", "lml-coco@12").value == pytest.approx(first.value, rel=1e-6)
    assert coco("a12.npz", "b.npz", "lml-coco@12").value == pytest.approx(first.value, rel=1e-6)
    other = coco("a15", "b.npz", "lml-coco@15")
    assert other.value == pytest.approx(coco("a15", "b", "lml-coco@15").value, rel=1e-6)
    # Statistics of 12 generated images are no 15, and none of the protocol without a number.
    for protocol in ("lml-coco@15", "lml-coco"):
        with pytest.raises(LMLError, match=f"generated '.*a12.npz': has protocol 'lml-coco@12' and not '{protocol}'"):
            coco("a12.npz", "b.npz", protocol)
    with pytest.raises(LMLError, match="reference '.*a12.npz': has protocol 'lml-coco@12' and not 'lml-coco@15'"):
        coco("a15", "a12.npz", "lml-coco@15")
    # A file without a number in its word is, as generated images, of the number that it has.
    with pytest.raises(LMLError, match="generated '.*b.npz': 17 images, and protocol 'lml-coco' is of 30000"):
        coco("b.npz", "b.npz", "lml-coco")
    assert coco("b.npz", "b.npz", "lml-coco@17").value < 1e-6


def test_the_whole_number_of_images_goes_by_the_plain_name(coco: Callable[..., FidResult], tmp_path: Path) -> None:
    features = torch.randn(30_000, 4, generator=torch.Generator().manual_seed(673))
    words = {"extractor": "inception-v3-2048-tf", "weight_hash": WEIGHTS_SHA256, "protocol": "lml-coco"}
    FrechetStatistics.empty(4, **words).update(features).save(tmp_path / "whole.npz")
    FrechetStatistics.empty(4, **words).update(features[:400] + 1).save(tmp_path / "reference.npz")
    result = coco("whole.npz", "reference.npz", "lml-coco")
    # Two unit Gaussians whose means are (1, 1, 1, 1) apart.
    assert result.value == pytest.approx(4, rel=0.2)
    assert (result.generated_n, result.reference_n, result.notes) == (30_000, 400, ())
    with pytest.raises(LMLError, match="30000 images, and protocol 'lml-coco@400' is of 400; .* --protocol lml-coco, "):
        coco("whole.npz", "reference.npz", "lml-coco@400")


# What is refused ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"protocol": "fid"}, "protocol 'fid': unknown"),
        ({"blocks": 1}, "blocks 1: one block has no spread"),
        ({"blocks": 5}, "blocks 5: 8 images make blocks of fewer than 2"),
        ({"batch_size": 0}, "batch_size 0"),
        ({"device": "abacus"}, "device 'abacus': not there"),
        ({"device": "cuda:77"}, "device 'cuda:77': not there"),
        ({"inception_weights": "w.pth"}, "has no Inception; leave it out"),
        ({"extractor": extractor()}, "extractor 'corners': .* has its own; leave it out"),
        ({"protocol": MINE}, "give a CallableExtractor"),
        ({"protocol": replace(PROTOCOLS["tf-fid"], num_images=10)}, "protocol 'tf-fid': is the name of a built-in one"),
        (
            {"protocol": replace(find_protocol("lml-coco@8"), size=256)},
            "protocol 'lml-coco@8': is the name of a built-in one",
        ),
        ({"protocol": "tf-fid"}, "reference 'default': protocol 'tf-fid' has no statistics of its own"),
        ({"reference_n": 40}, "reference_n 40: only an .npz file"),
        ({"run": "lml"}, "run 'lml': .* leave it out"),
        ({"assume_protocol": True}, "assume_protocol: no .npz file"),
        ({"save_reference_statistics": "r.npz"}, "save_reference_statistics 'r.npz': reference is a statistics file"),
        ({"save_generated_statistics": "g.txt"}, "save_generated_statistics 'g.txt': give a name that ends in .npz"),
        ({"save_generated_statistics": "nowhere/g.npz"}, "in a folder that is there"),
    ],
)
def test_what_cannot_be_done_is_refused_beforehand(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    for k in range(8):
        (tmp_path / f"{k}.png").write_text("would be told, if it were read")
    with pytest.raises(LMLError, match=message):
        fid(tmp_path, **changes)
    assert len(list(tmp_path.iterdir())) == 8


def test_one_image_or_a_file_of_sums_is_not_enough(make_images: MakeImages, tmp_path: Path) -> None:
    make_images(tmp_path / "one", 640, 1)
    with pytest.raises(LMLError, match="generated '.*one': 1 image; give 2 or more"):
        fid(tmp_path / "one")
    make_images(tmp_path / "two", 641, 2)
    fid(tmp_path / "two", save_generated_statistics=tmp_path / "two.npz")
    with pytest.raises(LMLError, match="holds sums of all images; give the images"):
        fid(tmp_path / "two.npz", blocks=2)


def test_a_set_against_itself_has_no_logarithm(make_images: MakeImages, tmp_path: Path) -> None:
    make_images(tmp_path / "a", 642, 12)
    result = fid(tmp_path / "a", tmp_path / "a", MINE, extractor=extractor())
    assert result.value < 1e-9
    assert (result.log is None) == (result.value == 0)
    if result.log is None:
        assert "has no logarithm" in result.notes[-1]


# The result ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def result(make_images: MakeImages, tmp_path: Path) -> FidResult:
    make_images(tmp_path / "images", 650, 8)
    return fid(tmp_path / "images", blocks=2)


def test_a_result_is_written_whole_with_versions(result: FidResult, tmp_path: Path) -> None:
    path = tmp_path / "out" / "result.json"
    path.parent.mkdir()
    path.write_text("an old one")
    write_result(result, path)
    content = json.loads(path.read_text(encoding="utf-8"))
    assert content["format"] == FORMAT
    assert {"lmlangevin", "python", "torch", "numpy", "pillow"} <= set(content["versions"])
    assert content["value"] == result.value
    assert content["protocol"]["name"] == "embedded-cifar10"
    assert content["generated"] == {"name": result.generated, "run": None, "n": 8}
    assert content["blocks"]["images_each"] == 4 and len(content["blocks"]["values"]) == 2
    assert content["notes"] == list(result.notes)
    assert [entry.name for entry in path.parent.iterdir()] == ["result.json"]


def test_a_result_that_cannot_be_written_is_told(result: FidResult, tmp_path: Path) -> None:
    with pytest.raises(LMLError, match="cannot be written .* give another file"):
        write_result(result, tmp_path / "nowhere" / "result.json")


MEMORY = """
import sys
import torch
from lmlangevin.evaluation.extractors import CallableExtractor
from lmlangevin.evaluation.fid import fid
from lmlangevin.evaluation.protocols import PROTOCOLS, Protocol, find_protocol

torch.set_num_threads(1)
extractor = CallableExtractor(lambda images: images[:, :, ::50, ::50].double().flatten(1), "corners")
fid(sys.argv[1], sys.argv[2], Protocol("mine", "callable", 100), extractor=extractor, batch_size=20)
print(next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM")))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads the peak of memory from /proc")
def test_memory_does_not_grow_with_the_number_of_images(make_images: MakeImages, tmp_path: Path) -> None:
    """1,000 images of 200x200 are 120 MB of bytes, which are never in memory together."""
    peaks = []
    make_images(tmp_path / "few", 660, 50, (200, 200))
    files = sorted((tmp_path / "few").iterdir())
    (tmp_path / "many").mkdir()
    for k in range(1000):
        os.link(files[k % len(files)], tmp_path / "many" / f"{k:06d}.png")
    for folder in ("few", "many"):
        done = subprocess.run(
            [sys.executable, "-c", MEMORY, str(tmp_path / folder), str(tmp_path / "few")],
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        peaks.append(int(done.stdout) / 1024)
    assert peaks[1] - peaks[0] < 40

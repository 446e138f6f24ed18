"""What a user may name, and the batches that are read from it."""

from __future__ import annotations

import io
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from lmlangevin.core.errors import LMLError
from lmlangevin.evaluation.protocols import Preparation, Protocol, find_protocol
from lmlangevin.evaluation.sources import (
    MANIFEST_FORMAT,
    ImageFiles,
    SizeCount,
    StatisticsFile,
    image_batches,
    open_source,
    read_image,
)

ANY = Protocol("any", "callable", 100)
EMBEDDED = find_protocol("embedded-cifar10")
COCO = find_protocol("lml-coco")


def opened(*args: Any, **kwargs: Any) -> ImageFiles:
    source = open_source(*args, **kwargs)
    assert isinstance(source, ImageFiles)
    return source


# Folders ------------------------------------------------------------------------------------------------------------


def test_a_folder_is_its_images_by_name(make_images: Callable[..., list[Path]], tmp_path: Path) -> None:
    folder = tmp_path / "images"
    image = Image.open(make_images(folder, 500, 1)[0])
    for name in ("b.jpg", "a.JPEG", "d.webp", "c.bmp", "z.PNG"):
        image.save(folder / name)
    for name in (".hidden.png", ".000000.png.77.tmp", "notes.txt", "list.csv"):
        (folder / name).write_text("nothing")
    (folder / "inner").mkdir()
    (folder / "inner" / "e.png").write_text("nothing")
    (folder / "folder.png").mkdir()
    (folder / "manifest.json").write_text(json.dumps({"format": "of another tool"}))
    source = opened(folder)
    assert [path.name for path in source.files] == ["000000.png", "a.JPEG", "b.jpg", "c.bmp", "d.webp", "z.PNG"]
    assert (source.name, source.run, len(source)) == (str(folder), None, 6)
    assert [batch.shape for batch in image_batches(source.files, EMBEDDED, 4)] == [(4, 3, 32, 32), (2, 3, 32, 32)]


def test_paths_that_name_nothing_are_explained(make_images: Callable[..., list[Path]], tmp_path: Path) -> None:
    make_images(tmp_path / "parent" / "train", 501, 2)
    (tmp_path / "notes.txt").write_text("nothing")
    (tmp_path / "other.json").write_text("[1, 2]")
    (tmp_path / "broken.json").write_text("{")
    for name, message in {
        "parent": "no images in it; .* subfolders are not searched, name one of train",
        "nowhere": "not there; give a folder of images",
        "notes.txt": "neither a folder nor statistics",
        "other.json": "no manifest of lml generate",
        "broken.json": "broken.json cannot be read",
    }.items():
        with pytest.raises(LMLError, match=message):
            open_source(tmp_path / name)
    with pytest.raises(LMLError, match="run 'lml': reference .* leave it out"):
        open_source(tmp_path / "parent" / "train", run="lml", argument="reference")


def test_a_statistics_file_is_told_by_its_suffix(tmp_path: Path) -> None:
    path = tmp_path / "statistics.npz"
    path.write_bytes(b"read later")
    assert open_source(str(path), argument="reference") == StatisticsFile(str(path), "reference", path)


def test_the_format_is_the_one_that_generation_writes() -> None:
    from lmlangevin.generation.manifest import FORMAT

    assert FORMAT == MANIFEST_FORMAT


# Manifests ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("named", ["job", "job/manifest.json"])
def test_a_run_of_a_manifest_is_in_the_order_of_its_seeds(
    make_job: Callable[..., Path], tmp_path: Path, named: str
) -> None:
    job = make_job(tmp_path / "job", 510, 4)
    for run in ("plain", "lml"):
        source = opened(tmp_path / named, run=run)
        assert source.files == tuple(job.resolve() / run / f"{k:06d}.png" for k in range(4))
        assert (source.run, source.notes) == (run, ())


def test_a_manifest_of_several_runs_needs_a_name_and_of_one_run_none(
    make_job: Callable[..., Path], tmp_path: Path
) -> None:
    make_job(tmp_path / "two", 520, 2)
    make_job(tmp_path / "one", 530, 2, runs=("images",))
    with pytest.raises(LMLError, match="has the runs plain, lml; give --run, or name '.*two/plain' or"):
        open_source(tmp_path / "two", argument="generated")
    with pytest.raises(LMLError, match="has the runs plain, lml; name '.*two/plain' or"):
        open_source(tmp_path / "two", argument="reference")
    with pytest.raises(LMLError, match="run 'images': .* has the runs plain, lml; give one of them"):
        open_source(tmp_path / "two", run="images")
    source = opened(tmp_path / "one")
    assert (len(source), source.run) == (2, "images")
    # A run's own folder is a folder of images.
    assert opened(tmp_path / "two" / "lml").run is None


def test_an_unfinished_job_is_noted_and_its_missing_images_are_refused(
    make_job: Callable[..., Path], tmp_path: Path
) -> None:
    job = make_job(tmp_path / "job", 540, 3, status="running")
    assert "not complete (its status is 'running')" in opened(job, run="lml").notes[0]
    (job / "lml" / "000001.png").unlink()
    with pytest.raises(LMLError, match=r"'lml/000001.png' of its manifest is not there \(status 'running'\)"):
        open_source(job, run="lml")


HOSTILE = {
    "parent": "../secret.png",
    "through a run": "images/../../secret.png",
    "absolute": "/etc/passwd",
    "link": "link/secret.png",
    "null": "images/\0.png",
    "long": "x" * 5000,
    "number": 7,
    "nothing": None,
    "list": ["images/000000.png"],
}


@pytest.mark.parametrize("name", HOSTILE.values(), ids=HOSTILE.keys())
def test_a_manifest_does_not_reach_outside_its_folder(
    make_images: Callable[..., list[Path]], make_job: Callable[..., Path], tmp_path: Path, name: object
) -> None:
    os.rename(make_images(tmp_path / "made", 550, 1)[0], tmp_path / "secret.png")
    job = make_job(tmp_path / "job", 551, 2, runs=("images",))
    (job / "link").symlink_to(tmp_path)
    content = json.loads((job / "manifest.json").read_text())
    content["images"][0]["files"]["images"] = name
    (job / "manifest.json").write_text(json.dumps(content))
    with pytest.raises(LMLError, match="its manifest lists .*, which (is not in its folder|names no file)"):
        open_source(job)


def test_a_manifest_that_counts_an_image_twice_is_refused(make_job: Callable[..., Path], tmp_path: Path) -> None:
    job = make_job(tmp_path / "job", 560, 2, runs=("images",))
    content = json.loads((job / "manifest.json").read_text())
    content["images"][0]["files"]["images"] = "images/./000000.png"
    (job / "manifest.json").write_text(json.dumps(content))
    with pytest.raises(LMLError, match="lists a file twice"):
        open_source(job)


@pytest.mark.parametrize(
    ("images", "message"),
    [
        ([], "lists no images"),
        (None, "damaged"),
        ([{"seed": 1}], "damaged"),
        ([{"seed": "first", "files": {"images": "a.png"}}], "damaged"),
        ([{"seed": float("inf"), "files": {"images": "a.png"}}], "damaged"),
        ([{"seed": 1, "files": "a.png"}], "damaged"),
        ([{"seed": 1, "files": {}}], "has the runs"),
    ],
)
def test_a_damaged_manifest_is_refused(
    make_job: Callable[..., Path], tmp_path: Path, images: object, message: str
) -> None:
    with pytest.raises(LMLError, match=message):
        open_source(make_job(tmp_path / "job", 570, 2, images=images))


def test_a_manifest_that_cannot_be_read_does_not_make_its_pictures_samples(
    make_job: Callable[..., Path], tmp_path: Path
) -> None:
    job = make_job(tmp_path / "job", 580, 2)
    for text in ("{", "[" * 100_000):
        (job / "manifest.json").write_text(text)
        with pytest.raises(LMLError, match="manifest.json cannot be read"):
            open_source(job)


# Images -------------------------------------------------------------------------------------------------------------


def test_an_image_is_its_bytes(tmp_path: Path) -> None:
    array = np.random.default_rng(590).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    Image.fromarray(array).save(tmp_path / "a.png")
    made = read_image(tmp_path / "a.png", ANY)
    assert made.dtype == torch.uint8
    assert torch.equal(made, torch.from_numpy(array).permute(2, 0, 1))


@pytest.mark.parametrize("mode", ["L", "1", "P", "RGBA", "LA", "CMYK"])
def test_other_modes_become_rgb(tmp_path: Path, mode: str) -> None:
    array = np.random.default_rng(591).integers(0, 256, (6, 6, 3), dtype=np.uint8)
    picture = Image.fromarray(array).convert(mode)
    path = tmp_path / ("a.jpg" if mode == "CMYK" else "a.png")
    picture.save(path)
    made = read_image(path, ANY)
    assert made.shape == (3, 6, 6)
    if mode == "L":
        assert torch.equal(made[0], made[1]) and torch.equal(made[0], torch.from_numpy(np.array(picture)))


def test_values_of_16_bits_are_scaled_and_of_32_bits_refused(tmp_path: Path) -> None:
    array = np.random.default_rng(592).integers(0, 65536, (6, 6), dtype=np.uint16)
    Image.fromarray(array).save(tmp_path / "a.png")
    expected = torch.from_numpy(np.rint(array / 257).astype(np.uint8))
    assert all(torch.equal(channel, expected) for channel in read_image(tmp_path / "a.png", ANY))


def test_an_image_is_upright_and_opaque(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (64, 32)).save(tmp_path / "a.jpg", exif=exif)
    sizes = SizeCount()
    assert read_image(tmp_path / "a.jpg", ANY, sizes=sizes).shape == (3, 64, 32) and sizes.counts == {(32, 64): 1}
    Image.new("RGBA", (4, 4), (200, 0, 0, 0)).save(tmp_path / "b.png")
    assert read_image(tmp_path / "b.png", ANY).unique().tolist() == [255]


def test_sizes_that_change_start_a_new_batch(make_images: Callable[..., list[Path]], tmp_path: Path) -> None:
    files = make_images(tmp_path / "a", 593, 3, (20, 24)) + make_images(tmp_path / "b", 594, 2, (24, 20))
    sizes = SizeCount()
    shapes = [tuple(batch.shape) for batch in image_batches(files, ANY, 2, sizes=sizes)]
    assert shapes == [(2, 3, 24, 20), (1, 3, 24, 20), (2, 3, 20, 24)]
    assert sizes.counts == {(20, 24): 3, (24, 20): 2} and sizes.other_than(20) == 5
    with pytest.raises(LMLError, match="batch_size 0"):
        list(image_batches(files, ANY, 0))


def test_a_wrong_size_is_refused_with_its_file(make_images: Callable[..., list[Path]], tmp_path: Path) -> None:
    files = make_images(tmp_path, 595, 1) + make_images(tmp_path / "wide", 596, 1, (48, 32))
    with pytest.raises(LMLError, match="generated: file '.*wide/000000.png' is 48x32; protocol 'embedded-cifar10'"):
        list(image_batches(files, EMBEDDED, 1, argument="generated"))


@pytest.mark.parametrize("kind", ["text", "cut", "nothing", "another format", "bits"])
def test_a_broken_image_is_refused_with_its_file(
    make_images: Callable[..., list[Path]], tmp_path: Path, kind: str
) -> None:
    path = make_images(tmp_path, 597, 3, (64, 64))[1]
    whole = path.read_bytes()
    middle = len(whole) // 2
    other = io.BytesIO()
    # A whole picture in a format whose decoder is not let near a file.
    Image.open(path).save(other, format="TIFF")
    path.write_bytes(
        {
            "text": b"no image",
            "cut": whole[:middle],
            "nothing": b"",
            "another format": other.getvalue(),
            "bits": whole[:middle] + bytes(b ^ 0x5A for b in whole[middle : middle + 40]) + whole[middle + 40 :],
        }[kind]
    )
    with pytest.raises(LMLError, match="reference: file '.*000001.png' cannot be decoded"):
        list(image_batches(sorted(tmp_path.iterdir()), ANY, 3, argument="reference"))


@pytest.mark.parametrize("size", [(600, 540), (400, 520), (512, 512)])
def test_the_crop_is_centred_and_the_resize_is_pillows(tmp_path: Path, size: tuple[int, int]) -> None:
    array = np.random.default_rng(598).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    picture = Image.fromarray(array)
    picture.save(tmp_path / "a.png")
    made = read_image(tmp_path / "a.png", COCO)
    short, (left, top) = min(size), ((size[0] - min(size)) // 2, (size[1] - min(size)) // 2)
    square = Image.fromarray(array[top : top + short, left : left + short])
    expected = np.array(square.resize((512, 512), Image.Resampling.BICUBIC))
    assert torch.equal(made, torch.from_numpy(expected).permute(2, 0, 1))
    if size == (512, 512):
        assert torch.equal(made, torch.from_numpy(array).permute(2, 0, 1))


def test_exact_sizes_of_a_protocol_of_ones_own(make_images: Callable[..., list[Path]], tmp_path: Path) -> None:
    mine = Protocol("mine", "callable", 100, preparation=Preparation.EXACT, size=24)
    files = make_images(tmp_path, 599, 2, (24, 24))
    assert next(image_batches(files, mine, 2)).shape == (2, 3, 24, 24)

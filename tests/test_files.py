"""Every file is written whole or not at all, and what goes wrong is one sentence."""

from __future__ import annotations

import contextlib
import os
import resource
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from PIL import Image

from lmlangevin.bench.image_rows import write_png
from lmlangevin.core import LMLError
from lmlangevin.evaluation.frechet import FrechetStatistics
from lmlangevin.files import TEMPORARY, atomic_write, read_json, temporary_name, write_text
from lmlangevin.generation.store import open_store
from lmlangevin.reference import GaussianMixture
from lmlangevin.reproduce.stand_ins import draw_control
from lmlangevin.schedulers.calibrations import write_json


def _statistics(path: Path) -> None:
    features = torch.randn(20, 16, generator=torch.Generator().manual_seed(1))
    FrechetStatistics.empty(16).update(features).save(path)


def _mixture(path: Path) -> None:
    means = torch.randn(3, 40, generator=torch.Generator().manual_seed(2))
    factors = torch.ones(3, 40, 1)
    GaussianMixture.from_factors(torch.ones(3) / 3, means, factors, torch.ones(3)).save(path)


def _noise(side: int) -> Image.Image:
    data = torch.randint(0, 256, (side, side, 3), generator=torch.Generator().manual_seed(3), dtype=torch.uint8)
    return Image.fromarray(data.numpy())


# Name of the file, what writes it, and whether it makes the folder.
WRITERS: dict[str, tuple[str, Callable[[Path], None], bool]] = {
    "statistics": ("a.npz", _statistics, False),
    "mixture": ("a.safetensors", _mixture, False),
    "calibration": ("a.json", lambda path: write_json(path, {"key": "x" * 5000}), False),
    "text": ("a.txt", lambda path: write_text(path, "x" * 5000), True),
    "job": ("a.png", lambda path: open_store(path.parent).write(path.name, b"x" * 5000), False),
    "figure": ("a.png", lambda path: write_png(path, _noise(64)), False),
    "control": ("a.png", lambda path: draw_control(path, 1024), True),
}


@contextlib.contextmanager
def _full_disk(size: int) -> Iterator[None]:
    """Let no file of this process grow beyond a size: writing then fails as it does on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("kind", WRITERS)
def test_a_full_disk_is_one_sentence_and_keeps_the_old_file(kind: str, tmp_path: Path) -> None:
    name, write, _ = WRITERS[kind]
    (tmp_path / name).write_bytes(b"old")
    with (
        _full_disk(1000),
        pytest.raises(LMLError, match=r"cannot be written \(.*\); see to its folder, space") as caught,
    ):
        write(tmp_path / name)
    assert "\n" not in str(caught.value)
    assert os.listdir(tmp_path) == [name] and (tmp_path / name).read_bytes() == b"old"
    write(tmp_path / name)
    assert os.listdir(tmp_path) == [name] and (tmp_path / name).stat().st_size > 1000


@pytest.mark.parametrize("kind", WRITERS)
def test_a_missing_folder_is_one_sentence_or_is_made(kind: str, tmp_path: Path) -> None:
    name, write, makes = WRITERS[kind]
    path = tmp_path / "not_there" / name
    if makes:
        write(path)
        assert os.listdir(path.parent) == [name]
        return
    with pytest.raises(LMLError, match="not_there.* cannot be written .*No such file or directory"):
        write(path)
    assert os.listdir(tmp_path) == []


def test_whatever_stops_a_writer_leaves_no_rest(tmp_path: Path) -> None:
    for error in (KeyboardInterrupt, ValueError("no picture")):
        with (
            pytest.raises(type(error) if isinstance(error, Exception) else error),
            atomic_write(tmp_path / "a") as part,
        ):
            part.write_bytes(b"half")
            raise error
    assert os.listdir(tmp_path) == []


def test_a_folder_and_no_name_are_refused(tmp_path: Path) -> None:
    (tmp_path / "inner" / "deep").mkdir(parents=True)
    for path in (tmp_path / "inner", Path(".")):
        with pytest.raises(LMLError, match="cannot be written|is a folder"):
            write_text(path, "x")
    assert os.listdir(tmp_path) == ["inner"]


def test_writers_of_one_file_at_once_do_not_meet(tmp_path: Path) -> None:
    texts = [str(k) * 50_000 for k in range(4)]
    threads = [
        threading.Thread(target=lambda text=text: [write_text(tmp_path / "a", text) for _ in range(20)])
        for text in texts
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (tmp_path / "a").read_text() in texts and os.listdir(tmp_path) == ["a"]


def test_temporary_names_are_hidden_unique_and_short() -> None:
    names = {temporary_name("a.png") for _ in range(100)}
    assert len(names) == 100 and all(TEMPORARY.fullmatch(name) for name in names)
    # A folder takes names of 255 bytes; 60 characters of the longest kind have 240.
    assert len(temporary_name("\U0001f98a" * 60).encode()) <= 255


def test_json_that_cannot_be_read_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('{"a": [1]}')
    assert read_json(tmp_path / "a.json", "path 'a.json'", "make it again") == {"a": [1]}
    for text in ("{", "[" * 100_000, "\ud800"):
        (tmp_path / "b.json").write_text(text, errors="surrogatepass")
        with pytest.raises(LMLError, match="^path 'b.json' cannot be read.*; make it again.$"):
            read_json(tmp_path / "b.json", "path 'b.json'", "make it again")
    for path in (tmp_path / "none.json", tmp_path):
        with pytest.raises(LMLError, match="^path cannot be read .*; make it again.$"):
            read_json(path, "path", "make it again")

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import pytest

from lmlangevin.core import LMLError
from lmlangevin.files import temporary_name
from lmlangevin.generation import store as store_module
from lmlangevin.generation.remote_store import RemoteStore
from lmlangevin.generation.store import LocalStore, Store, open_store

KINDS = ["path", "file", "memory", "objects"]


@pytest.fixture(params=KINDS)
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    """A store of each kind, before anything is written to it."""
    url = f"memory:/{tmp_path}/run"
    if request.param == "path":
        yield open_store(tmp_path / "a" / "run")
    elif request.param == "file":
        yield open_store(f"file://{tmp_path}/a/run")
    elif request.param == "memory":
        yield open_store(url)
    else:  # as an object store is written to, several files at once
        yield RemoteStore(fsspec.filesystem("memory"), f"{tmp_path}/run", url, atomic=True)
    fsspec.filesystem("memory").store.clear()


def test_every_kind_keeps_files_in_the_same_way(store: Store) -> None:
    store.check_writable()
    assert not store.exists("images/a.png")
    assert store.names("images") == []
    with pytest.raises(FileNotFoundError):
        store.read("images/a.png")
    store.make_folders([])
    store.make_folders(["images", "records"])
    store.write("images/b.png", b"second")
    store.write_all({"images/a.png": b"first", "images/c.png": b"", "records/r.json": b"{}"})
    store.write("images/b.png", b"replaced")
    assert store.names("images") == ["a.png", "b.png", "c.png"]
    assert [store.read(f"images/{n}") for n in store.names("images")] == [b"first", b"replaced", b""]
    assert store.exists("images/a.png") and store.exists("images")
    store.remove_empty("images")
    store.remove(["images/a.png", "images/never.png", "images/c.png"])
    assert store.names("images") == ["b.png"]
    store.remove(["images/b.png"])
    store.remove_empty("images")
    store.remove_empty("never")
    assert not store.exists("images")
    assert store.names("records") == ["r.json"]


def test_many_files_are_read_in_order_and_missing_ones_are_told(store: Store) -> None:
    store.make_folders(["images"])
    names = [f"images/{k:03d}" for k in range(600)]
    store.write_all({name: name.encode() for name in names if not name.endswith("7")})
    found = list(store.read_each(names, lambda name, data: (name, data)))
    assert found == [(name, None if name.endswith("7") else name.encode()) for name in names]


@pytest.mark.parametrize("name", ["", "/etc/x", "../x", "a/../x", "a//x", ".x", "a/.x", "a\\x", "a b", "a/", "é"])
def test_a_name_cannot_lead_elsewhere(name: str, store: Store) -> None:
    store.make_folders([])
    for use in (lambda: store.write(name, b"x"), lambda: store.read(name), lambda: store.remove([name])):
        with pytest.raises(LMLError, match="is no name of a job's file"):
            use()


def test_what_was_left_half_written_is_neither_listed_nor_kept(store: Store) -> None:
    store.make_folders(["images"])
    store.write("images/a.png", b"whole")
    half = temporary_name("a.png")
    if isinstance(store, LocalStore):
        (store._root / "images" / half).write_bytes(b"ha")
    elif isinstance(store, RemoteStore):
        store._filesystem.pipe_file(f"{store._root}/images/{half}", b"ha")
    assert store.names("images") == ["a.png"]
    store.sweep(["", "images", "never"])
    if isinstance(store, LocalStore):
        assert os.listdir(store._root / "images") == ["a.png"]
    elif not store.parallel:  # a put leaves no halves, so none are looked for
        assert len(store._filesystem.ls(f"{store._root}/images")) == 1
    assert store.read("images/a.png") == b"whole"


def test_places_are_paths_for_paths_and_urls_for_urls(tmp_path: Path) -> None:
    assert open_store(tmp_path).place("grid.png") == tmp_path / "grid.png"
    assert open_store(f"file://{tmp_path}/").place("a/b.png") == f"file://{tmp_path}/a/b.png"
    assert open_store("memory://x/y").place("grid.png") == "memory://x/y/grid.png"


def test_a_failed_write_keeps_the_old_file_and_leaves_no_rest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = open_store(tmp_path)
    store.write("a.png", b"old")

    def full(self: Path, data: bytes) -> int:
        with self.open("wb") as stream:
            stream.write(data[:2])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(LMLError, match=r"cannot be written \(No space left on device\)"):
        store.write("a.png", b"newer")
    assert os.listdir(tmp_path) == ["a.png"]
    assert store.read("a.png") == b"old"


def test_nobody_sees_half_a_file(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    whole = {bytes([k]) * 100_000 for k in range(4)}
    store.write("a.bin", bytes(100_000))
    writer = threading.Thread(target=lambda: [store.write("a.bin", data) for data in sorted(whole) * 20])
    writer.start()
    looks = 0
    while writer.is_alive():
        assert store.read("a.bin") in whole
        looks += 1
    writer.join()
    assert looks > 0
    assert os.listdir(tmp_path) == ["a.bin"]


def test_a_server_that_does_not_rename_over_a_file(tmp_path: Path) -> None:
    filesystem = fsspec.filesystem("memory")

    class Strict:
        def mv(self, source: str, target: str) -> None:
            if filesystem.exists(target):
                raise FileExistsError(target)
            filesystem.mv(source, target)

        def __getattr__(self, name: str) -> Any:
            return getattr(filesystem, name)

    store = RemoteStore(Strict(), str(tmp_path), f"memory:/{tmp_path}", atomic=False)
    store.make_folders([])
    store.write("a.png", b"old")
    store.write("a.png", b"new")
    assert (store.names(""), store.read("a.png")) == (["a.png"], b"new")


def test_what_a_driver_raises_is_one_line(tmp_path: Path) -> None:
    class Broken:
        def __getattr__(self, name: str) -> Any:
            raise RuntimeError("no\nconnection")

    store = RemoteStore(Broken(), "bucket/run", "s3://user:secret@host/bucket", atomic=True)
    for use in (
        lambda: store.write("a", b""),
        lambda: store.read("a"),
        lambda: store.names("a"),
        lambda: store.exists("a"),
    ):
        with pytest.raises(LMLError, match=r"out='s3://\*\*\*@host/bucket' cannot be \w+ \(no connection\)"):
            use()


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("nonsense://x/y", "Protocol not known"),
        ("s3://bucket/run", "Install s3fs"),
        ("memory://x/run*", "stand for patterns"),
        ("ftp://user:secret@127.0.0.1:9/x", r"out='ftp://\*\*\*@"),
    ],
)
def test_a_url_that_cannot_be_used_is_one_line(url: str, words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "s3fs", None)
    with pytest.raises(LMLError, match=words) as caught:
        open_store(url)
    assert "\n" not in str(caught.value)
    assert "give" in str(caught.value)
    assert "secret" not in str(caught.value)


def test_removing_does_not_follow_links_out_of_the_folder(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "000000.png").write_text("precious")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "images").symlink_to(tmp_path / "elsewhere")
    store = open_store(tmp_path / "out")
    store.remove(["images/000000.png"])
    store.remove_empty("images")
    assert (tmp_path / "elsewhere" / "000000.png").read_text() == "precious"


def test_a_folder_is_checked_without_touching_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    open_store(tmp_path / "a" / "b").check_writable()
    assert not (tmp_path / "a").exists()
    (tmp_path / "file").write_text("x")
    with pytest.raises(LMLError, match="is a file"):
        open_store(tmp_path / "file" / "out").check_writable()
    # Tests may run as root, whom chmod does not stop.
    monkeypatch.setattr(store_module.os, "access", lambda path, mode: False)
    with pytest.raises(LMLError, match="no permission"):
        open_store(tmp_path / "out").check_writable()

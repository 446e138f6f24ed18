"""Where a job's files lie when that is no folder: any place that fsspec knows."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from lmlangevin.files import TEMPORARY, temporary_name
from lmlangevin.generation.store import Place, Store, safe_name


class RemoteStore(Store):
    """A place behind a URL, through fsspec.

    Args:
        filesystem: fsspec's object.
        root: The job's place on it.
        out: The URL.
        atomic: Whether a put is seen whole or not at all. Otherwise files are written under another name and moved.
    """

    def __init__(self, filesystem: Any, root: str, out: str, *, atomic: bool) -> None:
        super().__init__(out, parallel=atomic)
        self._filesystem = filesystem
        self._root = root.rstrip("/")
        self._url = out.rstrip("/")
        self._atomic = atomic

    def write(self, name: str, data: bytes) -> None:
        """See `Store.write`."""
        path = self._path(name)
        try:
            if self._atomic:
                self._filesystem.pipe_file(path, data)
                return
            folder, _, last = path.rpartition("/")
            temporary = f"{folder}/{temporary_name(last)}"
            self._filesystem.pipe_file(temporary, data)
            try:
                self._filesystem.mv(temporary, path)
            except FileExistsError:  # some servers do not rename over a file
                self._filesystem.rm_file(path)
                self._filesystem.mv(temporary, path)
        except Exception as error:  # fsspec's drivers raise what their libraries raise
            raise self.failure("written", error) from error

    def read(self, name: str) -> bytes:
        """See `Store.read`."""
        with self.telling("read"):
            return self._filesystem.cat_file(self._path(name))

    def exists(self, name: str) -> bool:
        """See `Store.exists`."""
        with self.telling("read"):
            self._filesystem.invalidate_cache()
            return bool(self._filesystem.exists(self._path(name)))

    def names(self, folder: str) -> list[str]:
        """See `Store.names`."""
        return sorted(name for name in self._list(folder) if not TEMPORARY.fullmatch(name))

    def remove(self, names: Iterable[str]) -> None:
        """See `Store.remove`."""
        by_folder: dict[str, set[str]] = {}
        for name in names:
            folder, _, last = safe_name(name).rpartition("/")
            by_folder.setdefault(folder, set()).add(last)
        for folder, wanted in by_folder.items():
            # Drivers differ in what they do about files that are not there: ask for those alone that are.
            self._delete(folder, sorted(wanted.intersection(self._list(folder))))

    def make_folders(self, names: Iterable[str]) -> None:
        """See `Store.make_folders`."""
        if self._atomic:
            return  # folders are a part of the names there
        with self.telling("written"):
            for folder in (self._root, *(self._path(name) for name in names)):
                self._filesystem.makedirs(folder, exist_ok=True)

    def remove_empty(self, folder: str) -> None:
        """See `Store.remove_empty`."""
        if self._atomic or not self.exists(folder):
            return
        with self.telling("written"):
            if not self._filesystem.ls(self._path(folder), detail=False):
                self._filesystem.rmdir(self._path(folder))

    def sweep(self, folders: Iterable[str]) -> None:
        """See `Store.sweep`."""
        if self._atomic:
            return
        for folder in folders:
            self._delete(folder, [name for name in self._list(folder) if TEMPORARY.fullmatch(name)])

    def check_writable(self) -> None:
        """Leave it to the first write, which is that of the manifest: a server tells nothing before."""

    def place(self, name: str) -> Place:
        """Return the file's URL."""
        return f"{self._url}/{safe_name(name)}"

    def _path(self, name: str) -> str:
        return f"{self._root}/{safe_name(name)}"

    def _list(self, folder: str) -> list[str]:
        path = self._path(folder) if folder else self._root
        try:
            with self.telling("read"):
                self._filesystem.invalidate_cache()
                entries = self._filesystem.ls(path, detail=True)
        except FileNotFoundError:
            return []
        return [str(entry["name"]).rpartition("/")[2] for entry in entries if entry["type"] == "file"]

    def _delete(self, folder: str, names: Sequence[str]) -> None:
        path = self._path(folder) if folder else self._root
        if names:
            with self.telling("written"):
                self._filesystem.rm([f"{path}/{name}" for name in names])

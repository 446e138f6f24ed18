"""Where a job's files lie: a folder, or any place that fsspec knows, written so that nobody sees half of a file."""

from __future__ import annotations

import contextlib
import os
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeAlias, TypeVar

from lmlangevin.core.errors import LMLError
from lmlangevin.files import TEMPORARY, atomic_write, reason_of

T = TypeVar("T")

Place: TypeAlias = Path | str
"""A path, or a URL as text."""

ATOMIC_PUTS = frozenset({"s3", "s3a", "gs", "gcs", "abfs", "abfss", "az", "adl", "oci", "hf"})
"""Object stores, where a put is seen whole or not at all; a rename there would copy the object."""

_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+(?:://|::)")
_LOST_SLASH = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:/(?!/)")
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*(?:/[A-Za-z0-9_][A-Za-z0-9_.-]*)*")
_WORKERS = 8
_CHUNK = 256


def as_place(out: Place) -> Place:
    """Return a URL as text and everything else as a path.

    Raises:
        LMLError: For a URL that has been a path, which drops one of its slashes, and for nothing.
    """
    if not str(out):
        raise LMLError("out='' is no folder; give one, or '.' for the one you are in.")
    if isinstance(out, str) and _URL.match(out):
        return out
    if _LOST_SLASH.match(str(out)):
        raise LMLError(f"out={str(out)!r} is a URL that lost a slash as a path; give it as text, such as 's3://b/run'.")
    return Path(out)


def shown(place: Place) -> str:
    """Return a place as it may be printed: a URL without the password in it."""
    return re.sub(r"://[^/@]*@", "://***@", str(place))


def open_store(out: Place) -> Store:
    """Return the store of a folder or URL. Nothing is written or connected to for that.

    Raises:
        LMLError: For a URL whose protocol is not known or whose driver is not installed.
    """
    out = as_place(out)
    if isinstance(out, Path):
        return LocalStore(out, out)
    from fsspec.core import url_to_fs
    from fsspec.implementations.local import LocalFileSystem
    from fsspec.utils import get_protocol

    try:
        filesystem, root = url_to_fs(out)
    except (ValueError, ImportError) as error:
        raise LMLError(
            f"out={shown(out)!r} cannot be opened ({reason_of(error)}); give a folder, or a URL whose fsspec driver is "
            "installed."
        ) from error
    except Exception as error:  # whatever a driver raises when it is made
        raise LMLError(f"out={shown(out)!r} cannot be opened ({reason_of(error)}); give another URL.") from error
    if isinstance(filesystem, LocalFileSystem):
        return LocalStore(Path(str(root)), out)
    if set("*?[") & set(str(root)):
        raise LMLError(f"out={shown(out)!r} holds one of *?[, which stand for patterns in a URL; give another name.")
    from lmlangevin.generation.remote_store import RemoteStore

    return RemoteStore(filesystem, str(root), out, atomic=get_protocol(out) in ATOMIC_PUTS)


class Store(ABC):
    """A job's files, by names such as `images/000001.png`, relative to where the job lies.

    Every write is seen whole or not at all. A name that could lead elsewhere is refused.

    Args:
        out: The place, as the user gave it.
        parallel: Whether several files may be read or written at once.
    """

    def __init__(self, out: Place, *, parallel: bool) -> None:
        self.out = out
        self.parallel = parallel

    @property
    def shown(self) -> str:
        """The place, as it may be printed."""
        return shown(self.out)

    @abstractmethod
    def write(self, name: str, data: bytes) -> None:
        """Write a file, which replaces one of that name. Its folder must be there.

        Raises:
            LMLError: If it cannot be written.
        """

    @abstractmethod
    def read(self, name: str) -> bytes:
        """Return what a file holds.

        Raises:
            FileNotFoundError: If there is no such file.
            LMLError: If it cannot be read.
        """

    @abstractmethod
    def exists(self, name: str) -> bool:
        """Return whether there is a file or folder of that name."""

    @abstractmethod
    def names(self, folder: str) -> list[str]:
        """Return the names of a folder's files, sorted, without those half-written; none where it is not there."""

    @abstractmethod
    def remove(self, names: Iterable[str]) -> None:
        """Delete files; one that is not there is no mistake."""

    @abstractmethod
    def make_folders(self, names: Iterable[str]) -> None:
        """Make the job's own folder and folders in it.

        Raises:
            LMLError: If they cannot be made.
        """

    @abstractmethod
    def remove_empty(self, folder: str) -> None:
        """Delete a folder if nothing is in it."""

    @abstractmethod
    def sweep(self, folders: Iterable[str]) -> None:
        """Delete what killed processes left half-written in folders; `""` is the job's own. No other may be writing."""

    @abstractmethod
    def place(self, name: str) -> Place:
        """Return where a file lies, for people and other programs."""

    @abstractmethod
    def check_writable(self) -> None:
        """Check that the place can be written, without touching it, as far as that can be known.

        Raises:
            LMLError: If it cannot.
        """

    def write_all(self, files: Mapping[str, bytes]) -> None:
        """Write several files, each as `write` does; remote ones side by side where the driver bears that."""
        if not self.parallel or isinstance(self, LocalStore):
            for name, data in files.items():
                self.write(name, data)
            return
        with ThreadPoolExecutor(_WORKERS) as workers:
            list(workers.map(self.write, files.keys(), files.values()))

    def read_each(self, names: Sequence[str], use: Callable[[str, bytes | None], T]) -> Iterator[T]:
        """Yield `use(name, data)` for each file, in order; no data for one not there. `use` may run in a thread.

        A few files are in memory at a time, however many there are.
        """

        def one(name: str) -> T:
            try:
                data = self.read(name)
            except FileNotFoundError:
                data = None
            return use(name, data)

        if not self.parallel:
            yield from map(one, names)
            return
        with ThreadPoolExecutor(_WORKERS) as workers:
            for start in range(0, len(names), _CHUNK):
                yield from workers.map(one, names[start : start + _CHUNK])

    @contextlib.contextmanager
    def telling(self, what: str) -> Iterator[None]:
        """Tell what goes wrong in one line; a file that is not there is left to whoever asked for it."""
        try:
            yield
        except (LMLError, FileNotFoundError):
            raise
        except Exception as error:  # fsspec's drivers raise what their libraries raise
            if isinstance(self, LocalStore) and not isinstance(error, OSError):
                raise
            raise self.failure(what, error) from error

    def failure(self, what: str, error: Exception) -> LMLError:
        """Return the sentence for what went wrong; `what` is `"read"` or `"written"`."""
        return LMLError(
            f"out={self.shown!r} cannot be {what} ({reason_of(error)}); see to its space and permissions, or give "
            "another folder."
        )


class LocalStore(Store):
    """A folder of this machine, or one that several machines share.

    Args:
        root: The folder.
        out: As the user gave it: the folder, or a `file://` URL.
    """

    def __init__(self, root: Path, out: Place) -> None:
        super().__init__(out, parallel=True)
        self._root = root

    def write(self, name: str, data: bytes) -> None:
        """Write under a temporary name, then rename; see `Store.write`."""
        with atomic_write(self._path(name), f"out={self.shown!r}") as part:
            part.write_bytes(data)

    def read(self, name: str) -> bytes:
        """See `Store.read`."""
        with self.telling("read"):
            return self._path(name).read_bytes()

    def exists(self, name: str) -> bool:
        """See `Store.exists`."""
        return self._path(name).exists()

    def names(self, folder: str) -> list[str]:
        """See `Store.names`."""
        try:
            with self.telling("read"):
                found = [entry.name for entry in os.scandir(self._folder(folder)) if entry.is_file()]
        except (FileNotFoundError, NotADirectoryError):
            return []
        return sorted(name for name in found if not TEMPORARY.fullmatch(name))

    def remove(self, names: Iterable[str]) -> None:
        """See `Store.remove`; what a link leads out of the folder is left alone."""
        root = self._root.resolve()
        for name in names:
            path = self._path(name)
            if path.resolve().is_relative_to(root):
                with self.telling("written"):
                    path.unlink(missing_ok=True)

    def make_folders(self, names: Iterable[str]) -> None:
        """See `Store.make_folders`."""
        try:
            self._root.mkdir(parents=True, exist_ok=True)
            for name in names:
                self._path(name).mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise self.failure("written", error) from error

    def remove_empty(self, folder: str) -> None:
        """See `Store.remove_empty`."""
        path = self._path(folder)
        with self.telling("written"):
            if path.is_dir() and not path.is_symlink() and not any(path.iterdir()):
                path.rmdir()

    def sweep(self, folders: Iterable[str]) -> None:
        """See `Store.sweep`."""
        for path in map(self._folder, folders):
            with self.telling("written"):
                if path.is_dir():
                    for rest in [Path(entry.path) for entry in os.scandir(path) if TEMPORARY.fullmatch(entry.name)]:
                        rest.unlink(missing_ok=True)

    def place(self, name: str) -> Place:
        """Return a path for a path, and for a URL a URL."""
        return f"{self.out.rstrip('/')}/{name}" if isinstance(self.out, str) else self._path(name)

    def check_writable(self) -> None:
        """See `Store.check_writable`."""
        existing = self._root
        with self.telling("written"):  # a name may be too long, say
            while not existing.exists() and existing != existing.parent:
                existing = existing.parent
        if not existing.is_dir():
            raise LMLError(f"out={self.shown!r} cannot be made: {str(existing)!r} is a file; give another folder.")
        if not os.access(existing, os.W_OK | os.X_OK):
            raise LMLError(
                f"out={self.shown!r} cannot be written: no permission in {str(existing)!r}; give another folder."
            )

    def _path(self, name: str) -> Path:
        return self._root / safe_name(name)

    def _folder(self, name: str) -> Path:
        return self._path(name) if name else self._root


def safe_name(name: str) -> str:
    """Return a name that cannot lead out of the job's place.

    Raises:
        LMLError: For any other.
    """
    if not _NAME.fullmatch(name):
        raise LMLError(f"name={name!r} is no name of a job's file; give letters, digits, '.', '_', '-' and '/' only.")
    return name

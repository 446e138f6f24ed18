"""The one place where the version is written, and what a result says of the versions behind it."""

from __future__ import annotations

import contextlib
import importlib.metadata
import platform
from collections.abc import Iterable

__version__ = "0.1.0.dev0"


def installed_versions(packages: Iterable[str]) -> dict[str, str]:
    """Return the versions of this package, of Python and of others; one that is not installed is left out."""
    found = {"lmlangevin": __version__, "python": platform.python_version()}
    for name in packages:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found

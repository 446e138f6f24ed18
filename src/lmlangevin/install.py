"""How to install an optional part of the package, in a command that works where the package is on no index."""

from __future__ import annotations

import shlex
from typing import Any

NAME = "lmlangevin"


def install_hint(extra: str) -> str:
    """Return what to do where an optional dependency is missing, such as `run pip install 'lmlangevin[fid]'`.

    Args:
        extra: An extra of the package.

    Returns:
        The command for how this package was installed: from a clone (its path is named), from a repository, from a
        file, or from an index.

    Reference:
        PEP 610, which has installers note where a package came from.
    """
    came_from = _origin()
    url = str(came_from.get("url", ""))
    if url and "dir_info" in came_from:
        editable = "-e " if came_from["dir_info"].get("editable") else ""
        return f"run pip install {editable}{shlex.quote(f'{_path(url)}[{extra}]')}"
    if url and "vcs_info" in came_from:
        vcs = came_from["vcs_info"]
        url = f"{vcs.get('vcs', 'git')}+{url}@{vcs.get('commit_id', 'HEAD')}"
    if url and came_from.get("subdirectory"):
        url = f"{url}#subdirectory={came_from['subdirectory']}"
    return f"run pip install {shlex.quote(f'{NAME}[{extra}]' + (f' @ {url}' if url else ''))}"


def _origin() -> dict[str, Any]:
    """Return PEP 610's record of where the package came from; empty for an index, and where nothing is known."""
    import importlib.metadata
    import json

    try:
        found = json.loads(importlib.metadata.distribution(NAME).read_text("direct_url.json") or "{}")
    except (importlib.metadata.PackageNotFoundError, OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _path(url: str) -> str:
    """Return the path of a `file://` URL."""
    from urllib.parse import urlsplit
    from urllib.request import url2pathname

    return url2pathname(urlsplit(url).path)

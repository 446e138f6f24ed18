"""The option that names a controller of the user's own, for every command that takes a control."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import Any

import click


def controller_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add `--controller` to a command, which gives what it holds to `import_controller`."""
    words = "A controller of your own, as MODULE:NAME; it is imported, and --control NAME."
    return click.option("--controller", help=words)(command)


def import_controller(reference: str | None) -> str | None:
    """Import what `--controller` names and return the name of its control; None without the option.

    Raises:
        LMLError: If it cannot be imported.
    """
    if reference is None:
        return None
    from lmlangevin.core import load_controller

    # A module that lies in the current folder is found, as `python -m` finds it; an installed one goes first.
    if "" not in sys.path and os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())
    return load_controller(reference)

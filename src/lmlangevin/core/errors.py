"""The package's one exception type."""

from __future__ import annotations


class LMLError(ValueError):
    """A mistake in what the caller asked for.

    Every message is one line that names the argument, the value that was given and what to give instead.
    It is a `ValueError`, so code that knows nothing of this package can still catch it.
    """

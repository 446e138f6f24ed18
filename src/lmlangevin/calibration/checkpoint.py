"""What a fit keeps between its iterations, in memory and in a file, so that an interrupted one goes on."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from lmlangevin.core.errors import LMLError
from lmlangevin.schedulers.calibrations import read_json, write_json
from lmlangevin.values import text

CHECKPOINT_FORMAT = "lmlangevin-calibration-checkpoint-1"


class Iteration(NamedTuple):
    """One iterate: its errors (root mean square), the damping it was reached with, and evaluations until then."""

    fit_error: float
    heldout_error: float | None
    damping: float
    evaluations: int


class FitState(NamedTuple):
    """All that the next iteration depends on.

    Attributes:
        vector: The free numbers of the newest iterate.
        damping: The damping that its next step tries first.
        history: The iterates, the initial one first.
        best: Index of the best one.
        best_vector: Its numbers.
        origin: Those of the schedule that the fit started from.
        resumes: How often the fit went on from a file.
    """

    vector: list[float]
    damping: float
    history: list[Iteration]
    best: int
    best_vector: list[float]
    origin: list[float]
    resumes: int

    def advanced(self, vector: list[float], entry: Iteration) -> FitState:
        """Return the state with one more iterate, which is the best if nothing held out was better."""
        history = [*self.history, entry]
        least, now = self.history[self.best].heldout_error, entry.heldout_error
        after = self._replace(vector=vector, damping=entry.damping, history=history)
        if least is None or now is None or now < least:
            return after._replace(best=len(history) - 1, best_vector=vector)
        return after


def fit_key(start: Tensor, target: Tensor, *words: Any) -> str:
    """Return a hash of all that a fit depends on but the prediction."""
    digest = hashlib.sha256(text([words, start.dtype]).encode())
    for tensor in (start, target):
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def write_checkpoint(path: str | Path, key: str, state: FitState) -> None:
    """Write a state, whole or not at all."""
    write_json(path, {"format": CHECKPOINT_FORMAT, "key": key, **state._asdict()})


def read_checkpoint(path: str | Path, key: str) -> FitState:
    """Read a state.

    Raises:
        LMLError: If the file is of another fit.
    """
    content = read_json(path)
    if content.get("format") != CHECKPOINT_FORMAT or content.get("key") != key:
        raise LMLError(f"checkpoint {str(path)!r} is of another fit; delete it, or give another file.")
    values: dict[str, Any] = {name: content[name] for name in FitState._fields}
    values["history"] = [Iteration(*entry) for entry in values["history"]]
    return FitState(**values)

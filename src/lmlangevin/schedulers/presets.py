"""The default gains: measured, per sampler and time grid, read from `assets/presets.json`.

The table is written by `benchmarks/gain_sweep.py`, which states the rule by which a gain is chosen.
"""

from __future__ import annotations

import functools
import importlib.resources
import inspect
import json
from collections.abc import Mapping
from typing import Any, NamedTuple

from lmlangevin.core import LMLError
from lmlangevin.schedulers.noise import is_flow


class Preset(NamedTuple):
    """A default gain and where it comes from.

    Attributes:
        gain: The gain.
        label: `version/sampler/grid`, with `/halved` at its end where the gain is half of the measured one.
    """

    gain: float
    label: str


class Label(NamedTuple):
    """A preset's label, taken apart."""

    version: str
    sampler: str
    grid: str
    halved: bool

    @property
    def current(self) -> bool:
        """Whether the label is of the table that is installed now."""
        return self.version == presets_version()

    def stale_for(self, base: type, config: Mapping[str, Any]) -> bool:
        """Whether the configuration has since become that of another sampler or grid."""
        return (self.sampler, self.grid) != (sampler_key(base, config), grid_key(base, config))

    def gain(self) -> float | None:
        """Return the gain that the label stands for, None where the installed table is another or has no such row."""
        gain = _table()["gains"].get(self.sampler, {}).get(self.grid) if self.current else None
        return gain / 2 if gain is not None and self.halved else gain


@functools.cache
def _table() -> dict[str, Any]:
    source = importlib.resources.files("lmlangevin") / "assets" / "presets.json"
    return json.loads(source.read_text(encoding="utf-8"))


def presets_version() -> str:
    """Return the version of the installed table."""
    return str(_table()["version"])


def sampler_key(base: type, config: Mapping[str, Any]) -> str:
    """Return the table's name of a sampler, such as `DPMSolverMultistepScheduler-dpmsolver++-2`."""
    own = _own_keys(base, config)
    parts = [base.__name__, own.get("algorithm_type"), own.get("solver_order")]
    return "-".join(str(part) for part in parts if part is not None)


def grid_key(base: type, config: Mapping[str, Any]) -> str:
    """Return the table's name of the time grid that a configuration chooses."""
    own = _own_keys(base, config)
    for key in ("karras", "exponential", "beta"):
        if own.get(f"use_{key}_sigmas"):
            return key
    if own.get("use_lu_lambdas"):
        return "lu"
    if own.get("use_flow_sigmas"):
        return "flow"
    if "timestep_spacing" in own:
        return str(own["timestep_spacing"])
    return "flow" if is_flow(base(**own)) else "default"


def _own_keys(base: type, config: Mapping[str, Any]) -> dict[str, Any]:
    """Leave out the keys of other classes, which diffusers keeps in a configuration for their sake."""
    accepted = _parameters(base)
    return {key: value for key, value in config.items() if key in accepted}


@functools.cache
def _parameters(base: type) -> frozenset[str]:
    return frozenset(inspect.signature(base.__init__).parameters)


def parse_label(label: str | None) -> Label | None:
    """Return the parts of a label, None for None.

    Raises:
        LMLError: If the text is no label.
    """
    if label is None:
        return None
    parts = label.split("/") if isinstance(label, str) else []
    if len(parts) not in (3, 4) or parts[3:] not in ([], ["halved"]):
        raise LMLError(f"preset={label!r} is no preset label; leave it out, and give gain= to choose one yourself.")
    return Label(parts[0], parts[1], parts[2], len(parts) == 4)


def find_preset(base: type, config: Mapping[str, Any], *, halved: bool | None = None) -> Preset:
    """Return the default gain of a sampler on its time grid.

    Args:
        base: The diffusers scheduler class.
        config: Its configuration.
        halved: Whether to halve the measured gain, for model families that were not measured; None does as the label
            in `config["preset"]` does.

    Raises:
        LMLError: If the sampler was not measured.
    """
    if halved is None:
        stored = parse_label(config.get("preset"))
        halved = stored is not None and stored.halved
    sampler, grid = sampler_key(base, config), grid_key(base, config)
    row = _table()["gains"].get(sampler, {})
    if grid not in row:
        raise LMLError(
            f"gain is not given and no preset was measured for {sampler} on the {grid} grid; give gain=, for example "
            "0.2, and compare on your own model."
        )
    label = f"{presets_version()}/{sampler}/{grid}"
    return Preset(row[grid] / 2, f"{label}/halved") if halved else Preset(row[grid], label)

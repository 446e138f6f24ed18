"""What a benchmark is asked to measure: a suite in TOML, taken apart into cells.

title = "Quick"

[[parts]]
name = "analytic"
model = "analytic-cifar10"       # or "embedded", or the path of a mixture.safetensors of tools/fit_mixture.py
samplers = ["ddim", "dpmpp-2m"]  # names of `lml info`
grids = ["default", "karras"]    # or "all"; "best": the best plain grid of the part that `best_of` names
finals = ["zero"]                # where the last step ends: "zero", "min", or both
nfe = [6, 10]                    # network evaluations
arms = ["plain", "preset"]       # also "control=adaptive", "gain=0.3", "eta=1" (DDIM), "release=float32" (the paper's),
                                 # "control=calibrated": the package's calibrations, each on a grid of its own
blocks = 3                       # disjoint blocks of seeds
images = 128                     # images a block
first_seed = 1500000

A path is looked for beside the suite file, then from the working directory. `make` says how its file is made; with it
the part is left out while the file is not there.
"""

from __future__ import annotations

import dataclasses
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any, TypeVar

from lmlangevin.bench.cells import (
    FINALS,
    FLOW_GRIDS,
    Cell,
    default_grid,
    finals_of,
    find_calibrated,
    nearest_cost,
    offered_grids,
    preset_gain,
)
from lmlangevin.core.damping import CALIBRATED, CONSTANT, check_control
from lmlangevin.core.errors import LMLError
from lmlangevin.schedulers.names import SIGMA_GRIDS, VP_GRIDS, SchedulerName, find_scheduler

MODELS = ("analytic-cifar10", "embedded")
MIXTURE = "mixture:"
"""How the recorded name of a mixture from a file starts; the rest is its folder's name, never its whole path."""
MEASURES = ("rmse", "fd")
DTYPES = ("float32", "bfloat16")
IDENTITY = "identity"
"""What the result file of `[identity]` is called in place of a part."""

_Made = TypeVar("_Made", "Part", "Identity")


@dataclass(frozen=True)
class Part:
    """A matrix of cells on one model; see the module for what each name means.

    Attributes:
        gains: Gains for the `preset` arm of samplers that have no preset, by sampler.
        best_of: Part whose plain cells say which grid is the best, for `grids = ["best"]`.
        dtype: Of the network.
        measures: `"rmse"` (to the converged solution) and `"fd"`.
        make: Command line that makes the model's file, for a mixture that does not come with the package.
    """

    name: str
    model: str
    samplers: tuple[str, ...]
    grids: tuple[str, ...]
    nfe: tuple[int, ...]
    blocks: int
    images: int
    first_seed: int
    arms: tuple[str, ...] = ("plain", "preset")
    finals: tuple[str, ...] = ("zero",)
    measures: tuple[str, ...] = MEASURES
    dtype: str = "float32"
    best_of: str = ""
    gains: dict[str, float] = field(default_factory=dict)
    make: str = ""

    def __post_init__(self) -> None:
        if self.mixture is None:
            _choice(self, "model", (self.model,), (*MODELS, "the path of a mixture.safetensors"))
            if self.make:
                raise LMLError(
                    f"make={self.make!r} in part {self.name!r} makes a file, and model={self.model!r} is none; give "
                    "the file's path as model, or leave make out."
                )
        _choice(self, "finals", self.finals, FINALS)
        _choice(self, "measures", self.measures, MEASURES)
        _choice(self, "dtype", (self.dtype,), DTYPES)
        _choice(self, "grids", self.grids, ("all", "default", "best", *VP_GRIDS, *SIGMA_GRIDS, *FLOW_GRIDS))
        for name, value, least in (
            ("blocks", self.blocks, 2),
            ("images", self.images, 2),
            ("first_seed", self.first_seed, 0),
        ):
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise LMLError(
                    f"{name}={value!r} in part {self.name!r} is too small; give a whole number of {least} or more."
                )
        if not self.nfe or any(isinstance(n, bool) or not isinstance(n, int) or not 1 <= n <= 1000 for n in self.nfe):
            raise LMLError(f"nfe={list(self.nfe)} in part {self.name!r}: give whole numbers from 1 to 1000.")
        if "best" in self.grids and not self.best_of:
            raise LMLError(
                f"grids={list(self.grids)} in part {self.name!r} holds 'best'; give best_of, an earlier part."
            )
        for sampler in self.samplers:
            if find_scheduler(sampler).flow and self.model == "embedded":
                raise LMLError(
                    f"samplers in part {self.name!r} hold {sampler!r}, a flow sampler; the embedded model is none."
                )
        for arm in self.arms:
            _parse_arm(self, arm)

    @property
    def mixture(self) -> Path | None:
        """The file of the model, None for one that comes with the package."""
        return Path(self.model) if str(self.model).endswith(".safetensors") else None

    @property
    def model_name(self) -> str:
        """What the model is called in result files."""
        if self.mixture is None:
            return self.model
        # tools/fit_mixture.py gives every file the same name and a folder of its own.
        own = self.mixture.stem if self.mixture.name != "mixture.safetensors" else self.mixture.parent.name
        return MIXTURE + (own or self.mixture.stem)

    @property
    def absent(self) -> str:
        """What to do about a model whose file is not there, in a line; empty where nothing is to be done."""
        if self.mixture is None or self.mixture.is_file():
            return ""
        remedy = self.make and f"make it: {self.make}"
        remedy = remedy or "give the path of a mixture.safetensors that tools/fit_mixture.py wrote."
        return f"model={self.model!r} in part {self.name!r} is no file; {remedy}"

    @property
    def controls(self) -> list[str]:
        """The controls among the arms, by name."""
        return [value for kind, value in (_parse_arm(self, arm) for arm in self.arms) if kind == "control"]

    @property
    def first_seeds(self) -> list[int]:
        """The first seed of each block."""
        return [self.first_seed + block * self.images for block in range(self.blocks)]

    def settings(self) -> dict[str, Any]:
        """Return what the figures of every cell depend on beside the cell itself."""
        names = ("model", "blocks", "images", "first_seed", "measures", "dtype")
        values = {name: list(v) if isinstance(v := getattr(self, name), tuple) else v for name in names}
        return values | {"model": self.model_name}

    def cells(self, best_grids: dict[str, str] | None = None) -> list[Cell]:
        """Return the cells, each once.

        Args:
            best_grids: The best grid of each sampler, for `"best"`; samplers that are not in it have none.
        """
        found: dict[str, Cell] = {}
        for sampler in self.samplers:
            entry = find_scheduler(sampler)
            for grid in self._grids_of(entry, (best_grids or {}).get(sampler)):
                for final in finals_of(entry, self.finals):
                    for nfe in self.nfe:
                        cost = nearest_cost(entry, nfe)
                        for arm in self.arms if cost is not None else ():
                            cell = self._cell(entry, Cell(sampler, grid, final, cost or 0), arm)
                            if cell is not None:
                                found[cell.key] = cell
            # Whatever the grids and finals: a calibration has its own.
            for nfe in self.nfe if CALIBRATED in self.controls and self.mixture is None else ():
                calibrated = find_calibrated(self.model, sampler, nfe)
                if calibrated is not None:
                    found[calibrated[0].key] = calibrated[0]
        return list(found.values())

    def _grids_of(self, entry: SchedulerName, best: str | None) -> list[str]:
        offered = offered_grids(entry)
        wanted: list[str] = []
        for grid in self.grids:
            wanted += {"all": offered, "default": [default_grid(entry)], "best": [best] if best else []}.get(
                grid, [grid]
            )
        return [grid for grid in dict.fromkeys(wanted) if grid in offered]

    def _cell(self, entry: SchedulerName, cell: Cell, arm: str) -> Cell | None:
        """Return the cell of an arm, None where the arm does not apply."""
        kind, value = _parse_arm(self, arm)
        if kind == "plain":
            return cell
        if kind == "eta":
            return dataclasses.replace(cell, eta=float(value)) if entry.class_name == "DDIMScheduler" else None
        if not entry.takes_lml:
            return None
        if kind == "gain":
            return dataclasses.replace(cell, gain=float(value))
        if kind == "control":
            apart = entry.stochastic or value == CALIBRATED
            return None if apart else dataclasses.replace(cell, control=value)
        if kind == "preset":
            gain = self.gains.get(cell.sampler, preset_gain(cell))
            return None if gain is None else dataclasses.replace(cell, gain=gain)
        from lmlangevin.bench.release import published_lambda

        if entry.stochastic or not (entry.class_name.startswith(("DDIM", "DPMSolverMultistep")) or entry.flow):
            return None
        dtype, _, given = value.partition("@")
        return dataclasses.replace(cell, release=f"{dtype}@{float(given) if given else published_lambda(cell.nfe):g}")


@dataclass(frozen=True)
class Identity:
    """What `[identity]` of a suite asks for: every size with every lambda in every precision.

    Attributes:
        sizes: Elements of one prediction.
        lambdas: The damping, absolute.
        dtypes: Names of torch dtypes.
        samples: Predictions each figure is measured on, 2 or more.
        seed: Of the predictions.
    """

    sizes: tuple[int, ...]
    lambdas: tuple[float, ...]
    dtypes: tuple[str, ...]
    samples: int
    seed: int

    def __post_init__(self) -> None:
        for dtype in self.dtypes:
            if dtype not in ("float64", *DTYPES, "float16"):
                raise LMLError(
                    f"dtypes={dtype!r} in [identity] is unknown; give float64, float32, bfloat16 or float16."
                )
        if self.samples < 2 or min(self.sizes) < 2 or not min(self.lambdas) > 0:
            raise LMLError(
                "[identity] has a number that is too small; give samples and sizes of 2 or more, lambdas above 0."
            )


@dataclass(frozen=True)
class Suite:
    """A benchmark: its parts in the order in which they run.

    Attributes:
        name: Result files are named `NAME-PART.json`.
        title: What it is, in a line.
        parts: The parts.
        identity: What to measure of the release's formula by itself; None is nothing.
    """

    name: str
    title: str
    parts: tuple[Part, ...]
    identity: Identity | None = None

    def part(self, name: str) -> Part:
        """Return a part by name.

        Raises:
            LMLError: If there is none of that name.
        """
        for part in self.parts:
            if part.name == name:
                return part
        raise LMLError(f"part={name!r} is not in the suite; give one of {', '.join(p.name for p in self.parts)}.")


def suite_names() -> list[str]:
    """Return the names of the suites that come with the package."""
    folder = resources.files("lmlangevin.bench") / "suites"
    return sorted(item.name.removesuffix(".toml") for item in folder.iterdir() if item.name.endswith(".toml"))


def load_suite(name: str) -> Suite:
    """Load a suite by name, or from a TOML file.

    Raises:
        LMLError: If there is no such suite, or it asks for something unknown.
    """
    if name in suite_names():
        text, folder = (resources.files("lmlangevin.bench") / "suites" / f"{name}.toml").read_text("utf-8"), None
    elif Path(name).is_file():
        text, folder = Path(name).read_text(encoding="utf-8"), Path(name).parent
        name = Path(name).stem
    else:
        raise LMLError(f"suite={name!r} is unknown; give {', '.join(suite_names())}, or the path of a TOML file.")
    try:
        data = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise LMLError(f"suite={name!r} is no TOML ({error}); mend the file.") from error
    unknown = sorted(set(data) - {"title", "parts", "identity"})
    if unknown:
        raise LMLError(f"suite={name!r} has unknown keys {', '.join(unknown)}; it takes title, parts and identity.")
    parts = [_made(Part, _located(entry, folder), f"parts of suite {name!r}") for entry in data.get("parts", [])]
    identity = _made(Identity, data["identity"], f"[identity] of suite {name!r}") if "identity" in data else None
    names = [part.name for part in parts]
    if not (parts or identity) or len(set(names)) < len(names) or IDENTITY in names:
        raise LMLError(
            f"parts of suite {name!r} are {names}; give one or more, each with a name of its own, none {IDENTITY!r}."
        )
    for part in parts:
        if part.best_of and part.best_of not in names[: names.index(part.name)]:
            raise LMLError(f"best_of={part.best_of!r} in part {part.name!r} is no part before it; give one of {names}.")
    return Suite(name, data.get("title", name), tuple(parts), identity)


def _located(entry: dict[str, Any], folder: Path | None) -> dict[str, Any]:
    """Return the table of a part, its model's path being that of the file beside the suite file if there is one."""
    model = entry.get("model")
    if folder is not None and isinstance(model, str) and (folder / model).is_file():
        return entry | {"model": str(folder / model)}
    return entry


def _made(kind: type[_Made], entry: dict[str, Any], what: str) -> _Made:
    """Return the dataclass of a TOML table, its lists as tuples."""
    fields = {f.name: f for f in dataclasses.fields(kind)}
    required = {n for n, f in fields.items() if f.default is f.default_factory is dataclasses.MISSING}
    unknown, missing = sorted(set(entry) - set(fields)), sorted(required - set(entry))
    if unknown or missing:
        wrong = f"unknown keys {', '.join(unknown)}" if unknown else f"no {', '.join(missing)}"
        raise LMLError(f"{what}: {entry.get('name', 'it')!r} has {wrong}; mend the file.")
    values: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in entry.items()}
    return kind(**values)


def _choice(part: Part, name: str, values: Sequence[str], choices: Sequence[str]) -> None:
    for value in values:
        if value not in choices:
            raise LMLError(f"{name}={value!r} in part {part.name!r} is unknown; give one of {', '.join(choices)}.")


def _parse_arm(part: Part, arm: str) -> tuple[str, str]:
    kind, _, value = arm.partition("=")
    try:
        if kind in ("plain", "preset") and not value:
            return kind, ""
        if kind == "control" and value != CONSTANT:
            check_control(value)
            return kind, value
        if kind in ("gain", "eta") and abs(float(value)) <= 10:
            return kind, value
        if kind == "release":
            dtype, _, given = value.partition("@")
            if dtype in ("float32", "float64") and (not given or float(given) > 0):
                return kind, value
    except LMLError as error:
        raise LMLError(f"arms={arm!r} in part {part.name!r}: {error}") from error
    except ValueError:
        pass
    raise LMLError(
        f"arms={arm!r} in part {part.name!r} is unknown; give plain, preset, control=adaptive, control=calibrated, "
        "gain=0.3, eta=1, release=float32 or release=float64@0.001."
    )

"""The file that keeps a calibrated schedule together with what it was fitted for."""

from __future__ import annotations

import functools
import hashlib
import inspect
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any

import torch

from lmlangevin import files
from lmlangevin.core.errors import LMLError
from lmlangevin.core.scheduled import CalibratedSchedule, check_keys
from lmlangevin.files import atomic_write
from lmlangevin.schedulers.noise import is_flow, prediction_kind
from lmlangevin.values import differing, plain

FORMAT = "lmlangevin-calibration-1"

FINGERPRINT_FIELDS = (
    "model_config_hash",
    "scheduler_class",
    "scheduler_config",
    "steps",
    "guidance_scale",
    "prediction_type",
    "flow",
)
"""What a fit depends on. A schedule that is used where one of these differs was never measured there."""

NOISE_KEYS = (
    "num_train_timesteps",
    "beta_start",
    "beta_end",
    "beta_schedule",
    "trained_betas",
    "rescale_betas_zero_snr",
)
"""Keys of a scheduler's configuration that say what a level is. A schedule with a grid of its own needs no others."""

NETWORKS = ("unet", "transformer", "transformer_2", "prior")


def model_config_hash(network: Any) -> str:
    """Return a hash of a network's class and configuration, seen through its wrappers (`unwrapped`).

    Weights are not part of it: a fine-tune has the hash of its base. Adapters (LoRA) are weights in this sense, whether
    they are merged or not, and whether they are active or not; `active_adapters` tells of those that are.
    """
    network = unwrapped(network)
    config = {key: value for key, value in dict(network.config).items() if not key.startswith("_")}
    # Whole numbers keep their point: calibrations that people have were hashed so.
    words = json.dumps(plain([type(network).__name__, config]), sort_keys=True)
    return hashlib.sha256(words.encode()).hexdigest()[:16]


def unwrapped(network: Any) -> Any:
    """Return the network inside of its wrappers.

    These are `torch.compile`, `DataParallel` and its distributed kin, and PEFT models, in any order. Hooks of
    accelerate, and adapters that diffusers loads, leave a network's class as it is.
    """
    while True:
        if hasattr(network, "_orig_mod"):
            network = network._orig_mod
        elif hasattr(network, "peft_config") and hasattr(network, "get_base_model"):
            network = network.get_base_model()
        elif isinstance(network, torch.nn.Module) and hasattr(network, "module") and not _has_own_config(network):
            network = network.module
        else:
            return network


def _has_own_config(network: Any) -> bool:
    """Return whether a configuration is the network's, and not that of a module that it asks in its place."""
    return hasattr(type(network), "config") or "config" in vars(network)


def active_adapters(network: Any) -> list[str]:
    """Return the names of the adapters that change what a network predicts: active, enabled, and not merged into it."""
    found = {
        name
        for module in unwrapped(network).modules()
        if hasattr(module, "merged_adapters") and not getattr(module, "disable_adapters", False)
        for name in module.active_adapters
        if name not in module.merged_adapters
    }
    return sorted(found)


def network_of(pipe: Any) -> Any:
    """Return the denoising network of a pipeline.

    Raises:
        LMLError: If it has none that is known.
    """
    for name in NETWORKS:
        network = getattr(pipe, name, None)
        if getattr(unwrapped(network), "config", None) is not None:
            return network
    raise LMLError(
        f"pipe={type(pipe).__name__} has no {' or '.join(NETWORKS)}, whose configuration a calibration is tied to; "
        "give another pipeline."
    )


def fingerprint(
    network: Any, scheduler: Any, *, steps: int, guidance_scale: float | None, own_grid: bool
) -> dict[str, Any]:
    """Return what a calibration is tied to.

    Args:
        network: The denoising network.
        scheduler: The scheduler that executes it, LML or plain.
        steps: Network evaluations.
        guidance_scale: Strength of guidance, None where there is none.
        own_grid: Whether the schedule brings its own time grid.
    """
    base = getattr(scheduler, "_lml_base", type(scheduler))
    accepted = inspect.signature(base.__init__).parameters
    keys = [key for key in (NOISE_KEYS if own_grid else accepted) if key in accepted and key in scheduler.config]
    return {
        "model_config_hash": model_config_hash(network),
        "scheduler_class": base.__name__,
        "scheduler_config": {key: plain(scheduler.config[key]) for key in keys},
        "steps": steps,
        "guidance_scale": guidance_scale,
        "prediction_type": prediction_kind(scheduler),
        "flow": is_flow(scheduler),
    }


def adapters_notice(network: Any) -> str | None:
    """Return what a user of a calibration is told of adapters that change the network; None where there are none."""
    names = active_adapters(network)
    if not names:
        return None
    return (
        f"Adapters are active ({', '.join(names)}), which a calibration does not tell from other weights of the same "
        "network: compare with the plain sampler."
    )


@dataclass(frozen=True)
class CalibrationFile:
    """A calibrated schedule with what it was fitted for and how.

    Args:
        schedule: The schedule.
        fingerprint: What the fit depends on, field by field: the names of `FINGERPRINT_FIELDS`, values of JSON.
        fit: How it was made: seeds, evaluations spent, errors before and after on the fitted and on held-out seeds,
            versions. For the reader; nothing is checked in it.

    Raises:
        LMLError: If a field of the fingerprint is missing or unknown, or its steps are not the schedule's.
    """

    schedule: CalibratedSchedule
    fingerprint: dict[str, Any]
    fit: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not isinstance(self.schedule, CalibratedSchedule):
            raise LMLError(f"schedule is {self.schedule!r}; give a CalibratedSchedule.")
        for name in ("fingerprint", "fit"):
            if not isinstance(getattr(self, name), Mapping):
                raise LMLError(f"{name} is {getattr(self, name)!r}; give a mapping.")
            object.__setattr__(self, name, plain(getattr(self, name)))
        check_keys("fingerprint", self.fingerprint, FINGERPRINT_FIELDS)
        if self.fingerprint["steps"] != self.schedule.steps:
            raise LMLError(
                f"fingerprint['steps'] is {self.fingerprint['steps']!r} and the schedule has {self.schedule.steps}; "
                f"give {self.schedule.steps}."
            )

    @property
    def sampler(self) -> str:
        """Short name of the sampler that it was fitted for."""
        return str(self.fit.get("scheduler") or ("flow-euler" if self.fingerprint["flow"] else "euler"))

    def check(self, now: Mapping[str, Any], *, unknown: Sequence[str] = ()) -> None:
        """Refuse to be used for something else than this was fitted for.

        Args:
            now: The fingerprint of the run to come.
            unknown: Fields that cannot be known yet.

        Raises:
            LMLError: Names every field that differs, with both values.
        """
        before, after = _flat(self.fingerprint), _flat(plain(now))
        differences = [
            f"{name} was {json.dumps(before.get(name))} and is {json.dumps(after.get(name))}"
            for name in sorted(differing(before, after))
            if name not in unknown
        ]
        if differences:
            raise LMLError(
                f"fingerprint differs from the calibration's: {'; '.join(differences)}. Calibrate for this run, or run "
                "what was calibrated."
            )

    def save(self, path: str | Path) -> None:
        """Write JSON with sorted keys, complete as soon as it is visible.

        Raises:
            LMLError: If the file cannot be written.
        """
        content = {
            "format": FORMAT,
            "schedule": self.schedule.to_config(),
            "fingerprint": self.fingerprint,
            "fit": self.fit,
        }
        write_json(path, content)

    @classmethod
    def load(cls, path: str | Path) -> CalibrationFile:
        """Read what `save` wrote.

        Raises:
            LMLError: If there is no such file, or it holds something else.
        """
        content = read_json(path)
        if content.get("format") != FORMAT:
            raise LMLError(f"path {str(path)!r} has the format {content.get('format')!r}; give one of {FORMAT!r}.")
        check_keys(f"path {str(path)!r}", content, ("format", "schedule", "fingerprint", "fit"))
        return cls(CalibratedSchedule.from_config(content["schedule"]), content["fingerprint"], content["fit"])


def shipped_name(model: str, steps: int, *, flow: bool) -> str:
    """Return the name of a calibration that comes with the package, whether there is one or not."""
    return f"{model}{'-flow' if flow else ''}-{steps}"


@functools.cache
def shipped_calibrations() -> tuple[str, ...]:
    """Return the names of the calibrations that come with the package."""
    folder = resources.files("lmlangevin") / "assets" / "calibrations"
    names = [item.name.removesuffix(".json") for item in folder.iterdir() if item.name.endswith(".json")]
    return tuple(sorted(names, key=lambda name: [int(p) if p.isdigit() else p for p in re.split(r"(\d+)", name)]))


def load_calibration(calibration: str | Path) -> CalibrationFile:
    """Load a calibration: a file, or one that comes with the package by its name, such as `"embedded-8"`.

    Raises:
        LMLError: If there is none, or the file holds something else.
    """
    if str(calibration) in shipped_calibrations():
        source = resources.files("lmlangevin") / "assets" / "calibrations" / f"{calibration}.json"
        with resources.as_file(source) as path:
            return CalibrationFile.load(path)
    if not Path(calibration).is_file():
        raise LMLError(
            f"calibration={str(calibration)!r} is no file and no name; give a file that lml calibrate wrote, or one of "
            f"{', '.join(shipped_calibrations())}."
        )
    return CalibrationFile.load(calibration)


def find_calibration(model: str, steps: int, *, flow: bool = False) -> CalibrationFile | None:
    """Return the calibration that comes with the package for a model and a number of steps, None without one."""
    name = shipped_name(model, steps, flow=flow)
    return load_calibration(name) if name in shipped_calibrations() else None


def write_json(path: str | Path, content: Mapping[str, Any]) -> None:
    """Write JSON, sorted and indented, under a temporary name, then rename it.

    Args:
        path: The file, replaced if it is there.
        content: What JSON can keep.

    Raises:
        LMLError: If the file cannot be written.
    """
    with atomic_write(path, f"path {str(path)!r}") as part:
        part.write_text(json.dumps(content, indent=1, sort_keys=True, allow_nan=False) + "\n", encoding="utf-8")


def read_json(path: str | Path) -> dict[str, Any]:
    """Read a JSON object.

    Raises:
        LMLError: If there is no such file, or it holds something else.
    """
    content = files.read_json(path, f"path {str(path)!r}", "give a calibration file")
    if not isinstance(content, dict):
        raise LMLError(f"path {str(path)!r} holds a {type(content).__name__}; give a calibration file.")
    return content


def _flat(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields with those of a mapping under names of their own, so that a difference can be told apart."""
    flat: dict[str, Any] = {}
    for name, value in fields.items():
        flat |= {f"{name}.{key}": v for key, v in value.items()} if isinstance(value, dict) else {name: value}
    return flat

"""What `lml plot` is given: jobs of `lml generate` and result files, told apart by the format that they name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lmlangevin.core.errors import LMLError
from lmlangevin.evaluation.sources import ImageFiles, open_source
from lmlangevin.files import read_json
from lmlangevin.generation import manifest as manifests
from lmlangevin.schedulers.names import find_scheduler

RESULT = "result.json"
BENCH, REPRODUCE, FID = "lmlangevin-bench-1", "lmlangevin-reproduce-1", "lmlangevin-fid-1"
"""Formats of result files; tests keep them equal to those of the modules that write them, which load much more."""

_RESULTS = {BENCH: "lml bench", REPRODUCE: "lml reproduce", FID: "lml fid"}
_REMEDY = (
    "give a folder or manifest.json of lml generate, or a result file of lml bench, lml reproduce or lml fid --out"
)


@dataclass(frozen=True)
class Frame:
    """An image of an arm.

    Attributes:
        path: Its file.
        prompt: Its prompt, None where there is none.
        noise: Hash of the noise that it started from, None where the manifest has none.
    """

    path: Path
    prompt: str | None
    noise: str | None


@dataclass(frozen=True)
class Arm:
    """One run of a job: a sampler over all of its seeds.

    Attributes:
        job: The job, as the user named it.
        run: Name of the run.
        sampler: Short name of the sampler.
        plain: Whether it is the plain sampler.
        words: What is done to the sampler, such as `LML, gain 0.7`.
        grid: Its time grid, as it was asked for; empty for the default one.
        steps: Its steps.
        nfe: Network evaluations of an image.
        distance: Its Frechet distance, None where none was measured.
        frames: Its images by seed.
    """

    job: str
    run: str
    sampler: str
    plain: bool
    words: str
    grid: str
    steps: int
    nfe: int
    distance: float | None
    frames: Mapping[int, Frame]

    @property
    def title(self) -> str:
        """The sampler and its time grid as people write them."""
        return ", ".join(filter(None, (find_scheduler(self.sampler).title, self.grid)))


@dataclass(frozen=True)
class Job:
    """A complete job of `lml generate`.

    Attributes:
        name: As the user named it.
        model: Its model.
        measured_by: What its Frechet distances depend on, None where it has none.
        arms: Its runs.
    """

    name: str
    model: str
    measured_by: str | None
    arms: tuple[Arm, ...]


@dataclass(frozen=True)
class Result:
    """A result file.

    Attributes:
        path: The file.
        content: What it holds.
    """

    path: Path
    content: Mapping[str, Any]

    @property
    def format(self) -> str:
        """The format that it names."""
        return self.content["format"]


def read_source(named: str | Path) -> Job | Result:
    """Read what a path names, without opening an image.

    Args:
        named: A folder of `lml generate` or `lml reproduce`, or a manifest or result file.

    Raises:
        LMLError: There is no such thing, it is none of these, or it is a job that is not complete.
    """
    path = _file_of(Path(named), str(named))
    content = _read_json(path, str(named))
    kind = content.get("format")
    if kind == manifests.FORMAT:
        return _read_job(path.parent, content, str(named))
    if kind not in _RESULTS:
        raise LMLError(f"manifest {str(named)!r} is neither a manifest nor a result; {_REMEDY}.")
    if kind != FID and not content.get("cells"):
        raise LMLError(f"manifest {str(named)!r}, a file of {_RESULTS[kind]}, holds no measured cells; give another.")
    return Result(path, content)


def find_arm(named: str, run: str | None, beside: Path) -> Arm:
    """Return the arm whose images were measured, from the names that a result of `lml fid` records.

    Args:
        named: What was named as generated: a job's folder or manifest, or the folder of one of its runs.
        run: The run that was taken, None where `named` says it.
        beside: Folder that `named` may also be relative to.

    Raises:
        LMLError: They belong to no job that can be found.
    """
    for base in (Path(), beside):
        path = base / named
        folder = path.parent if path.is_file() or (path.name in manifests.ARMS and run is None) else path
        if (folder / manifests.MANIFEST).is_file():
            job = read_source(folder)
            wanted = run or (path.name if path.name in manifests.ARMS else "images")
            found = [arm for arm in job.arms if arm.run == wanted] if isinstance(job, Job) else []
            if found:
                return found[0]
    raise LMLError(
        f"generated={named!r} of a result of lml fid belongs to no job of lml generate that is there, so its number of "
        "evaluations is not known; run lml plot from the folder that lml fid was run in."
    )


def _file_of(path: Path, named: str) -> Path:
    if path.is_dir():
        for name in (manifests.MANIFEST, RESULT):
            if (path / name).is_file():
                return path / name
        raise LMLError(f"manifest {named!r} is a folder without {manifests.MANIFEST} and {RESULT}; {_REMEDY}.")
    if not path.is_file():
        raise LMLError(f"manifest {named!r} is not there; {_REMEDY}.")
    return path


def _read_json(path: Path, named: str) -> dict[str, Any]:
    content = read_json(path, f"manifest {named!r}", _REMEDY)
    if not isinstance(content, dict):
        raise LMLError(f"manifest {named!r} is neither a manifest nor a result; {_REMEDY}.")
    return content


def _read_job(folder: Path, content: dict[str, Any], named: str) -> Job:
    if content.get("status") != "complete":
        raise LMLError(
            f"manifest {named!r}: its job is not complete (status {content.get('status')!r}); finish it with lml "
            "generate --resume."
        )
    try:
        arms = tuple(_read_arm(folder, content, run, named) for run in content["runs"])
        about = content.get("frechet")
        measured_by = about and f"{about['protocol']}, features {about['weight_hash'][:8]}"
        return Job(named, content["model"]["name"], measured_by, arms)
    except (KeyError, TypeError, AttributeError) as error:
        raise LMLError(f"manifest {named!r} is damaged ({error!r}); run lml generate again.") from error


def _read_arm(folder: Path, content: dict[str, Any], run: str, named: str) -> Arm:
    found = open_source(folder, run=run, argument="manifest")
    assert isinstance(found, ImageFiles)  # a manifest names images and no statistics
    entries = sorted(content["images"], key=lambda entry: entry["seed"])  # in the order of the paths
    frames = {
        entry["seed"]: Frame(path, entry.get("prompt"), entry.get("noise_sha256"))
        for entry, path in zip(entries, found.files, strict=True)
    }
    config, made = content["config"], content["runs"][run]
    plain = run == "plain" or (run == "images" and not config["lml"])
    return Arm(
        job=named,
        run=run,
        sampler=config["scheduler"],
        plain=plain,
        words="plain" if plain else _words(run, made["scheduler_config"]),
        grid=config["timestep_spacing"] or config["sigmas"] or "",
        steps=config["steps"],
        nfe=made["nfe"],
        distance=made["frechet_distance"],
        frames=frames,
    )


def _words(run: str, config: Mapping[str, Any]) -> str:
    if run == "release":
        return "release rounding"
    if config.get("control") not in (None, "constant"):
        return f"LML, {config['control']}"
    if config.get("gain") is None:
        return f"LML, kappa {config['kappa']:g}"
    return f"LML, gain {config['gain']:g}"

"""What a reproduction is asked to do, resolved into cells: one job of `lml generate` each."""

from __future__ import annotations

import dataclasses
import functools
import json
import shlex
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lmlangevin.core.errors import LMLError
from lmlangevin.reproduce.preset import DRY_RUN, Preset, load_preset

if TYPE_CHECKING:
    from lmlangevin.evaluation.protocols import Protocol
    from lmlangevin.generation.config import GenerateConfig

BLIP = "Salesforce/blip-vqa-base"
RELEASE_DTYPE = "float32"
"""Precision that the release's formula is evaluated in."""


@dataclass(frozen=True)
class ReproduceConfig:
    """A reproduction. Nothing is loaded or written for it.

    Args:
        name: A preset's name.
        out: Folder to write to; None is `reproduce/NAME`.
        model: A model that comes with the package, or a hub id.
        model_dir: Folder of a saved pipeline, in place of `model`.
        data_dir: Folder of the reference, the prompts and the pictures that the preset needs.
        controlnet: Folder or hub id of a ControlNet, for a model's folder without one; None is the preset's.
        num_images: Images of each arm, and of each category; None is the preset's.
        nfe: Network evaluations in place of the preset's; empty is the preset's.
        schedulers: Some of the preset's samplers; empty is all.
        device: `"cpu"`, `"cuda"`, `"cuda:N"` or `"mps"`.
        dtype: Of the network; None is the preset's.
        batch_size: Images at once; None is the preset's.
        inception_weights: File of Inception's weights.
        blip_model: Folder or hub id of the BLIP that answers questions; None is the published one.
        dry_run: Run a handful of images through everything, with stand-ins for what is measured with.
        resume: Go on with an earlier run in `out`.
        overwrite: Replace an earlier run in `out`.
    """

    name: str
    out: Path | None = None
    model: str | None = None
    model_dir: Path | None = None
    data_dir: Path | None = None
    controlnet: str | None = None
    num_images: int | None = None
    nfe: tuple[int, ...] = ()
    schedulers: tuple[str, ...] = ()
    device: str = "cpu"
    dtype: str | None = None
    batch_size: int | None = None
    inception_weights: Path | None = None
    blip_model: str | None = None
    dry_run: bool = False
    resume: bool = False
    overwrite: bool = False


@dataclass(frozen=True)
class Cell:
    """One job: a sampler at a cost, on a category of prompts where there are categories.

    Attributes:
        sampler: Name of the sampler.
        nfe: Network evaluations of each image.
        category: Of T2I-CompBench; empty where there are none.
        arms: `"plain"`, `"lml"` and `"release"`, or `"plain"` alone.
    """

    sampler: str
    nfe: int
    category: str
    arms: tuple[str, ...]

    @property
    def key(self) -> str:
        """What the record calls it."""
        return "|".join(filter(None, (self.category, self.sampler, str(self.nfe))))

    @property
    def folder(self) -> str:
        """Name of its job's folder."""
        return "-".join(filter(None, (self.category, self.sampler, f"{self.nfe:03d}")))

    def run(self, arm: str) -> str:
        """Return what the job calls an arm."""
        return arm if len(self.arms) > 1 else "images"


@dataclass(frozen=True)
class Inputs:
    """Files that a cell's job is given.

    Attributes:
        prompt_file: Its prompts.
        control_image: What a ControlNet follows.
        controlnet: The ControlNet, where the model's folder has none.
    """

    prompt_file: str | None = None
    control_image: str | None = None
    controlnet: str | None = None


@dataclass(frozen=True)
class Plan:
    """A reproduction with everything resolved but what lies in folders.

    Attributes:
        config: As it was asked for.
        declared: The preset as the model has it, whole.
        preset: The preset as it is run.
        model: Built-in name, folder or hub id; None where none was given.
        out: The folder.
        cells: In the order in which they run.
        offered: Models that come with the package and that the preset is for.
    """

    config: ReproduceConfig
    declared: Preset
    preset: Preset
    model: str | None
    out: Path
    cells: tuple[Cell, ...]
    offered: tuple[str, ...] = ()

    def covers(self, keys: Iterable[str]) -> bool:
        """Return whether cells, by their keys, are all that the preset asks for, with as many images."""
        whole = {cell.key for cell in _cells(self.declared)} <= set(keys)
        return whole and not self.config.dry_run and self.preset.num_images == self.declared.num_images

    @property
    def built_in(self) -> bool:
        """Whether the model comes with the package."""
        from lmlangevin.generation.checks import BUILT_IN

        return self.model in BUILT_IN

    @property
    def model_name(self) -> str:
        """What records call the model: no path, which is nobody else's business."""
        return self.config.model_dir.absolute().name if self.config.model_dir is not None else str(self.model)

    @functools.cached_property
    def family(self) -> str:
        """The class of the pipeline in the model's folder; empty for anything else, or where the folder has none."""
        if self.config.model_dir is None:
            return ""
        try:
            index = json.loads((self.config.model_dir / "model_index.json").read_text(encoding="utf-8"))
            return str(index["_class_name"])
        except (OSError, ValueError, KeyError, TypeError):
            return ""

    @property
    def controlnet(self) -> str | None:
        """The ControlNet that is put into the model's pipeline; None where there is none, or one in it already."""
        if not self.preset.controlnet or "ControlNet" in self.family:
            return None
        return self.config.controlnet or self.preset.controlnet

    @functools.cached_property
    def protocol(self) -> Protocol:
        """The protocol of a Frechet distance."""
        from lmlangevin.evaluation.protocols import Protocol, find_protocol

        name, count = self.preset.protocol, self.preset.num_images
        if name == DRY_RUN:
            return Protocol(
                DRY_RUN, "callable", count, reference="made-up pictures", source="a dry run; the number means nothing"
            )
        found = find_protocol(name)
        return find_protocol(f"{name}@{count}") if found.strict and count != found.num_images else found

    def job(self, cell: Cell, inputs: Inputs | None) -> GenerateConfig:
        """Return the job of a cell.

        Args:
            cell: The cell.
            inputs: Its files; None stands in for them, to see whether all else is right.

        Raises:
            LMLError: If `lml generate` refuses a setting.
        """
        from lmlangevin.generation.config import GenerateConfig

        preset, config = self.preset, self.config
        settings: dict[str, Any] = {"num_images": preset.num_images}
        if preset.prompts:
            side = preset.resolution
            settings |= {"height": side, "width": side, "guidance_scale": preset.guidance_scale}
            settings |= {"prompt": "a picture"} if inputs is None else {"prompt_file": inputs.prompt_file}
            if inputs is not None:
                settings |= {"images_per_prompt": preset.images_per_prompt}
                settings |= {"control_image": inputs.control_image, "controlnet": inputs.controlnet}
            if config.dry_run and preset.dry_run_arguments:
                settings |= {"arguments": dict(preset.dry_run_arguments)}
        if len(cell.arms) > 1:
            settings |= {"compare": True, "release": f"{RELEASE_DTYPE}@{preset.damping(cell.nfe):g}"}
        else:
            settings |= {"lml": False}
        return GenerateConfig(
            out=self.out / "jobs" / cell.folder,
            model=str(self.model),
            scheduler=cell.sampler,
            nfe=cell.nfe,
            batch_size=preset.batch_size,
            seed=preset.first_seed,
            dtype=preset.dtype,
            device=config.device,
            resume=True,
            **settings,
        )

    def evaluations(self, cell: Cell) -> int:
        """Return the network evaluations of a cell, those for guidance included."""
        return len(cell.arms) * cell.nfe * (1 + self.preset.doubled) * self.preset.num_images

    def command(self) -> str:
        """Return the command line that makes the same record, without anybody's folders."""
        config = self.config
        words = ["lml", "reproduce", config.name]
        words += ["--model-dir", self.model_name] if config.model_dir is not None else ["--model", str(self.model)]
        for name in ("data_dir", "controlnet"):
            value = getattr(config, name)
            if value is not None:
                words += [f"--{name.replace('_', '-')}", Path(value).name if Path(value).exists() else str(value)]
        for name in ("num_images", "dtype"):
            if getattr(config, name) is not None:
                words += [f"--{name.replace('_', '-')}", str(getattr(config, name))]
        words += [word for nfe in config.nfe for word in ("--nfe", str(nfe))]
        words += [word for name in config.schedulers for word in ("--scheduler", name)]
        words += ["--dry-run"] if config.dry_run else []
        return shlex.join(words)


def make_plan(config: ReproduceConfig) -> Plan:
    """Resolve a reproduction.

    Raises:
        LMLError: For an unknown preset or sampler, a number out of range, or two settings that exclude each other.
    """
    from lmlangevin.generation.checks import BUILT_IN

    if config.resume and config.overwrite:
        raise LMLError("overwrite and resume exclude each other: one deletes what the other keeps; give one.")
    if config.model is not None and config.model_dir is not None:
        raise LMLError(
            f"model={config.model!r} and model_dir={str(config.model_dir)!r} exclude each other; give one of them."
        )
    model = str(config.model_dir) if config.model_dir is not None else config.model
    declared = load_preset(config.name)
    if config.controlnet is not None and not declared.controlnet:
        raise LMLError(f"controlnet={config.controlnet!r} has no meaning for preset {config.name!r}; leave it out.")
    known = declared.built_in
    if model in BUILT_IN and model not in known:
        remedy = f"give --model {', '.join(known)}, or" if known else "give"
        raise LMLError(f"model={model!r} is not what {config.name} is about; {remedy} --model-dir FOLDER.")
    declared = declared.for_model(model)
    preset = _chosen(declared.for_dry_run() if config.dry_run else declared, config)
    out = config.out if config.out is not None else Path("reproduce") / config.name
    return Plan(config, declared, preset, model, out, _cells(preset), tuple(known))


def _cells(preset: Preset) -> tuple[Cell, ...]:
    # The cheap ones first, so that a run that was stopped has whole columns.
    return tuple(
        Cell(sampler, nfe, category, ("plain", "lml", "release") if sampler in preset.arms else ("plain",))
        for nfe in sorted(set(preset.nfe))
        for category in preset.categories or ("",)
        for sampler in preset.samplers
    )


def _chosen(preset: Preset, config: ReproduceConfig) -> Preset:
    """Return a preset with what was chosen in place of its own."""
    changes: dict[str, Any] = {}
    odd = [name for name in config.schedulers if name not in preset.samplers]
    if odd:
        raise LMLError(
            f"scheduler={odd[0]!r} is none of preset {preset.name!r}; give some of {', '.join(preset.samplers)}."
        )
    if config.schedulers:
        for kind in ("arms", "baselines"):
            changes[kind] = tuple(name for name in getattr(preset, kind) if name in config.schedulers)
    if any(isinstance(nfe, bool) or not isinstance(nfe, int) or not 1 <= nfe <= 1000 for nfe in config.nfe):
        raise LMLError(f"nfe={list(config.nfe)} is out of range; give whole numbers from 1 to 1000.")
    if config.nfe:
        changes["nfe"] = config.nfe
    if config.num_images is not None:
        each = preset.images_per_prompt if preset.measure == "blip-vqa" else preset.blocks
        least = 2 * each
        if config.num_images < least or config.num_images % each:
            what = "images of each prompt" if preset.measure == "blip-vqa" else "blocks of seeds"
            raise LMLError(
                f"num_images={config.num_images} does not go with {each} {what}; give a multiple of {each}, {least} or "
                "more."
            )
        changes["num_images"] = config.num_images
    for name in ("dtype", "batch_size"):
        if getattr(config, name) is not None:
            changes[name] = getattr(config, name)
    return dataclasses.replace(preset, **changes)

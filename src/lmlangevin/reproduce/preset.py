"""Presets of `lml reproduce`: one TOML file each, in `presets/`, read into a `Preset`.

What a file leaves out has the default of the class. A table `[built_in.NAME]` holds what is different for a model that
comes with the package. `assumed` says in words what the paper's texts that we can read do not say.
"""

from __future__ import annotations

import dataclasses
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import resources
from typing import Any, Literal, TypeAlias

from lmlangevin.core.errors import LMLError

DRY_RUN = "dry-run"
"""Name of the protocol of a dry run, which no other result carries."""
DRY_IMAGES = 4
DRY_NFE = (3, 4)
DRY_SIDE = 64
"""Images, numbers of evaluations, and side in pixels (of models that can be asked for one) of a dry run."""

Measure: TypeAlias = Literal["fid", "blip-vqa"]
Prompts: TypeAlias = Literal["", "coco", "compbench"]


@dataclass(frozen=True)
class Preset:
    """An experiment as it is declared.

    Attributes:
        name: Its name on the command line.
        title: What it is, in a line.
        paper: What of the paper it follows, and where its settings are from.
        model: What the model is called.
        published: Hub id that the model was published under.
        classes: Names of the pipelines that a model's folder may hold.
        resolution: Side of the images in pixels.
        measure: `"fid"`, or `"blip-vqa"` of T2I-CompBench.
        nfe: Network evaluations of each image, guidance apart.
        arms: Samplers that are run plain, with LML, and with the release's rounding.
        baselines: Samplers that are run plain only.
        release_lambda: lambda of the release; `"published"` looks it up by the number of evaluations.
        num_images: Images of each arm, and of each category where there are categories.
        first_seed: Seed of the first image.
        blocks: Disjoint blocks of seeds of a Frechet distance.
        protocol: Of a Frechet distance.
        reference: What the reference images are, in words; empty where the protocol brings its own.
        prompts: Where prompts come from; empty for a model without prompts.
        categories: Of T2I-CompBench.
        images_per_prompt: Images of each prompt.
        guidance_scale: Strength of guidance; None for a model without.
        controlnet: Hub id of the published ControlNet; empty for none.
        dtype: Of the network.
        batch_size: Images at once.
        dry_run_arguments: Further arguments of the pipeline's call in a dry run, which makes small images.
        assumed: What is not known of the paper's experiment, and what is done here.
        built_in: What is different for models that come with the package, by name.
    """

    name: str
    title: str
    paper: str
    model: str
    published: str
    classes: tuple[str, ...]
    resolution: int
    measure: Measure
    nfe: tuple[int, ...]
    arms: tuple[str, ...]
    release_lambda: float | Literal["published"]
    num_images: int
    baselines: tuple[str, ...] = ()
    first_seed: int = 0
    blocks: int = 5
    protocol: str = ""
    reference: str = ""
    prompts: Prompts = ""
    categories: tuple[str, ...] = ()
    images_per_prompt: int = 1
    guidance_scale: float | None = None
    controlnet: str = ""
    dtype: str = "float32"
    batch_size: int = 4
    dry_run_arguments: Mapping[str, Any] = field(default_factory=dict)
    assumed: tuple[str, ...] = ()
    built_in: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        from lmlangevin.generation.config import RELEASE_SAMPLERS

        where = f"preset {self.name!r}"
        if self.measure not in ("fid", "blip-vqa") or self.prompts not in ("", "coco", "compbench"):
            raise LMLError(f"{where}: measure {self.measure!r} or prompts {self.prompts!r} is unknown; mend the file.")
        if (self.measure == "fid") != bool(self.protocol) or (self.prompts == "compbench") != bool(self.categories):
            raise LMLError(f"{where}: a protocol goes with fid, and categories with compbench; mend the file.")
        odd = [sampler for sampler in self.arms if sampler not in RELEASE_SAMPLERS]
        if odd or not self.samplers or not self.nfe:
            raise LMLError(f"{where}: arms {self.arms} must be some of {', '.join(RELEASE_SAMPLERS)}; mend the file.")

    @property
    def samplers(self) -> tuple[str, ...]:
        """All samplers, those with three arms first."""
        return (*self.arms, *self.baselines)

    @property
    def doubled(self) -> bool:
        """Whether guidance takes a second evaluation each step; flow models here have it among their inputs."""
        return self.guidance_scale is not None and not any(name.startswith("flow-") for name in self.samplers)

    @property
    def seed_blocks(self) -> int:
        """Blocks of seeds that a value's spread comes from: with prompts of T2I-CompBench, image k of every prompt."""
        return self.images_per_prompt if self.measure == "blip-vqa" else self.blocks

    @property
    def prompt_count(self) -> int:
        """Prompts that are used, of each category."""
        return self.num_images // self.images_per_prompt

    def damping(self, nfe: int) -> float:
        """Return the release's lambda at a number of evaluations."""
        from lmlangevin.bench.release import published_lambda

        return published_lambda(nfe) if self.release_lambda == "published" else self.release_lambda

    def for_model(self, model: str | None) -> Preset:
        """Return the preset as it is for a model; only those that come with the package change it."""
        changes = self.built_in.get(model or "", {})
        return dataclasses.replace(self, **_tuples(changes), built_in={})

    def for_dry_run(self) -> Preset:
        """Return the preset with a handful of images, two numbers of evaluations and a protocol that says so."""
        few: dict[str, Any] = {"nfe": DRY_NFE, "num_images": DRY_IMAGES, "batch_size": 2, "blocks": 2}
        if self.measure == "fid":
            few["protocol"] = DRY_RUN
        else:
            few |= {"categories": self.categories[:1], "images_per_prompt": 2}
        if self.prompts:
            few["resolution"] = DRY_SIDE
        return dataclasses.replace(self, **few)


def preset_names() -> list[str]:
    """Return the names of the presets."""
    folder = resources.files("lmlangevin.reproduce") / "presets"
    return sorted(item.name.removesuffix(".toml") for item in folder.iterdir() if item.name.endswith(".toml"))


def load_preset(name: str) -> Preset:
    """Load a preset.

    Raises:
        LMLError: There is none of that name.
    """
    if name not in preset_names():
        raise LMLError(f"name={name!r} is no preset; give one of {', '.join(preset_names())}.")
    text = (resources.files("lmlangevin.reproduce") / "presets" / f"{name}.toml").read_text(encoding="utf-8")
    return parse_preset(name, text)


def parse_preset(name: str, text: str) -> Preset:
    """Make a preset of the text of a file.

    Raises:
        LMLError: It is no TOML, lacks something, or holds something unknown.
    """
    try:
        content = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise LMLError(f"preset {name!r} is no TOML ({error}); mend the file.") from error
    fields = {item.name: item for item in dataclasses.fields(Preset) if item.name != "name"}
    needed = {key for key, item in fields.items() if item.default is item.default_factory is dataclasses.MISSING}
    tables = [content, *content.get("built_in", {}).values()]
    unknown = sorted({key for table in tables for key in table} - set(fields))
    missing = sorted(needed - set(content))
    if unknown or missing:
        wrong = f"unknown keys {', '.join(unknown)}" if unknown else f"no {', '.join(missing)}"
        raise LMLError(f"preset {name!r} has {wrong}; mend the file.")
    return Preset(name=name, **_tuples(content))


def _tuples(table: Mapping[str, Any]) -> dict[str, Any]:
    return {key: tuple(value) if isinstance(value, list) else value for key, value in table.items()}

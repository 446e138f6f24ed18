"""What a diffusers pipeline is asked to draw: prompts, sizes, pictures to start from or to follow, adapters.

The built-in models take none of it.
"""

from __future__ import annotations

import functools
import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lmlangevin.core.errors import LMLError
from lmlangevin.generation.prompts import Prompts, check_prompt, read_prompts
from lmlangevin.pictures import BLACK, FORMATS, SUFFIXES, WHITE, picture_files, read_rgb

if TYPE_CHECKING:
    from PIL import Image

MEMORY = ("attention-slicing", "vae-slicing", "vae-tiling", "model-cpu-offload", "sequential-cpu-offload")
"""Ways of diffusers to save memory, by the names of its methods without `enable_`."""

PICTURES = ("image", "mask_image", "control_image")
SIDE = 8
"""Sides are whole multiples of this in every latent model; a model may ask for more."""
LARGEST_SIDE = 8192
_FORMATS = (*FORMATS, "TIFF", "GIF")
"""Decoders for a picture that is named by itself."""


@dataclass(frozen=True, kw_only=True)
class Conditions:
    """What a pipeline is given beside noise. Values are checked when it is made, before a model is loaded.

    Args:
        prompt: Text, for models that take one.
        prompt_file: A file of prompts in place of `prompt`, see `read_prompts`. Image k has prompt
            k // images_per_prompt, and `num_images` is as many as that gives, or fewer.
        images_per_prompt: Images of each prompt of the file.
        negative_prompt: Text to stay away from, for models with guidance.
        guidance_scale: Strength of guidance, for models that have it; None keeps the pipeline's default.
        height: Of an image, in pixels, a multiple of 8; None keeps the pipeline's default.
        width: The same.
        num_frames: Frames of a video, for models that make one.
        image: A picture to start from (image to image, inpainting): a file, or a folder with one a prompt, by name.
        mask_image: Where `image` is to be painted anew (white), likewise.
        strength: How much of `image` is noised away, above 0 and up to 1.
        control_image: What a ControlNet follows (edges, depth, pose), likewise.
        controlnet: Folder or hub id of a ControlNet that is put into the model's pipeline.
        lora: Safetensors file, folder or hub id of LoRA weights.
        lora_scale: Their weight.
        arguments: Further arguments of the pipeline's call, by name, such as `{"true_cfg_scale": 4.0}`.
        variant: Which variant of the weights is loaded, such as `"fp16"`.
        memory: Ways to save memory, some of `MEMORY`. They do not change the images beyond rounding.

    Raises:
        LMLError: For a value out of range, two that exclude each other, or a file that cannot be read.
    """

    prompt: str | None = None
    prompt_file: str | None = None
    images_per_prompt: int = 1
    negative_prompt: str | None = None
    guidance_scale: float | None = None
    height: int | None = None
    width: int | None = None
    num_frames: int | None = None
    image: str | None = None
    mask_image: str | None = None
    strength: float | None = None
    control_image: str | None = None
    controlnet: str | None = None
    lora: str | None = None
    lora_scale: float = 1.0
    arguments: Mapping[str, Any] | None = None
    variant: str | None = None
    memory: tuple[str, ...] = ()

    @functools.cached_property
    def prompts(self) -> Prompts | None:
        """The prompts of `prompt_file`."""
        return None if self.prompt_file is None else read_prompts(self.prompt_file)

    @property
    def texts(self) -> tuple[str, ...]:
        """All prompts; none for a model that takes none."""
        if self.prompts is not None:
            return self.prompts.texts
        return () if self.prompt is None else (self.prompt,)

    def prompt_of(self, index: int) -> str | None:
        """Return the prompt of an image."""
        if self.prompts is None:
            return self.prompt
        return self.prompts.texts[index // self.images_per_prompt]

    def prompt_id_of(self, index: int) -> int | None:
        """Return what the prompt file calls the prompt of an image."""
        if self.prompts is None or self.prompts.ids is None:
            return None
        return self.prompts.ids[index // self.images_per_prompt]

    def picture_of(self, name: str, index: int) -> Image.Image:
        """Return a condition of an image, in the size that was asked for.

        Args:
            name: One of `PICTURES`, which was given.
            index: The image.
        """
        paths = self._paths(name)
        picture = read_picture(name, paths[index // self.images_per_prompt if len(paths) > 1 else 0])
        if self.height is None or self.width is None:
            return picture
        from PIL import Image

        return picture.resize((self.width, self.height), Image.Resampling.LANCZOS)

    def inputs(self) -> dict[str, str]:
        """Return the SHA-256 of what the files that were given hold: a job goes on with equal ones only."""
        found = {} if self.prompts is None else {"prompt_file": self.prompts.sha256}
        for name in PICTURES:
            if getattr(self, name) is not None:
                digest = hashlib.sha256()
                for path in self._paths(name):
                    digest.update(path.read_bytes())
                found[name] = digest.hexdigest()
        return found

    def check_files(self) -> None:
        """Decode every picture that was given.

        Raises:
            LMLError: If one cannot be decoded.
        """
        for name in PICTURES:
            if getattr(self, name) is not None:
                for path in self._paths(name):
                    read_picture(name, path)

    def _check_conditions(self, model: str, *, built_in: bool) -> None:
        # A job's settings come back from a manifest as JSON, which has no tuples.
        object.__setattr__(self, "memory", tuple(self.memory))
        for name in ("prompt_file", *PICTURES, "controlnet", "lora"):
            if getattr(self, name) is not None:
                object.__setattr__(self, name, str(getattr(self, name)))
        if built_in:
            self.refuse_conditions(repr(model))
            return
        if self.arguments is not None and not (
            isinstance(self.arguments, Mapping) and all(isinstance(key, str) for key in self.arguments)
        ):
            raise LMLError(f"arguments={self.arguments!r} is no mapping; give names and values.")
        self._check_prompts()
        self._check_numbers()
        self._check_pictures()
        for name in self.memory:
            if name not in MEMORY:
                raise LMLError(f"memory={name!r} is unknown; give some of {', '.join(MEMORY)}.")
        if self.lora is not None and self.lora.endswith(".safetensors") and not Path(self.lora).is_file():
            raise LMLError(f"lora={self.lora!r} is not there; give a safetensors file, a folder, or a hub id.")

    def refuse_conditions(self, model: str, allowed: tuple[str, ...] = ()) -> None:
        """Refuse everything that is given beside noise.

        Args:
            model: What takes none of it, in words.
            allowed: Names of what it takes all the same.

        Raises:
            LMLError: If anything is given.
        """
        for item in fields(Conditions):
            value = getattr(self, item.name)
            if value != item.default and item.name not in allowed:
                raise LMLError(
                    f"{item.name}={value!r} does not fit model={model}, which is unconditional; leave it out, or give "
                    "the model as a hub id or folder of a pipeline that takes it."
                )

    def _check_prompts(self) -> None:
        if self.prompt is not None and self.prompt_file is not None:
            raise LMLError(f"prompt={self.prompt!r} and prompt_file={self.prompt_file!r} exclude each other; give one.")
        for name in ("prompt", "negative_prompt"):
            text = getattr(self, name)
            if text is None or (name == "negative_prompt" and text == ""):
                continue
            check_prompt(name, text)
            if len(text) < 256 and Path(text).is_file():
                raise LMLError(f"{name}={text!r} is the name of a file; give its text, or --prompt-file.")
        count = self.images_per_prompt
        if isinstance(count, bool) or not isinstance(count, int) or count < 1:
            raise LMLError(f"images_per_prompt={count!r} is too small; give a whole number of 1 or more.")
        if count != 1 and self.prompts is None:
            raise LMLError(f"images_per_prompt={count} goes with prompt_file; give num_images for one prompt.")

    def _check_numbers(self) -> None:
        for name in ("guidance_scale", "lora_scale"):
            value = getattr(self, name)
            if value is not None and not math.isfinite(value):
                raise LMLError(f"{name}={value} is not finite; give a number such as {7.5 if name[0] == 'g' else 1}.")
        # Pipelines have further guidance scales of their own, such as true_cfg_scale.
        for name, value in {**(self.arguments or {}), "guidance_scale": self.guidance_scale}.items():
            if ("guidance_scale" in name or "cfg_scale" in name) and isinstance(value, (int, float)) and value < 0:
                raise LMLError(
                    f"{name}={value} is negative, which leads away from the prompt; give 0 or more, and what is to be "
                    "avoided as --negative-prompt."
                )
        for name in ("height", "width"):
            side = getattr(self, name)
            if side is None:
                continue
            if isinstance(side, bool) or not isinstance(side, int) or not SIDE <= side <= LARGEST_SIDE or side % SIDE:
                raise LMLError(f"{name}={side!r} fits no model; give a multiple of {SIDE} up to {LARGEST_SIDE}.")
        if (self.height is None) != (self.width is None):
            raise LMLError(f"height={self.height} and width={self.width}: give both, or neither.")
        frames = self.num_frames
        if frames is not None and (isinstance(frames, bool) or not isinstance(frames, int) or frames < 1):
            raise LMLError(f"num_frames={frames!r} is too small; give a whole number of 1 or more.")
        if self.strength is not None and not 0 < self.strength <= 1:
            raise LMLError(f"strength={self.strength} is out of range; give a number above 0 and up to 1.")

    def _check_pictures(self) -> None:
        if self.image is None:
            for name in ("mask_image", "strength"):
                if getattr(self, name) is not None:
                    raise LMLError(f"{name}={getattr(self, name)!r} needs a picture to start from; give --image.")
        if self.controlnet is not None and self.control_image is None:
            raise LMLError(f"controlnet={self.controlnet!r} needs something to follow; give --control-image.")
        prompts = 1 if self.prompts is None else len(self.prompts.texts)
        for name in PICTURES:
            given = getattr(self, name)
            if given is None:
                continue
            count = len(self._paths(name))
            if count not in (1, prompts):
                raise LMLError(
                    f"{name}={given!r} holds {count} pictures for {prompts} prompt{'s' * (prompts > 1)}; give one for "
                    "all, or one a prompt."
                )

    def _paths(self, name: str) -> list[Path]:
        return list(_picture_paths(name, getattr(self, name)))


@functools.lru_cache(maxsize=16)
def _picture_paths(name: str, given: str) -> tuple[Path, ...]:
    path = Path(given)
    if path.is_file():
        return (path,)
    if path.is_dir():
        found = tuple(picture_files(path))
        if found:
            return found
        raise LMLError(f"{name}={given!r} is a folder without pictures ({', '.join(SUFFIXES)}); give another.")
    raise LMLError(f"{name}={given!r} is not there; give a picture, or a folder of pictures.")


def check_strength(strength: float, steps: int) -> None:
    """Refuse a strength that asks a pipeline for less than one step: it takes `int(strength * steps)` of them.

    Raises:
        LMLError: If it is so small.
    """
    if int(strength * steps) < 1:
        raise LMLError(
            f"strength={strength} of steps={steps} is less than one step; give --strength "
            f"{math.ceil(100 / steps) / 100:g} or more, or --steps {math.ceil(1 / strength)} or more."
        )


def read_picture(name: str, path: Path) -> Image.Image:
    """Return a picture as RGB: upright, 8 bits a channel, and opaque.

    Transparent pixels become white; in a mask and in what a ControlNet follows black, which stands for nothing there.

    Args:
        name: One of `PICTURES`; a message calls it so.
        path: Its file.

    Raises:
        LMLError: If it cannot be decoded.
    """
    failure = f"{name}={str(path)!r} cannot be read as a picture"
    background = WHITE if name == "image" else BLACK
    return read_rgb(path, failure, "give another file", background=background, formats=_FORMATS)

"""What the benchmarks of the scenes models share: a guided network for a list of prompts, and the measures."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from lmlangevin.evaluation import feature_statistics, frechet_distance
from lmlangevin.scenes import SCORES, load_reader, parse_prompt, read_scenes, scene_prompts, score_scene
from lmlangevin.scenes.models import model_source

SHAPE = (4, 16, 16)


class GuidedScenes:
    """A scenes model with classifier-free guidance, one prompt a row, as `network(x, t)` with a `.sample`.

    Args:
        model: `"scenes"`, `"scenes-flow"`, or a folder of such a pipeline.
        prompts: One for each latent.
        guidance_scale: 1 is none.
    """

    def __init__(self, model: str, prompts: Sequence[str], guidance_scale: float) -> None:
        from diffusers import DiffusionPipeline

        self.pipe: Any = DiffusionPipeline.from_pretrained(model_source(model), local_files_only=True)
        self.flow = hasattr(self.pipe, "transformer")
        self.scale = guidance_scale
        self.scheduler_config = self.pipe.scheduler.config
        with torch.no_grad():
            self._texts = [self._encode(list(prompts)), self._encode([""] * len(prompts))]

    def _encode(self, prompts: list[str]) -> tuple[Tensor, ...]:
        if self.flow:
            found = self.pipe.encode_prompt(prompts, None, None, do_classifier_free_guidance=False)
            return found[0], found[2]
        return (self.pipe.encode_prompt(prompts, "cpu", 1, False)[0],)

    def rows(self, chosen: slice) -> GuidedScenes:
        """Return the same network for some of the prompts."""
        part = object.__new__(GuidedScenes)
        part.__dict__ = self.__dict__ | {"_texts": [tuple(t[chosen] for t in texts) for texts in self._texts]}
        return part

    def __call__(self, x: Tensor, t: Any) -> Any:
        """Return the guided prediction of latents (B, 4, 16, 16) at a timestep as `.sample`."""
        if self.scale == 1:
            return SimpleNamespace(sample=self._ask(x, t, *self._texts[0]))
        both = (torch.cat(pair) for pair in zip(*self._texts, strict=True))
        full, bare = self._ask(torch.cat((x, x)), t, *both).chunk(2)
        return SimpleNamespace(sample=bare + self.scale * (full - bare))

    def _ask(self, x: Tensor, t: Any, states: Tensor, *pooled: Tensor) -> Tensor:
        if self.flow:
            return self.pipe.transformer(x, states, pooled[0], torch.as_tensor(t).expand(len(x))).sample
        return self.pipe.unet(x, t, states).sample

    @torch.inference_mode()
    def decode(self, latents: Tensor) -> Tensor:
        """Return images in [-1, 1], rounded to 8 bits as files are."""
        images = torch.cat([self.pipe.vae.decode(part / self.pipe.vae.config.scaling_factor).sample
                            for part in latents.split(64)])  # fmt: skip
        return ((images.clamp(-1, 1) + 1) * 127.5).round() / 127.5 - 1


def mixed_prompts(count: int, *, seen: bool = True) -> list[str]:
    """Return prompts of the categories colour, texture, spatial and complex in turn."""
    files = [scene_prompts(category, seen=seen) for category in ("colour", "texture", "spatial", "complex")]
    return [files[k % 4][k // 4 % 300] for k in range(count)]


def read_scores(images: Tensor, prompts: Sequence[str]) -> tuple[dict[str, list[float | None]], list[Any]]:
    """Return each score of each image, and what the reader sees in it, without places."""
    seen = read_scenes(images)
    scores = [score_scene(objects, parse_prompt(prompt)) for objects, prompt in zip(seen, prompts, strict=True)]
    what = [sorted((o.colour, o.shape, o.texture) for o in objects) for objects in seen]
    return {name: [getattr(score, name) for score in scores] for name in SCORES}, what


def mean_of(values: Sequence[float | None]) -> float | None:
    """Mean of the values that are there."""
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def fd_between(images: Tensor, others: Tensor) -> float:
    """Frechet distance of two sets of images in the reader's features."""
    reader = load_reader()
    sides = [feature_statistics(reader, part, protocol="scenes") for part in (images, others)]
    return frechet_distance(*sides)


def results_path(name: str) -> Path:
    """Return the file of a benchmark's results."""
    from _common import RESULTS

    return RESULTS / f"{name}.json"

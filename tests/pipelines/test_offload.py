"""Ways to save memory, as far as a CPU has them: hooks that move modules, slices, tiles, groups of layers.

`enable_model_cpu_offload` takes `device="cpu"`, which runs all of its hooks; only the copies go nowhere.
`enable_sequential_cpu_offload` fails on a CPU in accelerate, so that its hook is attached by hand: weights wait on the
"meta" device and come for each call. Real accelerators are not tested here.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import accelerate
import diffusers
import pytest
import torch

from lmlangevin import apply_lml, with_lml
from tiny_pipelines import KINDS

CPU = torch.device("cpu")


def modules(pipe: Any) -> list[torch.nn.Module]:
    return [part for part in pipe.components.values() if isinstance(part, torch.nn.Module)]


def model_offload(pipe: Any) -> None:
    pipe.enable_model_cpu_offload(device="cpu")


def hooks_by_hand(pipe: Any) -> None:
    hook = None
    for module in modules(pipe):
        _, hook = accelerate.cpu_offload_with_hook(module, CPU, prev_module_hook=hook)


def sequential_by_hand(pipe: Any) -> None:
    for module in modules(pipe):
        accelerate.cpu_offload(module, CPU)
    assert all(weight.device.type == "meta" for module in modules(pipe) for weight in module.parameters())


def group_offload(pipe: Any) -> None:
    pipe.enable_group_offload(onload_device=CPU, offload_device=CPU, offload_type="leaf_level")


def slices_and_tiles(pipe: Any) -> None:
    pipe.enable_attention_slicing()
    decoder = getattr(pipe, "vae", None)
    for name in ("enable_slicing", "enable_tiling"):
        if hasattr(decoder, name):
            getattr(decoder, name)()


WAYS = [model_offload, hooks_by_hand, sequential_by_hand, group_offload, slices_and_tiles]


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)
@pytest.mark.parametrize("first", [True, False], ids=["before", "after"])
@pytest.mark.parametrize("kind", ["sd15", "flux", "wan"])
def test_the_images_stay(
    kind: str,
    first: bool,
    way: Callable[[Any], None],
    tiny_pipeline: Callable[[str], Path],
    loaded: Callable[..., Any],
    run: Callable[..., torch.Tensor],
) -> None:
    entry = KINDS[kind]
    pictures = {"output_type": "np"}
    expected = run(apply_lml(loaded(kind), gain=0.4), entry, **pictures)
    pipe: Any = diffusers.DiffusionPipeline.from_pretrained(tiny_pipeline(kind))
    pipe.set_progress_bar_config(disable=True)
    base = type(pipe.scheduler)
    if first:
        way(pipe)
    apply_lml(pipe, gain=0.4, record=True)
    if not first:
        way(pipe)
    one, two = run(pipe, entry, **pictures), run(pipe, entry, **pictures)
    assert torch.equal(one, two) and torch.allclose(one, expected, atol=1e-5)
    assert type(pipe.scheduler) is with_lml(base) and len(pipe.scheduler.lml_history) >= 3

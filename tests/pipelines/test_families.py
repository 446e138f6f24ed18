"""How people use pipelines: guidance, batches, generator lists, callbacks, saving, on every kind's own scheduler."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch

from lmlangevin import apply_lml, remove_lml, with_lml
from pipeline_matrix import OWN, Cell
from tiny_pipelines import KINDS

GAIN = 0.4
PROMPTS = ["a red fox", "two blue cars in the snow"]

Run = Callable[..., torch.Tensor]
Loaded = Callable[..., Any]


def steps_of(kind: str) -> int:
    return Cell(kind, OWN, KINDS[kind].prediction_type).steps


def guided(kinds: dict[str, Any]) -> list[str]:
    return [name for name, kind in kinds.items() if kind.guided]


def close(a: torch.Tensor, b: torch.Tensor) -> bool:
    """Equal to what the order of float32 sums in batches of other sizes changes."""
    return torch.allclose(a, b, rtol=1e-3, atol=2e-4 * float(b.std()))


@pytest.mark.parametrize("kind", guided(KINDS))
def test_guidance_on_and_off(kind: str, loaded: Loaded, run: Run) -> None:
    entry, steps = KINDS[kind], steps_of(kind)
    pipe = apply_lml(loaded(kind), gain=GAIN, record=True)
    results = []
    for scale, factor in ((1.0, 1), (6.0, 2)):
        seen: list[int] = []

        def note(module: Any, args: Any, kwargs: Any, seen: list[int] = seen) -> None:
            seen.append((args[0] if args else kwargs["hidden_states"]).shape[0])

        with getattr(pipe, entry.denoiser).register_forward_pre_hook(note, with_kwargs=True):
            results.append(run(pipe, entry, steps=steps, guidance_scale=scale))
        # Two evaluations a step under guidance, and one correction: LML sees the guided prediction.
        history = pipe.scheduler.lml_history
        assert sum(seen) == factor * len(history) and all(info.angle.shape == (1,) for info in history)
        remove_lml(pipe)
        plain = run(pipe, entry, steps=steps, guidance_scale=scale)
        assert not torch.equal(plain, results[-1])
        apply_lml(pipe, gain=GAIN, record=True)
    assert not torch.equal(*results) and all(result.isfinite().all() for result in results)


def test_a_batch_is_its_images(kind: str, loaded: Loaded, run: Run) -> None:
    """Two prompts, two images each, four generators; one of the images alone is the same."""
    entry, steps = KINDS[kind], steps_of(kind)
    pipe = apply_lml(loaded(kind), gain=GAIN, record=True)
    seeds = (11, 12, 13, 14)

    def generators(*chosen: int) -> list[torch.Generator]:
        return [torch.Generator().manual_seed(seeds[k]) for k in chosen]

    if "inpaint" in kind:
        # One picture for all would be encoded with the first generator alone, which is diffusers' way.
        batch = {name: [picture] * 4 for name, picture in entry.arguments().items()}
        batch["prompt"] = [PROMPTS[0], PROMPTS[0], PROMPTS[1], PROMPTS[1]]
    elif entry.text:
        each = "num_videos_per_prompt" if entry.output == "frames" else "num_images_per_prompt"
        batch = {"prompt": PROMPTS, each: 2}
    else:
        batch = {"batch_size": 4}
    whole = run(pipe, entry, steps=steps, generator=generators(0, 1, 2, 3), **batch)
    assert len(whole) == 4 and all(info.angle.shape == (4,) for info in pipe.scheduler.lml_history)
    assert all(not torch.equal(whole[0], other) for other in whole[1:])
    for k in (0, 3):
        prompt = {"prompt": PROMPTS[k // 2]} if entry.text else {}
        alone = run(pipe, entry, steps=steps, generator=generators(k), **prompt)
        assert close(alone[0], whole[k])


def test_a_callback_sees_and_changes_latents(kind: str, loaded: Loaded, run: Run) -> None:
    entry, steps = KINDS[kind], steps_of(kind)
    pipe = loaded(kind)
    parameters = inspect.signature(pipe.__call__).parameters
    if "callback_on_step_end" not in parameters:
        # DDPM and LDM have no callbacks, and PixArt has those of old, which change nothing.
        assert kind in ("ddpm", "ldm", "pixart") and ("callback" in parameters) == (kind == "pixart")
        if kind == "pixart":
            seen: list[torch.Tensor] = []
            apply_lml(pipe, gain=GAIN)
            final = run(pipe, entry, steps=steps, callback=lambda index, t, latents: seen.append(latents))
            assert len(seen) == steps and torch.equal(seen[-1], final)
        return
    kept: list[tuple[torch.Tensor, torch.Tensor]] = []

    def keep(pipe: Any, index: int, t: Any, values: dict[str, Any]) -> dict[str, Any]:
        assert index == len(kept)
        kept.append((values["latents"], values["latents"].clone()))
        return {}

    def scale(pipe: Any, index: int, t: Any, values: dict[str, Any]) -> dict[str, Any]:
        return {"latents": values["latents"] * 0.9} if index == 1 else {}

    plain = run(pipe, entry, steps=steps, callback_on_step_end=scale)
    assert torch.equal(run(apply_lml(pipe, gain=0), entry, steps=steps, callback_on_step_end=scale), plain)
    apply_lml(pipe, gain=GAIN, record=True)
    free = run(pipe, entry, steps=steps, callback_on_step_end=keep)
    assert len(kept) == len(pipe.scheduler.lml_history) >= 3
    assert all(torch.equal(a, b) for a, b in kept)  # nothing is written to after it was handed out
    changed = run(pipe, entry, steps=steps, callback_on_step_end=scale)
    assert changed.isfinite().all() and not torch.equal(changed, free) and not torch.equal(changed, plain)
    assert torch.equal(run(pipe, entry, steps=steps, callback_on_step_end=scale), changed)
    assert torch.equal(run(pipe, entry, steps=steps), free)


def test_saved_and_loaded(kind: str, loaded: Loaded, run: Run, tmp_path: Path) -> None:
    entry, steps = KINDS[kind], steps_of(kind)
    pipe = loaded(kind)
    base, before = type(pipe.scheduler), dict(pipe.scheduler.config)
    plain = run(pipe, entry, steps=steps)
    corrected = run(apply_lml(pipe, gain=GAIN), entry, steps=steps)
    pipe.save_pretrained(tmp_path)

    again: Any = diffusers.DiffusionPipeline.from_pretrained(tmp_path)
    again.set_progress_bar_config(disable=True)
    assert type(again) is type(pipe) and type(again.scheduler) is with_lml(base) and again.scheduler.config.gain == GAIN
    # The loaded weights lie elsewhere in memory, and a convolution may be split differently: equal to rounding.
    assert close(run(again, entry, steps=steps), corrected)
    for made in (again, pipe):
        assert remove_lml(made) is made and type(made.scheduler) is base
        after = dict(made.scheduler.config)
        assert {k: v for k, v in after.items() if k[0] != "_"} == {k: v for k, v in before.items() if k[0] != "_"}
    assert close(run(again, entry, steps=steps), plain) and torch.equal(run(pipe, entry, steps=steps), plain)


def test_what_is_decoded(kind: str, loaded: Loaded, run: Run) -> None:
    entry = KINDS[kind]
    pictures = run(apply_lml(loaded(kind), gain=GAIN), entry, steps=steps_of(kind), output_type="np")
    assert (
        pictures.shape[0] == 1 and pictures.shape[-1] == 3 and pictures.ndim == (5 if entry.output == "frames" else 4)
    )
    assert pictures.isfinite().all() and pictures.min() >= 0 and pictures.max() <= 1 and pictures.std() > 0.01


# Of single kinds ----------------------------------------------------------------------------------------------------


def test_each_condition_has_its_effect(loaded: Loaded, run: Run) -> None:
    from _tiny_parts import condition

    pipe, entry = apply_lml(loaded("sd15-canny"), gain=GAIN), KINDS["sd15-canny"]
    pictures = [condition(name) for name in ("canny", "depth", "pose")]
    images = [run(pipe, entry, image=picture) for picture in pictures]
    assert all(not torch.equal(images[a], images[b]) for a, b in ((0, 1), (0, 2), (1, 2)))
    both = run(pipe, entry, image=pictures[:2], prompt=PROMPTS, generator=None)
    assert both.shape[0] == 2 and both.isfinite().all()


def test_stable_diffusion_3_without_its_largest_encoder(tiny_pipeline: Callable[[str], Path], run: Run) -> None:
    none: Any = {"text_encoder_3": None, "tokenizer_3": None}
    pipe: Any = diffusers.StableDiffusion3Pipeline.from_pretrained(tiny_pipeline("sd3"), **none)
    pipe.set_progress_bar_config(disable=True)
    plain = run(pipe, KINDS["sd3"])
    assert torch.equal(run(apply_lml(pipe, gain=0), KINDS["sd3"]), plain)
    corrected = run(apply_lml(pipe, gain=GAIN), KINDS["sd3"])
    assert corrected.isfinite().all() and not torch.equal(corrected, plain)


def test_the_views_of_a_panorama_keep_to_themselves(loaded: Loaded, run: Run) -> None:
    """It steps one scheduler for every view in turn, with the view's own state: as if each had a batch row."""
    parts = {**loaded("sd15").components, "safety_checker": None, "image_encoder": None}
    pipe: Any = diffusers.StableDiffusionPanoramaPipeline(**parts, requires_safety_checker=False)
    pipe.set_progress_bar_config(disable=True)
    pipe.get_views = functools.partial(pipe.get_views, window_size=8, stride=4)  # three views of 8 x 8 latents
    apply_lml(pipe, scheduler="dpmpp-2m", gain=GAIN)

    def paint(views_at_once: int) -> torch.Tensor:
        return run(pipe, KINDS["sd15"], steps=5, height=64, width=128, view_batch_size=views_at_once)

    one, all_together = paint(1), paint(3)
    assert close(one, all_together)
    remove_lml(pipe)
    assert not close(paint(1), one)


@pytest.mark.parametrize("control", ["constant", "adaptive"])
def test_frames_that_are_dropped_in_a_run(control: str, loaded: Loaded) -> None:
    """ChronoEdit does so, and takes them out of UniPC's memory; LML starts its history afresh."""
    scheduler = apply_lml(loaded("wan"), control=control, record=True, gain=GAIN if control == "constant" else None)
    scheduler = scheduler.scheduler
    scheduler.set_timesteps(8)
    x = torch.randn(1, 4, 5, 2, 2, generator=torch.Generator().manual_seed(3))
    for i, t in enumerate(scheduler.timesteps):
        if i == 3:
            x = x[:, :, [0, -1]]
            scheduler.model_outputs = [None if m is None else m[:, :, [0, -1]] for m in scheduler.model_outputs]
            scheduler.last_sample = scheduler.last_sample[:, :, [0, -1]]
        x = scheduler.step(torch.tanh(x), t, x, return_dict=False)[0]
    assert x.isfinite().all() and len(scheduler.lml_history) == 8
    identity = [bool(info.identity.all()) for info in scheduler.lml_history]
    assert identity[0] and identity[3] and not identity[-1]

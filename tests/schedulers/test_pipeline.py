"""`apply_lml` and `remove_lml` on whole pipelines."""

from __future__ import annotations

import copy
import json
import logging
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from diffusers import (
    DDIMPipeline,
    DDIMScheduler,
    DDPMPipeline,
    DDPMScheduler,
    DPMSolverMultistepScheduler,
    FlowMatchEulerDiscreteScheduler,
    PNDMScheduler,
    UNet2DModel,
)

from lmlangevin import LMLError, apply_lml, remove_lml, with_lml
from lmlangevin.schedulers import build_scheduler, pipeline
from lmlangevin.schedulers.choice import default_control


@pytest.fixture(autouse=True)
def unnoticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every test sees the notice as if it were the first."""
    monkeypatch.setattr(pipeline, "_noticed", False)


@pytest.fixture(scope="module")
def unet() -> UNet2DModel:
    torch.manual_seed(0)
    return UNet2DModel(
        sample_size=8,
        layers_per_block=1,
        block_out_channels=(8, 8),
        down_block_types=("DownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "UpBlock2D"),
        norm_num_groups=4,
    ).eval()


@pytest.fixture
def pixel(unet: UNet2DModel) -> Any:
    pipe = DDPMPipeline(unet, DDIMScheduler(clip_sample=False, timestep_spacing="trailing"))  # type: ignore[arg-type]
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.fixture(scope="module")
def text_parts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

    folder: Path = tmp_path_factory.mktemp("tokenizer")
    letters = [chr(c) for c in range(ord("a"), ord("z") + 1)]
    tokens = [*letters, *(f"{c}</w>" for c in letters), "<|startoftext|>", "<|endoftext|>"]
    (folder / "vocab.json").write_text(json.dumps({token: i for i, token in enumerate(tokens)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    torch.manual_seed(1)
    return {
        "tokenizer": CLIPTokenizer(str(folder / "vocab.json"), str(folder / "merges.txt"), model_max_length=16),
        "text_encoder": CLIPTextModel(
            CLIPTextConfig(
                vocab_size=len(tokens),
                hidden_size=16,
                intermediate_size=16,
                num_hidden_layers=1,
                num_attention_heads=2,
                max_position_embeddings=16,
                bos_token_id=len(tokens) - 2,
                eos_token_id=len(tokens) - 1,
                pad_token_id=len(tokens) - 1,
            )
        ).eval(),
        "unet": UNet2DConditionModel(
            sample_size=8,
            layers_per_block=1,
            block_out_channels=(8, 16),
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
            cross_attention_dim=16,
            attention_head_dim=2,
            norm_num_groups=4,
        ).eval(),
        "vae": AutoencoderKL(
            block_out_channels=(8,), norm_num_groups=4, latent_channels=4, layers_per_block=1, sample_size=8
        ).eval(),
    }


@pytest.fixture
def text(text_parts: dict[str, Any]) -> Any:
    from diffusers import StableDiffusionPipeline

    pipe = StableDiffusionPipeline(
        **text_parts,
        scheduler=PNDMScheduler(skip_prk_steps=True, beta_schedule="scaled_linear", steps_offset=1),  # type: ignore[arg-type]
        safety_checker=None,
        feature_extractor=None,  # type: ignore[arg-type]
        requires_safety_checker=False,
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe


def paint(pipe: Any, seed: int = 0, steps: int = 5, **keys: Any) -> np.ndarray:
    if not isinstance(pipe, DDPMPipeline):
        keys = {"prompt": "a fox", "guidance_scale": 4.0, **keys}
    g = torch.Generator().manual_seed(seed)
    return pipe(num_inference_steps=steps, generator=g, output_type="np", **keys).images


# Unconditional ------------------------------------------------------------------------------------------------------


def test_pixel_pipeline(pixel: Any, table: Any) -> None:
    plain = paint(pixel)
    before = pixel.scheduler
    config = dict(before.config)
    # DDPMPipeline belongs to the measured family: the preset in full, no notice.
    assert apply_lml(pixel, control="constant") is pixel
    assert pixel.scheduler.config.gain == 0.25 and pixel.scheduler.config.preset == "test-1/DDIMScheduler/trailing"
    assert isinstance(pixel.scheduler, DDIMScheduler) and type(pixel.scheduler) is with_lml(DDIMScheduler)
    first, second = paint(pixel), paint(pixel)
    assert np.array_equal(first, second) and abs(first - plain).max() > 1e-4
    assert np.array_equal(paint(pixel, seed=3), paint(apply_lml(copy.copy(pixel), control="constant"), seed=3))
    assert remove_lml(pixel) is pixel
    assert type(pixel.scheduler) is DDIMScheduler
    # Equal with the keys' bookkeeping: what nobody chose is still known as such.
    after = dict(pixel.scheduler.config)
    assert set(after.pop("_use_default_values", [])) == set(config.pop("_use_default_values", []))
    assert after == config
    assert np.array_equal(paint(pixel), plain)
    assert remove_lml(pixel).scheduler is remove_lml(pixel).scheduler


@pytest.mark.parametrize("off", [{"gain": 0}, {"kappa": 0.0}], ids=str)
def test_no_correction_is_the_plain_pipeline(pixel: Any, off: dict[str, float]) -> None:
    plain = paint(pixel)
    assert np.array_equal(paint(apply_lml(pixel, **off)), plain)


@pytest.mark.parametrize(
    ("keys", "control"),
    [
        ({}, "adaptive"),
        ({"scheduler": "dpmpp-2m"}, "adaptive"),
        ({"gain": 0.3}, "constant"),
        ({"kappa": 0.3}, "constant"),
        ({"damping": 2.0}, "constant"),
        ({"rank": 2}, "constant"),
        ({"placement": "reference"}, "constant"),
        ({"control": "constant"}, "constant"),
    ],
    ids=str,
)
def test_who_chooses_the_control(pixel: Any, table: Any, keys: dict[str, Any], control: str) -> None:
    """Adaptive unless something was chosen that it has no use for."""
    apply_lml(pixel, **keys)
    assert pixel.scheduler.config.control == control
    assert (pixel.scheduler.config.preset is None) == (
        control == "adaptive" or bool({"gain", "kappa", "damping"} & {*keys})
    )


@pytest.mark.parametrize(
    "config", [{"clip_sample": True}, {"clip_sample": False, "thresholding": True}], ids=["clips", "thresholds"]
)
def test_a_solver_that_it_does_not_work_with_gets_its_preset(unet: UNet2DModel, table: Any, config: Any) -> None:
    pipe = apply_lml(DDPMPipeline(unet, DDIMScheduler(timestep_spacing="trailing", **config)))
    assert (pipe.scheduler.config.control, pipe.scheduler.config.gain) == ("constant", 0.25)


def test_a_solver_that_draws_noise_is_not_adapted(unet: UNet2DModel, table: Any) -> None:
    plain = DPMSolverMultistepScheduler(algorithm_type="sde-dpmsolver++")
    assert default_control(plain, measured=True) == "constant"
    assert default_control(DPMSolverMultistepScheduler(), measured=True) == "adaptive"
    assert default_control(DPMSolverMultistepScheduler(), measured=False) == "constant"
    assert plain.num_inference_steps is None  # a copy was asked


def test_guided_models_are_not_adapted_unasked(text: Any, table: Any) -> None:
    assert apply_lml(text).scheduler.config.control == "constant"
    assert apply_lml(text, control="adaptive").scheduler.config.control == "adaptive"


def test_a_run_that_is_left_alone_is_said_once(
    pixel: Any, table: Any, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    from lmlangevin.schedulers import mixin

    monkeypatch.setattr(mixin, "_idle_noticed", False)
    plain = paint(pixel, steps=50)
    with caplog.at_level(logging.WARNING, logger="lmlangevin"):
        assert np.array_equal(paint(apply_lml(pixel), steps=50), plain)
        paint(pixel, steps=50)
    notices = [r.getMessage() for r in caplog.records if r.name == "lmlangevin"]
    assert len(notices) == 1 and "leaves this run of 50 steps as it is" in notices[0]


def test_applying_twice_sets_anew(pixel: Any, table: Any) -> None:
    apply_lml(pixel, gain=0.6, rank=3, record=True)
    assert (pixel.scheduler.config.gain, pixel.scheduler.config.rank) == (0.6, 3)
    paint(pixel)
    assert len(pixel.scheduler.lml_history) == 5
    apply_lml(pixel, kappa=0.2, damping=2.0, damping_mode="absolute", placement="reference")
    config = pixel.scheduler.config
    assert (config.gain, config.kappa, config.damping, config.rank, config.record) == (None, 0.2, 2.0, 1, False)
    assert (config.damping_mode, config.placement) == ("absolute", "reference")
    apply_lml(pixel, control="constant")
    assert (pixel.scheduler.config.gain, pixel.scheduler.config.kappa) == (0.25, None)
    paint(pixel)
    with_lml_keys = set(remove_lml(pixel).scheduler.config)
    assert not with_lml_keys & {"gain", "kappa", "damping", "placement", "preset", "lml_enabled"}


def test_another_sampler_by_name_or_class(pixel: Any, table: Any) -> None:
    apply_lml(pixel, scheduler="dpmpp-2m", gain=0.2)
    assert isinstance(pixel.scheduler, DPMSolverMultistepScheduler)
    a = paint(pixel)
    assert np.array_equal(a, paint(apply_lml(pixel, scheduler=DPMSolverMultistepScheduler, gain=0.2)))
    assert type(remove_lml(pixel).scheduler) is DDIMScheduler  # what the pipeline came with
    apply_lml(pixel, scheduler=with_lml(DDIMScheduler), gain=0.2)
    assert type(pixel.scheduler) is with_lml(DDIMScheduler)
    with pytest.raises(LMLError, match="scheduler='best' is unknown"):
        apply_lml(pixel, scheduler="best")


@pytest.mark.parametrize("name", ["dpmpp-2m", "unipc", "deis", "pndm", "euler"])
@pytest.mark.parametrize("before", ["dpm-3", "dpmpp-3m", "sde-dpmpp-2m", "ddim"])
@pytest.mark.filterwarnings("ignore:`algorithm_types dpmsolver")
def test_a_name_is_one_sampler_whatever_was_there_before(before: str, name: str) -> None:
    pixel = type("SomePipeline", (), {})()
    pixel.scheduler = DDIMScheduler(clip_sample=False, timestep_spacing="trailing")
    came_with = dict(pixel.scheduler.config)
    fresh = apply_lml(copy.copy(pixel), scheduler=name, gain=0.1).scheduler
    apply_lml(apply_lml(pixel, scheduler=before, gain=0.2), scheduler=name, gain=0.1)
    assert dict(pixel.scheduler.config) == dict(fresh.config)
    # The same for a pipeline that comes with that sampler: its solver's order is not the named one's.
    remove_lml(apply_lml(pixel, scheduler=before, gain=0.2))
    assert type(pixel.scheduler) is DDIMScheduler and dict(pixel.scheduler.config) == came_with
    pixel.scheduler = build_scheduler(before, came_with)
    apply_lml(pixel, scheduler=name, gain=0.1)
    for key in {"unipc": ["solver_order"], "deis": ["solver_order", "algorithm_type"]}.get(name, ()):
        assert pixel.scheduler.config.get(key) == fresh.config.get(key)


def test_ddpm_with_timesteps_of_its_own_is_corrected(unet: UNet2DModel) -> None:
    scheduler = with_lml(DDPMScheduler)(gain=0.9, record=True)
    scheduler.set_timesteps(timesteps=[900, 600, 300, 10])
    x = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(3))
    for t in scheduler.timesteps:
        x = scheduler.step(0.3 * x, t, x, generator=torch.Generator().manual_seed(4)).prev_sample
    assert len(scheduler.lml_history) == 4 and not scheduler.lml_history[-1].identity.any()


def test_zero_terminal_snr_is_not_adapted(unet: UNet2DModel) -> None:
    config = {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing", "prediction_type": "v_prediction"}
    pipe = DDPMPipeline(unet, DDIMScheduler(clip_sample=False, **config))  # type: ignore[arg-type]
    assert apply_lml(pipe).scheduler.config.control == "constant"
    adaptive = with_lml(DDIMScheduler)(control="adaptive", clip_sample=False, **config)
    with pytest.raises(LMLError, match="zero signal, .* give control='constant'"):
        adaptive.set_timesteps(5)


FIRST: list[dict[str, Any]] = [
    {},
    {"gain": 0.6, "rank": 3, "record": True},
    {"control": "adaptive"},
    {"scheduler": "dpmpp-2m", "gain": 0.3},
    {"scheduler": "dpmpp-3m", "control": "adaptive"},
]


def settings_of(scheduler: Any) -> tuple[type, dict[str, Any], set[str]]:
    config = dict(scheduler.config)
    return type(scheduler), config, set(config.pop("_use_default_values", []))


@pytest.mark.parametrize("second", [*FIRST, {"control": "constant"}, {"kappa": 0.2, "damping": 2.0}], ids=str)
@pytest.mark.parametrize("base", [DDPMScheduler, DDIMScheduler])
def test_the_second_call_is_what_it_is_alone(unet: UNet2DModel, table: Any, base: Any, second: dict[str, Any]) -> None:
    """What was applied before is not seen, be it another sampler that was chosen or one that stood in."""

    def fresh() -> Any:
        return DDPMPipeline(unet, base(clip_sample=False))

    try:
        alone = apply_lml(fresh(), **second).scheduler
    except LMLError:
        alone = None  # no preset was measured
    for first in FIRST:
        pipe = apply_lml(apply_lml(fresh(), **first), **first)
        if alone is None:
            with pytest.raises(LMLError):
                apply_lml(pipe, **second)
            continue
        apply_lml(pipe, **second)
        assert settings_of(pipe.scheduler) == settings_of(alone)
        assert settings_of(remove_lml(pipe).scheduler) == settings_of(fresh().scheduler)


def test_back_to_ddim_by_name_with_its_preset(pixel: Any, table: Any) -> None:
    apply_lml(pixel, scheduler="dpmpp-2m", gain=0.2)
    apply_lml(pixel, scheduler="ddim")
    paint(pixel)


def test_a_scheduler_instance_is_refused_in_words(pixel: Any) -> None:
    with pytest.raises(LMLError, match="scheduler="):
        apply_lml(pixel, scheduler=DDIMScheduler())  # type: ignore[arg-type]


def test_a_wrong_setting_leaves_the_pipeline_as_it_was(pixel: Any) -> None:
    before = pixel.scheduler
    for keys in (
        {"kappa": 3.0},
        {"gain": 0.1, "kappa": 0.1},
        {"gain": 0.1, "placement": "here"},
        {"gain": 0.1, "rank": 0},
    ):
        with pytest.raises(LMLError):
            apply_lml(pixel, **keys)
    assert pixel.scheduler is before


def test_the_pipeline_saves_what_it_has(pixel: Any, tmp_path: Path, table: Any) -> None:
    apply_lml(pixel, gain=0.4)
    a = paint(pixel)
    pixel.save_pretrained(tmp_path)
    loaded: Any = diffusers.DiffusionPipeline.from_pretrained(tmp_path)
    loaded.set_progress_bar_config(disable=True)
    assert type(loaded.scheduler) is with_lml(DDIMScheduler) and loaded.scheduler.config.gain == 0.4
    # The loaded weights lie elsewhere in memory, and a convolution may be split differently: equal to rounding.
    np.testing.assert_allclose(paint(loaded), a, rtol=0, atol=1e-5)
    remove_lml(loaded).save_pretrained(tmp_path / "plain")
    index = json.loads((tmp_path / "plain" / "model_index.json").read_text())
    assert index["scheduler"] == ["diffusers", "DDIMScheduler"]


def test_ddim_pipeline_with_eta(unet: UNet2DModel, table: Any) -> None:
    """DDIMPipeline passes eta, and makes its scheduler anew when it is built: LML is applied after."""
    pipe: Any = DDIMPipeline(unet, DDIMScheduler(clip_sample=False))
    pipe.set_progress_bar_config(disable=True)

    def draw(seed: int) -> np.ndarray:
        g = torch.Generator().manual_seed(seed)
        return pipe(num_inference_steps=5, eta=0.5, generator=g, output_type="np").images

    plain = draw(1)
    apply_lml(pipe, gain=0)
    assert np.array_equal(draw(1), plain)
    apply_lml(pipe, control="constant")
    assert pipe.scheduler.config.gain == 0.5
    assert np.array_equal(draw(1), draw(1)) and abs(draw(1) - plain).max() > 1e-4


def test_ddim_stands_in_for_ddpm(unet: UNet2DModel, table: Any) -> None:
    pipe: Any = DDPMPipeline(unet, DDPMScheduler(clip_sample=False))
    pipe.set_progress_bar_config(disable=True)
    plain = paint(pipe)
    apply_lml(pipe)
    assert type(pipe.scheduler) is with_lml(DDIMScheduler) and pipe.scheduler.config.control == "adaptive"
    assert type(remove_lml(pipe).scheduler) is DDPMScheduler and np.array_equal(paint(pipe), plain)
    assert np.array_equal(paint(apply_lml(pipe, gain=0)), plain)
    corrected = paint(apply_lml(pipe, gain=0.5))
    assert type(pipe.scheduler) is with_lml(DDPMScheduler) and abs(corrected - plain).max() > 1e-4


# Text to image ------------------------------------------------------------------------------------------------------


def test_text_pipeline(text: Any, table: Any) -> None:
    plain = paint(text)
    config = dict(text.scheduler.config)
    assert np.array_equal(paint(apply_lml(text, gain=0)), plain)
    apply_lml(text, gain=0.3, record=True)
    first, second = paint(text), paint(text)
    assert np.array_equal(first, second) and abs(first - plain).max() > 1e-6
    assert len(text.scheduler.lml_history) == 6  # PLMS evaluates once more than it has steps
    # Corrected after guidance: one image is one sample, not two.
    assert text.scheduler.lml_history[0].gain.shape[0] == 1
    many = paint(text, num_images_per_prompt=3)
    assert many.shape[0] == 3 and len(text.scheduler.lml_history) == 6
    assert np.array_equal(paint(text), first)
    remove_lml(text)
    assert {k: v for k, v in text.scheduler.config.items() if k[0] != "_"} == {
        k: v for k, v in config.items() if k[0] != "_"
    }
    assert np.array_equal(paint(text), plain)


@pytest.mark.parametrize("name", ["ddim", "dpmpp-2m", "unipc", "deis", "euler"])
def test_text_pipeline_with_each_sampler(text: Any, name: str) -> None:
    apply_lml(text, scheduler=name, gain=0.0)
    plain = paint(text)
    apply_lml(text, scheduler=name, gain=0.3)
    first = paint(text)
    assert np.isfinite(first).all() and abs(first - plain).max() > 1e-6
    assert np.array_equal(paint(text), first)
    apply_lml(text, scheduler=name, gain=0.0)
    assert np.array_equal(paint(text), plain)
    assert type(remove_lml(text).scheduler) is PNDMScheduler


def test_the_preset_is_halved_with_one_notice(text: Any, table: Any, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, logger="lmlangevin"):
        apply_lml(text)
        apply_lml(text)
    notices = [r.getMessage() for r in caplog.records if r.name == "lmlangevin"]
    assert len(notices) == 1
    assert "StableDiffusionPipeline" in notices[0] and "0.1875" in notices[0] and "gain=" in notices[0]
    config = text.scheduler.config
    assert (config.gain, config.preset) == (0.1875, "test-1/PNDMScheduler/leading/halved")
    paint(text)
    assert (text.scheduler.config.gain, text.scheduler.config.preset) == (0.1875, "test-1/PNDMScheduler/leading/halved")


@pytest.mark.parametrize("keys", [{"gain": 0.4}, {"kappa": 0.3}, {"damping": 2.0}], ids=str)
def test_an_own_number_is_not_halved(
    text: Any, table: Any, caplog: pytest.LogCaptureFixture, keys: dict[str, float]
) -> None:
    with caplog.at_level(logging.WARNING, logger="lmlangevin"):
        apply_lml(text, **keys)
    assert not [r for r in caplog.records if r.name == "lmlangevin"]
    for key in ("gain", "kappa", "damping"):
        assert text.scheduler.config[key] == keys.get(key)
    assert text.scheduler.config.preset is None


def test_measured_families_get_no_notice(pixel: Any, table: Any, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, logger="lmlangevin"):
        apply_lml(pixel)
    assert not [r for r in caplog.records if r.name == "lmlangevin"]


def test_a_controller_needs_no_preset(text: Any, table: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from lmlangevin.core import Damping, damping

    monkeypatch.setitem(damping._CONTROLLERS, "test-pipe", (lambda history, config: Damping(0.5, 1.0), 1))
    apply_lml(text, scheduler="deis", control="test-pipe")
    assert text.scheduler.config.gain is None


def test_image_to_image(text: Any, table: Any) -> None:
    from diffusers import StableDiffusionImg2ImgPipeline

    apply_lml(text, scheduler="dpmpp-2m", gain=0.3, record=True)
    pipe: Any = StableDiffusionImg2ImgPipeline(**text.components, requires_safety_checker=False)
    assert pipe.scheduler is text.scheduler
    pipe.set_progress_bar_config(disable=True)
    image = torch.rand(1, 3, 8, 8, generator=torch.Generator().manual_seed(2))

    def draw() -> np.ndarray:
        g = torch.Generator().manual_seed(3)
        return pipe(
            "a fox", image=image, strength=0.5, num_inference_steps=8, generator=g, output_type="np"
        ).images  # fmt: skip

    first = draw()
    assert len(pipe.scheduler.lml_history) == 4
    assert np.array_equal(draw(), first)


def test_a_callback_that_keeps_latents_sees_no_change(text: Any) -> None:
    """Predictions are cloned: what a step returned earlier is not written to by a later one."""
    apply_lml(text, scheduler="ddim", gain=0.3)
    kept: list[tuple[torch.Tensor, torch.Tensor]] = []

    def callback(pipe: Any, step: int, t: Any, values: dict[str, Any]) -> dict[str, Any]:
        kept.append((values["latents"], values["latents"].clone()))
        return values

    paint(text, callback_on_step_end=callback)
    assert len(kept) == 5 and all(torch.equal(a, b) for a, b in kept)


def test_what_is_a_flow() -> None:
    flows = [
        FlowMatchEulerDiscreteScheduler(),
        diffusers.LTXEulerAncestralRFScheduler(),
        diffusers.UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True),
    ]
    others = [DDIMScheduler(), diffusers.UniPCMultistepScheduler(), PNDMScheduler(skip_prk_steps=True)]
    assert all(map(pipeline.is_flow, flows)) and not any(map(pipeline.is_flow, others))


# Refused ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "family", ["LEditsPPPipelineStableDiffusion", "LEditsPPPipelineStableDiffusionXL", "CosmosTextToWorldPipeline"]
)
def test_unsafe_pipelines_are_refused(family: str) -> None:
    pipe = type(family, (), {"scheduler": DDIMScheduler()})()
    before = pipe.scheduler
    with pytest.raises(LMLError, match=f"pipe={family} is not supported: ") as caught:
        apply_lml(pipe, gain=0.2)
    assert "\n" not in str(caught.value) and pipe.scheduler is before


@pytest.mark.parametrize("pipe", [object(), None, 3, "pipe"])
def test_what_is_no_pipeline_is_refused(pipe: Any) -> None:
    with pytest.raises(LMLError, match="has no diffusers scheduler; give a diffusers pipeline"):
        apply_lml(pipe, gain=0.2)
    with pytest.raises(LMLError, match="has no diffusers scheduler; give a diffusers pipeline"):
        remove_lml(pipe)


def test_a_class_that_is_no_scheduler_is_refused(pixel: Any) -> None:
    with pytest.raises(LMLError, match="scheduler=dict is no diffusers scheduler"):
        apply_lml(pixel, scheduler=dict, gain=0.2)


def test_a_pipeline_whose_scheduler_evaluates_twice(pixel: Any) -> None:
    pixel.scheduler = diffusers.HeunDiscreteScheduler()
    with pytest.raises(LMLError, match="base=HeunDiscreteScheduler cannot be corrected"):
        apply_lml(pixel, gain=0.2)
    assert type(pixel.scheduler) is diffusers.HeunDiscreteScheduler


def test_a_flow_scheduler_on_an_epsilon_model(pixel: Any) -> None:
    with pytest.raises(LMLError, match="flow"):
        apply_lml(pixel, scheduler=FlowMatchEulerDiscreteScheduler, gain=0.2)


def test_a_preset_of_zero_is_said(
    pixel: Any, table: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setitem(table["gains"]["DDIMScheduler"], "trailing", 0.0)
    with caplog.at_level(logging.WARNING, logger="lmlangevin"):
        apply_lml(pixel, scheduler="ddim", control="constant")
    assert pixel.scheduler.config.gain == 0 and "samples as before" in caplog.text
    caplog.clear()
    apply_lml(pixel, gain=0.0)  # asked for: nothing to say
    assert not caplog.records

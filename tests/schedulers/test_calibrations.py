"""Calibration files: what they are tied to, and who refuses them."""

from __future__ import annotations

import copy
import json
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from accelerate.hooks import ModelHook, add_hook_to_module
from diffusers import DDIMScheduler, DDPMPipeline, DiffusionPipeline, EulerDiscreteScheduler, UNet2DModel
from peft import LoraConfig, get_peft_model

from lmlangevin import LMLError, apply_lml, remove_lml
from lmlangevin.core import CalibratedSchedule
from lmlangevin.schedulers.calibrations import (
    CalibrationFile,
    active_adapters,
    fingerprint,
    load_calibration,
    network_of,
    shipped_calibrations,
)

SCHEDULE = CalibratedSchedule((157.4, 9.0, 0.8, 0.0), ((0.0,), (0.5,), (0.3,)))


class PixelPipeline(DiffusionPipeline):
    """A loop that scales its noise and its input as Euler needs it, which that of `DDPMPipeline` does not."""

    def __init__(self, unet: Any, scheduler: Any) -> None:
        super().__init__()
        self.register_modules(unet=unet, scheduler=scheduler)

    @torch.no_grad()
    def __call__(self, num_inference_steps: int) -> torch.Tensor:
        self.scheduler.set_timesteps(num_inference_steps)
        x = torch.randn(1, 3, 8, 8, generator=torch.Generator().manual_seed(1)) * self.scheduler.init_noise_sigma
        for t in self.scheduler.timesteps:
            x = self.scheduler.step(self.unet(self.scheduler.scale_model_input(x, t), t).sample, t, x).prev_sample
        return x


@pytest.fixture
def pipe() -> Any:
    torch.manual_seed(3)
    unet = UNet2DModel(
        sample_size=8,
        layers_per_block=1,
        block_out_channels=(8, 8),
        down_block_types=("DownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "UpBlock2D"),
        norm_num_groups=4,
    )
    return PixelPipeline(unet, DDIMScheduler())


def made_for(pipe: Any, guidance: float | None = None) -> CalibrationFile:
    plain = EulerDiscreteScheduler.from_config(pipe.scheduler.config)
    mark = fingerprint(pipe.unet, plain, steps=3, guidance_scale=guidance, own_grid=True)
    return CalibrationFile(SCHEDULE, mark, {"scheduler": "euler"})


def test_a_file_survives_being_saved(pipe: Any, tmp_path: Path) -> None:
    file = made_for(pipe)
    file.save(tmp_path / "gains.json")
    assert CalibrationFile.load(tmp_path / "gains.json") == file
    assert list(tmp_path.iterdir()) == [tmp_path / "gains.json"]


def test_a_pipeline_gets_the_schedule_and_samples_with_it(pipe: Any, tmp_path: Path) -> None:
    path = tmp_path / "gains.json"
    made_for(pipe).save(path)
    apply_lml(pipe, control="calibrated", calibration=path)
    assert type(pipe.scheduler).__name__ == "EulerDiscreteLMLScheduler"
    image = pipe(num_inference_steps=3)
    assert pipe.scheduler.sigmas.tolist() == pytest.approx(SCHEDULE.levels)
    assert image.shape == (1, 3, 8, 8) and image.isfinite().all()
    with pytest.raises(LMLError, match="num_inference_steps is 4"):
        pipe(num_inference_steps=4)
    remove_lml(pipe)
    assert "calibrated_steps" not in pipe.scheduler.config


def test_a_loop_that_cannot_drive_euler_is_refused(pipe: Any, tmp_path: Path) -> None:
    """`DDPMPipeline` would run it on noise and inputs that are not scaled, and make rubbish."""
    made_for(pipe).save(tmp_path / "g.json")
    pixel: Any = DDPMPipeline(pipe.unet, pipe.scheduler)
    before = pixel.scheduler
    with pytest.raises(LMLError, match="scheduler=EulerDiscreteScheduler does not fit the loop of DDPMPipeline"):
        apply_lml(pixel, control="calibrated", calibration=tmp_path / "g.json")
    assert pixel.scheduler is before


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model_config_hash": "0" * 16}, "model_config_hash was .* and is"),
        ({"prediction_type": "v_prediction"}, 'prediction_type was "v_prediction" and is "epsilon"'),
        ({"flow": True}, "flow was true and is false"),
    ],
)
def test_another_models_calibration_is_refused_by_field(
    pipe: Any, tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    file = made_for(pipe)
    CalibrationFile(SCHEDULE, file.fingerprint | change, file.fit).save(tmp_path / "g.json")
    with pytest.raises(LMLError, match=message):
        apply_lml(pipe, control="calibrated", calibration=tmp_path / "g.json")


def test_another_noise_schedule_is_refused_by_its_key(pipe: Any, tmp_path: Path) -> None:
    made_for(pipe).save(tmp_path / "g.json")
    pipe.scheduler = DDIMScheduler(beta_end=0.012)
    with pytest.raises(LMLError, match=r"scheduler_config.beta_end was 0.02 and is 0.012") as caught:
        apply_lml(pipe, control="calibrated", calibration=tmp_path / "g.json")
    assert "beta_start" not in str(caught.value)
    # What the grid of the pipeline's own scheduler is does not matter to a schedule that has one.
    pipe.scheduler = DDIMScheduler(timestep_spacing="trailing", clip_sample=False)
    apply_lml(pipe, control="calibrated", calibration=tmp_path / "g.json")


def test_guidance_is_compared_where_it_is_told(pipe: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    made_for(pipe, guidance=5.0).save(tmp_path / "g.json")
    with pytest.raises(LMLError, match=r"guidance_scale was 5.0 and is 7.5"):
        apply_lml(pipe, control="calibrated", calibration=tmp_path / "g.json", guidance_scale=7.5)
    apply_lml(pipe, control="calibrated", calibration=tmp_path / "g.json", guidance_scale=5.0)
    assert not caplog.messages
    apply_lml(pipe, control="calibrated", calibration=tmp_path / "g.json")
    assert "guidance_scale=5" in caplog.text


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"control": "calibrated"}, "needs calibration="),
        ({"calibration": "x.json"}, "no meaning with control=None"),
        ({"guidance_scale": 3.0}, "guidance_scale='3.0' has no meaning"),
        ({"control": "calibrated", "calibration": "nowhere.json"}, "is no file and no name"),
    ],
)
def test_half_of_what_is_needed_is_refused(pipe: Any, given: dict[str, Any], message: str) -> None:
    with pytest.raises(LMLError, match=message):
        apply_lml(pipe, **given)


def test_another_sampler_than_was_calibrated_is_refused(pipe: Any, tmp_path: Path) -> None:
    made_for(pipe).save(tmp_path / "g.json")
    with pytest.raises(LMLError, match=r"scheduler_class was \"EulerDiscreteScheduler\""):
        apply_lml(pipe, control="calibrated", calibration=tmp_path / "g.json", scheduler="dpmpp-2m")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "is not JSON"),
        ("[1]", "holds a list"),
        (json.dumps({"format": "other"}), "has the format 'other'"),
        (json.dumps({"format": "lmlangevin-calibration-1", "schedule": {}}), "lacks fingerprint, fit"),
    ],
)
def test_what_is_no_calibration_file_is_refused(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "g.json").write_text(content)
    with pytest.raises(LMLError, match=message):
        load_calibration(tmp_path / "g.json")


@pytest.mark.parametrize("name", shipped_calibrations())
def test_those_that_come_with_the_package_can_be_loaded(name: str) -> None:
    file = load_calibration(name)
    assert name.endswith(f"-{file.schedule.steps}")
    assert file.fingerprint["flow"] == ("-flow-" in name)
    assert file.fit["heldout_error"]["after"] < file.fit["heldout_error"]["before"]


def test_both_built_in_models_have_calibrations_for_every_documented_length() -> None:
    for model in ("embedded", "analytic-cifar10", "analytic-cifar10-flow"):
        for steps in (5, 6, 7, 8, 10, 12, 15, 20):
            assert f"{model}-{steps}" in shipped_calibrations()


@pytest.mark.parametrize("guidance", [5, 5.0, np.float32(5), torch.tensor(5)], ids=repr)
def test_guidance_is_compared_as_a_number(pipe: Any, tmp_path: Path, guidance: Any) -> None:
    for fitted in (5, 5.0):
        made_for(pipe, guidance=fitted).save(tmp_path / "g.json")
        apply_lml(pipe, control="calibrated", calibration=tmp_path / "g.json", guidance_scale=guidance)
        with pytest.raises(LMLError, match="guidance_scale was 5(.0)? and is 5.5"):
            apply_lml(pipe, control="calibrated", calibration=tmp_path / "g.json", guidance_scale=guidance + 0.5)


def test_betas_are_compared_as_numbers_in_any_sequence(pipe: Any) -> None:
    betas = np.linspace(1e-4, 0.02, 1000, dtype=np.float32)

    def mark(trained: Any) -> dict[str, Any]:
        plain = EulerDiscreteScheduler(trained_betas=trained)
        return fingerprint(pipe.unet, plain, steps=3, guidance_scale=None, own_grid=True)

    file = CalibrationFile(SCHEDULE, mark(betas))
    file.check(mark(list(betas)))
    with pytest.raises(LMLError, match="scheduler_config.trained_betas was"):
        file.check(mark(betas * 0.5))
    with pytest.raises(LMLError, match="scheduler_config.trained_betas was"):
        file.check(mark(None))


def wrappers(unet: Any) -> dict[str, Any]:
    adapted = get_peft_model(copy.deepcopy(unet), LoraConfig(target_modules=["to_q"], r=2))
    return {
        "compiled": torch.compile(unet, backend="eager"),
        "parallel": torch.nn.DataParallel(unet),
        "both": torch.nn.DataParallel(torch.compile(unet, backend="eager")),
        "hooked": add_hook_to_module(copy.deepcopy(unet), ModelHook()),
        "peft": adapted,
        "compiled peft": torch.compile(adapted, backend="eager"),
    }


def test_a_network_is_known_through_its_wrappers(pipe: Any) -> None:
    pipe.unet = attentive = UNet2DModel(
        sample_size=8,
        layers_per_block=1,
        block_out_channels=(8, 8),
        down_block_types=("DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D"),
        norm_num_groups=4,
        attention_head_dim=4,
    )
    made = made_for(pipe)
    for name, network in wrappers(attentive).items():
        pipe = types.SimpleNamespace(unet=network, scheduler=DDIMScheduler())
        assert network_of(pipe) is network
        plain = EulerDiscreteScheduler()
        made.check(fingerprint(network_of(pipe), plain, steps=3, guidance_scale=None, own_grid=True))
        assert active_adapters(network) == (["default"] if "peft" in name else [])
    other = torch.nn.DataParallel(UNet2DModel.from_config(attentive.config, sample_size=16))  # type: ignore[arg-type]
    with pytest.raises(LMLError, match="model_config_hash was"):
        made.check(fingerprint(other, plain, steps=3, guidance_scale=None, own_grid=True))


def test_adapters_count_where_they_act(pipe: Any) -> None:
    unet = UNet2DModel.from_config(pipe.unet.config, down_block_types=("AttnDownBlock2D",) * 2, attention_head_dim=4)
    adapted: Any = get_peft_model(unet, LoraConfig(target_modules=["to_q"], r=2))
    assert active_adapters(adapted) == ["default"]
    with adapted.disable_adapter():
        assert active_adapters(adapted) == []
    adapted.merge_adapter()
    assert active_adapters(adapted) == []


@pytest.mark.parametrize(
    "change",
    [
        {"num_train_timesteps": 500},
        {"beta_start": 0.0002},
        {"beta_end": 0.03},
        {"beta_schedule": "scaled_linear"},
        {"trained_betas": torch.linspace(0.0001, 0.025, 1000).tolist()},
        {"rescale_betas_zero_snr": True},
    ],
    ids=lambda change: next(iter(change)),
)
def test_a_grid_of_its_own_is_tied_to_the_noise_schedule(pipe: Any, change: dict[str, Any]) -> None:
    """Each of these keys says what a level is, and a schedule that was fitted with another is refused."""
    file = made_for(pipe)
    other = EulerDiscreteScheduler.from_config(pipe.scheduler.config, **change)
    now = fingerprint(pipe.unet, other, steps=3, guidance_scale=None, own_grid=True)
    with pytest.raises(LMLError, match=f"scheduler_config.{next(iter(change))} was "):
        file.check(now)
    spaced = EulerDiscreteScheduler.from_config(pipe.scheduler.config, timestep_spacing="trailing")
    file.check(fingerprint(pipe.unet, spaced, steps=3, guidance_scale=None, own_grid=True))


def test_the_calibrations_that_come_with_the_package_are_those_of_its_network() -> None:
    from lmlangevin.generation import GenerateConfig
    from lmlangevin.generation.models import load_model
    from lmlangevin.schedulers.calibrations import load_calibration, model_config_hash

    network = load_model(GenerateConfig(out="unused"), flow=False).networks[0]
    found = load_calibration("embedded-8").fingerprint
    assert found["model_config_hash"] == model_config_hash(network)

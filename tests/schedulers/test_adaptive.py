"""`control="adaptive"` in every scheduler: lower errors, clean state, and clear words where it cannot work."""

from __future__ import annotations

import copy
import math
from typing import Any

import diffusers
import pytest
import torch
from torch import Tensor

from lmlangevin import LMLError, apply_lml, with_lml
from lmlangevin.core import AdaptiveState, adapt

ADAPTIVE = {"control": "adaptive"}


def test_two_runs_equal_two_fresh_runs(gridded: Any, run: Any) -> None:
    used = gridded.build(ADAPTIVE)
    first, second = run(used, seed=1), run(used, seed=2)
    for made, seed in ((first, 1), (second, 2)):
        fresh = run(gridded.build(ADAPTIVE), seed=seed)
        assert all(torch.equal(a, b) for a, b in zip(made, fresh, strict=True))
        assert made[-1].isfinite().all()
    # Where a run is too coarse to be judged, or too fine to need it, it is the base, bit for bit.
    assert torch.equal(first[-1], run(gridded.build(), seed=1)[-1]) == (used._lml_trust == 0)


def test_switched_off_it_is_the_base(sampler: Any, run: Any) -> None:
    plain = run(sampler.build(), seed=3)
    off = run(sampler.build({**ADAPTIVE, "lml_enabled": False}), seed=3)
    assert all(torch.equal(a, b) for a, b in zip(plain, off, strict=True))


def converged(case: Any, run: Any, shape: tuple[int, ...], seed: int) -> Tensor:
    return run(case.build(), 600, shape=shape, dtype=torch.float64, seed=seed)[-1]


@pytest.mark.parametrize(
    ("name", "share"),
    [("ddim-trailing", 0.99), ("euler-karras", 0.85), ("deis-karras", 0.85), ("dpmpp-2m-lu", 0.85), ("flow", 0.85)],
)
def test_it_lowers_the_error(case: Any, run: Any, name: str, share: float) -> None:
    shape, sampler = (16, 3, 4, 4), case(name)
    exact = converged(sampler, run, shape, 5)

    def error(lml: dict[str, Any] | None) -> float:
        made = run(sampler.build(lml), 10, shape=shape, dtype=torch.float64, seed=5)[-1]
        # The median: a sample near the ridge between the two blobs can end in the other one.
        return (made - exact).flatten(1).norm(dim=1).median().item()

    assert error(ADAPTIVE) < share * error(None), (error(ADAPTIVE), error(None))


def test_a_first_order_solver_becomes_one_of_second_order(case: Any, run: Any) -> None:
    """Four times the steps: a quarter of the error before, and less than an eighth after, were all runs trusted."""
    sampler, shape = case("euler-karras"), (8, 3, 4, 4)
    exact = run(case("dpmpp-3m-karras").build(), 800, shape=shape, dtype=torch.float64, seed=6)[-1]
    start = run(sampler.build(), 800, shape=shape, dtype=torch.float64, seed=6)[-1]
    assert (exact - start).norm() < 0.02 * exact.norm()

    def error(lml: dict[str, Any] | None, steps: int) -> float:
        scheduler = sampler.build(lml)
        scheduler.set_timesteps(steps)
        scheduler._lml_trust = 1.0
        return (run(scheduler, None, shape=shape, dtype=torch.float64, seed=6)[-1] - exact).norm().item()

    assert error(None, 20) / error(None, 80) < 5.5
    assert error(ADAPTIVE, 20) / error(ADAPTIVE, 80) > 8


@pytest.mark.parametrize("kind", ["v_prediction", "sample"])
def test_prediction_types_agree(sampler: Any, run: Any, kind: str) -> None:
    if sampler.flow or (sampler.name == "pndm"):
        # A flow has one prediction type; PLMS combines raw outputs, so that its base already differs by type.
        assert sampler.name in ("flow", "pndm")
        return
    keys = {"dtype": torch.float64, "seed": 7}
    epsilon = run(sampler.build(ADAPTIVE, prediction_type="epsilon"), **keys)
    other = run(sampler.build(ADAPTIVE, prediction_type=kind), **keys)
    # Levels are float32 numbers in the bases, and are taken apart and put together on the way.
    torch.testing.assert_close(other[-1], epsilon[-1], atol=2e-4, rtol=0)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_types(sampler: Any, run: Any, dtype: torch.dtype) -> None:
    made = run(sampler.build(ADAPTIVE), dtype=dtype, seed=8)
    wide = run(sampler.build(ADAPTIVE), seed=8)
    assert made[-1].dtype == run(sampler.build(), dtype=dtype, seed=8)[-1].dtype
    assert made[-1].isfinite().all()
    assert (made[-1].float() - wide[-1]).norm() < 0.25 * wide[-1].norm()


def test_an_image_does_not_depend_on_its_batch(sampler: Any, run: Any) -> None:
    scheduler = sampler.build(ADAPTIVE)
    together = run(scheduler, shape=(4, 3, 4, 4), dtype=torch.float64, seed=9)[-1]
    g = torch.Generator().manual_seed(9)
    start = torch.randn((4, 3, 4, 4), generator=g, dtype=torch.float64)
    alone = sampler.build(ADAPTIVE)
    out = step_by_hand(alone, start[2:3] * float(getattr(alone, "init_noise_sigma", 1.0)), 8)
    torch.testing.assert_close(out[0], together[2], atol=1e-9, rtol=0)


def step_by_hand(scheduler: Any, x: Tensor, steps: int) -> Tensor:
    from tests.schedulers.conftest import Toy, levels

    scheduler.set_timesteps(steps)
    kind = getattr(scheduler.config, "prediction_type", "flow_prediction")
    for t, (alpha, sigma) in zip(scheduler.timesteps, levels(scheduler), strict=True):
        scaled = scheduler.scale_model_input(x, t) if hasattr(scheduler, "scale_model_input") else x
        x = scheduler.step(Toy().predict(kind, scaled, alpha, sigma), t, x).prev_sample
    return x


@pytest.mark.parametrize("start", [1, 3])
def test_a_run_that_starts_from_an_image(start: int) -> None:
    """DDIM has no index of its own: which level a first timestep is at must be found."""
    from tests.schedulers.conftest import Toy

    scheduler = with_lml(diffusers.DDIMScheduler)(clip_sample=False, timestep_spacing="trailing", **ADAPTIVE)
    base = diffusers.DDIMScheduler(clip_sample=False, timestep_spacing="trailing")
    scheduler.set_timesteps(8)
    base.set_timesteps(8)
    x = y = torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(10), dtype=torch.float64)
    state, table = AdaptiveState(), base.alphas_cumprod.double()
    for k, t in enumerate(base.timesteps[start:], start):
        abar = float(table[t])
        s = math.sqrt((1 - abar) / abar)
        following = float(table[base.timesteps[k + 1]]) if k < 7 else 1.0
        n = Toy().predict("epsilon", y, math.sqrt(abar), math.sqrt(1 - abar))
        adapted = adapt(n, y / math.sqrt(abar), s, math.sqrt((1 - following) / following), state)
        state = adapted.state
        if adapted.prediction is not None and adapted.shift is not None:
            n, y = adapted.prediction, y + math.sqrt(abar) * adapted.shift
        y = base.step(n, t, y).prev_sample
        x = scheduler.step(Toy().predict("epsilon", x, math.sqrt(abar), math.sqrt(1 - abar)), t, x).prev_sample
    torch.testing.assert_close(x, y, atol=1e-6, rtol=0)


def test_what_a_pipeline_does_to_a_sample_between_steps_is_not_undone(case: Any) -> None:
    """As inpainting does; a clone of the sample is the sample, and is corrected as ever."""

    def outputs(change: Any) -> list[Tensor]:
        scheduler = case("euler").build({**ADAPTIVE, "record": True})
        scheduler.set_timesteps(8)
        x, g = torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(11)) * 100, torch.Generator()
        g.manual_seed(12)
        for k, t in enumerate(scheduler.timesteps):
            scheduler.scale_model_input(x, t)
            prediction = torch.tanh(x / 50) + 0.1 * torch.randn(x.shape, generator=g)
            x = scheduler.step(prediction, t, x).prev_sample
            x = change(k, x)
        return [info.angle for info in scheduler.lml_history]

    kept = outputs(lambda k, x: x)
    cloned = outputs(lambda k, x: x.clone())
    assert all(torch.equal(a, b) for a, b in zip(kept, cloned, strict=True))
    blended = outputs(lambda k, x: x + 5.0 * (k == 3))
    assert not blended[4].any() and kept[4].all()


def test_it_waits_for_the_device_no_more_often_than_the_base(sampler: Any) -> None:
    from tests.schedulers.test_sync import waits

    made, base = waits(sampler.build({**ADAPTIVE, "record": True})), waits(sampler.build())
    assert all(made[name] <= base[name] for name in made), (made, base)


def test_records(case: Any, run: Any) -> None:
    scheduler = case("ddim-trailing").build({**ADAPTIVE, "record": True})
    run(scheduler, seed=13)
    gains = torch.stack([info.gain[:, 0] for info in scheduler.lml_history])
    assert gains.shape == (8, 2) and not gains[0].any()
    # DDIM extrapolates nothing, so that LML turns away from the previous prediction.
    assert (gains[2:-2] > 0).all()


def test_saving(case: Any, tmp_path: Any, run: Any) -> None:
    scheduler = case("dpmpp-2m-karras").build(ADAPTIVE)
    scheduler.save_pretrained(tmp_path)
    loaded = type(scheduler).from_pretrained(tmp_path)
    assert loaded.config.control == "adaptive" and loaded.config.gain is None and loaded.config.preset is None
    assert torch.equal(run(loaded, seed=14)[-1], run(copy.deepcopy(scheduler), seed=14)[-1])


def test_the_global_generator_is_not_moved(case: Any) -> None:
    scheduler = case("euler").build(ADAPTIVE)
    torch.manual_seed(15)
    expected = torch.rand(3)
    torch.manual_seed(15)
    scheduler.set_timesteps(8)
    assert torch.equal(torch.rand(3), expected)


@pytest.mark.parametrize(
    ("name", "config"),
    [
        ("DPMSolverMultistepScheduler", {"algorithm_type": "sde-dpmsolver++"}),
        ("EulerAncestralDiscreteScheduler", {}),
        ("DDPMScheduler", {"clip_sample": False}),
        ("FlowMatchEulerDiscreteScheduler", {"stochastic_sampling": True}),
    ],
)
def test_solvers_that_draw_noise_are_refused(name: str, config: dict[str, Any]) -> None:
    scheduler = with_lml(getattr(diffusers, name))(**config, **ADAPTIVE)
    with pytest.raises(LMLError, match=f"{name} draws noise in its steps; give control='constant'"):
        scheduler.set_timesteps(8)


def test_arguments_that_draw_noise_are_refused(case: Any, run: Any) -> None:
    with pytest.raises(LMLError, match="eta=0.5 makes the solver draw noise"):
        run(case("ddim").build(ADAPTIVE), eta=0.5)
    with pytest.raises(LMLError, match="s_churn=1.0 makes"):
        run(case("euler").build(ADAPTIVE), s_churn=1.0)
    run(case("ddim").build(ADAPTIVE), eta=0.0)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"clip_sample": True}, "clip_sample=True changes what the network predicts"),
        ({"clip_sample": False, "thresholding": True}, "thresholding=True changes"),
        ({"clip_sample": False, "placement": "reference"}, "placement='reference' is the paper's"),
        ({"clip_sample": False, "gain": 0.3}, "takes no gain"),
    ],
)
def test_settings_that_do_not_go_with_it_are_refused(config: dict[str, Any], message: str) -> None:
    with pytest.raises(LMLError, match=message):
        with_lml(diffusers.DDIMScheduler)(**{**ADAPTIVE, **config})


def test_inverted_sigmas_are_refused() -> None:
    scheduler = with_lml(diffusers.FlowMatchEulerDiscreteScheduler)(invert_sigmas=True, **ADAPTIVE)
    with pytest.raises(LMLError, match="inverted sigmas"):
        scheduler.set_timesteps(8)


def test_apply_lml_takes_it() -> None:
    unet = diffusers.UNet2DModel(
        sample_size=8, block_out_channels=(8, 8), layers_per_block=1, norm_num_groups=4,
        down_block_types=("DownBlock2D", "DownBlock2D"), up_block_types=("UpBlock2D", "UpBlock2D"),
    )  # fmt: skip
    pipe = diffusers.DDPMPipeline(unet, diffusers.DPMSolverMultistepScheduler())
    pipe.set_progress_bar_config(disable=True)
    apply_lml(pipe, control="adaptive")
    images = [
        pipe(batch_size=2, num_inference_steps=6, generator=torch.Generator().manual_seed(16), output_type="np").images
        for _ in range(2)
    ]
    assert (images[0] == images[1]).all()


def test_a_base_that_sets_timesteps_while_it_is_built() -> None:
    """LMS: its plan is there from the start, and again after `set_timesteps`. Gaussian data, with a known solution."""
    variance = 0.3

    def error(scheduler: Any, steps: int | None) -> float:
        if steps is not None:
            scheduler.set_timesteps(steps)
        start = torch.randn(4, 3, 4, 4, generator=torch.Generator().manual_seed(17), dtype=torch.float64)
        x = start * scheduler.sigmas[0]
        for t, sigma in zip(scheduler.timesteps, scheduler.sigmas, strict=False):
            scheduler.scale_model_input(x, t)
            x = scheduler.step(sigma * x / (variance + sigma**2), t, x).prev_sample
        exact = start * scheduler.sigmas[0] * (variance / (variance + scheduler.sigmas[0] ** 2)) ** 0.5
        return float((x - exact).norm() / exact.norm())

    config = {"num_train_timesteps": 40, "use_karras_sigmas": True}
    plain, adaptive = (
        diffusers.LMSDiscreteScheduler(**config),
        with_lml(diffusers.LMSDiscreteScheduler)(**config, **ADAPTIVE),
    )
    assert error(adaptive, None) == pytest.approx(error(plain, None), rel=0.5)  # 40 steps, hardly corrected
    assert error(adaptive, 10) < 0.9 * error(plain, 10)

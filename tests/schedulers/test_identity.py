"""Switched off, or with a gain of 0, an LML scheduler is its base bit for bit."""

from __future__ import annotations

from typing import Any

import pytest
import torch

OFF: list[dict[str, Any]] = [{"lml_enabled": False, "gain": 0.7}, {"gain": 0}, {"kappa": 0.0, "damping": 0.1}]


def assert_same(a: list[torch.Tensor], b: list[torch.Tensor]) -> None:
    assert len(a) == len(b) > 0
    assert all(x.dtype == y.dtype and torch.equal(x, y) for x, y in zip(a, b, strict=True))
    assert a[-1].isfinite().all() and a[-1].abs().max() > 0.01


@pytest.mark.parametrize("off", OFF, ids=["disabled", "gain 0", "kappa 0"])
def test_every_sampler_and_grid(gridded: Any, run: Any, off: dict[str, Any]) -> None:
    assert_same(run(gridded.build(off)), run(gridded.build()))


@pytest.mark.parametrize("kind", ["v_prediction", "sample"])
def test_every_prediction_type(sampler: Any, run: Any, kind: str) -> None:
    if sampler.flow or (sampler.name, kind) == ("pndm", "sample"):
        pytest.skip("the base has no such prediction type")
    for off in OFF:
        assert_same(run(sampler.build(off, prediction_type=kind)), run(sampler.build(prediction_type=kind)))


@pytest.mark.parametrize("name", ["dpmpp-2m", "unipc", "deis"])
def test_flow_prediction(case: Any, run: Any, name: str) -> None:
    config = {"prediction_type": "flow_prediction", "use_flow_sigmas": True, "flow_shift": 2.0}
    for off in OFF:
        assert_same(run(case(name).build(off, **config)), run(case(name).build(**config)))


@pytest.mark.parametrize(
    ("name", "config", "step"),
    [
        ("ddim", {}, {"eta": 0.6, "generator": 5}),
        ("ddim-trailing", {}, {"eta": 1.0, "generator": 6}),
        ("ddim", {"clip_sample": True}, {"use_clipped_model_output": True}),
        ("ddim", {"thresholding": True}, {}),
        ("ddim-trailing", {"rescale_betas_zero_snr": True, "prediction_type": "v_prediction"}, {}),
        ("euler", {}, {"s_churn": 2.0, "generator": 7}),
        ("euler-karras", {}, {"s_churn": 1.0, "s_noise": 1.01, "generator": 8}),
        ("flow", {"stochastic_sampling": True}, {"generator": 9}),
        ("sde-2m", {}, {"generator": 10}),
        ("sde-2m", {"use_karras_sigmas": True}, {"generator": 11}),
        ("dpmpp-2m", {"euler_at_final": True, "solver_type": "heun"}, {}),
        ("unipc", {"predict_x0": False, "solver_type": "bh1", "final_sigmas_type": "sigma_min"}, {}),
    ],
)  # fmt: skip
def test_noise_clipping_and_variants(
    case: Any, run: Any, name: str, config: dict[str, Any], step: dict[str, Any]
) -> None:
    sampler = case(name, **config)
    for off in OFF:
        assert_same(run(sampler.build(off), **step), run(sampler.build(), **step))
    # The same generator gives the same noise with the correction at work; the images differ all the same.
    corrected = run(sampler.build({"gain": 0.5}), **step)
    assert corrected[-1].isfinite().all() and not torch.equal(corrected[-1], run(sampler.build(), **step)[-1])
    assert torch.equal(corrected[0], run(sampler.build(), **step)[0])  # the first step has no history


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64], ids=str)
def test_other_float_types(sampler: Any, run: Any, dtype: torch.dtype) -> None:
    plain = run(sampler.build(), dtype=dtype)
    for off in OFF:
        assert_same(run(sampler.build(off), dtype=dtype), plain)
    corrected = run(sampler.build({"gain": 0.1}), dtype=dtype)
    assert not torch.equal(corrected[-1], plain[-1])
    assert all(a.dtype == b.dtype and a.isfinite().all() for a, b in zip(corrected, plain, strict=True))
    if dtype != torch.float64:
        wide = run(sampler.build({"gain": 0.1}))
        # Half types follow the float32 run as closely as plain half sampling follows plain float32 sampling.
        gap = (plain[-1].float() - run(sampler.build())[-1]).abs().max()
        assert (corrected[-1].float() - wide[-1]).abs().max() <= 3 * gap + 0.05


@pytest.mark.parametrize("placement", ["score", "reference"])
@pytest.mark.parametrize("name", ["ddim", "dpmpp-2m", "dpm-3", "flow"])
def test_gain_zero_in_both_placements(case: Any, run: Any, name: str, placement: str) -> None:
    sampler = case(name)
    assert_same(run(sampler.build({"gain": 0, "placement": placement})), run(sampler.build()))
    moved = run(sampler.build({"gain": 0.5, "placement": placement}))
    assert not torch.equal(moved[-1], run(sampler.build())[-1])


def test_tuples_come_back_as_tuples(sampler: Any) -> None:
    for lml in (None, {"gain": 0.5}, {"gain": 0}):
        scheduler = sampler.build(lml)
        scheduler.set_timesteps(4)
        x = torch.randn(1, 3, 4, 4, generator=torch.Generator().manual_seed(1))
        for t in scheduler.timesteps[:2]:
            if hasattr(scheduler, "scale_model_input"):
                scheduler.scale_model_input(x, t)
            out = scheduler.step(torch.tanh(x), t, x, return_dict=False)
            assert isinstance(out, tuple)
            x = out[0]

"""The score placement: the noise is corrected once, before the solver sees it, whatever the network predicts."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from lmlangevin import LMLConfig, LMLState, correct

LML: dict[str, Any] = {"kappa": 0.5, "damping": 1.5}


def corrector(config: LMLConfig) -> Callable[[int, Tensor], Tensor]:
    """What an outside caller would do to each prediction."""
    state = LMLState()

    def edit(i: int, prediction: Tensor) -> Tensor:
        nonlocal state
        corrected, state, _ = correct(prediction, state, config)
        return corrected

    return edit


@pytest.mark.parametrize("keys", [LML, {"gain": -0.2}, {"gain": 0.3, "rank": 3}], ids=str)
def test_it_is_the_base_on_corrected_predictions(gridded: Any, run: Any, keys: dict[str, Any]) -> None:
    want = run(gridded.build(), edit=corrector(LMLConfig(**keys)))
    got = run(gridded.build(keys))
    assert all(torch.equal(a, b) for a, b in zip(got, want, strict=True))
    assert got[-1].isfinite().all() and not torch.equal(got[-1], run(gridded.build())[-1])


@pytest.mark.parametrize("config", [{"clip_sample": True, "clip_sample_range": 0.7}, {"thresholding": True}], ids=str)
@pytest.mark.parametrize("name", ["ddim", "dpmpp-2m"])
def test_clipping_comes_after_the_correction(case: Any, run: Any, name: str, config: dict[str, Any]) -> None:
    if name != "ddim":
        config = {"thresholding": True}
    sampler = case(name, **config)
    want = run(sampler.build(), edit=corrector(LMLConfig(**LML)))
    assert all(torch.equal(a, b) for a, b in zip(run(sampler.build(LML)), want, strict=True))


@pytest.mark.parametrize("kind", ["v_prediction", "sample"])
def test_equivalent_models_give_equal_images(gridded: Any, run: Any, kind: str) -> None:
    """A v- or x0-model of the same noise: the same path, to the rounding of the base's own conversions."""
    if gridded.flow or (gridded.class_name, kind) == ("PNDMScheduler", "sample"):
        pytest.skip("the base has no such prediction type")
    plain = run(gridded.build())
    if gridded.class_name == "PNDMScheduler" or "thresholding" in gridded.config:
        pytest.skip("PLMS combines raw outputs: v and epsilon differ in the base")
    gap = (run(gridded.build(prediction_type=kind))[-1] - plain[-1]).abs().max()
    got, want = run(gridded.build(LML, prediction_type=kind)), run(gridded.build(LML))
    assert gap < 1e-2, "the base itself is equivalent here"
    scale = want[-1].abs().max()
    for a, b in zip(got, want, strict=True):
        # Early samples of Euler's are of size sigma; relative to the sample.
        assert (a - b).abs().max() <= 2e-3 * max(scale, b.abs().max()) + 50 * gap
    assert (want[-1] - plain[-1]).abs().max() > 10 * (got[-1] - want[-1]).abs().max()


def test_pndm_v_prediction_is_corrected_as_noise(case: Any, run: Any) -> None:
    """PLMS mixes raw outputs, so the oracle turns v into noise, corrects, turns back, and steps the base."""
    sampler = case("pndm", prediction_type="v_prediction")
    scheduler = sampler.build()
    scheduler.set_timesteps(8)
    abar = scheduler.alphas_cumprod[scheduler.timesteps]
    x = torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    made = sampler.build(LML)
    made.set_timesteps(8)
    y, state = x, LMLState()
    for i, t in enumerate(scheduler.timesteps):
        alpha, sigma = abar[i].sqrt(), (1 - abar[i]).sqrt()
        v = torch.sin(2 * x)
        d, state, _ = correct(alpha * v + sigma * x, state, LMLConfig(**LML))
        x = scheduler.step((d - sigma * x) / alpha, t, x).prev_sample
        y = made.step(torch.sin(2 * y), t, y).prev_sample
        torch.testing.assert_close(y, x, rtol=2e-3, atol=2e-3)


@pytest.mark.parametrize("name", ["dpmpp-2m", "dpmpp-3m", "unipc", "deis", "euler-karras"])
def test_a_step_with_v_is_the_step_with_its_noise(case: Any, name: str) -> None:
    """One step after another, float64 in, against the base fed with the v of the corrected noise."""
    sampler = case(name, prediction_type="v_prediction")
    made, base = sampler.build(LML), sampler.build()
    for s in (made, base):
        s.set_timesteps(7)
    g = torch.Generator().manual_seed(2)
    x, state = torch.randn(2, 3, 4, 4, generator=g, dtype=torch.float64), LMLState()
    for i, t in enumerate(list(base.timesteps)):
        ratio = base.sigmas[i].double()
        alpha = 1 / (1 + ratio**2).sqrt()
        sigma = ratio * alpha
        for s in (made, base):
            s.scale_model_input(x, t)
        vp = x * alpha if name.startswith("euler") else x
        v = torch.sin(2 * vp) + 0.3 * torch.randn(x.shape, generator=g, dtype=torch.float64)
        n = alpha * v + sigma * vp
        d, state, _ = correct(n, state, LMLConfig(**LML))
        want = base.step(v + (d - n) / alpha, t, x).prev_sample
        got = made.step(v, t, x).prev_sample
        torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-4)
        x = want


@pytest.mark.parametrize("name", ["dpmpp-2m", "unipc", "deis"])
def test_flow_predictions_are_corrected_as_they_are(case: Any, run: Any, name: str) -> None:
    sampler = case(name, prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0)
    want = run(sampler.build(), edit=corrector(LMLConfig(**LML)))
    assert all(torch.equal(a, b) for a, b in zip(run(sampler.build(LML)), want, strict=True))


def test_learned_variance_is_left_alone(case: Any) -> None:
    """A model of learned variance returns 2 C channels: the first C are corrected, the others pass."""
    sampler = case("dpmpp-2m", variance_type="learned_range")
    made, base = sampler.build(LML), sampler.build()
    g = torch.Generator().manual_seed(4)
    x = torch.randn(2, 3, 4, 4, generator=g)
    for s in (made, base):
        s.set_timesteps(5)
    state = LMLState()
    for t in base.timesteps:
        out = torch.randn(2, 6, 4, 4, generator=g)
        d, state, _ = correct(out[:, :3], state, LMLConfig(**LML))
        want = base.step(torch.cat([d, out[:, 3:]], dim=1), t, x).prev_sample
        assert torch.equal(made.step(out, t, x).prev_sample, want)
        x = want


def test_learned_variance_reaches_a_solver_that_uses_it(case: Any) -> None:
    from diffusers import DDPMScheduler

    from lmlangevin import with_lml

    made: Any = with_lml(DDPMScheduler)(variance_type="learned_range", gain=0.4)
    base: Any = DDPMScheduler(variance_type="learned_range")
    g = torch.Generator().manual_seed(5)
    x = torch.randn(2, 3, 4, 4, generator=g)
    state = LMLState()
    for s in (made, base):
        s.set_timesteps(5)
    for i, t in enumerate(base.timesteps):
        out = torch.randn(2, 6, 4, 4, generator=g)
        d, state, _ = correct(out[:, :3], state, LMLConfig(gain=0.4))
        a = base.step(torch.cat([d, out[:, 3:]], 1), t, x, generator=torch.Generator().manual_seed(i)).prev_sample
        b = made.step(out, t, x, generator=torch.Generator().manual_seed(i)).prev_sample
        assert torch.equal(a, b)
        x = a


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32], ids=str)
@pytest.mark.parametrize("name", ["ddim-trailing", "dpmpp-2m-trailing", "unipc-trailing", "euler-trailing"])
def test_zero_terminal_snr(case: Any, run: Any, name: str, dtype: torch.dtype) -> None:
    """At the first timestep alpha is 0, or 2^-12: v says nothing of the noise there that could be divided by alpha."""
    config = {"rescale_betas_zero_snr": True, "prediction_type": "v_prediction"}
    for keys in (LML, {"gain": 0.5, "rank": 3}, {"gain": -0.3}):
        scheduler = case(name, **config).build({**keys, "record": True})
        out = run(scheduler, dtype=dtype)
        assert all(x.isfinite().all() and x.dtype == dtype for x in out)
        assert not any(info.identity.any() for info in scheduler.lml_history[1:])
        again = run(scheduler, dtype=dtype)
        assert torch.equal(out[-1], again[-1])


def test_an_x0_model_on_flow_sigmas(case: Any, run: Any) -> None:
    """x = (1 - s) x0 + s eps: the noise that an x0-model implies is (x - (1 - s) x0) / s."""
    sampler = case("dpmpp-2m", prediction_type="sample", use_flow_sigmas=True)
    made, base = sampler.build(LML), sampler.build()
    for s in (made, base):
        s.set_timesteps(6)
    x, state = torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(6)), LMLState()
    for i, t in enumerate(base.timesteps):
        s = base.sigmas[i]
        x0 = torch.tanh(2 * x)
        n = (x - (1 - s) * x0) / s
        d, state, _ = correct(n, state, LMLConfig(**LML))
        want = base.step((x - s * d) / (1 - s) if s < 1 else x0, t, x).prev_sample
        torch.testing.assert_close(made.step(x0, t, x).prev_sample, want, rtol=1e-3, atol=1e-3)
        x = want

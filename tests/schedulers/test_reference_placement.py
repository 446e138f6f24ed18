"""The reference placement against the paper's formulas (arXiv:2505.24222), written out here in float64."""

from __future__ import annotations

import math
import re
from typing import Any

import pytest
import torch
from torch import Tensor

from lmlangevin import LMLError

KAPPA, LAM = 0.4, 0.6


def lml(n: Tensor, previous: Tensor | None, lam: float = LAM, kappa: float = KAPPA) -> Tensor:
    """d = ||n|| H^-1 n / ||H^-1 n||, H = b b^T + lambda I, b = kappa n_prev + (1 - kappa) n, with H as a matrix."""
    if previous is None:
        return n
    out = []
    for v, p in zip(n.flatten(1), previous.flatten(1), strict=True):
        b = kappa * p + (1 - kappa) * v
        x = torch.linalg.solve(torch.outer(b, b) + lam * torch.eye(len(v), dtype=v.dtype), v)
        out.append(v.norm() * x / x.norm())
    return torch.stack(out).view(n.shape)


def network(x: Tensor) -> Tensor:
    return torch.sin(2 * x) + 0.5 * x.flip(-1)


ABSOLUTE: dict[str, Any] = {
    "kappa": KAPPA,
    "damping": LAM,
    "damping_mode": "absolute",
    "placement": "reference",
    "record": True,
}


def noise(seed: int, *shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("spacing", ["leading", "trailing", "linspace"])
@pytest.mark.parametrize("kind", ["epsilon", "v_prediction", "sample"])
@pytest.mark.parametrize("eta", [0.0, 0.7])
def test_ddim_in_float64(case: Any, spacing: str, kind: str, eta: float) -> None:
    scheduler = case("ddim", timestep_spacing=spacing, prediction_type=kind).build(ABSOLUTE)
    scheduler.set_timesteps(6)
    # The tables in float64, so that the whole step is.
    scheduler.alphas_cumprod = abar = scheduler.alphas_cumprod.double()
    scheduler.final_alpha_cumprod = torch.tensor(1.0, dtype=torch.float64)
    x, previous = noise(1, 2, 3, 4, 4), None
    y = x
    for i, t in enumerate(scheduler.timesteps.tolist()):
        a = float(abar[t])
        a_prev = float(abar[t - 1000 // 6]) if t >= 1000 // 6 else 1.0
        n = network(x)
        x0 = (x - math.sqrt(1 - a) * n) / math.sqrt(a)
        std = eta * math.sqrt((1 - a_prev) / (1 - a) * (1 - a / a_prev))
        d = lml(n, previous)
        x = math.sqrt(a_prev) * x0 + math.sqrt(1 - a_prev - std**2) * d + std * noise(90 + i, 2, 3, 4, 4)
        previous = n
        n = network(y)
        x0 = (y - math.sqrt(1 - a) * n) / math.sqrt(a)
        out = {"epsilon": n, "sample": x0, "v_prediction": math.sqrt(a) * n - math.sqrt(1 - a) * x0}[kind]
        keys = {"variance_noise": noise(90 + i, 2, 3, 4, 4)} if eta else {}
        y = scheduler.step(out, t, y, eta=eta, **keys).prev_sample
        assert y.dtype == torch.float64
        torch.testing.assert_close(y, x, rtol=1e-8, atol=1e-8)
    assert not scheduler.lml_history[-1].identity.any()


def test_ddim_takes_eta_by_position_and_tensor_timesteps(case: Any) -> None:
    outs = []
    for as_tensor, by_position in ((True, True), (False, False)):
        scheduler = case("ddim").build(ABSOLUTE)
        scheduler.set_timesteps(5)
        x = noise(2, 2, 3, 4, 4).float()
        for i, t in enumerate(scheduler.timesteps):
            z = noise(50 + i, 2, 3, 4, 4).float()
            at = t if as_tensor else int(t)
            args, keys = ((0.5,), {}) if by_position else ((), {"eta": 0.5})
            x = scheduler.step(network(x), at, x, *args, variance_noise=z, return_dict=False, **keys)[0]
        outs.append(x)
    assert torch.equal(*outs)


def test_ddim_clips_x0_of_the_uncorrected_noise(case: Any) -> None:
    """Only the direction term takes d, so the clipped x0 is the base's."""
    config = {"clip_sample": True, "clip_sample_range": 0.5}
    made, base = case("ddim", **config).build(ABSOLUTE), case("ddim", **config).build()
    x, previous = noise(3, 2, 3, 4, 4), None
    for s in (made, base):
        s.set_timesteps(5)
        s.alphas_cumprod = s.alphas_cumprod.double()
        s.final_alpha_cumprod = torch.tensor(1.0, dtype=torch.float64)
    for t in base.timesteps.tolist():
        n = network(x)
        a_prev = float(base.alphas_cumprod[t - 200]) if t >= 200 else 1.0
        plain = base.step(n, t, x)
        want = plain.prev_sample + math.sqrt(1 - a_prev) * (lml(n, previous) - n)
        got = made.step(n, t, x)
        torch.testing.assert_close(got.prev_sample, want, rtol=1e-9, atol=1e-9)
        assert torch.equal(got.pred_original_sample, plain.pred_original_sample)
        x, previous = want, n


def coefficients(sigma: float) -> tuple[float, float, float]:
    alpha = 1 / math.sqrt(1 + sigma**2)
    return alpha, sigma * alpha, -math.log(sigma)


def increments(kind: str, order: int, ratios: list[float], i: int, outputs: list[Tensor]) -> tuple[float, Tensor]:
    """(factor of the sample, increment) of DPM-Solver(++) at step i: arXiv:2206.00927 and arXiv:2211.01095."""
    a_t, s_t, l_t = coefficients(ratios[i + 1])
    a_s, s_s, l_s = coefficients(ratios[i])
    h = l_t - l_s
    d0 = outputs[i]
    plus = kind == "dpmsolver++"
    phi = math.expm1(-h) if plus else math.expm1(h)
    front = a_t if plus else s_t
    scale = s_t / s_s if plus else a_t / a_s
    if order == 1:
        return scale, -front * phi * d0
    h0 = l_s - coefficients(ratios[i - 1])[2]
    r0 = h0 / h
    d10 = (outputs[i] - outputs[i - 1]) / r0
    if order == 2:
        return scale, -front * phi * (d0 + 0.5 * d10)
    h1 = coefficients(ratios[i - 1])[2] - coefficients(ratios[i - 2])[2]
    r1 = h1 / h
    d11 = (outputs[i - 1] - outputs[i - 2]) / r1
    d1 = d10 + r0 / (r0 + r1) * (d10 - d11)
    d2 = (d10 - d11) / (r0 + r1)
    if plus:
        return scale, -front * phi * d0 + a_t * (phi / h + 1) * d1 - a_t * ((phi + h) / h**2 - 0.5) * d2
    return scale, -front * phi * d0 - s_t * (phi / h - 1) * d1 - s_t * ((phi - h) / h**2 - 0.5) * d2


UPDATES = (
    "dpm_solver_first_order_update",
    "multistep_dpm_solver_second_order_update",
    "multistep_dpm_solver_third_order_update",
)


@pytest.mark.parametrize("kind", ["dpmsolver++", "dpmsolver"])
@pytest.mark.parametrize("order", [1, 2, 3])
def test_dpm_solver_updates_in_float64(case: Any, kind: str, order: int) -> None:
    config = {"algorithm_type": kind, "solver_order": order, "final_sigmas_type": "sigma_min"}
    scheduler = case("dpmpp-2m", **config).build(ABSOLUTE)
    scheduler.set_timesteps(7)
    scheduler.sigmas = scheduler.sigmas.double()
    ratios = scheduler.sigmas.tolist()
    x = y = noise(4, 2, 3, 4, 4)
    outputs: list[Tensor] = []
    previous = None
    for i in range(len(ratios) - 1):
        alpha, sigma, _ = coefficients(ratios[i])
        n = network(x)
        outputs.append((x - sigma * n) / alpha if kind == "dpmsolver++" else n)
        now = min(order, i + 1)
        scale, increment = increments(kind, now, ratios, i, outputs)
        x = scale * x + lml(increment, previous)
        previous = increment
        # The update method itself, since step rounds the sample to float32.
        scheduler._step_index = i
        given = outputs[-1] if now == 1 else [None] * (3 - len(outputs)) + outputs[-3:]
        y = getattr(scheduler, UPDATES[now - 1])(given, sample=y, noise=None)
        # The oracle's H has a condition of ||b||^2 / lambda, up to 1e7 here: that many digits of float64 are its own.
        assert (y - x).norm() <= 2e-8 * x.norm()
    assert not scheduler.lml_history[-1].identity.any()


@pytest.mark.parametrize("kind", ["dpmsolver++", "dpmsolver"])
@pytest.mark.parametrize("order", [1, 2, 3])
@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
def test_dpm_solver_steps(case: Any, kind: str, order: int, prediction: str) -> None:
    """Whole steps, final lower orders included, to float32."""
    final = "zero" if kind == "dpmsolver++" else "sigma_min"
    config = {
        "algorithm_type": kind,
        "solver_order": order,
        "final_sigmas_type": final,
        "prediction_type": prediction,
    }
    scheduler = case("dpmpp-2m", **config).build(ABSOLUTE)
    scheduler.set_timesteps(7)
    ratios = scheduler.sigmas.tolist()
    x = noise(5, 2, 3, 4, 4)
    y = x.float()
    outputs: list[Tensor] = []
    previous = None
    for i, t in enumerate(scheduler.timesteps):
        alpha, sigma, _ = coefficients(ratios[i])
        n = network(x)
        outputs.append((x - sigma * n) / alpha if kind == "dpmsolver++" else n)
        now = min(order, i + 1, 7 - i)
        if ratios[i + 1] == 0:
            scale, increment = 0.0, outputs[-1]
        else:
            scale, increment = increments(kind, now, ratios, i, outputs)
        x = scale * x + lml(increment, previous)
        previous = increment
        m = network(y)
        out = m if prediction == "epsilon" else alpha * m - sigma * (y - sigma * m) / alpha
        y = scheduler.step(out, t, y).prev_sample
        assert ((y - x).norm() / x.norm()) < 2e-3 * 1.6**i * 0.05, i
    assert len(scheduler.lml_history) == 7


def test_flow_euler(case: Any) -> None:
    scheduler = case("flow").build(ABSOLUTE)
    scheduler.set_timesteps(6)
    sigmas = scheduler.sigmas.tolist()
    x, previous = noise(6, 2, 3, 4, 4), None
    y = x.float()
    for i, t in enumerate(scheduler.timesteps):
        v = network(x)
        x = x + (sigmas[i + 1] - sigmas[i]) * lml(v, previous)
        previous = v
        y = scheduler.step(network(y), t, y).prev_sample
        torch.testing.assert_close(y.double(), x, rtol=1e-4, atol=1e-4)
    # The increment is the velocity times a number: both placements are one.
    score = case("flow").build({**ABSOLUTE, "placement": "score"})
    score.set_timesteps(6)
    z = noise(6, 2, 3, 4, 4).float()
    for t in score.timesteps:
        z = score.step(network(z), t, z).prev_sample
    assert torch.equal(y, z)


@pytest.mark.parametrize("name", ["unipc", "deis", "pndm", "euler"])
def test_undefined_for_other_solvers(case: Any, name: str) -> None:
    with pytest.raises(LMLError, match="placement='reference' is not defined for .*give placement='score'"):
        case(name).build(ABSOLUTE)


@pytest.mark.parametrize("kind", ["sde-dpmsolver++", "sde-dpmsolver"])
def test_sde_variants_are_refused(case: Any, kind: str) -> None:
    config = {"algorithm_type": kind, "final_sigmas_type": "sigma_min"}
    with pytest.raises(
        LMLError, match=re.escape(f"placement='reference' is not defined for algorithm_type='{kind}'")
    ) as caught:
        case("dpmpp-2m", **config).build({"gain": 0.2, "placement": "reference"})
    assert "\n" not in str(caught.value)
    case("dpmpp-2m", **config).build({"gain": 0.2, "placement": "score"})


def test_a_stochastic_flow_is_refused(case: Any) -> None:
    with pytest.raises(LMLError, match="placement='reference'"):
        case("flow", stochastic_sampling=True).build({"gain": 0.2, "placement": "reference"})


def test_ddim_inversion_is_refused_or_right() -> None:
    from diffusers import DDIMInverseScheduler

    from lmlangevin import with_lml

    try:
        made: Any = with_lml(DDIMInverseScheduler)(**ABSOLUTE, clip_sample=False)
    except LMLError:
        return
    made.set_timesteps(5)
    made.alphas_cumprod = made.alphas_cumprod.double()
    made.initial_alpha_cumprod = torch.tensor(1.0, dtype=torch.float64)
    base: Any = DDIMInverseScheduler(clip_sample=False)
    base.set_timesteps(5)
    x, previous = noise(7, 1, 3, 4, 4), None
    for t in base.timesteps.tolist()[:3]:
        n = network(x)
        # Its step goes from t - 200 up to t: the direction term has the noise level of t.
        plain = base.step(n, t, x).prev_sample
        want = plain + math.sqrt(1 - float(base.alphas_cumprod[t])) * (lml(n, previous) - n)
        torch.testing.assert_close(made.step(n, t, x).prev_sample, want, rtol=1e-4, atol=1e-4)
        x, previous = want, n


def test_a_subclass_of_ddim_has_the_reference_placement() -> None:
    from diffusers import DDIMScheduler

    from lmlangevin import with_lml

    made: Any = with_lml(type("DDIMOwnScheduler", (DDIMScheduler,), {}))(**ABSOLUTE)
    assert made.config.placement == "reference"


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", ["ddim", "dpmpp-2m", "dpmpp-3m", "dpm-3", "flow"])
def test_half_types(case: Any, run: Any, name: str, dtype: torch.dtype) -> None:
    keys = {"kappa": 0.5, "damping": 2.0, "placement": "reference"}
    out = run(case(name).build(keys), dtype=dtype)
    plain = run(case(name).build(), dtype=dtype)
    assert all(a.dtype == b.dtype == dtype and a.isfinite().all() for a, b in zip(out, plain, strict=True))
    wide = run(case(name).build(keys))
    assert (out[-1].float() - wide[-1]).norm() < 0.15 * wide[-1].norm()

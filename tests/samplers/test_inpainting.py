"""ComfyUI's inpainting: the model's wrapper keeps a part of an image, and the correction must leave that part alone."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from lmlangevin.core import LMLInfo

CONTROLS: list[dict[str, Any]] = [{"gain": 0.6}, {"gain": 0.3, "rank": 2}, {"control": "adaptive"}]
IDS = ["gain", "rank 2", "adaptive"]


class Inpainting:
    """Keeps a latent where the mask is 0, as ComfyUI does: in what the network sees, and in what it returns."""

    def __init__(self, model: Any, latent: Tensor, noise: Tensor, flow: bool) -> None:
        self.model, self.latent, self.noise, self.flow = model, latent, noise, flow
        self.inner_model, self.sigmas = "what is inside", "the caller's own"

    def noised(self, sigma: Tensor) -> Tensor:
        s = sigma.view(-1, 1, 1, 1)
        return (1 - s) * self.latent + s * self.noise if self.flow else self.latent + s * self.noise

    def __call__(
        self, x: Tensor, sigma: Tensor, denoise_mask: Tensor | None, model_options: dict[str, Any] | None = None
    ) -> Tensor:
        if denoise_mask is None:
            return self.model(x, sigma)
        if model_options:
            told = {"model": self.inner_model, "sigmas": self.sigmas}
            denoise_mask = model_options["denoise_mask_function"](sigma, denoise_mask, extra_options=told)
        out = self.model(x * denoise_mask + self.noised(sigma) * (1 - denoise_mask), sigma)
        return out * denoise_mask + self.latent * (1 - denoise_mask)


@pytest.fixture(params=[False, True], ids=["noise", "flow"])
def setting(request: pytest.FixtureRequest, blobs: Any, grid: Any, flow_grid: Any) -> tuple[Any, Tensor, Tensor, bool]:
    """An inpainting model, its start, its sigmas, and whether it is a flow."""
    flow = request.param
    g = torch.Generator().manual_seed(20 + flow)
    latent, noise = (torch.randn((3, 2, 4, 4), generator=g, dtype=torch.float64) for _ in range(2))
    sigmas = flow_grid(9, shift=1.5) if flow else grid(8)
    model = Inpainting(blobs(flow=flow), latent, noise, flow)
    return model, model.noised(sigmas[:1].double()), sigmas, flow


def half_mask() -> Tensor:
    mask = torch.zeros(3, 2, 4, 4)
    mask[..., 2:] = 1
    return mask


@pytest.mark.parametrize("options", CONTROLS, ids=IDS)
def test_what_is_kept_is_kept(setting: Any, sampler: Any, options: dict[str, Any]) -> None:
    model, x, sigmas, flow = setting
    mask = half_mask()
    plain = sampler(model, x, sigmas, {"denoise_mask": mask}, gain=0.0)
    made = sampler(model, x, sigmas, {"denoise_mask": mask}, flow=flow, **options)
    torch.testing.assert_close(plain[..., :2], model.latent[..., :2], rtol=0, atol=1e-6)
    torch.testing.assert_close(made[..., :2], model.latent[..., :2], rtol=0, atol=1e-6)
    assert (made - plain)[..., 2:].abs().max() > 1e-3


@pytest.mark.parametrize("options", CONTROLS[:2], ids=IDS[:2])
def test_the_rest_is_turned_as_if_it_were_the_whole(setting: Any, sampler: Any, options: dict[str, Any]) -> None:
    """The gains are those of the masked part alone, whatever is kept beside it."""
    model, x, sigmas, _ = setting
    mask = half_mask()

    def part(y: Tensor, sigma: Tensor) -> Tensor:
        whole = model.noised(sigma)
        whole[..., 2:] = y
        return model.model(whole, sigma)[..., 2:]

    infos: list[LMLInfo] = []
    alone: list[LMLInfo] = []
    made = sampler(model, x, sigmas, {"denoise_mask": mask}, record=infos, **options)
    want = sampler(part, x[..., 2:], sigmas, record=alone, **options)
    torch.testing.assert_close(made[..., 2:], want, rtol=0, atol=1e-5)
    for a, b in zip(infos, alone, strict=True):
        torch.testing.assert_close(a.angle, b.angle, rtol=1e-4, atol=1e-5)


def test_without_a_mask_nothing_changes(setting: Any, sampler: Any) -> None:
    model, x, sigmas, _ = setting
    whole = sampler(model.model, x, sigmas, gain=0.4)
    assert torch.equal(sampler(model, x, sigmas, {"denoise_mask": None}, gain=0.4), whole)
    made = sampler(model, x, sigmas, {"denoise_mask": torch.ones(3, 2, 4, 4)}, gain=0.4)
    torch.testing.assert_close(made, whole, rtol=0, atol=1e-12)


def test_a_soft_mask_corrects_softly(setting: Any, sampler: Any) -> None:
    model, x, sigmas, flow = setting
    for options in CONTROLS:
        made = [
            sampler(model, x, sigmas, {"denoise_mask": torch.full((3, 1, 1, 1), m)}, flow=flow, **options)
            for m in (0.0, 0.5, 1.0)
        ]
        assert all(m.isfinite().all() for m in made)
        torch.testing.assert_close(made[0], model.latent, rtol=0, atol=1e-6)


@pytest.mark.parametrize("options", CONTROLS, ids=IDS)
def test_nothing_is_corrected_where_the_mask_is_0(blobs: Any, grid: Any, sampler: Any, options: dict[str, Any]) -> None:
    """Also where a wrapper keeps nothing there, as one whose mask changes from step to step may do."""
    model, sigmas = blobs(), grid(8)
    x = 12 * torch.randn((3, 2, 4, 4), generator=torch.Generator().manual_seed(22), dtype=torch.float64)
    plain = sampler(model, x, sigmas, gain=0.0)
    made = sampler(model, x, sigmas, {"denoise_mask": torch.zeros(3, 1, 4, 4)}, **options)
    torch.testing.assert_close(made, plain, rtol=0, atol=1e-9)


class Differential:
    """Differential diffusion: an element is made from the step on at which its mask reaches a falling threshold."""

    def __init__(self, sigmas: Tensor, soft: float = 0.0) -> None:
        self.sigmas, self.soft, self.calls = sigmas, soft, []

    def __call__(self, sigma: Tensor, denoise_mask: Tensor, extra_options: dict[str, Any]) -> Tensor:
        self.calls.append((sigma.clone(), extra_options))
        left = (self.sigmas > sigma[0]).sum() / (len(self.sigmas) - 1)
        made = (denoise_mask >= 1 - left).to(denoise_mask.dtype)
        return made * (1 - self.soft) + self.soft * denoise_mask


@pytest.mark.parametrize("soft", [0.0, 0.3])
@pytest.mark.parametrize("options", [*CONTROLS, {"control": "constant", "gain": -0.4}], ids=[*IDS, "negative"])
def test_what_a_changing_mask_keeps_is_kept_bit_for_bit(
    setting: Any, sampler: Any, options: dict[str, Any], soft: float
) -> None:
    """Up to the step from which an element is made, and for good where it never is."""
    model, x, sigmas, flow = setting
    mask = torch.linspace(0, 1, 32).view(1, 2, 4, 4).expand(3, 2, 4, 4).clone()
    mask[1, :, :2] = 0
    seen: dict[str, list[dict[str, Any]]] = {"plain": [], "made": []}
    results, asked = {}, Differential(sigmas, soft)
    for name, given in (("plain", {"gain": 0.0}), ("made", {"flow": flow, **options})):
        args = {"denoise_mask": mask, "model_options": {"denoise_mask_function": Differential(sigmas, soft)}}
        results[name] = sampler(model, x, sigmas, args, callback=seen[name].append, **given)
    kept = torch.ones_like(mask, dtype=torch.bool)
    for k, (plain, made) in enumerate(zip(seen["plain"], seen["made"], strict=True)):
        assert torch.equal(plain["x"][kept], made["x"][kept])
        kept = kept & (asked(sigmas[k].expand(3), mask, {}) == 0)
        assert torch.equal(plain["denoised"][kept], made["denoised"][kept])
    assert kept.any() and torch.equal(results["plain"][kept], results["made"][kept])
    if options != CONTROLS[2]:
        assert (results["made"] - results["plain"])[~kept].abs().max() > 1e-3


def test_the_models_own_mask_function_is_asked_at_every_step(setting: Any, sampler: Any) -> None:
    model, x, sigmas, _ = setting
    function = Differential(sigmas)
    args = {"denoise_mask": half_mask(), "model_options": {"denoise_mask_function": function}}
    sampler(model, x, sigmas, args, gain=0.3)
    steps = len(sigmas) - 1
    assert len(function.calls) == 2 * steps  # by the model and by the sampler
    for k in range(steps):
        for sigma, told in function.calls[2 * k : 2 * k + 2]:
            assert sigma.shape == (3,) and torch.equal(sigma.float(), sigmas[k].expand(3))
            assert told == {"model": "what is inside", "sigmas": "the caller's own"}
    # Around a model that is no wrapper, what is at hand.
    told = []

    def function_(sigma: Tensor, mask: Tensor, extra_options: dict[str, Any]) -> Tensor:
        told.append(extra_options)
        return mask

    def bare(x: Tensor, sigma: Tensor, **extra: Any) -> Tensor:
        return model.model(x, sigma)

    sampler(bare, x, sigmas, {**args, "model_options": {"denoise_mask_function": function_}}, gain=0.3)
    assert told[0]["model"] is bare and told[0]["sigmas"] is sigmas


@pytest.mark.parametrize("options", CONTROLS, ids=IDS)
def test_a_function_that_returns_the_mask_is_the_mask(setting: Any, sampler: Any, options: dict[str, Any]) -> None:
    model, x, sigmas, flow = setting
    mask = half_mask()[:, :1] * torch.linspace(0.2, 1, 4)
    args: dict[str, Any] = {"denoise_mask": mask}
    want = sampler(model, x, sigmas, args, flow=flow, **options)
    args["model_options"] = {"denoise_mask_function": lambda sigma, denoise_mask, extra_options: 1 * denoise_mask}
    made = sampler(model, x, sigmas, args, flow=flow, **options)
    torch.testing.assert_close(made, want, rtol=0, atol=1e-12)


def test_a_mask_that_changes_is_not_the_solvers_error(setting: Any, sampler: Any) -> None:
    """Each sample by itself: where the mask changes nothing is judged, now or from levels before."""
    model, x, sigmas, flow = setting
    changes = torch.tensor([True, False, True])

    def function(sigma: Tensor, denoise_mask: Tensor, extra_options: dict[str, Any]) -> Tensor:
        odd = (sigmas > sigma[0]).sum() % 2 == 1
        return torch.where(changes[:, None, None, None] & odd, 1 - denoise_mask, denoise_mask)

    args: dict[str, Any] = {"denoise_mask": half_mask(), "model_options": {"denoise_mask_function": function}}
    plain = sampler(model, x, sigmas, args, gain=0.0)
    infos: list[LMLInfo] = []
    made = sampler(model, x, sigmas, args, control="adaptive", flow=flow, record=infos)
    assert all(info.identity[changes].all() for info in infos)
    assert torch.equal(made[changes], plain[changes])
    want = sampler(model, x, sigmas, {"denoise_mask": half_mask()}, control="adaptive", flow=flow)
    assert torch.equal(made[1], want[1]) and not torch.equal(made[1], plain[1])

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

    def noised(self, sigma: Tensor) -> Tensor:
        s = sigma.view(-1, 1, 1, 1)
        return (1 - s) * self.latent + s * self.noise if self.flow else self.latent + s * self.noise

    def __call__(self, x: Tensor, sigma: Tensor, denoise_mask: Tensor | None) -> Tensor:
        if denoise_mask is None:
            return self.model(x, sigma)
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

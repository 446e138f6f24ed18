"""Run in a process of its own by test_k_diffusion.py: compares our samplers with those of the installed k-diffusion.

k-diffusion's utilities import torchvision, which is not installed here and which its samplers do not use, so an empty
module stands in for it. The package's `__init__` imports its training half and with that ten more packages; what is
imported here is its samplers and its model wrappers, from the installed files. Writes one JSON object, name -> result.
"""

from __future__ import annotations

import importlib.util
import itertools
import json
import sys
import types
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

torch.set_num_threads(1)


def load_k_diffusion() -> Any:
    """Return the package with `sampling` and `external` imported."""
    # diffusers and its kin look for torchvision when they are imported, so that must be over before there is one.
    from diffusers import UNet2DModel  # noqa: F401

    names = ("torchvision", "torchvision.transforms", "torchvision.transforms.functional")
    for name in names:
        sys.modules[name] = types.ModuleType(name)
    sys.modules["torchvision.transforms"].functional = sys.modules[names[2]]  # type: ignore[attr-defined]
    spec = importlib.util.find_spec("k_diffusion")
    assert spec is not None, "k-diffusion is not installed: pip install --no-deps -c constraints.txt k-diffusion"
    package = importlib.util.module_from_spec(spec)
    sys.modules["k_diffusion"] = package
    importlib.import_module("k_diffusion.sampling")
    importlib.import_module("k_diffusion.external")
    for name in names:
        del sys.modules[name]
    return package


class TinyModel(nn.Module):
    """A UNet of a few thousand weights in the clothes of a CompVis model, as k-diffusion's wrappers take one."""

    def __init__(self) -> None:
        from diffusers import UNet2DModel

        super().__init__()
        torch.manual_seed(40)
        self.unet = UNet2DModel(
            sample_size=8,
            in_channels=3,
            out_channels=3,
            layers_per_block=1,
            block_out_channels=(8, 16),
            down_block_types=("DownBlock2D", "AttnDownBlock2D"),
            up_block_types=("AttnUpBlock2D", "UpBlock2D"),
            norm_num_groups=4,
            attention_head_dim=8,
        ).requires_grad_(False)
        betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
        self.register_buffer("alphas_cumprod", torch.cumprod(1 - betas, 0).float())

    def apply_model(self, x: Tensor, t: Tensor, cond: Any = None) -> Tensor:
        return self.unet(x, t).sample


def toy(x: Tensor, sigma: Tensor) -> Tensor:
    """A smooth nonlinear denoiser for any shape."""
    s = sigma.view(-1, *(1,) * (x.ndim - 1))
    return torch.tanh(x / (0.3 + s)) + 0.1 * torch.sin(3 * x / (1 + s))


def grids(k: Any, wrapper: Any) -> Iterator[tuple[str, Tensor]]:
    lowest, highest = float(wrapper.sigma_min), float(wrapper.sigma_max)
    for steps in (1, 2, 8, 20):
        yield f"karras-{steps}", k.sampling.get_sigmas_karras(steps, lowest, highest)
        yield f"model-{steps}", wrapper.get_sigmas(steps + 1)
        yield f"exponential-{steps}", k.sampling.get_sigmas_exponential(steps, lowest, highest)
    karras = k.sampling.get_sigmas_karras(12, lowest, highest)
    yield "image to image", karras[5:]
    yield "not to zero", karras[:8]


def main() -> None:
    k = load_k_diffusion()
    from lmlangevin.samplers import sample_lml_dpmpp_2m, sample_lml_euler

    pairs = {
        "euler": (sample_lml_euler, k.sampling.sample_euler),
        "dpmpp_2m": (sample_lml_dpmpp_2m, k.sampling.sample_dpmpp_2m),
    }
    model = TinyModel()
    eps, v = k.external.CompVisDenoiser(model), k.external.CompVisVDenoiser(model)
    results: dict[str, Any] = {"files": [k.sampling.__file__, k.external.__file__]}

    def start(sigmas: Tensor, seed: int, *shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        g = torch.Generator().manual_seed(seed)
        return torch.randn(shape, generator=g, dtype=torch.float64).to(dtype) * sigmas[0].to(dtype)

    # Gain 0, bit for bit: on every grid with a cheap model of odd shapes, and on the network through both wrappers.
    for name, (ours, theirs) in pairs.items():
        for seed, (grid, sigmas) in enumerate(grids(k, eps)):
            for dtype, shape in itertools.product(
                (torch.float32, torch.float64), ((2, 3, 7, 5), (3, 11), (1, 2, 3, 4, 5))
            ):
                x = start(sigmas, seed, *shape, dtype=dtype)
                same = torch.equal(ours(toy, x, sigmas, gain=0.0, disable=True), theirs(toy, x, sigmas, disable=True))
                results[f"equal/{name}/{grid}/{dtype}/{len(shape)}"] = same
        # Equal neighbours: k-diffusion's Euler takes a step of no length, and its 2M divides 0 by 0 in the step after.
        sigmas = k.sampling.get_sigmas_karras(8, 0.1, 10.0)
        x = start(sigmas, 60, 2, 3, 7, 5)
        made = ours(toy, x, sigmas[[0, 1, 1, 2, 3, 3, 3, 4, 5, 6, 7, 8]], gain=0.0, disable=True)
        again = sigmas if name == "dpmpp_2m" else sigmas[[0, 1, 1, 2, 3, 3, 3, 4, 5, 6, 7, 8]]
        results[f"equal/{name}/neighbours"] = torch.equal(made, theirs(toy, x, again, disable=True))
        results[f"equal/{name}/none"] = ours(toy, x, sigmas[:0], disable=True) is theirs(
            toy, x, sigmas[:0], disable=True
        )
        for kind, wrapper in (("eps", eps), ("v", v)):
            sigmas = wrapper.get_sigmas(6)
            x, seen, told = start(sigmas, 50, 2, 3, 8, 8), [], []
            args: dict[str, Any] = {"extra_args": {"cond": None}, "disable": True}
            made = ours(wrapper, x, sigmas, gain=0.0, callback=seen.append, **args)
            want = theirs(wrapper, x, sigmas, callback=told.append, **args)
            results[f"equal/{name}/{kind}"] = torch.equal(made, want)
            results[f"callback/{name}/{kind}"] = [sorted(a) == sorted(b) for a, b in zip(seen, told, strict=True)] + [
                torch.equal(torch.as_tensor(a[key]), torch.as_tensor(b[key]))
                for a, b in zip(seen, told, strict=True)
                for key in b
            ]
            # And with a correction: finite, other than the plain sampler, and the same again.
            for options in ({"gain": 0.35}, {"control": "adaptive"}, {"kappa": 0.5, "damping": 1.0, "rank": 2}):
                sigmas = wrapper.get_sigmas(12)
                x = start(sigmas, 51, 2, 3, 8, 8)
                plain = theirs(wrapper, x, sigmas, **args)
                runs = [ours(wrapper, x, sigmas, **args, **options) for _ in range(2)]
                results[f"corrected/{name}/{kind}/{'-'.join(options)}"] = {
                    "finite": bool(runs[0].isfinite().all()),
                    "repeats": torch.equal(*runs),
                    "change": float((runs[0] - plain).norm() / plain.norm()),
                }
    sys.stdout.write(json.dumps(results) + "\n")


if __name__ == "__main__":
    main()

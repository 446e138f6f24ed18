"""Analytic diffusion models: exact score, Hessian, posterior covariance, samples and ODE solutions."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

import torch

from lmlangevin.core.errors import LMLError
from lmlangevin.reference.gaussian_mixture import GaussianMixture
from lmlangevin.reference.model import PREDICTION_TYPES, AnalyticModel, AnalyticOutput, linear_alphas_cumprod
from lmlangevin.reference.trajectory import converged_solution

__all__ = [
    "PREDICTION_TYPES",
    "AnalyticModel",
    "AnalyticOutput",
    "GaussianMixture",
    "converged_solution",
    "linear_alphas_cumprod",
    "load_analytic",
]


def load_analytic(
    name: str | Path = "analytic-cifar10",
    *,
    device: torch.device | str = "cpu",
    dtype: torch.dtype | None = None,
) -> GaussianMixture:
    """Load a fitted mixture; wrap it in `AnalyticModel` to use it as a network.

    Args:
        name: an embedded asset (default "analytic-cifar10"), or a folder with a `mixture.safetensors`, as
            `tools/fit_mixture.py` writes.
        device: where to put it; default the CPU.
        dtype: torch.float32 (default for the embedded asset) or torch.float64.

    Returns:
        The mixture.

    Raises:
        LMLError: if there is neither such an asset nor such a folder.
    """
    folder = Path(name)
    if (folder / "mixture.safetensors").is_file():
        return GaussianMixture.load(folder / "mixture.safetensors", device=device, dtype=dtype)
    assets = resources.files("lmlangevin") / "assets"
    entry = assets / str(name) / "mixture.safetensors"
    # A name with a separator is a path that holds no mixture, not an asset.
    if folder.name != str(name) or not entry.is_file():
        known = sorted(a.name for a in assets.iterdir() if a.is_dir() and (a / "mixture.safetensors").is_file())
        raise LMLError(
            f"name is {str(name)!r}; give one of {', '.join(known)} or a folder that holds mixture.safetensors"
        )
    with resources.as_file(entry) as path:
        return GaussianMixture.load(path, device=device, dtype=dtype)

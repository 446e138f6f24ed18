"""Records and small functions of the mixture's linear algebra."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from lmlangevin.core.errors import LMLError


def wide_dtype(device: torch.device) -> torch.dtype:
    """The dtype of scalars and norms: float64, except on Apple's backend, which has none."""
    return torch.float32 if device.type == "mps" else torch.float64


class Level(NamedTuple):
    """One noise level against every component; n is 1 or the batch size."""

    alpha: Tensor  # (n, 1)
    sigma: Tensor  # (n, 1)
    iso: Tensor  # c_k, (n, K)
    eig: Tensor  # e_kj, (n, K, r)
    ratio: Tensor  # l_kj / (e_kj c_k), (n, K, r)


class Evaluation(NamedTuple):
    """What one pass over x gives: coordinates in each component's basis and the joint log densities."""

    level: Level
    centred: Tensor  # x - alpha * centre, (B, D)
    coords: Tensor  # U_k^T (x - alpha m_k), (B, K, r)
    joint: Tensor  # log w_k + log N(x; alpha m_k, S_k), (B, K)


class Affine(NamedTuple):
    """A per-component vector  p m_k + q_k d_k + U_k (t_k * z_k),  with d_k = x - alpha m_k, z_k = U_k^T d_k."""

    p: Tensor | float  # (n, 1) or a number
    q: Tensor  # (n, K)
    t: Tensor  # (n, K, r)


def posterior(ev: Evaluation) -> Tensor:
    """Responsibilities of the components, (B, K)."""
    return torch.softmax(ev.joint, dim=1)


def orthonormal(basis: Tensor, dtype: torch.dtype) -> Tensor:
    """Columns made orthonormal to the precision of `dtype`; left bit for bit as they are where they already are.

    Args:
        basis: (K, D, r).
        dtype: what the caller will store.

    Returns:
        (K, D, r) in the wide dtype: Q of the Cholesky QR, whose spans and order of columns are those of `basis`.

    Raises:
        LMLError: if the columns are further than 0.01 from orthonormal.
    """
    exact = basis.to(wide_dtype(basis.device))
    gram = exact.transpose(1, 2) @ exact
    identity = torch.eye(basis.shape[2], dtype=gram.dtype, device=gram.device)
    error = (gram - identity).abs().amax().item() if basis.numel() else 0.0
    if not error < 1e-2:
        raise LMLError(f"basis has columns {error:.2g} away from orthonormal; use GaussianMixture.from_factors")
    if error <= 4 * torch.finfo(dtype).eps:
        return exact
    lower = torch.linalg.cholesky(gram)
    return torch.linalg.solve_triangular(lower, exact.transpose(1, 2), upper=False).transpose(1, 2)

"""The probability-flow ODE of a Gaussian mixture, its exact Hessian, and the curvature of its trajectories.

With x = alpha x0 + sigma eps everything is written in y = x / alpha and s = sigma / alpha, in which every
variance-preserving path is the same ODE, and DDIM is Euler's method on it:

    dy/ds = n(y, s),     n = E[eps | y] = -s grad log q_s(y),     J = dn/dy s = -s^2 Hess log q_s(y).

J is sigma^2 times the exact Hessian H = -Hess log p_t of the paper, without units: J = I - Cov[x0 | y] / s^2, so no
eigenvalue exceeds 1, and 1 is a direction in which the data do not vary on the scale of the noise.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from lmlangevin.core.errors import LMLError
from lmlangevin.reference import GaussianMixture
from lmlangevin.reference.trajectory import runge_kutta


@dataclass(frozen=True)
class ProbabilityFlow:
    """dy/ds = n(y, s) of a mixture, with J and derivatives along the trajectory.

    Args:
        mixture: The data distribution.
    """

    mixture: GaussianMixture

    def slope(self, y: Tensor, s: float) -> Tensor:
        """Return n = E[eps | y] at s = sigma / alpha > 0: (B, *event_shape) -> the same."""
        alpha = 1 / math.sqrt(1 + s * s)
        return self.mixture.epsilon(alpha * y, alpha, s * alpha)

    def product(self, y: Tensor, s: float, v: Tensor) -> Tensor:
        """Return J v in closed form, one Hessian-vector product a sample: (B, *event_shape) -> the same."""
        alpha = 1 / math.sqrt(1 + s * s)
        return self.mixture.hessian_vector_product(alpha * y, v, alpha, s * alpha) * -((s * alpha) ** 2)

    def matrix(self, y: Tensor, s: float) -> Tensor:
        """Return J as matrices, (B, D, D), for small D."""
        alpha = 1 / math.sqrt(1 + s * s)
        return self.mixture.hessian(alpha * y, alpha, s * alpha) * -((s * alpha) ** 2)

    def derivative(self, y: Tensor, s: float, relative: float = 1e-4) -> Tensor:
        """Return dn/ds along the trajectory through (y, s), by a central difference of second order.

        Args:
            y: (B, *event_shape); float64, or the difference is rounding.
            s: Where, above 0.
            relative: Half the width of the difference, in units of s.

        Returns:
            (B, *event_shape). Exactly it is (n - J n) / s + grad tr J (docs/theory.md).
        """
        step = relative * s
        n = self.slope(y, s)
        return (self.slope(y + step * n, s + step) - self.slope(y - step * n, s - step)) / (2 * step)

    def advance(self, y: Tensor, start: float, end: float, steps: int = 8) -> Tensor:
        """Solve from s = start to end > 0 in so many Runge-Kutta steps, uniform in log s."""
        grid = torch.linspace(math.log(start), math.log(end), steps + 1, dtype=torch.float64).exp()
        return runge_kutta(self.slope, y, grid)

    def invariant_basis(self, y: Tensor, *others: Tensor) -> Tensor:
        """Return an orthonormal basis of a space that J maps to itself, and outside of which J is a multiple of I.

        The space is spanned by all components' principal directions, the differences of their means, and y itself:
        there, and only there, the components' precisions differ from multiples of the identity. For a few components
        of low rank it is much smaller than D, and the whole spectrum of J comes from J on it.

        Args:
            y: One sample, `event_shape`.
            *others: Further vectors that the space is to hold, each `event_shape`.

        Returns:
            (D, m), in the mixture's dtype.

        Raises:
            LMLError: If these are not fewer than D vectors.
        """
        mixture = self.mixture
        # What J depends on is y - m_k for every mean m_k: y from the centre, and the means from the centre.
        centre = mixture.mean.reshape(-1)
        rows = [y.reshape(-1).to(mixture.dtype) - centre, *(v.reshape(-1).to(mixture.dtype) for v in others)]
        columns = torch.cat([mixture.basis.mT.flatten(0, 1), mixture.means - centre, torch.stack(rows)]).T
        if columns.shape[1] >= columns.shape[0]:
            raise LMLError(
                f"the mixture has {columns.shape[1]} directions in {columns.shape[0]} dimensions; use matrix instead."
            )
        return torch.linalg.qr(columns / columns.norm(dim=0).clamp_min(torch.finfo(columns.dtype).tiny))[0]

    def eigenvalues(self, y: Tensor, s: float, *vectors: Tensor, chunk: int = 256) -> tuple[Tensor, list[Tensor]]:
        """Return the spectrum of J by Hessian-vector products, and how given vectors are distributed over it.

        Args:
            y: One sample, `event_shape`.
            s: Noise-to-signal ratio, above 0.
            *vectors: Vectors v, each `event_shape`.
            chunk: Products made at once.

        Returns:
            All D eigenvalues, ascending, float64; and for each v the shares <e_i, v>^2 / ||v||^2, (D,), which add up
            to 1.

        Raises:
            LMLError: As for `invariant_basis`.
        """
        basis = self.invariant_basis(y, *vectors)
        size, count = basis.shape
        rows = basis.T.reshape(count, *self.mixture.event_shape)
        images = [self.product(y.expand_as(part), s, part).flatten(1) for part in rows.split(chunk)]
        inside = (torch.cat(images) @ basis).double()
        values, axes = torch.linalg.eigh((inside + inside.T) / 2)
        outside = torch.randn(size, generator=torch.Generator().manual_seed(0), dtype=torch.float64).to(basis)
        for _ in range(2):
            outside = outside - basis @ (basis.T @ outside)
        probe = outside.view(1, *self.mixture.event_shape)
        image = self.product(y[None], s, probe)
        rest = float((image * probe).sum().double() / probe.square().sum().double())
        values, order = torch.cat([values, values.new_full((size - count,), rest)]).sort()
        shares = []
        for v in vectors:
            flat = v.reshape(-1).double()
            inner = axes.T @ (basis.double().T @ flat)
            shares.append(torch.cat([inner, inner.new_zeros(size - count)]).square()[order] / (flat @ flat))
        return values, shares

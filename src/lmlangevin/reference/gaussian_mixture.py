"""A Gaussian mixture whose noised versions are known in closed form: the exact diffusion model.

If the data x0 follow the mixture, then x = alpha x0 + sigma eps follows another Gaussian mixture, so the score,
the noise prediction, the denoiser, the Hessian of the log density and the posterior covariance of x0 all have
closed forms. Component k has covariance C_k = U_k diag(l_k) U_k^T + v_k I with orthonormal U_k, hence

    S_k = alpha^2 C_k + sigma^2 I   has eigenvalues   e_kj = alpha^2 l_kj + c_k  and  c_k = alpha^2 v_k + sigma^2,

and a change of noise level only rescales the coordinates in U_k. Every quantity below is written in terms of
e, c and the positive ratio l/(e c), so that nothing is a difference of nearly equal numbers at sigma -> 0 or at
huge sigma.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from lmlangevin.core.errors import LMLError
from lmlangevin.files import atomic_write
from lmlangevin.reference._algebra import Affine, Evaluation, Level, orthonormal, posterior, wide_dtype

_FORMAT = "lmlangevin-gaussian-mixture-1"


class GaussianMixture:
    """Mixture of K Gaussians in D dimensions, each of low rank plus isotropic covariance.

    It computes in its own `dtype` and returns the dtype of the caller's `x`. Responsibilities, norms and noise
    levels are float64 in every case. Against a float64 mixture, a float32 one (D = 3072, K = 16, r = 80, sigma/alpha
    from 0 to 1e4) gave epsilon and score with a relative error under 1e-6, responsibilities within 1e-5 and
    log densities within 4e-3 nats.

    Noise levels: every method takes `alpha` and `sigma` as numbers or as tensors with one element or with one
    element per sample (any shape), for x = alpha x0 + sigma eps.

    Args:
        weights: (K,) positive; normalised here.
        means: (K, D).
        basis: (K, D, r) with orthonormal columns. Rounding (float16 storage) is repaired here in float64 by a
            Cholesky QR, which keeps the spans; r may be 0.
        excess: (K, r), eigenvalues above the isotropic level, >= 0.
        variances: (K,), the isotropic level v_k > 0.
        event_shape: shape of one sample, D elements; default (D,).
        dtype: float32 or float64; default: that of `means`, or float32 where `means` is narrower.

    Raises:
        LMLError: on a shape that does not fit, a weight or variance that is not positive, or a basis that is not
            orthonormal within 0.01 (then use `from_factors`).
    """

    def __init__(
        self,
        weights: Tensor,
        means: Tensor,
        basis: Tensor,
        excess: Tensor,
        variances: Tensor,
        event_shape: Sequence[int] | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        if means.ndim != 2:
            raise LMLError(f"means has shape {tuple(means.shape)}; give (components, dimensions)")
        k, d = means.shape
        dtype = dtype or torch.promote_types(means.dtype, torch.float32)
        if dtype not in (torch.float32, torch.float64):
            raise LMLError(f"dtype is {dtype}; give torch.float32 or torch.float64")
        if basis.ndim != 3 or basis.shape[:2] != (k, d) or basis.shape[2] > d:
            raise LMLError(f"basis has shape {tuple(basis.shape)}; give ({k}, {d}, rank) with rank <= {d}")
        rank = basis.shape[2]
        for name, value, shape in (
            ("weights", weights, (k,)),
            ("excess", excess, (k, rank)),
            ("variances", variances, (k,)),
        ):
            if tuple(value.shape) != shape:
                raise LMLError(f"{name} has shape {tuple(value.shape)}; give {shape}")
            low_ok = bool((value >= 0).all() if name == "excess" else (value > 0).all())
            if not (low_ok and bool(torch.isfinite(value).all())):
                least = ">= 0" if name == "excess" else "> 0"
                raise LMLError(f"{name} holds a value of {value.min().item():g}; give finite values {least}")
        self.event_shape: tuple[int, ...] = tuple(event_shape) if event_shape is not None else (d,)
        if math.prod(self.event_shape) != d:
            raise LMLError(f"event_shape is {self.event_shape}; give a shape of {d} elements, as means has")
        self.dtype, self.device = dtype, means.device
        self.num_components, self.dim, self.rank = k, d, rank

        wide = self._wide = wide_dtype(means.device)
        self.weights = weights.to(wide) / weights.to(wide).sum()
        self.excess, self.variances = excess.to(wide), variances.to(wide)
        # Rows of the stacked basis are all components' directions: one GEMM projects on every component.
        self._stacked = orthonormal(basis, dtype).transpose(1, 2).reshape(k * rank, d).to(dtype).contiguous()
        self.means = means.to(dtype)
        # Centring by the mixture's mean keeps norms of x - alpha m_k small before they are subtracted.
        centre = self.weights @ self.means.to(wide)
        self._offsets_wide = self.means.to(wide) - centre
        self._centre, self._offsets = centre.to(dtype), self._offsets_wide.to(dtype)
        self._offset_norms = self._offsets_wide.square().sum(1)
        stacked = self._stacked.view(k, rank, d)
        self._offset_coords = torch.stack([u.to(wide) @ m for u, m in zip(stacked, self._offsets_wide, strict=True)])

    # ---- construction and storage

    @classmethod
    def from_factors(
        cls,
        weights: Tensor,
        means: Tensor,
        factors: Tensor,
        variances: Tensor,
        event_shape: Sequence[int] | None = None,
        dtype: torch.dtype | None = None,
    ) -> GaussianMixture:
        """Mixture with covariances W_k W_k^T + v_k I from any factors W (K, D, r), r <= D; see the class."""
        u, s, _ = torch.linalg.svd(factors.double(), full_matrices=False)
        return cls(weights, means, u, s.square(), variances, event_shape, dtype)

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> GaussianMixture:
        """The same mixture on another device or in another dtype (float32 or float64); self if nothing changes."""
        device, dtype = torch.device(device or self.device), dtype or self.dtype
        if device == self.device and dtype == self.dtype:
            return self
        parts = (self.weights, self.means, self.basis, self.excess, self.variances)
        moved = [part.to(dtype=torch.promote_types(part.dtype, dtype)) for part in parts]
        if device.type == "mps":
            moved = [part.float() for part in moved]
        return GaussianMixture(*(part.to(device) for part in moved), event_shape=self.event_shape, dtype=dtype)

    def save(self, path: str | Path, *, half: bool = False) -> None:
        """Write a safetensors file; `half=True` stores means and basis as float16 (needs `safetensors`).

        Raises:
            LMLError: the file cannot be written.
        """
        from safetensors.torch import save

        big = torch.float16 if half else self.dtype
        tensors = {
            "weights": self.weights,
            "means": self.means.to(big),
            "basis": self.basis.to(big),
            "excess": self.excess,
            "variances": self.variances,
        }
        metadata = {"format": _FORMAT, "event_shape": json.dumps(list(self.event_shape))}
        data = save({name: t.cpu().contiguous() for name, t in tensors.items()}, metadata=metadata)
        with atomic_write(path) as part:
            part.write_bytes(data)

    @classmethod
    def load(
        cls,
        path: str | Path,
        *,
        device: torch.device | str = "cpu",
        dtype: torch.dtype | None = None,
    ) -> GaussianMixture:
        """Read what `save` wrote.

        Args:
            path: the safetensors file.
            device: where to put it; default the CPU.
            dtype: float32 or float64; default: the stored one, or float32 where float16 was stored.

        Returns:
            The mixture. A basis stored as float16 is orthonormalised again in float64.

        Raises:
            LMLError: if there is no such file or it holds something else.
        """
        from safetensors import SafetensorError, safe_open

        if not Path(path).is_file():
            raise LMLError(f"path is {str(path)!r}, which is no file; give a mixture written by GaussianMixture.save")
        try:
            with safe_open(str(path), framework="pt") as file:
                metadata = file.metadata() or {}
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        except SafetensorError as error:
            raise LMLError(f"path is {str(path)!r}, not a safetensors file ({error}); give one from save") from error
        if metadata.get("format") != _FORMAT:
            raise LMLError(f"path is {str(path)!r}, whose format is {metadata.get('format')!r}; give {_FORMAT!r}")
        return cls(**tensors, event_shape=json.loads(metadata["event_shape"]), dtype=dtype).to(device)

    # ---- the mixture itself

    @property
    def basis(self) -> Tensor:
        """Orthonormal columns, (K, D, r)."""
        return self._stacked.view(self.num_components, self.rank, self.dim).transpose(1, 2)

    @property
    def mean(self) -> Tensor:
        """Mean of the data, `event_shape`."""
        return self._centre.reshape(self.event_shape)

    @property
    def std(self) -> Tensor:
        """Standard deviation of each element of the data, `event_shape`."""
        scale = (self.weights[:, None] * self.excess).reshape(-1)
        low_rank = scale @ self._stacked.to(self._wide).square()
        between = self.weights @ self._offsets_wide.square()
        variance = self.weights @ self.variances + low_rank + between
        return variance.sqrt().to(self.dtype).reshape(self.event_shape)

    def sample(self, n: int, generator: torch.Generator | Sequence[torch.Generator] | None = None) -> Tensor:
        """Draw exact samples of x0.

        Args:
            n: number of samples.
            generator: a CPU generator, or a sequence of n of them (one per sample, so that sample i does not
                depend on n); default torch's global one.

        Returns:
            (n, *event_shape) in the mixture's dtype. Draws are float32, whatever the dtype.
        """
        weights, width = self.weights.cpu(), self.rank + self.dim
        if isinstance(generator, Sequence):
            if len(generator) != n:
                raise LMLError(f"generator has {len(generator)} entries; give one for each of the n = {n} samples")
            drawn = [(torch.multinomial(weights, 1, generator=g), torch.randn(width, generator=g)) for g in generator]
            labels = torch.cat([label for label, _ in drawn])
            noise = torch.stack([row for _, row in drawn])
        else:
            labels = torch.multinomial(weights, n, replacement=True, generator=generator)
            noise = torch.randn(n, width, generator=generator)
        labels, noise = labels.to(self.device), noise.to(self.device, self.dtype)
        basis = self.basis
        out = noise[:, self.rank :] * self.variances.sqrt().to(self.dtype)[labels, None] + self.means[labels]
        coords = noise[:, : self.rank] * self.excess.sqrt().to(self.dtype)[labels]
        for k in labels.unique().tolist():
            out[labels == k] += coords[labels == k] @ basis[k].T
        return out.reshape(n, *self.event_shape)

    # ---- first-order quantities

    def log_prob(self, x: Tensor, alpha: float | Tensor = 1.0, sigma: float | Tensor = 0.0) -> Tensor:
        """Log density of x = alpha x0 + sigma eps: (B, *event_shape) -> (B,)."""
        return torch.logsumexp(self._evaluate(x, alpha, sigma).joint, dim=1).to(x.dtype)

    def responsibilities(self, x: Tensor, alpha: float | Tensor = 1.0, sigma: float | Tensor = 0.0) -> Tensor:
        """Posterior probability of each component: (B, *event_shape) -> (B, K)."""
        return torch.softmax(self._evaluate(x, alpha, sigma).joint, dim=1).to(x.dtype)

    def score(self, x: Tensor, alpha: float | Tensor = 1.0, sigma: float | Tensor = 0.0) -> Tensor:
        """Gradient of `log_prob` with respect to x, in the shape of x."""
        ev = self._evaluate(x, alpha, sigma)
        return self._shaped(-self._mix(ev, posterior(ev), self._precision(ev.level)), x)

    def epsilon(self, x: Tensor, alpha: float | Tensor, sigma: float | Tensor) -> Tensor:
        """Noise prediction E[eps | x] = -sigma score, in the shape of x; 0 at sigma = 0."""
        return self.predict(x, alpha, sigma, epsilon=1.0, sample=0.0)

    def denoise(self, x: Tensor, alpha: float | Tensor, sigma: float | Tensor) -> Tensor:
        """Denoiser E[x0 | x], in the shape of x; x / alpha at sigma = 0."""
        return self.predict(x, alpha, sigma, epsilon=0.0, sample=1.0)

    def velocity(self, x: Tensor, sigma: float | Tensor) -> Tensor:
        """Flow velocity E[eps - x0 | x] on the linear path x = (1 - sigma) x0 + sigma eps, sigma in [0, 1]."""
        return self.predict(x, 1.0 - sigma, sigma, epsilon=1.0, sample=-1.0)

    def v_prediction(self, x: Tensor, alpha: float | Tensor, sigma: float | Tensor) -> Tensor:
        """Variance-preserving v = E[alpha eps - sigma x0 | x] (arXiv:2202.00512), in the shape of x."""
        return self.predict(x, alpha, sigma, epsilon=alpha, sample=-sigma)

    def predict(
        self,
        x: Tensor,
        alpha: float | Tensor,
        sigma: float | Tensor,
        *,
        epsilon: float | Tensor,
        sample: float | Tensor,
    ) -> Tensor:
        """Posterior mean of a combination of noise and data, computed as one expression without cancellation.

        Args:
            x: (B, *event_shape), any float dtype.
            alpha: signal level, a number or one per sample.
            sigma: noise level, a number or one per sample.
            epsilon: coefficient of the noise, a number or one per sample.
            sample: coefficient of the data x0, a number or one per sample.

        Returns:
            E[epsilon * eps + sample * x0 | x] in the shape and dtype of x.

        Raises:
            LMLError: on a shape or level that does not fit.
        """
        ev = self._evaluate(x, alpha, sigma)
        of_eps, of_x0 = (self._per_sample(n, c, x.shape[0]) for n, c in (("epsilon", epsilon), ("sample", sample)))
        a, s, c = ev.level.alpha, ev.level.sigma, ev.level.iso
        affine = Affine(
            p=of_x0,
            q=(of_eps * s + of_x0 * a * self.variances) / c,
            t=(a * s * (of_x0 * s - of_eps * a))[..., None] * ev.level.ratio,
        )
        return self._shaped(self._mix(ev, posterior(ev), affine), x)

    # ---- second-order quantities

    def hessian_vector_product(
        self, x: Tensor, v: Tensor, alpha: float | Tensor = 1.0, sigma: float | Tensor = 0.0
    ) -> Tensor:
        """Product of the Hessian of `log_prob` at x with v, both (B, *event_shape), in closed form.

        Hess log p = -sum_k w_k S_k^-1 + Cov_w[S_k^-1 d_k], with the responsibilities w.
        """
        ev = self._evaluate(x, alpha, sigma)
        vectors = self._precision(ev.level)
        return self._shaped(self._product(ev, v, vectors, -vectors.q, -vectors.t), x)

    def hessian(self, x: Tensor, alpha: float | Tensor = 1.0, sigma: float | Tensor = 0.0) -> Tensor:
        """Dense Hessian of `log_prob`: (B, *event_shape) -> (B, D, D); for small D (memory B K D + B D^2)."""
        ev = self._evaluate(x, alpha, sigma)
        vectors = self._precision(ev.level)
        return self._dense(ev, vectors, -vectors.q, -vectors.t).to(x.dtype)

    def posterior_covariance_vector_product(
        self, x: Tensor, v: Tensor, alpha: float | Tensor, sigma: float | Tensor
    ) -> Tensor:
        """Product of Cov[x0 | x] with v, both (B, *event_shape), in closed form.

        Cov = sum_k w_k P_k + Cov_w[E_k[x0 | x]], where P_k has eigenvalues (l + v) sigma^2 / e and v sigma^2 / c.
        """
        ev = self._evaluate(x, alpha, sigma)
        return self._shaped(self._product(ev, v, *self._posterior_parts(ev.level)), x)

    def posterior_covariance(self, x: Tensor, alpha: float | Tensor, sigma: float | Tensor) -> Tensor:
        """Dense Cov[x0 | x]: (B, *event_shape) -> (B, D, D); for small D (memory B K D + B D^2)."""
        ev = self._evaluate(x, alpha, sigma)
        return self._dense(ev, *self._posterior_parts(ev.level)).to(x.dtype)

    # ---- inside

    def _flat(self, name: str, x: Tensor) -> Tensor:
        if tuple(x.shape[1:]) != self.event_shape or not x.is_floating_point():
            wanted = ", ".join(str(n) for n in ("batch", *self.event_shape))
            raise LMLError(f"{name} has shape {tuple(x.shape)} and dtype {x.dtype}; give a float tensor ({wanted})")
        return x.reshape(x.shape[0], self.dim).to(self.dtype)

    def _shaped(self, flat: Tensor, like: Tensor) -> Tensor:
        return flat.reshape(like.shape).to(like.dtype)

    def _per_sample(self, name: str, value: float | Tensor, batch: int) -> Tensor:
        column = torch.as_tensor(value, dtype=self._wide, device=self.device).reshape(-1, 1)
        if column.shape[0] not in (1, batch):
            raise LMLError(f"{name} has {column.shape[0]} elements; give one, or one for each of {batch} samples")
        return column

    def _level(self, alpha: float | Tensor, sigma: float | Tensor, batch: int) -> Level:
        for name, value in (("alpha", alpha), ("sigma", sigma)):
            # Tensors are not checked: reading them would synchronise the device.
            if not isinstance(value, Tensor) and not (math.isfinite(value) and value >= 0):
                raise LMLError(f"{name} is {value}; give a finite number >= 0")
        if not isinstance(alpha, Tensor) and not isinstance(sigma, Tensor) and alpha == 0 and sigma == 0:
            raise LMLError("alpha and sigma are both 0; give at least one that is positive")
        a, s = self._per_sample("alpha", alpha, batch), self._per_sample("sigma", sigma, batch)
        iso = a.square() * self.variances + s.square()
        eig = a.square()[..., None] * self.excess + iso[..., None]
        return Level(a, s, iso, eig, self.excess / eig / iso[..., None])

    def _project(self, flat: Tensor) -> Tensor:
        return (flat @ self._stacked.T).view(flat.shape[0], self.num_components, self.rank)

    def _evaluate(self, x: Tensor, alpha: float | Tensor, sigma: float | Tensor) -> Evaluation:
        flat = self._flat("x", x)
        level = self._level(alpha, sigma, flat.shape[0])
        a = level.alpha
        centred = flat - a.to(self.dtype) * self._centre
        coords = self._project(centred) - (a[..., None] * self._offset_coords).to(self.dtype)
        # ||d_k||^2 - ||z_k||^2 is a difference of large numbers divided by a small one: float64.
        exact, z = centred.to(self._wide), coords.to(self._wide)
        norms = exact.square().sum(1, keepdim=True) - 2 * a * (exact @ self._offsets_wide.T)
        outside = (norms + a.square() * self._offset_norms - z.square().sum(-1)).clamp_min(0)
        quadratic = outside / level.iso + (z.square() / level.eig).sum(-1)
        log_det = level.eig.log().sum(-1) + (self.dim - self.rank) * level.iso.log()
        constant = self.weights.log() - 0.5 * self.dim * math.log(2 * math.pi)
        return Evaluation(level, centred, coords, constant - 0.5 * (quadratic + log_det))

    def _precision(self, level: Level) -> Affine:
        """S_k^-1 d_k = d_k / c_k - U_k (alpha^2 l / (e c) z_k)  (Woodbury in the eigenbasis)."""
        return Affine(p=0.0, q=1 / level.iso, t=-level.alpha.square()[..., None] * level.ratio)

    def _posterior_parts(self, level: Level) -> tuple[Affine, Tensor, Tensor]:
        a, s = level.alpha, level.sigma
        means = Affine(p=1.0, q=a * self.variances / level.iso, t=(a * s.square())[..., None] * level.ratio)
        return means, self.variances * s.square() / level.iso, s.square().square()[..., None] * level.ratio

    def _mix(self, ev: Evaluation, mix: Tensor, affine: Affine, plus: Tensor | None = None) -> Tensor:
        """sum_k mix_k (p m_k + q_k d_k + U_k (t_k z_k)) + sum_k U_k plus_k: (B, K) -> (B, D), in two GEMMs."""
        along = mix * affine.q
        of_means = affine.p * mix - ev.level.alpha * along
        inside = (mix[..., None] * affine.t).to(self.dtype) * ev.coords
        if plus is not None:
            inside = inside + plus
        out = torch.addmm(of_means.to(self.dtype) @ self._offsets, inside.flatten(1), self._stacked)
        out = out + along.sum(1, keepdim=True).to(self.dtype) * ev.centred
        return out + (affine.p * mix.sum(1, keepdim=True)).to(self.dtype) * self._centre

    def _product(self, ev: Evaluation, v: Tensor, vectors: Affine, iso: Tensor, inner: Tensor) -> Tensor:
        """(sum_k w_k (iso_k I + U_k inner_k U_k^T) + Cov_w[vectors_k]) v."""
        if v.shape[0] != ev.centred.shape[0]:
            raise LMLError(f"v has {v.shape[0]} samples; give {ev.centred.shape[0]}, as x has")
        flat, w = self._flat("v", v), posterior(ev)
        coords, exact = self._project(flat), flat.to(self._wide)
        on_means = exact @ self._offsets_wide.T
        on_offsets = (exact * ev.centred).sum(1, keepdim=True) - ev.level.alpha * on_means
        on_basis = (vectors.t * ev.coords * coords).sum(-1)
        heights = vectors.p * on_means + vectors.q * on_offsets + on_basis
        pull = w * (heights - (w * heights).sum(1, keepdim=True))
        plus = (w[..., None] * inner).to(self.dtype) * coords
        own = (w * iso).sum(1, keepdim=True).to(self.dtype) * flat
        return own + self._mix(ev, pull, vectors, plus)

    def _dense(self, ev: Evaluation, vectors: Affine, iso: Tensor, inner: Tensor) -> Tensor:
        """The matrix of `_product`, formed directly."""
        w, u = posterior(ev), self.basis.to(self._wide)
        offsets = ev.centred[:, None].to(self._wide) - ev.level.alpha[..., None] * self._offsets_wide
        rows = vectors.p * self._offsets_wide + vectors.q[..., None] * offsets
        rows = rows + torch.einsum("kdr,bkr->bkd", u, vectors.t * ev.coords)
        rows = rows - (w[..., None] * rows).sum(1, keepdim=True)
        spread = torch.einsum("bk,bkd,bke->bde", w, rows, rows)
        own = torch.einsum("kdr,bkr,ker->bde", u, w[..., None] * inner, u)
        return spread + own + (w * iso).sum(1)[:, None, None] * torch.eye(self.dim, dtype=w.dtype, device=w.device)

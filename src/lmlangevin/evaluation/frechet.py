"""Frechet distance between two sets of features, from running sums in float64.

The distance of two Gaussians is |m1 - m2|^2 + tr(S1 + S2 - 2 (S1^1/2 S2 S1^1/2)^1/2) (Dowson and Landau, 1982), with
features in place of data (Heusel et al., arXiv:1706.08500). It is biased by about 1/N: compare equal N only.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from lmlangevin.core.errors import LMLError

if TYPE_CHECKING:
    from lmlangevin.evaluation.features import FeatureNetwork, RandomFeatureNetwork


@dataclass(frozen=True, eq=False)
class FrechetStatistics:
    """Count, sum and sum of outer products of features. Immutable: `update` and `merge` return new statistics.

    Args:
        n: number of feature vectors.
        sum: their sum, float64 of shape (D,).
        outer: the sum of f f^T, float64 of shape (D, D).
        extractor: name of the network that made the features.
        weight_hash: SHA-256 of its weights.
        protocol: how images were prepared and which of them were taken. Statistics that differ in any of these three
            words are never merged or compared.
    """

    n: int
    sum: Tensor
    outer: Tensor
    extractor: str = ""
    weight_hash: str = ""
    protocol: str = ""

    @classmethod
    def empty(cls, dim: int, *, extractor: str = "", weight_hash: str = "", protocol: str = "") -> FrechetStatistics:
        """Return statistics of no features yet, of dimension `dim`.

        Raises:
            LMLError: dim < 1.
        """
        if dim < 1:
            raise LMLError(f"dim {dim}: give the number of features, a whole number >= 1")
        zeros = torch.zeros(dim, dim, dtype=torch.float64)
        return cls(0, zeros[0].clone(), zeros, extractor, weight_hash, protocol)

    @property
    def dim(self) -> int:
        """Number of features D."""
        return self.sum.shape[0]

    @property
    def mean(self) -> Tensor:
        """Mean, float64 of shape (D,).

        Raises:
            LMLError: there are no features yet.
        """
        self._need(1, "mean")
        return self.sum / self.n

    @property
    def covariance(self) -> Tensor:
        """Unbiased covariance (divided by n - 1), float64 of shape (D, D), symmetric.

        Raises:
            LMLError: there are fewer than two features.
        """
        self._need(2, "covariance")
        centred = self.outer - torch.outer(self.sum, self.sum) / self.n
        return (centred + centred.T) / (2 * (self.n - 1))

    def update(self, features: Tensor) -> FrechetStatistics:
        """Return the statistics with more features added.

        Args:
            features: (N, D), any floating dtype and device; N may be 0.

        Raises:
            LMLError: wrong shape, or a value that is not finite.
        """
        if features.ndim != 2 or features.shape[1] != self.dim:
            raise LMLError(f"features: shape {tuple(features.shape)}; give (N, {self.dim})")
        wide = features.detach().to("cpu", torch.float64)
        if not bool(torch.isfinite(wide).all()):
            bad = int((~torch.isfinite(wide).all(1)).sum())
            raise LMLError(
                f"features: {bad} of {len(wide)} rows hold NaN or infinity; leave failed images out, and count them"
            )
        return replace(self, n=self.n + len(wide), sum=self.sum + wide.sum(0), outer=self.outer + wide.T @ wide)

    def merge(self, other: FrechetStatistics) -> FrechetStatistics:
        """Return the statistics of both sets together.

        Raises:
            LMLError: the two differ in dimension, extractor, weights or protocol.
        """
        _require_same(self, other)
        return replace(self, n=self.n + other.n, sum=self.sum + other.sum, outer=self.outer + other.outer)

    def save(self, path: str | Path) -> None:
        """Write mu, sigma, n, extractor, weight_hash and protocol as .npz, complete as soon as it is visible.

        Args:
            path: ends in `.npz`.

        Raises:
            LMLError: another suffix, or fewer than two features.
        """
        import numpy as np

        target = Path(path)
        if target.suffix != ".npz":
            raise LMLError(f"path {str(path)!r}: give a file name that ends in .npz")
        part = target.with_name(target.name + ".part")
        with part.open("wb") as stream:
            np.savez(
                stream,
                mu=self.mean.numpy(),
                sigma=self.covariance.numpy(),
                n=np.array(self.n),
                extractor=np.array(self.extractor),
                weight_hash=np.array(self.weight_hash),
                protocol=np.array(self.protocol),
            )
        os.replace(part, target)

    @classmethod
    def load(cls, path: str | Path, *, n: int | None = None) -> FrechetStatistics:
        """Read a file written by `save`, or a file of another tool that holds mu and sigma.

        Args:
            path: an .npz file.
            n: number of images, for a file that does not record it (its three words are then empty).

        Raises:
            LMLError: there is no such file, it lacks mu or sigma, they do not fit together, or n is not known.
        """
        import numpy as np

        if not Path(path).is_file():
            raise LMLError(f"path {str(path)!r}: no such file; give statistics written by FrechetStatistics.save")
        with np.load(Path(path), allow_pickle=False) as stored:
            missing = [key for key in ("mu", "sigma") if key not in stored]
            if missing:
                raise LMLError(
                    f"path {str(path)!r}: no {' and '.join(missing)} in it; give an .npz file with mu and sigma"
                )
            mu, sigma = (torch.from_numpy(np.array(stored[key], dtype=np.float64)) for key in ("mu", "sigma"))
            count = int(stored["n"]) if "n" in stored else n
            words = {k: str(stored[k]) if k in stored else "" for k in ("extractor", "weight_hash", "protocol")}
        if count is None or count < 2:
            raise LMLError(f"path {str(path)!r}: records n = {count}; give n, the number of images behind it, >= 2")
        if mu.ndim != 1 or sigma.shape != (len(mu), len(mu)):
            raise LMLError(
                f"path {str(path)!r}: mu {tuple(mu.shape)}, sigma {tuple(sigma.shape)}; give (D,) and (D, D)"
            )
        return cls(count, mu * count, sigma * (count - 1) + count * torch.outer(mu, mu), **words)

    def _need(self, count: int, what: str) -> None:
        if self.n < count:
            raise LMLError(f"n {self.n}: {what} needs at least {count} feature vectors; update with more")


def _require_same(a: FrechetStatistics, b: FrechetStatistics) -> None:
    """Raise unless both are in one feature space under one protocol."""
    if a.dim != b.dim:
        raise LMLError(f"dim {a.dim} and {b.dim}: give statistics of one feature extractor")
    for word in ("protocol", "extractor", "weight_hash"):
        first, second = getattr(a, word), getattr(b, word)
        if first != second:
            raise LMLError(f"{word} {first!r} and {second!r}: not comparable; make both with the same {word}")


def frechet_distance(a: FrechetStatistics, b: FrechetStatistics) -> float:
    """Squared Frechet distance of the Gaussians that match two sets of features.

    The matrix root is taken in symmetric form, from the eigenvalues of S1^1/2 S2 S1^1/2, which are real and not
    negative but for rounding; the root of the product S1 S2, as usually computed, turns complex when S1 is singular.

    Args:
        a: statistics of one set.
        b: statistics of the other, of the same extractor and protocol.

    Returns:
        The distance, at least 0, in squared units of the features.

    Raises:
        LMLError: different extractors or protocols, fewer than two features, or values that are not finite.

    Warns:
        UserWarning: a set has no more vectors than features, so that its covariance is singular.

    Reference: Dowson and Landau (1982), doi:10.1016/0047-259X(82)90077-X; arXiv:1706.08500, section 4.
    """
    _require_same(a, b)
    for side, item in (("a", a), ("b", b)):
        if 2 <= item.n <= item.dim:
            warnings.warn(
                f"{side}: {item.n} vectors of {item.dim} features have a singular covariance; give more images",
                UserWarning,
                stacklevel=2,
            )
    mean_a, mean_b, cov_a, cov_b = a.mean, b.mean, a.covariance, b.covariance
    if not all(bool(torch.isfinite(x).all()) for x in (mean_a, mean_b, cov_a, cov_b)):
        raise LMLError("a, b: statistics hold NaN or infinity; make them again from finite features")
    values, vectors = torch.linalg.eigh(cov_a)
    root = (vectors * values.clamp(min=0).sqrt()) @ vectors.T
    middle = root @ cov_b @ root
    cross = torch.linalg.eigvalsh((middle + middle.T) / 2).clamp(min=0).sqrt().sum()
    distance = (mean_a - mean_b).square().sum() + cov_a.trace() + cov_b.trace() - 2 * cross
    result = float(distance)
    if result != result or result == float("inf"):
        raise LMLError(f"a, b: their distance is {result}; features are too large for float64, scale them down")
    return max(result, 0.0)


def feature_statistics(
    network: FeatureNetwork | RandomFeatureNetwork,
    images: Tensor | Iterable[Tensor],
    *,
    protocol: str,
    batch_size: int = 500,
) -> FrechetStatistics:
    """Stream images through an extractor into statistics, without keeping the features.

    Args:
        network: an extractor of `lmlangevin.evaluation.features`.
        images: one tensor (N, 3, H, W), or an iterable of such batches, as the network takes them.
        protocol: how the images were made and chosen, recorded in the result.
        batch_size: images at once, when one tensor is given.

    Returns:
        Statistics with the network's name and weight hash.

    Raises:
        LMLError: batch_size < 1, no images, or what `network.features` and `update` raise.
    """
    from lmlangevin.evaluation.features import extract_features

    if batch_size < 1:
        raise LMLError(f"batch_size {batch_size}: give a whole number >= 1")
    statistics = FrechetStatistics.empty(
        network.dim, extractor=network.extractor, weight_hash=network.weight_hash, protocol=protocol
    )
    for batch in images.split(batch_size) if isinstance(images, Tensor) else images:
        if len(batch):
            statistics = statistics.update(extract_features(network, batch, batch_size))
    if statistics.n == 0:
        raise LMLError("images: none given; give at least one image")
    return statistics


def load_reference_statistics() -> FrechetStatistics:
    """Statistics of the 50,000 CIFAR-10 training images in the embedded network's features.

    The images come from a JPEG re-encoded copy of CIFAR-10 and are neither cropped nor flipped.

    Returns:
        Statistics with protocol `embedded-cifar10`.

    Raises:
        LMLError: the asset is missing.
    """
    from lmlangevin.evaluation.features import ASSET

    return FrechetStatistics.load(ASSET / "statistics.npz")

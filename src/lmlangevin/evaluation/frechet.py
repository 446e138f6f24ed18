"""Frechet distance between two sets of features, from running sums in float64.

The distance of two Gaussians is |m1 - m2|^2 + tr(S1 + S2 - 2 (S1^1/2 S2 S1^1/2)^1/2) (Dowson and Landau, 1982), with
features in place of data (Heusel et al., arXiv:1706.08500). It is biased by about 1/N: compare equal N only.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor

from lmlangevin.core.errors import LMLError
from lmlangevin.files import atomic_write

if TYPE_CHECKING:
    from lmlangevin.evaluation.extractors import Extractor

_WORDS = ("protocol", "extractor", "weight_hash")


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

    def all_reduce(self, group: Any = None) -> FrechetStatistics:
        """Return the statistics of all ranks of a process group together, the same on every rank.

        Every rank of the group calls it; one that has no images gives `empty`.

        Args:
            group: a torch.distributed process group of any backend that takes float64, such as gloo or NCCL; None is
                the default group.

        Returns:
            New statistics, on the CPU; self where no process group is initialised.

        Raises:
            LMLError: the ranks differ in dimension, extractor, weights or protocol, and then on every rank, so that
                none is left waiting; or this process does not belong to the group.
        """
        import torch.distributed as dist

        if not (dist.is_available() and dist.is_initialized()):
            return self
        if dist.get_rank(group) < 0:
            raise LMLError("group: this process is not one of its ranks; call all_reduce on the group's ranks alone")
        # The words go round before the sums do: a reduction of unequal shapes would hang or mix feature spaces.
        mine = {"n": self.n, "dim": self.dim} | {word: getattr(self, word) for word in _WORDS}
        everyone: list[Any] = [None] * dist.get_world_size(group)
        dist.all_gather_object(everyone, mine, group=group)
        for rank, other in enumerate(everyone):
            for word in ("dim", *_WORDS):
                if other[word] != everyone[0][word]:
                    raise LMLError(
                        f"{word} {everyone[0][word]!r} on rank 0 and {other[word]!r} on rank {rank} of the group: "
                        f"not to be merged; make the statistics of all ranks with the same {word}"
                    )
        device = _group_device(dist.get_backend_config(group))
        totals = []
        for mine_alone in (self.sum, self.outer):
            total = mine_alone.to(device, copy=True)
            dist.all_reduce(total, group=group)
            totals.append(total.cpu())
        return replace(self, n=sum(other["n"] for other in everyone), sum=totals[0], outer=totals[1])

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
        with atomic_write(target, f"path {str(path)!r}") as part, part.open("wb") as stream:
            np.savez(
                stream,
                mu=self.mean.numpy(),
                sigma=self.covariance.numpy(),
                n=np.array(self.n),
                extractor=np.array(self.extractor),
                weight_hash=np.array(self.weight_hash),
                protocol=np.array(self.protocol),
            )

    @classmethod
    def load(cls, path: str | Path, *, n: int | None = None) -> FrechetStatistics:
        """Read a file written by `save`, or a file of another tool that holds mu and sigma.

        Args:
            path: an .npz file.
            n: number of images, for a file that does not record it (its three words are then empty).

        Raises:
            LMLError: there is no such file, it cannot be read, it lacks mu or sigma, they do not fit together, or n is
                not known, or not the one in the file.
        """
        import numpy as np

        if not Path(path).is_file():
            raise LMLError(f"path {str(path)!r}: no such file; give statistics written by FrechetStatistics.save")
        try:
            # Opened here: numpy does not close a file that it finds to be no archive.
            with Path(path).open("rb") as stream, np.load(stream, allow_pickle=False) as file:
                stored = {key: file[key] for key in ("mu", "sigma", "n", *_WORDS) if key in file}
            # One that is missing is told below; 0 stands in for it.
            mu, sigma = (torch.from_numpy(np.array(stored.get(key, 0), dtype=np.float64)) for key in ("mu", "sigma"))
            recorded = int(stored["n"]) if "n" in stored else None
        except Exception as error:  # a file of unknown origin breaks in numpy, zipfile and zlib, each in its own way
            raise LMLError(
                f"path {str(path)!r}: cannot be read as statistics ({error}); give an .npz file with mu and sigma"
            ) from error
        missing = [key for key in ("mu", "sigma") if key not in stored]
        if missing:
            raise LMLError(f"path {str(path)!r}: no {' and '.join(missing)} in it; give an .npz file with mu and sigma")
        if n is not None and recorded is not None and n != recorded:
            raise LMLError(f"path {str(path)!r}: records n = {recorded}, and n is given as {n}; leave n out")
        count = n if recorded is None else recorded
        if count is None or count < 2:
            raise LMLError(
                f"path {str(path)!r}: records n = {count}; give n, the number of images behind it, >= 2 "
                "(lml fid: --reference-n, for REFERENCE)"
            )
        if mu.ndim != 1 or len(mu) < 1 or sigma.shape != (len(mu), len(mu)):
            raise LMLError(
                f"path {str(path)!r}: mu {tuple(mu.shape)}, sigma {tuple(sigma.shape)}; give (D,) and (D, D)"
            )
        words = {word: str(stored.get(word, "")) for word in _WORDS}
        return cls(count, mu * count, sigma * (count - 1) + count * torch.outer(mu, mu), **words)

    def _need(self, count: int, what: str) -> None:
        if self.n < count:
            raise LMLError(f"n {self.n}: {what} needs at least {count} feature vectors; update with more")


def _group_device(backends: str) -> torch.device:
    """Return where a group reduces tensors, given its backends as `device:backend` pairs: the CPU where it can.

    gloo stands there for every device; with NCCL alone it is the accelerator that this process has made its own.
    """
    kinds = [pair.partition(":")[0] for pair in backends.split(",")]
    if "cpu" in kinds:
        return torch.device("cpu")
    return torch.device(kinds[0], torch.get_device_module(kinds[0]).current_device())


def _require_same(a: FrechetStatistics, b: FrechetStatistics) -> None:
    """Raise unless both are in one feature space under one protocol."""
    if a.dim != b.dim:
        raise LMLError(f"dim {a.dim} and {b.dim}: give statistics of one feature extractor")
    for word in _WORDS:
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


@dataclass(frozen=True)
class LogFID:
    """The logarithm of a Frechet distance, to both bases in use, with a label for each.

    Args:
        natural: to base e.
        base10: to base 10.
    """

    natural: float
    base10: float
    natural_label: ClassVar[str] = "ln FID"
    base10_label: ClassVar[str] = "log10 FID"


def log_fid(value: float) -> LogFID:
    """Logarithms of a Frechet distance.

    The LML paper (arXiv:2505.24222) reports a "log FID" and does not state its base; so both are given, each with a
    label, and neither is claimed to be the paper's.

    Args:
        value: a distance, above 0.

    Raises:
        LMLError: value is not a finite number above 0.
    """
    if not (math.isfinite(value) and value > 0):
        raise LMLError(f"value {value}: has no logarithm; give a finite distance above 0")
    return LogFID(math.log(value), math.log10(value))


def feature_statistics(
    network: Extractor,
    images: Tensor | Iterable[Tensor],
    *,
    protocol: str,
    batch_size: int = 500,
) -> FrechetStatistics:
    """Stream images through an extractor into statistics, without keeping the features.

    Args:
        network: an extractor: a network of `lmlangevin.evaluation.features`, or one of
            `lmlangevin.evaluation.extractors`.
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
    statistics: FrechetStatistics | None = None
    for batch in images.split(batch_size) if isinstance(images, Tensor) else images:
        if len(batch):
            features = extract_features(network, batch, batch_size)
            if statistics is None:  # a callable's dimension is known from its first batch on
                words = {"extractor": network.extractor, "weight_hash": network.weight_hash, "protocol": protocol}
                statistics = FrechetStatistics.empty(features.shape[1], **words)
            statistics = statistics.update(features)
    if statistics is None:
        raise LMLError("images: none given; give at least one image")
    return statistics


def load_reference_statistics(protocol: str = "embedded-cifar10") -> FrechetStatistics:
    """Load the reference statistics of a protocol that come with the package.

    Args:
        protocol: `"embedded-cifar10"`, the 50,000 CIFAR-10 training images in the embedded network's features (from a
            JPEG re-encoded copy, neither cropped nor flipped), or `"scenes"`, 10,000 drawn scenes in the reader's.

    Raises:
        LMLError: the protocol brings none, or the asset is missing.
    """
    from lmlangevin.evaluation.features import ASSET

    folders = {"embedded-cifar10": ASSET, "scenes": ASSET.with_name("scenes-reader")}
    if protocol not in folders:
        raise LMLError(f"protocol {protocol!r}: has no statistics of its own; give one of {', '.join(folders)}")
    return FrechetStatistics.load(folders[protocol] / "statistics.npz")

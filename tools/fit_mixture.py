"""Fit a Gaussian mixture of low-rank-plus-isotropic components to CIFAR-10 and write it as an asset folder.

k-means (k-means++ seeding, Lloyd iterations) splits the images, scaled to [-1, 1]; PCA in each cluster gives the
leading eigenpairs, and the mean of the remaining eigenvalues the isotropic level. The embedded asset:

    python tools/fit_mixture.py cifar10-train.parquet --components 16 --rank 80 --float16 \
        --out src/lmlangevin/assets/analytic-cifar10
"""

from __future__ import annotations

import argparse
import datetime
import hashlib
import shlex
import sys
from pathlib import Path

import torch
from torch import Tensor

from lmlangevin.reference.gaussian_mixture import GaussianMixture

sys.path.insert(0, str(Path(__file__).resolve().parent))
from _cifar import read_cifar10  # noqa: E402

_CARD = """# {name}: a Gaussian mixture fitted to CIFAR-10

`mixture.safetensors` holds {components} components, each with a mean, {rank} principal directions with their
eigenvalues above the isotropic level, and that level. `lmlangevin.reference.load_analytic` reads it; the diffusion
of this mixture is known exactly (score, denoiser, Hessian, posterior covariance).

| | |
|---|---|
| Data | {images} images of the CIFAR-10 training split (`{data}`), pixels scaled to [-1, 1] |
| Script | `tools/fit_mixture.py` |
| Command | `{command}` |
| Steps | k-means++ seeding and {iterations} Lloyd iterations, then PCA in each cluster (seed {seed}) |
| Date | {date} |
| Storage | {storage}; {size} bytes |
| SHA-256 | `{digest}` |
| Cluster sizes | {sizes} |
| Isotropic level | {low:.5f} to {high:.5f} (variance) |
| Pixel standard deviation | {std:.4f} in the mixture, {data_std:.4f} in the data |

A basis stored as float16 is orthonormalised again in float64 when it is loaded.

Licence note: CIFAR-10 (Krizhevsky, 2009) is distributed by the University of Toronto for research without an
explicit licence; this file holds statistics of it (means and principal directions), no image. The parquet export
used here re-encodes the images as JPEG, so the statistics differ slightly from those of the original arrays.
"""


def squared_distances(x: Tensor, centres: Tensor) -> Tensor:
    """Squared distances up to a constant of each row: (N, D), (K, D) -> (N, K)."""
    return centres.square().sum(1) - 2 * (x @ centres.T)


def kmeans(x: Tensor, k: int, iterations: int, generator: torch.Generator) -> Tensor:
    """Labels (N,) of k clusters of the rows of x."""
    norms = x.square().sum(1)
    centres = x[torch.randint(len(x), (1,), generator=generator)]
    nearest = norms + squared_distances(x, centres)[:, 0]
    while len(centres) < k:
        pick = torch.multinomial(nearest.clamp_min(0), 1, generator=generator)
        centres = torch.cat([centres, x[pick]])
        nearest = torch.minimum(nearest, norms + squared_distances(x, x[pick])[:, 0])
    labels = squared_distances(x, centres).argmin(1)
    for i in range(iterations):
        sums = torch.zeros(k, x.shape[1]).index_add_(0, labels, x)
        counts = torch.bincount(labels, minlength=k)
        centres = torch.where(counts[:, None] > 0, sums / counts.clamp_min(1)[:, None], centres)
        previous, labels = labels, squared_distances(x, centres).argmin(1)
        moved = int((labels != previous).sum())
        print(f"k-means {i + 1}/{iterations}: {moved} images changed cluster", file=sys.stderr)
        if moved == 0:
            break
    return labels


def principal(x: Tensor, rank: int, floor: float, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor, float]:
    """Mean (D,), basis (D, rank), excess (rank,) and isotropic level of the rows of x, by subspace iteration."""
    mean = x.double().mean(0)
    centred = (x - mean.float()).contiguous()
    width = min(rank + 48, *x.shape)
    q = torch.randn(x.shape[1], width, generator=generator)
    for _ in range(12):
        q, _ = torch.linalg.qr(centred.T @ (centred @ q))
    image = (centred @ q).double()
    values, rotation = torch.linalg.eigh(image.T @ image / len(x))
    values, rotation = values.flip(0)[:rank], rotation.flip(1)[:, :rank]
    total = centred.double().square().sum() / len(x)
    level = max(float((total - values.sum()) / (x.shape[1] - rank)), floor)
    return mean, q.double() @ rotation, (values - level).clamp_min(0), level


def fit(x: Tensor, components: int, rank: int, iterations: int, floor: float, seed: int) -> tuple[GaussianMixture, str]:
    """Fit to images (N, C, H, W); returns the mixture and the cluster sizes in words."""
    generator = torch.Generator().manual_seed(seed)
    flat = x.flatten(1)
    labels = kmeans(flat, components, iterations, generator)
    counts = torch.bincount(labels, minlength=components)
    if int(counts.min()) <= rank:
        raise SystemExit(f"a cluster has {int(counts.min())} images, not more than --rank {rank}: lower --components")
    parts = []
    for k in range(components):
        parts.append(principal(flat[labels == k], rank, floor, generator))
        print(f"PCA {k + 1}/{components}: {int(counts[k])} images, level {parts[-1][3]:.5f}", file=sys.stderr)
    means, bases, excess, levels = zip(*parts, strict=True)
    mixture = GaussianMixture(
        counts.double(),
        torch.stack(means),
        torch.stack(bases),
        torch.stack(excess),
        torch.tensor(levels, dtype=torch.float64),
        event_shape=x.shape[1:],
        dtype=torch.float32,
    )
    return mixture, ", ".join(str(int(c)) for c in counts)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description="Fit a Gaussian mixture to CIFAR-10 and write an asset folder.")
    parser.add_argument("parquet", type=Path, help="CIFAR-10 training images (columns img{bytes,path}, label)")
    parser.add_argument("--components", type=int, default=16)
    parser.add_argument("--rank", type=int, default=80)
    parser.add_argument("--iterations", type=int, default=30, help="Lloyd iterations at most")
    parser.add_argument("--floor", type=float, default=1e-4, help="least isotropic variance")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--float16", action="store_true", help="store means and basis as float16")
    parser.add_argument("--date", default=datetime.date.today().isoformat(), help="date on the card")
    parser.add_argument("--out", type=Path, required=True, help="folder to write")
    args = parser.parse_args()

    images, _ = read_cifar10(args.parquet)
    x = images.float() / 127.5 - 1
    mixture, sizes = fit(x, args.components, args.rank, args.iterations, args.floor, args.seed)
    args.out.mkdir(parents=True, exist_ok=True)
    target = args.out / "mixture.safetensors"
    mixture.save(target, half=args.float16)
    target.chmod(0o644)  # safetensors writes for the owner alone
    # The card shows what to type, not where this machine keeps its files.
    shown = [Path(a).name if a == str(args.parquet) else a for a in sys.argv[1:]]
    card = _CARD.format(
        name=args.out.name,
        components=args.components,
        rank=args.rank,
        images=len(x),
        data=args.parquet.name,
        command=shlex.join(["python", "tools/fit_mixture.py", *shown]),
        iterations=args.iterations,
        seed=args.seed,
        date=args.date,
        storage="float16 means and basis, float64 scalars" if args.float16 else "float32, float64 scalars",
        size=target.stat().st_size,
        digest=hashlib.sha256(target.read_bytes()).hexdigest(),
        sizes=sizes,
        low=float(mixture.variances.min()),
        high=float(mixture.variances.max()),
        std=float(mixture.std.double().square().mean().sqrt()),
        data_std=float((x - x.mean(0)).square().mean().sqrt()),
    )
    (args.out / "README.md").write_text(card, encoding="utf-8")
    print(f"wrote {target} ({target.stat().st_size / 2**20:.2f} MiB)")


if __name__ == "__main__":
    main()

"""Feature extractors for Frechet distances: the embedded CIFAR-10 network, and fixed random convolutions.

Neither is Inception: distances in these spaces compare samplers with each other under one protocol, and no such
number may stand beside a published FID.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lmlangevin.core.errors import LMLError
from lmlangevin.install import install_hint

if TYPE_CHECKING:
    from lmlangevin.evaluation.extractors import Extractor

ASSET = Path(__file__).resolve().parent.parent / "assets" / "features-cifar10"
PROTOCOL = "embedded-cifar10"
EXTRACTOR = "lmlangevin-features-cifar10"


def as_float_images(images: Tensor, size: int | None) -> Tensor:
    """Return float32 images in [-1, 1] from uint8 images in 0..255, or from floating images that are in [-1, 1]."""
    expected = "(N, 3, H, W)" if size is None else f"(N, 3, {size}, {size})"
    if images.ndim != 4 or images.shape[1] != 3 or (size is not None and images.shape[2:] != (size, size)):
        raise LMLError(f"images: shape {tuple(images.shape)}; give a batch of RGB images of shape {expected}")
    if images.dtype == torch.uint8:
        return images.float() / 127.5 - 1
    if not images.is_floating_point():
        raise LMLError(f"images: dtype {images.dtype}; give uint8 in 0..255 or a floating type in [-1, 1]")
    return images.float()


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions with batch normalisation, before the activation, and an identity path."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm1 = nn.BatchNorm2d(width)
        self.conv1 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, C, H, W) to (N, C, H, W)."""
        h = self.conv1(F.relu(self.norm1(x)))
        return x + self.conv2(F.relu(self.norm2(h)))


class FeatureNetwork(nn.Module):
    """A small residual classifier of CIFAR-10 whose penultimate layer serves as feature space.

    Args:
        widths: channels of the three stages, at 32x32, 16x16 and 8x8; the last is the number of features.
        blocks: residual blocks of each stage.
        classes: outputs of the classifier.
    """

    def __init__(
        self, widths: tuple[int, int, int] = (24, 64, 128), blocks: tuple[int, int, int] = (0, 1, 1), classes: int = 10
    ) -> None:
        super().__init__()
        if len(widths) != 3 or len(blocks) != 3 or min(widths) < 1 or min(blocks) < 0:
            raise LMLError(f"widths {widths}, blocks {blocks}: give three positive widths and three block counts >= 0")
        self.dim = widths[2]
        self.classes = classes
        self.configuration: dict[str, Any] = {"widths": list(widths), "blocks": list(blocks), "classes": classes}
        layers: list[nn.Module] = [nn.Conv2d(3, widths[0], 3, padding=1, bias=False)]
        before = widths[0]
        for stage, (width, count) in enumerate(zip(widths, blocks, strict=True)):
            if stage > 0:
                down = nn.Conv2d(before, width, 3, stride=2, padding=1, bias=False)
                layers += [nn.BatchNorm2d(before), nn.ReLU(), down]
            layers += [ResidualBlock(width) for _ in range(count)]
            before = width
        layers += [nn.BatchNorm2d(before), nn.ReLU()]
        self.trunk = nn.Sequential(*layers)
        self.head = nn.Linear(before, classes)
        self.extractor = EXTRACTOR
        self.weight_hash = ""

    def features(self, images: Tensor) -> Tensor:
        """Penultimate features, the mean over positions of the last stage.

        Args:
            images: (N, 3, 32, 32), uint8 in 0..255, or floating in [-1, 1] (converted to float32, not clipped).

        Returns:
            float32 of shape (N, dim), non-negative.

        Raises:
            LMLError: another shape or dtype.
        """
        return self.trunk(as_float_images(images, 32)).mean((2, 3))

    def forward(self, images: Tensor) -> Tensor:
        """Class logits, shape (N, classes), from images as `features` takes them."""
        return self.head(self.features(images))


class RandomFeatureNetwork(nn.Module):
    """Three fixed random convolutions: 5x5x64, 3x3x128, 3x3x64, stride 2, ReLU, He-scaled normal weights.

    The output is averaged over 4x4 positions. It needs no training data, so it serves the analytic models.

    Args:
        seed: of the weights; the same seed gives the same weights on every machine (drawn on the CPU in float32).
    """

    dim = 64

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.extractor = f"lmlangevin-random-features-{seed}"
        digest = hashlib.sha256()
        for index, shape in enumerate(((64, 3, 5, 5), (128, 64, 3, 3), (64, 128, 3, 3))):
            scale = (2.0 / (shape[1] * shape[2] * shape[3])) ** 0.5
            weight = torch.randn(shape, generator=generator) * scale
            digest.update(bytes(weight.view(torch.uint8).flatten().tolist()))
            self.register_buffer(f"weight{index}", weight)
        self.weight_hash = digest.hexdigest()

    def features(self, images: Tensor) -> Tensor:
        """Random features.

        Args:
            images: (N, 3, H, W), floating in [-1, 1], or uint8 in 0..255.

        Returns:
            float32 of shape (N, 64), non-negative.

        Raises:
            LMLError: another shape or dtype.
        """
        x = as_float_images(images, None)
        for index in range(3):
            weight: Tensor = getattr(self, f"weight{index}")
            x = F.relu(F.conv2d(x, weight, stride=2, padding=weight.shape[-1] // 2))
        # 32x32 images arrive here as 4x4 maps, and other sizes are averaged over all their positions likewise.
        return x.mean((2, 3))

    def forward(self, images: Tensor) -> Tensor:
        """Same as `features`."""
        return self.features(images)


def random_features(seed: int = 0) -> RandomFeatureNetwork:
    """Return the random-feature extractor of a seed, frozen and in eval mode."""
    return RandomFeatureNetwork(seed).eval().requires_grad_(False)


def file_sha256(path: str | Path) -> str:
    """Hexadecimal SHA-256 of a file's bytes."""
    with Path(path).open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def load_feature_network(folder: str | Path | None = None) -> FeatureNetwork:
    """Load the embedded feature network, or one that `tools/train_features.py` wrote.

    Args:
        folder: holds `config.json` and `model.safetensors`; default the package's own asset.

    Returns:
        The network in eval mode, frozen, float32 (the file holds float16); `weight_hash` is the file's SHA-256.

    Raises:
        LMLError: a file is missing, or its hash is not the one of `config.json`.
    """
    try:
        from safetensors.torch import load_file
    except ImportError as error:
        raise LMLError(f"load_feature_network: needs safetensors; {install_hint('diffusers')}") from error
    place = ASSET if folder is None else Path(folder)
    weights, config_file = place / "model.safetensors", place / "config.json"
    for path in (weights, config_file):
        if not path.is_file():
            raise LMLError(
                f"folder {str(place)!r}: no {path.name} there; give a folder that tools/train_features.py wrote"
            )
    config = json.loads(config_file.read_text(encoding="utf-8"))
    found = file_sha256(weights)
    if found != config["weight_hash"]:
        raise LMLError(
            f"folder {str(place)!r}: model.safetensors has sha256 {found}, config.json says otherwise; restore both"
        )
    network = FeatureNetwork(tuple(config["widths"]), tuple(config["blocks"]), config["classes"])
    state = {k: v.float() if v.is_floating_point() else v for k, v in load_file(weights).items()}
    # The counter of batches serves training only and is not in the file.
    state |= {k: v for k, v in network.state_dict().items() if k.endswith("num_batches_tracked")}
    network.load_state_dict(state)
    network.weight_hash = found
    return network.eval().requires_grad_(False)


@torch.no_grad()
def extract_features(network: Extractor, images: Tensor | Iterable[Tensor], batch_size: int = 500) -> Tensor:
    """Features of many images, in batches, on the network's device.

    Args:
        network: an extractor. Images are moved to the device of one that is a torch module.
        images: one tensor (N, 3, H, W), or an iterable of such batches.
        batch_size: images at once, when one tensor is given. The result does not depend on it beyond rounding.

    Returns:
        Of shape (N, dim), on the CPU, float32 or as the extractor gives it.

    Raises:
        LMLError: batch_size < 1, or no images.
    """
    if batch_size < 1:
        raise LMLError(f"batch_size {batch_size}: give a whole number >= 1")
    state = next(iter(network.state_dict().values()), None) if isinstance(network, nn.Module) else None
    batches = images.split(batch_size) if isinstance(images, Tensor) else images
    parts = [
        network.features(batch if state is None else batch.to(state.device)).cpu() for batch in batches if len(batch)
    ]
    if not parts:
        raise LMLError("images: none given; give at least one image")
    return torch.cat(parts)

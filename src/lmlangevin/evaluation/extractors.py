"""What an extractor is, extractors made of any callable, and Inception as FID takes it."""

from __future__ import annotations

import hashlib
import io
import typing
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from lmlangevin.core.errors import LMLError
from lmlangevin.evaluation.protocols import Protocol, find_protocol
from lmlangevin.install import install_hint

WEIGHTS_FILE = "weights-inception-2015-12-05-6726825d.pth"
WEIGHTS_URL = f"https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/{WEIGHTS_FILE}"
WEIGHTS_SHA256 = "6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2"
"""Of the published file. pytorch-fid's `pt_inception-2015-12-05-6726825d.pth` has the same bytes."""

_OFFLINE = (
    f"offline, download {WEIGHTS_FILE} elsewhere ({WEIGHTS_URL}) and give --inception-weights PATH, or use --protocol "
    "embedded-cifar10"
)

# From the resized input to the 2048 pooled features, in the order of torch-fidelity's forward.
_LAYERS = (
    "Conv2d_1a_3x3", "Conv2d_2a_3x3", "Conv2d_2b_3x3", "MaxPool_1", "Conv2d_3b_1x1", "Conv2d_4a_3x3", "MaxPool_2",
    "Mixed_5b", "Mixed_5c", "Mixed_5d", "Mixed_6a", "Mixed_6b", "Mixed_6c", "Mixed_6d", "Mixed_6e",
    "Mixed_7a", "Mixed_7b", "Mixed_7c", "AvgPool",
)  # fmt: skip


@typing.runtime_checkable
class Extractor(typing.Protocol):
    """What turns images into features.

    `dim` is the number of features (0 while it is not known), `extractor` its name and `weight_hash` the SHA-256 of
    its weights; statistics carry the last two and are compared only where both are equal.
    """

    @property
    def dim(self) -> int: ...  # noqa: D102

    @property
    def extractor(self) -> str: ...  # noqa: D102

    @property
    def weight_hash(self) -> str: ...  # noqa: D102

    def features(self, images: Tensor) -> Tensor:
        """Map uint8 images (N, 3, H, W) to features (N, dim) of a floating type."""
        ...


def _check_images(images: Tensor) -> None:
    if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[1] != 3:
        raise LMLError(f"images: {images.dtype} of shape {tuple(images.shape)}; give uint8 images (N, 3, H, W)")


def check_device(device: str) -> None:
    """See that torch has a device, before anything is loaded onto it.

    Raises:
        LMLError: it has not.
    """
    try:
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:  # a torch built without CUDA asserts
        raise LMLError(f"device {device!r}: not there ({_one_line(error)}); give cpu, cuda, cuda:N or mps") from error


class CallableExtractor:
    """An extractor made of any function of images.

    Args:
        function: maps uint8 images (N, 3, H, W), on the CPU, to features (N, D) of a floating type, on any device.
        name: what statistics record as their extractor.
        weight_hash: SHA-256 of what the function depends on. Without it, statistics of two versions of a function
            with one name cannot be told apart.

    Raises:
        LMLError: name is empty.
    """

    def __init__(self, function: Callable[[Tensor], Tensor], name: str, *, weight_hash: str = "") -> None:
        if not name:
            raise LMLError(f"name {name!r}: give a name that tells this extractor from others")
        self._function = function
        self.dim = 0
        self.extractor = name
        self.weight_hash = weight_hash

    @torch.no_grad()
    def features(self, images: Tensor) -> Tensor:
        """Features (N, D) of uint8 images (N, 3, H, W), without a gradient; D is that of the first call.

        Values are not looked at: `FrechetStatistics.update` refuses those that are not finite.

        Raises:
            LMLError: other images, or the function does not return (N, D) of a floating type.
        """
        _check_images(images)
        result = self._function(images)
        # A function of the user's may return anything, whatever its type says.
        if not isinstance(result, Tensor) or not result.is_floating_point() or result.ndim != 2:
            what = f"{result.dtype} {tuple(result.shape)}" if isinstance(result, Tensor) else type(result).__name__
            raise LMLError(f"extractor {self.extractor!r}: returned {what}; return a floating tensor (N, D)")
        dim = self.dim or result.shape[1]
        if result.shape != (len(images), dim) or dim < 1:
            raise LMLError(
                f"extractor {self.extractor!r}: returned {tuple(result.shape)} for {len(images)} images; return "
                f"({len(images)}, {dim or 'D'})"
            )
        self.dim = dim
        return result


class InceptionExtractor:
    """The 2048 pooled features of the Inception that FID is defined by, with torch-fidelity's layers.

    Args:
        rule: `"tf"`: uint8 images, TensorFlow 1.x bilinear to 299x299, (x - 128) / 128, which is torch-fidelity's
            own forward; `"pytorch"`: x / 255, torch bilinear to 299x299 (align_corners=False, no antialiasing),
            2x - 1, which is pytorch-fid's. They differ by more than rounding and are two protocols.
        weights: a file of weights; None takes the published one from torch's cache, or downloads it there.
        device: of the network.

    Raises:
        LMLError: an unknown rule, no such device, torch-fidelity cannot be imported, or weights cannot be had, read or
            trusted.
    """

    dim = 2048

    def __init__(
        self, rule: typing.Literal["tf", "pytorch"] = "tf", weights: str | Path | None = None, device: str = "cpu"
    ) -> None:
        if rule not in ("tf", "pytorch"):
            raise LMLError(f"rule {rule!r}: give 'tf' or 'pytorch'")
        check_device(device)
        make = _import_inception()
        data = _read_weights(_cached_weights() if weights is None else Path(weights))
        self._network = _build(make, data, str(weights or WEIGHTS_FILE)).to(device)
        self._device = device
        self._rule = rule
        self.extractor = f"inception-v3-2048-{rule}"
        self.weight_hash = hashlib.sha256(data).hexdigest()

    @property
    def published(self) -> bool:
        """Whether the weights are the published ones, without which no number may stand beside a published FID."""
        return self.weight_hash == WEIGHTS_SHA256

    @torch.no_grad()
    def features(self, images: Tensor) -> Tensor:
        """Pooled features, float32 (N, 2048) on the extractor's device, of uint8 images (N, 3, H, W) of any size.

        Raises:
            LMLError: other images.
        """
        _check_images(images)
        moved = images.to(self._device)
        if self._rule == "tf":
            return self._network(moved)[0]
        return self.pooled(
            2 * F.interpolate(moved.float() / 255, (299, 299), mode="bilinear", align_corners=False, antialias=False)
            - 1
        )

    def pooled(self, x: Tensor) -> Tensor:
        """Walk the layers: float32 (N, 3, 299, 299), resized and scaled already, to (N, 2048)."""
        for name in _LAYERS:
            x = getattr(self._network, name)(x)
        return x.flatten(1).float()


def _import_inception() -> Callable[..., Any]:
    """Import torch-fidelity's network class; the package asks for torchvision, which may be broken."""
    try:
        from torch_fidelity.feature_extractor_inceptionv3 import (  # pyright: ignore[reportMissingImports]
            FeatureExtractorInceptionV3,
        )
    except (ImportError, RuntimeError, OSError, AttributeError) as error:
        # A torchvision built for another torch raises RuntimeError (an operator is missing), OSError (a library is) or
        # AttributeError (it is left half imported).
        raise LMLError(
            f"torch-fidelity: cannot be imported ({_one_line(error)}); {install_hint('fid')}, with a torchvision that "
            f"fits your torch; {_OFFLINE}"
        ) from error
    return FeatureExtractorInceptionV3


def _cached_weights() -> Path:
    """Return the published weights' path in torch's cache, after a download where they are not there yet."""
    path = Path(torch.hub.get_dir()) / "checkpoints" / WEIGHTS_FILE
    if path.is_file():
        return path
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # It looks at the hash before the file gets its name, so what is in the cache is whole.
        torch.hub.download_url_to_file(WEIGHTS_URL, str(path), hash_prefix=WEIGHTS_SHA256, progress=False)
    except (OSError, RuntimeError, ValueError) as error:
        raise LMLError(
            f"inception_weights: none given, and {WEIGHTS_FILE} cannot be downloaded ({_one_line(error)}); {_OFFLINE}"
        ) from error
    return path


def _read_weights(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise LMLError(
            f"inception_weights {str(path)!r}: cannot be read ({error.strerror}); give the file {WEIGHTS_FILE}"
        ) from error


def _build(make: Callable[..., Any], data: bytes, named: str) -> Any:
    """Build the network around weights that were read as tensors and nothing else."""
    remedy = f"give the file {WEIGHTS_FILE}, see {WEIGHTS_URL}"
    try:
        state = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
        if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
            raise TypeError("it does not hold named tensors")
        # torch-fidelity unpickles its file without weights_only, which runs any code in it. It gets these tensors,
        # written anew, in place of the file.
        clean = io.BytesIO()
        torch.save(state, clean)
        clean.seek(0)
        return make("inception-v3-compat", ["2048"], feature_extractor_weights_path=clean)
    except Exception as error:  # the pickle, zip and tensor readers each have their own
        raise LMLError(
            f"inception_weights {named!r}: not the weights of Inception ({_one_line(error)}); {remedy}"
        ) from (error)


def _one_line(error: BaseException, limit: int = 200) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= limit else text[: limit - 3] + "..."


def load_extractor(
    protocol: str | Protocol, *, inception_weights: str | Path | None = None, device: str = "cpu"
) -> Extractor:
    """Load the extractor of a protocol.

    Args:
        protocol: a name of `PROTOCOLS`, or a protocol.
        inception_weights: file of Inception's weights; None takes them from torch's cache or the network.
        device: of the extractor's network.

    Raises:
        LMLError: an unknown protocol, one whose extractor is a callable of the caller's, weights for an extractor that
            takes none, no such device, or what `InceptionExtractor` raises.
    """
    chosen = find_protocol(protocol) if isinstance(protocol, str) else protocol
    if chosen.extractor == "inception":
        return InceptionExtractor("pytorch" if chosen.rule == "pytorch" else "tf", inception_weights, device)
    if inception_weights is not None:
        raise LMLError(
            f"inception_weights {str(inception_weights)!r}: protocol {chosen.name!r} has no Inception; leave it out"
        )
    if chosen.extractor == "callable":
        raise LMLError(
            f"protocol {chosen.name!r}: its extractor is your own; give fid(..., extractor=CallableExtractor)"
        )
    from lmlangevin.evaluation.features import load_feature_network

    check_device(device)
    if chosen.extractor == "scenes":
        from lmlangevin.scenes import load_reader

        return load_reader(device)
    return load_feature_network().to(device)

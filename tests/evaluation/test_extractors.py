"""Extractors: any callable, and Inception over a stand-in for torch-fidelity, and over the real one where it is."""

from __future__ import annotations

import io
import sys
import urllib.error
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lmlangevin.core.errors import LMLError
from lmlangevin.evaluation.extractors import (
    WEIGHTS_FILE,
    WEIGHTS_SHA256,
    CallableExtractor,
    Extractor,
    InceptionExtractor,
    load_extractor,
)
from lmlangevin.evaluation.features import file_sha256, load_feature_network, random_features
from lmlangevin.evaluation.frechet import feature_statistics
from lmlangevin.evaluation.protocols import Protocol
from lmlangevin.install import install_hint


def pixels(seed: int, count: int, height: int = 20, width: int = 24) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (count, 3, height, width), generator=generator, dtype=torch.uint8)


def means(images: Tensor) -> Tensor:
    return images.double().mean((2, 3)) / 255


# Callables ----------------------------------------------------------------------------------------------------------


def test_everything_here_is_an_extractor() -> None:
    for item in (load_feature_network(), random_features(1), CallableExtractor(means, "means")):
        assert isinstance(item, Extractor)
    assert not isinstance(means, Extractor)


def test_a_callable_makes_statistics_under_its_own_name() -> None:
    extractor = CallableExtractor(means, "means", weight_hash="abc")
    assert extractor.dim == 0
    images = pixels(400, 17)
    statistics = feature_statistics(extractor, images, protocol="mine", batch_size=5)
    assert (extractor.dim, statistics.dim, statistics.n) == (3, 3, 17)
    assert (statistics.extractor, statistics.weight_hash, statistics.protocol) == ("means", "abc", "mine")
    torch.testing.assert_close(statistics.mean, means(images).mean(0), rtol=0, atol=1e-12)


def test_a_callable_runs_without_a_gradient() -> None:
    layer = nn.Linear(3, 2)
    extractor = CallableExtractor(lambda images: layer(means(images).float()), "linear")
    assert not extractor.features(pixels(401, 4)).requires_grad


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda images: images, r"torch.uint8 \(4, 3, 20, 24\)"),
        (lambda images: means(images).tolist(), "list"),
        (lambda images: means(images)[:2], r"\(2, 3\) for 4 images"),
        (lambda images: means(images)[:, :0], r"\(4, 0\) for 4 images"),
        (lambda images: means(images).mean(1), r"torch.float64 \(4,\)"),
    ],
)
def test_a_callable_that_returns_something_else_is_refused(function: Any, message: str) -> None:
    with pytest.raises(LMLError, match=f"extractor 'odd': returned {message}"):
        CallableExtractor(function, "odd").features(pixels(402, 4))


def test_a_callable_keeps_its_dimension_and_takes_bytes() -> None:
    extractor = CallableExtractor(lambda images: means(images)[:, : int(images.shape[2]) // 10], "growing")
    extractor.features(pixels(403, 4))
    with pytest.raises(LMLError, match=r"returned \(4, 3\) for 4 images; return \(4, 2\)"):
        extractor.features(pixels(404, 4, height=30))
    for images in (pixels(405, 4).float(), pixels(405, 4)[0], pixels(405, 4)[:, :1]):
        with pytest.raises(LMLError, match=r"give uint8 images \(N, 3, H, W\)"):
            extractor.features(images)
    with pytest.raises(LMLError, match="name ''"):
        CallableExtractor(means, "")


def test_values_that_are_not_finite_are_refused_by_the_statistics() -> None:
    extractor = CallableExtractor(lambda images: means(images).log() * float("nan"), "nan")
    with pytest.raises(LMLError, match="4 of 4 rows hold NaN"):
        feature_statistics(extractor, pixels(406, 4), protocol="mine")


# Inception over a stand-in ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("seed", "side"), [(421, 24), (424, 640)], ids=["enlarged", "reduced"])
def test_both_rules_run_on_weights_of_a_file(stand_in: Any, weights: Path, seed: int, side: int) -> None:
    images, plain = pixels(seed, 3, side - 4, side), stand_in("x", ["2048"], weights)
    tf, pytorch = InceptionExtractor("tf", weights), InceptionExtractor("pytorch", weights)
    assert torch.equal(tf.features(images), plain(images)[0])
    resized = nn.functional.interpolate(images.float() / 255, (299, 299), mode="bilinear", align_corners=False)
    expected = plain.AvgPool(plain.Mixed_7c(plain.Conv2d_1a_3x3(2 * resized - 1).relu())).flatten(1)
    torch.testing.assert_close(pytorch.features(images), expected, rtol=1e-5, atol=1e-6)
    assert not torch.allclose(pytorch.features(images), tf.features(images), rtol=1e-3)
    for extractor in (tf, pytorch):
        assert isinstance(extractor, Extractor)
        assert extractor.features(images).shape == (3, stand_in.out)
        assert extractor.weight_hash == file_sha256(weights) and not extractor.published
        with pytest.raises(LMLError, match="give uint8 images"):
            extractor.features(images.float())
    assert tf.extractor != pytorch.extractor


@pytest.mark.usefixtures("stand_in")
def test_protocols_load_their_extractor(weights: Path) -> None:
    names = {
        name: load_extractor(name, inception_weights=weights).extractor
        for name in ("tf-fid", "pytorch-fid", "lml-coco")
    }
    assert names["tf-fid"] == names["lml-coco"] == "inception-v3-2048-tf"
    assert names["pytorch-fid"] == "inception-v3-2048-pytorch"
    assert load_extractor("embedded-cifar10").weight_hash == load_feature_network().weight_hash
    with pytest.raises(LMLError, match="has no Inception; leave it out"):
        load_extractor("embedded-cifar10", inception_weights=weights)
    with pytest.raises(LMLError, match="CallableExtractor"):
        load_extractor(Protocol("mine", "callable", 100))
    with pytest.raises(LMLError, match="rule 'keras'"):
        InceptionExtractor("keras", weights)  # pyright: ignore[reportArgumentType]


class Trap:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[Path]]:
        return Path.touch, (self.path,)


@pytest.mark.parametrize("kind", ["code", "list", "numbers", "other layers", "text", "nothing"])
def test_weights_that_are_something_else_are_refused_and_run_nothing(stand_in: Any, kind: str, tmp_path: Path) -> None:
    path, trap = tmp_path / "weights.pth", tmp_path / "trap"
    if kind in ("text", "nothing"):
        path.write_bytes(b"weights" if kind == "text" else b"")
    else:
        content: dict[str, Any] = {
            "code": stand_in.state(422) | {"more": Trap(trap)},
            "list": [torch.ones(3)],
            "numbers": {"fc": 3.5},
            "other layers": {"fc.weight": torch.ones(3, 4)},
        }
        torch.save(content[kind], path)
    with pytest.raises(LMLError, match=f"not the weights of Inception.*give the file {WEIGHTS_FILE}"):
        InceptionExtractor("tf", path)
    assert not trap.exists()


@pytest.mark.usefixtures("stand_in")
def test_a_weights_path_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(LMLError, match="'.*none.pth': cannot be read .*No such file"):
        InceptionExtractor("tf", tmp_path / "none.pth")


def test_weights_are_taken_from_the_cache_or_downloaded_into_it(
    stand_in: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[str, str]] = []

    def download(url: str, path: str, hash_prefix: str, progress: bool) -> None:
        asked.append((url, hash_prefix))
        torch.save(stand_in.state(423), path)

    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    monkeypatch.setattr(torch.hub, "download_url_to_file", download)
    first, second = InceptionExtractor("tf"), InceptionExtractor("tf")
    # Asked for once, and by a hash that makes another file an error before it is unpickled.
    assert len(asked) == 1 and asked[0][0].endswith(WEIGHTS_FILE) and asked[0][1] == WEIGHTS_SHA256
    assert first.weight_hash == second.weight_hash == file_sha256(tmp_path / "hub" / "checkpoints" / WEIGHTS_FILE)


@pytest.mark.usefixtures("stand_in")
@pytest.mark.parametrize("error", [urllib.error.URLError("Name or service not known"), RuntimeError("invalid hash")])
def test_without_a_network_the_remedy_is_told(
    error: Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*args: object, **kwargs: object) -> None:
        raise error

    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    monkeypatch.setattr(torch.hub, "download_url_to_file", fail)
    with pytest.raises(LMLError) as caught:
        load_extractor("tf-fid")
    for words in ("cannot be downloaded", WEIGHTS_FILE, "--inception-weights PATH", "--protocol embedded-cifar10"):
        assert words in str(caught.value)


class Broken:
    """A finder that fails as a torchvision built for another torch does."""

    def __init__(self, error: Exception) -> None:
        self.error = error

    def find_spec(self, name: str, path: object = None, target: object = None) -> None:
        if name.partition(".")[0] == "torch_fidelity":
            raise self.error


@pytest.mark.parametrize(
    "error",
    [
        ModuleNotFoundError("No module named 'torch_fidelity'"),
        RuntimeError("operator torchvision::nms does not exist"),
        OSError("libcudart.so.12: cannot open shared object file"),
        AttributeError("partially initialized module 'torchvision' has no attribute 'extension'"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_a_torch_fidelity_that_does_not_import_is_explained(
    error: Exception, weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == "torch_fidelity"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(sys, "meta_path", [Broken(error), *sys.meta_path])
    with pytest.raises(LMLError) as caught:
        load_extractor("tf-fid", inception_weights=weights)
    for words in (str(error), install_hint("fid"), WEIGHTS_FILE, "--inception-weights", "embedded-cifar10"):
        assert words in str(caught.value)
    assert "\n" not in str(caught.value)


# The real one -------------------------------------------------------------------------------------------------------


def real_inception() -> Any:
    try:
        from torch_fidelity.feature_extractor_inceptionv3 import (  # pyright: ignore[reportMissingImports]
            FeatureExtractorInceptionV3,
        )
    except (ImportError, RuntimeError):
        pytest.skip("torch-fidelity is not installed, or its torchvision is broken")
    return FeatureExtractorInceptionV3


def test_the_tf_rule_is_the_forward_of_torch_fidelity(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make = real_inception()
    from torch_fidelity.interpolate_compat_tensorflow import (  # pyright: ignore[reportMissingImports]
        interpolate_bilinear_2d_like_tensorflow1x,
    )

    generator = torch.Generator().manual_seed(430)
    with monkeypatch.context() as patch:
        patch.setattr(make, "load_state_dict", lambda self, state: None)
        stream = io.BytesIO()
        torch.save({}, stream)
        stream.seek(0)
        reference = make("x", ["2048"], feature_extractor_weights_path=stream)
    # Random weights keep their scale from layer to layer only if normalisation is fitted to them.
    for parameter in reference.parameters():
        if parameter.ndim == 4:
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * (2 / parameter[0].numel()) ** 0.5)
    for norm in (module for module in reference.modules() if isinstance(module, nn.BatchNorm2d)):
        norm.train().momentum = None
    with torch.no_grad():
        reference(pixels(431, 2))
    reference.eval()
    path = tmp_path / "random.pth"
    torch.save(reference.state_dict(), path)

    images = pixels(432, 2, height=40)
    tf, pytorch = InceptionExtractor("tf", path), InceptionExtractor("pytorch", path)
    expected = reference(images)[0]
    assert expected.std() > 0.1
    assert torch.equal(tf.features(images), expected)
    # The layers that the pytorch rule walks are those of the forward.
    resized = interpolate_bilinear_2d_like_tensorflow1x(images.float(), size=(299, 299), align_corners=False)
    assert torch.equal(pytorch.pooled((resized - 128) / 128), expected)
    assert not torch.allclose(pytorch.features(images), expected, rtol=1e-2)

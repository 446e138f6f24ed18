"""The feature extractors, and the asset against its own card and statistics."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor

from lmlangevin.core.errors import LMLError
from lmlangevin.evaluation.features import (
    ASSET,
    EXTRACTOR,
    PROTOCOL,
    FeatureNetwork,
    RandomFeatureNetwork,
    extract_features,
    file_sha256,
    load_feature_network,
    random_features,
)
from lmlangevin.evaluation.frechet import feature_statistics, frechet_distance, load_reference_statistics


def pixels(seed: int, count: int, size: int = 32) -> Tensor:
    """Smooth random images, uint8 of shape (count, 3, size, size)."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(count, 3, 4, 4, generator=generator)
    fine = torch.nn.functional.interpolate(coarse, size=(size, size), mode="bilinear")
    return (255 * fine).round().to(torch.uint8)


def test_asset_is_frozen_float32_and_small() -> None:
    network = load_feature_network()
    assert not network.training
    assert all(p.dtype == torch.float32 and not p.requires_grad for p in network.parameters())
    assert (ASSET / "model.safetensors").stat().st_size <= 4 * 2**20
    features = network.features(pixels(1, 3))
    assert features.shape == (3, network.dim) and features.dtype == torch.float32
    assert network(pixels(1, 3)).shape == (3, 10)


def test_weight_hash_is_the_same_in_file_config_card_and_statistics() -> None:
    found = file_sha256(ASSET / "model.safetensors")
    config = json.loads((ASSET / "config.json").read_text(encoding="utf-8"))
    card = (ASSET / "README.md").read_text(encoding="utf-8")
    reference = load_reference_statistics()
    assert found == load_feature_network().weight_hash == config["weight_hash"] == reference.weight_hash
    assert found in card
    assert f"{100 * config['test_accuracy']:.2f}%" in card
    assert (reference.n, reference.extractor, reference.protocol) == (50_000, EXTRACTOR, PROTOCOL)


def test_reference_statistics_are_those_of_a_distribution() -> None:
    reference = load_reference_statistics()
    eigenvalues = torch.linalg.eigvalsh(reference.covariance)
    assert reference.dim == load_feature_network().dim
    assert float(eigenvalues[0]) > -1e-10 * float(eigenvalues[-1])
    assert float(reference.mean.min()) >= 0


def test_noise_is_far_from_the_training_images() -> None:
    network, reference = load_feature_network(), load_reference_statistics()
    generator = torch.Generator().manual_seed(2)
    noise = torch.randint(0, 256, (200, 3, 32, 32), generator=generator, dtype=torch.uint8)
    statistics = feature_statistics(network, noise, protocol=PROTOCOL)
    assert frechet_distance(statistics, reference) > 0.1 * float(reference.covariance.trace())


@pytest.mark.parametrize("seed", [3, 4])
def test_features_do_not_depend_on_the_batch_size(seed: int) -> None:
    images = pixels(seed, 11)
    for network in (load_feature_network(), random_features(seed)):
        whole = extract_features(network, images, 11)
        for size in (1, 4):
            torch.testing.assert_close(extract_features(network, images, size), whole, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(extract_features(network, images.split(3)), whole, rtol=1e-4, atol=1e-5)


def test_bytes_and_floats_mean_the_same_image() -> None:
    images = pixels(5, 4)
    floats = images.double() / 127.5 - 1
    for network in (load_feature_network(), random_features()):
        torch.testing.assert_close(network.features(floats), network.features(images), rtol=1e-4, atol=1e-5)


def test_wrong_images_are_refused() -> None:
    network = load_feature_network()
    with pytest.raises(LMLError, match=r"shape \(2, 3, 16, 16\); give .* \(N, 3, 32, 32\)"):
        network.features(pixels(6, 2, size=16))
    with pytest.raises(LMLError, match=r"torch\.int64"):
        network.features(pixels(6, 2).long())
    with pytest.raises(LMLError, match=r"\(N, 3, H, W\)"):
        random_features().features(pixels(6, 2)[:, :1])
    with pytest.raises(LMLError, match="none given"):
        extract_features(network, pixels(6, 2)[:0])
    with pytest.raises(LMLError, match="batch_size 0"):
        extract_features(network, pixels(6, 2), 0)
    with pytest.raises(LMLError, match="three positive widths"):
        FeatureNetwork(widths=(8, 8, 0))


def test_random_features_are_as_the_design_says() -> None:
    network = random_features(7)
    weights = [getattr(network, f"weight{index}") for index in range(3)]
    assert [tuple(w.shape) for w in weights] == [(64, 3, 5, 5), (128, 64, 3, 3), (64, 128, 3, 3)]
    for weight in weights:
        assert float(weight.std()) == pytest.approx((2 / weight[0].numel()) ** 0.5, rel=0.05)
    x = pixels(8, 2).float() / 127.5 - 1
    h = x
    for weight, padding in zip(weights, (2, 1, 1), strict=True):
        h = torch.nn.functional.conv2d(h, weight, stride=2, padding=padding).clamp(min=0)
    assert h.shape == (2, 64, 4, 4)
    torch.testing.assert_close(network.features(x), h.mean((2, 3)))


def test_the_seed_names_the_random_weights() -> None:
    same, other = RandomFeatureNetwork(9), RandomFeatureNetwork(10)
    images = pixels(9, 3)
    assert torch.equal(same.features(images), random_features(9).features(images))
    assert same.weight_hash == random_features(9).weight_hash != other.weight_hash
    assert not torch.allclose(same.features(images), other.features(images))


def test_changed_or_missing_weights_are_refused(tmp_path: Path) -> None:
    with pytest.raises(LMLError, match=r"no model\.safetensors"):
        load_feature_network(tmp_path)
    folder = tmp_path / "copy"
    shutil.copytree(ASSET, folder)
    raw = bytearray((folder / "model.safetensors").read_bytes())
    raw[-1] ^= 1
    (folder / "model.safetensors").write_bytes(bytes(raw))
    with pytest.raises(LMLError, match="config.json says otherwise"):
        load_feature_network(folder)


def test_importing_the_package_of_evaluation_is_light() -> None:
    code = "import sys, lmlangevin.evaluation.frechet, lmlangevin.evaluation.features;"
    code += "print([m for m in ('diffusers', 'scipy', 'matplotlib', 'PIL', 'torchvision') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120)
    assert done.stdout.strip() == "[]"


def test_names_are_exported_and_unknown_ones_are_not() -> None:
    import lmlangevin.evaluation as evaluation

    assert set(evaluation.__all__) <= set(dir(evaluation))
    for name in evaluation.__all__:
        value = getattr(evaluation, name)
        assert value is evaluation.PROTOCOLS or value.__name__ == name
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        evaluation.nonsense  # noqa: B018

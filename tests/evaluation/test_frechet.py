"""Frechet statistics and distances, against closed forms and SciPy's general matrix root."""

from __future__ import annotations

import math
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from lmlangevin.core.errors import LMLError
from lmlangevin.evaluation.features import random_features
from lmlangevin.evaluation.frechet import FrechetStatistics, feature_statistics, frechet_distance, log_fid


def draw(seed: int, n: int, dim: int) -> Tensor:
    """Correlated float64 features with a mean away from 0, shape (n, dim)."""
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.randn(dim, dim, generator=generator, dtype=torch.float64) / math.sqrt(dim)
    centre = torch.randn(dim, generator=generator, dtype=torch.float64)
    return torch.randn(n, dim, generator=generator, dtype=torch.float64) @ mixing + centre


def of(features: Tensor, **words: str) -> FrechetStatistics:
    return FrechetStatistics.empty(features.shape[1], **words).update(features)


def gaussian(mean: Tensor, covariance: Tensor, n: int = 1000) -> FrechetStatistics:
    """Statistics whose mean and covariance are exactly the given ones."""
    return FrechetStatistics(n, mean * n, covariance * (n - 1) + n * torch.outer(mean, mean))


def rotation(seed: int, dim: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.linalg.qr(torch.randn(dim, dim, generator=generator, dtype=torch.float64)).Q


def test_moments_match_numpy() -> None:
    features = draw(1, 60, 7)
    statistics = of(features)
    np.testing.assert_allclose(statistics.mean, features.mean(0), atol=1e-13)
    np.testing.assert_allclose(statistics.covariance, np.cov(features.numpy(), rowvar=False), atol=1e-12)


@pytest.mark.parametrize("seed", [11, 12, 13])
def test_agrees_with_scipy_sqrtm(seed: int) -> None:
    from scipy.linalg import sqrtm

    a, b = of(draw(seed, 200, 12)), of(1.3 * draw(seed + 100, 300, 12))
    s1, s2 = a.covariance.numpy(), b.covariance.numpy()
    cross = np.trace(np.asarray(sqrtm(s1 @ s2))).real
    expected = float((a.mean - b.mean).square().sum()) + np.trace(s1) + np.trace(s2) - 2 * cross
    assert frechet_distance(a, b) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("seed", [14, 15])
def test_agrees_with_torchmetrics(seed: int) -> None:
    fid = pytest.importorskip("torchmetrics.image.fid")

    class Itself(torch.nn.Module):
        num_features = 10

        def forward(self, x: Tensor) -> Tensor:
            return x

    metric = fid.FrechetInceptionDistance(feature=Itself()).set_dtype(torch.float64)
    a, b = draw(seed, 150, 10), 0.8 * draw(seed + 100, 170, 10)
    metric.update(a, real=True)
    metric.update(b, real=False)
    assert frechet_distance(of(a), of(b)) == pytest.approx(float(metric.compute()), rel=1e-6)


@pytest.mark.parametrize("seed", [16, 17])
def test_closed_form_of_two_gaussians_on_a_line(seed: int) -> None:
    """In one dimension the distance is (m1 - m2)^2 + (s1 - s2)^2."""
    x, y = draw(seed, 50, 1), 2.5 * draw(seed + 100, 60, 1)
    expected = (x.mean() - y.mean()) ** 2 + (x.std() - y.std()) ** 2
    assert frechet_distance(of(x), of(y)) == pytest.approx(float(expected), rel=1e-10)


@pytest.mark.parametrize("seed", [21, 22])
def test_closed_form_of_commuting_covariances(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    basis = rotation(seed, 6)
    first, second = (torch.rand(6, generator=generator, dtype=torch.float64) + 0.1 for _ in range(2))
    shift = torch.randn(6, generator=generator, dtype=torch.float64)
    a = gaussian(torch.ones(6, dtype=torch.float64), basis @ first.diag() @ basis.T)
    b = gaussian(torch.ones(6, dtype=torch.float64) + shift, basis @ second.diag() @ basis.T)
    expected = shift.square().sum() + (first.sqrt() - second.sqrt()).square().sum()
    assert frechet_distance(a, b) == pytest.approx(float(expected), rel=1e-10)


def test_singular_covariances_give_a_real_number() -> None:
    thin = draw(31, 200, 3) @ draw(32, 3, 10)
    other = of(draw(33, 200, 10))
    distance = frechet_distance(of(thin), other)
    assert distance == pytest.approx(frechet_distance(other, of(thin)), rel=1e-6)
    assert distance > 1


def test_distance_to_itself_is_nothing() -> None:
    a = of(draw(41, 500, 20))
    assert 0 <= frechet_distance(a, a) < 1e-10 * float(a.covariance.trace())


@given(seed=st.integers(0, 10_000), scale=st.floats(0.1, 10), shift=st.floats(-3, 3))
@settings(max_examples=25, deadline=None)
def test_invariant_under_rigid_motion_and_scales_as_a_square(seed: int, scale: float, shift: float) -> None:
    x, y = draw(seed, 80, 5), draw(seed + 1, 90, 5)
    plain = frechet_distance(of(x), of(y))
    turn = rotation(seed + 2, 5)
    moved = frechet_distance(of(x @ turn + shift), of(y @ turn + shift))
    assert moved == pytest.approx(plain, rel=1e-8, abs=1e-9)
    assert frechet_distance(of(x * scale), of(y * scale)) == pytest.approx(plain * scale**2, rel=1e-8, abs=1e-9)
    assert frechet_distance(of(y), of(x)) == pytest.approx(plain, rel=1e-8, abs=1e-9)


@given(seed=st.integers(0, 10_000), cuts=st.lists(st.integers(0, 100), min_size=2, max_size=2))
@settings(max_examples=25, deadline=None)
def test_merge_is_associative_and_equals_one_pass(seed: int, cuts: list[int]) -> None:
    features = draw(seed, 100, 6)
    low, high = sorted(cuts)
    a, b, c = (of(part) for part in (features[:low], features[low:high], features[high:]))
    left, right, whole = a.merge(b).merge(c), a.merge(b.merge(c)), of(features)
    for other in (right, whole):
        assert left.n == other.n == 100
        torch.testing.assert_close(left.mean, other.mean, rtol=0, atol=1e-10)
        torch.testing.assert_close(left.covariance, other.covariance, rtol=0, atol=1e-10)


def test_update_leaves_the_original_alone() -> None:
    first = of(draw(51, 10, 4))
    before = first.outer.clone()
    second = first.update(draw(52, 5, 4).float())
    assert (first.n, second.n) == (10, 15)
    assert torch.equal(first.outer, before)
    assert second.outer.dtype == torch.float64


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_values_that_are_not_finite_raise(bad: float) -> None:
    features = draw(61, 10, 4)
    features[3, 2] = bad
    with pytest.raises(LMLError, match="1 of 10 rows"):
        of(features)
    covariance = torch.eye(4, dtype=torch.float64)
    covariance[1, 1] = bad
    with pytest.raises(LMLError, match="NaN or infinity"):
        frechet_distance(gaussian(features[0], covariance), gaussian(features[1], torch.eye(4, dtype=torch.float64)))


@pytest.mark.parametrize("word", ["protocol", "extractor", "weight_hash"])
def test_what_was_made_differently_is_refused(word: str) -> None:
    a, b = of(draw(71, 30, 4), **{word: "one"}), of(draw(72, 30, 4), **{word: "two"})
    with pytest.raises(LMLError, match=f"{word} 'one' and 'two'"):
        a.merge(b)
    with pytest.raises(LMLError, match=word):
        frechet_distance(a, b)


def test_other_dimensions_and_shapes_are_refused() -> None:
    a = of(draw(73, 30, 4))
    with pytest.raises(LMLError, match="dim 4 and 5"):
        a.merge(of(draw(74, 30, 5)))
    with pytest.raises(LMLError, match=r"give \(N, 4\)"):
        a.update(draw(75, 30, 5))
    with pytest.raises(LMLError, match="dim 0"):
        FrechetStatistics.empty(0)


def test_too_few_vectors_warn_and_one_is_refused() -> None:
    many = of(draw(81, 40, 5))
    with pytest.warns(UserWarning, match="b: 5 vectors of 5 features"):
        frechet_distance(many, of(draw(82, 5, 5)))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        frechet_distance(many, of(draw(83, 6, 5)))
    with pytest.raises(LMLError, match="n 1: covariance needs at least 2"):
        frechet_distance(many, of(draw(84, 1, 5)))


def test_saved_statistics_come_back(tmp_path: Path) -> None:
    a = of(draw(91, 50, 6), protocol="p", extractor="e", weight_hash="h")
    path = tmp_path / "statistics.npz"
    a.save(path)
    b = FrechetStatistics.load(path)
    assert (b.n, b.protocol, b.extractor, b.weight_hash) == (50, "p", "e", "h")
    torch.testing.assert_close(b.covariance, a.covariance, rtol=0, atol=1e-12)
    more = draw(92, 20, 6)
    torch.testing.assert_close(b.update(more).covariance, a.update(more).covariance, rtol=0, atol=1e-12)
    assert frechet_distance(a, b) < 1e-10
    with np.load(path, allow_pickle=False) as stored:
        assert set(stored) == {"mu", "sigma", "n", "extractor", "weight_hash", "protocol"}
    assert [file.name for file in tmp_path.iterdir()] == ["statistics.npz"]


def test_files_of_other_tools_need_their_count(tmp_path: Path) -> None:
    features = draw(93, 50, 6).numpy()
    path = tmp_path / "foreign.npz"
    np.savez(path, mu=features.mean(0), sigma=np.cov(features, rowvar=False))
    with pytest.raises(LMLError, match="give n"):
        FrechetStatistics.load(path)
    assert frechet_distance(FrechetStatistics.load(path, n=50), of(torch.from_numpy(features))) < 1e-10


def test_unreadable_statistics_are_explained(tmp_path: Path) -> None:
    with pytest.raises(LMLError, match="no such file"):
        FrechetStatistics.load(tmp_path / "none.npz")
    with pytest.raises(LMLError, match=r"ends in \.npz"):
        of(draw(94, 5, 2)).save(tmp_path / "statistics.bin")
    path = tmp_path / "half.npz"
    np.savez(path, mu=np.arange(3.0))
    with pytest.raises(LMLError, match="no sigma in it"):
        FrechetStatistics.load(path)
    np.savez(path, mu=np.arange(3.0), sigma=np.eye(4), n=5)
    with pytest.raises(LMLError, match=r"give \(D,\) and \(D, D\)"):
        FrechetStatistics.load(path)


class Trap:
    """Unpickling it makes a file, which must not happen."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[Path]]:
        return Path.touch, (self.path,)


@pytest.mark.parametrize("kind", ["text", "nothing", "npy", "cut", "pickle", "words"])
def test_files_that_are_no_statistics_are_refused_and_run_nothing(kind: str, tmp_path: Path) -> None:
    path, trap = tmp_path / "statistics.npz", tmp_path / "trap"
    of(draw(96, 30, 4)).save(path)
    if kind == "npy":
        with path.open("wb") as stream:
            np.save(stream, np.arange(5.0))
    elif kind == "pickle":
        np.savez(path, mu=np.array([Trap(trap)], dtype=object), sigma=np.eye(1), n=5)
    elif kind == "words":
        np.savez(path, mu=np.array(["a", "b"]), sigma=np.eye(2), n=5)
    else:
        path.write_bytes({"text": b"mu = 1", "nothing": b"", "cut": path.read_bytes()[:-200]}[kind])
    with pytest.raises(LMLError, match="cannot be read as statistics"):
        FrechetStatistics.load(path)
    assert not trap.exists()


def test_a_count_that_contradicts_the_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "statistics.npz"
    of(draw(97, 30, 4)).save(path)
    assert FrechetStatistics.load(path, n=30).n == 30
    with pytest.raises(LMLError, match="records n = 30, and n is given as 31"):
        FrechetStatistics.load(path, n=31)


@pytest.mark.parametrize("value", [0.25, 1.0, 3.5, 217.0])
def test_both_logarithms_have_their_label(value: float) -> None:
    log = log_fid(value)
    assert math.exp(log.natural) == pytest.approx(value, rel=1e-14)
    assert 10**log.base10 == pytest.approx(value, rel=1e-14)
    assert (log.natural_label, log.base10_label) == ("ln FID", "log10 FID")


@pytest.mark.parametrize("value", [0.0, -1.5, math.nan, math.inf])
def test_what_has_no_logarithm_is_refused(value: float) -> None:
    with pytest.raises(LMLError, match="give a finite distance above 0"):
        log_fid(value)


def test_streaming_equals_all_at_once() -> None:
    network = random_features(3)
    images = torch.rand(23, 3, 32, 32, generator=torch.Generator().manual_seed(95)) * 2 - 1
    statistics = feature_statistics(network, images, protocol="p", batch_size=5)
    torch.testing.assert_close(statistics.mean, network.features(images).double().mean(0), rtol=0, atol=1e-6)
    assert (statistics.n, statistics.protocol, statistics.extractor) == (23, "p", "lmlangevin-random-features-3")
    stream = feature_statistics(network, iter(images.split(9)), protocol="p")
    torch.testing.assert_close(stream.covariance, statistics.covariance, rtol=0, atol=1e-6)
    with pytest.raises(LMLError, match="none given"):
        feature_statistics(network, images[:0], protocol="p")

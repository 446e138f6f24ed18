"""Closed forms of the mixture against autograd, dense algebra, identities and Monte-Carlo."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from lmlangevin.core.errors import LMLError
from lmlangevin.reference import GaussianMixture, load_analytic

LEVELS = [(1.0, 0.0), (1.0, 0.05), (0.8, 0.6), (0.006, 1.0), (1.0, 40.0), (0.3, 0.7)]


def make(seed: int, k: int = 3, d: int = 12, r: int = 4, dtype: torch.dtype = torch.float64) -> GaussianMixture:
    g = torch.Generator().manual_seed(seed)

    def randn(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=g, dtype=torch.float64)

    weights, variances = torch.rand(k, generator=g).double() + 0.3, 0.02 + 0.1 * torch.rand(k, generator=g).double()
    return GaussianMixture.from_factors(
        weights, 0.6 * randn(k, d), 0.5 * randn(k, d, r), variances, event_shape=(3, 2, d // 6), dtype=dtype
    )


def noisy(mixture: GaussianMixture, seed: int, alpha: float, sigma: float, n: int = 5) -> Tensor:
    g = torch.Generator().manual_seed(seed)
    x0 = mixture.sample(n, g)
    return alpha * x0 + sigma * torch.randn(x0.shape, generator=g, dtype=x0.dtype)


def dense_covariances(mixture: GaussianMixture) -> Tensor:
    u = mixture.basis
    return torch.einsum("kdr,kr,ker->kde", u, mixture.excess, u) + mixture.variances[:, None, None] * torch.eye(
        mixture.dim, dtype=u.dtype
    )


def dense_log_prob(mixture: GaussianMixture, x: Tensor, alpha: float, sigma: float) -> Tensor:
    """The definition, by torch.distributions on dense covariances."""
    cov = alpha**2 * dense_covariances(mixture) + sigma**2 * torch.eye(mixture.dim, dtype=torch.float64)
    normal = torch.distributions.MultivariateNormal(alpha * mixture.means, cov)
    return torch.logsumexp(mixture.weights.log() + normal.log_prob(x.flatten(1)[:, None]), dim=1)


@pytest.mark.parametrize(("alpha", "sigma"), LEVELS)
@pytest.mark.parametrize("seed", [11, 12])
def test_agrees_with_autograd_on_the_dense_log_density(seed: int, alpha: float, sigma: float) -> None:
    mixture = make(seed)
    x = noisy(mixture, seed + 100, alpha, sigma).requires_grad_()
    v = torch.randn(x.shape, generator=torch.Generator().manual_seed(seed + 200), dtype=torch.float64)
    log_prob = dense_log_prob(mixture, x, alpha, sigma)
    (score,) = torch.autograd.grad(log_prob.sum(), x, create_graph=True)
    (hvp,) = torch.autograd.grad((score * v).sum(), x)

    def total(flat: Tensor) -> Tensor:
        return dense_log_prob(mixture, flat.reshape(1, *mixture.event_shape), alpha, sigma)[0]

    hessian = torch.stack([torch.autograd.functional.hessian(total, row) for row in x.detach().flatten(1)])
    x, tight = x.detach(), {"rtol": 1e-8, "atol": 1e-8}
    torch.testing.assert_close(mixture.log_prob(x, alpha, sigma), log_prob.detach(), **tight)
    torch.testing.assert_close(mixture.score(x, alpha, sigma), score.detach(), **tight)
    torch.testing.assert_close(mixture.hessian_vector_product(x, v, alpha, sigma), hvp, **tight)
    torch.testing.assert_close(mixture.hessian(x, alpha, sigma), hessian, **tight)


def test_own_log_density_is_differentiable() -> None:
    mixture = make(21)
    x = noisy(mixture, 22, 0.7, 0.5).requires_grad_()
    (grad,) = torch.autograd.grad(mixture.log_prob(x, 0.7, 0.5).sum(), x)
    torch.testing.assert_close(mixture.score(x.detach(), 0.7, 0.5), grad, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(("alpha", "sigma"), [lv for lv in LEVELS if lv[1] > 0])
def test_tweedie_and_fisher_identities(alpha: float, sigma: float) -> None:
    mixture = make(31)
    x = noisy(mixture, 32, alpha, sigma)
    score, eye = mixture.score(x, alpha, sigma), torch.eye(mixture.dim, dtype=torch.float64)
    # The left-hand sides are formed without the division by alpha that the identities contain.
    torch.testing.assert_close(alpha * mixture.denoise(x, alpha, sigma), x + sigma**2 * score, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(mixture.epsilon(x, alpha, sigma), -sigma * score, rtol=1e-9, atol=1e-10)
    cov = mixture.posterior_covariance(x, alpha, sigma)
    fisher = eye / sigma**2 - (alpha**2 / sigma**4) * cov  # arXiv:2505.23264
    torch.testing.assert_close(-mixture.hessian(x, alpha, sigma), fisher, rtol=1e-7, atol=1e-7 / sigma**2)


def test_posterior_covariance_by_importance_sampling() -> None:
    mixture = make(41, d=6, r=2)
    alpha, sigma = 0.8, 0.9
    x = noisy(mixture, 42, alpha, sigma, n=2)
    x0 = mixture.sample(400_000, torch.Generator().manual_seed(43)).flatten(1)
    for i in range(len(x)):
        likelihood = -0.5 * ((x[i].flatten() - alpha * x0) / sigma).square().sum(1)
        w = torch.softmax(likelihood, 0)
        mean = w @ x0
        cov = (w[:, None] * (x0 - mean)).T @ (x0 - mean)
        torch.testing.assert_close(mixture.denoise(x, alpha, sigma)[i].flatten(), mean, rtol=0, atol=0.02)
        torch.testing.assert_close(mixture.posterior_covariance(x, alpha, sigma)[i], cov, rtol=0, atol=0.02)


@pytest.mark.parametrize(("alpha", "sigma"), LEVELS)
def test_products_equal_the_dense_matrices(alpha: float, sigma: float) -> None:
    mixture = make(51)
    x, g = noisy(mixture, 52, alpha, sigma), torch.Generator().manual_seed(53)
    v = torch.randn(x.shape, generator=g, dtype=torch.float64)
    for dense, product in (
        (mixture.hessian, mixture.hessian_vector_product),
        (mixture.posterior_covariance, mixture.posterior_covariance_vector_product),
    ):
        matrix = dense(x, alpha, sigma)
        expected = (matrix @ v.flatten(1)[..., None])[..., 0].reshape(x.shape)
        scale = matrix.abs().max().item()
        torch.testing.assert_close(product(x, v, alpha, sigma), expected, rtol=1e-9, atol=1e-11 * max(scale, 1))
        torch.testing.assert_close(matrix, matrix.transpose(1, 2), rtol=1e-10, atol=1e-12 * max(scale, 1))
    assert torch.linalg.eigvalsh(mixture.posterior_covariance(x, alpha, sigma)).min() > -1e-12


def test_limits_of_the_noise_level() -> None:
    mixture = make(61)
    x = mixture.sample(4, torch.Generator().manual_seed(62))
    torch.testing.assert_close(mixture.denoise(0.7 * x, 0.7, 0.0), x, rtol=1e-12, atol=1e-12)
    assert torch.count_nonzero(mixture.epsilon(x, 1.0, 0.0)) == 0
    # Without signal the posterior is the prior: the mean of the data, and v = eps - mean.
    torch.testing.assert_close(mixture.denoise(x, 0.0, 1.0), mixture.mean.expand_as(x), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(mixture.velocity(x, 1.0), x - mixture.mean, rtol=1e-12, atol=1e-12)
    for sigma in (1e-12, 1e12):
        far = x + sigma * torch.randn(x.shape, generator=torch.Generator().manual_seed(63), dtype=x.dtype)
        for m, y in ((mixture, far), (mixture.to(dtype=torch.float32), far.float())):
            for out in (m.denoise(y, 1.0, sigma), m.epsilon(y, 1.0, sigma), m.score(y, 1.0, sigma)):
                assert torch.isfinite(out).all()
    torch.testing.assert_close(mixture.denoise(far, 1.0, 1e12), mixture.mean.expand_as(x), rtol=0, atol=1e-6)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10**6), log_ratio=st.floats(-5, 5), ce=st.floats(-2, 2), cx=st.floats(-2, 2))
def test_predictions_are_consistent(seed: int, log_ratio: float, ce: float, cx: float) -> None:
    mixture, ratio = make(seed), math.exp(log_ratio)
    alpha, sigma = 1 / math.hypot(1, ratio), ratio / math.hypot(1, ratio)
    x = noisy(mixture, seed + 1, alpha, sigma)
    eps, x0 = mixture.epsilon(x, alpha, sigma), mixture.denoise(x, alpha, sigma)
    close = {"rtol": 1e-8, "atol": 1e-8}
    torch.testing.assert_close(alpha * x0 + sigma * eps, x, **close)
    torch.testing.assert_close(mixture.predict(x, alpha, sigma, epsilon=ce, sample=cx), ce * eps + cx * x0, **close)
    torch.testing.assert_close(mixture.v_prediction(x, alpha, sigma), alpha * eps - sigma * x0, **close)
    flow = sigma / (alpha + sigma)
    y = x / (alpha + sigma)  # the same point in the flow's scaling: the posterior is the same
    torch.testing.assert_close(mixture.velocity(y, flow), eps - x0, **close)


def test_levels_per_sample_equal_a_loop() -> None:
    mixture = make(71)
    alphas, sigmas = torch.tensor([1.0, 0.9, 0.5, 0.1, 0.01]), torch.tensor([0.0, 0.3, 0.8, 1.0, 3.0])
    x = mixture.sample(5, torch.Generator().manual_seed(72))
    v = mixture.sample(5, torch.Generator().manual_seed(73))
    calls = [
        mixture.log_prob,
        mixture.score,
        mixture.denoise,
        mixture.epsilon,
        mixture.hessian,
        mixture.posterior_covariance,
        lambda x, a, s: mixture.hessian_vector_product(x, v[: len(x)] if len(x) == 5 else v[i : i + 1], a, s),
        lambda x, a, s: mixture.v_prediction(x, a, s),
    ]
    for call in calls:
        i = 0
        together = call(x, alphas.reshape(5, 1, 1, 1), sigmas)
        for i in range(5):
            one = call(x[i : i + 1], alphas[i].item(), sigmas[i].item())
            torch.testing.assert_close(together[i : i + 1], one, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("ratio", [0.0, 0.003, 0.1, 1.0, 10.0, 157.0])
def test_float32_against_float64_on_the_asset(ratio: float) -> None:
    narrow = load_analytic()
    wide = narrow.to(dtype=torch.float64)
    alpha, sigma = 1 / math.hypot(1, ratio), ratio / math.hypot(1, ratio)
    x = noisy(narrow, 81, alpha, sigma, n=6)
    for name in ("denoise", "score", "epsilon", "v_prediction"):
        a, b = getattr(narrow, name)(x, alpha, sigma), getattr(wide, name)(x.double(), alpha, sigma)
        assert a.dtype == torch.float32
        assert (a - b).norm() <= 2e-6 * b.norm(), name
    a, b = narrow.log_prob(x.double(), alpha, sigma), wide.log_prob(x.double(), alpha, sigma)
    torch.testing.assert_close(a, b, rtol=0, atol=0.01)
    gap = narrow.responsibilities(x, alpha, sigma) - wide.responsibilities(x.double(), alpha, sigma)
    assert gap.abs().max() < 1e-4


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_returns_the_dtype_of_the_caller(dtype: torch.dtype) -> None:
    mixture = make(91, dtype=torch.float32)
    x = mixture.sample(3, torch.Generator().manual_seed(92)).to(dtype)
    for out in (
        mixture.score(x, 1.0, 0.5),
        mixture.log_prob(x),
        mixture.hessian(x, 1.0, 0.5),
        mixture.velocity(x, 0.4),
    ):
        assert out.dtype == dtype
    # float32 inside: a float16 caller gets the rounding of the float32 answer, no more.
    torch.testing.assert_close(mixture.denoise(x, 0.8, 0.6), mixture.denoise(x.float(), 0.8, 0.6).to(dtype))


def test_moments_of_samples() -> None:
    mixture = make(101)
    x = mixture.sample(100_000, torch.Generator().manual_seed(102))
    torch.testing.assert_close(x.mean(0), mixture.mean, rtol=0, atol=0.02)
    torch.testing.assert_close(x.std(0), mixture.std, rtol=0.02, atol=0)
    centred = (x - mixture.mean).flatten(1)
    between = (mixture.means - mixture.mean.flatten()) * mixture.weights.sqrt()[:, None]
    cov = torch.einsum("k,kde->de", mixture.weights, dense_covariances(mixture)) + between.T @ between
    torch.testing.assert_close(centred.T @ centred / len(x), cov, rtol=0, atol=0.04)


def test_samples_follow_their_own_generators() -> None:
    mixture = make(111)

    def generators(first: int, last: int) -> list[torch.Generator]:
        return [torch.Generator().manual_seed(s) for s in range(first, last)]

    batch = mixture.sample(4, generators(0, 4))
    torch.testing.assert_close(batch[2:], mixture.sample(2, generators(2, 4)))
    assert not torch.equal(batch[0], batch[1])
    again = [mixture.sample(3, torch.Generator().manual_seed(7)) for _ in range(2)]
    assert torch.equal(again[0], again[1])


def test_save_and_load(tmp_path) -> None:
    mixture = make(121, d=60, r=6)
    mixture.save(tmp_path / "exact.safetensors")
    loaded = GaussianMixture.load(tmp_path / "exact.safetensors")
    x = noisy(mixture, 122, 0.6, 0.4)
    assert loaded.dtype == torch.float64 and loaded.event_shape == mixture.event_shape
    assert torch.equal(loaded.basis, mixture.basis) and torch.equal(
        loaded.score(x, 0.6, 0.4), mixture.score(x, 0.6, 0.4)
    )
    mixture.save(tmp_path / "half.safetensors", half=True)
    half = GaussianMixture.load(tmp_path / "half.safetensors", dtype=torch.float64)
    gram = half.basis.transpose(1, 2) @ half.basis
    torch.testing.assert_close(gram, torch.eye(6, dtype=torch.float64).expand_as(gram), rtol=0, atol=1e-12)
    torch.testing.assert_close(half.basis, mixture.basis, rtol=0, atol=1e-3)
    assert not torch.equal(half.basis, mixture.basis)
    assert GaussianMixture.load(tmp_path / "half.safetensors").dtype == torch.float32


def test_rank_zero_is_an_isotropic_mixture() -> None:
    g = torch.Generator().manual_seed(131)
    means = torch.randn(2, 5, generator=g, dtype=torch.float64)
    mixture = GaussianMixture(torch.ones(2), means, torch.zeros(2, 5, 0), torch.zeros(2, 0), torch.tensor([0.3, 0.7]))
    x = torch.randn(4, 5, generator=g, dtype=torch.float64)
    torch.testing.assert_close(mixture.log_prob(x, 0.9, 0.2), dense_log_prob(mixture, x, 0.9, 0.2), rtol=1e-10, atol=0)
    assert mixture.sample(3, g).shape == (3, 5)


def test_asset_resembles_cifar10() -> None:
    mixture = load_analytic()
    assert (mixture.num_components, mixture.rank, mixture.event_shape) == (16, 80, (3, 32, 32))
    assert mixture.mean.mean().item() == pytest.approx(-0.0534, abs=0.005)
    assert mixture.std.square().mean().sqrt().item() == pytest.approx(0.4956, abs=0.005)


def test_wrong_arguments_are_named(tmp_path) -> None:
    mixture = make(141)
    x = mixture.sample(2, torch.Generator().manual_seed(142))
    good = (mixture.weights, mixture.means, mixture.basis, mixture.excess, mixture.variances)
    cases = [
        (lambda: mixture.score(x[0], 1.0, 0.1), "x has shape"),
        (lambda: mixture.score(x.long(), 1.0, 0.1), "dtype"),
        (lambda: mixture.score(x, 1.0, -0.1), "sigma is -0.1"),
        (lambda: mixture.score(x, float("nan"), 0.1), "alpha is nan"),
        (lambda: mixture.score(x, 0.0, 0.0), "both 0"),
        (lambda: mixture.score(x, torch.ones(3), 0.1), "alpha has 3 elements"),
        (lambda: mixture.hessian_vector_product(x, x[:1], 1.0, 0.1), "v has 1 samples"),
        (lambda: mixture.sample(3, [torch.Generator()]), "generator has 1 entries"),
        (lambda: GaussianMixture(*good, event_shape=(5,)), "event_shape is"),
        (lambda: GaussianMixture(*good, dtype=torch.float16), "dtype is"),
        (lambda: GaussianMixture(*good[:2], 2 * good[2], *good[3:]), "from_factors"),
        (lambda: GaussianMixture(*good[:4], -good[4]), "variances holds"),
        (lambda: GaussianMixture(good[0][:2], *good[1:]), "weights has shape"),
        (lambda: GaussianMixture.load(tmp_path / "none"), "is no file"),
        (lambda: load_analytic("no-such-asset"), "analytic-cifar10"),
    ]
    for call, message in cases:
        with pytest.raises(LMLError, match=message):
            call()
    (tmp_path / "text").write_text("not a safetensors file")
    with pytest.raises(LMLError, match="not a safetensors file"):
        GaussianMixture.load(tmp_path / "text")

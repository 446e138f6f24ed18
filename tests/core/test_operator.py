"""The damped low-rank operator against 40-digit arithmetic for small D and dense float64 for larger, and its algebra.

Errors are measured against the norm of the operator times that of the vector; the tolerances are those that the
module states: a few units of rounding, times 1 + rho for the inverses, rho = ||B||_F / sqrt(lambda) = sqrt(r / mu).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import mpmath
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from lmlangevin.core import DampedLowRank, LMLError, lm_direction
from lmlangevin.core.lowrank import solve

UNITS = 24
"""Units of rounding allowed; fewer than 12 were seen."""

PRODUCTS: dict[str, tuple[Callable[[DampedLowRank, Tensor], Tensor], float, bool]] = {
    "matvec": (DampedLowRank.matvec, 1.0, False),
    "sqrt_matvec": (DampedLowRank.sqrt_matvec, 0.5, False),
    "solve": (DampedLowRank.solve, -1.0, True),
    "inverse_sqrt_matvec": (DampedLowRank.inverse_sqrt_matvec, -0.5, True),
}
"""Method, the power of H that it applies, and whether rho counts."""


def random_factors(seed: int, size: int, rank: int, log_spread: float, zeros: int, dtype: torch.dtype) -> list[Tensor]:
    """Factors that differ by `10**log_spread` from one another; the last `zeros` of them are 0. One sample, (D,)."""
    g = torch.Generator().manual_seed(seed)
    base = torch.randn(size, generator=g, dtype=torch.float64)
    drawn = [base + 10**log_spread * torch.randn(size, generator=g, dtype=torch.float64) for _ in range(rank)]
    return [(0 * b if j >= rank - zeros else b).to(dtype) for j, b in enumerate(drawn)]


def exact_operator(factors: list[Tensor], mu: float, absolute: bool = False) -> tuple[Any, Any, Any]:
    """Eigenvalues and eigenvectors of H in the current precision of mpmath, and lambda."""
    columns = [[mpmath.mpf(float(v)) for v in b] for b in factors]
    size = len(columns[0])
    trace = mpmath.fsum(v * v for b in columns for v in b)
    lam = mpmath.mpf(mu) * (1 if absolute else trace / len(columns))
    h = mpmath.matrix(size, size)
    for i in range(size):
        for j in range(size):
            h[i, j] = mpmath.fsum(b[i] * b[j] for b in columns) + (lam if i == j else 0)
    values, vectors = mpmath.eigsy(h)
    return values, vectors, lam


def exact_product(values: Any, vectors: Any, power: float, v: Tensor) -> Tensor:
    x = vectors.T * mpmath.matrix([mpmath.mpf(float(e)) for e in v])
    scaled = mpmath.matrix([values[i] ** mpmath.mpf(power) * x[i] for i in range(len(x))])
    return torch.tensor([float(e) for e in vectors * scaled], dtype=torch.float64)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    seed=st.integers(0, 10**6),
    size=st.integers(1, 5),
    rank=st.integers(1, 6),
    log_mu=st.floats(-12, 12),
    log_spread=st.floats(-17, 1),
    zeros=st.integers(0, 2),
    along=st.booleans(),
    double=st.booleans(),
)
def test_products_against_40_digits(
    seed: int, size: int, rank: int, log_mu: float, log_spread: float, zeros: int, along: bool, double: bool
) -> None:
    """Parallel to the last digit and zero factors, more factors than elements, and v in their span: one tolerance."""
    dtype = torch.float64 if double else torch.float32
    mu = 10.0 ** (log_mu if double else max(log_mu, -4.0))
    factors = random_factors(seed, size, rank, log_spread, min(zeros, rank - 1), dtype)
    v = torch.randn(size, generator=torch.Generator().manual_seed(seed + 1), dtype=torch.float64).to(dtype)
    v = factors[0] if along else v
    operator = DampedLowRank([b[None] for b in factors], mu)
    unit = UNITS * torch.finfo(dtype).eps
    with mpmath.workdps(40):
        values, vectors, _ = exact_operator(factors, mu)
        for name, (method, power, inverse) in PRODUCTS.items():
            want = exact_product(values, vectors, power, v)
            got = method(operator, v[None])[0]
            assert got.dtype == dtype
            norm = float(max(value ** mpmath.mpf(power) for value in values)) * float(v.double().norm())
            allowed = unit * (1 + (math.sqrt(rank / mu) if inverse else 0))
            assert float((got.double() - want).norm()) <= allowed * norm, name
        logdet = float(mpmath.fsum(mpmath.log(value) for value in values))
    allowed = unit * (size + rank * math.sqrt(rank / mu)) + 1e-15 * abs(logdet)
    assert abs(operator.logdet().item() - logdet) <= allowed


@pytest.mark.parametrize("shape", [(33,), (4, 6), (3, 4, 4), (2, 3, 2, 3)], ids=str)
@pytest.mark.parametrize("rank", [1, 2, 4, 6])
@pytest.mark.parametrize("spread", [1.0, 1e-3, 0.0])
def test_a_batch_of_any_shape_against_a_dense_operator(shape: tuple[int, ...], rank: int, spread: float) -> None:
    size = math.prod(shape)
    for dtype, dampings in (
        (torch.float32, (1e-4, 1e-2, 1.0, 1e6, 1e12)),
        (torch.float64, (1e-4, 1.0, 1e12)),
    ):
        g = torch.Generator().manual_seed(rank * 100 + size)
        base = torch.randn(3, *shape, generator=g, dtype=torch.float64)
        factors = [
            (base + spread * torch.randn(3, *shape, generator=g, dtype=torch.float64)).to(dtype) for _ in range(rank)
        ]
        v = torch.randn(3, *shape, generator=g, dtype=torch.float64).to(dtype)
        columns = torch.stack([b.double().flatten(1) for b in factors], 2)
        eps = torch.finfo(dtype).eps
        for mu in dampings:
            lam = mu * columns.square().sum((1, 2)) / rank
            dense = columns @ columns.mT + lam[:, None, None] * torch.eye(size, dtype=torch.float64)
            operator = DampedLowRank(factors, mu)
            largest = torch.linalg.matrix_norm(dense, 2)
            difference = torch.linalg.matrix_norm(operator.dense() - dense, 2)
            assert (difference <= UNITS * eps * largest).all()
            values, vectors = torch.linalg.eigh(dense)
            rho = math.sqrt(rank / mu)
            for name, (method, power, inverse) in PRODUCTS.items():
                flat = v.double().flatten(1)
                want = torch.einsum("bij,bj,bkj,bk->bi", vectors, values**power, vectors, flat)
                got = method(operator, v)
                assert got.shape == v.shape and got.dtype == dtype
                # The dense oracle itself loses rho^2 digits of float64.
                allowed = UNITS * eps * (1 + rho * inverse) + 64 * 2.3e-16 * (1 + rho**2 * inverse)
                norm = (values**power).amax(1) * flat.norm(dim=1)
                assert ((got.double().flatten(1) - want).norm(dim=1) <= allowed * norm).all(), (name, mu)
            logdet = values.log().sum(1)
            allowed = UNITS * eps * (size + rank * rho) + 1e-15 * logdet.abs() + 64 * 2.3e-16 * size * (1 + rho**2)
            assert ((operator.logdet() - logdet).abs() <= allowed).all()


@settings(max_examples=50, deadline=None, derandomize=True)
@given(
    seed=st.integers(0, 10**6),
    rank=st.integers(1, 6),
    log_mu=st.floats(-12, 12),
    log_spread=st.floats(-17, 1),
    log_size=st.floats(-12, 12),
)
def test_the_operators_undo_and_compose_each_other(
    seed: int, rank: int, log_mu: float, log_spread: float, log_size: float
) -> None:
    """Of factors with an element from 1e-12 to 1e12, to within the condition number of H."""
    mu, size = 10.0 ** max(log_mu, -4.0), 10.0**log_size
    factors = [size * b.reshape(1, 2, 5) for b in random_factors(seed, 10, rank, log_spread, 0, torch.float32)]
    operator = DampedLowRank(factors, mu)
    v = torch.randn(1, 2, 5, generator=torch.Generator().manual_seed(seed + 2))
    condition = 1 + rank / mu
    allowed = UNITS * 1.2e-7 * condition * float(v.norm())
    root = math.sqrt(operator.damping.item())
    assert float((operator.matvec(operator.solve(v)) - v).norm()) <= allowed
    assert float((operator.sqrt_matvec(operator.inverse_sqrt_matvec(v)) - v).norm()) <= allowed
    twice = operator.inverse_sqrt_matvec(root * operator.inverse_sqrt_matvec(root * v))
    want = operator.solve(root * (root * v))
    assert float((twice - want).norm()) <= UNITS * 1.2e-7 * math.sqrt(condition) * float(v.norm())


@settings(max_examples=80, deadline=None, derandomize=True)
@given(
    seed=st.integers(0, 10**6),
    kappa=st.floats(-1, 1).filter(lambda k: abs(k) > 1e-3),
    log_mu=st.floats(-12, 6),
    log_distance=st.floats(-4, 1),
    double=st.booleans(),
)
def test_the_direction_is_that_of_the_closed_form(
    seed: int, kappa: float, log_mu: float, log_distance: float, double: bool
) -> None:
    """||n|| H^-1 n / ||H^-1 n|| two ways. The factor is rounded here, so that cond(H) = 1 + 1/mu counts."""
    dtype = torch.float64 if double else torch.float32
    mu = 10.0 ** max(log_mu, -10.0 if double else -4.0)
    g = torch.Generator().manual_seed(seed)
    n = torch.randn(2, 3, 5, generator=g, dtype=torch.float64)
    previous = (n + 10**log_distance * torch.randn(2, 3, 5, generator=g, dtype=torch.float64)).to(dtype)
    n = n.to(dtype)
    x = DampedLowRank.of_predictions(n, [previous], kappa=kappa, damping=mu).solve(n).double()
    unit = x / x.flatten(1).norm(dim=1)[:, None, None]
    want = lm_direction(n, previous, kappa=kappa, damping=mu).double()
    want = want / want.flatten(1).norm(dim=1)[:, None, None]
    assert float((unit - want).flatten(1).norm(dim=1).max()) <= UNITS * torch.finfo(dtype).eps * (1 + 1 / mu)


@pytest.mark.parametrize("rank", [2, 3, 6])
@pytest.mark.parametrize("absolute", [False, True])
def test_the_direction_of_rank_r_is_that_of_the_closed_form(rank: int, absolute: bool) -> None:
    g = torch.Generator().manual_seed(40 + rank)
    n, *previous = torch.randn(1 + rank, 4, 3, 5, generator=g, dtype=torch.float64)
    kappa = torch.tensor([0.5, -0.2, 1.0, 0.01], dtype=torch.float64)
    mu = torch.tensor([1e-3, 0.1, 2.0, 30.0], dtype=torch.float64)
    x = DampedLowRank.of_predictions(n, previous, kappa=kappa, damping=mu, absolute=absolute).solve(n)
    found = solve(n, previous, kappa, mu, absolute=absolute)
    norms = n.flatten(1).norm(dim=1) / x.flatten(1).norm(dim=1)
    torch.testing.assert_close(x * norms[:, None, None], found.direction, rtol=1e-10, atol=1e-10)


def test_rank_one_by_hand() -> None:
    """B = (3, 4)^T, lambda = 0.5 * 25: eigenvalues 37.5 on (0.6, 0.8) and 12.5 on (-0.8, 0.6)."""
    operator = DampedLowRank([torch.tensor([[3.0, 4.0]], dtype=torch.float64)], 0.5)
    assert operator.damping.item() == pytest.approx(12.5, rel=1e-14)
    assert operator.excess[0, 0].item() == pytest.approx(25.0, rel=1e-14)
    v = torch.tensor([[-0.2, 1.4]], dtype=torch.float64)  # the sum of the two unit eigenvectors
    along, across = torch.tensor([[0.6, 0.8]], dtype=torch.float64), torch.tensor([[-0.8, 0.6]], dtype=torch.float64)
    for method, power, _ in PRODUCTS.values():
        torch.testing.assert_close(method(operator, v), 37.5**power * along + 12.5**power * across)
    assert operator.logdet().item() == pytest.approx(math.log(37.5 * 12.5), rel=1e-14)
    want = torch.tensor([[[21.5, 12.0], [12.0, 28.5]]], dtype=torch.float64)
    torch.testing.assert_close(operator.dense(), want)


@pytest.mark.parametrize("log_size", [-30, 30])
def test_factors_whose_squares_float32_cannot_hold(log_size: int) -> None:
    factors = random_factors(49, 6, 3, 0.0, 0, torch.float64)
    want = DampedLowRank([b[None] for b in factors], 0.1)
    found = DampedLowRank([(b * 10.0**log_size).float()[None] for b in factors], 0.1)
    torch.testing.assert_close(found.excess, want.excess * 10.0 ** (2 * log_size), rtol=1e-5, atol=0)
    torch.testing.assert_close(found.damping, want.damping * 10.0 ** (2 * log_size), rtol=1e-5, atol=0)
    torch.testing.assert_close(found.basis.double(), want.basis, rtol=0, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_half_types_are_computed_in_float32(dtype: torch.dtype) -> None:
    g = torch.Generator().manual_seed(50)
    factors = [torch.randn(2, 4, 5, generator=g).to(dtype) for _ in range(2)]
    v = torch.randn(2, 4, 5, generator=g).to(dtype)
    narrow, wide = DampedLowRank(factors, 0.3), DampedLowRank([b.float() for b in factors], 0.3)
    for method, _, _ in PRODUCTS.values():
        assert torch.equal(method(narrow, v), method(wide, v.float()).to(dtype))


def test_what_float32_cannot_hold_is_not_nan() -> None:
    factors = [(1e-20 * torch.randn(2, 30, generator=torch.Generator().manual_seed(k))) for k in (81, 82)]
    v = torch.randn(2, 30, generator=torch.Generator().manual_seed(83))
    v[0] = 0
    operator = DampedLowRank(factors, 0.1)
    assert not operator.solve(v).isnan().any() and not operator.solve(v)[0].any()


def test_an_empty_batch_has_a_determinant() -> None:
    assert DampedLowRank([torch.randn(0, 3, 4)], 0.1).logdet().shape == (0,)


def test_a_sample_without_factors_has_the_identity_and_one_with_nan_keeps_it_to_itself() -> None:
    g = torch.Generator().manual_seed(51)
    factors = [torch.randn(3, 6, generator=g, dtype=torch.float64) for _ in range(3)]
    v = torch.randn(3, 6, generator=g, dtype=torch.float64)
    alone = DampedLowRank([b[:1] for b in factors], 0.1).solve(v[:1])
    for b in factors:
        b[1] = 0
    factors[1][2, 3] = torch.nan
    operator = DampedLowRank(factors, 0.1)
    x = operator.solve(v)
    torch.testing.assert_close(x[:1], alone, rtol=1e-14, atol=1e-14)
    assert torch.equal(x[1], v[1]) and operator.logdet()[1].item() == 0
    assert x[2].isnan().all()


def test_noise_of_the_inverse_root_has_the_inverse_as_covariance() -> None:
    g = torch.Generator().manual_seed(52)
    factors = [torch.randn(1, 3, generator=g, dtype=torch.float64) for _ in range(2)]
    many = [b.expand(20_000, 3) for b in factors]
    drawn = DampedLowRank(many, 0.2).inverse_sqrt_matvec(torch.randn(20_000, 3, generator=g, dtype=torch.float64))
    want = torch.linalg.inv(DampedLowRank(factors, 0.2).dense()[0])
    # Standard errors are 1% of the variances.
    torch.testing.assert_close(drawn.T @ drawn / 20_000, want, rtol=0, atol=0.05 * float(want.diagonal().max()))


def test_inputs_are_not_written_to() -> None:
    g = torch.Generator().manual_seed(53)
    tensors = [torch.randn(2, 7, generator=g) for _ in range(4)]
    before = [t.clone() for t in tensors]
    operator = DampedLowRank(tensors[:3], 0.1)
    operator.solve(tensors[3])
    assert all(torch.equal(a, b) for a, b in zip(before, tensors, strict=True))


class NoReading(TorchDispatchMode):
    """Refuses every operator whose result the host has to wait for."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        assert name not in ("_local_scalar_dense", "nonzero", "is_nonzero", "equal", "_linalg_check_errors"), name
        return func(*args, **(kwargs or {}))


def test_nothing_is_read_back() -> None:
    g = torch.Generator().manual_seed(54)
    factors = [torch.randn(2, 3, 4, generator=g) for _ in range(3)]
    with NoReading():
        operator = DampedLowRank.of_predictions(factors[0], factors[1:], kappa=0.5, damping=0.1)
        for method, _, _ in PRODUCTS.values():
            method(operator, factors[0])
        operator.logdet()
    meta = DampedLowRank([b.to("meta") for b in factors], 0.1)
    assert meta.solve(factors[0].to("meta")).shape == (2, 3, 4)


@pytest.mark.parametrize(
    ("factors", "damping", "named"),
    [
        ([], 1.0, "factors is empty"),
        ([torch.ones(3)], 1.0, r"factor 0 is a torch.float32 \(3,\)"),
        ([torch.ones(2, 3), torch.ones(2, 4)], 1.0, r"factor 1 has shape \(2, 4\)"),
        ([torch.ones(2, 3), torch.ones(2, 3).double()], 1.0, "factor 1 has shape .* torch.float64"),
        ([torch.ones(2, 3), 4.0], 1.0, "factor 1 is float"),
        ([torch.ones(2, 3)], 0.0, r"damping=0.0 must be above 0"),
        ([torch.ones(2, 3)], math.nan, "damping=nan"),
        ([torch.ones(2, 3)], torch.ones(3), r"damping has shape \(3,\) for a batch of 2"),
    ],
)
def test_mistakes_are_named(factors: Any, damping: Any, named: str) -> None:
    with pytest.raises(LMLError, match=named):
        DampedLowRank(factors, damping)


def test_a_vector_of_another_shape_is_refused() -> None:
    operator = DampedLowRank([torch.ones(2, 3)], 1.0)
    for v in (torch.ones(2, 4), torch.ones(1, 3), torch.ones(2, 3, dtype=torch.long)):
        with pytest.raises(LMLError, match=r"v is a .*; give a floating-point one of \(2, 3\)"):
            operator.matvec(v)


@pytest.mark.parametrize("scale", [1e-300, 1e-170, 1e-100, 1e100, 1e160, 1e300])
def test_factors_of_any_size_that_float64_holds(scale: float) -> None:
    """Their squares are beyond it; the roots of H are not, and twice a root is H."""
    factors = [b[None] for b in random_factors(55, 6, 2, 0.0, 0, torch.float64)]
    v = torch.randn(1, 6, generator=torch.Generator().manual_seed(56), dtype=torch.float64)
    near, far = DampedLowRank(factors, 0.25), DampedLowRank([b * scale for b in factors], 0.25)
    exact = {"rtol": 1e-12, "atol": 0.0}
    for method, power, _ in PRODUCTS.values():
        # A vector of a size at which the product is one that float64 holds.
        size = scale ** (-1 if power > 0 else 1)
        after = scale if abs(power) == 1 else 1.0
        after = 1 / after if power > 0 else after
        torch.testing.assert_close(method(far, v * size) * after, method(near, v), **exact)
        for vector in (v, 1e300 * v, torch.zeros_like(v)):
            assert method(far, vector).isfinite().all()
    torch.testing.assert_close(far.logdet(), near.logdet() + 12 * math.log(scale), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("size", [1e-170, 1e160])
def test_an_absolute_damping_beside_factors_of_any_size(size: float) -> None:
    """Beside 1 the small factors are nothing; along the large ones H is theirs, and across them 1."""
    b = torch.tensor([[3.0, 4.0]], dtype=torch.float64)
    operator = DampedLowRank([size * b], 1.0, absolute=True)
    along, across = b / 5, torch.tensor([[-0.8, 0.6]], dtype=torch.float64)
    root = max(1.0, 5 * size)
    for method, sign in ((DampedLowRank.sqrt_matvec, 1), (DampedLowRank.inverse_sqrt_matvec, -1)):
        torch.testing.assert_close(method(operator, along), along * root**sign, rtol=1e-12, atol=1e-15 * root**sign)
        torch.testing.assert_close(method(operator, across), across, rtol=1e-12, atol=1e-12)
    assert operator.logdet().item() == pytest.approx(2 * math.log(root), rel=1e-12)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32], ids=str)
def test_a_product_beyond_its_dtype_is_finite(dtype: torch.dtype) -> None:
    g = torch.Generator().manual_seed(57)
    factors = [torch.randn(2, 5, generator=g) * 1e30 for _ in range(2)]
    v = (torch.randn(2, 5, generator=g) * 1e3).to(dtype)
    got = DampedLowRank(factors, 0.3).matvec(v)
    assert got.dtype == dtype and got.isfinite().all() and got.abs().max() > 0.1 * torch.finfo(dtype).max

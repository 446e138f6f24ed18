"""What the samplers compute: closed forms, loops written by hand, clean state, dtypes, and the order of convergence."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from lmlangevin.core import AdaptiveState, CalibratedSchedule, LMLInfo, adapt, lm_direction, run_trust
from lmlangevin.samplers import run, sample_lml_dpmpp_2m, sample_lml_euler

CONTROLS: list[dict[str, Any]] = [
    {"gain": 0.4},
    {"kappa": 0.5, "damping": 0.8, "rank": 2},
    {"control": "adaptive"},
    {"control": "calibrated", "schedule": CalibratedSchedule(None, tuple((0.2 * (k > 0),) for k in range(8)))},
]
IDS = ["gain", "rank 2", "adaptive", "calibrated"]


def by_hand(name: str, model: Any, x: Tensor, sigmas: Tensor, kappa: float, damping: float) -> Tensor:
    """The samplers in plain numbers, the correction from `lm_direction` alone."""
    previous = old = None
    levels = sigmas.tolist()
    for i, (a, b) in enumerate(zip(levels[:-1], levels[1:], strict=True)):
        n = (x - model(x, torch.full(x.shape[:1], a, dtype=x.dtype))) / a
        d, previous = lm_direction(n, previous, kappa=kappa, damping=damping), n
        if name == "euler":
            x = x + (b - a) * d
            continue
        denoised = slope = x - a * d
        if old is not None and b > 0:
            # linear through the last two denoised predictions in log sigma, taken at the middle of the step
            log = torch.tensor(levels).double().log()
            slope = denoised + (denoised - old) * float((log[i] - log[i + 1]) / (log[i - 1] - log[i]) / 2)
        x, old = (b / a) * x + (1 - b / a) * slope, denoised
    return x


@pytest.mark.parametrize("zero", [True, False])
@pytest.mark.parametrize("name", ["euler", "dpmpp_2m"])
def test_a_constant_gain_is_the_loop_by_hand(gaussian: Any, grid: Any, name: str, zero: bool) -> None:
    model, sigmas = gaussian(), grid(7, zero=zero)
    x = model.start(12.0, seed=2)
    sample = {"euler": sample_lml_euler, "dpmpp_2m": sample_lml_dpmpp_2m}[name]
    want = by_hand(name, model, x, sigmas, 0.5, 0.8)
    torch.testing.assert_close(sample(model, x, sigmas, kappa=0.5, damping=0.8), want, rtol=1e-6, atol=1e-6)
    assert (sample(model, x, sigmas, gain=0.0) - want).abs().max() > 1e-3


@pytest.mark.parametrize("zero", [True, False])
def test_the_adaptive_control_is_the_loop_by_hand(blobs: Any, grid: Any, zero: bool) -> None:
    """A last step that ends above 0 is a last step all the same: its own defect is never judged."""
    model, sigmas = blobs(), grid(8, zero=zero)
    x = want = 12 * torch.randn(3, 2, 4, 4, generator=torch.Generator().manual_seed(14), dtype=torch.float64)
    levels, state = sigmas.tolist(), AdaptiveState()
    trust = run_trust(levels[:-1])
    for k, (a, b) in enumerate(zip(levels[:-1], levels[1:], strict=True)):
        n = (want - model(want, torch.full((3,), a, dtype=torch.float64))) / a
        adapted = adapt(n, want, a, b if k + 2 < len(levels) else 0.0, state, trust=trust)
        state = adapted.state
        if adapted.prediction is not None and adapted.shift is not None:
            n, want = adapted.prediction, want + adapted.shift
        want = want + (b - a) * n
    made = sample_lml_euler(model, x, sigmas, control="adaptive")
    torch.testing.assert_close(made, want, rtol=0, atol=1e-6)
    assert trust > 0 and (made - sample_lml_euler(model, x, sigmas, gain=0.0)).abs().max() > 1e-2


@pytest.mark.parametrize("options", CONTROLS, ids=IDS)
def test_nothing_is_left_of_a_run(blobs: Any, grid: Any, sampler: Any, options: dict[str, Any]) -> None:
    """A second run equals a first one, also after one of another shape and one that failed in the middle."""
    model, sigmas, g = blobs(), grid(8), torch.Generator().manual_seed(3)
    first, second = (12 * torch.randn(3, 2, 4, 4, generator=g) for _ in range(2))
    want = sampler(model, second, sigmas, **options)
    start = second.clone()
    sampler(model, first, sigmas, **options)
    sampler(model, first[:1], sigmas, **options)
    calls = 0

    def failing(x: Tensor, sigma: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        if calls == 4:
            raise RuntimeError("out of memory")
        return model(x, sigma)

    with pytest.raises(RuntimeError):
        sampler(failing, first, sigmas, **options)
    assert torch.equal(sampler(model, second, sigmas, **options), want)
    assert torch.equal(second, start)
    assert not torch.equal(sampler(model, second, sigmas, gain=0.0), want)


@pytest.mark.parametrize("options", CONTROLS[:3], ids=IDS[:3])
def test_a_sample_does_not_depend_on_its_batch(blobs: Any, grid: Any, sampler: Any, options: dict[str, Any]) -> None:
    model, sigmas = blobs(), grid(8)
    x = 12 * torch.randn(3, 2, 4, 4, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    together = sampler(model, x, sigmas, **options)
    torch.testing.assert_close(sampler(model, x[1:2], sigmas, **options), together[1:2], rtol=0, atol=1e-10)


@pytest.mark.parametrize("options", CONTROLS, ids=IDS)
def test_float_types(gaussian: Any, grid: Any, sampler: Any, options: dict[str, Any]) -> None:
    model, sigmas = gaussian(), grid(8)
    wide = sampler(model, model.start(12.0), sigmas, **options)
    for dtype, tolerance in ((torch.float32, 1e-5), (torch.float16, 0.02), (torch.bfloat16, 0.15)):
        model.seen.clear()
        made = sampler(model, model.start(12.0, dtype=dtype), sigmas.to(dtype), **options)
        assert made.dtype == dtype and made.isfinite().all()
        # The network must never meet another dtype than the caller's.
        assert set(model.seen) == {dtype} and len(model.seen) == 8
        if dtype != torch.float32 and "schedule" not in options:
            made = sampler(model, model.start(12.0, dtype=dtype), sigmas, **options)
        assert (made.double() - wide).norm() < tolerance * wide.norm()


@pytest.mark.parametrize("flow", [False, True])
def test_a_gain_lowers_the_error_of_euler(gaussian: Any, grid: Any, flow_grid: Any, flow: bool) -> None:
    model, sigmas = gaussian(flow=flow), flow_grid(8) if flow else grid(8)
    x = model.start(float(sigmas[0]))
    exact = model.solution(x, float(sigmas[0]), 0.0)

    def error(**options: Any) -> float:
        return (sample_lml_euler(model, x, sigmas, **options) - exact).norm().item()

    assert error(gain=0.7) < error(gain=0.35) < error(gain=0.0)
    assert error() == error(gain=0.35) < 0.92 * error(gain=0.0)


@pytest.mark.parametrize("flow", [False, True])
def test_the_adaptive_control_makes_euler_one_of_second_order(
    gaussian: Any, monkeypatch: pytest.MonkeyPatch, flow: bool
) -> None:
    """Four times the steps: a quarter of the error before and about a sixteenth after, were every run trusted."""
    monkeypatch.setattr(run, "run_trust", lambda ratios: 1.0)
    model = gaussian(flow=flow, seed=4)
    start, end = (0.95, 0.05) if flow else (8.0, 0.1)
    x = model.start(start, seed=5)
    exact = model.solution(x, start, end)

    def error(steps: int, **options: Any) -> float:
        sigmas = torch.linspace(0, 1, steps + 1, dtype=torch.float64)
        sigmas = start + (end - start) * sigmas if flow else start * (end / start) ** sigmas
        return (sample_lml_euler(model, x, sigmas, flow=flow, **options) - exact).norm().item()

    plain = error(20, gain=0.0) / error(80, gain=0.0)
    adaptive = error(20, control="adaptive") / error(80, control="adaptive")
    assert 3.4 < plain < 4.8 and adaptive > 9, (plain, adaptive)
    assert error(20, control="adaptive") < 0.3 * error(20, gain=0.0)


def test_2m_is_of_second_order_for_both_kinds_of_models(gaussian: Any) -> None:
    for flow, start, end in ((False, 8.0, 0.1), (True, 0.95, 0.05)):
        model = gaussian(flow=flow, seed=6)
        x = model.start(start, seed=7)
        exact, errors = model.solution(x, start, end), []
        for steps in (20, 80):
            sigmas = start * (end / start) ** torch.linspace(0, 1, steps + 1, dtype=torch.float64)
            errors.append((sample_lml_dpmpp_2m(model, x, sigmas, gain=0.0) - exact).norm().item())
        assert errors[0] / errors[1] > 12


def test_a_run_may_start_late_and_end_early(gaussian: Any, grid: Any, sampler: Any) -> None:
    """Image to image, and a split of the sigmas, which plain Euler does not notice."""
    model, sigmas = gaussian(), grid(9)
    x = model.start(float(sigmas[4]))
    for options in CONTROLS[:3]:
        assert sampler(model, x, sigmas[4:], **options).isfinite().all()
        ended = sampler(model, model.start(12.0), sigmas[:5], **options)
        exact = model.solution(model.start(12.0), 12.0, float(sigmas[4]))
        assert (ended - exact).norm() < 0.35 * exact.norm()
    x = model.start(12.0)
    split = sample_lml_euler(model, sample_lml_euler(model, x, sigmas[:5], gain=0.0), sigmas[4:], gain=0.0)
    assert torch.equal(split, sample_lml_euler(model, x, sigmas, gain=0.0))
    # The history is not carried over a split, so there the correction starts anew.
    assert sample_lml_euler(model, x, sigmas[:2], gain=0.5).equal(sample_lml_euler(model, x, sigmas[:2], gain=0.0))


@pytest.mark.parametrize("options", [{"gain": 0.0}, *CONTROLS], ids=["off", *IDS])
def test_the_callback_is_told_what_the_step_is_made_from(
    blobs: Any, grid: Any, sampler: Any, options: dict[str, Any]
) -> None:
    sigmas, told = grid(8), []
    x = 12 * torch.randn(2, 2, 4, 4, generator=torch.Generator().manual_seed(8), dtype=torch.float64)
    infos: list[LMLInfo] = []
    out = sampler(blobs(), x, sigmas, callback=told.append, record=infos, **options)
    assert [t["i"] for t in told] == list(range(8)) and len(infos) == 8
    assert all(set(t) == {"x", "i", "sigma", "sigma_hat", "denoised"} for t in told)
    assert torch.equal(torch.stack([t["sigma"] for t in told]), sigmas[:-1])
    assert torch.equal(told[0]["x"], x)
    # The last preview is the image, as in the plain samplers.
    torch.testing.assert_close(told[-1]["denoised"], out, rtol=0, atol=1e-6)
    if sampler is sample_lml_euler and options.get("control") != "adaptive":  # which repairs where a step arrived
        for this, following in zip(told[:-1], told[1:], strict=True):
            slope = (this["x"] - this["denoised"]) / this["sigma"]
            moved = this["x"] + slope * (following["sigma"] - this["sigma"])
            torch.testing.assert_close(following["x"], moved, rtol=0, atol=1e-5)
    assert bool(infos[-1].identity.all()) == (options == {"gain": 0.0})


def test_extra_arguments_reach_the_model(blobs: Any, grid: Any, sampler: Any) -> None:
    got, model = [], blobs()

    def wrapper(x: Tensor, sigma: Tensor, cond: str, scale: float) -> Tensor:
        got.append((cond, scale))
        return model(x, sigma)

    x = torch.randn(2, 2, 4, 4, generator=torch.Generator().manual_seed(9)) * 12
    made = sampler(wrapper, x, grid(5), {"cond": "a fox", "scale": 2.0})
    assert got == [("a fox", 2.0)] * 5
    assert torch.equal(made, sampler(model, x, grid(5)))


def test_no_gradients_are_kept(grid: Any, sampler: Any) -> None:
    weight = torch.nn.Parameter(torch.tensor(0.5))
    x = torch.randn(2, 3, generator=torch.Generator().manual_seed(10)) * 12
    assert not sampler(lambda x, sigma: weight * x.tanh(), x, grid(5), gain=0.3).requires_grad


class Reads(TorchDispatchMode):
    """Counts the operators whose result the host has to wait for."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += func.overloadpacket.__name__ in ("_local_scalar_dense", "nonzero", "equal", "item")
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("options", CONTROLS, ids=IDS)
def test_no_step_waits_for_the_device(grid: Any, sampler: Any, options: dict[str, Any]) -> None:
    x = torch.randn(2, 2, 4, 4, generator=torch.Generator().manual_seed(11)) * 12
    with Reads() as reads:
        sampler(lambda x, sigma: torch.tanh(x / 3), x, grid(8), disable=True, **options)
        assert reads.count == 0
        float(x[0, 0, 0, 0])  # the guard guards
    assert reads.count == 1


@pytest.fixture
def no_tqdm(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setitem(sys.modules, "tqdm.auto", None)
    yield


def test_the_progress_bar(blobs: Any, grid: Any, sampler: Any, capsys: pytest.CaptureFixture[str]) -> None:
    x = torch.randn(1, 2, 4, 4, generator=torch.Generator().manual_seed(12)) * 12
    sampler(blobs(), x, grid(5), disable=True)
    assert capsys.readouterr().err == ""
    sampler(blobs(), x, grid(5), disable=False)
    assert "5/5" in capsys.readouterr().err


@pytest.mark.usefixtures("no_tqdm")
def test_without_tqdm_there_is_none(blobs: Any, grid: Any, capsys: pytest.CaptureFixture[str]) -> None:
    x = torch.randn(1, 2, 4, 4, generator=torch.Generator().manual_seed(13)) * 12
    assert sample_lml_euler(blobs(), x, grid(5), disable=False).isfinite().all()
    assert capsys.readouterr().err == ""


@settings(max_examples=40, deadline=None)
@given(
    scale=st.sampled_from([0.0, 1e-20, 1e-3, 1.0, 1e4, 1e15]),
    seed=st.integers(0, 10_000),
    control=st.integers(0, 2),
    kind=st.sampled_from(["constant", "zero", "noise", "same"]),
    steps=st.integers(1, 6),
)
def test_never_nan_from_what_is_finite(scale: float, seed: int, control: int, kind: str, steps: int) -> None:
    g = torch.Generator().manual_seed(seed)
    x, fixed = (scale * torch.randn(2, 5, generator=g) for _ in range(2))

    def model(x: Tensor, sigma: Tensor) -> Tensor:
        if kind == "noise":
            return scale * torch.randn(x.shape, generator=g)
        return {"constant": fixed, "zero": torch.zeros_like(x), "same": x}[kind]

    sigmas = torch.linspace(3.0, 0.0, steps + 1)
    for sample in (sample_lml_euler, sample_lml_dpmpp_2m):
        assert sample(model, x, sigmas, disable=True, **CONTROLS[control]).isfinite().all()


@pytest.mark.parametrize("options", [{"gain": 0.0}, *CONTROLS[:3]], ids=["off", *IDS[:3]])
def test_equal_neighbours_are_one_sigma(blobs: Any, grid: Any, sampler: Any, options: dict[str, Any]) -> None:
    sigmas = grid(8)
    repeated = sigmas[[0, 0, 1, 2, 3, 3, 3, 4, 5, 6, 7, 8, 8]]
    x = 12 * torch.randn(2, 2, 4, 4, generator=torch.Generator().manual_seed(15), dtype=torch.float64)
    told, calls, model = [], [], blobs()

    def counted(x: Tensor, sigma: Tensor) -> Tensor:
        calls.append(float(sigma[0]))
        return model(x, sigma)

    made = sampler(counted, x, repeated, callback=told.append, **options)
    assert torch.equal(made, sampler(model, x, sigmas, **options))
    assert calls == pytest.approx(sigmas[:-1].tolist()) and [t["i"] for t in told] == [1, 2, 3, 6, 7, 8, 9, 10]
    assert torch.equal(torch.stack([t["sigma"] for t in told]), sigmas[:-1])


class Straight:
    """Its denoised value is a constant, so that every trajectory is a straight line and no step misses anything."""

    def __init__(self, dtype: torch.dtype = torch.float64) -> None:
        self.target = torch.randn(3, 2, 4, 4, generator=torch.Generator().manual_seed(16)).to(dtype)

    def __call__(self, x: Tensor, sigma: Tensor) -> Tensor:
        return self.target.clone()


@pytest.mark.parametrize("where", ["callback x", "callback denoised", "model"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16], ids=str)
def test_what_somebody_writes_in_place_is_not_the_solvers_error(
    grid: Any, sampler: Any, where: str, dtype: torch.dtype
) -> None:
    """Stepped from, as in k-diffusion, and never repaired; of the sample that nobody wrote to nothing changes."""
    sigmas, model = grid(8, zero=False).to(dtype), Straight(dtype)
    push = torch.randn(2, 2, 4, 4, generator=torch.Generator().manual_seed(17)).to(dtype)
    x = (12 * torch.randn(3, 2, 4, 4, generator=torch.Generator().manual_seed(18))).to(dtype)

    def run(edited: bool, **options: Any) -> tuple[Tensor, list[LMLInfo]]:
        infos: list[LMLInfo] = []

        def callback(told: dict[str, Any]) -> None:
            if edited and told["i"] == 3 and where != "model":
                told[where.split()[1]][:2] += push.to(told["x"].dtype)

        def editing(x: Tensor, sigma: Tensor) -> Tensor:
            if edited and where == "model" and torch.isclose(sigma[0], sigmas[4]):
                x[:2] += push
            return model(x, sigma)

        return sampler(editing, x.clone(), sigmas, callback=callback, record=infos, **options), infos

    plain, _ = run(True, gain=0.0)
    made, infos = run(True, control="adaptive")
    tolerance = 64 * 12 * torch.finfo(torch.promote_types(dtype, torch.float32)).eps
    tolerance = 2 * torch.finfo(dtype).eps if dtype == torch.float16 else tolerance
    torch.testing.assert_close(made, plain, rtol=tolerance, atol=tolerance)
    untouched, _ = run(False, gain=0.0)
    # Euler has made its direction before it tells the callback what was denoised.
    matters = where != "callback denoised" or sampler is sample_lml_dpmpp_2m
    assert ((plain - untouched)[:2].abs().max() > 0.01) == matters
    assert torch.equal(made[2], run(False, control="adaptive")[0][2])


def test_a_callback_that_writes_nothing_changes_nothing(blobs: Any, grid: Any, sampler: Any) -> None:
    x = 12 * torch.randn(3, 2, 4, 4, generator=torch.Generator().manual_seed(19), dtype=torch.float64)

    def preview(told: dict[str, Any]) -> None:
        if sampler is sample_lml_euler:
            told["denoised"].clamp_(-1, 1)  # of no use to Euler any more

    want = sampler(blobs(), x, grid(8), control="adaptive")
    made = sampler(blobs(), x, grid(8), control="adaptive", callback=preview)
    torch.testing.assert_close(made, want, rtol=1e-12, atol=1e-12)
    assert not torch.equal(want, sampler(blobs(), x, grid(8), gain=0.0))

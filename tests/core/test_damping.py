"""A controller registered here works end to end, with no other file touched."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from lmlangevin.core import (
    Damping,
    History,
    LMLConfig,
    LMLError,
    LMLState,
    controller_names,
    correct,
    damping,
    lm_direction,
    load_controller,
    register_controller,
)


@pytest.fixture(autouse=True)
def unregister() -> Iterator[None]:
    """Take back whatever a test registers."""
    before = dict(damping._CONTROLLERS)
    yield
    damping._CONTROLLERS.clear()
    damping._CONTROLLERS.update(before)


def predictions(seed: int, count: int) -> list[torch.Tensor]:
    g = torch.Generator().manual_seed(seed)
    return [torch.randn(3, 2, 4, 4, generator=g) for _ in range(count)]


def test_constant_is_there_and_an_unknown_name_is_refused() -> None:
    assert "constant" in controller_names()
    with pytest.raises(LMLError, match="control='test-unknown' is unknown; give one of .*'constant'"):
        LMLConfig(control="test-unknown")


@pytest.mark.parametrize("rank", [1, 2])
@pytest.mark.parametrize("depth", [1, 3])
def test_a_controller_sees_the_history_it_asked_for(rank: int, depth: int) -> None:
    seen: list[History] = []

    @register_controller("test-spy", depth=depth)
    def spy(history: History, config: LMLConfig) -> Damping:
        seen.append(history)
        assert config.rank == rank
        return Damping(0.5, 1.0)

    assert callable(spy) and "test-spy" in controller_names()
    ns = predictions(1, 6)
    config, state = LMLConfig(control="test-spy", rank=rank), LMLState()
    for n in ns:
        _, state, _ = correct(n, state, config)
    assert [h.step for h in seen] == [1, 2, 3, 4, 5]  # nothing to decide on the first step
    for h in seen:
        want = min(h.step, max(rank, depth))
        assert len(h.previous) == len(h.infos) == want
        assert torch.equal(h.prediction, ns[h.step])
        assert all(torch.equal(p, ns[h.step - 1 - j]) for j, p in enumerate(h.previous))
        assert h.infos[-1].identity.all() == (h.step <= want)


def test_depth_does_not_change_the_rank() -> None:
    register_controller("test-deep", depth=4)(lambda history, config: Damping(*config.resolved()))
    plain, deep = LMLState(), LMLState()
    for n in predictions(2, 5):
        a, plain, _ = correct(n, plain, LMLConfig(kappa=0.4, damping=0.3))
        b, deep, info = correct(n, deep, LMLConfig(kappa=0.4, damping=0.3, control="test-deep"))
        assert torch.equal(a, b) and info.gain.shape[1] == 1
    assert len(deep.previous) == 4 and len(plain.previous) == 1


def test_kappa_and_damping_may_differ_per_sample() -> None:
    kappa, mu = torch.tensor([0.5, 0.0, -0.5]), torch.tensor([0.1, 1.0, 2.0])
    register_controller("test-samples")(lambda history, config: Damping(kappa, mu))
    a, b = predictions(3, 2)
    config = LMLConfig(control="test-samples")
    _, state, _ = correct(a, LMLState(), config)
    d, _, info = correct(b, state, config)
    for i in range(3):
        want = lm_direction(b[i : i + 1], a[i : i + 1], kappa=float(kappa[i]), damping=float(mu[i]))
        torch.testing.assert_close(d[i : i + 1], want, rtol=1e-5, atol=1e-6)
    assert info.identity.tolist() == [False, True, False]
    assert torch.equal(d[1], b[1])


def test_a_decision_from_the_history() -> None:
    """An adaptive rule: the change so far, forecast by the change before."""

    @register_controller("test-adaptive", depth=2)
    def adaptive(history: History, config: LMLConfig) -> Damping:
        if len(history.previous) < 2:
            return Damping(0.0, 1.0)
        first, second = history.previous
        new, old = (history.prediction - first).flatten(1), (first - second).flatten(1)
        gain = ((new * old).sum(1) / (old * old).sum(1)).clamp(0.05, 1.5)
        return Damping(torch.full_like(gain, 1e-3), 1e-3 / gain)

    del adaptive
    g = torch.Generator().manual_seed(4)
    n, drift = torch.randn(2, 60, generator=g), 0.05 * torch.randn(2, 60, generator=g)
    state, gains = LMLState(), []
    for step in range(4):
        _, state, info = correct(n + step * drift, state, LMLConfig(control="test-adaptive"))
        gains.append(info.gain)
    assert (gains[1] == 0).all()
    torch.testing.assert_close(gains[3], torch.ones_like(gains[3]), rtol=0.05, atol=0)


def test_registering_twice_replaces() -> None:
    register_controller("test-twice")(lambda history, config: Damping(0.9, 1.0))
    register_controller("test-twice")(lambda history, config: Damping(0.0, 1.0))
    assert controller_names().count("test-twice") == 1
    a, b = predictions(5, 2)
    _, state, _ = correct(a, LMLState(), LMLConfig(control="test-twice"))
    assert torch.equal(correct(b, state, LMLConfig(control="test-twice"))[0], b)


MODULE = """
from lmlangevin.core import Damping, register_controller

{decorator}
def late(history, config):
    return Damping(0.5 if history.step >= 2 else 0.0, 1.0)

number = 3
"""


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., None]]:
    """Return what installs a package with one module `test_late_controls` and entry points."""

    def install(entry_points: str, decorator: str = "") -> None:
        (tmp_path / "test_late_controls.py").write_text(MODULE.format(decorator=decorator))
        info = tmp_path / "test_late-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text("Metadata-Version: 2.1\nName: test-late\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text(f"[lmlangevin.controllers]\n{entry_points}\n")
        monkeypatch.syspath_prepend(tmp_path)

    yield install
    sys.modules.pop("test_late_controls", None)


def _late_gains(control: str) -> list[float]:
    state, config, gains = LMLState(), LMLConfig(control=control), []
    for n in predictions(6, 4):
        _, state, info = correct(n, state, config)
        gains.append(float(info.gain.max()))
    return gains


@pytest.mark.parametrize(
    ("entry", "decorator"),
    [
        ("test-late = test_late_controls:late", ""),
        ("test-late = test_late_controls:late", '@register_controller("test-late", depth=2)'),
        ("test-late = test_late_controls", '@register_controller("test-late")'),
    ],
    ids=["function", "registered function", "module"],
)
def test_an_installed_controller_is_known_by_its_name(package: Callable[..., None], entry: str, decorator: str) -> None:
    package(entry, decorator)
    # Asking for the names, or for another controller, imports nothing of a stranger's.
    assert "test-late" in controller_names() and "test_late_controls" not in sys.modules
    LMLConfig(control="constant")
    assert "test_late_controls" not in sys.modules
    gains = _late_gains("test-late")
    assert gains[:2] == [0, 0] and min(gains[2:]) > 0
    assert damping.get_controller("test-late")[1] == (2 if "depth" in decorator else 1)
    assert controller_names().count("test-late") == 1


def test_an_installed_controller_that_cannot_be_used_is_one_sentence(package: Callable[..., None]) -> None:
    package(
        "test-gone = test_late_none:late\ntest-number = test_late_controls:number\nadaptive = test_late_controls:late"
    )
    with pytest.raises(
        LMLError, match="control='test-gone' is 'test_late_none:late' of an installed package .*cannot be l"
    ):
        LMLConfig(control="test-gone")
    with pytest.raises(LMLError, match="control='test-number' names no controller; give a function"):
        LMLConfig(control="test-number")
    # The package's own names stay its own.
    LMLConfig(control="adaptive")
    assert "test_late_controls" in sys.modules and "adaptive" not in damping._CONTROLLERS


def test_a_controller_is_loaded_by_its_module(package: Callable[..., None]) -> None:
    package("", '@register_controller("test-late")')
    assert load_controller("test_late_controls:test-late") == "test-late"
    assert _late_gains("test-late")[:2] == [0, 0]
    # A function that is not registered is registered under its own name.
    assert load_controller("test_late_controls:late") == "late"
    assert _late_gains("late")[:2] == [0, 0]
    for reference, words in (
        ("late", "is no MODULE:NAME; give one such as"),
        ("a b:late", "is no MODULE:NAME"),
        ("test_late_none:late", "cannot be imported .*No module named 'test_late_none'"),
        ("test_late_controls:number", "names no controller"),
        ("test_late_controls:nothing", "names no controller"),
        ("test_late_controls:adaptive", "has the name of a built-in control"),
    ):
        with pytest.raises(LMLError, match=f"controller='{reference}' {words}"):
            load_controller(reference)


def test_nothing_is_left_registered() -> None:
    assert not [name for name in controller_names() if name.startswith("test-")]

"""A controller registered here works end to end, with no other file touched."""

from __future__ import annotations

from collections.abc import Iterator

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


def test_nothing_is_left_registered() -> None:
    assert not [name for name in controller_names() if name.startswith("test-")]

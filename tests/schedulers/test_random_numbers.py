"""Random numbers that belong to others: no scheduler moves a generator or puts one back, in any thread."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

import diffusers
import pytest
import torch
from diffusers import DDIMScheduler, EulerDiscreteScheduler
from torch import Tensor

from lmlangevin import LMLError, apply_lml, with_lml
from lmlangevin.schedulers import factory
from lmlangevin.schedulers.choice import default_control
from lmlangevin.schedulers.levels import draws_noise


class Drawing(DDIMScheduler):
    """Draws from the global generator, and takes none: nothing but its step tells."""

    def step(self, model_output: Any, timestep: Any, sample: Any, return_dict: bool = True) -> Any:
        """DDIM's, and a little noise."""
        result = super().step(model_output, timestep, sample, return_dict=True)
        result.prev_sample = result.prev_sample + 0.1 * torch.randn_like(sample)
        return result


class Watched(DDIMScheduler):
    """While its step runs, another thread draws."""

    seen: list[Tensor] = []

    def step(self, model_output: Any, timestep: Any, sample: Any, return_dict: bool = True) -> Any:
        """DDIM's."""
        thread = threading.Thread(target=lambda: self.seen.append(torch.randn(8)))
        thread.start()
        thread.join()
        return super().step(model_output, timestep, sample, return_dict=return_dict)


@pytest.mark.parametrize("base", [Drawing, diffusers.EulerAncestralDiscreteScheduler, diffusers.DDPMScheduler])
@pytest.mark.parametrize("grad", [torch.no_grad, torch.enable_grad, torch.inference_mode])
def test_a_scheduler_is_asked_without_a_draw(base: Any, grad: Any) -> None:
    with grad():
        torch.manual_seed(1)
        before = torch.get_rng_state()
        scheduler = with_lml(base)(**({} if "Euler" in base.__name__ else {"clip_sample": False}), control="adaptive")
        with pytest.raises(LMLError, match="draws noise in its steps"):
            scheduler.set_timesteps(8)
        assert default_control(base(), measured=True) == "constant"
        assert torch.equal(torch.get_rng_state(), before)


def test_what_another_thread_draws_is_not_drawn_again() -> None:
    """A generator that is put back after a probe would repeat what others drew in the meantime."""
    Watched.seen.clear()
    torch.manual_seed(2)
    scheduler: Any = with_lml(Watched)(clip_sample=False, control="adaptive")
    scheduler.set_timesteps(8)
    assert len(Watched.seen) == 1  # the step was tried
    torch.manual_seed(2)
    assert torch.equal(torch.randn(8), Watched.seen[0])
    assert not draws_noise(scheduler, Watched.step, scheduler.timesteps)
    after = torch.randn(8)
    assert len(Watched.seen) == 2 and not torch.equal(after, Watched.seen[1])


def test_two_threads_with_two_pipelines_start_from_the_plain_ones_noise() -> None:
    """Each has a generator of its own, and plans as often as it can while the other draws."""

    def run(scheduler: Any, seed: int) -> Tensor:
        g = torch.Generator().manual_seed(seed)
        starts, x = [], torch.zeros(1)
        for _ in range(15):
            scheduler.set_timesteps(6)
            starts.append(torch.randn(2, 2, 4, 4, generator=g))
            x = starts[-1]
            for t in scheduler.timesteps:
                x = scheduler.step(torch.tanh(x), t, x).prev_sample
        return torch.stack([*starts, x])

    def both(make: Callable[[], Any]) -> list[Tensor]:
        results: dict[int, Tensor] = {}
        threads = [
            threading.Thread(target=lambda k=k: results.__setitem__(k, run(make(), k)))  # type: ignore[misc]
            for k in range(2)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return [results[k] for k in range(2)]

    torch.manual_seed(3)
    expected = torch.randn(4)
    torch.manual_seed(3)
    plain = both(lambda: DDIMScheduler(clip_sample=False))
    made = both(lambda: with_lml(DDIMScheduler)(clip_sample=False, control="adaptive"))
    assert all(torch.equal(a[:-1], b[:-1]) for a, b in zip(plain, made, strict=True))
    alone = run(with_lml(DDIMScheduler)(clip_sample=False, control="adaptive"), 1)
    assert torch.equal(made[1], alone)
    assert torch.equal(torch.randn(4), expected)


def test_apply_lml_leaves_the_global_generator() -> None:
    pipe: Any = type("DDPMPipeline", (), {})()
    pipe.scheduler = EulerDiscreteScheduler()
    torch.manual_seed(4)
    expected = torch.randn(4)
    torch.manual_seed(4)
    apply_lml(pipe)
    assert pipe.scheduler.config.control == "adaptive"
    pipe.scheduler.set_timesteps(8)
    assert torch.equal(torch.randn(4), expected)


def test_one_class_however_many_threads_ask(monkeypatch: pytest.MonkeyPatch) -> None:
    make = factory._make

    def slow(base: type) -> type:
        time.sleep(0.02)
        return make(base)

    monkeypatch.setattr(factory, "_make", slow)
    own = type("ThreadedScheduler", (DDIMScheduler,), {})
    made: list[type] = []
    threads = [threading.Thread(target=lambda: made.append(with_lml(own))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(made) == 4 and set(made) == {with_lml(own)}

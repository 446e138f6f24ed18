"""Random sequences of what people do with a scheduler, against the base and against a fresh object.

With a gain of 0, or switched off, a scheduler is its base bit for bit. With any control it is, after whatever happened
to it, a scheduler that was built for this run and has seen nothing else.
"""

from __future__ import annotations

import copy
import pickle
import threading
from typing import Any
from unittest import mock

import pytest
import torch
from diffusers import DDIMScheduler, FlowMatchEulerDiscreteScheduler
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from torch import Tensor

from lmlangevin import LMLError
from lmlangevin.core import CalibratedSchedule
from lmlangevin.schedulers.names import SCHEDULERS, build_scheduler

NAMES = [name for name, entry in SCHEDULERS.items() if entry.takes_lml]
CONFIGS = {
    False: DDIMScheduler(clip_sample=False).config,
    True: FlowMatchEulerDiscreteScheduler(shift=3.0).config,
}
SHAPE = (2, 2, 3, 3)
STEPS = 6
OFF: list[dict[str, Any]] = [{"gain": 0.0}, {"gain": 0.4, "lml_enabled": False}]
BAD: list[dict[str, Any]] = [{"placement": "middle"}, {"rank": 0}, {"record": "yes"}, {"control": "magic"}]


def controls(name: str) -> list[dict[str, Any]]:
    entry = SCHEDULERS[name]
    calls = entry.evaluations(STEPS)
    rows = tuple((0.3 * (k > 0), 0.1 * (k > 1)) for k in range(calls))
    gains = CalibratedSchedule(None, rows).to_config()
    chosen = [*OFF, {"gain": 0.4}, {"kappa": 0.5, "damping": 0.5, "rank": 2, "record": True}]
    chosen.append({"control": "calibrated", "calibrated_steps": gains})
    if not entry.stochastic:
        chosen.append({"control": "adaptive", "record": True})
    if name in ("ddim", "dpmpp-2m", "flow-euler"):
        chosen.append({"gain": 0.4, "placement": "reference"})
    return chosen


def prediction(scheduler: Any, x: Tensor, t: Any, k: int) -> Tensor:
    scaled = scheduler.scale_model_input(x, t) if hasattr(scheduler, "scale_model_input") else x
    return torch.tanh(0.9 * scaled + 0.2 * k)


class Schedulers(RuleBasedStateMachine):
    """`used` lives through everything; `twin` is the base, or built anew for every run."""

    name = ""

    @initialize(data=st.data())
    def build(self, data: st.DataObject) -> None:
        self.lml = data.draw(st.sampled_from(controls(self.name)), label="control")
        self.base: Any = SCHEDULERS[self.name].base
        self.used = self.make(self.lml)
        self.off = self.lml in OFF
        self.position = 0
        self.planned = False
        self.generator_state = torch.get_rng_state()

    def make(self, lml: dict[str, Any] | None) -> Any:
        return build_scheduler(self.name, CONFIGS[SCHEDULERS[self.name].flow], lml=lml)

    def step(self, scheduler: Any, x: Tensor, k: int) -> Tensor:
        t = scheduler.timesteps[k]
        n = prediction(scheduler, x, t, k)
        keys = {"generator": torch.Generator().manual_seed(k)} if SCHEDULERS[self.name].stochastic else {}
        return scheduler.step(n, t, x, **keys, return_dict=False)[0]

    @property
    def running(self) -> bool:
        return self.planned and self.position < len(self.twin.timesteps)

    @rule(steps=st.integers(2, 8), start=st.integers(0, 3), seed=st.integers(0, 99))
    def plan(self, steps: int, start: int, seed: int) -> None:
        steps = STEPS if self.lml.get("control") == "calibrated" else steps
        self.twin = self.make(None if self.off else self.lml)
        for scheduler in (self.used, self.twin):
            scheduler.set_timesteps(steps)
        self.position = min(start, steps - 1) * (self.name != "pndm")  # whose base begins at the beginning alone
        if self.position and hasattr(self.used, "set_begin_index"):
            for scheduler in (self.used, self.twin):
                scheduler.set_begin_index(self.position)
        self.planned = True
        self.x = torch.randn(SHAPE, generator=torch.Generator().manual_seed(seed)) * float(
            getattr(self.used, "init_noise_sigma", 1.0)
        )
        self.y = self.x.clone()

    @precondition(lambda self: self.running)
    @rule(times=st.integers(1, 4), threaded=st.booleans())
    def go_on(self, times: int, threaded: bool) -> None:
        for _ in range(min(times, len(self.twin.timesteps) - self.position)):
            if threaded:
                self.x = self.beside_another_run()
            else:
                self.x = self.step(self.used, self.x, self.position)
            self.y = self.step(self.twin, self.y, self.position)
            assert torch.equal(self.x, self.y) and self.x.isfinite().all()
            self.position += 1

    def beside_another_run(self) -> Tensor:
        """The step, in a thread of its own, while this one plans and begins a run of another scheduler."""
        results: list[Tensor] = []
        thread = threading.Thread(target=lambda: results.append(self.step(self.used, self.x, self.position)))
        other = self.make(self.lml)
        thread.start()
        other.set_timesteps(STEPS)
        self.step(other, torch.ones(SHAPE), 0)
        thread.join()
        return results[0]

    @precondition(lambda self: self.running)
    @rule(amount=st.sampled_from([0.0, 0.125, -0.5]), rows=st.sampled_from([slice(None), slice(0, 1)]))
    def edit(self, amount: float, rows: slice) -> None:
        self.x[rows].add_(amount)
        self.y = self.y.clone()
        self.y[rows] = self.y[rows] + amount

    @precondition(lambda self: self.running)
    @rule()
    def fail(self) -> None:
        t = self.used.timesteps[self.position]
        # The base's own failures are the base's: it is compared with one that failed as well.
        for scheduler in (self.used, self.twin) if self.off else (self.used,):
            with pytest.raises((RuntimeError, LMLError)):
                scheduler.step(torch.ones(2, 2, 3, 5), t, self.x)

    @precondition(lambda self: self.running and not self.off)
    @rule()
    def interrupt(self) -> None:
        original = self.base.step

        def interrupted(*args: Any, **keys: Any) -> Any:
            original(*args, **keys)
            raise KeyboardInterrupt

        with mock.patch.object(self.base, "step", interrupted), pytest.raises(KeyboardInterrupt):
            self.step(self.used, self.x, self.position)

    @precondition(lambda self: self.planned and not self.off and self.begun)
    @rule(which=st.integers(0, 7))
    def out_of_turn(self, which: int) -> None:
        """A step that is not the next, as the first of a second partial loop is."""
        if which == self.position or which >= len(self.used.timesteps):
            return
        t = self.used.timesteps[which]
        with pytest.raises(LMLError, match="call set_timesteps before every run"):
            self.used.step(prediction(self.used, self.x, t, which), t, self.x)

    @property
    def begun(self) -> bool:
        return self.used._lml_next is not None

    @rule(pickled=st.booleans())
    def replace_by_a_copy(self, pickled: bool) -> None:
        self.used = pickle.loads(pickle.dumps(self.used)) if pickled else copy.deepcopy(self.used)

    @rule(data=st.data())
    def reconfigure(self, data: st.DataObject) -> None:
        """Another control from the next run on; a run that has begun goes on as it is."""
        chosen = data.draw(st.sampled_from(controls(self.name)), label="control")
        unset = {"gain": None, "kappa": None, "damping": None, "rank": 1, "control": "constant", "placement": "score"}
        unset |= {"calibrated_steps": None, "record": False, "lml_enabled": True, "preset": None}
        self.used.register_to_config(**unset | chosen)
        self.finish_by_the_old_settings()
        self.lml, self.off, self.planned = chosen, chosen in OFF, False

    def finish_by_the_old_settings(self) -> None:
        while self.running:
            self.x, self.y = self.step(self.used, self.x, self.position), self.step(self.twin, self.y, self.position)
            assert torch.equal(self.x, self.y)
            self.position += 1

    @rule(bad=st.sampled_from(BAD))
    def misconfigure(self, bad: dict[str, Any]) -> None:
        """Refused when a run begins, and the one that runs goes on."""
        before = {key: self.used.config[key] for key in bad}
        self.used.register_to_config(**bad)
        with pytest.raises(LMLError, match=f"{next(iter(bad))}="):
            self.used.set_timesteps(STEPS)
        self.used.register_to_config(**before)

    @invariant()
    def others_random_numbers_are_theirs(self) -> None:
        if hasattr(self, "generator_state"):
            assert torch.equal(torch.get_rng_state(), self.generator_state)

    @invariant()
    def nothing_is_kept_after_a_run(self) -> None:
        if getattr(self, "planned", False) and not self.running:
            assert not self.used._lml_state.previous and not self.used._lml_adaptive.levels


@pytest.mark.filterwarnings("ignore:.*algorithm_types dpmsolver:FutureWarning")
@pytest.mark.parametrize("name", NAMES)
def test_a_scheduler_is_what_it_is_built_for(name: str) -> None:
    machine = type("Machine", (Schedulers,), {"name": name})
    limits = settings(
        max_examples=9,
        stateful_step_count=12,
        derandomize=True,
        deadline=None,
        database=None,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
    )
    run_state_machine_as_test(machine, settings=limits)

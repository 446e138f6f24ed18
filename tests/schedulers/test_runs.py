"""A step is done whole or not at all, has its place in a run, and what others do between two steps is theirs."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from typing import Any
from unittest import mock

import pytest
import torch
from diffusers import (
    DDIMScheduler,
    DDPMScheduler,
    DPMSolverMultistepScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    LMSDiscreteScheduler,
    PNDMScheduler,
    UniPCMultistepScheduler,
)
from torch import Tensor

from lmlangevin import LMLError, with_lml
from lmlangevin.core import run_trust
from lmlangevin.schedulers.levels import find_index

CONTROLS = [{"gain": 0.3}, {"control": "adaptive"}]
DDIM = {"clip_sample": False, "timestep_spacing": "trailing"}


def noise(seed: int, shape: tuple[int, ...] = (2, 2, 4, 4)) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def predict(x: Tensor, t: Any) -> Tensor:
    return torch.tanh(0.9 * x + 3e-4 * float(t))


def step(scheduler: Any, x: Tensor, t: Any, **keys: Any) -> Tensor:
    scaled = scheduler.scale_model_input(x, t) if hasattr(scheduler, "scale_model_input") else x
    return scheduler.step(predict(scaled, t), t, x, **keys).prev_sample


def loop(scheduler: Any, x: Tensor, timesteps: Any) -> Tensor:
    for t in timesteps:
        x = step(scheduler, x, t)
    return x


# Steps that fail ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("lml", CONTROLS, ids=["gain", "adaptive"])
def test_a_step_that_failed_can_be_repeated(sampler: Any, lml: dict[str, Any]) -> None:
    """A prediction of a wrong shape, and an interrupt when the base has already counted its step."""
    used, fresh = sampler.build({**lml, "record": True}), sampler.build({**lml, "record": True})
    original = sampler.base.step

    def interrupted(*args: Any, **keys: Any) -> Any:
        original(*args, **keys)
        raise KeyboardInterrupt

    for scheduler in (used, fresh):
        scheduler.set_timesteps(6)
    x = y = noise(1)
    history = used.lml_history
    for t in fresh.timesteps:
        before = len(history)
        with pytest.raises((RuntimeError, LMLError)):
            used.step(noise(2, (2, 2, 4, 5)), t, x)
        with mock.patch.object(sampler.base, "step", interrupted), pytest.raises(KeyboardInterrupt):
            step(used, x, t)
        assert len(history) == before
        x, y = step(used, x, t), step(fresh, y, t)
        assert torch.equal(x, y)
    assert len(history) == len(fresh.timesteps)


def test_a_plan_that_failed_leaves_the_run_as_it_was(case: Any) -> None:
    used, fresh = (case("ddim").build({"gain": 0.3}) for _ in range(2))
    for scheduler in (used, fresh):
        scheduler.set_timesteps(6)
    x = y = loop(used, noise(3), used.timesteps[:2])
    loop(fresh, noise(3), fresh.timesteps[:2])
    with pytest.raises(ValueError, match="cannot be larger than"):
        used.set_timesteps(2000)
    used.register_to_config(placement="middle")
    with pytest.raises(LMLError, match="placement='middle' is unknown"):
        used.set_timesteps(6)
    assert torch.equal(loop(used, x, used.timesteps[2:]), loop(fresh, y, fresh.timesteps[2:]))


# The place of a step ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("lml", CONTROLS, ids=["gain", "adaptive"])
@pytest.mark.parametrize("stop", [10, 8])
def test_a_second_partial_loop_is_an_error(sampler: Any, lml: dict[str, Any], stop: int) -> None:
    """As image-to-image loops do that plan once for many images; planned anew it is a fresh run."""
    used, fresh = sampler.build(lml), sampler.build(lml)
    for scheduler in (used, fresh):
        scheduler.set_timesteps(10)
    loop(used, noise(4), used.timesteps[5:stop])
    with pytest.raises(LMLError, match="call set_timesteps before every run"):
        step(used, noise(5), used.timesteps[5])
    used.set_timesteps(10)
    a, b = (loop(scheduler, noise(5), scheduler.timesteps[5:]) for scheduler in (used, fresh))
    assert torch.equal(a, b)


@pytest.mark.parametrize("lml", CONTROLS, ids=["gain", "adaptive"])
@pytest.mark.parametrize("timestep", [444.0, torch.tensor(444)])
def test_an_unknown_timestep_is_an_error(lml: dict[str, Any], timestep: Any) -> None:
    scheduler: Any = with_lml(DDIMScheduler)(**DDIM, **lml)
    scheduler.set_timesteps(10)
    with pytest.raises(LMLError, match=r"timestep=.*444.* is none of this run's; give step those of"):
        step(scheduler, noise(6), timestep)
    x = loop(scheduler, noise(6), scheduler.timesteps[:3])
    with pytest.raises(LMLError, match="is none of this run's"):
        step(scheduler, x, timestep)
    with pytest.raises(LMLError, match="is number 5 of this run, and number 3 comes next; call set_timesteps"):
        step(scheduler, x, scheduler.timesteps[5])
    loop(scheduler, x, scheduler.timesteps[3:])


def test_find_index() -> None:
    plan = torch.tensor([9, 7, 7, 3, 1, 0])
    numbers = plan.tolist()
    for k, t in enumerate(plan):
        assert find_index(plan, numbers, t) == find_index(plan, numbers, t.expand(4)) == k
        assert find_index(plan, numbers, plan[1:][k - 1]) == k or k == 0
        assert find_index(plan, numbers, t.clone(), k) == find_index(plan, numbers, numbers[k], k) == k
    assert find_index(plan, numbers, 7) == find_index(plan, numbers, torch.tensor([7.0, 7.0])) == 1
    assert find_index(plan, numbers, 4) is None
    longer = torch.arange(12)
    strided, sliced = longer[1::3], longer[2:7]
    assert [find_index(strided, strided.tolist(), t) for t in strided] == [0, 1, 2, 3]
    assert [find_index(sliced, sliced.tolist(), t) for t in sliced] == [0, 1, 2, 3, 4]
    assert find_index(strided, strided.tolist(), longer[2]) is None  # between two of them
    assert find_index(sliced, sliced.tolist(), longer[1]) is find_index(sliced, sliced.tolist(), longer[7]) is None


@pytest.mark.parametrize("numbers", [False, True])
def test_timesteps_as_views_and_as_numbers_are_one_run(sampler: Any, numbers: bool) -> None:
    if numbers and sampler.name in ("euler", "flow"):
        pytest.skip("the base takes its own tensors alone")
    used, fresh = (sampler.build({"control": "adaptive"}) for _ in range(2))
    for scheduler in (used, fresh):
        scheduler.set_timesteps(8)
    other = used.timesteps.tolist() if numbers else used.timesteps.clone()
    assert torch.equal(loop(used, noise(7), other), loop(fresh, noise(7), fresh.timesteps))


def test_timesteps_that_someone_else_set() -> None:
    """Some pipelines cut the scheduler's own timesteps before the first step."""
    cut, whole = (with_lml(DDIMScheduler)(**DDIM, control="adaptive") for _ in range(2))
    for scheduler in (cut, whole):
        scheduler.set_timesteps(12)
    cut.timesteps = cut.timesteps[4:].clone()
    assert torch.equal(loop(cut, noise(8), cut.timesteps), loop(whole, noise(8), whole.timesteps[4:]))


@pytest.mark.parametrize("base", [DDIMScheduler, EulerDiscreteScheduler])
@pytest.mark.parametrize(("steps", "start"), [(20, 10), (20, 0), (12, 6)])
def test_trust_is_that_of_the_levels_that_are_visited(base: Any, steps: int, start: int) -> None:
    config = DDIM if base is DDIMScheduler else {"timestep_spacing": "trailing", "beta_schedule": "scaled_linear"}
    scheduler = with_lml(base)(**config, control="adaptive")
    scheduler.set_timesteps(steps)
    ratios = [math.exp(level.log) for level in scheduler._lml_levels[:-1]]
    loop(scheduler, noise(9), scheduler.timesteps[start : start + 3])
    assert scheduler._lml_trust == run_trust(ratios[start:])
    # Planned anew it is a run from the beginning again.
    scheduler.set_timesteps(steps)
    loop(scheduler, noise(9), scheduler.timesteps[:1])
    assert scheduler._lml_trust == run_trust(ratios)


def test_half_a_run_is_trusted_by_itself() -> None:
    """Of 20 trailing steps of DDIM the first is too long to be judged in full; an image-to-image run skips it."""
    scheduler: Any = with_lml(DDIMScheduler)(**DDIM, control="adaptive")
    scheduler.set_timesteps(20)
    whole = scheduler._lml_trust
    loop(scheduler, noise(10), scheduler.timesteps[10:12])
    assert scheduler._lml_trust > 1.5 * whole > 0


# Memory -------------------------------------------------------------------------------------------------------------


def kept(scheduler: Any) -> int:
    """Elements of the tensors that LML keeps between steps."""

    def tensors(value: Any) -> Iterator[Tensor]:
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, tuple | list):
            for item in value:
                yield from tensors(item)

    names = ("_lml_state", "_lml_adaptive", "_lml_output")
    return sum(t.numel() for name in names for t in tensors(getattr(scheduler, name)))


@pytest.mark.parametrize("lml", [*CONTROLS, {"gain": 0.3, "rank": 3}], ids=str)
def test_what_was_kept_is_freed_when_a_run_ends(sampler: Any, lml: dict[str, Any]) -> None:
    scheduler = sampler.build(lml)
    for start in (0, 4):
        scheduler.set_timesteps(8)
        x = loop(scheduler, noise(11, (2, 4, 8, 8)), scheduler.timesteps[start:-1])
        assert kept(scheduler) >= x.numel()
        if lml.get("control") == "adaptive":
            assert kept(scheduler) <= 6 * x.numel() + 100
        step(scheduler, x, scheduler.timesteps[-1])
        assert kept(scheduler) == 0


# What others do between two steps -----------------------------------------------------------------------------------


def edited(sampler: Any, edit: Any, at: int, dtype: torch.dtype = torch.float32) -> list[Tensor]:
    scheduler = sampler.build({"control": "adaptive"})
    scheduler.set_timesteps(10)
    x, out = noise(12, (3, 2, 4, 4)).to(dtype), []
    for k, t in enumerate(scheduler.timesteps):
        x = step(scheduler, x, t)
        out.append(x.clone())
        if k == at:
            x = edit(x)
    return out


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16])
def test_an_edit_is_one_in_place_or_not(sampler: Any, dtype: torch.dtype) -> None:
    mask, known = torch.zeros(3, 1, 4, 4, dtype=dtype), noise(13, (3, 2, 4, 4)).to(dtype)
    mask[1, :, :2] = 1

    def in_place(x: Tensor) -> Tensor:
        x[1, :, :2] = known[1, :, :2]
        return x

    def unseen(x: Tensor) -> Tensor:
        x.data[1, :, :2] = known[1, :, :2]  # which no version counter tells
        return x

    def blended(x: Tensor) -> Tensor:
        return torch.where(mask > 0, known, x)

    made = [edited(sampler, edit, 4, dtype) for edit in (in_place, unseen, blended)]
    assert all(torch.equal(a, b) and torch.equal(a, c) for a, b, c in zip(*made, strict=True))
    # The other two images of the batch are corrected as if nobody had touched the first.
    free = edited(sampler, lambda x: x.clone(memory_format=torch.channels_last), 4, dtype)
    assert all(torch.equal(a[[0, 2]], b[[0, 2]]) for a, b in zip(made[0], free, strict=True))
    assert not torch.equal(made[0][5][1], free[5][1])


@pytest.mark.parametrize(
    "edit",
    [lambda x: x.flip(-1), lambda x: x.roll(1, 0), lambda x: -x, lambda x: x.nextafter(x + 1), lambda x: x * 0.0],
    ids=["flipped", "rolled", "negative", "by one bit", "blank"],
)
def test_an_edit_is_never_the_solver_s_error(edit: Any) -> None:
    """The step after an edit is plain: nothing can be said of the one before."""
    scheduler: Any = with_lml(DDIMScheduler)(**DDIM, control="adaptive", record=True)
    scheduler.set_timesteps(10)
    x = loop(scheduler, noise(14), scheduler.timesteps[:5])
    step(scheduler, edit(x), scheduler.timesteps[5])
    assert not scheduler.lml_history[-1].angle.any() and scheduler.lml_history[-2].angle.all()


# What register_to_config changes ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("base", "config", "change", "words"),
    [
        (DDIMScheduler, {}, {"placement": "middle"}, "placement='middle'"),
        (DDIMScheduler, {}, {"record": 1}, "record=1"),
        (DDIMScheduler, {}, {"lml_enabled": "no"}, "lml_enabled='no'"),
        (DDIMScheduler, {}, {"kappa": 0.5}, "gain=0.3 cannot be combined"),
        (DDIMScheduler, {}, {"rank": 0}, "rank=0"),
        (DDIMScheduler, {}, {"control": "adaptive", "gain": None}, "clip_sample=True changes"),
        (DDIMScheduler, {}, {"control": "calibrated", "gain": None}, "control='calibrated' with calibrated_steps"),
        (DDIMScheduler, {}, {"gain": None, "preset": "mine"}, "preset='mine'"),
        (UniPCMultistepScheduler, {}, {"placement": "reference"}, "placement='reference' is not defined for UniPC"),
        (PNDMScheduler, {"skip_prk_steps": True}, {"skip_prk_steps": False}, "skip_prk_steps=False"),
        (
            DPMSolverMultistepScheduler,
            {"placement": "reference"},
            {"algorithm_type": "sde-dpmsolver++"},
            "algorithm_type='sde-dpmsolver..'",
        ),
        (
            FlowMatchEulerDiscreteScheduler,
            {"placement": "reference"},
            {"stochastic_sampling": True},
            "stochastic_sampling=True",
        ),
    ],
)
def test_what_register_to_config_changes_is_checked_when_a_run_begins(
    base: Any, config: dict[str, Any], change: dict[str, Any], words: str
) -> None:
    scheduler: Any = with_lml(base)(**config, gain=0.3)
    before = {key: scheduler.config[key] for key in change}
    scheduler.register_to_config(**change)
    with pytest.raises(LMLError, match=words):
        scheduler.set_timesteps(5)
    scheduler.register_to_config(**before)
    scheduler.set_timesteps(5)
    loop(scheduler, noise(15), scheduler.timesteps)


@pytest.mark.parametrize(
    "change",
    [{"gain": 0.7}, {"lml_enabled": False}, {"placement": "reference"}, {"control": "adaptive", "gain": None}],
    ids=str,
)
def test_a_change_within_a_run_counts_from_the_next_on(change: dict[str, Any]) -> None:
    used, kept = (with_lml(DDIMScheduler)(**DDIM, gain=0.3) for _ in range(2))
    for scheduler in (used, kept):
        scheduler.set_timesteps(6)
    x = loop(used, noise(16), used.timesteps[:3])
    used.register_to_config(**change)
    assert torch.equal(loop(used, x, used.timesteps[3:]), loop(kept, noise(16), kept.timesteps))
    fresh: Any = with_lml(DDIMScheduler)(**{**DDIM, "gain": 0.3, **change})
    for scheduler in (used, fresh):
        scheduler.set_timesteps(6)
    a, b = (loop(scheduler, noise(17), scheduler.timesteps) for scheduler in (used, fresh))
    assert torch.equal(a, b)


def test_keys_that_are_kept_for_other_classes_are_none_of_ours() -> None:
    """PNDM's start and DDIM's clipping stay in a configuration that other classes are made from."""
    made: Any = with_lml(DDIMScheduler).from_config(PNDMScheduler(skip_prk_steps=False).config, gain=0.3)
    assert made.config.skip_prk_steps is False
    made.set_timesteps(5)
    solver: Any = with_lml(DPMSolverMultistepScheduler).from_config(
        DDIMScheduler(clip_sample=True).config, control="adaptive"
    )
    assert solver.config.clip_sample is True
    solver.set_timesteps(5)
    loop(solver, noise(18), solver.timesteps)


# Before a run -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("base", [EulerDiscreteScheduler, FlowMatchEulerDiscreteScheduler, DDPMScheduler])
def test_steps_without_set_timesteps_are_the_base_s(base: Any) -> None:
    """Twice, since the first step of a run has no history and is the base's anyway."""
    plain, made = base(), with_lml(base)(gain=0.8, record=True)
    results = []
    for scheduler in (plain, made):
        x, keys = noise(19), {"generator": torch.Generator().manual_seed(20)}
        for t in scheduler.timesteps[:3]:
            x = step(scheduler, x, t, **keys)
        results.append(x)
    assert torch.equal(*results) and made.lml_history == []


def test_a_plan_from_the_constructor_is_a_run() -> None:
    made: Any = with_lml(LMSDiscreteScheduler)(num_train_timesteps=12, gain=0.5, record=True)
    plain: Any = LMSDiscreteScheduler(num_train_timesteps=12)
    a, b = (loop(scheduler, 100 * noise(21), scheduler.timesteps) for scheduler in (made, plain))
    assert len(made.lml_history) == 12 and not torch.equal(a, b)
    with pytest.raises(LMLError, match="step was called 13 times since set_timesteps, which planned 12"):
        step(made, a, made.timesteps[-1])


def test_a_copy_within_a_run_goes_on_by_itself(sampler: Any) -> None:
    made = sampler.build({"control": "adaptive"})
    made.set_timesteps(8)
    x = loop(made, noise(22), made.timesteps[:4])
    other = copy.deepcopy(made)
    assert torch.equal(loop(made, x, made.timesteps[4:]), loop(other, x.clone(), other.timesteps[4:]))

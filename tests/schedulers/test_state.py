"""State begins where a run begins, ends with it, and belongs to nobody else."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from lmlangevin import LMLError, LMLInfo

LML = {"gain": 0.3}


def assert_same(a: list[torch.Tensor], b: list[torch.Tensor]) -> None:
    assert len(a) == len(b) > 0
    assert all(torch.equal(x, y) for x, y in zip(a, b, strict=True))
    assert a[-1].isfinite().all()


def assert_differ(a: list[torch.Tensor], b: list[torch.Tensor]) -> None:
    assert not torch.equal(a[-1], b[-1])


def test_two_runs_equal_two_fresh_runs(gridded: Any, run: Any) -> None:
    used = gridded.build(LML)
    first, second = run(used, seed=1), run(used, seed=2)
    assert_same(first, run(gridded.build(LML), seed=1))
    assert_same(second, run(gridded.build(LML), seed=2))
    assert_differ(first, run(gridded.build(), seed=1))


@pytest.mark.parametrize("steps", [20, 100])
@pytest.mark.parametrize("name", ["dpmpp-2m-lu", "dpmpp-2m-karras", "dpmpp-3m-lu", "deis-karras", "unipc-karras"])
def test_grids_with_repeated_timesteps(case: Any, run: Any, name: str, steps: int) -> None:
    """Karras and lu timesteps are rounded; nothing may be decided by their values."""
    used = case(name).build(LML)
    first = run(used, steps, seed=3)
    assert len(first) == steps
    assert_same(run(used, steps, seed=3), first)
    assert_same(run(case(name).build({"gain": 0}), steps, seed=3), run(case(name).build(), steps, seed=3))


def test_the_grids_do_repeat_timesteps(case: Any) -> None:
    repeated = 0
    for name in ("dpmpp-2m-lu", "dpmpp-2m-karras", "deis-karras"):
        scheduler = case(name).build(LML)
        scheduler.set_timesteps(100)
        repeated += len(scheduler.timesteps) - len(set(scheduler.timesteps.tolist()))
    assert repeated > 5


@pytest.mark.parametrize(
    "other",
    [{"shape": (5, 3, 4, 4)}, {"shape": (2, 3, 6, 4)}, {"dtype": torch.float64}, {"dtype": torch.float16}],
    ids=str,
)
def test_another_batch_shape_or_dtype_starts_afresh(sampler: Any, run: Any, other: dict[str, Any]) -> None:
    used = sampler.build(LML)
    run(used, seed=4)
    assert_same(run(used, seed=5, **other), run(sampler.build(LML), seed=5, **other))


def test_a_change_within_a_run_starts_afresh(case: Any) -> None:
    """Without set_timesteps in between, as with a last batch that is smaller: no mixing, no error from LML."""
    scheduler = case("ddim").build({"gain": 0.5, "record": True})
    scheduler.set_timesteps(6)
    g = torch.Generator().manual_seed(6)
    x = torch.randn(4, 3, 4, 4, generator=g)
    for t in scheduler.timesteps[:3]:
        x = scheduler.step(torch.randn(x.shape, generator=g), t, x).prev_sample
    plain = case("ddim").build()
    plain.set_timesteps(6)
    t, n = scheduler.timesteps[3], torch.randn(2, 3, 4, 4, generator=g)
    assert torch.equal(scheduler.step(n, t, x[:2]).prev_sample, plain.step(n, t, x[:2]).prev_sample)
    assert [info.identity.all().item() for info in scheduler.lml_history] == [True, False, False, True]


def test_more_steps_than_planned_are_refused(sampler: Any, run: Any) -> None:
    scheduler = sampler.build(LML)
    out = run(scheduler, 4)
    planned = len(scheduler.timesteps)
    with pytest.raises(LMLError, match=f"step was called {planned + 1} times .* planned {planned}; call set_timesteps"):
        scheduler.step(torch.tanh(out[-1]), scheduler.timesteps[-1], out[-1])
    assert len(run(scheduler, 4)) == planned


@pytest.mark.parametrize("name", ["dpmpp-2m", "dpmpp-3m-lu", "unipc", "deis", "euler", "flow"])
@pytest.mark.parametrize("kind", ["epsilon", "v_prediction"])
def test_image_to_image_begins_inside_the_schedule(case: Any, run: Any, name: str, kind: str) -> None:
    config = {} if name == "flow" else {"prediction_type": kind}
    sampler = case(name, **config)
    used = sampler.build({"gain": 0.3, "record": True})
    run(used, 10, seed=7)
    part = run(used, 10, seed=8, start=6)
    assert len(part) == 4 and len(used.lml_history) == 4 and used.lml_history[0].identity.all()
    assert_same(part, run(sampler.build(LML), 10, seed=8, start=6))
    assert_same(run(sampler.build({"gain": 0}), 10, seed=8, start=6), run(sampler.build(), 10, seed=8, start=6))
    assert_differ(part, run(sampler.build(), 10, seed=8, start=6))
    with pytest.raises(LMLError, match="step was called 5 times .* planned 4"):
        used.step(torch.tanh(part[-1]), used.timesteps[-1], part[-1])


def test_a_reused_output_buffer_does_not_matter(sampler: Any, run: Any) -> None:
    buffer = torch.empty(2, 3, 4, 4)
    base_buffers: list[torch.Tensor] = []

    def overwrite(i: int, prediction: torch.Tensor) -> torch.Tensor:
        return buffer.copy_(prediction)

    def keep(i: int, prediction: torch.Tensor) -> torch.Tensor:
        base_buffers.append(prediction)
        return prediction

    want = run(sampler.build(LML), seed=9, edit=keep)
    if sampler.name in ("pndm", "dpm-3"):
        # These bases keep the output itself in their own history; what LML keeps is its own copy all the same.
        used = sampler.build({"gain": 0.3, "record": True})
        run(used, 3, seed=9, edit=overwrite)
        fresh = sampler.build({"gain": 0.3, "record": True})
        run(fresh, 3, seed=9)
        assert torch.equal(used.lml_history[1].gain, fresh.lml_history[1].gain)
        return
    assert_same(run(sampler.build(LML), seed=9, edit=overwrite), want)


def test_reset_stateful_cache_frees_the_predictions(case: Any, run: Any) -> None:
    scheduler = case("ddim").build({"gain": 0.3, "rank": 3, "record": True})
    first = run(scheduler, seed=10)
    scheduler.set_timesteps(8)
    for t, x in zip(scheduler.timesteps[:4], first, strict=False):
        scheduler.step(torch.tanh(x), t, x)
    assert len(scheduler._lml_state.previous) == 3
    scheduler._reset_stateful_cache()
    assert not scheduler._lml_state.previous
    assert len(scheduler.lml_history) == 4  # what was recorded stays to be read
    assert_same(run(scheduler, seed=10), first)


def test_reset_in_the_middle_begins_a_new_history(case: Any) -> None:
    scheduler = case("ddim").build({"gain": 0.5, "record": True})
    scheduler.set_timesteps(4)
    x = torch.randn(1, 3, 4, 4, generator=torch.Generator().manual_seed(11))
    for i, t in enumerate(scheduler.timesteps):
        if i == 2:
            scheduler._reset_stateful_cache()
        x = scheduler.step(torch.tanh(x), t, x).prev_sample
    assert [info.identity.all().item() for info in scheduler.lml_history] == [True, False, True, False]


def test_recorded_history(sampler: Any, run: Any) -> None:
    for rank in (1, 3):
        scheduler = sampler.build({"gain": 0.3, "record": True, "rank": rank})
        out = run(scheduler, seed=12)
        assert len(scheduler.lml_history) == len(out)
        for i, info in enumerate(scheduler.lml_history):
            assert isinstance(info, LMLInfo)
            assert info.gain.shape == (2, min(rank, max(i, 1))) and info.angle.shape == info.identity.shape == (2,)
            assert info.identity.all() == (i == 0) and (info.angle > 0).all() == (i > 0)
        scheduler.set_timesteps(3)
        assert scheduler.lml_history == []
    silent = sampler.build(LML)
    run(silent, seed=12)
    assert silent.lml_history == []


def test_switching_on_and_off_between_runs(case: Any, run: Any) -> None:
    scheduler = case("dpmpp-2m").build(LML)
    corrected, plain = run(scheduler, seed=13), run(case("dpmpp-2m").build(), seed=13)
    scheduler.register_to_config(lml_enabled=False)
    assert_same(run(scheduler, seed=13), plain)
    scheduler.register_to_config(lml_enabled=True)
    assert_same(run(scheduler, seed=13), corrected)
    scheduler.register_to_config(gain=0.1)
    assert_same(run(scheduler, seed=13), run(case("dpmpp-2m").build({"gain": 0.1}), seed=13))


def test_packed_and_video_samples(case: Any, run: Any) -> None:
    for shape in ((2, 16, 8), (1, 4, 3, 4, 4)):
        for name in ("flow", "unipc", "dpmpp-2m", "ddim"):
            used = case(name).build(LML)
            out = run(used, seed=14, shape=shape)
            assert out[-1].shape == shape
            assert_same(run(used, seed=14, shape=shape), out)


def test_images_of_a_batch_do_not_see_each_other(sampler: Any, run: Any) -> None:
    """Each sample as in a batch of its own: the same noise, the same prediction, the same path."""
    whole = sampler.build(LML)
    g = torch.Generator().manual_seed(15)
    x = torch.randn(3, 3, 4, 4, generator=g)
    whole.set_timesteps(5)
    single = sampler.build(LML)
    single.set_timesteps(5)
    y = x[1:2]
    for t in list(whole.timesteps):
        for scheduler, value in ((whole, x), (single, y)):
            if hasattr(scheduler, "scale_model_input"):
                scheduler.scale_model_input(value, t)
        x = whole.step(torch.sin(3 * x), t, x).prev_sample
        y = single.step(torch.sin(3 * y), t, y).prev_sample
    torch.testing.assert_close(x[1:2], y, rtol=1e-3, atol=1e-3)

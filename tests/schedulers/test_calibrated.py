"""`control="calibrated"`: the fitted sampler, executed by diffusers' schedulers."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest
import torch
from diffusers import EulerDiscreteScheduler

from lmlangevin import LMLError, with_lml
from lmlangevin.core import CalibratedSchedule

GAINS = ((0.0, 0.0), (0.5, 0.0), (0.6, -0.2), (0.4, 0.1), (0.2, 0.05))
VP = CalibratedSchedule((120.0, 9.0, 2.5, 0.7, 0.15, 0.0), GAINS)
FLOW = CalibratedSchedule((1.0, 0.9, 0.7, 0.4, 0.1, 0.0), GAINS)


def keys(schedule: CalibratedSchedule) -> dict[str, Any]:
    return {"control": "calibrated", "calibrated_steps": schedule.to_config()}


def by_hand(schedule: CalibratedSchedule, toy: Any, y: torch.Tensor, *, flow: bool) -> torch.Tensor:
    """The sampler of `CalibratedSchedule`, written out."""
    seen: list[torch.Tensor] = []
    for k, (s, end) in enumerate(zip(schedule.levels[:-1], schedule.levels[1:], strict=True)):
        alpha = 1 - s if flow else (1 + s * s) ** -0.5
        n = toy.predict("flow" if flow else "epsilon", y if flow else alpha * y, alpha, s if flow else s * alpha)
        d = n.clone()
        for g, before in zip(schedule.gains[k], reversed(seen), strict=False):
            d -= g * (before - n)
        y = y + (end - s) * d
        seen.append(n)
    return y


@pytest.mark.parametrize(("name", "schedule"), [("euler", VP), ("flow", FLOW)])
def test_it_is_the_sampler_that_was_fitted(case: Any, run: Any, toy: Any, name: str, schedule: Any) -> None:
    scheduler = case(name).build(keys(schedule))
    made = run(scheduler, 5, dtype=torch.float64, seed=1)[-1]
    g = torch.Generator().manual_seed(1)
    noise = torch.randn(made.shape, generator=g, dtype=torch.float64)
    y = noise * float(getattr(scheduler, "init_noise_sigma", 1.0))
    # diffusers keeps sigmas in float32, and Euler takes n from a difference.
    assert torch.allclose(made, by_hand(schedule, toy, y, flow=name == "flow"), atol=2e-4)
    assert scheduler.sigmas.tolist() == pytest.approx(schedule.levels)


def test_the_timesteps_are_those_of_the_levels(case: Any) -> None:
    scheduler = case("euler").build(keys(VP))
    scheduler.set_timesteps(5)
    table = ((1 - scheduler.alphas_cumprod) / scheduler.alphas_cumprod).sqrt().log()
    for t, s in zip(scheduler.timesteps.tolist(), VP.levels[:-1], strict=True):
        low = int(t)
        high = min(low + 1, len(table) - 1)
        log = table[low] + (t - low) * (table[high] - table[low])
        assert float(log.exp()) == pytest.approx(s, rel=1e-3)
    flow = case("flow", shift=7.0, use_dynamic_shifting=True).build(keys(FLOW))
    # A flow pipeline passes the levels of its own grid and a shift; neither moves the fitted ones.
    flow.set_timesteps(sigmas=[1.0, 0.8, 0.6, 0.4, 0.2], mu=1.1)
    assert flow.timesteps.tolist() == pytest.approx([1000 * s for s in FLOW.levels[:-1]])


def test_gains_alone_serve_every_sampler_on_its_grid(gridded: Any, run: Any) -> None:
    calls = 9 if gridded.name.startswith("pndm") else 8
    g = torch.Generator().manual_seed(4)
    rows = [[float(v) * (j < k) for j, v in enumerate(torch.randn(2, generator=g) * 0.2)] for k in range(calls)]
    schedule = CalibratedSchedule(None, tuple(map(tuple, rows)))
    seen: list[torch.Tensor] = []

    def edit(k: int, n: torch.Tensor) -> torch.Tensor:
        d = n.clone()
        for gain, before in zip(rows[k], reversed(seen), strict=False):
            d -= gain * (before - n)
        seen.append(n)
        return d

    expected = run(gridded.build(), 8, dtype=torch.float64, seed=2, edit=edit)[-1]
    made = run(gridded.build(keys(schedule)), 8, dtype=torch.float64, seed=2)[-1]
    if expected.isfinite().all():
        assert torch.allclose(made, expected, rtol=1e-6, atol=1e-6 * float(expected.abs().max()))


def test_two_runs_equal_two_fresh_runs(case: Any, run: Any) -> None:
    used = case("euler").build({**keys(VP), "record": True})
    for seed in (1, 2):
        fresh = case("euler").build(keys(VP))
        assert torch.equal(run(used, 5, seed=seed)[-1], run(fresh, 5, seed=seed)[-1])
        assert [info.gain.shape[1] for info in used.lml_history] == [1, 1, 2, 2, 2]


def test_a_run_from_the_middle_uses_the_gains_of_its_steps(case: Any, run: Any) -> None:
    scheduler = case("euler").build({**keys(VP), "record": True})
    run(scheduler, 5, start=2)
    assert [info.gain[0].tolist() for info in scheduler.lml_history] == [[0.0], [0.4], [0.2, 0.05]]


def test_switched_off_it_is_the_base(case: Any, run: Any) -> None:
    off = case("euler").build({**keys(VP), "lml_enabled": False})
    assert torch.equal(run(off, 7, seed=3)[-1], run(case("euler").build(), 7, seed=3)[-1])


def test_equivalent_predictions_give_equal_samples(case: Any, run: Any) -> None:
    made = [
        run(case("euler", prediction_type=kind).build(keys(VP)), 5, dtype=torch.float64, seed=5)[-1]
        for kind in ("epsilon", "v_prediction", "sample")
    ]
    for other in made[1:]:
        assert torch.allclose(made[0], other, atol=3e-4)


def test_it_is_saved_with_the_scheduler(tmp_path: Any) -> None:
    cls: Any = with_lml(EulerDiscreteScheduler)
    scheduler = cls(**keys(VP))
    scheduler.save_pretrained(tmp_path)
    loaded = cls.from_pretrained(tmp_path)
    for other in (loaded, copy.deepcopy(scheduler), cls.from_config(scheduler.config)):
        assert CalibratedSchedule.from_config(other.config.calibrated_steps) == VP
        other.set_timesteps(5)
        assert other.sigmas.tolist() == pytest.approx(VP.levels)
    json.loads(scheduler.to_json_string())


@pytest.mark.parametrize(
    ("name", "given", "message"),
    [
        ("euler", {"control": "calibrated"}, "the two go together"),
        ("euler", {"calibrated_steps": VP.to_config()}, "the two go together"),
        ("ddim", keys(VP), "DDIMScheduler takes none; give EulerDiscreteScheduler"),
        ("dpmpp-2m", keys(VP), "DPMSolverMultistepScheduler takes none"),
        ("unipc", keys(VP), "UniPCMultistepScheduler takes none"),
        ("euler", {**keys(VP), "gain": 0.3}, "takes no gain"),
        ("ddim", {**keys(CalibratedSchedule(None, VP.gains)), "placement": "reference"}, "placement='score'"),
        ("euler", {"control": "calibrated", "calibrated_steps": {"sigmas": [1, 0]}}, "lacks gains"),
    ],
)
def test_what_cannot_work_is_refused(case: Any, name: str, given: dict[str, Any], message: str) -> None:
    with pytest.raises(LMLError, match=message):
        case(name).build(given)


@pytest.mark.parametrize(
    ("name", "schedule", "given", "message"),
    [
        ("euler", VP, {"num_inference_steps": 6}, "num_inference_steps is 6, .* calibrated for 5"),
        ("euler", VP, {"sigmas": [3.0, 1.0, 0.0]}, "sigmas is given"),
        ("euler", VP, {"timesteps": [900, 500, 100, 50, 1]}, "timesteps is given"),
        ("flow", FLOW, {"sigmas": [1.0, 0.5]}, "num_inference_steps is 2"),
        ("ddim", CalibratedSchedule(None, VP.gains), {"num_inference_steps": 8}, "number of calls of step is 8"),
    ],
)
def test_another_run_than_was_calibrated_is_refused(
    case: Any, name: str, schedule: Any, given: dict[str, Any], message: str
) -> None:
    with pytest.raises(LMLError, match=message):
        case(name).build(keys(schedule)).set_timesteps(**given)


def test_inverted_sigmas_are_refused(case: Any) -> None:
    with pytest.raises(LMLError, match="inverted sigmas"):
        case("flow", invert_sigmas=True).build(keys(FLOW)).set_timesteps(5)

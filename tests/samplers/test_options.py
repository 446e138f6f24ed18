"""What the samplers refuse, in one line and before the model is called, and what they do without options."""

from __future__ import annotations

import importlib.resources
import json
import logging
from typing import Any

import pytest
import torch
from torch import Tensor

from lmlangevin import LMLError
from lmlangevin.core import CalibratedSchedule
from lmlangevin.samplers import DEFAULT_GAINS, sample_lml_dpmpp_2m, sample_lml_euler

GRID = torch.tensor([10.0, 3.0, 1.0, 0.2, 0.0])
SCHEDULE = CalibratedSchedule((10.0, 3.0, 1.0, 0.2, 0.0), ((0.0,), (0.4,), (0.3,), (0.1,)))
GAINS_ALONE = CalibratedSchedule(None, SCHEDULE.gains)


def never(x: Tensor, sigma: Tensor) -> Tensor:
    raise AssertionError("the model was called")


def start(**keys: Any) -> Tensor:
    return 10 * torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(0), **keys)


BAD_INPUTS: dict[str, tuple[dict[str, Any], str]] = {
    "model": ({"model": None}, "model is a NoneType; give a callable"),
    "x int": ({"x": torch.ones(2, 3, dtype=torch.int64)}, r"x is a torch.int64 tensor of shape \(2, 3\); give"),
    "x flat": ({"x": torch.ones(3)}, r"x is a torch.float32 tensor of shape \(3,\)"),
    "x list": ({"x": [[1.0]]}, "x is a list of 1"),
    "sigmas list": ({"sigmas": [3.0, 0.0]}, "sigmas is a list of 2; give a floating-point tensor"),
    "sigmas None": ({"sigmas": None}, "sigmas is a NoneType"),
    "sigmas 2d": ({"sigmas": GRID[None]}, r"sigmas is a torch.float32 tensor of shape \(1, 5\)"),
    "sigmas int": ({"sigmas": torch.tensor([3, 0])}, "sigmas is a torch.int64"),
    "sigmas rise": ({"sigmas": GRID.flip(0)}, r"sigmas\[1\] is 0.2.* after 0.0; give values that fall"),
    "sigmas nan": ({"sigmas": torch.tensor([3.0, torch.nan, 0.0])}, r"sigmas\[1\] is nan; give finite"),
    "sigmas inf": ({"sigmas": torch.tensor([torch.inf, 1.0])}, r"sigmas\[0\] is inf"),
    "sigmas negative": ({"sigmas": torch.tensor([3.0, 1.0, -0.1])}, r"sigmas\[2\] is -0.1"),
}

BAD_OPTIONS: dict[str, tuple[dict[str, Any], str]] = {
    "unknown": ({"s_churn": 1.0, "eta": 0.0}, "s_churn, eta: sample_.* has no such option; give only gain, kappa"),
    "gain text": ({"gain": "0.3"}, "gain='0.3' is not a finite number"),
    "gain nan": ({"gain": float("nan")}, "gain=nan"),
    "gain and kappa": ({"gain": 0.3, "kappa": 0.5}, "cannot be combined"),
    "kappa": ({"kappa": 2.0}, "kappa=2.0 is out of range"),
    "damping": ({"damping": 0.0}, "damping=0.0 must be above 0"),
    "damping mode": ({"damping_mode": "absolute"}, "has no default damping"),
    "rank": ({"rank": 0}, "rank=0 is out of range"),
    "control": ({"control": "magic"}, "control='magic' is unknown; give one of 'constant'"),
    "adaptive and gain": ({"control": "adaptive", "gain": 0.3}, "takes no gain"),
    "adaptive and rank": ({"control": "adaptive", "rank": 2}, "rank=2 has no meaning with control='adaptive'"),
    "calibrated alone": ({"control": "calibrated"}, "schedule=None: the two go together"),
    "schedule alone": ({"schedule": GAINS_ALONE}, "control='constant' with schedule=...: the two go together"),
    "schedule and gain": ({"control": "calibrated", "schedule": GAINS_ALONE, "gain": 0.1}, "takes no gain"),
    "schedule path": ({"control": "calibrated", "schedule": "gains.json"}, "schedule=.gains.json. is a str; give a"),
    "schedule keys": ({"control": "calibrated", "schedule": {"gains": []}}, "lacks sigmas, restore_norm"),
    "schedule steps": (
        {"control": "calibrated", "schedule": CalibratedSchedule(None, SCHEDULE.gains[:3])},
        "sigmas has 4 steps and the schedule was calibrated for 3; give sigmas of 4 values, or a schedule of 4 steps",
    ),
    "record": ({"record": "file"}, "record='file' is a str; give a list"),
    "flow": ({"flow": 1}, "flow=1 is a int; give True, False or None"),
}  # fmt: skip


@pytest.mark.parametrize("sigmas", [GRID[:0], GRID[:1], GRID[-1:], torch.tensor([2.0, 2.0, 2.0])], ids=str)
@pytest.mark.parametrize("options", [{}, {"control": "adaptive"}, {"control": "calibrated", "schedule": GAINS_ALONE}])
def test_without_two_sigmas_there_is_no_step(sampler: Any, sigmas: Tensor, options: dict[str, Any]) -> None:
    for dtype in (torch.float32, torch.float16):
        x = start(dtype=dtype)
        told: list[Any] = []
        assert sampler(never, x, sigmas, callback=told.append, **options) is x and not told
    with pytest.raises(LMLError, match="x is a list"):
        sampler(never, [1.0], sigmas)


@pytest.mark.parametrize("case", BAD_INPUTS)
def test_bad_inputs(sampler: Any, case: str) -> None:
    keys, message = BAD_INPUTS[case]
    with pytest.raises(LMLError, match=message) as error:
        sampler(**{"model": never, "x": start(), "sigmas": GRID, **keys})
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("case", BAD_OPTIONS)
def test_bad_options(sampler: Any, case: str) -> None:
    options, message = BAD_OPTIONS[case]
    with pytest.raises(LMLError, match=message) as error:
        sampler(never, start(), GRID, **options)
    assert "\n" not in str(error.value)


def test_a_calibrated_grid_is_for_euler_and_for_its_own_sigmas() -> None:
    options: dict[str, Any] = {"control": "calibrated", "schedule": SCHEDULE}
    with pytest.raises(LMLError, match="fitted to Euler's steps, not sample_lml_dpmpp_2m's; call sample_lml_euler"):
        sample_lml_dpmpp_2m(never, start(), GRID, **options)
    other = GRID.clone()
    other[2] = 1.01
    with pytest.raises(LMLError, match=r"sigmas\[2\] is 1.01 and the schedule was calibrated at 1; give"):
        sample_lml_euler(never, start(), other, **options)
    with pytest.raises(LMLError, match=r"sigmas\[4\] is 0.02 and the schedule was calibrated at 0"):
        sample_lml_euler(never, start(), torch.tensor([10.0, 3.0, 1.0, 0.2, 0.02]), **options)


def test_a_calibrated_schedule_as_a_mapping_and_by_hand() -> None:
    """y_{k+1} = y_k + (s_{k+1} - s_k) (n_k - g (n_{k-1} - n_k)), the norm left as it comes."""

    def model(x: Tensor, sigma: Tensor) -> Tensor:
        return torch.tanh(x / (1 + sigma.view(-1, 1, 1, 1)))

    x, previous, levels = start(dtype=torch.float64), None, SCHEDULE.levels
    want = x
    for k in range(4):
        n = (want - model(want, torch.full((2,), levels[k], dtype=torch.float64))) / levels[k]
        d = n if previous is None else n - SCHEDULE.gains[k][0] * (previous - n)
        want, previous = want + (levels[k + 1] - levels[k]) * d, n
    for given in (SCHEDULE, SCHEDULE.to_config(), GAINS_ALONE):
        made = sample_lml_euler(
            model, x, torch.tensor(levels, dtype=torch.float64), control="calibrated", schedule=given
        )
        torch.testing.assert_close(made, want, rtol=0, atol=1e-12)
        # Sigmas that were rounded to float32 are still the calibrated ones.
        made = sample_lml_euler(model, x, GRID, control="calibrated", schedule=given)
        torch.testing.assert_close(made, want, rtol=0, atol=1e-5)
    made = sample_lml_dpmpp_2m(model, x, GRID, control="calibrated", schedule=GAINS_ALONE)
    assert not torch.equal(made, sample_lml_dpmpp_2m(model, x, GRID, gain=0.0))


def test_none_is_as_if_left_out(blobs: Any, grid: Any, sampler: Any) -> None:
    x = start()[:, :2]
    nothing = dict.fromkeys(("gain", "kappa", "damping", "damping_mode", "rank", "control", "schedule", "flow"))
    assert torch.equal(sampler(blobs(), x, grid(6), **nothing), sampler(blobs(), x, grid(6)))


def test_the_defaults_are_half_of_the_presets() -> None:
    source = importlib.resources.files("lmlangevin") / "assets" / "presets.json"
    gains = json.loads(source.read_text(encoding="utf-8"))["gains"]
    presets = gains["EulerDiscreteScheduler"]["karras"], gains["FlowMatchEulerDiscreteScheduler"]["flow"]
    assert presets == (2 * DEFAULT_GAINS["sample_lml_euler"],) * 2
    assert gains["DPMSolverMultistepScheduler-dpmsolver++-2"]["karras"] == 2 * DEFAULT_GAINS["sample_lml_dpmpp_2m"]


def test_the_default_of_2m_is_the_plain_sampler_and_says_so_once(
    blobs: Any, grid: Any, caplog: pytest.LogCaptureFixture
) -> None:
    x, sigmas = start()[:, :2], grid(6)
    with caplog.at_level(logging.WARNING, "lmlangevin"):
        plain = sample_lml_dpmpp_2m(blobs(), x, sigmas, gain=0.0)
        assert not caplog.messages
        assert torch.equal(sample_lml_dpmpp_2m(blobs(), x, sigmas), plain)
        assert torch.equal(sample_lml_dpmpp_2m(blobs(), x, sigmas, rank=2), plain)
        sample_lml_euler(blobs(), x, sigmas)
    assert [m for m in caplog.messages if "is the plain sampler" in m] == caplog.messages and len(caplog.messages) == 1


@pytest.mark.parametrize("steps", [3, 90])
def test_an_idle_adaptive_control_says_so(
    blobs: Any, grid: Any, sampler: Any, caplog: pytest.LogCaptureFixture, steps: int
) -> None:
    x, sigmas = start()[:, :2], grid(steps)
    with caplog.at_level(logging.WARNING, "lmlangevin"):
        made = sampler(blobs(), x, sigmas, control="adaptive")
        sampler(blobs(), x, sigmas, control="adaptive")
    assert torch.equal(made, sampler(blobs(), x, sigmas, gain=0.0))
    assert len(caplog.messages) == 1 and f"leaves a run of {steps} steps" in caplog.messages[0]

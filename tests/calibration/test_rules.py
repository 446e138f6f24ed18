"""The rules of the fit, each on a student so small that its answer is known in closed form."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from lmlangevin.calibration import CalibrateConfig, Calibration, FitOptions, FitResult, Student, calibrate, fit, job
from lmlangevin.calibration.checkpoint import Iteration, fit_key
from lmlangevin.core import CalibratedSchedule, LMLError

GAIN = 20.0


class OneNumber(Student):
    """One free number c; a sample ends at `end(c)`, whatever the network says."""

    size = 1
    jacobian_cost = 0

    def __init__(self, end: Callable[[Tensor], Tensor], seeds: int = 2, dtype: torch.dtype = torch.float64) -> None:
        super().__init__(lambda y, s, rows: y, torch.zeros(seeds, 1, dtype=dtype), steps=2, rank=1)
        self._end = end

    def pack(self, schedule: CalibratedSchedule) -> list[float]:
        return [schedule.gains[1][0]]

    def unpack(self, vector: Sequence[float]) -> CalibratedSchedule:
        return at(vector[0])

    def run(self, schedule: CalibratedSchedule, which: slice) -> Any:
        c = torch.tensor(schedule.gains[1][0], dtype=torch.float64)
        return self._end(c).to(self.start.dtype).expand(len(self.start[which]), 1)

    def final(self, run: Any) -> Tensor:
        return run

    def slopes(self, run: Any, part: slice, schedule: CalibratedSchedule, difference: float) -> Tensor:
        c = torch.tensor(schedule.gains[1][0], dtype=torch.float64)
        slope = torch.autograd.functional.jacobian(self._end, c)
        return slope.to(self.start.dtype).expand(1, len(run[part]), 1)  # type: ignore[union-attr]


def at(c: float) -> CalibratedSchedule:
    return CalibratedSchedule(None, ((0.0,), (c,)))


def arctan(c: Tensor) -> Tensor:
    """Newton's step from afar overshoots: from c = 0.15 to -0.47, where the error is larger."""
    return torch.atan(GAIN * c)


def fitted(end: Callable[[Tensor], Tensor], start: float, target: float = 0.0, **options: Any) -> FitResult:
    student = OneNumber(end)
    given = {"heldout": 0.0, "prior": 0.0, "tolerance": 0.0, "iterations": 12} | options
    with torch.inference_mode(False):
        return fit(student, torch.full_like(student.start, target), at(start), options=FitOptions(**given))


def test_a_step_that_raises_the_error_is_not_taken() -> None:
    result = fitted(arctan, 0.15)
    errors = [entry.fit_error for entry in result.history]
    assert abs(GAIN * 0.15) > 2  # where Newton's step overshoots
    assert len(errors) > 2 and errors == sorted(errors, reverse=True)
    assert errors[-1] < 1e-6
    assert result.schedule.gains[1][0] == pytest.approx(0, abs=1e-6)


def test_the_damping_falls_where_the_model_was_right_and_rises_where_it_was_not() -> None:
    # A line is what the model says: the gain is all that was promised, and Nielsen's factor the least, 1/5.
    line = fitted(lambda c: 3 * c, 0.5, damping=0.5, iterations=2)
    assert [entry.damping for entry in line.history] == pytest.approx([0.5, 0.1, 0.02])
    # On the flank of the arctangent a damped step gains less than half of it. Nielsen: 1 - (2 ratio - 1)^3.
    bent = fitted(arctan, 0.15, damping=1.2, iterations=1)
    r, slope, c = float(arctan(torch.tensor(0.15))), GAIN / (1 + 9.0), 0.15
    step = -r * slope / (slope**2 * 2.2)
    gained = r**2 - float(arctan(torch.tensor(c + step, dtype=torch.float64))) ** 2
    ratio = gained / -(2 * r * slope * step + slope**2 * step**2)
    assert 0 < ratio < 0.5
    assert bent.history[1].damping == pytest.approx(1.2 * (1 - (2 * ratio - 1) ** 3), rel=1e-6)
    assert bent.history[1].damping > 1.2


def test_the_prior_pulls_towards_the_start_as_much_as_it_says() -> None:
    # mean (c - 1)^2 + p^2 (c - c_0)^2 is least at (1 + p^2 c_0) / (1 + p^2).
    for prior in (0.5, 2.0):
        result = fitted(lambda c: c, 0.2, target=1.0, prior=prior, damping=1.0, iterations=30)
        assert result.schedule.gains[1][0] == pytest.approx((1 + prior**2 * 0.2) / (1 + prior**2), abs=1e-6)


def test_the_best_start_is_the_one_that_does_best_on_seeds_it_did_not_see(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The start that learnt its own seeds by heart has the least fitted error, and is not the best."""
    errors = iter([(0.3, 0.30), (0.1, 0.50), (0.2, 0.20)])

    def pretended(student: Any, target: Tensor, initial: Sequence[CalibratedSchedule], **_: Any) -> FitResult:
        now = Iteration(*next(errors), damping=0.01, evaluations=5)
        return FitResult(initial[0], initial[0], (now,), 0, 5, 7, "pretended")

    monkeypatch.setattr(job, "fit", pretended)
    given: dict[str, Any] = {"model": "analytic-cifar10", "steps": 4, "num_seeds": 4, "teacher_steps": 8, "starts": 3}
    result = calibrate(CalibrateConfig(out=tmp_path / "g.json", **given))
    assert result.file.fit["heldout_error"]["after"] == 0.20
    assert (result.fit.evaluations, result.fit.planned) == (15, 21)


def test_a_fit_in_another_dtype_is_another_fit(tmp_path: Path) -> None:
    path, options = tmp_path / "fit.json", FitOptions(iterations=1, heldout=0.0)
    wide, narrow = OneNumber(lambda c: c, seeds=2), OneNumber(lambda c: c, seeds=4, dtype=torch.float32)
    with torch.inference_mode(False):
        fit(wide, wide.start, at(0.5), options=options, checkpoint=path)
        fit(wide, wide.start, at(0.5), options=FitOptions(iterations=1, heldout=0, prior=1e-3), checkpoint=path)
        # The same bytes, in numbers of another width.
        with pytest.raises(LMLError, match="is of another fit"):
            fit(narrow, narrow.start, at(0.5), options=options, checkpoint=path)
    a, b = torch.zeros(2, 2), torch.zeros(2, dtype=torch.float64)
    assert fit_key(a, a) != fit_key(b, b)


def test_a_calibration_does_not_go_on_in_another_dtype(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    given: dict[str, Any] = {
        "model": "analytic-cifar10",
        "steps": 4,
        "num_seeds": 4,
        "teacher_steps": 8,
        "iterations": 1,
    }

    def interrupted(self: Calibration, *_: Any) -> FitResult:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Calibration, "_fit", interrupted)
        calibrate(CalibrateConfig(out=tmp_path / "g.json", **given))
    with pytest.raises(LMLError, match=r"other settings \(dtype is 'bfloat16', was 'float32'\); give those"):
        calibrate(CalibrateConfig(out=tmp_path / "g.json", **given, dtype="bfloat16", resume=True))
    # A whole number is the same number in another type.
    calibrate(CalibrateConfig(out=tmp_path / "g.json", **given, prior=torch.tensor(1e-3), resume=True))
    assert (tmp_path / "g.json").exists()

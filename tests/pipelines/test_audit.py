"""diffusers' pipelines that use their scheduler in an unusual way: refused, or reviewed with a reason."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch

from lmlangevin import LMLError, apply_lml, with_lml
from lmlangevin.schedulers.refused import REFUSED_PIPELINES, refusal
from pipeline_audit import REVIEWED, pipeline_folder, scan


@pytest.fixture(scope="module")
def found() -> dict[str, list[str]]:
    return scan(pipeline_folder())


def test_every_unusual_pipeline_was_looked_at(found: dict[str, list[str]]) -> None:
    unusual = {name for name, remarks in found.items() if remarks}
    unseen = {name: found[name] for name in unusual - REVIEWED.keys() - REFUSED_PIPELINES.keys()}
    assert not unseen, "put each into REFUSED_PIPELINES (lmlangevin.schedulers.refused) or REVIEWED, with the reason"
    # The scan sees most of what there is, and calls most of it usual.
    assert len(found) > 250 and 50 < len(unusual) < len(found) / 3


def test_no_verdict_is_out_of_date(found: dict[str, list[str]]) -> None:
    assert not REVIEWED.keys() & REFUSED_PIPELINES.keys()
    assert not [name for name in REVIEWED if not found.get(name)]
    assert not [name for name in REFUSED_PIPELINES if name not in found]


@pytest.mark.parametrize("name", REFUSED_PIPELINES)
def test_each_is_refused_by_name(name: str) -> None:
    cls = getattr(diffusers, name)
    assert refusal(cls) == REFUSED_PIPELINES[name]
    for family in (cls, type("Mine", (cls,), {})):
        with pytest.raises(LMLError, match=re.escape(REFUSED_PIPELINES[name])) as caught:
            apply_lml(family.__new__(family))
        said = str(caught.value)
        assert said.startswith(f"pipe={family.__name__} is not supported: ") and "use another" in said


def test_the_usual_ones_are_not() -> None:
    for name in ("StableDiffusionPipeline", "Cosmos2_5_PredictBasePipeline", "LTX2Pipeline", "WanPipeline"):
        assert refusal(getattr(diffusers, name)) is None


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("FlowMapEulerDiscreteScheduler", "predicts the mean velocity of a step"),
        ("HeliosDMDScheduler", "samples a distilled model"),
        ("PiflowScheduler", "samples a distilled model"),
        ("FlowMatchHeunDiscreteScheduler", "twice an interval; use FlowMatchEulerDiscreteScheduler"),
    ],
)
def test_schedulers_that_the_audit_came_upon(name: str, reason: str) -> None:
    with pytest.raises(LMLError, match=f"base={name} cannot be corrected: .*{reason}"):
        with_lml(getattr(diffusers, name))


def test_tokens_at_levels_of_their_own() -> None:
    """LTXConditionPipeline and SanaWMPipeline hold condition tokens at less noise than the rest."""
    x = torch.randn(1, 6, 4, generator=torch.Generator().manual_seed(2))

    def walk(**keys: Any) -> list[torch.Tensor]:
        scheduler = with_lml(diffusers.FlowMatchEulerDiscreteScheduler)(shift=3.0, **keys)
        scheduler.set_timesteps(4)
        sample, out = x, []
        for t in scheduler.timesteps:
            levels = torch.full((1, 6), float(t))
            levels[:, :2] = 0.0
            sample = scheduler.step(torch.tanh(sample), t, sample, per_token_timesteps=levels, return_dict=False)[0]
            out.append(sample)
        return out

    plain, corrected = walk(gain=0.0), walk(gain=0.5)
    assert torch.equal(corrected[0], plain[0]) and not torch.equal(corrected[-1], plain[-1])
    assert corrected[-1].isfinite().all()
    with pytest.raises(LMLError, match="per_token_timesteps .*; give control='constant'"):
        walk(control="adaptive")


LOOP = "for t in self.scheduler.timesteps:\n            x = self.scheduler.step(n, t, x)[0]"


@pytest.mark.parametrize(
    ("body", "remarks"),
    [
        (LOOP, []),
        ("x = 1", None),
        (LOOP + "\n            y = self.scheduler.step(n, t, x)[1]", ["steps in several places"]),
        (
            "for t in ts:\n            if a:\n                x = self.scheduler.step(n, t, x)"
            "\n            else:\n                x = self.scheduler.step(n, t, x, eta=1)",
            [],
        ),
        (
            "for t in ts:\n            if a:\n                x = self.scheduler.step(n, t, x)"
            "\n            if b:\n                x = self.scheduler.step(n, t, x)",
            ["steps in several places"],
        ),
        (
            "for c in cs:\n          for t in ts:\n            x = self.scheduler.step(n, t, x)",
            ["steps in nested loops"],
        ),
        ("x = self.scheduler.step(n, t, x)", ["steps in no loop"]),
        (
            "for c in cs:\n            self.scheduler.set_timesteps(3)\n            x = self.scheduler.step(n, c, x)",
            ["sets the timesteps in a loop"],
        ),
        ("other = copy.deepcopy(self.scheduler)", ["copies its scheduler", "never steps"]),
        ("for t in ts:\n            x = audio_scheduler.step(n, t, x)", ["steps audio_scheduler"]),
        ("for t in ts:\n            x = self.scheduler.step(n[:2], t, x)", ["steps a part of the model_output"]),
        (
            "for t in ts:\n            x = self.scheduler.step(-n.float(), t, x[:, 1:])",
            ["steps a part of the sample"],
        ),
        (
            "for i in ts:\n            x = self.scheduler.step(n, ts[i], x)",
            ["steps at a timestep that is no loop variable"],
        ),
        (
            "for t in ts:\n            x = self.scheduler.step(n, t, x, variance_noise=z)",
            ["passes variance_noise to step"],
        ),
        ("self.scheduler.step_correct(n, x)", ["never steps", "steps by step_correct()"]),
        (LOOP + "\n            self.scheduler._step_index -= 1", ["writes self.scheduler._step_index"]),
        (LOOP + "\n        z = compute_noise(self.scheduler, x)", ["hands its scheduler to compute_noise()"]),
        (LOOP + "\n        if isinstance(self.scheduler, DDIMScheduler):\n            pass", []),
        ("self.scheduler = DDIMScheduler.from_config(s.config)", ["never steps", "rebuilds its scheduler"]),
        ("self.scheduler.register_to_config(a=1)", ["never steps", "writes to its scheduler's configuration"]),
        ("scheduler._internal_dict = FrozenDict(new)", None),
    ],
)
def test_what_the_scan_remarks_on(body: str, remarks: list[str] | None, tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    source = f"class P:\n    def __call__(self):\n        {body}\n"
    (tmp_path / "deep" / "pipeline.py").write_text(source, encoding="utf-8")
    assert scan(tmp_path) == ({} if remarks is None else {"P": remarks})


def test_a_step_in_another_method(tmp_path: Path) -> None:
    source = f"class P:\n    def denoise(self):\n        {LOOP}\n"
    (tmp_path / "pipeline.py").write_text(source, encoding="utf-8")
    assert scan(tmp_path) == {"P": ["steps in denoise()"]}

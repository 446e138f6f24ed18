"""Langevin steps between a sampler's: at its level in its coordinates, counted, and each image's own."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image
from torch import Tensor

from lmlangevin.cli import cli
from lmlangevin.core import DampedLowRank, LMLError, lm_direction
from lmlangevin.generation import GenerateConfig, generate
from lmlangevin.generation.corrector import Corrector
from lmlangevin.generation.langevin import SAMPLERS, evaluations, steps_for
from lmlangevin.generation.models import FLOW_CONFIG, VP_CONFIG
from lmlangevin.generation.sampling import sample, without_known_warnings
from lmlangevin.generation.seeds import start_images
from lmlangevin.langevin.corrector import DAMPING, difference_geometry, langevin_step
from lmlangevin.schedulers import SCHEDULERS, build_scheduler

# diffusers' DEIS integrates torch tensors with numpy, which warns that it will not go on for ever.
pytestmark = pytest.mark.filterwarnings("ignore:__array_wrap__ must accept:DeprecationWarning")

SHAPE = (3, 4, 4)
SPREAD = 0.5
"""Standard deviation of the data, a normal distribution of mean 0."""


class Output(NamedTuple):
    sample: Tensor


class Normal:
    """Exact prediction for the data above, counted."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self.calls = 0
        self.table = torch.cumprod(1 - torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64), 0)

    def levels(self, t: Any) -> tuple[float, float]:
        if self.kind == "flow":
            return 1 - float(t) / 1000, float(t) / 1000
        # Between two timesteps the logarithm of the ratio is linear.
        ratio = ((1 - self.table) / self.table).sqrt().log().numpy()
        value = float(np.exp(np.interp(float(t), np.arange(1000), ratio)))
        return 1 / (1 + value**2) ** 0.5, value / (1 + value**2) ** 0.5

    def __call__(self, x: Tensor, t: Any) -> Output:
        self.calls += 1
        alpha, sigma = self.levels(t)
        total = alpha**2 * SPREAD**2 + sigma**2
        noise, data = sigma * x / total, alpha * SPREAD**2 * x / total
        said = {"flow": noise - data, "epsilon": noise, "v_prediction": alpha * noise - sigma * data, "sample": data}
        return Output(said[self.kind])


def scheduler_for(name: str, kind: str, steps: int) -> Any:
    config: dict[str, Any] = dict(FLOW_CONFIG) if kind == "flow" else dict(VP_CONFIG) | {"prediction_type": kind}
    with without_known_warnings():
        scheduler = build_scheduler(name, config)
        scheduler.set_timesteps(steps)
    return scheduler


CASES = [(name, "flow" if SCHEDULERS[name].flow else "epsilon") for name in SAMPLERS]


@pytest.mark.parametrize(
    ("name", "kind"), [*CASES, ("ddim", "v_prediction"), ("euler", "v_prediction"), ("deis", "sample")]
)
def test_the_chain_is_at_the_level_that_the_sampler_has_reached(name: str, kind: str) -> None:
    """From nothing at all it comes to the variance that this level has, up to the bias of the closed form."""
    scheduler, network = scheduler_for(name, kind, 6), Normal(kind)
    generators = [torch.Generator().manual_seed(seed) for seed in range(40)]
    corrector = Corrector(scheduler, generators, steps=250, step_size=0.1, rank=1)
    scale = getattr(scheduler, "scale_model_input", lambda x, t: x)
    x = torch.zeros(40, *SHAPE)
    extra = {"generator": generators} if name == "sde-dpmpp-2m" else {}
    for index in range(3):
        t = scheduler.timesteps[index]
        prediction = network(scale(x + 1, t), t).sample
        corrector.remember(prediction, index, t, x + 1)
        with without_known_warnings():
            scheduler.step(prediction, t, x + 1, **extra)
    t = scheduler.timesteps[3]
    found = corrector.correct(lambda y: network(scale(y, t), t).sample, 3, t, x)
    alpha, sigma = network.levels(t)
    if name == "euler":  # whose sample is x / alpha
        alpha, sigma = 1.0, sigma / alpha
    variance = alpha**2 * SPREAD**2 + sigma**2
    expected = variance / (1 - 0.05 * sigma**2 / variance)
    assert float(found.square().mean()) == pytest.approx(expected, rel=0.15)  # of 1920 normal numbers: 4 deviations
    assert abs(float(found.mean())) < 0.15 * expected**0.5


def test_before_the_first_step_there_is_nothing_to_correct() -> None:
    scheduler = scheduler_for("ddim", "epsilon", 4)
    corrector = Corrector(scheduler, [torch.Generator()], steps=3, step_size=0.2, rank=1)
    x = torch.ones(1, *SHAPE)
    assert corrector.correct(lambda y: y, 0, scheduler.timesteps[0], x) is x


@pytest.mark.parametrize("name", SAMPLERS)
def test_a_run_costs_what_is_said_and_the_first_generator_draws_stay(name: str) -> None:
    kind = "flow" if SCHEDULERS[name].flow else "epsilon"
    network = Normal(kind)
    noise, generators = start_images([1, 2], SHAPE)
    langevin = {"steps": 2, "step_size": 0.2, "rank": 2}
    images = sample(network, scheduler_for(name, kind, 4), noise, generators, steps=4, langevin=langevin)
    assert network.calls == evaluations(4, 2) == 10
    assert images.isfinite().all()
    alone, own = start_images([2], SHAPE)
    again = sample(network, scheduler_for(name, kind, 4), alone, own, steps=4, langevin=langevin)
    torch.testing.assert_close(again[0], images[1])
    plain = sample(network, scheduler_for(name, kind, 4), *start_images([1, 2], SHAPE), steps=4)
    assert not torch.allclose(plain, images, atol=0.05)


def test_one_step_is_the_preconditioned_step_of_dense_algebra() -> None:
    g = torch.Generator().manual_seed(60)
    x, n, noise, *predictions = (torch.randn(3, 7, generator=g, dtype=torch.float64) for _ in range(6))
    geometry = difference_geometry(predictions)
    assert geometry is not None
    columns = torch.stack([predictions[1] - predictions[0], predictions[2] - predictions[1]], dim=2)
    outer = columns @ columns.mT
    lam = DAMPING * outer.diagonal(dim1=1, dim2=2).sum(1) / 2
    inverse = torch.linalg.inv(torch.eye(7, dtype=torch.float64) + outer / lam[:, None, None])
    values, vectors = torch.linalg.eigh(inverse)
    root = vectors @ torch.diag_embed(values.sqrt()) @ vectors.mT
    expected = x - 0.3 * 0.6 * (inverse @ n[..., None])[..., 0] + (0.6**0.5) * 0.6 * (root @ noise[..., None])[..., 0]
    found = langevin_step(x, n, noise, geometry, sigma=0.6, step_size=0.3)
    torch.testing.assert_close(found, expected)


def test_one_prediction_or_none_is_no_geometry() -> None:
    assert difference_geometry([]) is None
    assert difference_geometry([torch.ones(2, 3)]) is None
    same = difference_geometry([torch.ones(2, 3)] * 2)
    assert same is not None
    x, n, noise = torch.zeros(2, 3), torch.ones(2, 3), torch.ones(2, 3)
    plain = langevin_step(x, n, noise, None, sigma=0.5, step_size=0.2)
    torch.testing.assert_close(langevin_step(x, n, noise, same, sigma=0.5, step_size=0.2), plain)


def test_a_geometry_of_the_predictions_themselves_would_raise_the_noise() -> None:
    """Data at 0, so x is noise and n = x / sigma at every level: E||x'||^2 in closed form, for both geometries."""
    size, eps, sigma = 4000, 0.2, 0.7
    g = torch.Generator().manual_seed(61)
    x, noise, other = (torch.randn(20, size, generator=g, dtype=torch.float64) for _ in range(3))
    x = sigma * x
    n = x / sigma
    grown = {}
    for key, geometry in (("score", DampedLowRank((n,), 1.0)), ("difference", difference_geometry([n, n + other]))):
        after = langevin_step(x, n, noise, geometry, sigma=sigma, step_size=eps)
        grown[key] = float(after.square().sum(1).mean() / x.square().sum(1).mean())
    # Along n the drift is halved, and everywhere else the noise is what it was: 1 + eps + eps^2 / 4, not 1 + eps^2.
    assert grown["score"] == pytest.approx(1 + eps + eps**2 / 4, rel=0.01)
    assert grown["difference"] == pytest.approx(1 + eps**2, rel=0.01)


# The command --------------------------------------------------------------------------------------------------------


def manifest_of(out: Path) -> dict[str, Any]:
    return json.loads((out / "manifest.json").read_text(encoding="utf-8"))


def pixels(folder: Path) -> np.ndarray:
    rows = []
    for path in sorted(folder.glob("*.png")):
        with Image.open(path) as picture:
            rows.append(np.asarray(picture).astype(int))
    return np.stack(rows)


def job(out: Path, **settings: Any) -> GenerateConfig:
    return GenerateConfig(out=out, **{"num_images": 3, "langevin_steps": 1, "steps": 3} | settings)


def test_a_job_counts_and_records_its_langevin_steps(tmp_path: Path) -> None:
    generate(job(tmp_path / "a", compare=True, gain=0.5))
    manifest = manifest_of(tmp_path / "a")
    assert (manifest["config"]["langevin_steps"], manifest["config"]["langevin_step_size"]) == (1, 0.2)
    for arm in ("plain", "lml"):
        run = manifest["runs"][arm]
        assert (run["nfe"], run["guidance_evaluations"], len(run["timesteps"])) == (5, 0, 3)
    again = GenerateConfig(out=tmp_path / "b", **manifest["config"])
    assert generate(again).runs["lml"].nfe == 5
    assert (pixels(tmp_path / "b" / "lml") == pixels(tmp_path / "a" / "lml")).all()
    assert (pixels(tmp_path / "b" / "lml") != pixels(tmp_path / "b" / "plain")).any()


def test_images_do_not_depend_on_the_batch(tmp_path: Path) -> None:
    for size in (1, 3):
        generate(job(tmp_path / str(size), batch_size=size, langevin_steps=2, scheduler="dpmpp-2m"))
    one, three = (pixels(tmp_path / str(size) / "images") for size in (1, 3))
    assert abs(one - three).max() <= 1
    plain = generate(job(tmp_path / "plain", langevin_steps=0, scheduler="dpmpp-2m"))
    assert plain.runs["images"].nfe == 3
    assert abs(pixels(tmp_path / "plain" / "images") - three).max() > 8


def test_the_gain_is_0_unless_it_is_given(tmp_path: Path) -> None:
    settings = {"num_images": 1, "model": "analytic-cifar10", "scheduler": "euler", "timestep_spacing": "trailing"}
    assert job(tmp_path, **settings, langevin_steps=0).gain is None
    found = generate(job(tmp_path / "open", **settings)).runs["images"].scheduler.config
    assert (found.control, found.gain, found.preset) == ("constant", 0.0, None)
    assert generate(job(tmp_path / "given", **settings, gain=0.3)).runs["images"].scheduler.config.gain == 0.3
    pair = GenerateConfig(out=tmp_path, langevin_steps=1, kappa=0.5, damping=1.0, compare=True)
    assert pair.gain is None
    assert GenerateConfig(out=tmp_path, langevin_steps=1, lml=False).gain is None


def test_a_gain_extrapolates_the_noise_that_was_just_drawn() -> None:
    """Data at 0, so that n = x / sigma has no curvature: a plain Euler step ends at 0 exactly, and one with LML not."""
    g = torch.Generator().manual_seed(62)
    x, noise = torch.randn(2, 4, 3000, generator=g, dtype=torch.float64)
    eps, gain = 0.2, 0.7
    after = langevin_step(x, x, noise, None, sigma=1.0, step_size=eps)
    d = lm_direction(after, x, kappa=0.001, damping=0.001 / gain)
    left = (after - d).norm(dim=1) / after.norm(dim=1)
    turned = math.atan(gain * math.sqrt(2 * eps) / (1 + eps**2))
    torch.testing.assert_close(left, torch.full((4,), 2 * math.sin(turned / 2)).double(), rtol=0.05, atol=0)


def test_evaluations_buy_steps_and_langevin_steps(tmp_path: Path) -> None:
    config = GenerateConfig(out=tmp_path, nfe=9, langevin_steps=1)
    assert config.steps == 5
    assert [steps_for(evaluations(steps, 3), 3) for steps in range(1, 9)] == list(range(1, 9))
    with pytest.raises(LMLError, match="nfe=8 is no cost of steps with 1 Langevin steps .* give 7 or 9"):
        GenerateConfig(out=tmp_path, nfe=8, langevin_steps=1)
    with pytest.raises(LMLError, match="steps=4 and nfe=9 contradict"):
        GenerateConfig(out=tmp_path, nfe=9, steps=4, langevin_steps=1)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--scheduler", "pndm"], "scheduler='pndm'"),
        (["--scheduler", "unipc"], "scheduler='unipc'"),
        (["--scheduler", "dpm-3"], "scheduler='dpm-3'"),
        (["--compare"], "give a gain"),
        (["--scheduler", "heun", "--no-lml"], "scheduler='heun'"),
        (["--control", "adaptive"], "control='adaptive'"),
        (["--control", "calibrated", "--model", "embedded", "--steps", "8"], "langevin_steps=1"),
        (["--langevin-step-size", "0"], "langevin_step_size=0.0"),
        (["--langevin-step-size", "nan"], "langevin_step_size=nan"),
        (["--langevin-step-size", "1.5"], "langevin_step_size=1.5"),
        (["--langevin-steps", "0", "--langevin-step-size", "0.2"], "without langevin_steps"),
        (["--langevin-steps", "-1"], "langevin_steps=-1"),
        (["--nfe", "8"], "nfe=8"),
    ],
)
def test_what_langevin_steps_do_not_go_with_ends_in_one_line(tmp_path: Path, words: list[str], said: str) -> None:
    given = ["generate", "--langevin-steps", "1", "--out", str(tmp_path / "out"), *words]
    result = CliRunner().invoke(cli, given)
    assert result.exit_code == 2, result.output
    assert result.stderr.count("\n") == 1 and said in result.stderr
    assert not (tmp_path / "out").exists()


def test_a_pipeline_that_runs_itself_is_refused(tmp_path: Path, text_pipeline: Path) -> None:
    settings = {"model": str(text_pipeline), "prompt": "a fox", "steps": 2, "scheduler": "ddim"}
    with pytest.raises(LMLError, match="langevin_steps=1 is for unconditional pixel models"):
        generate(job(tmp_path / "out", **settings))
    assert not (tmp_path / "out").exists()


def test_a_step_in_half_precision_holds_the_damping_of_large_predictions() -> None:
    g = torch.Generator().manual_seed(91)
    first, second, x, noise = (30 * torch.randn(2, 4000, generator=g) for _ in range(4))
    geometry = difference_geometry([first, second, x])
    assert geometry is not None and (geometry.damping > 65504).all()
    wide = langevin_step(x, first, noise, geometry, sigma=1.0, step_size=0.2)
    half = langevin_step(x.half(), first.half(), noise.half(), geometry, sigma=1.0, step_size=0.2)
    assert half.dtype == torch.float16
    torch.testing.assert_close(half.float(), wide, rtol=5e-3, atol=0.05)

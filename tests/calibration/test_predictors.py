"""A model asked at a level: the same noise whatever it predicts, and whichever pipeline runs it."""

from __future__ import annotations

import types
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from lmlangevin.calibration.predictors import NetworkPredictor, PipelinePredictor, remembered_prompts
from lmlangevin.core import LMLError
from lmlangevin.generation.models import FLOW_CONFIG, VP_CONFIG
from lmlangevin.reference import AnalyticModel, GaussianMixture

LEVELS = (150.0, 12.0, 0.9, 0.05)


@pytest.fixture(scope="module")
def mixture() -> GaussianMixture:
    g = torch.Generator().manual_seed(2)
    return GaussianMixture(
        weights=torch.tensor([0.4, 0.6], dtype=torch.float64),
        means=torch.randn(2, 48, generator=g, dtype=torch.float64) * 0.3,
        basis=torch.linalg.qr(torch.randn(2, 48, 5, generator=g, dtype=torch.float64)).Q,
        excess=torch.rand(2, 5, generator=g, dtype=torch.float64) + 0.1,
        variances=torch.full((2,), 0.05, dtype=torch.float64),
        event_shape=(3, 4, 4),
    )


def network(mixture: GaussianMixture, kind: str) -> AnalyticModel:
    return AnalyticModel(mixture, kind).to(torch.float64)


def ask(predictor: Any, y: Tensor, s: float) -> Tensor:
    return predictor(y, s, range(len(y)))


def test_n_is_that_of_the_mixture(mixture: GaussianMixture) -> None:
    y = torch.randn(3, 3, 4, 4, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    for kind in ("epsilon", "v_prediction", "sample"):
        config = VP_CONFIG | {"prediction_type": kind}
        made = NetworkPredictor(network(mixture, kind), config, (3, 4, 4), flow=False, dtype=torch.float64)
        assert made.smax == pytest.approx(157.41, abs=0.01)
        for s in LEVELS:
            alpha = (1 + s * s) ** -0.5
            at = y * (1 + s * s) ** 0.5
            exact = mixture.epsilon(alpha * at, alpha, s * alpha)
            # Timesteps are float32 in diffusers, and x0 is divided by small levels.
            assert torch.allclose(ask(made, at, s), exact, rtol=2e-3, atol=4e-3), (kind, s)
    flow = NetworkPredictor(network(mixture, "flow_prediction"), FLOW_CONFIG, (3, 4, 4), flow=True, dtype=torch.float64)
    for s in (1.0, 0.7, 0.02):
        assert torch.allclose(ask(flow, y, s), mixture.velocity(y, s), atol=1e-5)


def test_the_start_is_the_noise_of_lml_generate_at_the_first_level(mixture: GaussianMixture) -> None:
    from lmlangevin.generation.seeds import start_images

    made = NetworkPredictor(network(mixture, "epsilon"), VP_CONFIG, (3, 4, 4), flow=False)
    noise = start_images([5, 9], (3, 4, 4))[0]
    assert torch.allclose(made.start([5, 9], [0, 1]), noise * 157.41, rtol=1e-3)


def load(folder: Path) -> Any:
    from diffusers import DiffusionPipeline

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pipe = DiffusionPipeline.from_pretrained(str(folder), use_safetensors=True)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def guided(pipe: Any, y: Tensor, s: float, prompts: Sequence[str], scale: float) -> Tensor:
    """Classifier-free guidance written out."""
    predictor = NetworkPredictor(None, pipe.scheduler.config, (4, 8, 8), flow=False)
    t = predictor._plan(s)
    both = [pipe.encode_prompt(list(prompts), "cpu", 1, True)[i] for i in (1, 0)]
    with torch.no_grad():
        bare, full = (pipe.unet(y * (1 + s * s) ** -0.5, t, encoder_hidden_states=words).sample for words in both)
    return bare + scale * (full - bare)


def test_a_text_pipeline_is_asked_with_its_prompts_and_guidance(text_pipeline: Path) -> None:
    pipe = load(text_pipeline)
    before = pipe.scheduler
    prompts = ["a fox", "two owls", "rain"]
    made = PipelinePredictor(pipe, {"guidance_scale": 4.0}, prompts, flow=False)
    rows = [2, 0, 4]  # the fifth seed has the second prompt again
    y = made.start([7, 8, 9], rows)
    assert y.shape == (3, 4, 8, 8)
    for s in (100.0, 3.0, 0.2):
        at = y / y.std() * (1 + s * s) ** 0.5
        expected = guided(pipe, at, s, [prompts[row % 3] for row in rows], 4.0)
        # The fit computes in float64, the pipeline in its own dtype.
        for wide in (at, at.double()):
            got = made(wide, s, rows)
            assert got.dtype == wide.dtype
            assert torch.allclose(got.float(), expected, atol=2e-5), s
    assert pipe.scheduler is before


def test_the_start_is_what_the_pipeline_draws(text_pipeline: Path) -> None:
    pipe = load(text_pipeline)
    made = PipelinePredictor(pipe, {"guidance_scale": 4.0}, ["a fox"], flow=False)
    y = made.start([7, 8], [0, 1])
    drawn = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(8))
    assert torch.allclose(y[1:], drawn * made.noise_scale)
    assert made.noise_scale == pytest.approx(made.smax, rel=3e-3)


def test_equal_prompts_are_encoded_once(text_pipeline: Path) -> None:
    pipe = load(text_pipeline)
    calls = 0
    own = pipe.text_encoder.forward

    def counting(*args: Any, **kwargs: Any) -> Any:
        nonlocal calls
        calls += 1
        return own(*args, **kwargs)

    pipe.text_encoder.forward = counting
    made = PipelinePredictor(pipe, {"guidance_scale": 4.0}, ["a fox"], flow=False)
    y = made.start([7], [0])
    plain = made(y, 2.0, [0])
    calls = 0
    with remembered_prompts(pipe):
        for _ in range(4):
            assert torch.equal(made(y, 2.0, [0]), plain)
        assert calls == 2  # the prompt and the empty one
    assert "encode_prompt" not in vars(pipe)


def test_a_pipeline_without_latents_is_refused() -> None:
    class Bare:
        scheduler = types.SimpleNamespace(config=VP_CONFIG)

        def __call__(self, prompt: str) -> None: ...

    with pytest.raises(LMLError, match="model is a Bare, which takes no latents"):
        PipelinePredictor(Bare(), {}, ["a"], flow=False)


def test_a_pipeline_that_never_steps_is_refused(text_pipeline: Path) -> None:
    pipe = load(text_pipeline)

    class Still(type(pipe)):
        def __call__(self, prompt: Any = None, latents: Any = None, **kwargs: Any) -> None: ...

    pipe.__class__ = Still
    with pytest.raises(LMLError, match="never steps its scheduler"):
        PipelinePredictor(pipe, {}, ["a"], flow=False).start([1], [0])

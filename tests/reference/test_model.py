"""The mixture served as a network: conventions of diffusers, noise levels, conversions, dtypes."""

import copy

import pytest
import torch

from lmlangevin.core.errors import LMLError
from lmlangevin.reference import PREDICTION_TYPES, AnalyticModel, GaussianMixture, linear_alphas_cumprod


def make(seed: int, dtype: torch.dtype = torch.float64, size: int = 4) -> GaussianMixture:
    g = torch.Generator().manual_seed(seed)
    d = 3 * size * size
    means, factors = torch.randn(3, d, generator=g), torch.randn(3, d, 5, generator=g)
    return GaussianMixture.from_factors(
        torch.tensor([0.2, 0.3, 0.5]),
        0.5 * means.double(),
        0.4 * factors.double(),
        torch.tensor([0.02, 0.05, 0.1]),
        (3, size, size),
        dtype,
    )


def images(seed: int, n: int = 4, dtype: torch.dtype = torch.float64, size: int = 4) -> torch.Tensor:
    return torch.randn(n, 3, size, size, generator=torch.Generator().manual_seed(seed)).to(dtype)


@pytest.mark.parametrize("timestep", [0, 1, 137, 500.5, 998.75, 999])
def test_vp_predictions_convert_into_each_other(timestep: float) -> None:
    mixture, x = make(1), images(2)
    eps, x0, v = (AnalyticModel(mixture, kind)(x, timestep).sample for kind in PREDICTION_TYPES[:3])
    alpha, sigma = AnalyticModel(mixture).noise_levels(timestep)
    assert (alpha**2 + sigma**2).item() == pytest.approx(1, abs=1e-14)
    torch.testing.assert_close(alpha * x0 + sigma * eps, x, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(v, alpha * eps - sigma * x0, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("timestep", [0.0, 12.5, 400.0, 1000.0])
def test_flow_prediction_is_the_velocity(timestep: float) -> None:
    mixture, x = make(3), images(4)
    out = AnalyticModel(mixture, "flow_prediction")(x, timestep).sample
    s = timestep / 1000
    expected = mixture.epsilon(x, 1 - s, s) - mixture.denoise(x, 1 - s, s)
    torch.testing.assert_close(out, expected, rtol=1e-9, atol=1e-9)


def test_timesteps_may_be_numbers_scalars_or_one_per_sample() -> None:
    for kind in PREDICTION_TYPES:
        model, x = AnalyticModel(make(5), kind), images(6)
        steps = torch.tensor([0.0, 3.25, 500.0, 999.0])
        together = model(x, steps).sample
        for i, t in enumerate(steps.tolist()):
            for form in (t, torch.tensor(t), torch.tensor([t])):
                torch.testing.assert_close(model(x[i : i + 1], form).sample, together[i : i + 1], rtol=1e-9, atol=1e-9)
        integer = model(x, torch.tensor(7)).sample
        assert torch.equal(integer, model(x, 7).sample)


def test_timesteps_outside_the_table_are_clamped() -> None:
    model, x = AnalyticModel(make(7)), images(8)
    assert torch.equal(model(x, -3).sample, model(x, 0).sample)
    assert torch.equal(model(x, 1200.0).sample, model(x, 999).sample)
    assert not torch.equal(model(x, 998.5).sample, model(x, 999).sample)


def test_integer_levels_are_those_of_the_table() -> None:
    table = linear_alphas_cumprod()
    alpha, sigma = AnalyticModel(make(9)).noise_levels(torch.arange(1000))
    torch.testing.assert_close(alpha**2, table, rtol=1e-12, atol=0)
    torch.testing.assert_close(sigma**2, 1 - table, rtol=1e-12, atol=0)


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # diffusers on numpy >= 2.1
def test_fractional_timesteps_invert_diffusers_karras_grid() -> None:
    diffusers = pytest.importorskip("diffusers")
    scheduler = diffusers.EulerDiscreteScheduler(use_karras_sigmas=True)
    scheduler.set_timesteps(20)
    timesteps, sigmas = scheduler.timesteps.double(), scheduler.sigmas[:-1].double()
    assert (timesteps != timesteps.round()).sum() > 10
    alpha, sigma = AnalyticModel(make(10)).noise_levels(timesteps)
    # float32 tables on their side
    torch.testing.assert_close(sigma / alpha, sigmas, rtol=2e-4, atol=0)


def test_default_table_is_that_of_diffusers() -> None:
    diffusers = pytest.importorskip("diffusers")
    theirs = diffusers.DDPMScheduler().alphas_cumprod.double()
    torch.testing.assert_close(linear_alphas_cumprod(), theirs, rtol=2e-5, atol=0)
    scaled = diffusers.DDPMScheduler(beta_schedule="scaled_linear").alphas_cumprod
    alpha, _ = AnalyticModel(make(11), alphas_cumprod=scaled).noise_levels(300)
    assert alpha.item() ** 2 == pytest.approx(scaled[300].item(), rel=1e-6)


def test_pipeline_samples_the_mixture() -> None:
    diffusers = pytest.importorskip("diffusers")
    mixture = make(12, torch.float32, size=8)
    pipe = diffusers.DDIMPipeline(unet=AnalyticModel(mixture), scheduler=diffusers.DDIMScheduler(clip_sample=False))
    pipe.set_progress_bar_config(disable=True)
    made = pipe(
        batch_size=256, num_inference_steps=40, output_type="np", generator=torch.Generator().manual_seed(13)
    ).images
    exact = (mixture.sample(4096, torch.Generator().manual_seed(14)) / 2 + 0.5).clamp(0, 1)
    assert made.shape == (256, 8, 8, 3)
    assert made.mean() == pytest.approx(exact.mean().item(), abs=0.03)
    assert made.std() == pytest.approx(exact.std().item(), rel=0.08)


def test_what_pipelines_read() -> None:
    model = AnalyticModel(make(15, torch.float32))
    assert model.config["in_channels"] == model.config.in_channels == 3
    assert model.config.sample_size == 4 and model.config["_class_name"] == "AnalyticModel"
    assert not hasattr(model.config, "addition_embed_type")
    assert (model.dtype, model.device) == (torch.float32, torch.device("cpu"))
    assert list(model.parameters()) == [] and model.state_dict() == {}
    x = images(16, dtype=torch.float32)
    by_tuple = model(x, 10, return_dict=False, encoder_hidden_states=None)
    assert type(by_tuple) is tuple and torch.equal(by_tuple[0], model(x, 10).sample)
    assert torch.equal(copy.deepcopy(model)(x, 10).sample, by_tuple[0])


def test_dtype_moves_and_outputs_follow_the_input() -> None:
    model, x = AnalyticModel(make(17, torch.float32)), images(18, dtype=torch.float32)
    reference = model(x, 250).sample
    half = copy.deepcopy(model).to(torch.float16)
    assert half.dtype == torch.float16 and half.mixture.dtype == torch.float32
    assert half(x.half(), 250).sample.dtype == torch.float16
    assert torch.equal(half(x, 250).sample, reference)
    double = copy.deepcopy(model).to(torch.float64)
    assert double.dtype == double.mixture.dtype == torch.float64
    exact = double(x.double(), 250).sample
    torch.testing.assert_close(reference.double(), exact, rtol=1e-5, atol=1e-5)
    assert double(x, 250).sample.dtype == torch.float32


def test_levels_at_the_ends_are_finite_in_low_precision() -> None:
    for kind in PREDICTION_TYPES:
        model = AnalyticModel(make(19, torch.float32), kind)
        for dtype in (torch.float16, torch.bfloat16):
            for t in (0, 0.5, 999, 1000):
                assert torch.isfinite(model(images(20, dtype=dtype), t).sample).all()


def test_a_short_table_is_allowed() -> None:
    model = AnalyticModel(make(23), alphas_cumprod=torch.tensor([0.9, 0.1]))
    alpha, _ = model.noise_levels(torch.tensor([0.0, 0.5, 1.0, 2.0]))
    # sigma/alpha is 1/3 and 3 at the ends, 1 half-way in the logarithm
    torch.testing.assert_close(alpha.square(), torch.tensor([0.9, 0.5, 0.1, 0.1]).double(), rtol=1e-6, atol=0)


def test_wrong_arguments_are_named() -> None:
    mixture = make(21)
    with pytest.raises(LMLError, match="prediction_type is 'noise'"):
        AnalyticModel(mixture, "noise")
    for table in (torch.linspace(0.1, 0.9, 5), torch.tensor([0.5]), torch.tensor([1.0, 0.5]), torch.tensor([0.5, 0.0])):
        with pytest.raises(LMLError, match="alphas_cumprod"):
            AnalyticModel(mixture, alphas_cumprod=table)
    with pytest.raises(LMLError, match="x has shape"):
        AnalyticModel(mixture)(images(22, size=5), 3)

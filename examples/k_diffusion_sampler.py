"""LML where samplers have k-diffusion's signature.

Shows: `sample_lml_euler` on a network that predicts noise, wrapped as k-diffusion wraps it (`CompVisDenoiser` does the
same; the wrapper is written out, so that this runs without k-diffusion), and what its callback sees.

Prints: the error to the fine solution of Euler, of LML with its default gain, and with the adaptive control; and for
each step of the last the gain and the angle of the correction.

Takes: about 15 seconds on 2 cores.

    python examples/k_diffusion_sampler.py --steps 8
"""

import argparse
import math
from typing import Any

import torch

from lmlangevin.generation import GenerateConfig, initial_noise, load_model
from lmlangevin.samplers import sample_lml_euler


class Denoiser(torch.nn.Module):
    """A network that predicts noise, as k-diffusion's samplers call it: (x, sigma) -> the denoised x0.

    Args:
        network: Called as network(x, timestep), returns an object with `.sample`.
        betas: Its noise schedule, (timesteps,).
    """

    def __init__(self, network: torch.nn.Module, betas: torch.Tensor) -> None:
        super().__init__()
        self.network = network
        abar = (1 - betas).cumprod(0)
        self.register_buffer("log_sigmas", ((1 - abar) / abar).log() / 2)

    def forward(self, x: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
        """Denoise (batch, channels, height, width) at sigma, (batch,)."""
        logs, at = self.log_sigmas, sigma.log().to(self.log_sigmas)
        # Fractional timesteps, by interpolation of log sigma.
        low = torch.searchsorted(logs, at).clamp(1, len(logs) - 1) - 1
        timestep = low + ((at - logs[low]) / (logs[low + 1] - logs[low])).clamp(0, 1)
        level = sigma.view(-1, 1, 1, 1)
        noise = self.network(x / (1 + level**2).sqrt(), timestep.to(x.dtype)).sample
        return x - level * noise


def main() -> None:
    """Sample the same noise with Euler and with LML, and compare with the fine solution."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--num-images", type=int, default=16)
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--fine-steps", type=int, default=50)
    args = parser.parse_args()

    loaded = load_model(GenerateConfig(out="unused"), flow=False)
    schedule = loaded.scheduler_config
    betas = torch.linspace(schedule["beta_start"], schedule["beta_end"], schedule["num_train_timesteps"])
    model = Denoiser(loaded.networks[0], betas.double())
    largest = float(model.log_sigmas[-1].exp())
    noise = initial_noise(range(args.num_images), loaded.shape)

    def sigmas(steps: int) -> torch.Tensor:
        """Return levels even in log sigma, and 0 behind them."""
        ends = math.log(largest), float(model.log_sigmas[0])
        return torch.cat([torch.linspace(*ends, steps, dtype=torch.float64).exp(), torch.zeros(1)]).float()

    def draw(steps: int = args.steps, **options: Any) -> torch.Tensor:
        return sample_lml_euler(model, noise * largest, sigmas(steps), disable=True, **options)

    fine = draw(args.fine_steps, gain=0)
    record: list[Any] = []
    for name, images in (
        ("Euler (gain 0)", draw(gain=0)),
        ("LML, default gain", draw()),
        ("LML, adaptive", draw(control="adaptive", record=record)),
    ):
        error = float((images - fine).square().mean().sqrt())
        print(f"{name}: RMSE {error:.4f} to {args.fine_steps} steps")
    for step, info in enumerate(record):
        gain, angle = float(info.gain.mean()), math.degrees(float(info.angle.mean()))
        print(f"step {step}: gain {gain:.3f}, angle {angle:.2f} degrees")


if __name__ == "__main__":
    main()

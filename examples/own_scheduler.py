"""LML for a scheduler that you wrote yourself.

Shows: a diffusers scheduler from scratch (Euler steps that are even in the half-log-SNR, with none of diffusers'
solvers behind it), its LML version by `with_lml`, two gains against the plain one on the same seeds, and that saving
works.

Prints: the name of the class that `with_lml` makes, the error of each gain to the fine solution, and whether gain 0 is
the plain scheduler bit for bit.

Takes: about 15 seconds on 2 cores.

    python examples/own_scheduler.py --gain 0.3 --gain 0.7
"""

import argparse
import math
import tempfile
from typing import Any

import torch
from diffusers import ConfigMixin, SchedulerMixin
from diffusers.configuration_utils import register_to_config
from diffusers.schedulers.scheduling_utils import SchedulerOutput

from lmlangevin import with_lml
from lmlangevin.generation import GenerateConfig, load_model, sample, start_images


class EvenScheduler(SchedulerMixin, ConfigMixin):
    """Euler steps whose levels are even in log(sigma / alpha), for models that predict noise.

    With y = x / alpha and s = sigma / alpha the sampling ODE is dy/ds = noise, so a step from s to s' is
    y' = y + (s' - s) noise.
    """

    @register_to_config
    def __init__(self, num_train_timesteps: int = 1000, beta_start: float = 1e-4, beta_end: float = 0.02) -> None:
        betas = torch.linspace(beta_start, beta_end, num_train_timesteps, dtype=torch.float64)
        self.alphas_cumprod = (1 - betas).cumprod(0)
        self.timesteps = torch.arange(num_train_timesteps).flip(0)
        self.num_inference_steps: int | None = None

    def set_timesteps(self, num_inference_steps: int, device: Any = None) -> None:
        """Choose the timesteps whose levels are nearest to even ones."""
        logs = ((1 - self.alphas_cumprod) / self.alphas_cumprod).log() / 2
        even = torch.linspace(float(logs[-1]), float(logs[0]), num_inference_steps, dtype=torch.float64)
        self.timesteps = torch.searchsorted(logs, even).clamp(max=len(logs) - 1).to(device)
        self.num_inference_steps = num_inference_steps
        self._index = 0

    def step(self, model_output: torch.Tensor, timestep: Any, sample: torch.Tensor) -> SchedulerOutput:
        """Take one step; the last one goes to sigma 0."""
        del timestep  # steps are counted: two of them may round to one timestep
        here = self._abar(self._index)
        there = self._abar(self._index + 1) if self._index + 1 < len(self.timesteps) else 1.0
        self._index += 1
        change = math.sqrt((1 - there) / there) - math.sqrt((1 - here) / here)
        return SchedulerOutput(math.sqrt(there) * (sample / math.sqrt(here) + change * model_output))

    def _abar(self, index: int) -> float:
        return float(self.alphas_cumprod[int(self.timesteps[index])])


def main() -> None:
    """Sample the embedded model with the scheduler and its LML version."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gain", type=float, action="append", dest="gains", metavar="GAIN")
    parser.add_argument("--num-images", type=int, default=16)
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--fine-steps", type=int, default=50)
    args = parser.parse_args()

    model = load_model(GenerateConfig(out="unused"), flow=False)
    noise, generators = start_images(range(args.num_images), model.shape)

    def draw(scheduler: Any, steps: int = args.steps) -> torch.Tensor:
        return sample(model.networks[0], scheduler, noise, generators, steps=steps)

    # The class takes the arguments of yours, and LML's behind them.
    EvenLMLScheduler = with_lml(EvenScheduler)
    print(f"{EvenLMLScheduler.__name__}, a subclass of yours: {issubclass(EvenLMLScheduler, EvenScheduler)}")
    plain, fine = draw(EvenScheduler()), draw(EvenScheduler(), args.fine_steps)
    print(f"gain 0 is the plain scheduler: {torch.equal(draw(EvenLMLScheduler(gain=0.0)), plain)}")
    print(f"plain: RMSE {_rmse(plain, fine):.4f} to {args.fine_steps} steps")
    for gain in args.gains or (0.3, 0.7):
        scheduler = EvenLMLScheduler(gain=gain)
        images = draw(scheduler)
        print(f"gain {gain:g}: RMSE {_rmse(images, fine):.4f}")
        with tempfile.TemporaryDirectory() as folder:
            scheduler.save_pretrained(folder)
            loaded = EvenLMLScheduler.from_pretrained(folder)
        print(f"gain {gain:g}, saved and loaded, draws the same images: {torch.equal(draw(loaded), images)}")


def _rmse(images: torch.Tensor, solution: torch.Tensor) -> float:
    return float((images - solution).square().mean().sqrt())


if __name__ == "__main__":
    main()

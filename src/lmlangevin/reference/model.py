"""An analytic mixture in the clothes of a denoising network, so that any sampler can call it.

The conventions are those of diffusers: a variance-preserving model takes x_t = sqrt(abar) x0 + sqrt(1 - abar) eps
and a timestep of a table of 1000; a flow model takes x = (1 - sigma) x0 + sigma eps and the timestep 1000 sigma.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn

from lmlangevin.core.errors import LMLError
from lmlangevin.reference.gaussian_mixture import GaussianMixture

PREDICTION_TYPES = ("epsilon", "sample", "v_prediction", "flow_prediction")
"""What an `AnalyticModel` can predict, in diffusers' words."""


class AnalyticOutput(NamedTuple):
    """What a diffusers network returns: the prediction under the name `sample`."""

    sample: Tensor


class ModelConfig(dict[str, Any]):
    """Read as `config["in_channels"]` and as `config.in_channels`, as diffusers' pipelines do."""

    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError:
            raise AttributeError(name) from None


def linear_alphas_cumprod(num_train_timesteps: int = 1000, beta_start: float = 1e-4, beta_end: float = 0.02) -> Tensor:
    """Products of 1 - beta of the linear schedule (arXiv:2006.11239), (num_train_timesteps,), float64."""
    betas = torch.linspace(beta_start, beta_end, num_train_timesteps, dtype=torch.float64)
    return torch.cumprod(1 - betas, dim=0)


class AnalyticModel(nn.Module):
    """Serve a `GaussianMixture` as a network with diffusers' calling convention.

    It has no parameters. `to(dtype)` sets the dtype that pipelines read; from then on the mixture computes in
    float64 if that is float64, and in float32 otherwise. Outputs have the dtype of the input.

    Args:
        mixture: the data distribution.
        prediction_type: "epsilon", "sample" (x0), "v_prediction" or "flow_prediction" (the velocity eps - x0).
        alphas_cumprod: (T,) decreasing, of the variance-preserving schedule; default 1000 linear betas from 1e-4 to
            0.02. Not used for flow.
        num_train_timesteps: timesteps of a flow model, timestep = num_train_timesteps * sigma; default 1000.

    Raises:
        LMLError: on another prediction type, or a table that is not a decreasing sequence inside (0, 1).
    """

    _interface: Tensor

    def __init__(
        self,
        mixture: GaussianMixture,
        prediction_type: str = "epsilon",
        alphas_cumprod: Tensor | None = None,
        num_train_timesteps: int = 1000,
    ) -> None:
        super().__init__()
        if prediction_type not in PREDICTION_TYPES:
            raise LMLError(f"prediction_type is {prediction_type!r}; give one of {', '.join(PREDICTION_TYPES)}")
        table = linear_alphas_cumprod() if alphas_cumprod is None else alphas_cumprod.detach().double().cpu()
        falling = table.ndim == 1 and len(table) > 1 and bool((table.diff() < 0).all())
        if not (falling and 0 < table[-1].item() and table[0].item() < 1):
            raise LMLError(
                f"alphas_cumprod has shape {tuple(table.shape)}; give a decreasing sequence of two or more values "
                "inside (0, 1)"
            )
        self.mixture = mixture
        self.prediction_type = prediction_type
        self._num_train_timesteps = num_train_timesteps
        # Half the negative log signal-to-noise ratio, log(sigma/alpha), of each integer timestep.
        self._log_ratios = (((1 - table) / table).log() / 2).to(mixture.device, mixture.weights.dtype)
        # nn.Module.to() acts on tensors of the module: this one carries the dtype that pipelines see.
        self.register_buffer("_interface", torch.empty(0, dtype=mixture.dtype, device=mixture.device), False)
        shape = mixture.event_shape
        square = len(shape) == 3 and shape[1] == shape[2]
        self.config = ModelConfig(
            _class_name=type(self).__name__,
            in_channels=shape[0],
            out_channels=shape[0],
            sample_size=shape[1] if square else shape[1:],
            prediction_type=prediction_type,
        )

    @property
    def dtype(self) -> torch.dtype:
        """The dtype that pipelines draw their noise in."""
        return self._interface.dtype

    @property
    def device(self) -> torch.device:
        """Where the mixture is."""
        return self._interface.device

    def _apply(self, fn: Callable[..., Any], recurse: bool = True) -> AnalyticModel:
        super()._apply(fn, recurse)
        dtype = torch.float64 if self.dtype == torch.float64 else torch.float32
        self.mixture = self.mixture.to(self.device, dtype)
        self._log_ratios = self._log_ratios.to(self.device, self.mixture.weights.dtype)
        return self

    def noise_levels(self, timestep: float | Tensor) -> tuple[Tensor, Tensor]:
        """Signal and noise levels (alpha, sigma) of a timestep.

        Args:
            timestep: a number, or a tensor of one or of B values; fractional ones are allowed. Between two integers
                log(sigma/alpha) is linear, which is what diffusers' `_sigma_to_t` inverts; outside the table the
                nearest end is taken.

        Returns:
            alpha and sigma, float64, shape (1,) or (B,).
        """
        ratios = self._log_ratios
        t = torch.as_tensor(timestep, device=ratios.device).to(ratios.dtype).reshape(-1)
        if self.prediction_type == "flow_prediction":
            sigma = (t / self._num_train_timesteps).clamp(0, 1)
            return 1 - sigma, sigma
        t = t.clamp(0, len(ratios) - 1)
        low = t.floor().long().clamp_max(len(ratios) - 2)
        ratio = torch.lerp(ratios[low], ratios[low + 1], t - low).exp()
        alpha = torch.rsqrt(1 + ratio.square())
        return alpha, ratio * alpha

    def forward(
        self,
        sample: Tensor,
        timestep: float | Tensor,
        class_labels: Any = None,
        return_dict: bool = True,
        **ignored: Any,
    ) -> AnalyticOutput | tuple[Tensor]:
        """Exact prediction at x_t.

        Args:
            sample: x_t, (B, *event_shape), any float dtype.
            timestep: see `noise_levels`.
            class_labels: taken for the sake of pipelines, not used.
            return_dict: False gives a plain tuple; default True.
            **ignored: taken for the sake of pipelines, not used.

        Returns:
            An object with `.sample` in the shape and dtype of `sample`, or a tuple of it.

        Raises:
            LMLError: if a shape does not fit.
        """
        alpha, sigma = self.noise_levels(timestep)
        if self.prediction_type == "epsilon":
            out = self.mixture.epsilon(sample, alpha, sigma)
        elif self.prediction_type == "sample":
            out = self.mixture.denoise(sample, alpha, sigma)
        elif self.prediction_type == "v_prediction":
            out = self.mixture.v_prediction(sample, alpha, sigma)
        else:
            out = self.mixture.velocity(sample, sigma)
        return AnalyticOutput(out) if return_dict else (out,)

    def extra_repr(self) -> str:
        """Shown by `print(model)`."""
        mixture = cast(GaussianMixture, self.mixture)
        return f"{self.prediction_type}, components={mixture.num_components}, rank={mixture.rank}"

"""Samplers on their grids, and a small analytic model to run them on."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import diffusers
import pytest
import torch
from torch import Tensor

from lmlangevin import with_lml
from lmlangevin.schedulers import presets

SHAPE = (2, 3, 4, 4)
STEPS = 8


@dataclass(frozen=True)
class Case:
    """A scheduler class with the configuration that makes it one sampler on one grid."""

    name: str
    class_name: str
    config: dict[str, Any] = field(default_factory=dict)

    @property
    def base(self) -> Any:
        return getattr(diffusers, self.class_name)

    @property
    def flow(self) -> bool:
        return self.class_name.startswith("FlowMatch")

    def build(self, lml: dict[str, Any] | None = None, **config: Any) -> Any:
        """The base, or with `lml` keys its LML version."""
        cls = self.base if lml is None else with_lml(self.base)
        with warnings.catch_warnings():
            # diffusers announces the end of algorithm_type="dpmsolver".
            warnings.simplefilter("ignore", FutureWarning)
            return cls(**{**self.config, **config}, **(lml or {}))


@dataclass
class Toy:
    """The exact denoiser of two Gaussian blobs at +m and -m, of standard deviation 0.2, for any event shape."""

    seed: int = 3

    def centre(self, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        g = torch.Generator().manual_seed(self.seed)
        m = torch.randn(math.prod(shape[1:]), generator=g, dtype=torch.float64)
        return (0.6 * m).view(1, *shape[1:]).to(dtype)

    def denoise(self, x: Tensor, alpha: float, sigma: float) -> Tensor:
        m = self.centre(tuple(x.shape), x.dtype)
        v = alpha**2 * 0.04 + sigma**2
        side = torch.tanh(alpha * (x * m).flatten(1).sum(1) / v).view(-1, *(1,) * (x.ndim - 1))
        mean = side * m
        return mean + alpha * 0.04 / v * (x - alpha * mean)

    def predict(self, kind: str, x: Tensor, alpha: float, sigma: float) -> Tensor:
        """The prediction of a kind at the sample x = alpha x0 + sigma eps."""
        x0 = self.denoise(x, alpha, sigma)
        if kind == "sample":
            return x0
        eps = (x - alpha * x0) / sigma
        if kind == "epsilon":
            return eps
        return alpha * eps - sigma * x0 if kind == "v_prediction" else eps - x0


def levels(scheduler: Any) -> list[tuple[float, float]]:
    """(alpha, sigma) of every planned step, as the solver itself sees them."""
    if not hasattr(scheduler, "sigmas"):
        abar = scheduler.alphas_cumprod[scheduler.timesteps].double()
        return [(math.sqrt(a), math.sqrt(1 - a)) for a in abar.tolist()]
    ratios = scheduler.sigmas.double().tolist()[: len(scheduler.timesteps)]
    if not hasattr(scheduler, "alphas_cumprod"):
        return [(1 - s, s) for s in ratios]
    return [(1 / math.sqrt(1 + s * s), s / math.sqrt(1 + s * s)) for s in ratios]


Run = Callable[..., list[Tensor]]


def run_sampler(
    scheduler: Any,
    steps: int | None = STEPS,
    *,
    shape: tuple[int, ...] = SHAPE,
    dtype: torch.dtype = torch.float32,
    seed: int = 0,
    edit: Callable[[int, Tensor], Tensor] | None = None,
    start: int = 0,
    **step_keys: Any,
) -> list[Tensor]:
    """Run the toy model through a scheduler; returns the sample after every step.

    `steps=None` leaves out set_timesteps; `edit(i, prediction)` replaces a prediction before the step.
    """
    if steps is not None:
        scheduler.set_timesteps(steps)
    if start:
        scheduler.set_begin_index(start)
    kind = getattr(scheduler.config, "prediction_type", "flow_prediction")
    g = torch.Generator().manual_seed(seed)
    scale = float(getattr(scheduler, "init_noise_sigma", 1.0))
    if start and hasattr(scheduler, "is_scale_input_called"):  # Euler carries x / alpha
        scale = 1 / levels(scheduler)[start][0]
    x = (torch.randn(shape, generator=g, dtype=torch.float64) * scale).to(dtype)
    toy, out = Toy(), []
    if "generator" in step_keys:
        step_keys["generator"] = torch.Generator().manual_seed(step_keys["generator"])
    for i, (t, (alpha, sigma)) in enumerate(zip(scheduler.timesteps, levels(scheduler), strict=True)):
        if i < start:
            continue
        scaled = scheduler.scale_model_input(x, t) if hasattr(scheduler, "scale_model_input") else x
        prediction = toy.predict(kind, scaled.double(), alpha, sigma).to(dtype)
        if edit is not None:
            prediction = edit(i, prediction)
        x = scheduler.step(prediction, t, x, **step_keys).prev_sample
        out.append(x)
    return out


SAMPLERS = [
    Case("ddim", "DDIMScheduler", {"clip_sample": False}),
    Case("pndm", "PNDMScheduler", {"skip_prk_steps": True}),
    Case("dpmpp-2m", "DPMSolverMultistepScheduler"),
    Case("dpmpp-3m", "DPMSolverMultistepScheduler", {"solver_order": 3}),
    Case(
        "dpm-3",
        "DPMSolverMultistepScheduler",
        {"solver_order": 3, "algorithm_type": "dpmsolver", "final_sigmas_type": "sigma_min"},
    ),
    Case("unipc", "UniPCMultistepScheduler"),
    Case("deis", "DEISMultistepScheduler"),
    Case("euler", "EulerDiscreteScheduler"),
    Case("flow", "FlowMatchEulerDiscreteScheduler", {"shift": 3.0}),
]


def _grids(case: Case) -> list[Case]:
    keys = case.base._get_init_keys(case.base)
    grids = [("", {})]
    if "timestep_spacing" in keys:
        grids = [(s, {"timestep_spacing": s}) for s in ("leading", "linspace", "trailing")]
    for grid, key in (
        ("karras", "use_karras_sigmas"),
        ("exponential", "use_exponential_sigmas"),
        ("beta", "use_beta_sigmas"),
        ("lu", "use_lu_lambdas"),
    ):
        if key in keys:
            grids.append((grid, {key: True}))
    return [Case(f"{case.name}-{grid}".rstrip("-"), case.class_name, {**case.config, **keys}) for grid, keys in grids]


GRIDS = [gridded for case in SAMPLERS for gridded in _grids(case)]
SDE = Case("sde-2m", "DPMSolverMultistepScheduler", {"algorithm_type": "sde-dpmsolver++"})


def _ids(case: Case) -> str:
    return case.name


@pytest.fixture(params=SAMPLERS, ids=_ids)
def sampler(request: pytest.FixtureRequest) -> Case:
    """Every named sampler on its default grid."""
    return request.param


@pytest.fixture(params=GRIDS, ids=_ids)
def gridded(request: pytest.FixtureRequest) -> Case:
    """Every named sampler on every grid that its class has."""
    return request.param


@pytest.fixture
def case() -> Callable[..., Case]:
    """A sampler by name, with further configuration keys."""

    def find(name: str, **config: Any) -> Case:
        known = {c.name: c for c in (*SAMPLERS, *GRIDS, SDE)}[name]
        return Case(name, known.class_name, {**known.config, **config})

    return find


@pytest.fixture
def run() -> Run:
    """`run_sampler`."""
    return run_sampler


@pytest.fixture
def toy() -> Toy:
    """The analytic model."""
    return Toy()


TABLE = {
    "version": "test-1",
    "gains": {
        "DDIMScheduler": {"leading": 0.5, "trailing": 0.25, "linspace": 0.125},
        "PNDMScheduler": {"leading": 0.375},
        "DPMSolverMultistepScheduler-dpmsolver++-2": {"linspace": 0.0625, "karras": 0, "lu": -0.125, "leading": 0.1875},
        "EulerDiscreteScheduler": {"linspace": 0.75, "karras": 0.3125},
        "DEISMultistepScheduler-deis-2": {"linspace": 0.4375},
        "UniPCMultistepScheduler-2": {"linspace": 0.15625},
        "FlowMatchEulerDiscreteScheduler": {"flow": 0.875, "karras": 0.21875},
    },
}  # fmt: skip


@pytest.fixture
def table(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """A table of presets of the tests' own, in place of the measured one."""
    monkeypatch.setattr(presets, "_table", lambda: TABLE)
    return TABLE

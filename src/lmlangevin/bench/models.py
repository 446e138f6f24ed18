"""The models of a benchmark, ready to be sampled, with what their samples are measured against."""

from __future__ import annotations

import functools
import hashlib
import os
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lmlangevin.bench.cells import Cell, find_calibrated, scheduler_config
from lmlangevin.bench.suite import Part
from lmlangevin.core.damping import CALIBRATED
from lmlangevin.core.errors import LMLError
from lmlangevin.evaluation import FrechetStatistics, feature_statistics
from lmlangevin.files import atomic_write
from lmlangevin.generation.images import to_uint8
from lmlangevin.generation.models import FLOW_CONFIG, VP_CONFIG
from lmlangevin.generation.sampling import sample, without_known_warnings
from lmlangevin.generation.seeds import start_images
from lmlangevin.schedulers.names import build_scheduler, find_scheduler

Advance = Callable[[int], None]
"""Told of network evaluations that are done."""

REFERENCE_SAMPLES = 6000
REFERENCE_SEED = 2**31
CONVERGED = Cell("dpmpp-3m", "trailing", "zero", 50)
"""What stands for the converged solution on a network: a third-order solver at 50 evaluations."""
RUNGE_KUTTA_STEPS = 40
IMAGE_SHAPE = (3, 32, 32)


def build(cell: Cell, model: str = "", **lml: Any) -> Any:
    """Build the scheduler of a cell.

    Args:
        cell: The cell.
        model: The part's model, whose calibration a calibrated cell executes.
        **lml: LML keys beside those of the cell; any make it an LML scheduler.

    Raises:
        LMLError: If the cell is calibrated, and no calibration of the model comes with the package.
    """
    entry = find_scheduler(cell.sampler)
    keys = ({"gain": cell.gain} if cell.gain else {}) | ({"control": cell.control} if cell.control else {}) | lml
    if cell.control == CALIBRATED:
        keys |= {"calibrated_steps": calibrated_steps(cell, model)}
    if cell.release:
        keys = {"gain": 1.0, "placement": "reference"}
    with without_known_warnings():
        scheduler = build_scheduler(
            cell.sampler, FLOW_CONFIG if entry.flow else VP_CONFIG, lml=keys or None, **scheduler_config(cell)
        )
    if cell.release:
        from lmlangevin.schedulers.release import release_scheduler

        dtype, _, damping = cell.release.partition("@")
        release_scheduler(scheduler, float(damping), getattr(torch, dtype))
    return scheduler


def calibrated_steps(cell: Cell, model: str) -> dict[str, Any]:
    """Return the schedule that a calibrated cell executes, as a scheduler's configuration holds it."""
    found = find_calibrated(model, cell.sampler, cell.nfe)
    if found is None:
        raise LMLError(
            f"cell={cell.key!r} has no calibration of model={model!r}; calibrate for it, or leave control=calibrated "
            "out of the arms."
        )
    return found[1].schedule.to_config()


class BenchModel(ABC):
    """A model of a part: it samples cells, and knows the features and solutions to compare with.

    Args:
        part: The part; its seeds, blocks and dtype are this model's.
        cache: Folder for converged solutions of networks, which take minutes; None keeps none.

    Attributes:
        batch: Images that are sampled at once.
        workers: Batches that are sampled side by side.
    """

    batch: int

    def __init__(self, part: Part, cache: Path | None = None) -> None:
        self.part = part
        self.dtype: torch.dtype = getattr(torch, part.dtype)
        # Small matrices and convolutions are faster on one core each, side by side, than each split over the cores.
        torch.set_num_threads(1)
        self.workers = os.cpu_count() or 1
        self._cache = cache
        self._networks: dict[bool, Any] = {}
        self._solutions: dict[bool, Tensor] = {}

    @abstractmethod
    def identity(self) -> str:
        """Return a hash that changes with the model's weights or parameters."""

    @abstractmethod
    def features(self, images: Tensor) -> FrechetStatistics:
        """Return statistics of images in the part's feature space."""

    @abstractmethod
    def solution_evaluations(self) -> int:
        """Return the evaluations that one converged solution costs."""

    @abstractmethod
    def _load(self, *, flow: bool) -> Any: ...

    @abstractmethod
    def _solve(self, advance: Advance | None, *, flow: bool) -> Tensor: ...

    @abstractmethod
    def _measure_reference(self) -> FrechetStatistics: ...

    def network(self, *, flow: bool) -> Any:
        """Return what is called as `network(x, t)`."""
        if flow not in self._networks:
            self._networks[flow] = self._load(flow=flow)
        return self._networks[flow]

    def solution(self, *, flow: bool, advance: Advance | None = None) -> Tensor:
        """Return the converged solutions from the same noise, (blocks * images, *shape)."""
        if flow not in self._solutions:
            self._solutions[flow] = self._solve(advance, flow=flow)
        return self._solutions[flow]

    @functools.cached_property
    def reference(self) -> FrechetStatistics:
        """Statistics of what the images should be like."""
        return self._measure_reference()

    @functools.cached_property
    def noise(self) -> Tensor:
        """The initial noise of all images, block after block."""
        return start_images(self.seeds, IMAGE_SHAPE)[0]

    @property
    def seeds(self) -> list[int]:
        """One seed an image: consecutive, so that the blocks are disjoint."""
        return list(range(self.part.first_seed, self.part.first_seed + self.part.blocks * self.part.images))

    def sample(self, cell: Cell, advance: Advance | None = None, count: int | None = None) -> Tensor:
        """Sample a cell.

        Args:
            cell: The cell.
            advance: Told of evaluations as they are done.
            count: Number of images, from the first seed; None is all.

        Returns:
            Images in [-1, 1] up to overshoot, float32, (images, 3, 32, 32).
        """
        entry = find_scheduler(cell.sampler)
        steps = entry.steps_for(cell.nfe)
        extra = {"eta": cell.eta} if cell.eta else {}
        network = self.network(flow=entry.flow)

        def one(seeds: list[int]) -> Tensor:
            noise, generators = start_images(seeds, IMAGE_SHAPE)
            # A scheduler of its own: batches run side by side.
            images = sample(
                network,
                build(cell, self.part.model),
                noise,
                generators,
                steps=steps,
                dtype=self.dtype,
                step_arguments=extra,
            )
            if advance is not None:
                advance(cell.nfe * len(seeds))
            return images

        seeds = self.seeds[:count]
        batches = [seeds[start : start + self.batch] for start in range(0, len(seeds), self.batch)]
        with ThreadPoolExecutor(self.workers) as pool:
            return torch.cat(list(pool.map(one, batches)))

    def speed(self) -> float:
        """Measure the evaluations a second, over all cores, in about two seconds."""
        noise = self.noise[:1].expand(self.batch, -1, -1, -1)
        network = self.network(flow=False)

        @torch.inference_mode()
        def one(index: int) -> None:
            del index
            network(noise.to(self.dtype), torch.tensor(500))

        with ThreadPoolExecutor(self.workers) as pool:
            list(pool.map(one, range(self.workers)))
            began, rounds = time.perf_counter(), 0
            while time.perf_counter() - began < 1.5:
                list(pool.map(one, range(2 * self.workers)))
                rounds += 2 * self.workers
            return rounds * self.batch / (time.perf_counter() - began)


class AnalyticBench(BenchModel):
    """A Gaussian mixture with the exact score, in random features, against its own exact samples."""

    batch = 64

    @functools.cached_property
    def mixture(self) -> Any:
        """The mixture: the asset of the model's name, or that of its file."""
        from lmlangevin.reference import GaussianMixture, load_analytic

        if self.part.mixture is None:
            return load_analytic(self.part.model)
        if self.part.absent:
            raise LMLError(self.part.absent)
        mixture = GaussianMixture.load(self.part.mixture)
        if tuple(mixture.event_shape) != IMAGE_SHAPE:
            raise LMLError(
                f"model={self.part.model!r} is a mixture of the shape {tuple(mixture.event_shape)}; give one of "
                f"{IMAGE_SHAPE}, as tools/fit_mixture.py fits."
            )
        return mixture

    def identity(self) -> str:
        """Hash the mixture's weights and means, or its whole file: those of another rank can have the same means."""
        mixture = self.mixture  # which says so if there is no file
        if self.part.mixture is not None:
            return hashlib.sha256(self.part.mixture.read_bytes()).hexdigest()[:16]
        digest = hashlib.sha256()
        for tensor in (mixture.weights, mixture.means):
            digest.update(tensor.double().numpy().tobytes())
        return digest.hexdigest()[:16]

    def _load(self, *, flow: bool) -> Any:
        from lmlangevin.reference import AnalyticModel

        return AnalyticModel(self.mixture, "flow_prediction" if flow else "epsilon")

    @functools.cached_property
    def _extractor(self) -> Any:
        from lmlangevin.evaluation import random_features

        return random_features()

    def features(self, images: Tensor) -> FrechetStatistics:
        """Return statistics in random features, of images as they are: the mixture's are not clipped either."""
        return feature_statistics(self._extractor, images, protocol=self.part.model_name)

    def _measure_reference(self) -> FrechetStatistics:
        generator = torch.Generator().manual_seed(REFERENCE_SEED)
        return self.features(self.mixture.sample(REFERENCE_SAMPLES, generator))

    def _solve(self, advance: Advance | None, *, flow: bool) -> Tensor:
        return self.exact(self.noise, "flow" if flow else "vp", advance=advance)

    def solution_evaluations(self) -> int:
        """Four a step."""
        return 4 * RUNGE_KUTTA_STEPS

    def exact(
        self,
        noise: Tensor,
        path: str = "vp",
        *,
        steps: int | None = None,
        advance: Advance | None = None,
        **ends: Any,
    ) -> Tensor:
        """Solve the ODE, in batches side by side; `ends` go to `converged_solution`."""
        from lmlangevin.reference import converged_solution

        steps = steps or RUNGE_KUTTA_STEPS

        def one(part: Tensor) -> Tensor:
            with torch.inference_mode():
                out = converged_solution(self.mixture, part, path=path, steps=steps, **ends)
            if advance is not None:
                advance(4 * steps * len(part))
            return out

        with ThreadPoolExecutor(self.workers) as pool:
            return torch.cat(list(pool.map(one, noise.split(self.batch))))


class EmbeddedBench(BenchModel):
    """The embedded network, in the classifier's features, against the CIFAR-10 training set."""

    batch = 32

    def identity(self) -> str:
        """Hash the weights' file."""
        from importlib import resources

        asset = resources.files("lmlangevin") / "assets" / "embedded" / "unet" / "diffusion_pytorch_model.safetensors"
        return hashlib.sha256(asset.read_bytes()).hexdigest()[:16]

    def _load(self, *, flow: bool) -> Any:
        from lmlangevin.generation.config import GenerateConfig
        from lmlangevin.generation.models import load_model

        config = GenerateConfig(out=Path("unused"), dtype=self.part.dtype)
        return load_model(config, flow=flow).networks[0]

    @functools.cached_property
    def _extractor(self) -> Any:
        from lmlangevin.evaluation import load_feature_network

        return load_feature_network()

    def features(self, images: Tensor) -> FrechetStatistics:
        """Return statistics of the images as they would be saved."""
        return feature_statistics(self._extractor, to_uint8(images), protocol=self.reference.protocol, batch_size=250)

    def _measure_reference(self) -> FrechetStatistics:
        from lmlangevin.evaluation import load_reference_statistics

        return load_reference_statistics()

    def _solve(self, advance: Advance | None, *, flow: bool) -> Tensor:
        # A network has no exact solution: that of a fine third-order solver, from the cache where it is there.
        del flow
        if self._cache is None:
            return self.sample(CONVERGED, advance)
        from safetensors.torch import load_file, save

        words = (
            self.identity(),
            self.part.dtype,
            self.part.first_seed,
            len(self.seeds),
            CONVERGED.key,
            torch.__version__,
        )
        path = self._cache / f"solution-{hashlib.sha256(repr(words).encode()).hexdigest()[:16]}.safetensors"
        if path.is_file():
            return load_file(path)["solution"]
        images = self.sample(CONVERGED, advance).contiguous()
        with atomic_write(path) as part:
            part.parent.mkdir(parents=True, exist_ok=True)
            part.write_bytes(save({"solution": images}))
        return images

    def solution_evaluations(self) -> int:
        """One a step."""
        return CONVERGED.nfe


def load_bench_model(part: Part, cache: Path | None = None) -> BenchModel:
    """Return the model of a part."""
    return EmbeddedBench(part, cache) if part.model == "embedded" else AnalyticBench(part, cache)

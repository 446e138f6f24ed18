"""What the correction costs: `python benchmarks/overhead.py [cpu|gpu]`, ratios measured in one run, interleaved.

Every row calls ours and the base in turn and takes the median of the ratio of neighbours, so that what slows the
machine slows both. Tensors come from a pool that is larger than the caches, as predictions are between which a network
has run.
"""

from __future__ import annotations

import argparse
import collections
import functools
import itertools
import platform
import statistics
import tempfile
import time
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from rich.progress import track
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from _common import RESULTS, VP_CONFIG, embedded_network, noise_for, save
from lmlangevin.core import LMLConfig, LMLState, correct
from lmlangevin.generation.config import GenerateConfig
from lmlangevin.generation.job import generate
from lmlangevin.generation.sampling import sample, without_known_warnings
from lmlangevin.schedulers import build_scheduler
from lmlangevin.schedulers.release import textbook_direction

FIRST_SEED = 9_000_000
POOL_BYTES = 256 * 2**20
SHAPES = [
    (256, 3, 32, 32), (1, 4, 64, 64), (8, 4, 64, 64), (1, 4, 128, 128), (8, 4, 128, 128), (1, 4096, 64),
    (1, 16, 21, 60, 104),
]  # fmt: skip
GROWTH = [(b, 4, 128, 128) for b in (1, 8, 64)] + [(8, 4, s, s) for s in (64, 256)]
DTYPES = ("float32", "bfloat16", "float16")
SAMPLERS = ("ddim", "euler", "dpmpp-2m", "unipc")
LAMBDA = 1e-3
CONFIG = LMLConfig(gain=0.3)


class Clock:
    """Times calls on a device.

    Args:
        device: `"cpu"` or `"cuda"`.
    """

    def __init__(self, device: str) -> None:
        self._sync = torch.cuda.synchronize if device == "cuda" else lambda: None

    def once(self, call: Callable[[], Any]) -> float:
        """Return the seconds of one call."""
        self._sync()
        began = time.perf_counter()
        call()
        self._sync()
        return time.perf_counter() - began

    def interleaved(self, calls: dict[str, Callable[[], Any]], seconds: float) -> dict[str, list[float]]:
        """Call all in turn, for about so many seconds and five times at least, after two rounds to warm up.

        Every round begins with another one, or what each call leaves in the caches would always meet the same next.
        """
        for call in (*calls.values(), *calls.values()):
            call()
        times: dict[str, list[float]] = {name: [] for name in calls}
        order = collections.deque(calls)
        began = time.perf_counter()
        while len(next(iter(times.values()))) < 5 or time.perf_counter() - began < seconds:
            for name in order:
                times[name].append(self.once(calls[name]))
            order.rotate(1)
        return times


def spread(values: list[float]) -> dict[str, float]:
    """Return the median and the quartiles."""
    low, middle, high = statistics.quantiles(values, n=4)
    return {"median": middle, "low": low, "high": high, "n": len(values)}


def ratio(times: dict[str, list[float]], ours: str, base: str) -> dict[str, float]:
    """Return the spread of the ratio of neighbouring calls."""
    return spread([a / b for a, b in zip(times[ours], times[base], strict=True)])


def pool(shape: tuple[int, ...], dtype: torch.dtype, device: str, rank: int) -> Iterator[tuple[Tensor, LMLState]]:
    """Yield, for ever, predictions with the state of a run before them, from more memory than the caches have."""
    generator = torch.Generator().manual_seed(FIRST_SEED)
    size = torch.Size(shape).numel() * dtype.itemsize * (1 + rank)
    count = min(64, max(2, -(-POOL_BYTES // size)))
    config = LMLConfig(gain=0.3, rank=rank)
    made = []
    for _ in range(count):
        state = LMLState()
        for _ in range(rank):
            _, state, _ = correct(torch.randn(shape, generator=generator).to(device, dtype), state, config)
        made.append((torch.randn(shape, generator=generator).to(device, dtype), state))
    return itertools.cycle(made)


class Live(TorchDispatchMode):
    """Tracks the bytes of tensors that operations have made and that are still there, and their peak."""

    def __init__(self, known: list[Tensor]) -> None:
        super().__init__()
        self.now = self.peak = 0
        # Views of what was there before are nothing new.
        self._seen: set[int] = {tensor.untyped_storage()._cdata for tensor in known}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for tensor in out if isinstance(out, (list, tuple)) else [out]:
            if isinstance(tensor, Tensor) and tensor.device.type != "meta":
                self._add(tensor.untyped_storage())
        return out

    def _add(self, storage: Any) -> None:
        key, size = storage._cdata, storage.nbytes()
        if key in self._seen:
            return
        self._seen.add(key)
        self.now += size
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, self._drop, key, size)

    def _drop(self, key: int, size: int) -> None:
        self._seen.discard(key)
        self.now -= size


def extra_memory(prediction: Tensor, state: LMLState, config: LMLConfig) -> dict[str, float]:
    """Return what one correction allocates at its peak and keeps at its end, in sizes of the prediction."""
    size = prediction.numel() * prediction.element_size()
    if prediction.device.type == "cuda":
        torch.cuda.synchronize()
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        held = correct(prediction, state, config)
        peak, now = torch.cuda.max_memory_allocated() - before, torch.cuda.memory_allocated() - before
    else:
        with Live([prediction, *state.previous]) as live:
            held = correct(prediction, state, config)
        peak, now = live.peak, live.now
    del held
    return {"peak": peak / size, "kept": now / size}


def correction_row(
    shape: tuple[int, ...], name: str, device: str, clock: Clock, compiled: Any, seconds: float, rank: int = 1
) -> dict[str, Any]:
    """Measure one shape: the correction, eager and compiled, against a clone and against the release's formula."""
    dtype: torch.dtype = getattr(torch, name)
    config = LMLConfig(gain=0.3, rank=rank)
    source = pool(shape, dtype, device, rank)
    calls: dict[str, Callable[[], Any]] = {
        "clone": lambda: next(source)[0].clone(),
        "eager": lambda: correct(*next(source), config),
        "release": lambda: textbook_direction(next(source)[0], LAMBDA),
    }
    if compiled is not None:
        calls["compiled"] = lambda: compiled(*next(source), config)
    times = clock.interleaved(calls, seconds)
    numel = torch.Size(shape).numel()
    # A clone is two transfers. The correction reads 1 + r tensors twice and writes the result and the copy.
    transfers = 2 * (1 + rank) + 2
    row: dict[str, Any] = {
        "shape": list(shape),
        "dtype": name,
        "rank": rank,
        "bytes": numel * dtype.itemsize,
        "transfers": transfers,
        "clone_microseconds": spread([1e6 * t for t in times["clone"]]),
        "memory": extra_memory(*next(source), config),
    }
    for kind in ("eager", "compiled"):
        if kind in times:
            floor = [t * transfers / 2 for t in times["clone"]]
            row[kind] = {
                "microseconds": spread([1e6 * t for t in times[kind]]),
                "of_floor": spread([a / b for a, b in zip(times[kind], floor, strict=True)]),
                "of_clone": ratio(times, kind, "clone"),
                "release_over_ours": ratio(times, "release", kind),
            }
    return row


def step_row(sampler: str, shape: tuple[int, ...], device: str, clock: Clock, seconds: float) -> dict[str, Any]:
    """Measure a scheduler's whole runs of 8 steps without a network, with LML and without."""
    source = itertools.cycle([torch.randn(shape, device=device) for _ in range(16)])

    def run(scheduler: Any) -> None:
        scheduler.set_timesteps(8, device=device)
        x = next(source)
        for t in scheduler.timesteps:
            x = scheduler.step(next(source), t, x, return_dict=False)[0]

    with without_known_warnings():
        plain, lml = (build_scheduler(sampler, VP_CONFIG, lml=lml) for lml in (None, {"gain": 0.3}))
    times = clock.interleaved({"plain": lambda: run(plain), "lml": lambda: run(lml)}, seconds)
    return {
        "sampler": sampler,
        "shape": list(shape),
        "plain_microseconds_a_step": spread([1e6 * t / 8 for t in times["plain"]]),
        "lml_over_plain": ratio(times, "lml", "plain"),
        "added_microseconds_a_step": spread(
            [1e6 * (a - b) / 8 for a, b in zip(times["lml"], times["plain"], strict=True)]
        ),
    }


def generation_rows(device: str, clock: Clock, seconds: float) -> list[dict[str, Any]]:
    """Measure whole generations on the embedded model, and on a UNet of SDXL's size where there is a GPU."""
    rows = [
        _generation("embedded", embedded_network().to(device), (32, 3, 32, 32), {}, device, clock, seconds),
        _job(device, clock, seconds),
    ]
    if device == "cuda":
        network, arguments = _sdxl_network()
        rows.append(_generation("SDXL-sized", network, (1, 4, 128, 128), arguments, device, clock, seconds))
    return rows


def _generation(
    title: str,
    network: Any,
    shape: tuple[int, ...],
    arguments: dict[str, Any],
    device: str,
    clock: Clock,
    seconds: float,
) -> dict[str, Any]:
    dtype = next(network.parameters()).dtype
    noise = noise_for(range(FIRST_SEED, FIRST_SEED + shape[0]), shape[1:])

    def called(x: Tensor, t: Tensor) -> Any:
        return network(x, t, **arguments)

    with without_known_warnings():
        arms = {
            "plain": build_scheduler("ddim", VP_CONFIG),
            "constant": build_scheduler("ddim", VP_CONFIG, lml={"gain": 0.7}),
            "adaptive": build_scheduler("ddim", VP_CONFIG, lml={"control": "adaptive"}),
        }
    calls: dict[str, Callable[[], Any]] = {
        name: lambda scheduler=scheduler: sample(called, scheduler, noise, [], steps=8, dtype=dtype, device=device)
        for name, scheduler in arms.items()
    }
    return _generation_row(title, shape, dtype, clock.interleaved(calls, seconds))


def _job(device: str, clock: Clock, seconds: float) -> dict[str, Any]:
    """Measure what `lml generate` does: the samples, the record of every step, the files."""
    common: dict[str, Any] = {
        "scheduler": "ddim", "steps": 8, "num_images": 96, "batch_size": 32, "seed": FIRST_SEED, "device": device,
        "overwrite": True,
    }  # fmt: skip
    arms: dict[str, dict[str, Any]] = {
        "plain": {"lml": False}, "constant": {"gain": 0.7}, "adaptive": {"control": "adaptive"},
    }  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        calls: dict[str, Callable[[], Any]] = {
            name: functools.partial(generate, GenerateConfig(out=Path(folder) / name, **common, **arm))
            for name, arm in arms.items()
        }
        times = clock.interleaved(calls, seconds)
    return _generation_row("embedded, by `lml generate`, 96 images", (32, 3, 32, 32), torch.float32, times)


def _generation_row(
    title: str, shape: tuple[int, ...], dtype: torch.dtype, times: dict[str, list[float]]
) -> dict[str, Any]:
    return {
        "model": title,
        "shape": list(shape),
        "sampler": "ddim",
        "steps": 8,
        "dtype": str(dtype).removeprefix("torch."),
        "plain_seconds": spread(times["plain"]),
        "constant_over_plain": ratio(times, "constant", "plain"),
        "adaptive_over_plain": ratio(times, "adaptive", "plain"),
        "plain_over_plain": spread([b / a for a, b in itertools.pairwise(times["plain"])]),
    }


def _sdxl_network() -> tuple[Any, dict[str, Any]]:
    from diffusers import UNet2DConditionModel

    torch.manual_seed(FIRST_SEED)
    network = UNet2DConditionModel(
        sample_size=128,
        block_out_channels=(320, 640, 1280),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        transformer_layers_per_block=(1, 2, 10),
        attention_head_dim=(5, 10, 20),
        cross_attention_dim=2048,
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=256,
        projection_class_embeddings_input_dim=2816,
    )
    network = network.to("cuda", torch.float16).eval().requires_grad_(False)
    like = {"device": "cuda", "dtype": torch.float16}
    extra = {"text_embeds": torch.randn(1, 1280, **like), "time_ids": torch.zeros(1, 6, **like)}
    return network, {"encoder_hidden_states": torch.randn(1, 77, 2048, **like), "added_cond_kwargs": extra}


def main() -> None:
    """Measure everything on one kind of device and write its result file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("device", nargs="?", default="cpu", choices=["cpu", "gpu"])
    parser.add_argument("--seconds", type=float, default=1.5, help="of each row")
    parser.add_argument("--no-compile", action="store_true", help="leave the compiled rows out")
    given = parser.parse_args()
    device = "cuda" if given.device == "gpu" else "cpu"
    if device == "cuda" and not torch.cuda.is_available():
        parser.error("torch finds no GPU here; the rows stay 'not measured'")
    clock = Clock(device)
    compiled = None
    if not given.no_compile:
        torch._dynamo.config.cache_size_limit = 64
        compiled = torch.compile(correct, fullgraph=True, dynamic=True)
    with torch.inference_mode():
        rows = [
            correction_row(shape, name, device, clock, compiled, given.seconds)
            for shape, name in track(list(itertools.product(SHAPES, DTYPES)), description="shapes")
        ]
        growth = [
            correction_row(shape, "float32", device, clock, compiled, given.seconds)
            for shape in track(GROWTH, description="growth")
        ]
        ranks = [
            correction_row((8, 4, 128, 128), "float32", device, clock, compiled, given.seconds, rank)
            for rank in track((1, 2, 3, 4), description="ranks")
        ]
        steps = [
            step_row(sampler, shape, device, clock, given.seconds)
            for sampler, shape in track(
                list(itertools.product(SAMPLERS, [(1, 4, 64, 64), (32, 3, 32, 32)])), description="steps"
            )
        ]
        generations = generation_rows(device, clock, 250 * given.seconds)  # a call takes about a second
    name = torch.cuda.get_device_name() if device == "cuda" else platform.processor() or platform.machine()
    save(
        RESULTS / f"overhead_{given.device}.json",
        {
            "device": name,
            "threads": torch.get_num_threads(),
            "first_seed": FIRST_SEED,
            "seconds": given.seconds,
            "pool_bytes": POOL_BYTES,
            "rows": rows,
            "growth": growth,
            "ranks": ranks,
            "steps": steps,
            "generations": generations,
        },
    )


if __name__ == "__main__":
    main()

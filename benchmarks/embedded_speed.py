"""How fast the embedded network runs, and what bfloat16 does to its images: `python benchmarks/embedded_speed.py`.

Evaluations a second by batch size, memory layout and precision, every arm in turn in one process, and the Frechet
distance of the same seeds in float32 and bfloat16 by blocks of seeds. bfloat16 is fast where the processor has
instructions for it; the result file says which this one has.
"""

from __future__ import annotations

import argparse
import functools
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from rich.progress import Progress
from torch import Tensor

from _common import RESULTS, embedded_network, frechet, make, noise_for, rmse, save
from lmlangevin.evaluation import load_feature_network, load_reference_statistics
from lmlangevin.generation.config import GenerateConfig
from lmlangevin.generation.images import to_uint8
from lmlangevin.generation.models import load_model
from lmlangevin.generation.sampling import sample

BATCHES = (1, 8, 16, 32, 64)
INSTRUCTIONS = ("avx2", "avx512f", "avx512_bf16", "amx_bf16", "bf16")
STUDY = {"sampler": "ddim", "grid": "trailing", "nfe": 8, "gain": 0.7, "batch": 32}
"""What the images of the two precisions are made with."""

Call = Callable[[Tensor, Tensor], Any]


def instructions() -> list[str]:
    """Return the processor's instruction sets that matter here, where the system tells."""
    path = Path("/proc/cpuinfo")
    words = set(path.read_text().split()) if path.exists() else set()
    return [name for name in INSTRUCTIONS if name in words]


def arms(compiled: bool) -> dict[str, Call]:
    """The network as `lml generate` runs it, and what might be faster."""
    last, first, half = embedded_network(), embedded_network(), half_network()
    first = first.to(memory_format=torch.contiguous_format)

    def autocast(x: Tensor, t: Tensor) -> Any:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return last(x, t)

    found: dict[str, Call] = {
        "float32": last,
        "float32, channels first": first,
        "bfloat16": lambda x, t: half(x.bfloat16(), t),
        "bfloat16 autocast": autocast,
    }
    if compiled:
        other = embedded_network()
        other.forward = torch.compile(other.forward, dynamic=False)
        found["float32, compiled"] = other
    return found


def half_network() -> Any:
    """Return the network of `lml generate --dtype bfloat16`."""
    return load_model(GenerateConfig(out=Path("unused"), dtype="bfloat16"), flow=False).networks[0]


def speeds(calls: dict[str, Call], batch: int, seconds: float) -> list[dict[str, Any]]:
    """Return a row an arm: evaluations a second of calls in turn, three each at least, after one to warm up."""
    x, t = noise_for(range(batch)), torch.tensor(500)
    for call in calls.values():
        call(x, t)
    found: dict[str, list[float]] = {name: [] for name in calls}
    began = time.perf_counter()
    while len(found["float32"]) < 3 or time.perf_counter() - began < seconds:
        for name, call in calls.items():
            start = time.perf_counter()
            call(x, t)
            found[name].append(batch / (time.perf_counter() - start))
    rows = []
    for name, values in found.items():
        low, middle, high = statistics.quantiles(values, n=4)
        times = [a / b for a, b in zip(values, found["float32"], strict=True)]
        row = {"arm": name, "batch": batch, "rate": {"median": middle, "low": low, "high": high}}
        rows.append(row | {"of_float32": statistics.median(times)})
    return rows


def images(network: Any, noise: Tensor, dtype: torch.dtype, advance: Callable[[int], None]) -> Tensor:
    """Sample with the study's sampler."""
    made = []
    for block in noise.split(STUDY["batch"]):
        scheduler = make(STUDY["sampler"], STUDY["grid"], STUDY["gain"])
        made.append(sample(network, scheduler, block, [], steps=STUDY["nfe"], dtype=dtype))
        advance(len(block))
    return torch.cat(made)


def main() -> None:
    """Measure every arm and write the result file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=5.0, help="of each batch size")
    parser.add_argument("--num-images", type=int, default=600)
    parser.add_argument("--blocks", type=int, default=4, help="disjoint seed blocks for the spread")
    parser.add_argument("--first-seed", type=int, default=11_000_000)
    parser.add_argument("--no-compile", action="store_true", help="leave the compiled arm out")
    args = parser.parse_args()
    rows: list[dict[str, Any]] = []
    with torch.inference_mode(), Progress() as progress:
        calls = arms(compiled=not args.no_compile)
        task = progress.add_task("speed", total=len(BATCHES))
        for batch in BATCHES:
            rows += speeds(calls, batch, args.seconds)
            progress.advance(task)
        noise = noise_for(range(args.first_seed, args.first_seed + args.num_images))
        task = progress.add_task("images", total=2 * args.num_images)
        advance = functools.partial(progress.advance, task)
        last = embedded_network()
        full = images(last, noise, torch.float32, advance)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            short = images(last, noise, torch.float32, advance)
    classifier, reference = load_feature_network(), load_reference_statistics()
    size = args.num_images // args.blocks
    distances = {
        name: [frechet(to_uint8(block), classifier, reference) for block in made.split(size)]
        for name, made in (("float32", full), ("bfloat16 autocast", short))
    }
    payload = {
        "processor": platform.processor() or platform.machine(),
        "instructions": instructions(),
        "threads": torch.get_num_threads(),
        "first_seed": args.first_seed,
        "num_images": args.num_images,
        "study": STUDY,
        "rows": rows,
        "fd_blocks": distances,
        "rmse_between": rmse(full, short),
    }
    save(RESULTS / "embedded_speed.json", payload)


if __name__ == "__main__":
    main()

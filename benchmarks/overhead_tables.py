"""The tables of docs/overhead.md; `benchmarks/tables.py` writes them."""

from __future__ import annotations

import json
import statistics
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"


def _overhead(device: str) -> dict[str, Any] | None:
    path = RESULTS / f"overhead_{device}.json"
    return json.loads(path.read_text()) if path.exists() else None


def _times(value: dict[str, float], digits: int = 1) -> str:
    return f"{value['median']:.{digits}f} ({value['low']:.{digits}f} to {value['high']:.{digits}f})"


def overhead_table() -> str:
    """The correction against a clone and against the release's formula."""
    lines = [
        "| device | shape | dtype | MiB | clone, µs | eager, of the floor | compiled, of the floor "
        "| release / eager | release / compiled |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for device in ("cpu", "gpu"):
        data = _overhead(device)
        if data is None:
            lines.append(f"| {device.upper()} | not measured | | | | | | | |")
            continue
        for row in data["rows"]:
            shape = "x".join(map(str, row["shape"]))
            kinds = [row.get(kind) for kind in ("eager", "compiled")]
            cells = [_times(kind["of_floor"]) if kind else "not measured" for kind in kinds]
            cells += [_times(kind["release_over_ours"], 2) if kind else "not measured" for kind in kinds]
            lines.append(
                f"| {device.upper()} | {shape} | {row['dtype']} | {row['bytes'] / 2**20:.2f} "
                f"| {row['clone_microseconds']['median']:.0f} | {' | '.join(cells)} |"
            )
    data = _overhead("cpu")
    assert data is not None
    note = (
        f"Median and quartiles of neighbouring calls, {data['threads']} threads, torch {data['versions']['torch']}, "
        f"tensors from a pool of {data['pool_bytes'] // 2**20} MiB, seed {data['first_seed']}. The floor is six "
        "transfers of the tensor at the bandwidth of the clone, which is two: two tensors read twice, the result and "
        "the copy of the prediction written. The last columns are the time of the release's formula over ours: above 1 "
        "ours is faster."
    )
    return "\n".join([*lines, "", note, "", f"Made by `{data['command']}`."])


def overhead_steps_table() -> str:
    """Whole steps of a scheduler, whole generations and memory."""
    data = _overhead("cpu")
    assert data is not None
    lines = ["| what | plain | with LML | added |", "|---|---|---|---|"]
    for row in data["steps"]:
        plain, added = row["plain_microseconds_a_step"], row["added_microseconds_a_step"]
        shape = "x".join(map(str, row["shape"]))
        lines.append(
            f"| step of {row['sampler']}, {shape} | {plain['median']:.0f} µs "
            f"| {row['lml_over_plain']['median']:.1f} times | {added['median']:.0f} µs |"
        )
    for row in data["generations"]:
        for arm in ("constant", "adaptive"):
            ratio = row[f"{arm}_over_plain"]
            lines.append(
                f"| {row['model']}, {row['steps']} steps of {row['sampler']}, batch {row['shape'][0]}, {arm} "
                f"| {row['plain_seconds']['median']:.2f} s | {ratio['median']:.3f} ({ratio['low']:.3f} to "
                f"{ratio['high']:.3f}) times | {100 * (ratio['median'] - 1):+.1f}% |"
            )
    ranks = ", ".join(
        f"{row['compiled']['of_floor']['median']:.1f} (rank {row['rank']})"
        for row in data["ranks"]
        if "compiled" in row
    )
    growth = "; ".join(
        "x".join(map(str, row["shape"]))
        + " "
        + " and ".join(f"{row[kind]['of_floor']['median']:.1f}" for kind in ("eager", "compiled") if kind in row)
        for row in data["growth"]
    )
    memory = max((row["memory"] for row in data["rows"] if row["bytes"] >= 4 * 2**20), key=lambda m: m["peak"])
    note = (
        f"The same run as above. Compiled, of the floor by rank, 8x4x128x128 float32: {ranks}. Eager and "
        f"compiled, of the floor, with batch and pixels, float32: {growth}. Memory of a correction "
        f"at 4 MiB and more: {memory['kept']:.2f} predictions stay (the result and the copy), {memory['peak']:.2f} at "
        "the peak, of which what exceeds them is the buffers of a block and does not grow."
    )
    return "\n".join([*lines, "", note])


def embedded_speed_table() -> str:
    """Evaluations a second of the embedded network."""
    data = json.loads((RESULTS / "embedded_speed.json").read_text())
    batches = list(dict.fromkeys(row["batch"] for row in data["rows"]))
    rates: dict[str, dict[int, float]] = {}
    for row in data["rows"]:
        rates.setdefault(row["arm"], {})[row["batch"]] = row["rate"]["median"]
    lines = ["| batch | " + " | ".join(map(str, batches)) + " |", "|---" * (len(batches) + 1) + "|"]
    for arm, found in rates.items():
        lines.append(f"| {arm} | " + " | ".join(f"{found[batch]:.0f}" for batch in batches) + " |")
    full, half = data["fd_blocks"].values()
    apart = [b - a for a, b in zip(full, half, strict=True)]
    study = data["study"]
    note = (
        f"Evaluations a second, medians of calls in turn, {data['threads']} threads, of this processor's instruction "
        f"sets {', '.join(data['instructions'])}. {study['nfe']} steps of {study['sampler']} with gain {study['gain']} "
        f"on {data['num_images']} seeds from {data['first_seed']}, {len(full)} blocks: Frechet distance "
        f"{statistics.mean(full):.2f} ± {statistics.stdev(full):.2f} in float32, {statistics.mean(half):.2f} ± "
        f"{statistics.stdev(half):.2f} in bfloat16 (autocast), paired difference {statistics.mean(apart):+.3f} ± "
        f"{statistics.stdev(apart):.3f}; the images are {data['rmse_between']:.3f} apart (RMSE, of a range of 2)."
    )
    return "\n".join([*lines, "", note, "", f"Made by `{data['command']}`."])


TABLES = {
    "overhead": overhead_table,
    "overhead-steps": overhead_steps_table,
    "embedded-speed": embedded_speed_table,
}

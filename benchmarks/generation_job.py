"""Whether `lml generate` keeps what it has made when it is killed, and what many images cost it.

    python benchmarks/generation_job.py kill
    python benchmarks/generation_job.py memory

`kill` makes 500 images once without a break, and once more while the process is killed with SIGKILL 20 times at
random moments, each time resumed; at the end both jobs must agree in every pixel and every noise hash. `memory` makes
1,000 and 10,000 images in 8 evaluations, in one process and in two, and reports the largest resident memory of any
process and the time, with the straight line through both counts for 50,000. Both write to
`benchmarks/results/generation_job.json`.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from PIL import Image

from _common import RESULTS, save

OUTPUT = RESULTS / "generation_job.json"
FIRST_SEED = 3_000_000
KILL_SEED = 20
POLL = 0.001


def command(out: Path, count: int, batch: int, *options: str) -> list[str]:
    """Return the options of a job of the embedded model."""
    sizes = ["--num-images", str(count), "--batch-size", str(batch), "--seed", str(FIRST_SEED)]
    return ["generate", "--timestep-spacing", "trailing", *sizes, *options, "--out", str(out)]


def start(arguments: list[str], processes: int = 1, threads: int | None = None) -> subprocess.Popen[str]:
    """Start `lml`, alone or under the launcher; None leaves the threads of each process to torch."""
    if processes == 1:
        line = [sys.executable, "-m", "lmlangevin", *arguments]
    else:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        # Without GPUs too: `--cpu` would start one process.
        line = [str(Path(sys.executable).with_name("accelerate")), "launch", "--multi_gpu", "--num_machines", "1"]
        line += ["--num_processes", str(processes), "--main_process_port", str(port), "--mixed_precision", "no"]
        line += ["--dynamo_backend", "no", "-m", "lmlangevin", *arguments]
    environment = os.environ | ({} if threads is None else {"OMP_NUM_THREADS": str(threads)})
    return subprocess.Popen(line, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def finish(process: subprocess.Popen[str]) -> str:
    """Wait for a job that must succeed, and return what it said."""
    said, error = process.communicate()
    if process.returncode:
        raise SystemExit(f"the job failed with code {process.returncode}: {error}")
    return said


def recorded(out: Path) -> set[int]:
    """Return the images that the folder's records call finished."""
    found: set[int] = set()
    for path in out.glob("records/*.json"):
        for record in json.loads(path.read_text(encoding="utf-8"))["records"]:
            found.update(record["ids"])
    return found


def pixels(path: Path) -> np.ndarray:
    """Return an image's pixels."""
    with Image.open(path) as picture:
        return np.asarray(picture)


def merge(part: str, payload: dict[str, Any]) -> None:
    """Write one part of the result file and keep the other."""
    known = json.loads(OUTPUT.read_text(encoding="utf-8")) if OUTPUT.exists() else {}
    parts = {name: known[name] for name in ("kill", "memory") if name in known}
    parts[part] = {"command": f"python benchmarks/generation_job.py {part}", "machine": machine(), **payload}
    save(OUTPUT, {"first_seed": FIRST_SEED, **parts})


def machine() -> dict[str, Any]:
    """Return what speed and memory depend on."""
    return {"cores": os.cpu_count(), "system": platform.platform()}


# Killed -------------------------------------------------------------------------------------------------------------


def kill(count: int, batch: int, steps: int, kills: int) -> dict[str, Any]:
    """Run a job that is killed again and again, and compare it with one that is not."""
    folder = Path(tempfile.mkdtemp(prefix="lml-kill-"))
    whole, out = folder / "whole", folder / "killed"
    began = time.perf_counter()
    finish(start(command(whole, count, batch, "--steps", str(steps))))
    seconds = time.perf_counter() - began
    moments = random.Random(KILL_SEED)
    rows: list[dict[str, Any]] = []
    startup = 0.0
    while len(rows) < kills:
        before = recorded(out)
        began = time.perf_counter()
        process = start(command(out, count, batch, "--steps", str(steps), "--resume"))
        # One in five while the job starts and checks what is there. Of the others half when a random image file
        # appears, so while a batch is written, and half some time later, so mostly while one is sampled.
        early = bool(startup) and moments.random() < 0.2
        if early:
            time.sleep(startup * moments.random())
        else:
            wait_for(out, len(before) + moments.randint(1, 3 * batch), process)
            startup = time.perf_counter() - began
            time.sleep(moments.choice([0, 0.3 * moments.random()]))
        process.send_signal(signal.SIGKILL)
        after_seconds = time.perf_counter() - began
        process.communicate()
        if process.returncode != -signal.SIGKILL:
            raise SystemExit(f"the job ended before kill {len(rows) + 1}; give more images")
        after = recorded(out)
        if not before <= after:
            raise SystemExit(f"kill {len(rows) + 1} lost images that were finished: {sorted(before - after)}")
        written = {int(path.stem) for path in out.glob("images/[0-9]*.png")}
        if len(written - after) > batch:
            raise SystemExit(f"kill {len(rows) + 1} lost more than a batch: {sorted(written - after)}")
        row = {"seconds": round(after_seconds, 3), "finished_before": len(before), "finished_after": len(after)}
        rows.append(row | {"written_and_lost": len(written - after)})
        print(rows[-1], flush=True)
    said = finish(start(command(out, count, batch, "--steps", str(steps), "--resume")))
    first, second = (json.loads((path / "manifest.json").read_text(encoding="utf-8")) for path in (whole, out))
    equal = sum(
        np.array_equal(pixels(whole / a["files"]["images"]), pixels(out / b["files"]["images"]))
        for a, b in zip(first["images"], second["images"], strict=True)
    )
    hashes = sum(a["noise_sha256"] == b["noise_sha256"] for a, b in zip(first["images"], second["images"], strict=True))
    rests = [path.name for path in out.rglob("*.tmp")]
    shutil.rmtree(folder)
    return {
        "images": count,
        "batch_size": batch,
        "steps": steps,
        "kills": rows,
        "most_lost": max(row["written_and_lost"] for row in rows),
        "images_equal_in_every_pixel": equal,
        "equal_noise_hashes": hashes,
        "equal_images_in_manifest": first["images"] == second["images"],
        "equal_corrections": first["runs"]["images"]["corrections"] == second["runs"]["images"]["corrections"],
        "temporary_files_left": rests,
        "attempts": len(second["attempts"]),
        "seconds_uninterrupted": round(seconds, 1),
        "last_words": said.splitlines(),
    }


def wait_for(out: Path, images: int, process: subprocess.Popen[str]) -> None:
    """Wait until there are so many image files."""
    while not (out / "images").is_dir() or sum(n.endswith("g") for n in os.listdir(out / "images")) < images:
        if process.poll() is not None:
            raise SystemExit(f"the job ended by itself: {process.communicate()}")
        time.sleep(POLL)


# Memory and time ------------------------------------------------------------------------------------------------------


def peak_memory(process: subprocess.Popen[str]) -> float:
    """Return the most resident memory, in MiB, that any one process of a job had, when it has ended.

    The kernel keeps the high-water mark of each process; the one that `getrusage` tells counts what the parent had
    before the child became another program.
    """
    marks: dict[int, int] = {}
    root = psutil.Process(process.pid)
    while process.poll() is None:
        try:
            for item in [root, *root.children(recursive=True)]:
                for line in Path(f"/proc/{item.pid}/status").read_text(encoding="ascii").splitlines():
                    if line.startswith("VmHWM"):
                        marks[item.pid] = max(marks.get(item.pid, 0), int(line.split()[1]))
        except (psutil.Error, OSError):
            continue  # it has ended meanwhile
        finally:
            time.sleep(20 * POLL)
    return max(marks.values()) / 1024


def memory(counts: list[int], processes: list[int], batch: int, threads: int) -> dict[str, Any]:
    """Measure jobs of several sizes, and draw the line to 50,000 images."""
    rows = []
    for number in processes:
        for count in counts:
            folder = Path(tempfile.mkdtemp(prefix="lml-memory-"))
            began = time.perf_counter()
            job = start(command(folder / "job", count, batch, "--nfe", "8"), number, threads)
            peak = peak_memory(job)
            finish(job)
            seconds = time.perf_counter() - began
            text = (folder / "job" / "manifest.json").read_text(encoding="utf-8")
            manifest = json.loads(text)
            rows.append(
                {
                    "processes": number,
                    "images": count,
                    "seconds": round(seconds, 2),
                    "images_per_second": round(count / seconds, 2),
                    "sampling_seconds": manifest["runs"]["images"]["seconds"],
                    "threads": manifest["threads"],
                    "peak_mib": round(peak, 1),
                    "manifest_bytes": len(text),
                }
            )
            print(rows[-1], flush=True)
            shutil.rmtree(folder)
    lines = [line(rows, number) for number in processes] if len(counts) > 1 else []
    return {"nfe": 8, "batch_size": batch, "rows": rows, "estimates": lines}


def line(rows: list[dict[str, Any]], processes: int, count: int = 50_000) -> dict[str, Any]:
    """Return the straight line through the smallest and the largest job, at so many images."""
    own = sorted((row for row in rows if row["processes"] == processes), key=lambda row: row["images"])
    low, high = own[0], own[-1]
    span = high["images"] - low["images"]
    slopes = {key: (high[key] - low[key]) / span for key in ("peak_mib", "seconds", "manifest_bytes")}
    at = {key: high[key] + slope * (count - high["images"]) for key, slope in slopes.items()}
    return {
        "processes": processes,
        "images": count,
        "peak_mib": round(at["peak_mib"], 1),
        "bytes_an_image": round(slopes["peak_mib"] * 2**20),
        "hours": round(at["seconds"] / 3600, 2),
        "manifest_mib": round(at["manifest_bytes"] / 2**20, 1),
    }


def main() -> None:
    """Run a part."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parts = parser.add_subparsers(dest="part", required=True)
    killed = parts.add_parser("kill", help="kill a job again and again")
    killed.add_argument("--num-images", type=int, default=500)
    killed.add_argument("--batch-size", type=int, default=8)
    killed.add_argument("--steps", type=int, default=4)
    killed.add_argument("--kills", type=int, default=20)
    large = parts.add_parser("memory", help="memory and time of large jobs")
    large.add_argument("--num-images", type=int, nargs="+", default=[1000, 10_000])
    large.add_argument("--processes", type=int, nargs="+", default=[1, 2])
    large.add_argument("--batch-size", type=int, default=32)
    large.add_argument("--threads", type=int, default=1, help="torch threads of each process")
    asked = parser.parse_args()
    if asked.part == "kill":
        merge("kill", kill(asked.num_images, asked.batch_size, asked.steps, asked.kills))
    else:
        merge("memory", memory(asked.num_images, asked.processes, asked.batch_size, asked.threads))


if __name__ == "__main__":
    main()

"""One training loop for every network that the package brings: AdamW, a moving average, checkpoints that go on.

A run folder holds the newest checkpoints (safetensors and json, written whole before they become visible) and
`log.jsonl`. The batch of a step is a function of the step, so a resumed run sees the batches that it would have seen.

Networks that upsample are not compiled: inductor of torch 2.13, on a CPU in bfloat16, runs the scatter of the nearest
interpolation's gradient after the convolution that reads it, and nothing before the last upsampling learns.
"""

from __future__ import annotations

import json
import math
import os
import shutil
import sys
import time
from argparse import ArgumentParser, Namespace
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn


def add_arguments(parser: ArgumentParser, *, batch: int, lr: float, ema: float) -> None:
    """Add the options that every training has."""
    parser.add_argument("--run", type=Path, required=True, help="folder of the run: checkpoints and log")
    parser.add_argument("--resume", action="store_true", help="go on from the newest checkpoint of --run, if any")
    parser.add_argument("--steps", type=int, default=1_000_000, help="end at this step")
    parser.add_argument("--minutes", type=float, default=float("inf"), help="end after this much training time")
    parser.add_argument("--batch", type=int, default=batch)
    parser.add_argument("--lr", type=float, default=lr)
    parser.add_argument("--ema", type=float, default=ema)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--save-every", type=float, default=4.0, help="minutes between checkpoints")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--float32", action="store_true", help="no bfloat16 autocast")


def newest(run: Path) -> Path:
    """Return the folder of the newest complete checkpoint."""
    pointer = run / "latest.json"
    if not pointer.is_file():
        sys.exit(f"--run {run}: no checkpoint there; train first")
    return run / json.loads(pointer.read_text())["folder"]


def save(run: Path, tensors: dict[str, dict[str, Tensor]], state: dict[str, Any]) -> None:
    """Write one checkpoint, then point `latest.json` at it; the checkpoint before the last is dropped."""
    name = f"step-{state['step']:07d}"
    part = run / f"{name}.part"
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    for key, values in tensors.items():
        save_file({k: v.detach().cpu().contiguous() for k, v in values.items()}, part / f"{key}.safetensors")
    (part / "state.json").write_text(json.dumps(state, indent=1))
    shutil.rmtree(run / name, ignore_errors=True)
    part.rename(run / name)
    (run / "latest.json.part").write_text(json.dumps({"folder": name}))
    os.replace(run / "latest.json.part", run / "latest.json")
    for old in sorted(run.glob("step-???????"))[:-2]:
        shutil.rmtree(old)


def averaged(run: Path) -> dict[str, Tensor]:
    """Return the moving average of the newest checkpoint's parameters, by name."""
    return load_file(newest(run) / "ema.safetensors")


def optimizer_tensors(optimizer: torch.optim.Optimizer, names: list[str]) -> dict[str, Tensor]:
    """Flatten AdamW's moments to named tensors."""
    state = optimizer.state_dict()["state"]
    return {f"{names[i]}/{key}": value for i, entry in state.items() for key, value in entry.items()}


def load_optimizer(optimizer: torch.optim.Optimizer, names: list[str], tensors: dict[str, Tensor]) -> None:
    """Undo `optimizer_tensors`."""
    keys = ("step", "exp_avg", "exp_avg_sq")
    whole = optimizer.state_dict()
    whole["state"] = {i: {key: tensors[f"{name}/{key}"] for key in keys} for i, name in enumerate(names)}
    optimizer.load_state_dict(whole)


def learning_rate(progress: float, step: int, peak: float, warmup: int = 100) -> float:
    """Linear warm-up over `warmup` steps, then a cosine to 0 at progress 1."""
    return peak * min(1.0, (step + 1) / warmup) * 0.5 * (1 + math.cos(math.pi * min(max(progress, 0.0), 1.0)))


@torch.no_grad()
def update_ema(average: dict[str, Tensor], model: nn.Module, step: int, decay: float) -> None:
    """Move the exponential moving average of the parameters, with the warm-up min(decay, (1 + step)/(10 + step))."""
    keep = min(decay, (1 + step) / (10 + step))
    for name, parameter in model.named_parameters():
        average[name].lerp_(parameter.detach(), 1 - keep)


def train(
    args: Namespace, model: nn.Module, loss_of: Callable[[int], Tensor], extra: dict[str, Any] | None = None
) -> None:
    """Train until --steps or --minutes, whichever is first, and write the last checkpoint.

    Args:
        args: The options of `add_arguments`.
        model: Float32, on its device; its parameters are trained in place.
        loss_of: Makes the batch of a step and returns its loss.
        extra: Further entries of a fresh run's state.
    """
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    torch.set_num_threads(args.threads)
    names = [name for name, _ in model.named_parameters()]
    average = {name: value.detach().clone() for name, value in model.named_parameters()}
    optimizer = torch.optim.AdamW(model.parameters(), lr=args.lr, betas=(0.9, 0.99), weight_decay=0.0, fused=True)
    state: dict[str, Any] = {"step": 0, "images": 0, "minutes": 0.0, "loss": None} | (extra or {})
    if args.resume and (args.run / "latest.json").is_file():
        folder = newest(args.run)
        model.load_state_dict(load_file(folder / "model.safetensors"))
        device = next(model.parameters()).device
        average = {k: v.to(device) for k, v in load_file(folder / "ema.safetensors").items()}
        load_optimizer(optimizer, names, load_file(folder / "optimizer.safetensors"))
        state = json.loads((folder / "state.json").read_text())
    args.run.mkdir(parents=True, exist_ok=True)
    state["arguments"] = {k: str(v) if isinstance(v, Path) else v for k, v in vars(args).items() if not callable(v)}

    def write() -> None:
        tensors = {"model": dict(model.state_dict()), "ema": average, "optimizer": optimizer_tensors(optimizer, names)}
        save(args.run, tensors, state)

    started, before = time.monotonic(), state["minutes"]
    saved = shown = started
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.percentage:.1f}%"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, disable=not sys.stderr.isatty()) as progress, (args.run / "log.jsonl").open("a") as log:
        bar = progress.add_task("starting", total=1.0)
        while True:
            step = state["step"]
            state["minutes"] = before + (time.monotonic() - started) / 60
            done = max(step / args.steps, state["minutes"] / args.minutes)
            if done >= 1:
                break
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(done, step, args.lr)
            loss = loss_of(step)
            optimizer.zero_grad()
            loss.backward()
            norm = torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            update_ema(average, model, step, args.ema)
            state["step"], state["images"] = step + 1, state["images"] + args.batch
            known = state.get("loss")
            state["loss"] = loss.item() if known is None else 0.99 * known + 0.01 * loss.item()
            now = time.monotonic()
            if now - shown > 20 or step == 0:
                shown = now
                row = {key: state[key] for key in ("step", "images", "minutes", "loss")}
                row |= {"norm": norm.item(), "lr": optimizer.param_groups[0]["lr"]}
                log.write(json.dumps(row) + "\n")
                log.flush()
                progress.update(bar, completed=done, description=f"step {step + 1} loss {state['loss']:.4f}")
            if now - saved > 60 * args.save_every:
                saved = now
                write()
    state["finished"] = True
    write()

"""Train the small unconditional CIFAR-10 UNet that the package embeds, and export it as a DDPMPipeline folder.

    python tools/train_embedded.py --data cifar10-train.parquet --run RUN --minutes 80 [--init FOLDER] [--resume]
    python tools/train_embedded.py --data cifar10-train.parquet --run RUN --export src/lmlangevin/assets/embedded

A run folder holds the newest checkpoints (safetensors and json, written whole before they become visible) and
`log.jsonl`. Batches are a function of (seed, step), so a resumed run sees the batches that it would have seen.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import time
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from _cifar import read_cifar10
from _diffusion import (
    UNET_CONFIG,
    draw_timesteps,
    keep_float32,
    learning_rate,
    multiscale_loss,
    noise_levels,
    update_ema,
)


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="CIFAR-10 training parquet")
    parser.add_argument("--run", type=Path, required=True, help="folder of the run: checkpoints and log")
    parser.add_argument("--init", type=Path, help="diffusers UNet2DModel folder to start from")
    parser.add_argument("--resume", action="store_true", help="continue from the newest checkpoint of --run")
    parser.add_argument("--steps", type=int, default=1_000_000, help="end at this step")
    parser.add_argument("--minutes", type=float, default=float("inf"), help="end after this much training time")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--lr", type=float, default=1.2e-4)
    parser.add_argument("--ema", type=float, default=0.9995)
    parser.add_argument("--high-noise", type=float, default=0.2, help="share of timesteps from the noisiest fifth")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--save-every", type=float, default=4.0, help="minutes between checkpoints")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--float32", action="store_true", help="no bfloat16 autocast")
    parser.add_argument(
        "--compile", action="store_true", help="torch.compile the network: a third faster, minutes to start"
    )
    parser.add_argument("--export", type=Path, help="write the newest checkpoint's average here; no training")
    parser.add_argument("--samples", type=int, default=200, help="samples that --export measures, twice")
    parser.add_argument("--date", default=time.strftime("%Y-%m-%d"), help="of the training, for the card")
    parser.add_argument("--command", default="", help="of the training, for the card")
    parser.add_argument("--note", default="", help="a paragraph for the card")
    parser.add_argument("--past-images", type=int, default=0, help="images that --init had seen, for the card")
    return parser.parse_args()


def build(init: Path | None) -> Any:
    """Return a float32 UNet2DModel, fresh or from a folder."""
    from diffusers import UNet2DModel

    return UNet2DModel(**UNET_CONFIG) if init is None else UNet2DModel.from_pretrained(init, torch_dtype=torch.float32)


def newest(run: Path) -> Path:
    """Return the folder of the newest complete checkpoint."""
    pointer = run / "latest.json"
    if not pointer.is_file():
        sys.exit(f"--run {run}: no checkpoint there; train without --resume first")
    return run / json.loads(pointer.read_text())["folder"]


def save(run: Path, tensors: dict[str, dict[str, torch.Tensor]], state: dict[str, Any]) -> None:
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


def optimizer_tensors(optimizer: torch.optim.Optimizer, names: list[str]) -> dict[str, torch.Tensor]:
    """Flatten AdamW's moments to named tensors."""
    state = optimizer.state_dict()["state"]
    return {f"{names[i]}/{key}": value for i, entry in state.items() for key, value in entry.items()}


def load_optimizer(optimizer: torch.optim.Optimizer, names: list[str], tensors: dict[str, torch.Tensor]) -> None:
    """Undo `optimizer_tensors`."""
    keys = ("step", "exp_avg", "exp_avg_sq")
    whole = optimizer.state_dict()
    whole["state"] = {i: {key: tensors[f"{name}/{key}"] for key in keys} for i, name in enumerate(names)}
    optimizer.load_state_dict(whole)


def train(args: argparse.Namespace) -> None:
    """Run the training loop until --steps or --minutes."""
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    torch.set_num_threads(args.threads)
    device = torch.device(args.device)
    images = read_cifar10(args.data)[0]
    model = build(args.init).to(device).train()
    names = [name for name, _ in model.named_parameters()]
    average = {name: value.detach().clone() for name, value in model.named_parameters()}
    optimizer = torch.optim.AdamW(model.parameters(), lr=args.lr, betas=(0.9, 0.99), weight_decay=0.0, fused=True)
    state: dict[str, Any] = {"step": 0, "images": 0, "minutes": 0.0, "past_images": args.past_images, "loss": None}
    if args.resume:
        folder = newest(args.run)
        model.load_state_dict(load_file(folder / "model.safetensors"))
        average = {k: v.to(device) for k, v in load_file(folder / "ema.safetensors").items()}
        load_optimizer(optimizer, names, load_file(folder / "optimizer.safetensors"))
        state = json.loads((folder / "state.json").read_text())
    keep_float32(model)
    network = torch.compile(model) if args.compile else model
    args.run.mkdir(parents=True, exist_ok=True)
    state["arguments"] = {k: str(v) if isinstance(v, Path) else v for k, v in vars(args).items()}
    alpha, sigma = (level.float() for level in noise_levels())

    def write() -> None:
        tensors = {"model": dict(model.state_dict()), "ema": average, "optimizer": optimizer_tensors(optimizer, names)}
        save(args.run, tensors, state)

    started, before = time.monotonic(), state["minutes"]
    saved = shown = started
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.percentage:.1f}%"), TimeElapsedColumn())
    with Progress(*columns, disable=not sys.stderr.isatty()) as progress, (args.run / "log.jsonl").open("a") as log:
        bar = progress.add_task("starting", total=1.0)
        while True:
            step = state["step"]
            state["minutes"] = before + (time.monotonic() - started) / 60
            done = max(step / args.steps, state["minutes"] / args.minutes)
            if done >= 1:
                break
            generator = torch.Generator().manual_seed(args.seed * 1_000_003 + step)
            x0 = images[torch.randint(len(images), (args.batch,), generator=generator)].float() / 127.5 - 1
            flip = torch.rand(args.batch, 1, 1, 1, generator=generator) < 0.5
            x0 = torch.where(flip, x0.flip(3), x0)
            t = draw_timesteps(args.batch, args.high_noise, generator)
            noise = torch.randn(x0.shape, generator=generator)
            noisy = alpha[t].view(-1, 1, 1, 1) * x0 + sigma[t].view(-1, 1, 1, 1) * noise
            noisy, noise = noisy.to(device), noise.to(device)
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(done, step, args.lr)
            with torch.autocast(device.type, torch.bfloat16, enabled=not args.float32):
                predicted = network(noisy, t.to(device)).sample
            loss = multiscale_loss(predicted.float() - noise, (sigma[t] / alpha[t]).to(device))
            optimizer.zero_grad()
            loss.backward()
            norm = torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            update_ema(average, model, step, args.ema)
            state["step"], state["images"] = step + 1, state["images"] + args.batch
            known = state.get("loss")
            state["loss"] = loss.item() if known is None else 0.99 * known + 0.01 * loss.item()
            now = time.monotonic()
            if now - shown > 20:
                shown = now
                row = {
                    "step": step + 1,
                    "images": state["images"],
                    "minutes": round(state["minutes"], 2),
                    "loss": state["loss"],
                }
                row |= {"norm": norm.item(), "lr": optimizer.param_groups[0]["lr"]}
                log.write(json.dumps(row) + "\n")
                log.flush()
                progress.update(bar, completed=done, description=f"step {step + 1} loss {state['loss']:.4f}")
            if now - saved > 60 * args.save_every:
                saved = now
                write()
    state["finished"] = True
    write()


def main() -> None:
    """Train, or export what was trained."""
    args = parse()
    if args.export is None:
        train(args)
        return
    from _embedded_card import Provenance, export

    torch.set_num_threads(args.threads)
    folder = newest(args.run)
    export(
        folder, args.export, read_cifar10(args.data)[0], Provenance(args.date, args.command, args.note), args.samples
    )


if __name__ == "__main__":
    main()

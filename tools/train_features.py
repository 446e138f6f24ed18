"""Train the small CIFAR-10 classifier whose penultimate layer is the package's embedded feature space.

    python tools/train_features.py --train cifar10-train.parquet --test cifar10-test.parquet --run RUN --epochs 10
    python tools/train_features.py --train ... --test ... --run RUN --export src/lmlangevin/assets/features-cifar10

The first command trains and keeps a checkpoint an epoch (`--resume` continues). The second writes the asset:
float16 weights, their measured test accuracy, and the statistics of the training images in their feature space.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor

from _cifar import read_cifar10
from lmlangevin.evaluation.features import FeatureNetwork
from lmlangevin.files import atomic_write, write_text


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--train", type=Path, required=True, help="CIFAR-10 training parquet")
    parser.add_argument("--test", type=Path, required=True, help="CIFAR-10 test parquet")
    parser.add_argument("--run", type=Path, required=True, help="folder of the run: checkpoint and log")
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--resume", action="store_true")
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--lr", type=float, default=0.15, help="peak of the one-cycle schedule")
    parser.add_argument("--weight-decay", type=float, default=5e-4)
    parser.add_argument("--smoothing", type=float, default=0.1, help="label smoothing")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--export", type=Path, help="write the asset of the run here; no training")
    parser.add_argument("--date", default=time.strftime("%Y-%m-%d"), help="of the training, for the card")
    parser.add_argument("--command", default="", help="of the training, for the card")
    parser.add_argument("--note", default="", help="a sentence for the card")
    return parser.parse_args()


def augment(images: Tensor, generator: torch.Generator) -> Tensor:
    """Flip each uint8 image with probability 1/2 and move it by up to 4 pixels over a reflected border; same shape."""
    count, _, height, width = images.shape
    padded = F.pad(images.float(), (4, 4, 4, 4), mode="reflect").to(torch.uint8)
    flip = torch.rand(count, generator=generator) < 0.5
    padded[flip] = padded[flip].flip(3)
    rows = torch.randint(0, 9, (count, 1), generator=generator) + torch.arange(height)
    columns = torch.randint(0, 9, (count, 1), generator=generator) + torch.arange(width)
    index = torch.arange(count)
    return padded[index[:, None, None], :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)


@torch.no_grad()
def accuracy(network: FeatureNetwork, images: Tensor, labels: Tensor, device: str) -> float:
    """Share of images classified correctly, in eval mode and float32."""
    network.eval()
    pairs = zip(images.split(500), labels.split(500), strict=True)
    hits = sum(int((network(x.to(device)).argmax(1).cpu() == y).sum()) for x, y in pairs)
    return hits / len(labels)


def train(args: argparse.Namespace) -> None:
    """Train for --epochs, keeping one checkpoint an epoch."""
    from rich.progress import Progress

    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    images, labels = read_cifar10(args.train)
    test_images, test_labels = read_cifar10(args.test)
    network = FeatureNetwork().to(args.device).to(memory_format=torch.channels_last)
    decayed = [p for p in network.parameters() if p.ndim > 1]
    plain = [p for p in network.parameters() if p.ndim <= 1]
    groups = [{"params": decayed, "weight_decay": args.weight_decay}, {"params": plain, "weight_decay": 0.0}]
    optimizer = torch.optim.SGD(groups, lr=args.lr, momentum=0.9, nesterov=True)
    per_epoch = len(images) // args.batch
    total = per_epoch * args.epochs
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, args.lr, total_steps=total + 1, pct_start=0.25, anneal_strategy="cos", cycle_momentum=False
    )
    args.run.mkdir(parents=True, exist_ok=True)
    first, names = 0, [n for n, p in network.named_parameters() if p.ndim > 1]
    names += [n for n, p in network.named_parameters() if p.ndim <= 1]
    if args.resume:
        first = json.loads((args.run / "state.json").read_text())["epoch"]
        network.load_state_dict(load_file(args.run / "model.safetensors"))
        momenta = load_file(args.run / "momentum.safetensors")
        for name, parameter in zip(names, decayed + plain, strict=True):
            optimizer.state[parameter]["momentum_buffer"] = momenta[name].to(args.device)
        for _ in range(first * per_epoch):
            optimizer._opt_called = True  # the schedule is replayed, not the steps; silences PyTorch's order check
            schedule.step()
    started = time.monotonic()
    with Progress(disable=not sys.stderr.isatty()) as progress, (args.run / "log.jsonl").open("a") as log:
        bar = progress.add_task("training", total=total, completed=first * per_epoch)
        for epoch in range(first, args.epochs):
            network.train()
            generator = torch.Generator().manual_seed(args.seed * 1009 + epoch)
            order = torch.randperm(len(images), generator=generator)[: per_epoch * args.batch]
            running = 0.0
            for chosen in order.split(args.batch):
                batch = augment(images[chosen], generator).to(args.device, memory_format=torch.channels_last)
                with torch.autocast(torch.device(args.device).type, torch.bfloat16):
                    logits = network(batch)
                target = labels[chosen].to(args.device)
                loss = F.cross_entropy(logits.float(), target, label_smoothing=args.smoothing)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                schedule.step()
                running += loss.item() / per_epoch
                progress.advance(bar)
            row: dict[str, Any] = {"epoch": epoch + 1, "loss": running, "minutes": (time.monotonic() - started) / 60}
            row["test_accuracy"] = accuracy(network, test_images, test_labels, args.device)
            log.write(json.dumps(row) + "\n")
            log.flush()
            momenta = [optimizer.state[p]["momentum_buffer"] for p in decayed + plain]
            write(args.run / "momentum.safetensors", dict(zip(names, momenta, strict=True)))
            write(args.run / "model.safetensors", dict(network.state_dict()))
            arguments = {k: v for k, v in vars(args).items() if not isinstance(v, Path)}
            state = {"epoch": epoch + 1, "images": (epoch + 1) * per_epoch * args.batch, "arguments": arguments}
            write_text(args.run / "state.json", json.dumps(state, indent=1))


def write(path: Path, tensors: dict[str, Tensor]) -> None:
    """Write a safetensors file that is complete as soon as it is visible."""
    with atomic_write(path) as part:
        save_file({name: value.detach().cpu().contiguous() for name, value in tensors.items()}, part)


def main() -> None:
    """Train, or export what was trained."""
    args = parse()
    if args.export is None:
        train(args)
        return
    from _features_card import export

    torch.set_num_threads(args.threads)
    train_images = read_cifar10(args.train)[0]
    images, labels = read_cifar10(args.test)

    def test(network: FeatureNetwork) -> float:
        return accuracy(network, images, labels, "cpu")

    export(args.run, args.export, train_images, test, args.date, args.command, args.note)


if __name__ == "__main__":
    main()

"""Export and card of the embedded feature network, with the statistics of the training images."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

from safetensors.torch import load_file, save_file
from torch import Tensor

from lmlangevin.evaluation.features import EXTRACTOR, PROTOCOL, FeatureNetwork, file_sha256, load_feature_network
from lmlangevin.evaluation.frechet import feature_statistics

LIMIT_BYTES = 4 * 2**20


def export(
    run: Path, target: Path, images: Tensor, test: Callable[[FeatureNetwork], float], date: str, command: str, note: str
) -> None:
    """Write `model.safetensors` (float16), `config.json`, `statistics.npz` and `README.md`, replacing `target`.

    Args:
        run: folder of `tools/train_features.py` with `model.safetensors` and `state.json`.
        target: folder to write.
        images: training images, uint8 of shape (N, 3, 32, 32), for the reference statistics.
        test: returns the test accuracy of a network; it is given the network as users load it.
        date: of the training, for the card.
        command: of the training, for the card.
        note: a sentence on the training that no number tells, for the card.

    Raises:
        ValueError: the weights would be larger than 4 MiB.
    """
    state = json.loads((run / "state.json").read_text())
    part, old = (target.with_name(f".{target.name}.{word}") for word in ("part", "old"))
    for folder in (part, old):
        shutil.rmtree(folder, ignore_errors=True)
    part.mkdir(parents=True)
    stored = {k: v for k, v in load_file(run / "model.safetensors").items() if not k.endswith("num_batches_tracked")}
    weights = part / "model.safetensors"
    save_file({name: value.half().contiguous() for name, value in stored.items()}, weights)
    weights.chmod(0o644)
    if weights.stat().st_size > LIMIT_BYTES:
        raise ValueError(
            f"export {str(target)!r}: weights of {weights.stat().st_size} bytes, the limit is {LIMIT_BYTES}"
        )
    fresh = FeatureNetwork()
    config = dict(fresh.configuration) | {"extractor": EXTRACTOR, "weight_hash": file_sha256(weights)}
    (part / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    network = load_feature_network(part)
    config["test_accuracy"] = test(network)
    (part / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    statistics = feature_statistics(network, images, protocol=PROTOCOL)
    statistics.save(part / "statistics.npz")
    size = sum(p.numel() for p in network.parameters())
    arguments = state["arguments"]
    text = f"""# Embedded CIFAR-10 feature network

A residual classifier of {size:,} parameters. The package measures Frechet distances between sets of 32x32 images in its
{network.dim} penultimate features (`lmlangevin.evaluation.load_feature_network`). These distances compare samplers
under one protocol; they are not FIDs, which need Inception, and must not stand beside published ones.

- Test accuracy: {100 * config["test_accuracy"]:.2f}% of the 10,000 CIFAR-10 test images (float16 weights, as loaded).
- Data: CIFAR-10 from a parquet copy whose images are JPEG re-encoded; flips and shifts of up to 4 pixels in training.
- Script: `tools/train_features.py`, on {date}. Command: `{command}`
- Training: {arguments["epochs"]} epochs of 50,000 images in batches of {arguments["batch"]}, SGD with Nesterov
  momentum, one cycle to a learning rate of {arguments["lr"]}, label smoothing {arguments["smoothing"]}, bfloat16
  autocast, one CPU core. {note}
- Weights: `model.safetensors`, float16, SHA-256 `{config["weight_hash"]}`
- `statistics.npz`: mean (`mu`) and unbiased covariance (`sigma`), float64, of the features of the {statistics.n:,}
  training images, neither flipped nor shifted; protocol `{PROTOCOL}`.
- Licence: the weights are under the package's licence. CIFAR-10 (Krizhevsky, 2009) is distributed by its author for
  research without a formal licence; no image of it is in this folder.
"""
    (part / "README.md").write_text(text, encoding="utf-8")
    if target.exists():
        target.rename(old)
    os.replace(part, target)
    shutil.rmtree(old, ignore_errors=True)

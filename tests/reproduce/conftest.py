"""A tiny BLIP in a folder, and what the presets' models are among the tiny pipelines."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

KINDS = {
    "cifar10": "ddpm",
    "celeba-hq": "ldm",
    "coco-sd15": "sd15",
    "coco-sd2": "sd2-base",
    "compbench-sd15": "sd15",
    "compbench-sd2": "sd2-base",
    "compbench-sdxl": "sdxl",
    "compbench-pixart": "pixart",
    "compbench-flux": "flux",
    "compbench-controlnet": "sd15-canny",
}


@pytest.fixture(scope="session")
def kinds() -> dict[str, str]:
    """The tiny pipeline of each preset."""
    return KINDS


@pytest.fixture(scope="session")
def tiny_blip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A BLIP of random weights, whose yes and no depend on image and question."""
    from transformers import BertTokenizer, BlipConfig, BlipForQuestionAnswering

    placed = {"[PAD]": 0, "[UNK]": 100, "[CLS]": 101, "[SEP]": 102, "[MASK]": 103, "yes": 2748, "no": 2053}
    placed |= {"?": 1029, "a": 1037, "red": 2417, "cube": 14291, "blue": 2630, "ball": 3608, "green": 2665}
    names = {place: word for word, place in placed.items()}
    sizes = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2}
    text = {**sizes, "encoder_hidden_size": 16, "max_position_embeddings": 40, "vocab_size": 30524}
    config = BlipConfig(text_config=text, vision_config={**sizes, "image_size": 64, "patch_size": 32})
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(911)
        model = BlipForQuestionAnswering(config)
        with torch.no_grad():
            for name, value in model.named_parameters():
                value.copy_(torch.randn_like(value) * 0.6 + ("norm" in name.lower() and name.endswith("weight")))
    folder = tmp_path_factory.mktemp("blip") / "tiny"
    model.save_pretrained(folder)
    vocabulary = {names.get(place, f"[unused{place}]"): place for place in range(30522)}
    BertTokenizer(vocab=vocabulary).save_pretrained(folder)
    return folder

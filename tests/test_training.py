"""The training of what comes with the package: a run that goes on, latents that depend on the step, exact attention."""

from __future__ import annotations

import argparse
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import nn

import _training
import train_scenes
from _scenes_models import autoencoder, flow_parts, token_ids, tokenizer
from lmlangevin.scenes import VOCABULARY


def arguments(run: Path, *words: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    _training.add_arguments(parser, batch=4, lr=1e-2, ema=0.9)
    return parser.parse_args(["--run", str(run), *words])


def train(run: Path, *words: str) -> dict[str, torch.Tensor]:
    """Fit a line, with batches that are a function of the step."""
    model = nn.Linear(3, 1, dtype=torch.float32)
    nn.init.zeros_(model.weight)
    nn.init.zeros_(model.bias)

    def loss_of(step: int) -> torch.Tensor:
        x = torch.randn((4, 3), generator=torch.Generator().manual_seed(step))
        return (model(x) - x.sum(1, keepdim=True)).square().mean()

    _training.train(arguments(run, *words), model, loss_of)
    return load_file(_training.newest(run) / "ema.safetensors")


def test_a_resumed_run_is_the_run_that_was_not_interrupted(tmp_path: Path) -> None:
    whole = train(tmp_path / "whole", "--steps", "200")
    # The rate depends on the end, so an interruption is one that lost what came after the last checkpoint.
    train(tmp_path / "cut", "--steps", "200", "--save-every", "0")
    pointer = tmp_path / "cut" / "latest.json"
    before = sorted((tmp_path / "cut").glob("step-*"))[0]
    pointer.write_text(f'{{"folder": "{before.name}"}}')
    again = train(tmp_path / "cut", "--steps", "200", "--resume")
    assert before.name != "step-0000200"
    assert all(torch.equal(again[name], whole[name]) for name in whole)
    assert (whole["weight"] - 1).abs().max() < 0.7


def test_the_tokenizer_has_a_token_for_each_word_of_captions() -> None:
    words = tokenizer()
    assert all(len(words.tokenize(word)) == 1 for word in VOCABULARY - {"plain"})
    ids = token_ids(["a red circle", ""])
    assert ids.shape == (2, 24) and ids[0, 0] == words.bos_token_id and ids[1, 1] == words.eos_token_id


def test_one_zero_token_with_a_bias_is_as_many_zero_tokens() -> None:
    torch.manual_seed(0)
    transformer = flow_parts()["transformer"].eval()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in transformer.parameters():
            parameter.normal_(std=0.1, generator=generator)
    latents = torch.randn((2, 4, 16, 16), generator=generator)
    states, pooled = torch.randn((2, 24, 96), generator=generator), torch.randn((2, 96), generator=generator)
    t = torch.tensor([100.0, 700.0])
    with torch.no_grad():
        whole = transformer(latents, F.pad(states, (0, 0, 0, 256)), pooled, t).sample
        transformer.set_attn_processor(train_scenes.ZeroTokenAttention(256))
        short = transformer(latents, F.pad(states, (0, 0, 0, 1)), pooled, t).sample
    assert (whole - short).abs().max() < 1e-4 * whole.std()


@pytest.fixture
def stream_arguments(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> argparse.Namespace:
    """A stream over an untrained autoencoder."""
    torch.manual_seed(0)
    weights = dict(autoencoder().state_dict())
    monkeypatch.setattr(train_scenes, "averaged", lambda run: weights)
    return argparse.Namespace(autoencoder=tmp_path, device="cpu", batch=8, seed=0)


def test_the_batch_of_a_step_depends_on_the_step_alone(stream_arguments: argparse.Namespace) -> None:
    first, again = (train_scenes.Latents(stream_arguments) for _ in range(2))
    for step in range(4):
        last = first.batch(step, train_scenes.generator_of(step, 0))
    latents, tokens = again.batch(3, train_scenes.generator_of(3, 0))
    assert torch.equal(latents, last[0]) and torch.equal(tokens, last[1])
    assert latents.shape == (8, 4, 16, 16) and tokens.shape == (8, 24)
    assert 0.7 < latents.std() < 1.4

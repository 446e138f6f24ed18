r"""Train the scenes models from nothing: the autoencoder, the diffusion model, the flow model, and the reader.

    python tools/train_scenes.py autoencoder --run RUNS/autoencoder --minutes 30 [--resume]
    python tools/train_scenes.py scenes --run RUNS/scenes --autoencoder RUNS/autoencoder --minutes 120
    python tools/train_scenes.py scenes-flow --run RUNS/scenes-flow --autoencoder RUNS/autoencoder --minutes 120
    python tools/train_scenes.py reader --run RUNS/reader --minutes 30
    python tools/train_scenes.py all --run RUNS --minutes 300

    # on, from the weights that the package has, with other pictures:
    python tools/train_scenes.py scenes --run RUN --minutes 120 --seed 1 --init src/lmlangevin/assets/scenes \
        --autoencoder src/lmlangevin/assets/scenes

Every picture is drawn for the step that uses it, so there is no data set. `all` trains one after the other: a tenth
of its minutes for the autoencoder, a tenth for the reader, two fifths for each model. `tools/export_scenes.py`
measures what was trained, and writes the package's assets and their cards.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from _scenes_models import (
    LATENT_CHANNELS,
    LATENT_NOISE,
    T5_TOKENS,
    WIDTHS,
    autoencoder,
    diffusion_parts,
    flow_parts,
    noise_schedule,
    token_ids,
)
from _training import add_arguments, averaged, newest, train
from lmlangevin.scenes import draw, training_scenes

KINDS = ("autoencoder", "scenes", "scenes-flow", "reader")
CHUNK, REUSE = 16, 4
RING = 256
DROP = 0.1
PEAK = {"autoencoder": 1.5e-3, "scenes": 1e-3, "scenes-flow": 1e-3, "reader": 2e-3}


def pictures(seeds: list[int]) -> tuple[Tensor, list[str]]:
    """Return training pictures, float32 (B, 3, 64, 64) in [-1, 1], and their captions, in the order of the seeds."""
    images = torch.empty(len(seeds), 3, 64, 64)
    captions = [""] * len(seeds)
    for where, scenes in training_scenes(seeds):
        images[where] = draw(scenes)
        for i, caption in zip(where.tolist(), scenes.captions(), strict=True):
            captions[i] = caption
    return images, captions


def seeds_of(step: int, count: int, seed: int) -> list[int]:
    """Return the seeds of a step's pictures; those of the held-out pictures begin at 10^12."""
    return list(range(seed * 10**9 + step * count, seed * 10**9 + (step + 1) * count))


def generator_of(step: int, seed: int) -> torch.Generator:
    """Return the generator of a step's noise."""
    return torch.Generator().manual_seed(seed * 1_000_003 + step)


def autoencoder_loss(args: argparse.Namespace, model: Any) -> Callable[[int], Tensor]:
    """Return the loss of a step: squared and absolute error, later that of the slopes, and the latents' size.

    The noise of the latents is constant and their size is penalised, which is the Kullback-Leibler divergence with a
    fixed variance. With a learned variance, and with slopes from the start, the latents die in the first 200 steps.
    """

    def run(images: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        mean = model.quant_conv(model.encoder(images))[:, :LATENT_CHANNELS]
        return model.decoder(model.post_quant_conv(mean + LATENT_NOISE * noise)), mean

    def loss_of(step: int) -> Tensor:
        images = pictures(seeds_of(step, args.batch, args.seed))[0].to(args.device)
        noise = torch.randn(args.batch, 4, 16, 16, generator=generator_of(step, args.seed)).to(args.device)
        with torch.autocast(images.device.type, torch.bfloat16, enabled=not args.float32):
            decoded, mean = run(images, noise)
        error = decoded.float() - images
        slopes = error.diff(dim=2).abs().mean() + error.diff(dim=3).abs().mean()
        size = mean.float().square().mean()
        return error.abs().mean() + 2 * error.square().mean() + min(1, step / 1500) * 0.5 * slopes + 1e-4 * size

    return loss_of


def pipeline_parts(folder: Path, names: list[str]) -> nn.ModuleDict:
    """Return some networks of a saved pipeline, float32."""
    from diffusers import DiffusionPipeline

    pipe = DiffusionPipeline.from_pretrained(folder, torch_dtype=torch.float32, local_files_only=True)
    return nn.ModuleDict({name: getattr(pipe, name) for name in names})


class Latents:
    """A stream of training latents and tokens, in which each picture is used `REUSE` times with other noise.

    Drawing and encoding a picture costs about as much as a training step on its latent. A step draws a quarter of its
    batch, and takes the rest from the `RING` chunks before. The batch of a step is a function of the step.
    """

    def __init__(self, args: argparse.Namespace) -> None:
        """Load the autoencoder of `args.autoencoder`, a run folder or that of a pipeline."""
        if (args.autoencoder / "vae").is_dir():
            self.vae: Any = pipeline_parts(args.autoencoder, ["vae"])["vae"]
        else:
            self.vae = autoencoder()
            self.vae.load_state_dict(averaged(args.autoencoder))
        self.vae.to(args.device).eval().requires_grad_(False)
        self.args = args
        self.fresh = args.batch // REUSE
        self.ring: dict[int, tuple[Tensor, Tensor]] = {}
        self.scale = self._measure()
        self.empty = token_ids([""])

    def _measure(self) -> float:
        """Return the reciprocal of the latents' standard deviation over 512 pictures."""
        images = pictures(list(range(10**12, 10**12 + 512)))[0]
        with torch.no_grad():
            values = torch.cat(
                [self.vae.encode(part).latent_dist.mean for part in images.to(self.args.device).split(64)]
            )
        return 1 / values.std().item()

    def _chunk(self, index: int) -> tuple[Tensor, Tensor]:
        if index not in self.ring:
            images, captions = pictures(seeds_of(index, self.fresh, self.args.seed))
            with torch.no_grad():
                dist = self.vae.encode(images.to(self.args.device)).latent_dist
                noise = torch.randn(dist.mean.shape, generator=generator_of(index, self.args.seed + 1))
                latents = (dist.mean + dist.std * noise.to(self.args.device)) * self.scale
            self.ring[index] = latents, token_ids(captions)
            self.ring.pop(index - RING, None)
        return self.ring[index]

    def batch(self, step: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Return scaled latents, float32 (B, 4, 16, 16), and tokens, int64 (B, 24), of which a tenth are empty."""
        chunks = [self._chunk(index) for index in range(max(0, step - RING + 1), step + 1)]
        older = self.args.batch - self.fresh
        picks = torch.randint(len(chunks) * self.fresh, (older,), generator=generator).tolist()
        latents, tokens = (
            torch.cat((chunks[-1][i], torch.stack([chunks[k // self.fresh][i][k % self.fresh] for k in picks])))
            for i in (0, 1)
        )
        dropped = torch.rand(len(tokens), 1, generator=generator) < DROP
        return latents, torch.where(dropped, self.empty, tokens).to(self.args.device)


def diffusion_loss(args: argparse.Namespace, parts: nn.ModuleDict) -> Callable[[int], Tensor]:
    """Return the loss of a step: the squared error of the noise prediction."""
    stream = Latents(args)
    alpha, sigma = (level.view(-1, 1, 1, 1).to(args.device) for level in noise_schedule())
    unet: Any = parts["unet"]
    encoder: Any = parts["text_encoder"]

    def loss_of(step: int) -> Tensor:
        generator = generator_of(step, args.seed)
        latents, tokens = stream.batch(step, generator)
        t = torch.randint(1000, (len(latents),), generator=generator)
        noise = torch.randn(latents.shape, generator=generator).to(args.device)
        noisy = (
            alpha[t].view(-1, 1, 1, 1).to(args.device) * latents + sigma[t].view(-1, 1, 1, 1).to(args.device) * noise
        )
        with torch.autocast(latents.device.type, torch.bfloat16, enabled=not args.float32):
            states = encoder(tokens).last_hidden_state
            predicted = unet(noisy, t, states).sample
        return (predicted.float() - noise).square().mean()

    return loss_of


class ZeroTokenAttention:
    """SD3's joint attention where the last token of the text stands for `count` equal ones.

    Without a T5 encoder the pipeline appends 256 zero tokens to the text. They are equal in every layer, so one with
    log 256 added to its logits gives the same attention at a fifth of the cost.
    """

    def __init__(self, count: int) -> None:
        self.bias = math.log(count)

    def __call__(
        self, attn: Any, hidden_states: Tensor, encoder_hidden_states: Tensor, attention_mask: None = None
    ) -> Any:
        """Attend; tokens (B, N, C) and (B, M, C) in, the same shapes out."""
        split = len(hidden_states), -1, attn.heads, attn.to_q.out_features // attn.heads

        def heads(values: Tensor) -> Tensor:
            return values.view(split).transpose(1, 2)

        q, k, v = (heads(layer(hidden_states)) for layer in (attn.to_q, attn.to_k, attn.to_v))
        text = (attn.add_q_proj, attn.add_k_proj, attn.add_v_proj)
        tq, tk, tv = (heads(layer(encoder_hidden_states)) for layer in text)
        q, k = (
            torch.cat((attn.norm_q(q), attn.norm_added_q(tq)), 2),
            torch.cat((attn.norm_k(k), attn.norm_added_k(tk)), 2),
        )
        v = torch.cat((v, tv), 2)
        bias = torch.zeros(k.shape[2], dtype=q.dtype, device=q.device)
        bias[-1] = self.bias
        joined = F.scaled_dot_product_attention(q, k, v.to(q.dtype), attn_mask=bias.expand(q.shape[2], -1))
        joined = joined.transpose(1, 2).flatten(2).to(hidden_states.dtype)
        image, words = joined.split([hidden_states.shape[1], encoder_hidden_states.shape[1]], 1)
        image = attn.to_out[1](attn.to_out[0](image))
        return image, words if attn.context_pre_only else attn.to_add_out(words)


def flow_loss(args: argparse.Namespace, parts: nn.ModuleDict) -> Callable[[int], Tensor]:
    """Return the loss of a step: the squared error of the velocity at logit-normal times."""
    stream = Latents(args)
    transformer: Any = parts["transformer"]
    transformer.set_attn_processor(ZeroTokenAttention(T5_TOKENS))
    encoders: list[Any] = [parts["text_encoder"], parts["text_encoder_2"]]

    def loss_of(step: int) -> Tensor:
        generator = generator_of(step, args.seed)
        latents, tokens = stream.batch(step, generator)
        level = torch.randn(len(latents), generator=generator).sigmoid().to(args.device)
        noise = torch.randn(latents.shape, generator=generator).to(args.device)
        noisy = torch.lerp(latents, noise, level.view(-1, 1, 1, 1))
        with torch.autocast(latents.device.type, torch.bfloat16, enabled=not args.float32):
            outputs = [encoder(tokens, output_hidden_states=True) for encoder in encoders]
            states = torch.cat([output.hidden_states[-2] for output in outputs], 2)
            pooled = torch.cat([output.text_embeds for output in outputs], 1)
            states = F.pad(states, (0, 0, 0, 1))
            predicted = transformer(noisy, states, pooled, 1000 * level).sample
        return (predicted.float() - (noise - latents)).square().mean()

    return loss_of


def run_kind(args: argparse.Namespace) -> None:
    """Train one network."""
    torch.manual_seed(args.seed)  # the initial weights; diffusers takes no generator for them
    if args.kind in ("scenes", "scenes-flow") and not (args.autoencoder / "vae").is_dir():
        newest(args.autoencoder)
    if args.kind == "autoencoder":
        model: Any = autoencoder()
        loss = autoencoder_loss
    elif args.kind == "scenes":
        model, loss = diffusion_parts(tuple(args.width) if args.width else WIDTHS["scenes"]), diffusion_loss
    elif args.kind == "scenes-flow":
        model, loss = flow_parts(tuple(args.width) if args.width else WIDTHS["scenes-flow"]), flow_loss
    else:
        from _scenes_reader import reader_loss
        from lmlangevin.scenes.reader import SceneReader

        model, loss = SceneReader(), reader_loss
    if args.init:
        model = pipeline_parts(args.init, list(model))
    model.to(args.device).train()
    with torch.nn.attention.sdpa_kernel(
        [torch.nn.attention.SDPBackend.MATH]
        if args.device == "cpu"
        else [torch.nn.attention.SDPBackend.EFFICIENT_ATTENTION, torch.nn.attention.SDPBackend.MATH]
    ):
        train(args, model, loss(args, model))


def main() -> None:
    """Read the command line and train."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kind", choices=[*KINDS, "all"])
    add_arguments(parser, batch=64, lr=0.0, ema=0.9995)
    parser.add_argument(
        "--autoencoder", type=Path, help="run folder of the autoencoder, or folder of a pipeline that has it"
    )
    parser.add_argument(
        "--width", type=int, nargs="+", help="channels a level of the UNet, or width of the transformer"
    )
    parser.add_argument("--init", type=Path, help="folder of a pipeline to start from; give another --seed")
    args = parser.parse_args()
    if args.kind in ("scenes", "scenes-flow") and args.autoencoder is None:
        sys.exit("--autoencoder: name the run folder of the trained autoencoder")
    if args.kind != "all":
        args.lr = args.lr or PEAK[args.kind]
        run_kind(args)
        return
    for kind, share in (("autoencoder", 0.1), ("reader", 0.1), ("scenes", 0.4), ("scenes-flow", 0.4)):
        own = argparse.Namespace(**vars(args))
        own.kind, own.run, own.minutes = kind, args.run / kind, args.minutes * share
        own.autoencoder, own.lr = args.run / "autoencoder", args.lr or PEAK[kind]
        run_kind(own)


if __name__ == "__main__":
    main()

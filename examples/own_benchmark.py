"""A benchmark of your own: samplers compared on the same seeds, with a spread.

Shows: the Frechet distance by disjoint blocks of seeds, and the difference of two samplers block by block, which is far
steadier than the distances themselves since both sampled the same noise.

Prints: for each sampler the mean and the standard deviation of its blocks plain and with LML, and of their differences,
with the number of blocks in which LML is lower.

Takes: about half a minute on 2 cores. The blocks are small, so their distances are biased upwards, equally for both:
compare them with each other, never with those of another number of images. `lml bench` does this at size, from a TOML
file.

    python examples/own_benchmark.py --sampler ddim --sampler dpmpp-2m --gain 0.5
"""

import argparse

import torch

from lmlangevin.evaluation import (
    BlockValues,
    block_distances,
    feature_statistics,
    load_feature_network,
    load_reference_statistics,
    seed_blocks,
)
from lmlangevin.generation import GenerateConfig, load_model, sample, start_images
from lmlangevin.schedulers import build_scheduler


def main() -> None:
    """Measure each sampler plain and with LML on the same blocks of seeds."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sampler", action="append", dest="samplers", metavar="NAME", help="a name of `lml info`")
    parser.add_argument("--gain", type=float, help="of LML; left out, the adaptive control")
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--blocks", type=int, default=3)
    parser.add_argument("--block-size", type=int, default=132, help="images of a block, more than the 128 features")
    parser.add_argument("--first-seed", type=int, default=20_000, help="keep it apart from what you tuned on")
    args = parser.parse_args()

    model = load_model(GenerateConfig(out="unused"), flow=False)
    network, reference = load_feature_network(), load_reference_statistics()
    blocks = seed_blocks(args.first_seed, args.blocks * args.block_size, args.blocks)
    lml = {"control": "adaptive"} if args.gain is None else {"gain": args.gain}

    def measure(sampler: str, lml: dict[str, object] | None) -> BlockValues:
        """Return the Frechet distance of every block of seeds; `lml` is None for the plain sampler."""
        found = []
        for seeds in blocks:
            scheduler = build_scheduler(sampler, model.scheduler_config, lml=lml)
            noise, generators = start_images(seeds, model.shape)
            images = sample(model.networks[0], scheduler, noise, generators, steps=args.steps)
            # As they would be saved: 8 bits a channel.
            pixels = ((images.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)
            found.append(feature_statistics(network, pixels, protocol=reference.protocol))
        return block_distances(found, reference)

    print(f"{args.steps} steps, {args.blocks} blocks of {args.block_size} seeds from {args.first_seed}, mean and SD")
    for sampler in args.samplers or ("ddim",):
        plain, corrected = measure(sampler, None), measure(sampler, lml)
        paired = BlockValues(tuple(b - a for a, b in zip(plain.values, corrected.values, strict=True)))
        lower = sum(difference < 0 for difference in paired.values)
        print(
            f"{sampler}: FD plain {plain.mean:.3f} ± {plain.sd:.3f}, LML {corrected.mean:.3f} ± {corrected.sd:.3f}, "
            f"difference {paired.mean:+.3f} ± {paired.sd:.3f}, lower in {lower} of {paired.n} blocks"
        )


if __name__ == "__main__":
    main()

from __future__ import annotations

import pytest

from lmlangevin.bench.release import PUBLISHED_ELSEWHERE, PUBLISHED_LAMBDAS
from lmlangevin.core import LMLError
from lmlangevin.reproduce.preset import DRY_RUN, load_preset, parse_preset, preset_names
from lmlangevin.schedulers.names import SCHEDULERS

SMALL = """
title = "Small"
paper = "None of it."
model = "a model"
published = "owner/name"
classes = ["DDPMPipeline"]
resolution = 32
measure = "fid"
protocol = "tf-fid"
nfe = [6, 5]
arms = ["ddim"]
release_lambda = 0.5
num_images = 40
"""


def test_the_presets_are_those_of_the_issue() -> None:
    assert preset_names() == [
        "celeba-hq", "cifar10", "coco-sd15", "coco-sd2", "compbench-controlnet", "compbench-flux", "compbench-pixart",
        "compbench-sd15", "compbench-sd2", "compbench-sdxl",
    ]  # fmt: skip


@pytest.mark.parametrize("name", preset_names())
def test_a_preset_names_samplers_that_can_do_what_it_asks(name: str) -> None:
    preset = load_preset(name)
    assert preset.title and preset.paper and preset.assumed and "/" in preset.published
    assert len(set(preset.samplers)) == len(preset.samplers)
    for sampler in preset.samplers:
        for nfe in preset.nfe:
            entry = SCHEDULERS[sampler]
            assert entry.evaluations(entry.steps_for(nfe)) == nfe
    for model in (None, *preset.built_in):
        found = preset.for_model(model)
        assert found.num_images % found.seed_blocks == 0 and found.num_images // found.seed_blocks >= 100
        assert found.prompt_count * found.images_per_prompt == found.num_images


def test_the_lambdas_are_the_published_ones() -> None:
    cifar = load_preset("cifar10")
    assert {nfe: cifar.damping(nfe) for nfe in cifar.nfe} == PUBLISHED_LAMBDAS
    assert load_preset("celeba-hq").damping(7) == PUBLISHED_ELSEWHERE["CelebA-HQ, DDIM"]
    for name in ("coco-sd15", "coco-sd2"):
        assert load_preset(name).damping(15) == PUBLISHED_ELSEWHERE["MS-COCO, Stable Diffusion"]


def test_a_built_in_model_changes_what_its_table_names_and_nothing_else() -> None:
    paper, own = load_preset("cifar10"), load_preset("cifar10").for_model("embedded")
    assert (own.protocol, own.reference, own.dtype) == ("embedded-cifar10", "", "float32")
    assert (paper.num_images, paper.protocol) == (50_000, "tf-fid")
    assert own.arms == paper.arms and own.release_lambda == paper.release_lambda and own.num_images < paper.num_images
    assert paper.for_model("somewhere/else").num_images == 50_000


def test_a_dry_run_is_small_and_says_so() -> None:
    dry = load_preset("coco-sd15").for_dry_run()
    assert (dry.protocol, dry.num_images, dry.blocks, dry.resolution) == (DRY_RUN, 4, 2, 64)
    dry = load_preset("compbench-sd15").for_dry_run()
    assert (dry.categories, dry.prompt_count, dry.seed_blocks) == (("color",), 2, 2)
    # An unconditional model has the size that it has.
    assert load_preset("celeba-hq").for_dry_run().resolution == 256


def test_guidance_doubles_where_it_is_no_input_of_the_model() -> None:
    doubled = {name: load_preset(name).doubled for name in preset_names()}
    assert [name for name, value in doubled.items() if not value] == ["celeba-hq", "cifar10", "compbench-flux"]


def test_blocks_are_seeds_or_images_of_each_prompt() -> None:
    assert load_preset("coco-sd2").seed_blocks == 3
    assert load_preset("compbench-sdxl").seed_blocks == 10


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("title = ", "no TOML"),
        (SMALL.replace("resolution = 32\n", ""), "no resolution"),
        (SMALL + "colour = 3\n", "unknown keys colour"),
        (SMALL + "[built_in.embedded]\ncolour = 3\n", "unknown keys colour"),
        (SMALL.replace('"fid"', '"beauty"'), "unknown"),
        (SMALL.replace('protocol = "tf-fid"\n', ""), "protocol goes with fid"),
        (SMALL.replace('"ddim"', '"pndm"'), "must be some of ddim"),
        (SMALL.replace("[6, 5]", "[]"), "must be some of ddim"),
    ],
)
def test_a_file_that_is_wrong_is_refused_with_its_name(text: str, words: str) -> None:
    with pytest.raises(LMLError, match=words) as refused:
        parse_preset("mine", text)
    assert "'mine'" in str(refused.value)


def test_a_file_has_the_defaults_that_it_leaves_out() -> None:
    preset = parse_preset("mine", SMALL)
    assert (preset.name, preset.samplers, preset.nfe, preset.blocks) == ("mine", ("ddim",), (6, 5), 5)
    assert preset.damping(5) == 0.5 and preset.categories == () and not preset.doubled


def test_an_unknown_preset_is_refused_with_all_names() -> None:
    with pytest.raises(LMLError, match="compbench-flux"):
        load_preset("imagenet")

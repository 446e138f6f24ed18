from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from lmlangevin.core import LMLError
from lmlangevin.reproduce.plan import Inputs, ReproduceConfig, make_plan


def _plan(name: str = "cifar10", **options: Any) -> Any:
    return make_plan(ReproduceConfig(name, **{"model": "embedded"} | options))


def _folder(path: Path, family: str) -> Path:
    path.mkdir(parents=True)
    (path / "model_index.json").write_text(json.dumps({"_class_name": family}))
    return path


def test_the_cheap_cells_come_first_and_arms_before_baselines() -> None:
    plan = _plan(nfe=(9, 5), schedulers=("dpm-3", "unipc", "ddim"))
    assert [cell.key for cell in plan.cells] == ["ddim|5", "dpm-3|5", "unipc|5", "ddim|9", "dpm-3|9", "unipc|9"]
    assert [cell.folder for cell in plan.cells][:3] == ["ddim-005", "dpm-3-005", "unipc-005"]
    assert plan.cells[0].arms == ("plain", "lml", "release") and plan.cells[2].arms == ("plain",)
    assert plan.cells[0].run("lml") == "lml" and plan.cells[2].run("plain") == "images"


def test_categories_are_cells_of_their_own() -> None:
    plan = _plan("compbench-sd15", model="a/b", nfe=(8,), schedulers=("ddim",))
    assert [cell.key for cell in plan.cells] == ["color|ddim|8", "shape|ddim|8", "texture|ddim|8"]
    assert plan.cells[1].folder == "shape-ddim-008"


def test_a_plan_covers_its_preset_only_as_a_whole() -> None:
    whole = _plan()
    assert whole.covers(cell.key for cell in whole.cells)
    for options in ({"nfe": (5,)}, {"schedulers": ("ddim",)}, {"num_images": 40}, {"dry_run": True}):
        assert not _plan(**options).covers(cell.key for cell in _plan(**options).cells)
    # Two halves do it together.
    halves = [_plan(schedulers=("ddim", "dpm-3")), _plan(schedulers=("pndm", "dpmpp-3m", "unipc", "deis"))]
    assert halves[0].covers(cell.key for half in halves for cell in half.cells)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"resume": True, "overwrite": True}, "exclude each other"),
        ({"model_dir": Path("x")}, "exclude each other"),
        ({"schedulers": ("euler",)}, "ddim, dpm-3, pndm"),
        ({"nfe": (0,)}, "from 1 to 1000"),
        ({"num_images": 10}, "multiple of 4, 8 or more"),
        ({"num_images": 4}, "multiple of 4, 8 or more"),
        ({"name": "imagenet"}, "is no preset"),
        ({"model": "analytic-cifar10"}, "give --model embedded, or --model-dir"),
        ({"controlnet": "x"}, "leave it out"),
        ({"name": "celeba-hq"}, "give --model-dir"),
        ({"name": "compbench-sd15", "model": "a/b", "num_images": 25}, "10 images of each prompt"),
    ],
)
def test_what_cannot_be_is_refused_in_a_sentence(options: dict[str, Any], words: str) -> None:
    with pytest.raises(LMLError, match=words):
        make_plan(ReproduceConfig(**{"name": "cifar10", "model": "embedded"} | options))


def test_the_jobs_have_the_same_seeds_and_the_lambda_of_their_cost(tmp_path: Path) -> None:
    plan = _plan(out=tmp_path, nfe=(10, 15), schedulers=("dpm-3", "pndm"), dtype="bfloat16", batch_size=7)
    jobs = {cell.key: plan.job(cell, Inputs()) for cell in plan.cells}
    first = jobs["dpm-3|10"]
    assert (first.compare, first.release, first.lml) == (True, "float32@0.0008", True)
    assert jobs["dpm-3|15"].release == "float32@0.001"
    assert (jobs["pndm|10"].compare, jobs["pndm|10"].lml, jobs["pndm|10"].steps) == (False, False, 9)
    assert {job.seed for job in jobs.values()} == {5_000_000}
    assert {(job.dtype, job.batch_size, job.num_images) for job in jobs.values()} == {("bfloat16", 7, 600)}
    # What lml generate does by itself.
    assert (first.gain, first.control, first.placement) == (None, None, "score")
    assert first.out == tmp_path / "jobs" / "dpm-3-010" and first.resume


def test_a_text_model_is_asked_for_its_size_and_its_prompts(tmp_path: Path) -> None:
    prompts = tmp_path / "p.txt"
    prompts.write_text("".join(f"a cube {k}\n" for k in range(300)))
    plan = _plan("compbench-flux", model="a/b", out=tmp_path, nfe=(5,))
    job = plan.job(plan.cells[0], Inputs(str(prompts)))
    assert (job.height, job.width, job.guidance_scale, job.dtype) == (512, 512, 7.5, "bfloat16")
    assert (job.num_images, job.images_per_prompt, job.release, job.arguments) == (3000, 10, "float32@0.001", None)
    dry = _plan("compbench-flux", model="a/b", out=tmp_path, dry_run=True)
    job = dry.job(dry.cells[0], None)
    assert (job.height, job.prompt, job.arguments) == (64, "a picture", {"max_sequence_length": 77})


def test_evaluations_count_arms_and_guidance() -> None:
    plan = _plan("coco-sd15", model="a/b", nfe=(6,), schedulers=("ddim", "unipc"))
    assert [plan.evaluations(cell) for cell in plan.cells] == [3 * 6 * 2 * 30_000, 6 * 2 * 30_000]
    plan = _plan("compbench-flux", model="a/b", nfe=(6,))
    assert plan.evaluations(plan.cells[0]) == 3 * 6 * 3000


@pytest.mark.parametrize(
    ("options", "name"), [({}, "lml-coco"), ({"num_images": 3000}, "lml-coco@3000"), ({"dry_run": True}, "dry-run")]
)
def test_the_protocol_goes_with_the_number_of_images(options: dict[str, Any], name: str) -> None:
    plan = _plan("coco-sd2", model="a/b", **options)
    assert (plan.protocol.name, plan.protocol.num_images) == (name, plan.preset.num_images)


def test_a_controlnet_is_put_in_where_the_folder_has_none(tmp_path: Path) -> None:
    plain = _folder(tmp_path / "sd", "StableDiffusionPipeline")
    own = _folder(tmp_path / "canny", "StableDiffusionControlNetPipeline")
    name = "compbench-controlnet"
    assert _plan(name, model=None, model_dir=plain).controlnet == "lllyasviel/sd-controlnet-canny"
    assert _plan(name, model=None, model_dir=plain, controlnet="mine").controlnet == "mine"
    assert _plan(name, model=None, model_dir=own, controlnet="mine").controlnet is None
    assert _plan("compbench-sd15", model=None, model_dir=plain).controlnet is None


def test_the_command_says_how_to_make_it_again_and_names_nobodys_folders(tmp_path: Path) -> None:
    model = _folder(tmp_path / "private" / "my ddpm", "DDPMPipeline")
    plan = _plan(
        model=None, model_dir=model, data_dir=tmp_path / "private", nfe=(5, 6), schedulers=("ddim",), num_images=40,
        out=tmp_path / "out", resume=True,
    )  # fmt: skip
    assert plan.command() == (
        "lml reproduce cifar10 --model-dir 'my ddpm' --data-dir private --num-images 40 --nfe 5 --nfe 6 "
        "--scheduler ddim"
    )
    assert plan.model_name == "my ddpm"
    assert _plan().command() == "lml reproduce cifar10 --model embedded"
    assert _plan().out == Path("reproduce/cifar10")

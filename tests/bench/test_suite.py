from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from lmlangevin.bench.cells import FITTED, Cell, default_grid, finals_of, nearest_cost, offered_grids, preset_gain
from lmlangevin.bench.models import build
from lmlangevin.bench.suite import Part, load_suite, suite_names
from lmlangevin.core import LMLError
from lmlangevin.schedulers.names import SCHEDULERS, SIGMA_GRIDS, VP_GRIDS, find_scheduler


def part(**changes: Any) -> Part:
    settings: dict[str, Any] = {
        "name": "p",
        "model": "analytic-cifar10",
        "samplers": ("ddim",),
        "grids": ("default",),
        "nfe": (6,),
        "blocks": 2,
        "images": 8,
        "first_seed": 100,
    }
    return Part(**settings | changes)


def keys(what: Part, best: dict[str, str] | None = None) -> list[str]:
    return [cell.key for cell in what.cells(best)]


@pytest.mark.parametrize(
    "cell",
    [
        Cell("ddim", "leading", "zero", 5),
        Cell("dpm-3", "karras", "", 10, gain=-0.05),
        Cell("ddim", "trailing", "min", 8, eta=0.5),
        Cell("flow-euler", "shift-3", "", 8, release="float32@0.0008"),
        Cell("unipc", "karras", "zero", 8, control="adaptive"),
        Cell("euler", "fitted", "", 8, control="calibrated"),
    ],
)
def test_a_key_says_all_of_a_cell(cell: Cell) -> None:
    assert Cell.parse(cell.key) == cell


def test_the_suites_of_the_package_can_be_read_and_cover_what_they_name() -> None:
    assert suite_names() == ["calibrated", "control", "paper", "quick"]
    for name in suite_names():
        suite = load_suite(name)
        assert suite.name == name
        assert all(p.cells({"ddim": "trailing"}) for p in suite.parts)
    analytic = load_suite("paper").part("analytic")
    cells = analytic.cells()
    assert {cell.sampler for cell in cells} == set(analytic.samplers)
    assert {c.grid for c in cells if c.sampler == "dpmpp-2m"} == {
        "leading", "trailing", "linspace", "karras", "exponential", "beta", "lu",
    }  # fmt: skip
    assert {c.nfe for c in cells if c.sampler == "unipc"} == {5, 6, 7, 8, 9, 10, 12, 15, 20, 30, 50, 100}
    assert {c.nfe for c in cells if c.sampler == "heun"} == {5, 7, 9, 11, 15, 19, 29, 49, 99}
    assert {c.final for c in cells if c.sampler == "euler"} == {"zero", "min"}


def test_the_matrix_of_the_control_suite_is_the_one_that_is_asked_for() -> None:
    suite = load_suite("control")
    analytic, held_out, embedded = suite.parts
    few = {5, 6, 8, 10, 15, 20}
    for matrix, costs in ((analytic, few | {30, 50}), (held_out, few)):
        cells = [cell for cell in matrix.cells() if cell.grid != FITTED]
        plain = {cell for cell in cells if not cell.control}
        assert {dataclasses.replace(cell, control="adaptive") for cell in plain} == {c for c in cells if c.control}
        others = {"heun", "sde-dpmpp-2m", "flow-heun", "flow-dpmpp-2m", "flow-unipc"}
        assert {cell.sampler for cell in cells} == set(SCHEDULERS) - others
        assert {cell.nfe for cell in cells} == costs
        assert {cell.grid for cell in cells} == {*VP_GRIDS, *SIGMA_GRIDS, "shift-1", "shift-3"}
    assert held_out.make.endswith(f"--out {Path(held_out.model).parent}") and "tools/fit_mixture.py" in held_out.make
    assert embedded.best_of == "analytic" and embedded.dtype == "bfloat16"
    assert all(part.blocks >= 5 for part in suite.parts)
    ranges = [range(part.first_seed, part.first_seed + part.blocks * part.images) for part in suite.parts]
    ranges += [range(p.first_seed, p.first_seed + p.blocks * p.images) for p in load_suite("paper").parts[:2]]
    assert len(set().union(*ranges)) == sum(map(len, ranges))


def test_a_calibrated_cell_is_there_where_its_calibration_is(calibrations: Any) -> None:
    arms = ("plain", "control=calibrated")
    asked = part(samplers=("ddim", "euler"), grids=("leading", "trailing"), nfe=(4, 6), arms=arms)
    found = [cell for cell in asked.cells() if cell.control]
    assert [cell.key for cell in found] == ["euler|fitted||4|control=calibrated"]
    assert [c.key for c in part(samplers=("euler",), grids=("lu",), nfe=(4,), arms=arms).cells()] == [found[0].key]
    flow = part(samplers=("flow-euler",), nfe=(4,), arms=arms[1:])
    assert keys(flow) == ["flow-euler|fitted||4|control=calibrated"]
    assert not keys(part(samplers=("euler",), nfe=(4,), arms=arms[1:], model="analytic-cifar10/mixture.safetensors"))
    for cell in (found[0], flow.cells()[0]):
        scheduler = build(cell, asked.model)
        assert scheduler.config.control == "calibrated"
        assert scheduler.config.calibrated_steps == calibrations.schedule.to_config()
        scheduler.set_timesteps(4)
        assert scheduler.sigmas.tolist() == pytest.approx(calibrations.schedule.levels)
    with pytest.raises(LMLError, match="no calibration of model='embedded'; calibrate for it"):
        build(found[0], "embedded")


def test_a_model_can_be_a_file_which_is_looked_for_beside_the_suite_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = (
        '[[parts]]\nname = "p"\nmodel = "mix/mixture.safetensors"\nsamplers = ["ddim"]\ngrids = ["all"]\n'
        "nfe = [6]\nblocks = 2\nimages = 4\nfirst_seed = 1\n"
    )
    (tmp_path / "suites" / "mix").mkdir(parents=True)
    (tmp_path / "suites" / "s.toml").write_text(text)
    monkeypatch.chdir(tmp_path)
    absent = load_suite("suites/s.toml").parts[0]
    assert absent.model == "mix/mixture.safetensors"
    assert absent.absent == (
        "model='mix/mixture.safetensors' in part 'p' is no file; give the path of a mixture.safetensors that "
        "tools/fit_mixture.py wrote."
    )
    for folder in ("mix", "suites/mix"):
        (tmp_path / folder).mkdir(exist_ok=True)
        (tmp_path / folder / "mixture.safetensors").touch()
        found = load_suite("suites/s.toml").parts[0]
        assert not found.absent and found.mixture == Path(folder) / "mixture.safetensors"
        assert found.settings()["model"] == "mixture:mix"
    assert part(model="/a/b/k20.safetensors").model_name == "mixture:k20"
    made = part(model="b/mixture.safetensors", make="python make.py")
    assert made.absent == "model='b/mixture.safetensors' in part 'p' is no file; make it: python make.py"


def test_seeds_of_parts_of_the_paper_suite_are_not_those_that_presets_were_chosen_on() -> None:
    chosen_on = [range(200_000, 200_128), range(300_000, 300_512)]
    for p in load_suite("paper").parts:
        seeds = range(p.first_seed, p.first_seed + p.blocks * p.images)
        assert not any(set(seeds) & set(used) for used in chosen_on)


def test_arms_that_do_not_apply_are_left_out() -> None:
    arms = ("plain", "preset", "eta=1", "release=float32", "gain=0.25")
    assert keys(part(arms=arms)) == [
        "ddim|leading|zero|6|plain",
        "ddim|leading|zero|6|gain=1",
        "ddim|leading|zero|6|eta=1",
        "ddim|leading|zero|6|release=float32@0.0008",
        "ddim|leading|zero|6|gain=0.25",
    ]
    assert keys(part(samplers=("heun",), arms=arms)) == ["heun|linspace||5|plain"]
    assert keys(part(samplers=("unipc",), arms=arms)) == [
        "unipc|linspace|zero|6|plain",
        "unipc|linspace|zero|6|gain=0.25",
    ]
    stochastic = part(samplers=("sde-dpmpp-2m",), arms=("plain", "preset", "release=float64"))
    assert keys(stochastic) == ["sde-dpmpp-2m|linspace|zero|6|plain"]
    given = dataclasses.replace(stochastic, gains={"sde-dpmpp-2m": 0.2})
    assert keys(given)[1:] == ["sde-dpmpp-2m|linspace|zero|6|gain=0.2"]


def test_a_preset_of_0_is_the_plain_cell() -> None:
    assert preset_gain(Cell("dpmpp-2m", "linspace", "zero", 6)) == 0
    assert keys(part(samplers=("dpmpp-2m",))) == ["dpmpp-2m|linspace|zero|6|plain"]


def test_the_best_grid_is_put_in_beside_the_default_one() -> None:
    p = part(grids=("default", "best"), best_of="q", arms=("plain",))
    assert keys(p, {"ddim": "trailing"}) == ["ddim|leading|zero|6|plain", "ddim|trailing|zero|6|plain"]
    assert keys(p, {"ddim": "leading"}) == ["ddim|leading|zero|6|plain"]
    assert keys(p) == ["ddim|leading|zero|6|plain"]


def test_grids_that_a_sampler_does_not_have_are_left_out() -> None:
    assert keys(part(samplers=("ddim", "euler"), grids=("karras",), arms=("plain",))) == ["euler|karras|zero|6|plain"]
    assert default_grid(find_scheduler("ddim")) == "leading"
    assert default_grid(find_scheduler("flow-euler")) == "shift-3"
    assert "lu" in offered_grids(find_scheduler("dpmpp-2m"))
    assert "lu" not in offered_grids(find_scheduler("unipc"))
    assert finals_of(find_scheduler("dpm-3"), ("zero", "min")) == [""]
    assert finals_of(find_scheduler("ddim"), ("zero", "min")) == ["zero", "min"]


@pytest.mark.parametrize(
    ("sampler", "nfe", "cost"), [("heun", 8, 7), ("heun", 7, 7), ("pndm", 8, 8), ("pndm", 1, None)]
)
def test_the_nearest_cost_is_not_above_what_was_asked(sampler: str, nfe: int, cost: int | None) -> None:
    assert nearest_cost(find_scheduler(sampler), nfe) == cost


@pytest.mark.parametrize(
    ("cell", "key", "value"),
    [
        (Cell("dpmpp-2m", "lu", "min", 6), "use_lu_lambdas", True),
        (Cell("dpmpp-2m", "lu", "min", 6), "final_sigmas_type", "sigma_min"),
        (Cell("ddim", "trailing", "min", 6), "set_alpha_to_one", False),
        (Cell("pndm", "leading", "zero", 6), "set_alpha_to_one", True),
        (Cell("flow-euler", "shift-1", "", 6), "shift", 1.0),
        (Cell("sde-dpmpp-2m", "karras", "zero", 6), "algorithm_type", "sde-dpmsolver++"),
        (Cell("ddim", "trailing", "zero", 6, gain=0.3), "gain", 0.3),
    ],
)
def test_a_cell_builds_the_scheduler_that_it_names(cell: Cell, key: str, value: Any) -> None:
    assert build(cell).config[key] == value


MISTAKES: dict[str, tuple[dict[str, Any], str]] = {
    "model": ({"model": "sdxl"}, "model='sdxl'"),
    "sampler": ({"samplers": ("rk4",)}, "scheduler='rk4'"),
    "grid": ({"grids": ("cosine",)}, "grids='cosine'"),
    "best without a part": ({"grids": ("best",)}, "best_of"),
    "arm": ({"arms": ("magic",)}, "arms='magic'"),
    "arm's number": ({"arms": ("gain=x",)}, "arms='gain=x'"),
    "release's precision": ({"arms": ("release=float16",)}, "arms='release=float16'"),
    "one block": ({"blocks": 1}, "blocks=1"),
    "no evaluations": ({"nfe": (0,)}, "nfe=[0]"),
    "measure": ({"measures": ("ssim",)}, "measures='ssim'"),
    "a model that is made and is no file": ({"make": "python x.py"}, "model='analytic-cifar10' is none"),
    "a control that is unknown": ({"arms": ("control=magic",)}, "'calibrated'"),
    "flow on a network": ({"model": "embedded", "samplers": ("flow-euler",)}, "flow-euler"),
}


@pytest.mark.parametrize("mistake", list(MISTAKES))
def test_a_mistake_is_named_with_its_part(mistake: str) -> None:
    changes, words = MISTAKES[mistake]
    with pytest.raises(LMLError) as caught:
        part(**changes)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


TEXTS = {
    "not TOML": ("[[parts", "no TOML"),
    "nothing in it": ('title = "x"', "one or more"),
    "unknown key": ("colour = 1", "colour"),
    "missing keys": ('[[parts]]\nname = "a"', "no blocks, first_seed"),
    "unknown key of a part": ('[[parts]]\nname = "a"\nstyle = 1', "unknown keys style"),
    "identity's number": ("[identity]\nsizes=[8]\nlambdas=[0.0]\ndtypes=['float32']\nsamples=4\nseed=1", "too small"),
    "identity's precision": ("[identity]\nsizes=[8]\nlambdas=[1.0]\ndtypes=['int8']\nsamples=4\nseed=1", "int8"),
}


@pytest.mark.parametrize("text", list(TEXTS))
def test_a_bad_suite_file_is_one_line(text: str, tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(TEXTS[text][0], encoding="utf-8")
    with pytest.raises(LMLError) as caught:
        load_suite(str(path))
    assert TEXTS[text][1] in str(caught.value)


def test_an_unknown_suite_names_those_that_there_are() -> None:
    with pytest.raises(LMLError, match="suite='big' is unknown; give calibrated, control, paper, quick"):
        load_suite("big")

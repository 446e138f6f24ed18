from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from lmlangevin.bench import runner
from lmlangevin.bench.cells import Cell
from lmlangevin.bench.models import AnalyticBench, EmbeddedBench, load_bench_model
from lmlangevin.bench.runner import PartRun, best_grid, grid_ends, mean, plan, read_results, result_path
from lmlangevin.bench.suite import Identity, Part, Suite
from lmlangevin.calibration import CalibrationFile
from lmlangevin.core import LMLError
from lmlangevin.reference import GaussianMixture, linear_alphas_cumprod

ANALYTIC = Part(
    name="a",
    model="analytic-cifar10",
    samplers=("ddim", "heun", "sde-dpmpp-2m"),
    grids=("default",),
    nfe=(4, 6),
    blocks=2,
    images=70,  # more than the 64 random features
    first_seed=900,
)
pytestmark = pytest.mark.filterwarnings("ignore:.*vectors of .* features have a singular covariance")


def started(part: Part, folder: Path) -> PartRun:
    return plan(Suite("s", "S", (part,)), [], folder, None, "lml bench --suite s")[0]


@pytest.fixture(autouse=True, scope="module")
def coarse() -> Iterator[None]:
    """Solutions and references that are good enough for a test."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("lmlangevin.bench.models.RUNGE_KUTTA_STEPS", 10)
        patch.setattr("lmlangevin.bench.models.REFERENCE_SAMPLES", 1000)
        patch.setattr("lmlangevin.bench.runner.ENDPOINT_STEPS", 10)
        yield


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("results")
    assert started(ANALYTIC, folder).run() == 8
    return folder


def content(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "s-a.json").read_text(encoding="utf-8"))


def test_a_part_measures_every_cell_and_says_how(folder: Path) -> None:
    record = content(folder)
    assert set(record["cells"]) == {
        "ddim|leading|zero|4|plain",
        "ddim|leading|zero|4|gain=1",
        "ddim|leading|zero|6|plain",
        "ddim|leading|zero|6|gain=1",
        "heun|linspace||3|plain",
        "heun|linspace||5|plain",
        "sde-dpmpp-2m|linspace|zero|4|plain",
        "sde-dpmpp-2m|linspace|zero|6|plain",
    }
    assert record["command"] == "lml bench --suite s"
    assert {"torch", "diffusers", "lmlangevin"} <= set(record["versions"])
    assert record["settings"]["images"] == 70
    row = record["cells"]["ddim|leading|zero|6|gain=1"]
    plain = record["cells"]["ddim|leading|zero|6|plain"]
    assert len(row["rmse"]) == len(row["fd"]) == 2
    assert row["non_finite"] == 0
    assert all(a < b for a, b in zip(row["rmse"], plain["rmse"], strict=True))
    assert all(a < b for a, b in zip(row["fd"], plain["fd"], strict=True))
    assert "rmse" not in record["cells"]["sde-dpmpp-2m|linspace|zero|6|plain"]
    assert record["converged"]["vp"]["fd_all"] < plain["fd_all"]


def test_the_figures_of_a_block_are_those_of_its_own_seeds(folder: Path) -> None:
    """The second block by itself gives the second value."""
    alone = dataclasses.replace(ANALYTIC, first_seed=900 + 70, name="b")
    row = started(alone, folder / "other").measure(Cell("ddim", "leading", "zero", 6))
    stored = content(folder)["cells"]["ddim|leading|zero|6|plain"]
    assert row["rmse"][0] == pytest.approx(stored["rmse"][1], rel=1e-4)
    assert row["fd"][0] == pytest.approx(stored["fd"][1], rel=1e-3)
    assert row["rmse"][0] != pytest.approx(stored["rmse"][0], rel=1e-4)


def test_the_median_error_and_the_errors_of_blocks_belong_together(folder: Path) -> None:
    run = started(ANALYTIC, folder)
    cell = Cell("ddim", "leading", "zero", 6)
    images, solution = run.model.sample(cell), run.model.solution(flow=False)
    errors = (images - solution).square().flatten(1).mean(dim=1).sqrt()
    row = content(folder)["cells"][cell.key]
    assert row["rmse_median"] == pytest.approx(float(errors.median()), rel=1e-3)
    assert row["rmse"][0] == pytest.approx(math.sqrt(float(errors[:70].square().mean())), rel=1e-4)


def test_a_second_run_measures_only_what_is_missing(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = content(folder)
    again = started(ANALYTIC, folder)
    assert again.missing() == []
    assert again.run() == 0
    measured: list[str] = []

    def count(self: PartRun, cell: Cell, advance: Any = None) -> dict[str, Any]:
        measured.append(cell.key)
        return {"seconds": 1.0, "non_finite": 0, "rmse": [0.1, 0.2], "fd": [1.0, 2.0], "fd_all": 1.5}

    monkeypatch.setattr(PartRun, "measure", count)
    wider = started(dataclasses.replace(ANALYTIC, nfe=(4, 6, 9)), folder)
    assert {cell.nfe for cell in wider.missing()} == {9}
    wider.results.path = folder / "wider.json"
    wider.run()
    assert set(measured) == {cell.key for cell in dataclasses.replace(ANALYTIC, nfe=(9,)).cells()}
    assert content(folder)["cells"] == before["cells"]


def test_an_interruption_keeps_what_was_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = PartRun.measure
    count = 0

    def stop(self: PartRun, cell: Cell, advance: Any = None) -> dict[str, Any]:
        nonlocal count
        count += 1
        if count == 3:
            raise KeyboardInterrupt
        return real(self, cell, advance)

    monkeypatch.setattr(PartRun, "measure", stop)
    with pytest.raises(KeyboardInterrupt):
        started(ANALYTIC, tmp_path).run()
    assert len(content(tmp_path)["cells"]) == 2
    assert not list(tmp_path.glob("*.tmp"))
    monkeypatch.setattr(PartRun, "measure", real)
    rest = started(ANALYTIC, tmp_path)
    assert len(rest.missing()) == len(rest.cells()) - 2


@pytest.mark.parametrize("change", [{"images": 71}, {"blocks": 3}, {"first_seed": 901}, {"dtype": "bfloat16"}])
def test_figures_of_other_settings_are_not_mixed_in(change: dict[str, Any], folder: Path) -> None:
    with pytest.raises(LMLError, match=next(iter(change))):
        started(dataclasses.replace(ANALYTIC, **change), folder)


def test_what_is_no_result_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "s-a.json"
    for text in ("{", "[1]", '{"format": "other"}'):
        path.write_text(text, encoding="utf-8")
        with pytest.raises(LMLError, match=r"s-a\.json"):
            read_results(path)
    with pytest.raises(LMLError, match="part='zz' is not in the suite"):
        plan(Suite("s", "S", (ANALYTIC,)), ["zz"], tmp_path, None, "x")


def test_progress_ends_at_all_evaluations(tmp_path: Path) -> None:
    told: list[tuple[str, int, int]] = []
    small = dataclasses.replace(ANALYTIC, samplers=("ddim",), nfe=(3,), images=4, measures=("rmse",))
    run = started(small, tmp_path)
    assert run.evaluations(run.cells()) == 2 * 3 * 8 + 40 * 8
    run.run(lambda *report: told.append(report))
    assert [name for name, _, _ in told] == ["a"] * len(told)
    assert told[-1][1] == told[-1][2] == run.evaluations(run.cells())


def test_images_that_are_not_finite_are_counted_and_a_block_of_them_has_no_value(tmp_path: Path) -> None:
    run = started(dataclasses.replace(ANALYTIC, images=70), tmp_path)
    images = torch.randn(140, 3, 32, 32, generator=torch.Generator().manual_seed(5))
    solution = images + 0.1
    images[:40] = float("nan")
    images[100, 0, 0, 0] = 50.0
    row = run._figures(images, solution)
    assert (row["non_finite"], row["wild"]) == (40, 1)
    assert row["rmse"][0] is None
    assert row["fd"][0] is None
    assert row["fd"][1] is not None
    assert "fd_all" not in row


def test_the_ends_of_a_grid_are_the_samplers_own() -> None:
    table = linear_alphas_cumprod()
    last = math.sqrt((1 - table[-1]) / table[-1])
    for cell in (Cell("ddim", "trailing", "zero", 5), Cell("dpmpp-2m", "linspace", "zero", 5)):
        first, end, scale = grid_ends(cell)
        assert first == pytest.approx(last, rel=1e-3)
        assert (end, scale) == (0.0, 1.0)
    first, end, _ = grid_ends(Cell("ddim", "leading", "min", 5))
    assert first == pytest.approx(math.sqrt((1 - table[800]) / table[800]), rel=1e-3)
    assert end == pytest.approx(math.sqrt((1 - table[0]) / table[0]), rel=1e-3)
    # Euler's noise is scaled by its largest sigma, which is a little less than the norm that belongs there.
    first, _, scale = grid_ends(Cell("euler", "karras", "zero", 5))
    assert scale == pytest.approx(first / math.sqrt(1 + first**2), rel=1e-6)


def test_the_error_of_a_grids_ends_is_what_a_fine_sampler_on_it_is_left_with(folder: Path) -> None:
    ends = content(folder)["ends"]
    assert ends["ddim|leading|zero|4"] > ends["ddim|leading|zero|6"] > 1e-3
    assert set(ends) == {cell.key.rsplit("|", 1)[0] for cell in ANALYTIC.cells()}


def test_the_best_grid_has_the_lowest_error_over_the_costs() -> None:
    def row(value: float | None, *, bad: int = 0) -> dict[str, Any]:
        return {"non_finite": bad, "rmse": [value, value], "fd": [value, value]}

    costs = runner.BEST_GRID_NFE
    measured = {f"unipc|linspace|zero|{n}|plain": row(0.2) for n in costs}
    measured |= {f"unipc|karras|zero|{n}|plain": row(0.1) for n in costs}
    measured |= {f"unipc|beta|zero|{n}|plain": row(None) for n in costs}
    measured |= {f"unipc|leading|zero|{n}|plain": row(0.01, bad=5) for n in costs}
    assert best_grid(measured, "unipc") == "karras"
    assert best_grid({}, "unipc") == "linspace"
    assert mean([0.1, None]) is None
    assert mean([0.1, 0.3]) == pytest.approx(0.2)


def test_the_best_grid_of_an_earlier_part_is_used(folder: Path, tmp_path: Path) -> None:
    first = dataclasses.replace(ANALYTIC, name="a", samplers=("ddim",), nfe=runner.BEST_GRID_NFE)
    second = dataclasses.replace(first, name="b", grids=("best",), best_of="a", nfe=(6,), arms=("plain",))
    suite = Suite("s", "S", (first, second))
    path = result_path(tmp_path, suite, first)
    run = plan(suite, ["a"], tmp_path, None, "x")[0]
    for nfe in first.nfe:
        run.results.cells[f"ddim|trailing|zero|{nfe}|plain"] = {"non_finite": 0, "rmse": [0.1, 0.1]}
    run.results.save()
    assert path.is_file()
    assert [c.key for c in plan(suite, ["b"], tmp_path, None, "x")[0].cells()] == ["ddim|trailing|zero|6|plain"]


def test_the_embedded_model_uses_its_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    part = Part("e", "embedded", ("ddim",), ("default",), (2,), 2, 2, 50, dtype="bfloat16", measures=("rmse",))
    first = load_bench_model(part, tmp_path)
    assert isinstance(first, EmbeddedBench)
    monkeypatch.setattr("lmlangevin.bench.models.CONVERGED", Cell("dpmpp-3m", "trailing", "zero", 3))
    solution = first.solution(flow=False)
    assert solution.shape == (4, 3, 32, 32)
    assert len(list(tmp_path.glob("solution-*.safetensors"))) == 1
    second = load_bench_model(part, tmp_path)
    monkeypatch.setattr(EmbeddedBench, "sample", None)
    assert torch.equal(second.solution(flow=False), solution)


def save_mixture(file: Path, shape: tuple[int, ...] = (3, 32, 32), rank: int = 2) -> None:
    factors = torch.randn(3, math.prod(shape), 4, generator=torch.Generator().manual_seed(7)) / 10
    ones = torch.ones(3)
    GaussianMixture.from_factors(ones, factors[..., 0], factors[..., 1 : 1 + rank], 0.01 * ones, shape).save(file)


def test_a_mixture_from_a_file_is_measured_under_its_name_and_not_its_path(tmp_path: Path) -> None:
    file = tmp_path / "held-out" / "mixture.safetensors"
    part = dataclasses.replace(ANALYTIC, model=str(file), samplers=("ddim",), nfe=(3,), measures=("rmse",), images=4)
    with pytest.raises(LMLError, match=r"is no file; give the path of a mixture\.safetensors"):
        started(part, tmp_path)
    file.parent.mkdir()
    save_mixture(file, rank=2)
    run = started(part, tmp_path)
    assert run.run() == 2
    record = content(tmp_path)
    assert record["settings"]["model"] == "mixture:held-out" and str(tmp_path) not in json.dumps(record)
    save_mixture(file, rank=1)  # of the same weights and means
    with pytest.raises(LMLError, match="weights is"):
        started(part, tmp_path)
    save_mixture(file, shape=(1, 8, 8))
    with pytest.raises(LMLError, match=r"shape \(1, 8, 8\); give one of \(3, 32, 32\)"):
        started(part, tmp_path)


def test_a_part_whose_model_can_be_made_is_left_out_until_it_is(tmp_path: Path) -> None:
    file = tmp_path / "mix" / "mixture.safetensors"
    part = dataclasses.replace(ANALYTIC, name="h", model=str(file), make="python tools/fit_mixture.py --out mix")
    suite = Suite("s", "S", (dataclasses.replace(ANALYTIC, samplers=("ddim",)), part))
    assert runner.left_out(suite, []) == [part] and runner.left_out(suite, ["h"]) == []
    assert [run.part.name for run in plan(suite, [], tmp_path, None, "x")] == ["a"]
    with pytest.raises(LMLError, match=r"make it: python tools/fit_mixture\.py --out mix"):
        plan(suite, ["h"], tmp_path, None, "x")


def test_a_calibrated_cell_is_measured_again_once_its_calibration_is_another(
    calibrations: CalibrationFile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arms = ("plain", "control=calibrated")
    part = dataclasses.replace(ANALYTIC, samplers=("euler",), nfe=(4,), images=4, measures=("rmse",), arms=arms)
    assert started(part, tmp_path).run() == 2
    record = content(tmp_path)
    row = record["cells"]["euler|fitted||4|control=calibrated"]
    assert len(row["calibration"]) == 16 and len(row["rmse"]) == 2
    assert "calibration" not in record["cells"]["euler|linspace|zero|4|plain"]
    assert list(record["ends"]) == ["euler|linspace|zero|4"]
    assert started(part, tmp_path).missing() == []
    other = dataclasses.replace(calibrations.schedule, gains=((0.0,), (0.2,), (0.2,), (0.1,)))
    found = dataclasses.replace(calibrations, schedule=other)
    monkeypatch.setattr("lmlangevin.calibration.find_calibration", lambda model, steps, *, flow: found)
    assert [cell.grid for cell in started(part, tmp_path).missing()] == ["fitted"]


def test_the_speed_is_measured_and_the_estimate_follows(folder: Path) -> None:
    run = started(dataclasses.replace(ANALYTIC, nfe=(4, 6, 8)), folder)
    assert isinstance(run.model, AnalyticBench)
    cells, evaluations, seconds = runner.estimate(run)
    assert cells == 4
    assert evaluations == (3 * 8 + 7) * 140 + 40 * 140
    assert 0 < seconds < 600
    assert runner.estimate(started(ANALYTIC, folder)) == (0, 0, 0.0)


def test_the_release_is_measured_by_itself_once(tmp_path: Path) -> None:
    asked = Identity((64,), (1e-3, 1.0), ("float64", "float32"), samples=8, seed=3)
    suite = Suite("s", "S", (), asked)
    assert runner.run_identity(suite, tmp_path, "lml bench --suite s")
    record = json.loads((tmp_path / "s-identity.json").read_text(encoding="utf-8"))
    assert [(row["dtype"], row["damping"]) for row in record["rows"]] == [
        ("float64", 1e-3), ("float64", 1.0), ("float32", 1e-3), ("float32", 1.0),
    ]  # fmt: skip
    assert record["first_seed"] == 3
    assert not runner.run_identity(suite, tmp_path, "x")
    assert runner.run_identity(dataclasses.replace(suite, identity=dataclasses.replace(asked, seed=4)), tmp_path, "x")
    assert not runner.run_identity(Suite("t", "T", (ANALYTIC,)), tmp_path, "x")

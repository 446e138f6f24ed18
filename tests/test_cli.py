from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

import lmlangevin
from lmlangevin import cli

ROOT = Path(lmlangevin.__file__).parent


def _invoke(*args: object) -> Result:
    return CliRunner().invoke(cli.cli, [str(arg) for arg in args])


def _python(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_small_comparison_as_a_user_runs_it(tmp_path: Path) -> None:
    out = tmp_path / "demo"
    done = subprocess.run(
        [sys.executable, "-m", "lmlangevin", "generate", "--compare", "--num-images", "2", "--steps", "2"]
        + ["--gain", "0.5", "--out", str(out)],
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert f"Comparison: {out / 'compare.png'}" in done.stdout
    assert "plain: 2 images, 2 network evaluations each" in done.stdout
    assert "gain 0.5" in done.stdout
    assert (out / "compare.png").is_file()
    assert len(list((out / "lml").iterdir())) == 2


def test_a_mistake_in_a_real_process_is_one_line_and_exit_code_2(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "lmlangevin", "generate", "--kappa", "3", "--out", str(tmp_path / "out")],
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1
    assert "kappa=3" in done.stderr
    assert not (tmp_path / "out").exists()


MISTAKES = {
    "unknown scheduler": (["--scheduler", "rk4"], "give one of ddim"),
    "unknown model": (["--model", "resnet"], "give scenes, "),
    "no steps": (["--steps", "0"], "such as 8"),
    "no images": (["--num-images", "0"], "such as 64"),
    "steps and evaluations": (["--steps", "8", "--nfe", "8"], "give one of them"),
    "no such cost": (["--nfe", "8", "--scheduler", "heun", "--no-lml"], "give 7 or 9"),
    "both ways": (["--resume", "--overwrite"], "give one"),
    "kappa": (["--kappa", "3"], "[-1, 1]"),
    "no CUDA": (["--device", "cuda:77"], "give --device"),
    "prompt": (["--prompt", "a fox"], "leave it out"),
    "guidance": (["--guidance-scale", "7.5"], "leave it out"),
    "two grids": (["--timestep-spacing", "leading", "--sigmas", "karras"], "give one of them"),
    "gain and kappa": (["--gain", "0.5", "--kappa", "0.5"], "give gain alone"),
    "flow on noise": (["--scheduler", "flow-euler"], "--model analytic-cifar10"),
    "no number": (["--steps", "eight"], "see 'lml generate --help'"),
    "no such option": (["--stepz", "8"], "see 'lml generate --help'"),
    "stray word": (["more"], "see 'lml generate --help'"),
}


@pytest.mark.parametrize(("options", "remedy"), MISTAKES.values(), ids=MISTAKES.keys())
def test_a_mistake_is_one_line_on_stderr_and_nothing_is_written(
    options: list[str], remedy: str, tmp_path: Path
) -> None:
    result = _invoke("generate", *options, "--out", tmp_path / "out")
    assert result.exit_code == 2
    assert result.stdout == ""
    assert result.stderr.count("\n") == 1
    assert remedy in result.stderr
    assert "Traceback" not in result.stderr
    assert list(tmp_path.iterdir()) == []


def test_an_unwritable_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    result = _invoke("generate", "--out", tmp_path / "file" / "out")
    assert (result.exit_code, result.stderr.count("\n")) == (2, 1)
    assert "give another folder" in result.stderr
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_a_folder_that_cannot_be_made_is_refused_even_where_permissions_look_right() -> None:
    result = _invoke("generate", "--num-images", "1", "--steps", "1", "--gain", "0", "--out", "/proc/lml-out")
    assert (result.exit_code, result.stderr.count("\n")) == (2, 1)
    assert "give another folder" in result.stderr


def test_out_is_required() -> None:
    result = _invoke("generate")
    assert (result.exit_code, result.stderr.count("\n")) == (2, 1)
    assert "--out" in result.stderr


def test_an_unknown_command_is_one_line() -> None:
    result = _invoke("paint")
    assert (result.exit_code, result.stderr.count("\n")) == (2, 1)
    assert "see 'lml --help'" in result.stderr


def test_an_error_that_is_no_mistake_of_the_user_keeps_its_traceback(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*args: object, **kwargs: object) -> None:
        raise ValueError("a defect")

    monkeypatch.setattr("lmlangevin.generation.generate", broken)
    result = _invoke("generate", "--out", tmp_path / "out")
    assert isinstance(result.exception, ValueError)
    assert str(result.exception) == "a defect"


def test_help_names_every_scheduler_and_option() -> None:
    from lmlangevin.commands.generate import SCHEDULER_NAMES
    from lmlangevin.schedulers import SCHEDULERS

    assert SCHEDULER_NAMES.split(", ") == list(SCHEDULERS)
    text = _invoke("generate", "--help").stdout
    for option in ("model", "scheduler", "steps", "num-images", "batch-size", "seed", "timestep-spacing", "sigmas"):
        assert f"--{option}" in text
    for option in ("flow-shift", "gain", "kappa", "damping", "placement", "control", "rank", "no-lml", "compare"):
        assert f"--{option}" in text
    for option in ("prompt", "guidance-scale", "dtype", "device", "overwrite", "resume", "nfe", "out"):
        assert f"--{option}" in text


def test_the_defaults_of_the_command_are_those_of_the_job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from lmlangevin.generation import GenerateConfig

    seen: list[GenerateConfig] = []

    def stop(config: GenerateConfig, progress: object) -> None:
        seen.append(config)
        raise SystemExit(0)

    monkeypatch.setattr("lmlangevin.generation.generate", stop)
    assert _invoke("generate", "--out", tmp_path).exit_code == 0
    assert seen == [GenerateConfig(out=tmp_path)]


def test_bare_lml_shows_its_help_and_version_shows_the_version() -> None:
    assert "generate" in _invoke().stdout
    assert lmlangevin.__version__ in _invoke("--version").stdout


def test_importing_the_command_imports_nothing_heavy() -> None:
    # The package's own __init__ stands aside: what this module imports is the question here.
    code = (
        "import sys, types\n"
        "package = types.ModuleType('lmlangevin')\n"
        f"package.__path__ = [{str(ROOT)!r}]\n"
        "sys.modules['lmlangevin'] = package\n"
        "import lmlangevin.cli\n"
        "heavy = ('torch', 'diffusers', 'transformers', 'numpy', 'PIL', 'rich')\n"
        "print([name for name in heavy if name in sys.modules])"
    )
    assert _python(code).strip() == "[]"


def test_info_lists_schedulers_models_and_versions() -> None:
    from lmlangevin.schedulers import SCHEDULERS

    result = _invoke("info")
    assert "Calibrations (MODEL-STEPS): analytic-cifar10 5, 6, 7, 8, 10" in result.output
    assert result.exit_code == 0
    for name, entry in SCHEDULERS.items():
        assert name in result.stdout
        assert entry.class_name in result.stdout
    for words in (
        "scenes",
        "scenes-reader",
        "embedded",
        "analytic-cifar10",
        "MiB",
        "CIFAR-10",
        "leading*:",
        "karras",
        "torch 2",
        "diffusers 0.",
    ):
        assert words in result.stdout


def test_an_interrupt_is_told_in_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*args: object, **kwargs: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("lmlangevin.generation.generate", interrupted)
    result = _invoke("generate", "--out", tmp_path / "out")
    assert result.exit_code == 130
    assert result.stderr == "lml: interrupted; what was finished is kept: give --resume to go on.\n"
    # Elsewhere there is nothing to go on with.
    monkeypatch.setattr("lmlangevin.generation.info.model_table", interrupted)
    result = _invoke("info")
    assert result.exit_code == 130
    assert result.stderr.strip() == "lml: interrupted."

"""Every block of code in README and docs is run as a reader runs it, page by page, from the top, in an empty folder.

What a page takes as given is in `GIVEN`; weights of the hub are those of tiny pipelines; sizes are smaller where
`SMALLER` says so. Commands are run on the built-in models, and checked up to their first work where they need more.
"""

from __future__ import annotations

import json
import shutil
import sys
import tomllib
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import pytest
import torch
from click.testing import CliRunner
from PIL import Image

from docs_blocks import ROOT, Block, blocks, pages, shell_commands
from lmlangevin.cli import cli
from tiny_pipelines import KINDS

PAGES = pages()
CONTROLNET = "lllyasviel/sd-controlnet-canny"
WITH_PYTHON = [page for page in PAGES if blocks(page, "python")]
WITH_SHELL = [page for page in PAGES if blocks(page, "bash")]


def _name(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


# Python


class Denoiser:
    """The denoiser of a standard normal distribution of data, with what k-diffusion's wrappers have beside it."""

    sigma_min, sigma_max = torch.tensor(0.03), torch.tensor(14.6)

    def __call__(self, x: torch.Tensor, sigma: torch.Tensor, **extra: Any) -> torch.Tensor:
        return x / (1 + sigma.view(-1, 1, 1, 1) ** 2)


class Reader:
    """What the pages take as given."""

    def __init__(self, tiny_pipeline: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch) -> None:
        self.tiny_pipeline, self.monkeypatch = tiny_pipeline, monkeypatch

    def pipe(self) -> dict[str, Any]:
        from diffusers import StableDiffusionPipeline

        pipe = StableDiffusionPipeline.from_pretrained(self.tiny_pipeline("sd15"))
        pipe.set_progress_bar_config(disable=True)
        return {"pipe": pipe}

    def calibrated_pipe(self) -> dict[str, Any]:
        from lmlangevin.calibration import CalibrateConfig, calibrate

        Path("prompts.txt").write_text("a fox\n")
        model = str(self.tiny_pipeline("sd15"))
        config = CalibrateConfig(
            "gains.json",
            model=model,
            prompt_file="prompts.txt",
            guidance_scale=5,
            num_seeds=4,
            teacher_steps=16,
            iterations=1,
            rank=1,
        )
        calibrate(config)
        return self.pipe()

    def noise(self) -> dict[str, Any]:
        noise = torch.randn((2, 3, 8, 8), generator=torch.Generator().manual_seed(1))
        return {"model": Denoiser(), "noise": noise, "sigmas": torch.tensor([14.6, 3.0, 0.5, 0.0])}

    def k_diffusion(self) -> dict[str, Any]:
        # The package itself imports torchvision; tests/samplers compares with it in a process of its own.
        module = types.ModuleType("k_diffusion")
        sigmas = torch.cat([torch.linspace(14.6**0.2, 0.03**0.2, 8) ** 5, torch.zeros(1)])
        module.external = types.SimpleNamespace(CompVisDenoiser=lambda net: net)  # pyright: ignore
        module.sampling = types.SimpleNamespace(get_sigmas_karras=lambda n, least, most: sigmas)  # pyright: ignore
        self.monkeypatch.setitem(sys.modules, "k_diffusion", module)
        shutil.copy(ROOT / "src/lmlangevin/assets/calibrations/embedded-8.json", "gains.json")
        return {"net": Denoiser(), "cond": None, "noise": self.noise()["noise"]}

    def edges(self) -> dict[str, Any]:
        return {"edges": Image.new("RGB", (16, 16))}

    def images(self) -> dict[str, Any]:
        from lmlangevin.generation import GenerateConfig, generate

        generate(GenerateConfig(out="runs/ddim", steps=2, num_images=12, compare=True))
        shutil.copytree("runs/ddim/plain", "a")
        shutil.copytree("runs/ddim/lml", "b")
        return {}

    def normal(self) -> dict[str, Any]:
        x = torch.randn((4, 6), generator=torch.Generator().manual_seed(2))
        generators = [torch.Generator().manual_seed(k) for k in range(4)]
        return {
            "x": x,
            "generators": generators,
            "score": lambda x: -x,
            "log_density": lambda x: -x.square().flatten(1).sum(1) / 2,
        }


GIVEN: dict[str, Callable[[Reader], dict[str, Any]]] = {
    "README.md": Reader.noise,
    "docs/choosing.md": Reader.pipe,
    "docs/control.md": Reader.calibrated_pipe,
    "docs/evaluation.md": Reader.images,
    "docs/langevin.md": Reader.normal,
    "docs/pipelines.md": Reader.edges,
    "docs/samplers.md": Reader.k_diffusion,
    "docs/schedulers.md": Reader.pipe,
}
SMALLER = {"docs/langevin.md": {"2000": "40", "10_000": "20", "rank=16": "rank=2"}}


@pytest.fixture
def reader(tiny_pipeline: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Reader:
    """Somebody in an empty folder, for whom the hub's names lead to tiny pipelines."""
    from diffusers import ControlNetModel, DiffusionPipeline
    from diffusers.utils import logging

    def folder(cls: type, name: str | Path) -> Path:
        if Path(name).is_dir():
            return Path(name)
        if name == CONTROLNET:
            return tiny_pipeline("sd15-canny") / "controlnet"
        return tiny_pipeline(
            next(kind for kind, entry in KINDS.items() if (entry.published, entry.pipeline) == (name, cls.__name__))
        )

    for base in (DiffusionPipeline, ControlNetModel):
        load = base.from_pretrained.__func__  # pyright: ignore[reportFunctionMemberAccess]
        there = classmethod(lambda cls, name, load=load, **settings: load(cls, folder(cls, name), **settings))
        monkeypatch.setattr(base, "from_pretrained", there)
    monkeypatch.chdir(tmp_path)
    logging.disable_progress_bar()
    return Reader(tiny_pipeline, monkeypatch)


@pytest.mark.parametrize("page", WITH_PYTHON, ids=_name)
def test_python_blocks_run(page: Path, reader: Reader) -> None:
    names = GIVEN.get(_name(page), lambda reader: {})(reader)
    for block in blocks(page, "python"):
        text = block.text
        for size, smaller in SMALLER.get(_name(page), {}).items():
            assert size in text, f"{page}: no {size} to make smaller"
            text = text.replace(size, smaller)
        code = compile("\n" * (block.line - 1) + text, str(page), "exec")  # lines of a traceback are the page's
        if block.reason is None:
            exec(code, names)


def test_a_reason_is_given_for_every_block_that_is_not_run() -> None:
    left_out = [block for page in PAGES for language in ("python", "bash") for block in blocks(page, language)]
    for block in left_out:
        assert block.reason is None or len(block.reason.split()) >= 3, f"{block.page}:{block.line}: say why"


def test_what_is_given_belongs_to_a_page() -> None:
    assert set(GIVEN) | set(SMALLER) <= {_name(page) for page in WITH_PYTHON}


# Shell


class Reached(Exception):
    """A command's arguments are right, and its work would begin."""


def _lml(command: list[str]) -> list[str] | None:
    """Return the arguments of `lml`, however it is started."""
    if command[0] == "lml":
        return command[1:]
    if command[0] in ("accelerate", "torchrun") and "lmlangevin" in command:
        return command[command.index("lmlangevin") + 1 :]
    return None


def _targets() -> set[str]:
    return {line.split(":")[0] for line in (ROOT / "Makefile").read_text().splitlines() if ":" in line}


def _check_other(command: list[str]) -> None:
    """Check a command that is not `lml`: what it names of this repository must exist."""
    name, *rest = command
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    match name:
        case "make":
            assert set(rest) <= _targets()
        case "pip":
            for word in rest:
                if word.startswith(("lmlangevin[", ".[")):
                    assert set(word.partition("[")[2].rstrip("]").split(",")) <= set(extras)
        case "python" | "python3.11" | "sh":
            if rest[0] != "-m":
                assert (ROOT / rest[0]).is_file()
        case _:
            assert name in ("git", "hf", "ln", ".", "cd"), f"{name} is no command that pages use"


@pytest.fixture
def up_to_the_work(tiny_pipeline: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Let commands stop where their work would begin, in a folder with the files that pages name."""
    import lmlangevin.bench.runner
    import lmlangevin.calibration
    import lmlangevin.commands.reproduce
    import lmlangevin.evaluation.fid
    import lmlangevin.generation

    def stop(*args: Any, **options: Any) -> None:
        raise Reached

    monkeypatch.setattr(lmlangevin.generation, "generate", stop)
    monkeypatch.setattr(lmlangevin.calibration, "Calibration", stop)
    monkeypatch.setattr(lmlangevin.bench.runner, "plan", stop)
    monkeypatch.setattr(lmlangevin.evaluation.fid, "fid", stop)
    monkeypatch.setattr(lmlangevin.commands.reproduce, "_run", stop)
    monkeypatch.setattr(lmlangevin.commands.reproduce, "_check", stop)
    monkeypatch.chdir(tmp_path)
    for name in ("MODEL", "FOLDER", "FOLDER_OR_HUB_ID", "runs/sdxl"):
        Path(name).parent.mkdir(exist_ok=True)
        Path(name).symlink_to(tiny_pipeline("sd15"))
    Path("CONTROLNET").symlink_to(tiny_pipeline("sd15-canny") / "controlnet")
    prompts = Path("T2I-CompBench/examples/dataset/color_val.txt")
    prompts.parent.mkdir(parents=True)
    for file in (prompts, Path("prompts.txt")):
        file.write_text("a fox\n")
    Path("captions.csv").write_text("image_id,text\n1,a fox\n")
    shutil.copy(ROOT / "src/lmlangevin/assets/calibrations/embedded-8.json", "gains.json")
    for name in ("photo", "mask", "edges"):
        Image.new("RGB", (16, 16)).save(f"{name}.png")
    Path("style.safetensors").touch()


STOPS = ("generate", "calibrate", "bench", "fid", "reproduce")


@pytest.mark.parametrize("page", WITH_SHELL, ids=_name)
@pytest.mark.usefixtures("up_to_the_work")
def test_commands_take_the_arguments_of_the_pages(page: Path) -> None:
    for block in blocks(page, "bash"):
        for command in shell_commands(block.text):
            arguments = _lml(command)
            if arguments is None:
                _check_other(command)
            else:
                _check_lml(["cpu" if word == "cuda" else word for word in arguments], block)


def _check_lml(arguments: list[str], block: Block) -> None:
    where = f"{block.page.name}:{block.line}: lml {' '.join(arguments)}"
    group: click.Command = cli
    parsed = list(arguments)
    while isinstance(group, click.Group):
        group = group.commands[parsed.pop(0)]
    try:
        group.make_context(str(group.name), list(parsed))
    except click.ClickException as error:
        pytest.fail(f"{where}: {error.format_message()}")
    if arguments[0] in STOPS and len(arguments) > 1:
        again = ["--overwrite"] if arguments[0] == "calibrate" else []  # gains.json is there for those who read it
        done = CliRunner().invoke(cli, [*arguments, *again])
        assert isinstance(done.exception, Reached), f"{where}: {done.output or done.exception}"


def test_the_quick_start_runs(tiny_pipeline: Callable[[str], Path], tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    runs = []
    for block in blocks(ROOT / "docs" / "quickstart.md", "bash"):
        for command in shell_commands(block.text):
            arguments = _lml(command)
            if arguments is None:
                continue
            published = KINDS["sd15"].published
            arguments = [str(tiny_pipeline("sd15")) if word == published else word for word in arguments]
            small = ["--num-images", "2"] if arguments[0] == "generate" else []
            done = CliRunner().invoke(cli, [*arguments, *small])
            assert done.exit_code == 0, f"{arguments}: {done.exception or done.output}"
            if arguments[0] == "generate":
                runs.append(Path(arguments[arguments.index("--out") + 1]))
    assert len(runs) == 3
    for out in runs:
        assert (out / "compare.png").is_file()
        assert json.loads((out / "manifest.json").read_text())["status"] == "complete"

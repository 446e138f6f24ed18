"""`lml fid` as a user runs it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result
from PIL import Image

from lmlangevin import cli
from lmlangevin.evaluation.fid import fid
from lmlangevin.evaluation.protocols import PROTOCOLS


def invoke(*args: object) -> Result:
    return CliRunner().invoke(cli.cli, ["fid", *(str(arg) for arg in args)])


def make_images(folder: Path, seed: int, count: int) -> Path:
    """Write random 32x32 images named by number."""
    folder.mkdir(parents=True)
    generator = np.random.default_rng(seed)
    for index in range(count):
        Image.fromarray(generator.integers(0, 256, (32, 32, 3), dtype=np.uint8)).save(folder / f"{index:06d}.png")
    return folder


def make_job(folder: Path, seed: int, count: int) -> Path:
    for index, run in enumerate(("plain", "lml")):
        make_images(folder / run, seed + index, count)
    images = [
        {"id": k, "seed": k, "files": {run: f"{run}/{k:06d}.png" for run in ("plain", "lml")}} for k in range(count)
    ]
    content = {"format": "lmlangevin-generate-1", "status": "complete", "images": images}
    (folder / "manifest.json").write_text(json.dumps(content))
    return folder


def test_a_measurement_with_blocks_and_files(tmp_path: Path) -> None:
    job = make_job(tmp_path / "job", 700, 13)
    out, saved = tmp_path / "result.json", tmp_path / "statistics.npz"
    done = invoke(
        *(job, "default", "--run", "lml", "--blocks", 3, "--batch-size", 4), "--out", out, "--save-statistics", saved
    )
    assert (done.exit_code, done.stderr) == (0, "")
    result = fid(job, run="lml", blocks=3)
    assert result.log is not None and result.blocks is not None
    lines = done.stdout.splitlines()
    assert lines[0] == f"FD {result.value:.6g}"
    assert lines[1] == f"ln FD {result.log.natural:.4f}, log10 FD {result.log.base10:.4f}"
    assert lines[2] == "13 generated images of the run lml, 50000 in the reference"
    assert lines[3] == "Protocol embedded-cifar10, extractor lmlangevin-features-cifar10"
    assert lines[4].startswith(f"3 blocks of 4 images: {result.blocks.mean:.6g} ± {result.blocks.sd:.2g} (mean ± SD)")
    assert lines[4].endswith("values " + ", ".join(f"{value:.6g}" for value in result.blocks.values))
    assert "Note: 13 images where the protocol has 50000: compare only with results of the same N." in lines
    assert "Note: The last 1 images fill no block: they count in the value and in no block." in lines
    assert lines[-2:] == [f"Statistics: {saved}", f"Result: {out}"]
    assert json.loads(out.read_text())["value"] == pytest.approx(result.value, rel=1e-6)
    again = invoke(saved, "default")
    assert again.stdout.splitlines()[:2] == lines[:2]


def test_help_names_the_protocols() -> None:
    from lmlangevin.commands.fid import PROTOCOL_NAMES

    assert PROTOCOL_NAMES.split(", ") == list(PROTOCOLS)
    text = invoke("--help").stdout
    for option in ("protocol", "run", "blocks", "batch-size", "device", "inception-weights", "reference-n"):
        assert f"--{option}" in text
    for option in ("assume-protocol", "save-statistics", "save-reference-statistics", "out"):
        assert f"--{option}" in text


MISTAKES = {
    "no such folder": (["nowhere", "default"], "give a folder of images"),
    "two runs": (["job", "default"], "give --run, or name"),
    "unknown run": (["job", "default", "--run", "images"], "has the runs plain, lml"),
    "unknown protocol": (["job/lml", "default", "--protocol", "fid"], "give one of embedded-cifar10, scenes, tf-fid"),
    "one block": (["job/lml", "default", "--blocks", "1"], "give 2 or more"),
    "no reference": (["job/lml"], "see 'lml fid --help'"),
    "no number": (["job/lml", "default", "--blocks", "few"], "see 'lml fid --help'"),
    "suffix": (["job/lml", "default", "--out", "result.txt"], "ends in .json"),
    "folder": (["job/lml", "default", "--out", "nowhere/result.json"], "in a folder that is there"),
    "device": (["job/lml", "default", "--device", "cuda:77"], "give cpu"),
    "broken": (["broken", "default"], "broken/000001.png"),
    "another N": (
        ["job/lml", "job/plain", "--protocol", "lml-coco"],
        "4 images, and protocol 'lml-coco' is of 30000; give as many, or --protocol lml-coco@4",
    ),
    "no torch-fidelity": (["job/lml", "job/plain", "--protocol", "tf-fid"], "[fid]'"),
}


@pytest.mark.parametrize(("options", "remedy"), MISTAKES.values(), ids=MISTAKES.keys())
def test_a_mistake_is_one_line_and_nothing_is_written(
    options: list[str], remedy: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "torch_fidelity", None)
    make_job(Path("job"), 710, 4)
    (make_images(Path("broken"), 711, 3) / "000001.png").write_text("no image")
    result = invoke(*options)
    assert result.exit_code == 2
    assert result.stdout == ""
    assert result.stderr.count("\n") == 1
    assert remedy in result.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["broken", "job"]


def test_importing_the_command_is_light() -> None:
    root = str(Path(cli.__file__).parent)
    # The package's own __init__ stands aside: what this module imports is the question here.
    code = (
        "import sys, types\n"
        "package = types.ModuleType('lmlangevin')\n"
        f"package.__path__ = [{root!r}]\n"
        "sys.modules['lmlangevin'] = package\n"
        "import lmlangevin.commands.fid\n"
        "heavy = ('torch', 'numpy', 'PIL', 'rich', 'lmlangevin.evaluation', 'lmlangevin.core')\n"
        "print([name for name in heavy if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == "[]"


MEMORY = """
import sys
from lmlangevin.cli import cli

cli.main(["fid", sys.argv[1], "default"], standalone_mode=False)
print("peak", next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM")))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads the peak of memory from /proc")
def test_memory_does_not_grow_with_the_number_of_images(tmp_path: Path) -> None:
    files = sorted(make_images(tmp_path / "few", 720, 300).iterdir())
    (tmp_path / "many").mkdir()
    for k in range(3000):
        os.link(files[k % 300], tmp_path / "many" / f"{k:06d}.png")
    peaks = []
    for folder in ("few", "many"):
        done = subprocess.run(
            [sys.executable, "-c", MEMORY, str(tmp_path / folder)],
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
        )
        assert done.returncode == 0, done.stderr
        assert done.stderr == ""
        peaks.append(int(done.stdout.split()[-1]) / 1024)
    assert peaks[1] - peaks[0] < 60

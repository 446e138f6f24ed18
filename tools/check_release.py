"""Check the wheel and the sdist as a user would meet them.

    python tools/check_release.py dist             # contents, then a fresh environment that runs without a network
    python tools/check_release.py dist --no-run    # contents alone

`make dist` builds both and runs this. The fresh environment gets the wheel with the extras that the README names, then
loses the network (`unshare`, where the machine allows it) and generates four images. Packages are those of
constraints.txt. Every mistake that is found is printed, and the exit code is 1.
"""

from __future__ import annotations

import argparse
import email
import json
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Iterator, Sequence
from email.message import Message
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = "lmlangevin"
LARGEST = 40 * 2**20
"""Bytes that a wheel may have."""
EXTRAS = "diffusers,cli"
IMAGES = 4

NEEDED = (
    "py.typed",
    "assets/embedded/model_index.json",
    "assets/embedded/unet/diffusion_pytorch_model.safetensors",
    "assets/features-cifar10/model.safetensors",
    "assets/features-cifar10/statistics.npz",
    "assets/analytic-cifar10/mixture.safetensors",
    "assets/calibrations/embedded-8.json",
    "assets/presets.json",
    "assets/scenes/model_index.json",
    "assets/scenes/unet/diffusion_pytorch_model.safetensors",
    "assets/scenes-reader/model.safetensors",
    "assets/scenes-prompts/colour-seen.txt",
    "bench/suites/quick.toml",
    "reproduce/presets/cifar10.toml",
)
"""Files that the commands read, which a wheel without its data lacks; a list of tracked files alone would miss them."""

SDIST = (
    "pyproject.toml", "README.md", "CHANGES.md", "CONTRIBUTING.md", "LICENSE", "CITATION.cff", "constraints.txt",
    "Makefile", "mkdocs.yml", "tests/conftest.py", "examples/README.md", "docs/method.md", "tools/tiny_pipelines.py",
    "benchmarks/tables.py", "integrations/comfyui/__init__.py", f"src/{PACKAGE}/py.typed",
)  # fmt: skip
"""Files that an sdist must hold, one of each kind."""


def version() -> str:
    """Return the version of the tree, from the one place where it is written."""
    found: dict[str, str] = {}
    exec((ROOT / "src" / PACKAGE / "_version.py").read_text(encoding="utf-8"), found)
    return found["__version__"]


def find_files(folder: Path) -> tuple[Path, Path]:
    """Return the wheel and the sdist of a folder.

    Raises:
        SystemExit: If there is not exactly one of each.
    """
    wheels, sdists = sorted(folder.glob("*.whl")), sorted(folder.glob("*.tar.gz"))
    if len(wheels) != 1 or len(sdists) != 1:
        raise SystemExit(f"{folder} holds {len(wheels)} wheels and {len(sdists)} sdists; build them with make dist.")
    return wheels[0], sdists[0]


def wheel_mistakes(wheel: Path, sources: Sequence[str]) -> Iterator[str]:
    """Yield what is wrong with a wheel.

    Args:
        wheel: The file.
        sources: Names of the package's files, relative to the package, that it must hold, and no others.
    """
    if (size := wheel.stat().st_size) > LARGEST:
        yield f"{wheel.name} has {size / 2**20:.1f} MiB, more than {LARGEST // 2**20}"
    with zipfile.ZipFile(wheel) as archive:
        names = [name for name in archive.namelist() if not name.endswith("/")]
        info = next((name for name in names if name.endswith(".dist-info/METADATA")), None)
        metadata = email.message_from_bytes(archive.read(info)) if info else Message()
    own = {name.removeprefix(f"{PACKAGE}/") for name in names if name.startswith(f"{PACKAGE}/")}
    yield from (f"{wheel.name} lacks {name}" for name in sorted({*sources, *NEEDED} - own))
    yield from (f"{wheel.name} holds {name}, which is not tracked" for name in sorted(own - set(sources)))
    others = [name for name in names if not name.startswith((f"{PACKAGE}/", f"{PACKAGE}-"))]
    yield from (f"{wheel.name} would install {name} beside the package" for name in others)
    if not any(name.endswith(".dist-info/licenses/LICENSE") for name in names):
        yield f"{wheel.name} has no licence"
    for key, value in (("Version", version()), ("License-Expression", "Apache-2.0"), ("Name", PACKAGE)):
        if metadata[key] != value:
            yield f"{wheel.name}: {key} is {metadata[key]!r}, not {value!r}"


def sdist_mistakes(sdist: Path) -> Iterator[str]:
    """Yield what is wrong with an sdist."""
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    yield from (f"{sdist.name} lacks {name}" for name in SDIST if name not in names)
    yield from (f"{sdist.name} holds {name}" for name in sorted(names) if "__pycache__" in name or "/." in name)


def tracked_sources() -> list[str]:
    """Return the names of the package's files that git knows, relative to the package."""
    folder = ROOT / "src" / PACKAGE
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=folder, check=True, capture_output=True, text=True).stdout
    return [name for name in listed.split("\0") if name]


def run_mistakes(wheel: Path) -> Iterator[str]:
    """Yield what goes wrong when the wheel is installed in a fresh environment and used without a network."""
    with tempfile.TemporaryDirectory() as made:
        place = Path(made)
        bin_ = place / "venv" / "bin"
        # Nothing of this tree, and none of the machine's models.
        clean = {key: value for key, value in os.environ.items() if not key.startswith(("PYTHON", "HF_", "VIRTUAL"))}
        _run([sys.executable, "-m", "venv", place / "venv"], place, clean)
        constraints = ROOT / "constraints.txt"
        _run([bin_ / "pip", "install", "--quiet", "-c", constraints, f"{wheel.resolve()}[{EXTRAS}]"], place, clean)
        offline = {**clean, "HF_HUB_OFFLINE": "1", "HF_HOME": str(place / "hf"), "HOME": str(place)}
        alone = ["unshare", "--map-root-user", "--net"]
        if shutil.which("unshare") is None or subprocess.run([*alone, "true"], capture_output=True).returncode:
            print("The network cannot be taken away here (unshare); HF_HUB_OFFLINE=1 alone.")
            alone = []
        shown = _run([*alone, bin_ / "lml", "--version"], place, offline)
        if version() not in shown:
            yield f"lml --version prints {shown.strip()!r}, not {version()}"
        where = _run([bin_ / "python", "-c", f"import {PACKAGE}; print({PACKAGE}.__file__)"], place, offline)
        if not where.startswith(str(place)):
            yield f"{PACKAGE} was imported from {where.strip()}"
        out = place / "run"
        asked = ["generate", "--num-images", IMAGES, "--steps", 5, "--compare", "--out", out]
        _run([*alone, bin_ / "lml", *asked], place, offline)
        manifest = json.loads((out / "manifest.json").read_text(encoding="utf-8"))
        if manifest["status"] != "complete" or len(list(out.glob("lml/*.png"))) != IMAGES:
            yield "lml generate left no complete job"


def _run(command: Sequence[object], folder: Path, environment: dict[str, str]) -> str:
    """Run a command, and return what it prints.

    Raises:
        SystemExit: If it fails; with all that it said.
    """
    words = [str(word) for word in command]
    done = subprocess.run(words, cwd=folder, env=environment, capture_output=True, text=True, timeout=1800)
    if done.returncode:
        raise SystemExit(f"{' '.join(words)} ended with {done.returncode}:\n{done.stdout}{done.stderr}")
    return done.stdout


def main() -> None:
    """Check both files, then a fresh environment."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="where make dist put them")
    parser.add_argument("--no-run", action="store_true", help="check the contents alone")
    args = parser.parse_args()
    wheel, sdist = find_files(args.folder)
    mistakes = [*wheel_mistakes(wheel, tracked_sources()), *sdist_mistakes(sdist)]
    if not mistakes and not args.no_run:
        mistakes += run_mistakes(wheel)
    for mistake in mistakes:
        print(mistake, file=sys.stderr)
    if mistakes:
        raise SystemExit(1)
    ran = "" if args.no_run else f"; installed with [{EXTRAS}], it generates without a network"
    print(f"{wheel.name}: {wheel.stat().st_size / 2**20:.1f} MiB, contents right{ran}. {sdist.name}: right.")


if __name__ == "__main__":
    main()

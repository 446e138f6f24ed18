"""Mutation tests: how many small changes of the code do the tests notice?

    python tools/mutants.py                   # 300 of all mutants of core, schedulers and calibration
    python tools/mutants.py --sample 30       # the first 30 of those
    python tools/mutants.py --report          # nothing is run; the result file is written from what is known

mutmut makes the mutants: every function becomes a switch between itself and its variants. They are run here, in a copy
of the repository under `build/mutants`: pytest collects once, and every mutant is a fork of that process which runs the
tests that call its function, the test file of its module first, until one fails. Which tests call which function, and
how long they take, is measured before, without a mutant; tests that fail there, among switches, are left out.

It goes on where it was interrupted. A verdict stands as long as its function does; that of a survivor as long as the
tests do as well. Texts for readers and `strict=True` are not mutated. The result is `benchmarks/results/mutants.json`;
the word that stands there beside a survivor is kept, and one without a word was not judged yet.
"""

from __future__ import annotations

import argparse
import difflib
import hashlib
import importlib.metadata
import io
import json
import os
import platform
import re
import shlex
import subprocess
import sys
import tokenize
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parents[1]
ROOMS = {"core": ("core", "samplers"), "schedulers": ("schedulers",), "calibration": ("calibration",)}
"""What is mutated, in this order, and the folders of the tests that are to notice it."""

RESULT = ROOT / "benchmarks" / "results" / "mutants.json"
SAMPLE, SEED, TARGET = 300, 16, 0.92
KILLED = ("killed", "timeout", "crash")


class Mutant(NamedTuple):
    """One change of one function.

    Attributes:
        name: module.function, as mutmut mangles it, with the number of the mutant.
        function: The same without the number.
        version: A hash of the function as it is.
        change: The lines that are taken away and those that take their place.
    """

    name: str
    function: str
    version: str
    change: tuple[str, ...]


def build(work: Path) -> list[Mutant]:
    """Copy the repository to `work`/tree, its rooms mutated, and return all mutants."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    )
    mutants: list[Mutant] = []
    for name in filter(None, listed.stdout.split("\0")):
        source, target = ROOT / name, work / "tree" / name
        if not source.is_file():
            continue
        content = source.read_bytes()
        room = source.parent.name if source.parent.parent == ROOT / "src" / "lmlangevin" else None
        if room in ROOMS and source.suffix == ".py" and source.name != "__init__.py":
            text, found = mutate(source, f"lmlangevin.{room}.{source.stem}", work / "made")
            content = text.encode()
            mutants += found
        if not target.exists() or target.read_bytes() != content:
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(content)
    return mutants


def mutate(source: Path, module: str, made: Path) -> tuple[str, list[Mutant]]:
    """Return a module with all its mutants in it, and what they are; `made` keeps both, which take seconds to make."""
    code = source.read_text(encoding="utf-8")
    kept = made / f"{module}-{hashlib.sha256(code.encode()).hexdigest()[:16]}.json"
    if not kept.exists():
        made.mkdir(exist_ok=True)
        kept.write_text(json.dumps(_mutate(source, code, module)), encoding="utf-8")
    text, found = json.loads(kept.read_text(encoding="utf-8"))
    return text, [Mutant(name, function, version, tuple(change)) for name, function, version, change in found]


def _mutate(source: Path, code: str, module: str) -> tuple[str, list[Mutant]]:
    from mutmut.mutation.file_mutation import mutate_file_contents
    from mutmut.utils.format_utils import mangled_name_from_mutant_name

    made = mutate_file_contents(str(source), code)
    lines = made.code.splitlines()

    def body(name: str) -> list[str]:
        span = made.line_span_by_function_name[name]
        return [line.replace(name, "") for line in lines[span.start - 1 : span.end]]

    found = []
    for name in made.mutant_names:
        function = mangled_name_from_mutant_name(name)
        before, after = body(f"{function}__mutmut_orig"), body(name)
        change = [line for line in difflib.unified_diff(before, after, n=0, lineterm="") if line[:3] not in _HEADS]
        change = tuple(line[0] + line[1:].strip() for line in change if line[:2] != "@@")
        version = made.hash_by_function_name[function]
        found.append(Mutant(f"{module}.{name}", f"{module}.{function}", version, change))
    return made.code, found


_HEADS = ("---", "+++")


def silent(mutant: Mutant) -> bool:
    """Return whether a mutant changes nothing but a text that people read or an assertion that always holds."""

    def heard(line: str) -> str:
        words = []
        try:
            for token in tokenize.generate_tokens(io.StringIO(line[1:]).readline):
                # Beside what an f-string computes.
                sentence = token.type == tokenize.STRING and " " in re.sub(r"\{[^{}]*\}", "", token.string)
                words.append('""' if sentence else token.string)
        except tokenize.TokenError:
            pass  # a bracket that another line closes
        return re.sub(r", (strict = \w+ )?(?=\))", "", " ".join(words))  # zip(a, b, strict=True)

    removed = [heard(line) for line in mutant.change if line[0] == "-"]
    return removed == [heard(line) for line in mutant.change if line[0] == "+"]


def choose(mutants: list[Mutant], sample: int, seed: int) -> list[Mutant]:
    """Return a sample in a random order that stays what it is when other functions change."""

    def place(mutant: Mutant) -> str:
        return hashlib.sha256(f"{seed} {mutant.name}".encode()).hexdigest()

    return sorted(mutants, key=place)[:sample]


def tests_version(tree: Path) -> str:
    """Return a hash of the tests that are run."""
    digest = hashlib.sha256()
    for path in sorted(path for folder in folders(*ROOMS) for path in (tree / "tests" / folder).glob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def folders(*rooms: str) -> list[str]:
    """Return the folders of tests of some rooms, each once."""
    return list(dict.fromkeys(folder for room in rooms for folder in ROOMS[room]))


def known(work: Path, chosen: list[Mutant], tests: str) -> dict[str, dict[str, Any]]:
    """Return the verdicts that still stand, by name; the last line of a mutant counts."""
    verdicts: dict[str, dict[str, Any]] = {}
    path = work / "verdicts.jsonl"
    versions = {mutant.name: mutant.version for mutant in chosen}
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else ():
        verdict = json.loads(line)
        same = versions.get(verdict["name"]) == verdict["version"]
        if same and (verdict["status"] in KILLED or verdict["tests"] == tests):
            verdicts[verdict["name"]] = verdict
    return verdicts


def run(work: Path, chosen: list[Mutant], tests: str, nice: int) -> int:
    """Run what is not known yet; returns pytest's exit status."""
    verdicts = known(work, chosen, tests)
    plan: dict[str, Any] = {"tests": tests, "rooms": {}}
    for room, where in ROOMS.items():
        left = [m._asdict() for m in chosen if m.name.split(".")[1] == room and m.name not in verdicts]
        if left:
            plan["rooms"][room] = {"folders": where, "mutants": left}
    if not plan["rooms"]:
        return 0
    (work / "plan.json").write_text(json.dumps(plan), encoding="utf-8")
    tree = work / "tree"
    paths = os.pathsep.join(str(tree / part) for part in ("src", "tools"))
    one = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    env = os.environ | one | {"PYTHONPATH": paths, "MUTANTS_WORK": str(work)}
    # What compiles cannot see through switches.
    options = ["-q", "-s", "--hypothesis-seed=0", "--ignore=tests/core/test_compile.py"]
    plugins = ["-p", "_mutants_plugin", "-p", "no:cacheprovider", "-p", "no:xdist"]
    where = [f"tests/{folder}" for folder in folders(*plan["rooms"])]
    command = [sys.executable, "-m", "pytest", *options, *plugins, *where]
    os.nice(nice)
    return subprocess.run(command, cwd=tree, env=env, check=False).returncode


def report(chosen: list[Mutant], total: int, verdicts: dict[str, dict[str, Any]], work: Path, command: str) -> str:
    """Write the result file and return a line about it."""
    old = json.loads(RESULT.read_text(encoding="utf-8")) if RESULT.exists() else {"survivors": []}
    words = {(row["function"], *row["change"]): row["word"] for row in old["survivors"]}
    judged = [mutant for mutant in chosen if mutant.name in verdicts]
    killed = [mutant for mutant in judged if verdicts[mutant.name]["status"] in KILLED]
    rooms = {}
    for room in ROOMS:
        here = [mutant for mutant in judged if mutant.name.split(".")[1] == room]
        rooms[room] = {"mutants": len(here), "killed": sum(mutant in killed for mutant in here)}
    survivors = [
        {
            "function": mutant.function,
            "change": list(mutant.change),
            "tests": verdicts[mutant.name]["count"],
            "word": words.get((mutant.function, *mutant.change), ""),
        }
        for mutant in judged
        if mutant not in killed
    ]
    packages = ("lmlangevin", "torch", "diffusers", "mutmut", "pytest", "hypothesis")
    record = {
        "command": command,
        "versions": {name: importlib.metadata.version(name) for name in packages}
        | {"python": platform.python_version()},
        "first_seed": SEED,
        "all_mutants": total,
        "sample": len(chosen),
        "judged": len(judged),
        "killed": len(killed),
        "share_killed": round(len(killed) / len(judged), 4) if judged else None,
        "target": TARGET,
        "rooms": rooms,
        "survivors": sorted(survivors, key=lambda row: (row["function"], row["change"])),
        "tests_left_out": sorted(_left_out(work)),
    }
    part = RESULT.with_suffix(".part.json")
    part.write_text(json.dumps(record, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    part.replace(RESULT)
    share = f"{100 * len(killed) / len(judged):.1f}%" if judged else "none"
    return f"{len(killed)} of {len(judged)} killed ({share}); target {100 * TARGET:.0f}%; {RESULT}"


def _left_out(work: Path) -> list[str]:
    path = work / "left_out.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else []


def main() -> int:
    """Run a sample of mutants, and say how many the tests killed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sample", type=int, default=SAMPLE, help="how many mutants (default: %(default)s)")
    parser.add_argument("--work", type=Path, default=ROOT / "build" / "mutants", help="where everything is kept")
    parser.add_argument("--nice", type=int, default=10, help="how far it steps back for other processes")
    parser.add_argument("--report", action="store_true", help="run nothing")
    given = parser.parse_args()
    os.chdir(ROOT)  # where mutmut reads its settings
    work = given.work.resolve()
    work.mkdir(parents=True, exist_ok=True)
    mutants = [mutant for mutant in build(work) if not silent(mutant)]
    chosen = choose(mutants, given.sample, SEED)
    tests = tests_version(work / "tree")
    status = 0 if given.report else run(work, chosen, tests, given.nice)
    command = shlex.join(["python", "tools/mutants.py", *(["--sample", str(given.sample)] * (given.sample != SAMPLE))])
    verdicts = known(work, chosen, tests)
    print(report(chosen, len(mutants), verdicts, work, command))
    return status or int(len(verdicts) < len(chosen))


if __name__ == "__main__":
    sys.exit(main())

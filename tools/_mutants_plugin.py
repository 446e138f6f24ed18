"""The part of `mutants.py` that runs inside pytest: forks of one process that has collected all tests."""

from __future__ import annotations

import gc
import hashlib
import importlib
import json
import os
import resource
import shutil
import signal
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
from mutmut.mutation.trampoline import set_mutant_under_test
from mutmut.state import state

WORK = Path(os.environ["MUTANTS_WORK"])
MEMORY = 24 * 2**30
"""Address space of a fork: a mutant that asks for more fails."""

BUDGET = 90.0
"""Seconds of tests that a mutant is given. Files of tests are taken whole, the own one first and then the quick ones: a
few functions are called by nearly all tests, and what survives a hundred of those does not fall to the slowest."""

PRELOADED = ("lmlangevin", "diffusers", "transformers", "accelerate", "scipy", "PIL", "safetensors")
"""What tests import late is imported once, before forks; other packages start threads."""


class Session:
    """The tests of a session, and the forks that run them."""

    def __init__(self, session: pytest.Session) -> None:
        self.session = session
        self.items = {item.nodeid: item for item in session.items}
        self.by_file: dict[Path, list[pytest.Item]] = defaultdict(list)
        for item in session.items:
            self.by_file[item.path].append(item)
        self.failed: str | None = None
        self.left_out: set[str] = set()
        session.config.pluginmanager.register(self)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Remember the test that failed."""
        if report.failed:
            self.failed = report.nodeid

    def fork(self, work: Callable[[], dict[str, Any]], limit: float) -> dict[str, Any]:
        """Return what `work` returns in a fork of this process, or how the fork ended."""
        answer, scratch = WORK / "answer.json", WORK / "scratch"
        answer.unlink(missing_ok=True)
        pid = os.fork()
        if pid == 0:
            try:
                os.setpgid(0, 0)
                quiet = os.open(os.devnull, os.O_RDWR)
                for stream in (0, 1, 2):
                    os.dup2(quiet, stream)
                resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
                factory: Any = self.session.config._tmp_path_factory  # type: ignore[attr-defined]
                factory._given_basetemp = scratch
                told = work()
                part = answer.with_suffix(".part")
                part.write_text(json.dumps(told), encoding="utf-8")
                part.replace(answer)
            finally:
                os._exit(0)
        until, status = time.monotonic() + limit, None
        while status is None:
            done, ended = os.waitpid(pid, os.WNOHANG)
            if done:
                status = ended
            elif time.monotonic() > until:
                os.kill(pid, signal.SIGKILL)
                status = os.waitpid(pid, 0)[1]
            else:
                time.sleep(0.02)
        try:
            os.killpg(pid, signal.SIGKILL)  # what the tests started and left
        except ProcessLookupError:
            pass
        shutil.rmtree(scratch, ignore_errors=True)
        if answer.exists():
            return json.loads(answer.read_text(encoding="utf-8"))
        timed = os.WIFSIGNALED(status) and os.WTERMSIG(status) in (signal.SIGKILL, signal.SIGVTALRM)
        return {"status": "timeout" if timed else "crash"}

    def run_items(self, items: list[pytest.Item]) -> Iterable[tuple[pytest.Item, float]]:
        """Run tests one after the other; yields each with its seconds. `failed` names the last one that has."""
        for item, following in zip(items, [*items[1:], None], strict=True):
            start = time.process_time()
            item.config.hook.pytest_runtest_protocol(item=item, nextitem=following)
            yield item, time.process_time() - start

    # Without a mutant -----------------------------------------------------------------------------------------------

    def measure(self, folders: list[str]) -> dict[str, dict[str, Any]]:
        """Return of every test of some folders that passes its seconds and what it calls; known files are not run."""
        shared = [*Path("src").rglob("*.py"), *Path("tools").glob("*.py"), *Path("tests").rglob("conftest.py")]
        sources, found = _digest(shared), {}
        (WORK / "measured").mkdir(exist_ok=True)
        for path, items in self.by_file.items():
            if path.parent.name not in folders:
                continue
            kept = WORK / "measured" / f"{path.parent.name}-{path.stem}-{sources}-{_digest([path])}.json"
            if not kept.exists():
                told = self.fork(lambda items=items: self._measure(items), 7200)
                _say(f"{path.parent.name}/{path.name}: {told.get('status', 'measured')}")
                if "tests" not in told:
                    self.left_out.add(f"{path.parent.name}/{path.name} ({told['status']})")
                    continue
                kept.write_text(json.dumps(told), encoding="utf-8")
            told = json.loads(kept.read_text(encoding="utf-8"))
            found |= {name: test for name, test in told["tests"].items() if test["passed"] and name in self.items}
            self.left_out |= {name for name, test in told["tests"].items() if not test["passed"]}
            preload(told["modules"])
        (WORK / "left_out.json").write_text(json.dumps(sorted(self.left_out)), encoding="utf-8")
        return found

    def _measure(self, items: list[pytest.Item]) -> dict[str, Any]:
        set_mutant_under_test("stats")
        before, tests = set(sys.modules), {}
        state()._stats.clear()
        for item, seconds in self.run_items(items):
            called = sorted(state()._stats)
            state()._stats.clear()
            tests[item.nodeid] = {"seconds": seconds, "functions": called, "passed": self.failed != item.nodeid}
        modules = sorted(name for name in set(sys.modules) - before if name.partition(".")[0] in PRELOADED)
        return {"tests": tests, "modules": modules}

    # With one -------------------------------------------------------------------------------------------------------

    def judge(self, mutant: dict[str, Any], tests: dict[str, dict[str, Any]]) -> dict[str, Any]:
        """Return the verdict on a mutant."""
        own = f"test_{mutant['name'].split('.')[2]}.py"
        chosen: dict[Path, list[pytest.Item]] = defaultdict(list)
        for name, test in tests.items():
            if mutant["function"] in test["functions"]:
                chosen[self.items[name].path].append(self.items[name])
        if not chosen:
            return {"status": "no tests", "count": 0}

        def cost(path: Path) -> float:
            return sum(tests[item.nodeid]["seconds"] for item in chosen[path])

        items: list[pytest.Item] = []
        total = 0.0
        for path in sorted(chosen, key=lambda path: (path.name != own, cost(path))):
            if items and total + cost(path) > BUDGET:
                break
            items += chosen[path]
            total += cost(path)

        def work() -> dict[str, Any]:
            set_mutant_under_test(mutant["name"])
            signal.signal(signal.SIGVTALRM, signal.SIG_DFL)
            runs = self.run_items(items)
            for item in items:
                # Seconds of the processor that this process has for the test; a loop without end is cut there.
                signal.setitimer(signal.ITIMER_VIRTUAL, 30 + 10 * tests[item.nodeid]["seconds"])
                next(runs)
                if self.failed:
                    return {"status": "killed", "by": self.failed}
            return {"status": "survived"}

        # The processor may be busy with others, whose time this limit includes.
        return self.fork(work, 600 + 30 * total) | {"count": len(items)}


@pytest.hookimpl(tryfirst=True)
def pytest_runtestloop(session: pytest.Session) -> bool:
    """Judge the mutants of the plan in place of running the tests."""
    if session.testsfailed:
        raise session.Interrupted("a test file could not be collected")
    plan = json.loads((WORK / "plan.json").read_text(encoding="utf-8"))
    runner = Session(session)
    for name, room in plan["rooms"].items():
        preload([f"lmlangevin.{name}", *(["diffusers"] if name != "core" else [])])
        tests = runner.measure(room["folders"])
        gc.collect()
        gc.freeze()
        for k, mutant in enumerate(room["mutants"], 1):
            start = time.monotonic()
            verdict = runner.judge(mutant, tests)
            record = {"name": mutant["name"], "version": mutant["version"], "tests": plan["tests"], **verdict}
            record["seconds"] = round(time.monotonic() - start, 2)
            with (WORK / "verdicts.jsonl").open("a", encoding="utf-8") as log:
                log.write(json.dumps(record) + "\n")
            _say(f"{k}/{len(room['mutants'])} {record['status']} {record['seconds']:.0f} s {mutant['name']}")
            if record["status"] not in ("killed", "timeout", "crash"):
                _say("    " + "\n    ".join(mutant["change"]))
    return True


def preload(modules: Iterable[str]) -> None:
    """Import modules, so that no fork has to."""
    for name in modules:
        try:
            importlib.import_module(name)
        except Exception:  # noqa: BLE001 - what cannot be imported by itself is imported by the test, or not at all
            pass


def _digest(paths: Iterable[Path]) -> str:
    digest = hashlib.sha256()
    for path in sorted(paths):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def _say(text: str) -> None:
    sys.__stdout__.write(text + "\n")  # type: ignore[union-attr]
    sys.__stdout__.flush()  # type: ignore[union-attr]

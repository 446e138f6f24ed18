"""`make mutants`: what counts as a mutant, which are drawn, and which verdicts stand. The mutants are mutmut's."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mutants import Mutant, choose, known, silent


def made(number: int, *change: str, version: str = "a") -> Mutant:
    return Mutant(f"package.room.x_f__mutmut_{number}", "package.room.x_f", version, change)


@pytest.mark.parametrize(
    ("before", "after", "nothing"),
    [
        ('check("level", x, "a level of 0 or above")', 'check("level", x, "XXa level of 0 or aboveXX")', True),
        ('check("level", x, "a level of 0 or above")', 'check("LEVEL", x, "a level of 0 or above")', False),
        ("for a, b in zip(c, d, strict=True):", "for a, b in zip(c, d, ):", True),
        ("for a, b in zip(c, d, strict=True):", "for a, b in zip(c, d, strict=False):", True),
        ("for a, b in zip(c, d, strict=True):", "for a, b in zip(c, None, strict=True):", False),
        ("return f\"{a if b else ''}-{c}\"", "return f\"{a if (b) or True else ''}-{c}\"", False),
        ('return f"{a} was {b}"', 'return f"{a} was {None}"', True),
        ("return a < b", "return a <= b", False),
    ],
)
def test_a_text_and_an_assertion_are_no_behaviour(before: str, after: str, nothing: bool) -> None:
    assert silent(made(1, f"-{before}", f"+{after}")) == nothing


def test_a_sample_stays_when_other_mutants_come_and_go() -> None:
    all_ = [made(number) for number in range(200)]
    sample = choose(all_, 40, seed=1)
    assert len(set(sample)) == 40 and sample == choose(all_[::-1], 40, seed=1)
    assert choose(all_, 20, seed=1) == sample[:20] and choose(all_, 40, seed=2) != sample
    fewer = [mutant for mutant in all_ if mutant != sample[3]]
    assert choose(fewer, 39, seed=1) == sample[:3] + sample[4:]


def test_a_verdict_stands_as_long_as_what_it_is_about(tmp_path: Path) -> None:
    rows = [
        {"name": made(1).name, "version": "a", "tests": "old", "status": "killed"},
        {"name": made(2).name, "version": "a", "tests": "old", "status": "survived"},
        {"name": made(3).name, "version": "a", "tests": "new", "status": "survived"},
        {"name": made(4).name, "version": "b", "tests": "new", "status": "killed"},
        {"name": made(5).name, "version": "a", "tests": "new", "status": "survived"},
        {"name": made(5).name, "version": "a", "tests": "new", "status": "timeout"},
        {"name": made(9).name, "version": "a", "tests": "new", "status": "killed"},
    ]
    assert known(tmp_path, [made(1)], "new") == {}
    (tmp_path / "verdicts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    found = known(tmp_path, [made(number) for number in range(1, 6)], "new")
    status = {name.rpartition("_")[2]: verdict["status"] for name, verdict in found.items()}
    assert status == {"1": "killed", "3": "survived", "5": "timeout"}

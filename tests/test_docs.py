"""What README and docs promise: links that lead somewhere, tables that the result files back."""

from __future__ import annotations

import json
import re
import runpy
from pathlib import Path

import pytest
from click.testing import CliRunner

from docs_blocks import pages
from docs_hooks import links
from lmlangevin.bench.page import render_page
from lmlangevin.bench.suite import load_suite
from lmlangevin.cli import cli

ROOT = Path(__file__).parents[1]
PAGES = pages()


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub and the site make them."""
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.S)
    found: set[str] = set()
    for heading in re.findall(r"^#+ (.*)$", text, flags=re.M):
        found.add(slug(heading))
    return found


def slug(heading: str) -> str:
    plain = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading)
    return re.sub(r"[^\w\- ]", "", plain).strip().lower().replace(" ", "-")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links_lead_somewhere(page: Path) -> None:
    for link in links(page.read_text(encoding="utf-8")):
        if link.startswith(("http://", "https://")):
            continue
        path, _, anchor = link.partition("#")
        there = page.parent / path if path else page
        assert there.exists(), link
        assert not anchor or anchor in anchors(there), link


def test_the_pages_are_the_rendering_of_the_result_files(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    tables = runpy.run_path(str(ROOT / "benchmarks" / "tables.py"))
    for page in tables["FILES"]:
        text = page.read_text(encoding="utf-8")
        assert tables["render"](text) == text, f"run python benchmarks/tables.py: {page.name} is out of date"
        names = re.findall(r"<!-- table:([\w-]+) -->", text)
        assert names
        assert names == re.findall(r"<!-- /table:([\w-]+) -->", text)
        assert set(names) <= set(tables["TABLES"])
    for suite, name in (("paper", "benchmarks"), ("calibrated", "calibrated"), ("control", "control-matrix")):
        there = (ROOT / "docs" / f"{name}.md").read_text(encoding="utf-8")
        text = render_page(load_suite(suite), ROOT / "benchmarks" / "results")
        assert there == text, f"run lml bench --suite {suite} --page docs/{name}.md: the page is out of date"


def section(page: Path, anchor: str) -> str:
    """The part of a page that an anchor leads to; the whole of it for none."""
    if not anchor:
        return page.read_text(encoding="utf-8")
    level, lines = 0, []
    for line in page.read_text(encoding="utf-8").splitlines():
        heading = re.match(r"(#+) (.*)", line)
        if heading and level and len(heading[1]) <= level:
            break
        if heading and slug(heading[2]) == anchor:
            level = len(heading[1])
        if level:
            lines.append(line)
    return "\n".join(lines)


def figures(text: str) -> list[str]:
    return re.findall(r"(?<![\w.])-?\d+(?:\.\d+)?(?![\w.]*\w)", text)


@pytest.mark.parametrize("name", ["faq.md", "choosing.md"])
def test_figures_in_the_prose_are_in_the_tables_that_it_links_to(name: str) -> None:
    page = ROOT / "docs" / name
    text = page.read_text(encoding="utf-8")
    generated = r"<!-- table:([\w-]+) -->.*?<!-- /table:\1 -->"
    here = "\n".join(match[0] for match in re.finditer(generated, text, flags=re.S))
    text = re.sub(r"```.*?```", "", re.sub(generated, "", text, flags=re.S), flags=re.S)
    checked = 0
    for paragraph in re.split(r"\n\n|\n(?=[-|])", text):
        prose = re.sub(r"`[^`]*`|\]\([^)]*\)|Diffusion [\d.]+", "", paragraph)
        # Measured, and not a version or a number of steps: with decimals, per cent, or so many of so many.
        stated = [n for n in figures(prose) if "." in n or re.search(rf"\b{n}(%| of (the )?\d)", prose)]
        places = [link.partition("#") for link in links(paragraph) if not link.startswith("http")]
        known = figures("\n".join([here, *(section(page.parent / path, anchor) for path, _, anchor in places)]))
        for n in stated:
            digits = len(n.partition(".")[2])
            assert any(round(float(other), digits) == float(n) for other in known), f"{n} in: {paragraph}"
        checked += len(stated)
    assert checked >= 4


def test_help_names_every_command() -> None:
    shown = CliRunner().invoke(cli, ["--help"])
    assert shown.exit_code == 0
    assert all(name in shown.output for name in ("bench", "calibrate", "compbench", "fid", "generate", "info"))


def test_the_presets_are_those_of_the_sweep(monkeypatch: pytest.MonkeyPatch) -> None:
    sweep = json.loads((ROOT / "benchmarks" / "results" / "gain_sweep.json").read_text(encoding="utf-8"))
    installed = json.loads((ROOT / "src" / "lmlangevin" / "assets" / "presets.json").read_text(encoding="utf-8"))
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    rule = runpy.run_path(str(ROOT / "benchmarks" / "gain_sweep.py"), run_name="sweep")
    assert rule["chosen"](sweep["cells"], sweep["checks"])[0] == installed["gains"]

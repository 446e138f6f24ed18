"""The site: its pages and links, the API pages, and the mathematics. `make docs` builds it, with warnings as errors."""

from __future__ import annotations

import re
from pathlib import Path

import griffe
import pytest

import docs_hooks

ROOT = Path(__file__).parents[1]
CONFIG = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
OUTSIDE = docs_hooks.pages_outside()
SITE = {path.relative_to(ROOT).as_posix() for path in (ROOT / "docs").rglob("*.md")} | set(OUTSIDE)
PARTS = "core schedulers samplers calibration generation evaluation reference langevin scenes theory".split()


def test_every_page_is_in_the_navigation_and_every_entry_is_a_page() -> None:
    listed = re.findall(r"([\w/-]+\.md)$", CONFIG[CONFIG.index("nav:") :], flags=re.M)
    assert len(listed) == len(set(listed))
    pages = {OUTSIDE.get(path) or path.removeprefix("docs/") for path in SITE}
    assert set(listed) <= pages
    # Cards of what comes with the package are reached by links, as `not_in_nav` says.
    assert {page for page in pages - set(listed) if not page.startswith(("assets/", "integrations/"))} == set()


def test_pages_from_outside_have_places_of_their_own() -> None:
    assert OUTSIDE["README.md"] == "index.md"
    assert OUTSIDE["CHANGES.md"] == "changes.md"
    assert OUTSIDE["src/lmlangevin/assets/embedded/README.md"] == "assets/embedded.md"
    assert OUTSIDE["integrations/comfyui/README.md"] == "integrations/comfyui.md"
    assert len(set(OUTSIDE.values())) == len(OUTSIDE)


@pytest.mark.parametrize(
    ("source", "target", "there"),
    [
        ("README.md", "docs/control.md#adaptive", "control.md#adaptive"),
        ("docs/control.md", "../README.md", "index.md"),
        ("docs/control.md", "presets.md", "presets.md"),
        ("docs/control.md", "images/control/gains.png", "images/control/gains.png"),
        ("docs/control.md", "#adaptive", "#adaptive"),
        ("docs/control.md", "https://arxiv.org/abs/2505.24222", "https://arxiv.org/abs/2505.24222"),
        ("docs/control.md", "../Makefile", "source/Makefile.md"),
        ("docs/control.md", "../src/lmlangevin/core", None),
        ("docs/control.md", "../nowhere.md", "../nowhere.md"),
        ("integrations/comfyui/README.md", "../../docs/samplers.md", "../samplers.md"),
    ],
)
def test_where_a_link_leads_on_the_site(source: str, target: str, there: str | None) -> None:
    pages = {"docs/control.md": "control.md", "docs/presets.md": "presets.md", "docs/samplers.md": "samplers.md"}
    assert docs_hooks.to_site(source, target, pages | OUTSIDE) == there


def test_links_in_code_stay_as_they_are() -> None:
    text = "[a](x.md)\n\n```python\n[b](x.md)\n```\n\n![[c]](x.md)"
    changed = docs_hooks.replace_links(text, lambda label, target: f"{label}<{target}>")
    assert changed == "[a]<x.md>\n\n```python\n[b](x.md)\n```\n\n![[c]]<x.md>"
    assert docs_hooks.links(text) == ["x.md", "x.md"]


def test_the_api_pages_are_those_of_the_package() -> None:
    assert {path.stem for path in (ROOT / "docs" / "api").glob("*.md")} == {"index", *PARTS}
    for part in PARTS:
        assert f"::: lmlangevin.{part}\n" in (ROOT / "docs" / "api" / f"{part}.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def package() -> griffe.Object:
    """The package as the API pages read it, from its source."""
    loaded = griffe.load("lmlangevin", search_paths=[ROOT / "src"])
    assert isinstance(loaded, griffe.Object)
    return loaded


@pytest.mark.parametrize("part", PARTS)
def test_every_public_name_is_on_the_api_pages(package: griffe.Object, part: str) -> None:
    page = (ROOT / "docs" / "api" / f"{part}.md").read_text(encoding="utf-8")
    module = package[part]
    assert module.exports
    for name in map(str, module.exports):
        member = module[name]
        # A function with the name of its module stands on the page by itself.
        found = member if not member.is_module else module[f"{name}.{name}"]
        assert found.has_docstring, f"{part}.{name}"
        assert found is member or f"::: lmlangevin.{part}.{name}.{name}\n" in page


def test_all_mathematics_becomes_mathml() -> None:
    texts = [re.sub(r"```.*?```|`[^`\n]*`", "", (ROOT / page).read_text(encoding="utf-8"), flags=re.S) for page in SITE]
    found = [math for text in texts for math in re.findall(r"\$\$(.+?)\$\$|\$([^$]+)\$", text, flags=re.S)]
    assert len(found) > 300
    for block, inline in found:
        kind, begin, end = ("div", r"\[", r"\]") if block else ("span", r"\(", r"\)")
        latex = (block or inline).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
        content = docs_hooks.to_mathml(f'<{kind} class="arithmatex">{begin}{latex}{end}</{kind}>')
        assert content.startswith(f'<{kind} class="math"><math') and "merror" not in content


def test_a_command_of_latex_that_is_unknown_is_an_error() -> None:
    with pytest.raises(ValueError, match="no MathML"):
        docs_hooks.to_mathml(r'<span class="arithmatex">\(\nonsense x\)</span>')


def test_norms_and_functions_are_set_as_such() -> None:
    content = docs_hooks.to_mathml(r'<span class="arithmatex">\(\lVert n\rVert \log q\)</span>')
    assert content.count('<mo stretchy="false" lspace="0" rspace="0">&#x02016;</mo>') == 2
    assert '<mi>log</mi><mspace width="0.17em" />' in content


def test_nothing_is_loaded_from_elsewhere() -> None:
    assert "font: false" in CONFIG
    assert "extra_javascript" not in CONFIG
    assert not re.search(r"@import|url\(", (ROOT / "docs" / "site.css").read_text(encoding="utf-8"))

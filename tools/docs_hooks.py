"""What `mkdocs.yml` asks of its hooks: pages from outside `docs`, links that hold on the site, and LaTeX as MathML.

README, the changes and the assets' cards stand where GitHub and the wheel want them; the site shows the same files as
pages. A link to a file of the source leads to a page with its text, so that the site needs no address of a repository,
and no network.
"""

from __future__ import annotations

import html
import posixpath
import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mkdocs.config.defaults import MkDocsConfig
    from mkdocs.structure.files import Files
    from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[1]
# Files of the repository that are pages of the site, beside docs/*.md.
OUTSIDE = (
    "README.md",
    "CHANGES.md",
    "CONTRIBUTING.md",
    "examples/README.md",
    "integrations/*/README.md",
    "src/lmlangevin/assets/*/README.md",
)

_FENCES = re.compile(r"(^ *```.*?^ *```[ \t]*$)", flags=re.S | re.M)
_LINK = re.compile(r"(!?\[(?:[^\[\]]|\[[^\[\]]*\])*\])\(([^)\s]+)\)")
_MATH = re.compile(r'<(span|div) class="arithmatex">\\([(\[])(.*?)\\[)\]]</\1>', flags=re.S)
# latex2mathml makes identifiers of some operators, and lets brackets grow that are not to.
_BRACKET = re.compile(r"<m[io]>(&#x(?:02016|027E8|027E9);)</m[io]>")
_RELATION = re.compile(r"<mi>(&#x(?:02AAF|02AB0);)</mi>")
# A function's name and its argument, "log q": not the base of an index or a power.
_FUNCTION = re.compile(r"(?<!<msub>)(?<!<msup>)(<mi>(?:a?(?:sin|cos|tan)|log|arc(?:sin|tan))</mi>)(?=<m(?:i|sub|sup)>)")
_FOREIGN = re.compile(r'<(?:script|img|iframe|link)\b[^>]*?\b(?:src|href)="((?:https?:)?//[^"]+)"[^>]*>')


def pages_outside() -> dict[str, str]:
    """Pages of the site that are files of the repository outside `docs`.

    Returns:
        The path on the site, "changes.md", of each path in the repository, "CHANGES.md".
    """
    found = sorted({path for pattern in OUTSIDE for path in ROOT.glob(pattern)})
    paths = [path.relative_to(ROOT).as_posix() for path in found]
    return {path: _page_of(path) for path in paths}


def _page_of(path: str) -> str:
    if path == "README.md":
        return "index.md"
    if path.endswith("/README.md"):
        return path.removeprefix("src/lmlangevin/").removesuffix("/README.md") + ".md"
    return path.lower()


def links(text: str) -> list[str]:
    """The targets of a page's Markdown links, without those in blocks of code."""
    return [target for part in _FENCES.split(text)[::2] for _, target in _LINK.findall(part)]


def replace_links(text: str, change: Callable[[str, str], str]) -> str:
    """Markdown with every link outside blocks of code replaced by `change("[label]", "target")`."""
    parts = _FENCES.split(text)
    parts[::2] = [_LINK.sub(lambda match: change(match[1], match[2]), part) for part in parts[::2]]
    return "".join(parts)


def to_site(source: str, target: str, pages: dict[str, str]) -> str | None:
    """Where a link leads on the site.

    Args:
        source: the file with the link, in the repository, "docs/method.md".
        target: its target as written, "../README.md#try-it".
        pages: the pages of the site by their paths in the repository, the source's own among them.

    Returns:
        The link on the site, "index.md#try-it"; the target itself if it leads elsewhere or nowhere; None if it leads to
        a folder, which has no page.
    """
    path, mark, anchor = target.partition("#")
    if not path or re.match(r"[a-z]+:", path):
        return target
    there = posixpath.normpath(posixpath.join(posixpath.dirname(source), path))
    page = pages.get(there) or (there.removeprefix("docs/") if there.startswith("docs/") else f"source/{there}.md")
    if page.startswith("source/") and not (ROOT / there).is_file():
        return None if (ROOT / there).is_dir() else target
    return posixpath.relpath(page, posixpath.dirname(pages[source]) or ".") + mark + anchor


def to_mathml(content: str) -> str:
    """HTML with the LaTeX that pymdownx.arithmatex left in it, as MathML.

    Raises:
        ValueError: if a command of LaTeX is unknown.
    """
    from latex2mathml.converter import convert

    def render(match: re.Match[str]) -> str:
        latex = html.unescape(match[3]).strip()
        math = convert(latex, display="block" if match[2] == "[" else "inline")
        if "\\" in math:
            raise ValueError(f"no MathML for {latex}")
        math = _BRACKET.sub(r'<mo stretchy="false" lspace="0" rspace="0">\1</mo>', math)
        math = _RELATION.sub(r"<mo>\1</mo>", math)
        math = _FUNCTION.sub(r'\1<mspace width="0.17em" />', math)
        return f'<{match[1]} class="math">{math}</{match[1]}>'

    return _MATH.sub(render, content)


# What mkdocs calls. The pages are found once a build, in on_files, and read by what comes after it.
_pages: dict[str, str] = {}


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages from outside `docs`, and a page for every file of the source that a page links to."""
    from mkdocs.structure.files import File

    outside = pages_outside()
    own = {f"docs/{file.src_uri}": file.src_uri for file in files.documentation_pages()}
    _pages.clear()
    _pages.update(own | outside)
    for path, page in outside.items():
        files.append(File.generated(config, page, abs_src_path=str(ROOT / path)))
    shown = set()
    for source in own | outside:
        for target in links((ROOT / source).read_text(encoding="utf-8")):
            path = posixpath.normpath(posixpath.join(posixpath.dirname(source), target.partition("#")[0]))
            if path not in _pages and not path.startswith(("docs/", "..")) and (ROOT / path).is_file():
                shown.add(path)
    for path in sorted(shown):
        files.append(File.generated(config, f"source/{path}.md", content=_source_page(path)))
    return files


def _source_page(path: str) -> str:
    language = {".py": "python", ".sh": "bash", ".toml": "toml", ".cff": "yaml"}.get(Path(path).suffix, "text")
    text = (ROOT / path).read_text(encoding="utf-8")
    # Found by the link that leads here, not by the search.
    return f"---\nsearch: {{exclude: true}}\nhide: [toc]\n---\n\n# {path}\n\n````````{language}\n{text}````````\n"


def on_page_markdown(markdown: str, page: Page, **_: Any) -> str:
    """Make links lead to the site's pages, and let Markdown stand in the collapsed parts."""
    source = next((path for path, uri in _pages.items() if uri == page.file.src_uri), None)
    if source is None:  # a file of the source, as it is
        return markdown

    def change(label: str, target: str) -> str:
        link = to_site(source, target, _pages)
        return f"{label}({link})" if link else label.removeprefix("!")[1:-1]

    return replace_links(markdown, change).replace("<details><summary>", '<details markdown="1"><summary>')


def on_page_content(content: str, **_: Any) -> str:
    """Convert the mathematics, and keep a value and its spread on one line."""
    return to_mathml(content).replace(" ± ", "\u00a0±\u00a0")


def on_post_page(output: str, page: Page, **_: Any) -> str:
    """Refuse a page that would load something from elsewhere."""
    from mkdocs.exceptions import PluginError

    found = [url for tag, url in ((m[0], m[1]) for m in _FOREIGN.finditer(output)) if 'rel="canonical"' not in tag]
    if found:
        raise PluginError(f"{page.file.src_uri} loads {found[0]}, and the site must work without a network")
    return output

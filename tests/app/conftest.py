"""A server of the page in its own process, a Chromium, and visitors, for the tests in a browser."""

from __future__ import annotations

import contextlib
import io
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image, ImageOps

ROOT = Path(__file__).parents[2]
SHOTS = Path(os.environ.get("LML_SCREENSHOTS", ROOT / "build" / "browser"))
WINDOW: Any = {"width": 1280, "height": 900}
PATIENCE = 240_000
"""Milliseconds that a run may take on a very busy machine."""
GUARD = """
import sys

def look(event, args):
    host = args[0] if event == "socket.getaddrinfo" else args[1] if event == "socket.connect" else None
    host = host[0] if isinstance(host, tuple) else host
    if host not in (None, "127.0.0.1", "localhost") and not str(host).startswith("/"):
        print("Outside:", event, host, file=sys.stderr)

sys.addaudithook(look)
"""
"""What a server's Python starts with: whatever it asks of other machines comes into its log."""


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """A Chromium. Without one the tests that were asked for fail; `make test-browser` installs it."""
    names = ("chromium", "chromium-browser", "google-chrome")
    found = next(filter(None, map(shutil.which, names)), None)
    assert found is not None, f"none of {', '.join(names)} is installed; make test-browser installs one"
    from playwright.sync_api import sync_playwright

    with sync_playwright() as driver:
        driver.selectors.set_test_id_attribute("id")
        # Root, as in a container, may not use the sandbox.
        chromium = driver.chromium.launch(executable_path=found, args=["--no-sandbox"] if os.getuid() == 0 else [])
        yield chromium
        chromium.close()


class Server:
    """A server in its own process.

    Attributes:
        address: Of its page.
        temporary: Where its temporary folders are.
    """

    def __init__(self, temporary: Path, command: list[str], port: int, **environment: str) -> None:
        self.temporary = temporary
        self.address = f"http://127.0.0.1:{port}/"
        self._log = temporary.with_suffix(".log")
        guard = temporary.with_suffix(".guard")
        guard.mkdir()
        (guard / "sitecustomize.py").write_text(GUARD, encoding="utf-8")
        paths = os.pathsep.join(filter(None, (str(guard), str(ROOT / "src"), os.environ.get("PYTHONPATH"))))
        given = os.environ | {"TMPDIR": str(temporary), "PYTHONUNBUFFERED": "1", "PYTHONPATH": paths} | environment
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [sys.executable, *command], stdout=log, stderr=log, env=given, cwd=temporary
            )
        end = time.monotonic() + 180
        while not _answers(port):
            assert self._process.poll() is None and time.monotonic() < end, self.log
            time.sleep(0.2)

    @property
    def log(self) -> str:
        """What it has written so far."""
        return self._log.read_text(encoding="utf-8", errors="replace")

    def runs(self) -> list[str]:
        """Return the temporary folders of runs."""
        return [path.name for path in self.temporary.glob("lml-app-*") if "pages" not in path.name]

    def end(self) -> int:
        """End it as a machine that shuts down does, and return its exit code."""
        self._process.send_signal(signal.SIGTERM)
        try:
            return self._process.wait(60)
        finally:
            self._process.kill()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _answers(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@contextlib.contextmanager
def _serving(temporary: Path, command: list[str], port: int, **environment: str) -> Iterator[Server]:
    """Serve while a `with` block runs; afterwards nothing may be left of it, and its log may hold no complaint."""
    served = Server(temporary, command, port, **environment)
    try:
        yield served
    finally:
        code = served.end()
    assert code == 0, served.log
    assert not re.search("Traceback|Warning|Error|Outside", served.log), served.log
    assert list(temporary.iterdir()) == []


@pytest.fixture(scope="module")
def server(browser: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """`lml app`, as a person starts it."""
    del browser  # without one there is no use for a server
    port = _free_port()
    command = ["-m", "lmlangevin", "app", "--port", str(port)]
    with _serving(tmp_path_factory.mktemp("server"), command, port) as served:
        yield served
    assert served.log.startswith(f"Page: {served.address} (Ctrl-C ends it)\n"), served.log


@pytest.fixture
def space(browser: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """The Space, as its host starts it."""
    del browser
    port = _free_port()
    command = [str(ROOT / "integrations" / "space" / "app.py")]
    temporary = tmp_path_factory.mktemp("space")
    with _serving(temporary, command, port, GRADIO_SERVER_NAME="127.0.0.1", GRADIO_SERVER_PORT=str(port)) as served:
        yield served


class Visitor:
    """A person at the page, in a browser context of their own.

    Args:
        browser: The browser.
        address: Of the page.
    """

    def __init__(self, browser: Any, address: str) -> None:
        self.context = browser.new_context(viewport=WINDOW, accept_downloads=True)
        self.page = self.context.new_page()
        self.outside: list[str] = []
        self.errors: list[str] = []
        self.page.on("request", self._look)
        self.page.on("console", lambda said: self.errors.append(said.text) if said.type == "error" else None)
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.goto(address)
        self.page.locator("#lml-script .cm-line").first.wait_for(timeout=PATIENCE)  # it comes last

    def _look(self, request: Any) -> None:
        if not request.url.startswith(("http://127.0.0.1:", "data:", "blob:")):
            self.outside.append(request.url)

    def fill(self, **fields: Any) -> None:
        """Type numbers into fields of the form."""
        for name, value in fields.items():
            entry = self.page.locator(f"#lml-{name} input[type=number]")
            entry.fill(str(value))
            entry.blur()

    def choose(self, name: str, words: str) -> None:
        """Choose from a list of the form."""
        self.page.locator(f"#lml-{name} input").click()
        self.page.get_by_role("option", name=words, exact=True).click()

    def unconditional(self, model: str) -> None:
        """Choose a model that takes no prompt, and wait until the form fits it."""
        self.choose("model", model)
        self.page.get_by_test_id("lml-prompt").wait_for(state="hidden", timeout=PATIENCE)

    def control(self, words: str) -> None:
        """Choose a correction."""
        self.page.locator("#lml-control").get_by_label(words, exact=True).check()

    def press(self, name: str) -> None:
        """Press a button."""
        self.page.get_by_test_id(f"lml-{name}").click()

    def expect(self, words: str) -> str:
        """Wait until the page says something, and return all that it says."""
        self.page.locator("#lml-status", has_text=words).wait_for(timeout=PATIENCE)
        return self.status

    @property
    def status(self) -> str:
        """What the page says."""
        return self.page.get_by_test_id("lml-status").inner_text()

    def enabled(self, name: str) -> bool:
        """Return whether a button can be pressed."""
        return self.page.get_by_test_id(f"lml-{name}").is_enabled()

    def source(self, name: str) -> str:
        """Return a picture of the page, as the data that it is."""
        return self.page.locator(f"#lml-pictures img.lml-{name}").get_attribute("src")

    def script(self) -> str:
        """Return the lines of Python that the page shows."""
        lines = self.page.locator("#lml-script .cm-line").all_inner_texts()
        return "".join(f"{line.rstrip()}\n" for line in lines)

    def download(self) -> zipfile.ZipFile:
        """Download the run, as a person does."""
        with self.page.expect_download(timeout=PATIENCE) as coming:
            self.press("download")
        return zipfile.ZipFile(io.BytesIO(Path(coming.value.path()).read_bytes()))

    def shot(self, name: str) -> None:
        """Keep a picture of the page."""
        SHOTS.mkdir(parents=True, exist_ok=True)
        self.page.wait_for_timeout(500)  # buttons fade
        shot = Image.open(io.BytesIO(self.page.screenshot(full_page=name == "phone")))
        # Seven bits a colour: the eye sees no difference, and a file for the documentation is a sixth smaller.
        ImageOps.posterize(shot.convert("RGB"), 7).save(SHOTS / f"{name}.png", optimize=True)

    def leave(self) -> None:
        """Close the page, which must have asked for nothing from elsewhere and met no error."""
        self.context.close()
        assert self.outside == []
        assert self.errors == []


@pytest.fixture
def visit(
    browser: Any, server: Server, until: Callable[[Callable[[], bool]], None]
) -> Iterator[Callable[..., Visitor]]:
    """Return what makes a visitor of `lml app`. Afterwards no run may be left, and no browser may have complained."""
    visitors: list[Visitor] = []

    def come(model: str | None = "embedded") -> Visitor:
        """Open the page and choose a model without prompts; None leaves the page as it starts, with scenes."""
        visitors.append(Visitor(browser, server.address))
        if model is not None:
            visitors[-1].unconditional(model)
        return visitors[-1]

    yield come
    for visitor in visitors:
        visitor.leave()
    until(lambda: server.runs() == [])


@pytest.fixture
def visit_space(browser: Any, space: Server) -> Iterator[Visitor]:
    """Return a visitor of the Space."""
    visitor = Visitor(browser, space.address)
    yield visitor
    visitor.leave()


@pytest.fixture(scope="session")
def until() -> Callable[[Callable[[], bool]], None]:
    """Return what waits until a condition holds."""

    def wait(condition: Callable[[], bool]) -> None:
        end = time.monotonic() + 60
        while not condition():
            assert time.monotonic() < end
            time.sleep(0.1)

    return wait

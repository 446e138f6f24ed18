"""Where the page is served, `lml app`, and the Space."""

from __future__ import annotations

import asyncio
import os
import runpy
import signal
import sys
import tempfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from click.testing import CliRunner

from lmlangevin.app import server
from lmlangevin.app.server import is_local, serve
from lmlangevin.app.settings import Offer
from lmlangevin.cli import cli
from lmlangevin.core import LMLError
from lmlangevin.install import install_hint

ROOT = Path(__file__).parents[2]
SPACE = ROOT / "integrations" / "space"


@pytest.mark.parametrize(
    ("host", "local"),
    [
        ("127.0.0.1", True),
        ("127.8.0.1", True),
        ("::1", True),
        ("[::1]", True),
        ("localhost", True),
        ("0.0.0.0", False),
        ("::", False),
        ("192.168.0.7", False),
        ("example.org", False),
        ("", False),
    ],
)
def test_what_reaches_no_further_than_this_machine(host: str, local: bool) -> None:
    assert is_local(host) == local


class FakePage:
    """What gradio is asked to do."""

    def __init__(self, failure: Exception | None = None) -> None:
        self.failure = failure
        self.launched: dict[str, Any] = {}
        self.copies = Path()
        self.closed = False

    def launch(self, **options: Any) -> tuple[None, str, None]:
        self.launched = options
        self.copies = Path(os.environ["GRADIO_TEMP_DIR"])
        assert self.copies.is_dir()
        if self.failure is not None:
            raise self.failure
        return None, "http://127.0.0.1:1/", None

    def close(self, verbose: bool) -> None:
        assert not verbose
        self.closed = True


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> FakePage:
    page = FakePage()
    module = SimpleNamespace(build_page=lambda offer, sessions: page)
    monkeypatch.setitem(sys.modules, "lmlangevin.app.page", module)
    monkeypatch.setenv("GRADIO_TEMP_DIR", "replaced")
    return page


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_page_is_served_on_this_machine_until_it_is_ended(fake: FakePage, number: signal.Signals) -> None:
    before = signal.getsignal(number)
    told: list[str] = []

    def end(address: str) -> None:
        told.append(address)
        os.kill(os.getpid(), number)

    serve(Offer(), told=end)
    assert told == ["http://127.0.0.1:1/"]
    assert (fake.launched["server_name"], fake.launched["server_port"]) == ("127.0.0.1", 7860)
    assert fake.launched["share"] is False and fake.launched["max_file_size"] == "1kb"
    assert fake.launched["run_history"] is False
    assert fake.launched["max_threads"] > Offer().queue + 1  # those who wait must not hold up who is served
    assert fake.closed and not fake.copies.exists()
    assert signal.getsignal(number) is before


def test_an_address_that_cannot_be_bound_is_one_sentence(fake: FakePage) -> None:
    fake.failure = OSError("Cannot find empty port\nin range")
    with pytest.raises(LMLError, match="port=7860 cannot be bound .*give another --host or --port"):
        serve(Offer())
    assert not fake.copies.exists()


@pytest.mark.parametrize(
    ("offer", "words"),
    [
        (Offer(device="cuda:77"), "cuda:77"),
        (Offer(dtype="int8"), "dtype='int8' is unknown; give one of float32"),
        (Offer(models=("embedded", "no/such/folder")), "model='no/such/folder' is unknown"),
    ],
    ids=["device", "dtype", "model"],
)
def test_what_is_not_there_is_refused_first(fake: FakePage, offer: Offer, words: str) -> None:
    with pytest.raises(LMLError, match=words):
        serve(offer)
    assert fake.launched == {}


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Offer, dict[str, Any]]]:
    calls: list[tuple[Offer, dict[str, Any]]] = []
    monkeypatch.setattr(server, "serve", lambda offer, **options: calls.append((offer, options)))
    return calls


@pytest.mark.parametrize(
    ("options", "any_model"),
    [
        ([], True),
        (["--no-any-model"], False),
        (["--host", "0.0.0.0"], False),
        (["--host", "0.0.0.0", "--any-model"], True),
        (["--host", "::1"], True),
    ],
    ids=str,
)
def test_only_a_page_of_this_machine_takes_any_model_unless_told_otherwise(
    options: list[str], any_model: bool, served: list[tuple[Offer, dict[str, Any]]]
) -> None:
    result = CliRunner().invoke(cli, ["app", *options])
    assert result.exit_code == 0, result.output
    [(offer, keys)] = served
    assert offer.any_model == any_model
    assert keys["host"] == (options[1] if "--host" in options else "127.0.0.1")
    assert ("no password" in result.stderr) == ("0.0.0.0" in options)
    assert ("may name any folder" in result.stderr) == ("0.0.0.0" in options and any_model)


def test_the_options_are_the_offer(served: list[tuple[Offer, dict[str, Any]]]) -> None:
    options = "--model owner/name --max-steps 9 --max-images 8 --max-side 128 --max-seconds 7 --queue 2 --port 7"
    assert CliRunner().invoke(cli, ["app", *options.split()]).exit_code == 0
    [(offer, keys)] = served
    assert offer == Offer(
        models=("scenes", "embedded", "analytic-cifar10", "owner/name"),
        any_model=True,
        max_steps=9,
        max_images=8,
        max_side=128,
        max_seconds=7,
        queue=2,
    )
    assert keys["port"] == 7


def test_without_gradio_the_command_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gradio", None)
    monkeypatch.delitem(sys.modules, "lmlangevin.app.page", raising=False)
    result = CliRunner().invoke(cli, ["app"])
    assert result.exit_code == 2
    assert result.stderr == f"lml: The page needs gradio; {install_hint('app')}.\n"


def _card() -> dict[str, Any]:
    _, header, _ = (SPACE / "README.md").read_text(encoding="utf-8").split("---\n", 2)
    return yaml.safe_load(header)


def test_the_card_of_the_space_names_what_is_there() -> None:
    card = _card()
    assert card["sdk"] == "gradio" and card["license"] == "apache-2.0"
    assert (SPACE / card["app_file"]).is_file()
    pins = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    assert f"gradio=={card['sdk_version']}" in pins
    assert len(card["short_description"]) <= 60  # the hub refuses longer ones
    assert (SPACE / "requirements.txt").read_text(encoding="utf-8").startswith("lmlangevin[app]")


def test_the_space_lets_strangers_name_no_model_and_keeps_the_limits_of_its_card(
    monkeypatch: pytest.MonkeyPatch, served: list[tuple[Offer, dict[str, Any]]]
) -> None:
    runpy.run_path(str(SPACE / _card()["app_file"]), run_name="__main__")
    [(offer, keys)] = served
    assert not offer.any_model and offer.models == ("scenes", "embedded", "analytic-cifar10")
    assert keys == {"host": None, "port": None}
    text = (SPACE / "README.md").read_text(encoding="utf-8")
    assert f"{offer.max_steps} steps, {offer.max_images} images, {offer.max_seconds / 60:.0f} minutes" in text
    assert f"{offer.queue} that wait" in text


def test_the_space_builds_its_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gradio = pytest.importorskip("gradio", reason="gradio is not installed: pip install -c constraints.txt -e '.[app]'")
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setenv("GRADIO_TEMP_DIR", "replaced")
    launched: list[tuple[Any, dict[str, Any]]] = []

    def launch(page: Any, **options: Any) -> tuple[None, str, None]:
        launched.append((page, options))
        os.kill(os.getpid(), signal.SIGTERM)
        return None, "http://127.0.0.1:1/", None

    monkeypatch.setattr(gradio.Blocks, "launch", launch)

    async def start() -> None:  # gradio makes a loop where it finds none, and closes none
        runpy.run_path(str(SPACE / _card()["app_file"]), run_name="__main__")

    asyncio.run(start())
    [(page, options)] = launched
    assert (options["server_name"], options["share"], page.analytics_enabled) == (None, False, False)
    [models] = [part["props"] for part in page.config["components"] if part["props"].get("elem_id") == "lml-model"]
    assert [name for name, _ in models["choices"]] == ["scenes", "embedded", "analytic-cifar10"]
    assert models["allow_custom_value"] is False
    assert list(tmp_path.iterdir()) == []

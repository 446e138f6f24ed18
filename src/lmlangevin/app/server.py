"""How the page is served: on this machine alone unless told otherwise, with nothing of a visitor left behind."""

from __future__ import annotations

import contextlib
import ipaddress
import os
import signal
import tempfile
import threading
from collections.abc import Callable, Iterator
from types import FrameType

from lmlangevin.app.runs import Sessions
from lmlangevin.app.settings import Offer
from lmlangevin.core.errors import LMLError
from lmlangevin.generation.checks import check_choice, check_device, check_model
from lmlangevin.generation.config import DTYPES

LOCAL = "127.0.0.1"
DEFAULT_PORT = 7860
_THREADS = 40
"""For all that the page does at once beside the runs that wait."""


def is_local(host: str) -> bool:
    """Return whether an address reaches no further than this machine; a name that is not known does."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def serve(
    offer: Offer,
    *,
    host: str | None = LOCAL,
    port: int | None = DEFAULT_PORT,
    told: Callable[[str], None] | None = None,
) -> None:
    """Serve the page until the process is interrupted or ended.

    Args:
        offer: What its visitors may do.
        host: Address to bind to; None leaves it to gradio's GRADIO_SERVER_NAME, which a Space sets, and otherwise to
            this machine's own.
        port: Its port; None leaves it to GRADIO_SERVER_PORT, and otherwise to gradio.
        told: Told the page's address when it can be opened.

    Raises:
        LMLError: If a model that is offered, the dtype or the device is not there, gradio is not installed, or the
            address cannot be bound.
    """
    for model in offer.models:
        check_model(model)
    check_choice("dtype", offer.dtype, DTYPES)
    check_device(offer.device)
    with tempfile.TemporaryDirectory(prefix="lml-app-pages-") as copies, _until_ended() as ended:
        # Where gradio puts its copies of what it shows; it reads this when the page is built.
        os.environ["GRADIO_TEMP_DIR"] = copies
        from lmlangevin.app.page import build_page
        from lmlangevin.app.style import CSS

        sessions = Sessions()
        page = build_page(offer, sessions)
        try:
            _, address, _ = page.launch(
                server_name=host,
                server_port=port,
                css=CSS,
                quiet=True,
                share=False,
                prevent_thread_lock=True,
                show_error=False,
                ssr_mode=False,
                footer_links=[],
                max_file_size="1kb",  # nobody is asked for a file
                max_threads=offer.queue + _THREADS,  # a run that waits holds one
                enable_monitoring=False,
                run_history=False,
            )
        except OSError as error:
            raise LMLError(
                f"host={host!r} and port={port} cannot be bound ({' '.join(str(error).split())}); give another --host "
                "or --port."
            ) from error
        try:
            if told is not None:
                told(address)
            ended.wait()
        finally:
            sessions.close()
            page.close(verbose=False)


@contextlib.contextmanager
def _until_ended() -> Iterator[threading.Event]:
    """Yield what is set when the process is asked to end, by Ctrl-C or politely."""
    ended = threading.Event()

    def end(number: int, frame: FrameType | None) -> None:
        del number, frame
        ended.set()

    before = {number: signal.signal(number, end) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield ended
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)

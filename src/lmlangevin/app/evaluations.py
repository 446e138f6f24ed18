"""A look in at each evaluation of a network, so that a run can be stopped and its progress be told within a batch."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from typing import Any

from torch import nn
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook


@contextlib.contextmanager
def looking_in(look: Callable[[nn.Module], None]) -> Iterator[None]:
    """Call `look` before each evaluation of a network in this thread, while a `with` block runs.

    An evaluation is the call of a module from outside of every module: of the denoiser, and of a pipeline's text
    encoder and decoder. Networks need not be known beforehand, since those of a job are loaded while it goes on. What
    `look` raises ends the job.

    Args:
        look: Called with the module.
    """
    thread = threading.get_ident()
    outer: nn.Module | None = None

    def enter(module: nn.Module, args: Any) -> None:
        nonlocal outer
        del args
        if outer is None and threading.get_ident() == thread:
            look(module)
            outer = module

    def leave(module: nn.Module, args: Any, output: Any) -> None:
        nonlocal outer
        del args, output
        if module is outer and threading.get_ident() == thread:
            outer = None

    handles = (register_module_forward_pre_hook(enter), register_module_forward_hook(leave, always_call=True))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()

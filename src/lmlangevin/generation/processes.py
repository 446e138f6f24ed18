"""The processes that share a job, started by `accelerate launch`, `torchrun` or `mpirun`; alone, none of this is used.

They talk before and after the sampling and never while it goes on, by gloo, which needs no GPU.
"""

from __future__ import annotations

import atexit
import contextlib
import datetime
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

from lmlangevin.core.errors import LMLError

T = TypeVar("T")

PATIENCE = datetime.timedelta(hours=24)
"""How long processes wait for each other. One that dies is noticed at once; this is for a machine that vanished."""

# torchrun and accelerate set the first, MPI launchers one of the others; accelerate knows them all.
_WORLD_SIZES = ("WORLD_SIZE", "PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE")


class AgreedError(LMLError):
    """A mistake that every process was told of, so that the first alone needs to say it."""


@dataclass(frozen=True)
class Processes:
    """The processes of a job, as one of them sees it.

    Attributes:
        rank: Its number, from 0.
        count: How many there are.
        local_rank: Its number on its machine.
    """

    rank: int = 0
    count: int = 1
    local_rank: int = 0

    @property
    def first(self) -> bool:
        """Whether this is the process that checks, reports and writes what there is one of."""
        return self.rank == 0

    @property
    def title(self) -> str:
        """Words that name it, such as `process 1 of 3`."""
        return f"process {self.rank + 1} of {self.count}"

    def device(self, name: str) -> str:
        """Return the device of this process: `"cuda"` is a GPU of its own where there are several."""
        return f"cuda:{self.local_rank}" if name == "cuda" and self.count > 1 else name

    def together(self, function: Callable[[], T]) -> T:
        """Run a function in every process, and go on only if it succeeds in all of them.

        Raises:
            LMLError: In every process, with the sentence of the first in which it failed.
        """
        if self.count == 1:
            return function()
        result, failure = _attempt(function)
        failures: list[str | None] = [None] * self.count
        with self.talking() as distributed:
            distributed.all_gather_object(failures, failure)
        found = [(rank, text) for rank, text in enumerate(failures) if text is not None]
        if found:
            rank, text = found[0]
            raise AgreedError(text if rank == 0 else f"process {rank + 1} of {self.count}: {text}")
        return result

    def by_first(self, function: Callable[[], T]) -> T:
        """Run a function in the first process alone, and return its result, which must pickle, in all of them.

        Raises:
            LMLError: In every process, if it failed.
        """
        if self.count == 1:
            return function()
        told: list[Any] = list(_attempt(function)) if self.first else [None, None]
        with self.talking() as distributed:
            distributed.broadcast_object_list(told, src=0)
        result, failure = told
        if failure is not None:
            raise AgreedError(failure)
        return result

    def wait(self) -> None:
        """Wait until all processes have come here.

        Raises:
            LMLError: If one of them has died.
        """
        if self.count > 1:
            with self.talking() as distributed:
                distributed.barrier()

    @contextlib.contextmanager
    def talking(self) -> Iterator[Any]:
        """Lend `torch.distributed`, and tell in one line if another process is gone.

        Raises:
            LMLError: If one of them has died.
        """
        import torch.distributed

        try:
            yield torch.distributed
        except RuntimeError as error:  # gloo says no more than that a connection is gone
            raise LMLError(
                f"{self.title} lost the others, of which one has died or is out of reach; what was finished is kept: "
                "run it again with --resume."
            ) from error


def join_processes() -> Processes:
    """Return the processes of this job, connected to each other if a launcher has started several.

    Raises:
        LMLError: If they cannot be connected.
    """
    sizes = [os.environ.get(name, "") for name in _WORLD_SIZES]
    if not any(size.isdigit() and int(size) > 1 for size in sizes):
        return Processes()
    # Before there is a group: imported later (diffusers does), its functions keep the group as a default argument, and
    # with it gloo's threads, past `_disconnect`.
    import torch.distributed.nn.functional
    from accelerate import PartialState

    ours = not torch.distributed.is_initialized()
    try:
        # As for CPUs, which means gloo. The images go to whatever device the job names.
        state = PartialState(cpu=True, backend="gloo", timeout=PATIENCE)
    except (RuntimeError, ValueError) as error:
        reason = " ".join(str(error).split())[:240]
        raise LMLError(
            f"the processes of this job cannot be connected ({reason}); check the launcher's number of processes, main "
            "process address and port."
        ) from error
    if ours:
        # Threads of gloo's that outlive the interpreter now and then abort a process that has done its work.
        atexit.register(_disconnect)
    return Processes(state.process_index, state.num_processes, max(0, state.local_process_index))


def _disconnect() -> None:
    import torch.distributed

    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def launched_alone() -> bool:
    """Return whether `accelerate launch --cpu` was asked for several processes and, without MPI, started one."""
    return (
        os.environ.get("ACCELERATE_USE_CPU", "").lower() == "true"
        and "MASTER_ADDR" in os.environ
        and not any(name in os.environ for name in _WORLD_SIZES)
    )


def _attempt(function: Callable[[], T]) -> tuple[T, str | None]:
    """Return (result, None), or (nothing, the sentence of the mistake)."""
    try:
        return function(), None
    except LMLError as error:
        return None, str(error)  # pyright: ignore[reportReturnType]

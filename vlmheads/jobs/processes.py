"""The processes that share a job, as accelerate starts them."""

from __future__ import annotations

import os
import zlib
from typing import Any, Protocol

from vlmheads.errors import VlmHeadsError
from vlmheads.printable import one_line
from vlmheads.schema import environment


class Processes(Protocol):
    """The processes of a job; `accelerate.PartialState` is one."""

    process_index: int
    num_processes: int

    def wait_for_everyone(self) -> None:
        """Return when all processes have reached this call."""


class OneProcess:
    """A job of one process."""

    process_index = 0
    num_processes = 1

    def wait_for_everyone(self) -> None:
        """Return at once."""


def launched() -> Any:
    """Return the processes of this job: accelerate's if accelerate launched it.

    Raises:
        VlmHeadsError: environment variables that no launcher sets, or processes that do not find
            each other.
    """
    world = environment("WORLD_SIZE", 1, low=1)
    for name in ("RANK", "LOCAL_RANK"):
        if environment(name, 0) >= world:
            raise VlmHeadsError(
                f"{name}={os.environ[name]} in a job of {world} processes", f"below {world}"
            )
    if world == 1:
        return OneProcess()
    from datetime import timedelta

    import torch
    from accelerate import PartialState

    try:
        # A finished process waits for the slowest one, however long that takes.
        return PartialState(cpu=not torch.accelerator.is_available(), timeout=timedelta(days=7))
    except (ValueError, KeyError, RuntimeError, NotImplementedError) as error:
        raise VlmHeadsError(
            f"WORLD_SIZE={world}, but the processes cannot find each other ({one_line(error)})",
            "what `accelerate launch` sets",
            "unset WORLD_SIZE for a single process",
        ) from error


def own_device(processes: Any) -> str | None:
    """Return the device of this process among several; None for the only one."""
    device = getattr(processes, "device", None)
    return None if device is None else str(device)


def shared(value: Any, processes: Processes) -> Any:
    """Return what the first process holds, on every process; any object that can be pickled."""
    if processes.num_processes == 1:
        return value
    from accelerate.utils import broadcast_object_list

    return broadcast_object_list([value])[0]


def falls_to(key: str, processes: Processes) -> bool:
    """Whether an image is this process's to do: by its name, wherever it stands in a listing."""
    return zlib.crc32(key.encode("utf-8")) % processes.num_processes == processes.process_index

"""The processes of a job: one, or those that accelerate launched."""

import os
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


def of_this_job() -> Any:
    """Return the processes of this job: accelerate's if accelerate launched it."""
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
    """Return the device of a process among several; None for a single one."""
    device = getattr(processes, "device", None)
    return None if device is None else str(device)

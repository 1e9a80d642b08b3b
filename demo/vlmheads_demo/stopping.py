"""Which runs go on, by visitor, so that a visitor can stop theirs and nobody else's."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager


class Runs:
    """The flags of the running work, by the visitor's session."""

    def __init__(self) -> None:
        self._flags: dict[str, list[threading.Event]] = {}
        self._lock = threading.Lock()

    @contextmanager
    def run(self, visitor: str) -> Iterator[threading.Event]:
        """Enter a piece of work; the flag is set when it should stop."""
        flag = threading.Event()
        with self._lock:
            self._flags.setdefault(visitor, []).append(flag)
        try:
            yield flag
        finally:
            with self._lock:
                self._flags[visitor].remove(flag)
                if not self._flags[visitor]:
                    del self._flags[visitor]

    def stop(self, visitor: str) -> int:
        """Let everything stop that a visitor has running, and return how much that was."""
        with self._lock:
            flags = list(self._flags.get(visitor, ()))
        for flag in flags:
            flag.set()
        return len(flags)

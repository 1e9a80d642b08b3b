from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from vlmheads_demo.state import Model, Shelf

# A server is a process of its own, as it is for people; all tests of one share a worker.
ADDRESS = re.compile(r"http://127\.0\.0\.1:\d+")


class Served:
    """A running demo: its address, its process, and what it wrote to its log."""

    def __init__(self, log: Path, *options: str) -> None:
        self.log = log
        command = Path(sys.executable).parent / "vlmheads"
        environment = os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
        with log.open("w") as file:
            self.process = subprocess.Popen(
                [command, "demo", "--port", "0", *options],
                stdout=subprocess.PIPE,
                stderr=file,
                text=True,
                env=environment,
            )
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        found = ADDRESS.search(line)
        assert found, line + log.read_text()
        self.address = found[0]

    def close(self) -> None:
        self.process.terminate()
        self.process.wait(timeout=20)
        assert self.process.stdout is not None
        self.process.stdout.close()


@pytest.fixture(scope="session")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    server = Served(tmp_path_factory.mktemp("demo") / "log.txt")
    yield server
    server.close()


@pytest.fixture(scope="session")
def shelf() -> Shelf:
    return Shelf(("embedded",), device="cpu")


@pytest.fixture(scope="session")
def model(shelf: Shelf) -> Model:
    return shelf.get("embedded")


@pytest.fixture(scope="session")
def chromium() -> str:
    found = next(filter(None, map(shutil.which, ("chromium", "chromium-browser"))), None)
    if found is None and os.environ.get("CI") == "true":
        pytest.fail("CI needs Chromium and it is not here (apt-get install chromium)")
    if found is None:
        pytest.skip("no Chromium on this machine (apt-get install chromium)")
    return found

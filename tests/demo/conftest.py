from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image
from vlmheads_demo.services.captioning import GenerationRequest, describe
from vlmheads_demo.services.generation import DecodingOptions
from vlmheads_demo.services.images import draw_scene
from vlmheads_demo.services.result import Result
from vlmheads_demo.state import AppState, Model, ModelRegistry

from vlmheads.registry import resolve

# The server is a process of its own, as in use; the tests that share it run on one worker.
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
def models() -> ModelRegistry:
    return ModelRegistry(("embedded",), device="cpu")


@pytest.fixture(scope="session")
def model(models: ModelRegistry) -> Model:
    return models.get("embedded")


@pytest.fixture
def state(models: ModelRegistry, tmp_path: Path) -> AppState:
    """State with an upload, a file outside the uploads, and a link to that file."""
    uploads = tmp_path / "uploads"
    uploads.mkdir()
    Image.new("RGB", (60, 60), "red").save(tmp_path / "outside.png")
    Image.new("RGB", (60, 60), "red").save(uploads / "inside.png")
    (uploads / "link.png").symlink_to(tmp_path / "outside.png")
    return AppState(models, uploads)


@pytest.fixture(scope="session")
def result(model: Model) -> Result:
    """A farm with a cat and a plant; the plain caption names a horse and a cow."""
    drawn = draw_scene("counterfactual:9")
    request = GenerationRequest(
        model,
        drawn.image,
        "Describe the image.",
        (resolve("vhr"), resolve("cfg")),
        DecodingOptions(max_new_tokens=40),
        2.5,  # a narrow model has no sinks at the usual 20
        drawn.name,
        drawn.objects,
    )
    *_, found = describe(request, run_lock=threading.Lock(), stop=threading.Event())
    assert isinstance(found, Result)
    return found


@pytest.fixture(scope="session")
def chromium() -> str:
    found = next(filter(None, map(shutil.which, ("chromium", "chromium-browser"))), None)
    if found is None and os.environ.get("CI") == "true":
        pytest.fail("CI needs Chromium (apt-get install chromium)")
    if found is None:
        pytest.skip("no Chromium on this machine (apt-get install chromium)")
    return found

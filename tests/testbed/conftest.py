from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture(scope="session")
def processor() -> Any:
    from vlmheads_testbed.processing import build_processor

    return build_processor()


@pytest.fixture(scope="session")
def embedded() -> tuple[Any, Any]:
    """The packaged model and its processor, loaded the way that a user loads them."""
    from transformers import AutoModelForImageTextToText, AutoProcessor
    from vlmheads_testbed import embedded_model

    folder = embedded_model()
    model = AutoModelForImageTextToText.from_pretrained(folder, local_files_only=True)
    return model.eval(), AutoProcessor.from_pretrained(folder, local_files_only=True)


@pytest.fixture
def dataset(tmp_path: Path) -> Callable[..., Path]:
    """Write a small dataset and return its folder."""
    from vlmheads_testbed.coco import write_dataset

    def write(split: str = "test", number: int = 3, seed: int = 0, name: str = "data") -> Path:
        write_dataset(tmp_path / name, split, number, seed)
        return tmp_path / name

    return write

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

# Third-party data is next to the repository and never part of it.
SHARED = Path(__file__).parents[3] / "shared" / "data"

if (SHARED / "nltk_data").is_dir():
    os.environ["NLTK_DATA"] = str(SHARED / "nltk_data")


@pytest.fixture(scope="session")
def shared() -> Callable[[str], Path]:
    """Return the path of a reference file, or skip the test where it is absent."""

    def path(name: str) -> Path:
        found = SHARED / name
        if not found.exists():
            pytest.skip(f"reference data {name} are not beside this checkout")
        return found

    return path


@pytest.fixture(scope="session")
def shared_json(shared: Callable[[str], Path]) -> Callable[[str], Any]:
    return lambda name: json.loads(shared(name).read_text("utf-8"))


@pytest.fixture(scope="session")
def handmade() -> Path:
    return Path(__file__).parent / "handmade"


@pytest.fixture(scope="session")
def nltk_data(shared: Callable[[str], Path]) -> Path:
    """The data of the wordnet variant, already where NLTK looks for them."""
    return shared("nltk_data")

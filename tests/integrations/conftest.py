from __future__ import annotations

import pytest
from PIL import Image
from vlmheads_testbed.scenes import scene

from vlmheads import Captioner


@pytest.fixture(scope="session")
def captioner() -> Captioner:
    """Load the embedded model, plain."""
    return Captioner.from_pretrained("embedded", ())


@pytest.fixture(scope="session")
def pictures() -> list[Image.Image]:
    return [scene("counterfactual", 0, index).image for index in range(3)]

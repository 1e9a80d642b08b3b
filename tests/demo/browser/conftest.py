from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from demo_page import describe, opened
from PIL import Image
from playwright.sync_api import Browser, Page, sync_playwright

# Set to write the screenshots to docs/images/; see docs/demo.md.
WRITE = "VLMHEADS_SCREENSHOTS"
IMAGES = Path(__file__).parents[3] / "docs" / "images"


@pytest.fixture(scope="module")
def browser(chromium: str) -> Iterator[Browser]:
    with sync_playwright() as playwright:
        found = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        yield found
        found.close()


@pytest.fixture
def shoot(tmp_path: Path) -> Callable[..., None]:
    """Take a screenshot, written to docs/images/ on request."""
    folder = IMAGES if os.environ.get(WRITE) else tmp_path

    def write(page: Page, name: str, *, whole: bool = True) -> None:
        page.mouse.move(0, 0)
        page.wait_for_timeout(300)
        path = folder / f"demo-{name}.png"
        page.screenshot(path=path, full_page=whole)
        with Image.open(path) as image:
            small = image.convert("RGB").quantize(256, kmeans=4)
        small.save(path, optimize=True)
        assert path.stat().st_size < 300_000

    return write


@pytest.fixture(scope="module")
def page(browser: Browser, served) -> Iterator[Page]:
    """A page with a scene described, plain and under VHR; the tests click around on it."""
    found = opened(browser, served.address)
    describe(found)
    yield found
    found.context.close()

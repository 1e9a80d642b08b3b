"""The page of the demo in a browser, for tests: to open it, press what is on it, and read it."""

from __future__ import annotations

from playwright.sync_api import Browser, Page, expect

SCENE = "counterfactual:3"  # The plain caption invents a laptop, and no other object.
FIRST = "counterfactual:47"  # Described when the page opens.
DESKTOP, PHONE = {"width": 1366, "height": 768}, {"width": 390, "height": 844}
AXE = {
    "runOnly": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa"],
    "resultTypes": ["violations"],
    "preload": False,
}
# Milliseconds; a busy machine is slow.
TIMEOUT = 60_000
# The key of the result on the page.
KEY = (
    "(JSON.parse(document.querySelector('.vh-heads [data-select]')?.dataset.select ?? '{}').result"
    " ?? '')"
)


def opened(browser: Browser, address: str, *, size=DESKTOP, dark: bool = False) -> Page:
    """Open the page, and record its errors and its requests to elsewhere."""
    scheme = "dark" if dark else "light"
    page = browser.new_context(viewport=size, color_scheme=scheme).new_page()
    page.set_default_timeout(TIMEOUT)
    expect.set_options(timeout=TIMEOUT)
    page.errors = []  # type: ignore[attr-defined]
    page.on("pageerror", lambda error: page.errors.append(str(error)))
    page.on("console", lambda m: m.type == "error" and page.errors.append(m.text))
    page.on("request", lambda r: r.url.startswith(("data:", "blob:", address)) or
            page.errors.append(r.url))  # fmt: skip
    page.goto(address)
    page.locator("#vh-go").wait_for()
    page.locator(".vh-scene").first.wait_for()
    return page


def describe(page: Page, scene: str | None = SCENE) -> None:
    if scene:
        page.locator(f'[data-select*="{scene}"]').click()
    page.locator("#first-method").select_option("vhr")
    run(page)


def run(page: Page) -> None:
    """Press Describe, and wait for the result that comes."""
    before = page.evaluate(KEY)
    page.locator("#vh-go").click()
    page.wait_for_function(f"(before) => {{ const now = {KEY}; return now && now !== before; }}",
                           arg=before)  # fmt: skip
    page.locator(".vh-heads table").wait_for()


def inside(page: Page, *selectors: str) -> bool:
    """Whether everything that is named is in the window as it is."""
    size = page.viewport_size
    assert size is not None
    boxes = [page.locator(selector).first.bounding_box() for selector in selectors]
    return all(
        box is not None and box["y"] >= 0 and box["y"] + box["height"] <= size["height"]
        for box in boxes
    )


def caption(page: Page, number: int) -> str:
    """The text of a caption without the scores."""
    texts = page.locator(".vh-card .vh-text").nth(number)
    return texts.evaluate(
        "node => { const copy = node.cloneNode(true);"
        "copy.querySelectorAll('sup').forEach(mark => mark.remove()); return copy.textContent; }"
    )


def overlay(page: Page) -> str:
    return page.locator(".vh-overlay").get_attribute("src") or ""


def changed(page: Page, before: str) -> str:
    """Wait until the overlay changes, and return it."""
    expect(page.locator(".vh-overlay")).not_to_have_attribute("src", before)
    return overlay(page)

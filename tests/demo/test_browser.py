from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from axe_playwright_python.sync_playwright import Axe
from PIL import Image
from playwright.sync_api import Browser, Page, expect, sync_playwright
from vlmheads_demo.services.images import draw_scene

pytestmark = pytest.mark.xdist_group("demo")

# Set to write the screenshots to docs/images/; see docs/demo.md.
WRITE = "VLMHEADS_SCREENSHOTS"
IMAGES = Path(__file__).parents[2] / "docs" / "images"
SCENE = "counterfactual:3"  # The plain caption invents a laptop, and no other object.
DESKTOP, PHONE = {"width": 1280, "height": 860}, {"width": 390, "height": 844}
# Milliseconds; a busy machine is slow.
TIMEOUT = 60_000


@pytest.fixture(scope="module")
def browser(chromium: str) -> Iterator[Browser]:
    with sync_playwright() as playwright:
        found = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        yield found
        found.close()


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
    page.locator("#vh-go").click()
    page.locator(".vh-legend").wait_for()
    page.locator(".vh-heads table").wait_for()


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


def test_captions_are_side_by_side_with_the_invented_word_marked(page, model):
    for number, plugins in enumerate(((), "vhr")):
        (expected,) = model.captioner([draw_scene(SCENE).image], plugins=plugins)
        assert caption(page, number) == expected.text
    boxes = [card.bounding_box() for card in page.locator(".vh-card").all()]
    assert boxes[0]["y"] == boxes[1]["y"]
    assert boxes[0]["x"] < boxes[1]["x"]
    wrong = page.locator(".vh-card .vh-wrong")
    expect(wrong).to_have_text(re.compile("^laptop✗"))
    assert "not in the picture" in (wrong.get_attribute("aria-label") or "")
    expect(page.locator(".vh-compare")).to_contain_text("laptop")


def test_a_click_on_a_word_shows_its_attention(page):
    before = overlay(page)
    word = page.locator(".vh-card").nth(1).locator(".vh-word").first
    word.click()
    after = changed(page, before)
    assert after == word.get_attribute("data-overlay")
    expect(word).to_have_attribute("aria-pressed", "true")
    expect(page.locator(".vh-look figcaption")).to_contain_text("apples in vhr: mean attention")
    expect(page.locator(".vh-heads .vh-small").first).to_contain_text("apples in vhr")


def test_hovering_over_a_word_shows_its_attention_until_it_ends(page):
    apples = page.locator(".vh-card").nth(1).locator(".vh-word").first
    apples.click()
    expect(page.locator(".vh-overlay")).to_have_attribute(
        "src", apples.get_attribute("data-overlay")
    )
    page.mouse.move(0, 0)
    chosen = overlay(page)
    word = page.locator(".vh-card .vh-wrong")
    hovered = word.get_attribute("data-overlay")
    assert hovered not in (None, chosen)
    preview = page.locator(".vh-preview")
    word.hover()
    expect(preview).to_have_attribute("src", hovered)
    expect(preview).to_be_visible()
    expect(page.locator(".vh-overlay")).to_be_hidden()
    page.mouse.move(0, 0)
    expect(preview).to_have_count(0)
    expect(page.locator(".vh-overlay")).to_be_visible()
    assert overlay(page) == chosen


def test_a_click_on_a_head_shows_its_attention_for_the_word(page):
    page.locator(".vh-card .vh-wrong").click()
    expect(page.locator(".vh-look figcaption")).to_contain_text("laptop in plain: mean attention")
    mean = overlay(page)
    cell = page.locator('[role=gridcell][aria-label^="layer 3, head 5"]')
    cell.click()
    head = changed(page, mean)
    expect(page.locator(".vh-look figcaption")).to_contain_text("layer 3, head 5")
    expect(cell).to_have_attribute("aria-selected", "true")
    page.locator(".vh-chip").first.click()
    assert changed(page, head) == mean


def test_heads_that_the_method_edits_are_outlined(page):
    outlined = page.locator(".vh-acted").count()
    expect(page.locator(".vh-heads")).to_contain_text(f"the {outlined} heads that vhr edits")
    assert page.locator(".vh-bar").count() == 8


def test_everything_can_be_reached_from_the_keyboard(page):
    page.locator(".vh-card .vh-word").first.focus()
    page.keyboard.press("Tab")
    second = page.evaluate("document.activeElement.dataset.select")
    before = overlay(page)
    page.keyboard.press("Enter")
    changed(page, before)
    assert json.loads(second)["caption"] == 0
    page.locator('[role=gridcell][tabindex="0"]').focus()
    start = page.evaluate("document.activeElement.getAttribute('aria-label')")
    page.keyboard.press("ArrowUp")
    page.keyboard.press("ArrowRight")
    place = page.evaluate("document.activeElement.getAttribute('aria-label')")
    row, column = map(int, re.findall(r"\d+", start)[:2])
    assert place.startswith(f"layer {row + 1}, head {column + 1}")
    before = overlay(page)
    page.keyboard.press("Enter")
    changed(page, before)
    reached = set()
    page.locator(".vh-scene").first.focus()
    for _ in range(40):
        page.keyboard.press("Tab")
        reached.add(page.evaluate("document.activeElement.id || document.activeElement.className"))
    assert {"first-method", "first-vhr-alpha", "second-method", "vh-go", "vh-stop"} <= reached


def test_the_browser_saves_the_export(page, tmp_path):
    page.get_by_role("button", name="Export").click()
    link = page.locator('a[download="vlmheads.json"]')
    with page.expect_download() as download:
        link.click()
    download.value.save_as(tmp_path / "found.json")
    found = json.loads((tmp_path / "found.json").read_text())
    assert [one["name"] for one in found["captions"]] == ["plain", "vhr"]
    expect(page.locator('a[download="vlmheads.zip"]')).to_be_visible()


def test_the_page_has_no_errors_and_loads_nothing_from_elsewhere(page):
    assert page.errors == []


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_contrast_and_names_are_accessible(browser, served, shoot, dark):
    page = opened(browser, served.address, dark=dark)
    describe(page)
    shoot(page, "dark" if dark else "light")
    for tab in ("Describe", "Evaluate") if dark else ("Describe", "Evaluate", "How to read it"):
        page.get_by_role("tab", name=tab).click()
        page.wait_for_timeout(300)
        options = {
            "runOnly": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa"],
            "resultTypes": ["violations"],
            "preload": False,
        }
        answer = Axe().run(page, options=options).response
        assert {"color-contrast", "button-name"} <= {r["id"] for r in answer["passes"]}
        found = answer["violations"]
        problems = [
            f"{tab}: {rule['id']}: {node['html'][:160]} {node.get('failureSummary', '')[:200]}"
            for rule in found
            for node in rule["nodes"]
        ]
        assert problems == []
    page.context.close()


def test_the_method_that_was_measured_on_the_model_is_picked_at_first(browser, served):
    page = opened(browser, served.address)
    picked = page.locator("#first-method option:checked")
    expect(picked).to_have_text("vcd (recommended)")
    expect(page.locator('output[for="first-vcd-alpha"]')).to_have_text("0.25")
    expect(page.locator("#second-method option:checked")).to_have_text("none")
    page.locator(f'[data-select*="{SCENE}"]').click()
    page.locator("#vh-go").click()
    expect(page.locator(".vh-card h2")).to_have_text(["plain", "vcd:alpha=0.25"])
    page.context.close()


def test_a_slider_changes_the_caption(browser, served):
    page = opened(browser, served.address)
    describe(page, "test:3")
    before = caption(page, 1)
    slider = page.locator("#first-vhr-alpha")
    slider.focus()
    page.keyboard.press("End")
    expect(page.locator('output[for="first-vhr-alpha"]')).to_have_text("10")
    page.locator("#vh-go").click()
    expect(page.locator(".vh-card h2").nth(1)).to_have_text("vhr:alpha=10")
    page.locator(".vh-legend").wait_for()
    assert caption(page, 1) != before
    page.locator("#second-method").select_option("cfg")
    page.locator("#vh-go").click()
    expect(page.locator(".vh-card h2")).to_have_text(["plain", "vhr:alpha=10", "cfg"])
    page.context.close()


def test_an_uploaded_picture_has_no_known_objects(browser, served, tmp_path):
    page = opened(browser, served.address)
    page.locator(f'[data-select*="{SCENE}"]').click()
    expect(page.locator("#vh-image img")).to_be_visible()
    page.locator("#vh-image button[aria-label*=lear], #vh-image button[aria-label*=emove]").click()
    draw_scene("test:0").image.save(tmp_path / "mountain.tiff")
    page.locator('#vh-image input[type="file"]').set_input_files(tmp_path / "mountain.tiff")
    expect(page.locator("#vh-image img")).to_be_visible()
    describe(page, None)
    assert "mountain" in caption(page, 0)
    assert page.locator(".vh-card .vh-right, .vh-card .vh-wrong").count() == 0
    assert page.locator('.vh-scene[aria-pressed="true"]').count() == 0
    page.context.close()


def test_a_bad_file_gets_a_message(browser, served, tmp_path):
    page = opened(browser, served.address)
    (tmp_path / "holiday.png").write_bytes(b"this is no picture")
    page.locator('#vh-image input[type="file"]').set_input_files(tmp_path / "holiday.png")
    alert = page.get_by_role("alert")
    expect(alert).to_contain_text("holiday.png is not a picture")
    page.locator("#vh-go").click()
    expect(alert).to_contain_text("no picture; expected an upload")
    assert "Traceback" not in page.content()
    page.context.close()


def test_methods_are_evaluated_on_their_tab(browser, served, shoot):
    page = opened(browser, served.address)
    page.get_by_role("tab", name="Evaluate").click()
    page.get_by_label("Number of scenes").first.fill("12")
    page.get_by_label("Number of scenes").first.press("Enter")
    page.locator("#vh-evaluate-go").click()
    expect(page.locator(".vh-result h2")).to_have_text(
        ["Invented objects against recall", "Runs", "Against plain"]
    )
    expect(page.locator("#vh-evaluation")).to_contain_text("12 images that all runs have")
    assert page.locator(".vh-figures svg").count() == 2
    shoot(page, "evaluation")
    page.context.close()


def test_a_phone_shows_everything_in_one_column(browser, served, shoot):
    page = opened(browser, served.address, size=PHONE)
    describe(page)
    page.locator(".vh-cards").evaluate("node => node.scrollIntoView()")
    shoot(page, "phone", whole=False)
    assert page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]
    lefts = {
        round(page.locator(selector).first.bounding_box()["x"])
        for selector in (".vh-card", ".vh-look", ".vh-heads", ".vh-compare")
    }
    assert len(lefts) == 1
    cards = [card.bounding_box() for card in page.locator(".vh-card").all()]
    assert cards[0]["y"] + cards[0]["height"] <= cards[1]["y"]
    page.context.close()

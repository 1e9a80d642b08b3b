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
FIRST = "counterfactual:47"  # Described when the page opens.
DESKTOP, PHONE = {"width": 1366, "height": 768}, {"width": 390, "height": 844}
AXE = {
    "runOnly": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa"],
    "resultTypes": ["violations"],
    "preload": False,
}
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
    run(page)


def run(page: Page) -> None:
    """Press Describe, and wait for the result that comes."""
    before = page.evaluate(KEY)
    page.locator("#vh-go").click()
    page.wait_for_function(f"(before) => {{ const now = {KEY}; return now && now !== before; }}",
                           arg=before)  # fmt: skip
    page.locator(".vh-heads table").wait_for()


# The key of the result on the page.
KEY = (
    "(JSON.parse(document.querySelector('.vh-heads [data-select]')?.dataset.select ?? '{}').result"
    " ?? '')"
)


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


def test_a_scene_is_described_when_the_page_opens_and_all_fits_one_screen(browser, served):
    page = opened(browser, served.address)
    expect(page.locator(".vh-seen")).to_have_text(
        "The plain model invents a suitcase and an airplane; vcd:alpha=0.25 does not."
    )
    expect(page.locator("#vh-image img")).to_be_visible()
    assert page.locator('.vh-scene[aria-pressed="true"]').get_attribute("data-select") == (
        json.dumps({"scene": FIRST})
    )
    cards = ("#vh-captions", ".vh-card >> nth=0", ".vh-card >> nth=1", ".vh-strengths")
    assert inside(page, "#vh-image", "#vh-scenes", "#vh-first", "#vh-go", "#vh-stop", *cards)
    assert page.evaluate("scrollY") == 0
    assert page.errors == []
    page.context.close()


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
    expect(page.locator('.vh-token[aria-pressed="true"]')).to_contain_text("apple")
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
    page.get_by_role("button", name="gradient").click()
    expect(page.locator(".vh-look figcaption")).to_contain_text("gradient x attention")
    gradient = changed(page, head)
    page.locator(".vh-chip").first.click()
    assert changed(page, gradient) == mean
    maps = page.get_by_label("show where each head looks")
    maps.check()
    assert page.evaluate(
        "getComputedStyle(document.querySelector('.vh-cell')).backgroundImage.slice(0, 8)"
    ) == 'url("dat'  # fmt: skip
    maps.uncheck()


def test_the_inspector_shows_what_else_would_have_been_said_and_what_the_method_changed(page):
    fork = page.locator(".vh-token.vh-leaves")
    fork.first.click()
    expect(page.locator(".vh-candidates h3")).to_have_text(
        ["with the picture", "without it", "vhr"]
    )
    assert page.locator(".vh-candidates ol").count() == 3
    assert page.locator(".vh-candidates li").count() == 15
    assert page.locator(".vh-candidates li.vh-said").count() >= 1
    expect(page.locator(".vh-inspector")).to_contain_text("image gain")
    plain = page.locator(".vh-card").first.locator(".vh-other").first
    plain.click()
    expect(plain).to_have_attribute("aria-pressed", "true")


def test_a_place_of_the_picture_is_read_with_the_mouse_and_from_the_keyboard(page):
    stage = page.locator(".vh-stage")
    box = stage.bounding_box()
    stage.click(position={"x": box["width"] * 0.3, "y": box["height"] * 0.55})
    heading = page.locator(".vh-reading h2")
    expect(heading).to_have_text("What does the model read at row 4, column 2?")
    assert page.locator(".vh-reading tbody tr").count() == 9
    expect(page.locator(".vh-reading")).to_contain_text("Words that look here most")
    page.locator(".vh-cursor").focus()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Enter")
    expect(heading).to_have_text("What does the model read at row 5, column 3?")
    page.locator(".vh-card .vh-wrong").click()
    expect(page.locator(".vh-look figcaption")).to_contain_text("laptop")
    expect(heading).to_have_text("What does the model read at row 5, column 3?")


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
    page.locator(".vh-text").first.locator("button").first.focus()
    page.keyboard.press("ArrowRight")
    assert json.loads(page.evaluate("document.activeElement.dataset.select"))["word"] == 1
    reached = set()
    page.locator(".vh-scene").first.focus()
    for _ in range(30):
        page.keyboard.press("Tab")
        reached.add(page.evaluate("document.activeElement.id || document.activeElement.className"))
    assert {"first-method", "first-vhr-alpha", "second-method", "vh-go", "vh-stop"} <= reached


def test_the_browser_saves_the_export(page, tmp_path):
    page.get_by_role("button", name="Save as one page").click()
    with page.expect_download() as download:
        page.locator('a[download="vlmheads.html"]').click()
    download.value.save_as(tmp_path / "saved.html")
    saved = page.context.new_page()
    wrong: list[str] = []
    saved.on("console", lambda message: wrong.append(message.text))
    saved.on("request", lambda r: r.url.startswith(("file:", "data:")) or wrong.append(r.url))
    saved.goto(f"file://{tmp_path}/saved.html")
    expect(saved.locator(".vh-look:visible figcaption")).to_contain_text("laptop in plain")
    saved.locator(".vh-card").nth(1).locator(".vh-word").first.click()
    expect(saved.locator(".vh-look:visible figcaption")).to_contain_text("apples in vhr")
    assert Axe().run(saved, options=AXE).response["violations"] == []
    assert wrong == []
    saved.close()
    page.get_by_role("button", name="Export").click()
    link = page.locator('a[download="vlmheads.json"]')
    with page.expect_download() as download:
        link.click()
    download.value.save_as(tmp_path / "found.json")
    found = json.loads((tmp_path / "found.json").read_text())
    assert [one["name"] for one in found["captions"]] == ["plain", "vhr"]
    expect(page.locator('a[download="vlmheads.zip"]')).to_be_visible()


def test_a_link_opens_the_result_elsewhere(browser, served, page):
    page.get_by_role("button", name="Share a link").click()
    link = page.locator("#vh-link")
    expect(link).to_have_value(re.compile(re.escape(served.address) + r"/\?result=[\w-]+$"))
    other = opened(browser, link.input_value())
    expect(other.locator(".vh-card h2")).to_have_text(["plain", "vhr"])
    assert caption(other, 1) == caption(page, 1)
    expect(other.locator(f'[data-select*="{SCENE}"]').first).to_have_attribute(
        "aria-pressed", "true"
    )
    other.goto(f"{served.address}/?result=nothing")
    expect(other.get_by_role("alert")).to_contain_text("A run that is no longer kept")
    other.context.close()


def test_the_page_has_no_errors_and_loads_nothing_from_elsewhere(page):
    assert page.errors == []


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_contrast_and_names_are_accessible(browser, served, shoot, dark):
    page = opened(browser, served.address, dark=dark)
    box = page.locator(".vh-stage").bounding_box()
    # A slice of the pizza, which the last layers call one.
    place = {"x": box["width"] * 2.5 / 8, "y": box["height"] * 5.5 / 8}
    page.locator(".vh-stage").click(position=place)
    expect(page.locator(".vh-reading tbody tr").first).to_contain_text("pizza")
    shoot(page, "dark" if dark else "light")
    for tab in ("Describe", "Evaluate") if dark else ("Describe", "Evaluate", "How to read it"):
        page.get_by_role("tab", name=tab).click()
        page.wait_for_timeout(300)
        answer = Axe().run(page, options=AXE).response
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
    expect(page.locator("#first-method optgroup").first).to_have_attribute(
        "label", "Recommended for embedded"
    )
    assert page.locator("#first-method optgroup").count() == 8
    page.locator("#first-method").select_option("vhr")
    expect(page.locator("#vh-first fieldset:visible .vh-evidence")).to_contain_text("worse")
    page.locator("#first-method").select_option("vcd")
    page.locator(f'[data-select*="{SCENE}"]').click()
    run(page)
    expect(page.locator(".vh-card h2")).to_have_text(["plain", "vcd:alpha=0.25"])
    page.context.close()


def test_a_slider_shows_the_caption_at_four_strengths_and_then_in_the_run(browser, served):
    page = opened(browser, served.address)
    titles = page.locator(".vh-multiple h3")
    expect(titles).to_have_text([f"alpha = {value}" for value in ("0.125", "0.25", "1", "4")])
    slider = page.locator("#first-vcd-alpha")
    slider.focus()
    page.keyboard.press("Home")
    page.keyboard.press("ArrowRight")
    chosen = page.locator('output[for="first-vcd-alpha"]').text_content()
    half = f"{float(chosen) / 2:g}"
    expect(titles.first).to_have_text(f"alpha = {half}")
    expect(page.locator(".vh-at-chosen h3")).to_have_text(f"alpha = {chosen}")
    expect(page.locator(".vh-multiple footer b")).to_have_count(4)
    page.locator("#second-method").select_option("cfg")
    run(page)
    expect(page.locator(".vh-card h2")).to_have_text(["plain", f"vcd:alpha={chosen}", "cfg"])
    expect(page.locator(".vh-at-chosen .vh-said-at")).to_contain_text("airport")
    page.context.close()


def test_an_uploaded_picture_has_no_known_objects(browser, served, tmp_path):
    page = opened(browser, served.address)
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


def test_what_went_wrong_is_said_where_the_eye_is(browser, served, tmp_path):
    page = opened(browser, served.address)
    page.locator("#vh-image button[aria-label*=lear], #vh-image button[aria-label*=emove]").click()
    page.locator("#vh-go").click()
    alert = page.get_by_role("alert")
    expect(alert).to_contain_text("No picture; expected an upload")
    assert inside(page, "#vh-go", "[role=alert]", ".vh-card")
    (tmp_path / "holiday.png").write_bytes(b"this is no picture")
    page.locator('#vh-image input[type="file"]').set_input_files(tmp_path / "holiday.png")
    expect(alert.first).to_contain_text("holiday.png is not a picture")
    picture, card = page.locator("#vh-scenes").bounding_box(), alert.first.bounding_box()
    assert 0 <= card["y"] - picture["y"] - picture["height"] < 40
    waves = (Image.linear_gradient("L").rotate(turn).resize((320, 240)) for turn in (0, 90, 180))
    Image.merge("RGB", [*waves]).save(tmp_path / "beach.jpg")
    page.locator('#vh-image input[type="file"]').set_input_files(tmp_path / "beach.jpg")
    expect(alert.first).to_contain_text("looks like a photograph")
    expect(alert.first).to_contain_text("vlmheads demo --model")
    expect(page.locator("#vh-image img")).to_have_count(0)
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
    expect(page.locator(".vh-verdicts")).to_contain_text("at equal recall")
    assert page.locator(".vh-figures svg").count() == 2
    shoot(page, "evaluation")
    page.context.close()


def test_a_phone_shows_everything_in_one_column(browser, served, shoot):
    page = opened(browser, served.address, size=PHONE)
    describe(page)
    top = page.locator("#vh-captions").bounding_box()["y"]
    assert -10 <= top < PHONE["height"] / 2, "the page moves to the result"
    assert Axe().run(page, options=AXE).response["violations"] == []
    shoot(page, "phone", whole=False)
    assert page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]
    lefts = {
        round(page.locator(selector).first.bounding_box()["x"])
        for selector in (".vh-card", ".vh-strengths", ".vh-look", ".vh-heads", ".vh-compare")
    }
    assert len(lefts) == 1
    cards = [card.bounding_box() for card in page.locator(".vh-card").all()]
    assert cards[0]["y"] + cards[0]["height"] <= cards[1]["y"]
    page.context.close()

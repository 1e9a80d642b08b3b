"""What is looked at in a result: words, heads, tokens and places, with mouse and keyboard."""

from __future__ import annotations

import json
import re

import pytest
from demo_page import SCENE, caption, changed, overlay
from playwright.sync_api import expect
from vlmheads_demo.services.images import draw_scene

pytestmark = pytest.mark.xdist_group("demo")


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


def test_the_page_has_no_errors_and_loads_nothing_from_elsewhere(page):
    assert page.errors == []

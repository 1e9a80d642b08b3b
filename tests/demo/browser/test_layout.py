"""Everything fits a screen and a phone, and can be read by everyone."""

from __future__ import annotations

import json

import pytest
from axe_playwright_python.sync_playwright import Axe
from demo_page import AXE, FIRST, PHONE, describe, inside, opened
from playwright.sync_api import expect

pytestmark = pytest.mark.xdist_group("demo")


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

"""Methods: which one is picked, at which strength, and how they are evaluated."""

from __future__ import annotations

import pytest
from demo_page import SCENE, opened, run
from playwright.sync_api import expect

pytestmark = pytest.mark.xdist_group("demo")


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

"""What of a result can be passed on: files, a page and a link."""

from __future__ import annotations

import json
import re

import pytest
from axe_playwright_python.sync_playwright import Axe
from demo_page import AXE, SCENE, caption, opened
from playwright.sync_api import expect

pytestmark = pytest.mark.xdist_group("demo")


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

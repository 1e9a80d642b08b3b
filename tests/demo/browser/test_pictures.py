"""Pictures that visitors upload, good and bad."""

from __future__ import annotations

import pytest
from demo_page import caption, describe, inside, opened
from PIL import Image
from playwright.sync_api import expect
from vlmheads_demo.services.images import draw_scene

pytestmark = pytest.mark.xdist_group("demo")


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

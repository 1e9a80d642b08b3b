"""Canaries: each fails with a sentence that names what moved inside Gradio."""

from __future__ import annotations

import asyncio
import importlib.resources
import inspect
import re
from pathlib import Path

import gradio as gr
import pytest
from gradio.utils import get_upload_folder
from vlmheads_demo.compat import (
    DOWNLOAD_ROUTE,
    event_values,
    query_value,
    set_environment,
    upload_path,
    visitor_id,
)

FRONTEND = importlib.resources.files("gradio") / "templates" / "frontend" / "assets"


def test_events_give_what_the_browser_sent_as_attributes():
    event = gr.EventData(None, {"scene": "test:1", "word": None, "other": 3})
    found = event_values(event, ("scene", "word", "layer"))
    assert found == {"scene": "test:1", "word": None}, (
        "gr.EventData no longer has the values of the browser as attributes"
    )


@pytest.mark.parametrize("sent", [None, 3, "text", ["scene"], {}])
def test_an_event_without_values_gives_none(sent):
    assert event_values(gr.EventData(None, sent), ("scene",)) == {}


def test_the_environment_moves_uploads_and_stops_analytics(monkeypatch, tmp_path):
    for name in ("GRADIO_TEMP_DIR", "GRADIO_ANALYTICS_ENABLED"):
        monkeypatch.setenv(name, "")
    set_environment(tmp_path)

    async def build() -> gr.Blocks:  # without a running loop Gradio makes one and leaves it open
        with gr.Blocks() as page:
            pass
        return page

    assert Path(get_upload_folder()) == tmp_path, (
        "Gradio no longer reads the folder of uploads from GRADIO_TEMP_DIR"
    )
    assert not asyncio.run(build()).analytics_enabled, (
        "Gradio no longer reads GRADIO_ANALYTICS_ENABLED when a page is built"
    )


def test_the_routes_that_download_for_a_client_are_known():
    routes = set(re.findall(r'"(/(?:file|proxy)[^"]*:path\})"', inspect.getsource(gr.routes)))
    known = {"/file={path_or_url:path}", "/file/{path:path}", "/proxy={url_path:path}"}
    assert routes == known, "Gradio has moved its download routes; see compat.DOWNLOAD_ROUTE"
    for route in routes:
        assert DOWNLOAD_ROUTE.search(route.split("{")[0] + "http://example.org/x")


def test_uploads_come_as_file_data():
    sent = gr.FileData(path="picture.png").model_dump()
    assert upload_path(sent) == "picture.png", "gr.FileData no longer keeps its path in `path`"
    assert upload_path({"path": 3}) == 3, "what is no path is refused by name, not here"
    assert upload_path(None) is None


def test_requests_know_the_query_of_their_address():
    request = gr.Request(request=None)
    request.kwargs = {"query_params": {"result": "abc"}}
    assert query_value(request, "result") == "abc", "gr.Request no longer has query_params"
    assert query_value(request, "other") is None
    assert query_value(None, "result") is None


def test_requests_know_their_session():
    request = gr.Request(session_hash="abc")
    assert visitor_id(request) == "abc", "gr.Request no longer has a session_hash"
    assert visitor_id(None) == ""


@pytest.mark.parametrize(
    "name", ["gradio-container", "html-container", "tab-container", "tab-wrapper", "tabitem"]
)
def test_the_style_sheet_uses_class_names_that_gradio_has(name):
    sheet = (importlib.resources.files("vlmheads_demo") / "assets" / "page.css").read_text()
    assert name in sheet
    found = any(name.encode() in file.read_bytes() for file in FRONTEND.iterdir() if file.is_file())
    assert found, f"Gradio no longer has the CSS class {name}, which assets/page.css relies on"

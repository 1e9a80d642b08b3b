"""What of a run can be passed on: a link, files, and one page that holds everything."""

from __future__ import annotations

import base64
import json
from html import escape

from vlmheads_demo.services.export import archive, result_json, result_pictures
from vlmheads_demo.services.result import Result


def sharing_buttons(result: Result) -> str:
    """Return the buttons that ask for a link to a run, and for its files."""

    def about(what: str) -> str:
        return escape(json.dumps({"result": result.key, "what": what}))

    return (
        '<p class="vh-links">'
        f'<button type="button" class="vh-button" data-select="{about("link")}">Share a link'
        "</button>"
        f'<button type="button" class="vh-button" data-select="{about("page")}">Save as one page'
        "</button>"
        f'<button type="button" class="vh-button" data-select="{about("files")}">'
        "Export JSON and PNGs</button></p>"
    )


def link_view(result: Result) -> str:
    """Return the link to a run; the browser makes it a whole address."""
    return (
        '<p class="vh-links" role="status"><label for="vh-link">A link to this result, for as long '
        "as this server runs:</label>"
        f'<input id="vh-link" class="vh-link" readonly data-link="?result={escape(result.key)}" '
        f'value="?result={escape(result.key)}">'
        f'<a class="vh-button" href="?result={escape(result.key)}">open</a></p>'
        + sharing_buttons(result)
    )


def file_links(result: Result) -> str:
    """Return links that contain the files themselves, so that the server keeps none."""
    found = (
        ("vlmheads.json", "application/json", result_json(result)),
        ("vlmheads.zip", "application/zip", archive(result_pictures(result))),
    )
    links = "".join(_download(*one) for one in found)
    return f'<p class="vh-links" role="status">Ready: {links}</p>' + sharing_buttons(result)


def page_link(result: Result, page: str) -> str:
    """Return a link that contains a page, which the browser saves."""
    link = _download("vlmheads.html", "text/html", page.encode())
    return f'<p class="vh-links" role="status">Ready: {link}</p>' + sharing_buttons(result)


def _download(name: str, kind: str, content: bytes) -> str:
    return (
        f'<a class="vh-button" download="{name}" '
        f'href="data:{kind};base64,{base64.b64encode(content).decode()}">'
        f"{name} ({len(content) / 1024:.0f} KB)</a>"
    )

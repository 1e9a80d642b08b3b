"""Everything that depends on how Gradio works inside; tests/demo/test_compat.py watches each."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import gradio as gr

# Routes under which Gradio downloads a web address for a client: /file=https://..., /proxy=...
DOWNLOAD_ROUTE = re.compile(r"/(?:file=|proxy=|file/)\w+:", re.IGNORECASE)


def set_environment(uploads: Path) -> None:
    """Point Gradio at a folder for uploads and switch its analytics off.

    Gradio reads both from the environment when its components are created; there is no argument
    for either, so this has to run before the page is built.
    """
    os.environ["GRADIO_TEMP_DIR"] = str(uploads)
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"


def event_values(event: gr.EventData, names: Iterable[str]) -> dict[str, Any]:
    """Return what the browser sent with an event: the named values, without those it left out."""
    try:
        return {name: getattr(event, name) for name in names if hasattr(event, name)}
    except TypeError:  # the browser sent something other than an object
        return {}


def upload_path(upload: Any) -> Any:
    """Return the path that a client gives for its upload, unchecked; None without one.

    What is neither is returned as it is, to be refused by name.
    """
    return upload.get("path") if isinstance(upload, dict) else upload


def query_value(request: gr.Request | None, name: str) -> str | None:
    """Return a value of the query of the address that the page was opened with."""
    found = None if request is None else request.query_params.get(name)
    return found if isinstance(found, str) else None


def visitor_id(request: gr.Request | None) -> str:
    """Return the browser session or API client that a request belongs to."""
    return "" if request is None else str(request.session_hash)

"""The server: Gradio's, on this machine alone unless told otherwise, with nothing to phone home."""

from __future__ import annotations

import os
import socket
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vlmheads.errors import VlmHeadsError
from vlmheads_demo.state import Shelf

HOST = "127.0.0.1"
PORT = 7860
WAITING = 32


@dataclass(frozen=True, eq=False)
class Server:
    """A page that is being served.

    Args:
        address: where, such as "http://127.0.0.1:7860/".
        shared: the public address, where it was asked for.
        page: Gradio's blocks.
        folder: temporary files of uploads.
    """

    address: str
    shared: str | None
    page: Any
    folder: tempfile.TemporaryDirectory[str]

    def close(self) -> None:
        """Stop serving and remove the uploads."""
        self.page.close()
        self.folder.cleanup()


def require_free(host: str, port: int) -> None:
    """Refuse an address that cannot be listened on, before a model is loaded; 0 is any port.

    Raises:
        VlmHeadsError: another program listens there, or it is no address of this machine.
    """
    try:
        with socket.create_server((host, port)):
            pass
    except OSError as error:
        raise VlmHeadsError(
            f"{host}:{port} cannot be listened on ({error.strerror or error})",
            "a free port of this machine",
            "stop what runs there, or pass --port 0",
        ) from error


def serve(
    shelf: Shelf, *, host: str = HOST, port: int | None = PORT, share: bool = False
) -> Server:
    """Serve the page in threads of this process, and return once it answers.

    Args:
        shelf: the models.
        host: the address to listen on.
        port: where; None for a free one.
        share: whether to open a public address through Gradio's relay.
    """
    folder = tempfile.TemporaryDirectory(prefix="vlmheads-demo-")
    # Gradio reads both when its parts are made, and has no arguments for them.
    os.environ["GRADIO_TEMP_DIR"] = folder.name
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    from starlette.middleware import Middleware

    from vlmheads_demo.desk import Desk
    from vlmheads_demo.middleware import Gate
    from vlmheads_demo.uploads import MOST_BYTES
    from vlmheads_demo.views.page import build
    from vlmheads_demo.views.theme import style, theme

    page = build(Desk(shelf, Path(folder.name)))
    page.queue(max_size=WAITING, default_concurrency_limit=4)
    _, address, shared = page.launch(
        server_name=host,
        server_port=port,
        share=share,
        prevent_thread_lock=True,
        quiet=True,
        show_error=False,
        inbrowser=False,
        theme=theme(),
        css=style(),
        max_file_size=MOST_BYTES,
        state_session_capacity=200,
        ssr_mode=False,
        enable_monitoring=False,
        mcp_server=False,
        run_history=False,
        footer_links=["api"],
        app_kwargs={"middleware": [Middleware(Gate, folder=folder.name)]},
    )
    return Server(address, shared, page, folder)

"""The server: Gradio's, reachable from this machine only by default, with no telemetry."""

from __future__ import annotations

import socket
import tempfile
from dataclasses import dataclass
from pathlib import Path

import gradio as gr
from starlette.middleware import Middleware

from vlmheads.errors import VlmHeadsError
from vlmheads_demo.compat import set_environment
from vlmheads_demo.middleware import SecurityMiddleware
from vlmheads_demo.services.images import MAX_BYTES
from vlmheads_demo.state import AppState, ModelRegistry
from vlmheads_demo.views.page import build_page
from vlmheads_demo.views.theme import style, theme

HOST = "127.0.0.1"
PORT = 7860
MAX_QUEUE = 32


@dataclass(frozen=True, eq=False)
class Server:
    """A running server.

    Args:
        address: its address, such as "http://127.0.0.1:7860/".
        public_address: the public address, if one was requested.
        page: the Gradio page.
        folder: the temporary folder of uploads.
    """

    address: str
    public_address: str | None
    page: gr.Blocks
    folder: tempfile.TemporaryDirectory[str]

    def close(self) -> None:
        """Stop serving and remove the uploads."""
        self.page.close()
        self.folder.cleanup()


def require_free(host: str, port: int) -> None:
    """Refuse an address that cannot be used, before a model is loaded; port 0 is any free one.

    Raises:
        VlmHeadsError: another program uses the port, or the address is not one of this machine.
    """
    try:
        with socket.create_server((host, port)):
            pass
    except OSError as error:
        raise VlmHeadsError(
            f"cannot listen on {host}:{port} ({error.strerror or error})",
            "a free port of this machine",
            "stop the program that uses it, or pass --port 0",
        ) from error


def serve(
    models: ModelRegistry, *, host: str = HOST, port: int | None = PORT, share: bool = False
) -> Server:
    """Serve the page from threads of this process, and return once it answers.

    Args:
        models: the models.
        host: the address to listen on.
        port: the port; None for a free one.
        share: whether to open a public address through Gradio's relay.
    """
    folder = tempfile.TemporaryDirectory(prefix="vlmheads-demo-")
    set_environment(Path(folder.name))
    page = build_page(AppState(models, Path(folder.name)))
    page.queue(max_size=MAX_QUEUE, default_concurrency_limit=4)
    _, address, public = page.launch(
        server_name=host,
        server_port=port,
        share=share,
        prevent_thread_lock=True,
        quiet=True,
        show_error=False,
        inbrowser=False,
        theme=theme(),
        css=style(),
        max_file_size=MAX_BYTES,
        state_session_capacity=200,
        ssr_mode=False,
        enable_monitoring=False,
        mcp_server=False,
        run_history=False,
        footer_links=["api"],
        app_kwargs={"middleware": [Middleware(SecurityMiddleware, folder=folder.name)]},
    )
    return Server(address, public, page, folder)

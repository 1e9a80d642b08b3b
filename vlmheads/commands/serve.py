"""`vlmheads serve`: an OpenAI-compatible server for a model with plugins attached."""

from __future__ import annotations

import os
import signal
import socket
import sys
import threading
from contextlib import closing
from typing import Any

import click

from vlmheads.commands.show import model_options
from vlmheads.errors import VlmHeadsError, install_hint
from vlmheads.printable import printable

KEY_VARIABLE = "VLMHEADS_SERVE_KEY"
LOOPBACK = ("127.0.0.1", "localhost", "::1")


@click.command()
@model_options
@click.option(
    "--plugin",
    "plugins",
    multiple=True,
    help="As for `vlmheads caption`: a plugin with options, may be repeated; none for the plain "
    "model. [default: auto]",
)
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option(
    "--port",
    default=8000,
    show_default=True,
    type=click.IntRange(0, 65535),
    help="0 picks a free one.",
)
@click.option("--name", help="What clients call the model. [default: as in --model]")
@click.option(
    "--max-new-tokens",
    default=4096,
    show_default=True,
    type=click.IntRange(min=1),
    help="The most that a request may ask for.",
)
def serve(
    model: str,
    dtype: str,
    device: str | None,
    plugins: tuple[str, ...],
    host: str,
    port: int,
    name: str | None,
    max_new_tokens: int,
) -> None:
    """Serve a model with plugins, as OpenAI-compatible servers do.

    One request is answered after the other. What can be baked into a checkpoint is served faster by
    other servers: `vlmheads bake`, docs/serving.md. Clients have to send the key that is in the
    environment variable VLMHEADS_SERVE_KEY, where it is set.
    """
    from vlmheads.commands import show
    from vlmheads.recommended import AUTO

    try:
        import uvicorn

        from vlmheads.serving.app import Service, build_app
    except ImportError as error:
        raise VlmHeadsError(
            f"{error.name} is not installed", todo=f"install it with {install_hint('serve')}"
        ) from error
    from vlmheads.caption import Captioner
    from vlmheads.serving.engine import Engine

    with closing(_listen(host, port)) as listening:
        show.quiet_loading(model)
        acting = () if plugins == ("none",) else plugins or AUTO
        captioner = Captioner.from_pretrained(model, acting, dtype=dtype, device=device)
        stopping = threading.Event()
        service = Service(
            Engine(captioner, stopping),
            name or model,
            max_new_tokens,
            os.environ.get(KEY_VARIABLE) or None,
        )
        local = host in LOOPBACK
        if not local and service.key is None:
            click.echo(
                f"note: whoever reaches {host} can use it; {KEY_VARIABLE} sets a key", err=True
            )
        config = uvicorn.Config(
            build_app(service, local=local),
            log_level="warning",
            lifespan="off",
            timeout_graceful_shutdown=5,
        )
        _run(uvicorn.Server(config), listening, service.name, stopping)
        service.thread.shutdown(wait=False, cancel_futures=True)


def _run(server: Any, listening: socket.socket, name: str, stopping: threading.Event) -> None:
    """Serve until Ctrl-C or a signal to end."""
    host, port = listening.getsockname()[:2]
    shown = f"[{host}]" if ":" in host else host
    click.echo(f"{name} is served at http://{shown}:{port}/v1 (stop it with Ctrl-C)")
    sys.stdout.flush()
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        server.run(sockets=[listening])
    except KeyboardInterrupt:
        click.echo("stopped")
    finally:
        stopping.set()


def _listen(host: str, port: int) -> socket.socket:
    """Take the port before the model is loaded.

    Raises:
        VlmHeadsError: it is in use, or no address of this machine.
    """
    listening = None
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        listening = socket.socket(family, socket.SOCK_STREAM)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind((host, port))
    except (OSError, ValueError) as error:  # ValueError: a name that is none, in any encoding
        if listening is not None:
            listening.close()
        reason = getattr(error, "strerror", None) or type(error).__name__
        raise VlmHeadsError(
            f"{printable(host)[:100]}:{port} cannot be listened on ({reason})",
            "an address of this machine, and a free port",
            "choose another --port",
        ) from error
    return listening

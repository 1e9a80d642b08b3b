"""What protects the server from its clients: headers, limits, and no path of the machine sent out.

Upload paths are translated both ways, and errors are cut down to a message.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from vlmheads.errors import VlmHeadsError
from vlmheads_demo.compat import DOWNLOAD_ROUTE
from vlmheads_demo.services.images import MAX_BYTES

LOG = logging.getLogger("vlmheads.demo")
UNEXPECTED = "Something went wrong on the server, and its log has the details. Please try again."

# The path that clients see in place of the folder of uploads.
UPLOADS = "/vlmheads-uploads"
# Bytes of a whole request, an upload and its multipart envelope; nothing larger is buffered.
MAX_BODY = MAX_BYTES + 1024 * 1024
HEADERS = {
    b"content-security-policy": (
        # Gradio compiles its templates to functions and sets inline styles.
        b"default-src 'self' data: blob:; script-src 'self' 'unsafe-inline' 'unsafe-eval'; "
        b"style-src 'self' 'unsafe-inline'; object-src 'none'; base-uri 'self'; "
        b"frame-ancestors 'self'; form-action 'self'"
    ),
    b"x-content-type-options": b"nosniff",
    b"referrer-policy": b"same-origin",
}
_TEXT = (b"application/json", b"text/event-stream", b"text/html", b"text/plain")

# An absolute path of two parts or more, Unix or Windows; a web address is not one.
_PATH = re.compile(
    r"(?<![\w:/.])(?:[A-Za-z]:[\\/]|~?/)(?:[^\s/\\:'\"(),;]+[\\/])+([^\s/\\:'\"(),;]*)"
)

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[MutableMapping[str, Any], Receive, Send], Awaitable[None]]


def without_paths(text: str) -> str:
    """Return a text with every absolute path cut to its last part."""
    return _PATH.sub(lambda found: found.group(1) or "a folder", text)


def error_message(error: Exception) -> str:
    """Return what a visitor reads about an error: one clear sentence, and no path.

    A refusal is shown in its own words. Anything else is a fault of ours: it goes to the log with
    its traceback, and the visitor reads no more than that.
    """
    if isinstance(error, VlmHeadsError):
        return without_paths(" ".join(str(error).split()))
    LOG.error("unexpected error", exc_info=error)
    return UNEXPECTED


class SecurityMiddleware:
    """ASGI middleware around the whole server.

    Gradio identifies uploads by their paths, in what it sends and in what it receives. Both are
    translated here, so that a client never sees where they are on the machine. Gradio would also
    download web addresses for a client; that is refused.

    Args:
        app: the server.
        folder: the folder of uploads.
    """

    def __init__(self, app: App, folder: str) -> None:
        self.app, self.folder = app, folder
        self.inside, self.outside = folder.encode(), UPLOADS.encode()

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        path: str = scope["path"]
        if DOWNLOAD_ROUTE.search(path):
            await _refuse(send, 403, b"not allowed")
            return
        scope = {
            **scope,
            "path": path.replace(UPLOADS, self.folder),
            "raw_path": scope.get("raw_path", b"").replace(self.outside, self.inside),
        }
        body = await _read_body(receive)
        if body is None:
            await _refuse(send, 413, b"too large")
            return
        body = body.replace(self.outside, self.inside)
        await self.app(scope, _replayed(body, receive), self._translate(send))

    def _translate(self, send: Send) -> Send:
        """Return a `send` that translates text; every message of a stream is one whole event."""
        start: Message = {}
        body = bytearray()
        kind = b""

        async def translated(message: Message) -> None:
            nonlocal start, kind
            if message["type"] == "http.response.start":
                headers = dict(message["headers"])
                kind = headers.get(b"content-type", b"")
                start = {**message, "headers": [*message["headers"], *HEADERS.items()]}
                if not kind.startswith(_TEXT) or kind.startswith(b"text/event-stream"):
                    await send(start)
                return
            content = message.get("body", b"")
            if kind.startswith(b"text/event-stream"):
                await send({**message, "body": content.replace(self.inside, self.outside)})
            elif kind.startswith(_TEXT):
                body.extend(content)
                if not message.get("more_body"):
                    await self._send_text(send, start, bytes(body))
            else:
                await send(message)

        return translated

    async def _send_text(self, send: Send, start: Message, body: bytes) -> None:
        """Send a text in one piece, with its new length."""
        body = body.replace(self.inside, self.outside)
        headers = [
            (name, str(len(body)).encode() if name == b"content-length" else value)
            for name, value in start["headers"]
        ]
        await send({**start, "headers": headers})
        await send({"type": "http.response.body", "body": body, "more_body": False})


async def _read_body(receive: Receive) -> bytes | None:
    """Read the whole body, since a path may span two messages; None where it is too large."""
    body = bytearray()
    while (message := await receive())["type"] == "http.request":
        body += message.get("body", b"")
        if len(body) > MAX_BODY:
            return None
        if not message.get("more_body"):
            break
    return bytes(body)


def _replayed(body: bytes, receive: Receive) -> Receive:
    """Return a `receive` that gives the body that was read, then whatever follows."""
    waiting: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def replayed() -> Message:
        return waiting.pop() if waiting else await receive()

    return replayed


async def _refuse(send: Send, status: int, reason: bytes) -> None:
    headers = [(b"content-type", b"text/plain"), *HEADERS.items()]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": reason})

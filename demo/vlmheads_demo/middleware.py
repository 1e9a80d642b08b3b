"""What stands between the page and the world: headers, no paths out, no errands to elsewhere."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from vlmheads_demo.uploads import MOST_BYTES

# Under this name a client knows the folder of uploads, wherever it lies.
UPLOADS = "/vlmheads-uploads"
# A whole request, an upload with what wraps it; nothing larger is held in memory.
MOST_BODY = MOST_BYTES + 1024 * 1024
HEADERS = {
    b"content-security-policy": (
        # Gradio makes functions of its templates, and styles in place.
        b"default-src 'self' data: blob:; script-src 'self' 'unsafe-inline' 'unsafe-eval'; "
        b"style-src 'self' 'unsafe-inline'; object-src 'none'; base-uri 'self'; "
        b"frame-ancestors 'self'; form-action 'self'"
    ),
    b"x-content-type-options": b"nosniff",
    b"referrer-policy": b"same-origin",
}
_TEXT = (b"application/json", b"text/event-stream", b"text/html", b"text/plain")
_ELSEWHERE = re.compile(r"/(?:file=|proxy=|file/)\w+:", re.IGNORECASE)

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[MutableMapping[str, Any], Receive, Send], Awaitable[None]]


class Gate:
    """A layer around the server (ASGI).

    Gradio names uploads by their paths, in what it sends and in what it is sent. Both are
    translated here, so that a client never sees where on the machine they lie. Gradio would also
    fetch web addresses for a client; that is refused.

    Args:
        app: the server.
        folder: of the uploads.
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
        if _ELSEWHERE.search(path):
            await _refuse(send, 403, b"not allowed")
            return
        scope = {
            **scope,
            "path": path.replace(UPLOADS, self.folder),
            "raw_path": scope.get("raw_path", b"").replace(self.outside, self.inside),
        }
        body = await _whole_body(receive)
        if body is None:
            await _refuse(send, 413, b"too large")
            return
        body = body.replace(self.outside, self.inside)
        await self.app(scope, _replayed(body, receive), self._outward(send))

    def _outward(self, send: Send) -> Send:
        """Translate text that is sent; events of a stream are sent whole, one a message."""
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
                    await self._whole(send, start, bytes(body))
            else:
                await send(message)

        return translated

    async def _whole(self, send: Send, start: Message, body: bytes) -> None:
        """Send a text as a whole, with its new length."""
        body = body.replace(self.inside, self.outside)
        headers = [
            (name, str(len(body)).encode() if name == b"content-length" else value)
            for name, value in start["headers"]
        ]
        await send({**start, "headers": headers})
        await send({"type": "http.response.body", "body": body, "more_body": False})


async def _whole_body(receive: Receive) -> bytes | None:
    """Read what a client sends, as a name might be cut in two; None where it is too much."""
    body = bytearray()
    while (message := await receive())["type"] == "http.request":
        body += message.get("body", b"")
        if len(body) > MOST_BODY:
            return None
        if not message.get("more_body"):
            break
    return bytes(body)


def _replayed(body: bytes, receive: Receive) -> Receive:
    """Give the body that was read, then what else the server waits for."""
    waiting: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def replayed() -> Message:
        return waiting.pop() if waiting else await receive()

    return replayed


async def _refuse(send: Send, status: int, reason: bytes) -> None:
    headers = [(b"content-type", b"text/plain"), *HEADERS.items()]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": reason})

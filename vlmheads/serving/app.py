"""The server: OpenAI's routes for chat and models around an engine."""

from __future__ import annotations

import asyncio
import hmac
import json
import logging
import threading
import time
import uuid
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route
from transformers import AsyncTextIteratorStreamer

from vlmheads.errors import VlmHeadsError
from vlmheads.images import quiet_reading
from vlmheads.schema import decode
from vlmheads.serving.engine import Engine, Reply
from vlmheads.serving.requests import MAX_BYTES, ChatRequest, RequestError, read_request

LOG = logging.getLogger("vlmheads.serve")
# Bytes of a whole request: an image at its largest in base64, and the text around it.
MAX_BODY = MAX_BYTES * 4 // 3 + 1024 * 1024
WAITING = 64  # requests in the queue, beyond which clients are asked to come again
LOCAL_HOSTS = ["127.0.0.1", "localhost", "[::1]"]
UNEXPECTED = "something went wrong on the server; its log has the details"


@dataclass
class Service:
    """What requests share.

    Args:
        engine: answers them.
        name: of the model, as clients call it.
        limit: new tokens at most.
        key: what clients have to send; None for nothing.
        waiting: requests in the queue and under way.
    """

    engine: Engine
    name: str
    limit: int
    key: str | None = None
    waiting: int = 0
    created: int = field(default_factory=lambda: int(time.time()))
    # One thread, which is the queue: models are not asked by two threads at once.
    thread: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(1, "generation"))

    async def chat(self, request: Request) -> Response:
        """Answer `POST /v1/chat/completions`."""
        self._check_key(request)
        body = await _json_body(request)
        chat = await asyncio.to_thread(self._read, body)
        if self.waiting >= WAITING:
            raise RequestError("too many requests are waiting", None, 429, "queue_full")
        self.waiting += 1
        if chat.stream:
            return StreamingResponse(self._stream(chat), media_type="text/event-stream")
        try:
            reply = await self._run(lambda: self.engine.answer(chat))
        finally:
            self.waiting -= 1
        message = {"role": "assistant", "content": reply.text, "refusal": None}
        logprobs = None if reply.logprobs is None else {"content": reply.logprobs, "refusal": None}
        choice = {"index": 0, "message": message, "logprobs": logprobs}
        choice["finish_reason"] = _reason(reply)
        return JSONResponse(
            self._head("chat.completion") | {"choices": [choice], "usage": _usage(reply)}
        )

    async def models(self, request: Request) -> Response:
        """Answer `GET /v1/models`."""
        self._check_key(request)
        about = {"id": self.name, "object": "model", "created": self.created}
        return JSONResponse({"object": "list", "data": [about | {"owned_by": "vlmheads"}]})

    async def health(self, request: Request) -> Response:
        """Answer `GET /health`."""
        return JSONResponse({"status": "ok", "waiting": self.waiting})

    def _read(self, body: bytes) -> ChatRequest:
        """Read a request, in a thread of its own, since images take their time."""
        try:
            fields: dict[str, Any] = decode(body, dict[str, Any], "the body", "a JSON object")
        except VlmHeadsError as error:
            raise RequestError(" ".join(str(error).split())) from error
        with quiet_reading():
            return read_request(fields, self.name, self.limit)

    async def _run(self, work: Callable[[], Reply]) -> Reply:
        """Wait for the thread to do something, and turn what fails there into a response."""
        try:
            return await asyncio.get_running_loop().run_in_executor(self.thread, work)
        except VlmHeadsError as error:
            raise RequestError(" ".join(str(error).split())) from error
        except Exception as error:
            LOG.error("a generation failed", exc_info=error)
            memory = isinstance(error, MemoryError) or "out of memory" in str(error).lower()
            message = "the server's memory is too small for this request" if memory else UNEXPECTED
            raise RequestError(message, None, 500) from error

    async def _stream(self, chat: ChatRequest) -> AsyncIterator[str]:
        """Yield the events of an answer as it is made."""
        head = self._head("chat.completion.chunk")
        gone = threading.Event()
        streamer = AsyncTextIteratorStreamer(
            self.engine.captioner.processor.tokenizer, skip_prompt=True, skip_special_tokens=True
        )

        def work() -> Reply:
            try:
                return self.engine.answer(chat, streamer, gone)
            finally:
                streamer.end()

        def event(delta: dict[str, Any], reason: str | None = None, **more: Any) -> str:
            choice = {"index": 0, "delta": delta, "finish_reason": reason}
            return f"data: {json.dumps(head | {'choices': [choice]} | more)}\n\n"

        try:
            yield event({"role": "assistant", "content": ""})
            running = asyncio.ensure_future(self._run(work))
            said, sent = "", 0
            async for part in streamer:
                said += part
                text = _held_back(said.lstrip(), chat.stop)
                if len(text) > sent:
                    yield event({"content": text[sent:]})
                    sent = len(text)
            try:
                reply = await running
            except RequestError as error:
                yield f"data: {json.dumps(error.to_dict())}\n\n"
                return
            if len(reply.text) > sent:
                yield event({"content": reply.text[sent:]})
            yield event({}, _reason(reply))
            if chat.usage:
                yield f"data: {json.dumps(head | {'choices': [], 'usage': _usage(reply)})}\n\n"
            yield "data: [DONE]\n\n"
        finally:
            gone.set()  # ends a generation that nobody reads any more
            self.waiting -= 1

    def _head(self, kind: str) -> dict[str, Any]:
        about = {"id": f"chatcmpl-{uuid.uuid4().hex}", "object": kind, "created": int(time.time())}
        return about | {"model": self.name}

    def _check_key(self, request: Request) -> None:
        if self.key is None:
            return
        given = request.headers.get("authorization", "").removeprefix("Bearer ")
        if not hmac.compare_digest(given.encode(), self.key.encode()):
            raise RequestError("a wrong key, or none", None, 401, "invalid_api_key")


def build_app(service: Service, *, local: bool) -> Starlette:
    """Return the server's ASGI application.

    Args:
        service: answers requests.
        local: whether only names of this machine are accepted as the server's, which keeps pages of
            other sites in a browser from asking it under theirs.
    """
    hosts = [Middleware(TrustedHostMiddleware, allowed_hosts=LOCAL_HOSTS)] if local else []
    return Starlette(
        routes=[
            Route("/v1/chat/completions", service.chat, methods=["POST"]),
            Route("/v1/models", service.models),
            Route("/health", service.health),
        ],
        middleware=hosts,
        exception_handlers={RequestError: _refuse},
    )


async def _json_body(request: Request) -> bytes:
    """Return the body of a request, as far as it may reach."""
    if request.headers.get("content-type", "").partition(";")[0].strip() != "application/json":
        raise RequestError("the content type is not application/json", None, 415)
    body = bytearray()
    async for piece in request.stream():
        body += piece
        if len(body) > MAX_BODY:
            raise RequestError(f"the request is larger than {MAX_BODY // 2**20} MB", None, 413)
    return bytes(body)


async def _refuse(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestError)
    headers = {"retry-after": "1"} if error.status == 429 else {}
    return JSONResponse(error.to_dict(), error.status, headers)


def _reason(reply: Reply) -> str:
    return "length" if reply.at_limit else "stop"


def _usage(reply: Reply) -> dict[str, int]:
    return {
        "prompt_tokens": reply.prompt_tokens,
        "completion_tokens": reply.tokens,
        "total_tokens": reply.prompt_tokens + reply.tokens,
    }


def _held_back(text: str, stops: tuple[str, ...]) -> str:
    """Return what can be sent of a text: up to a stop text, or what may become one or end it."""
    for stop in stops:
        place = text.find(stop)
        if place >= 0:
            text = text[:place]
    most = max(
        (n for stop in stops for n in range(1, len(stop)) if text.endswith(stop[:n])), default=0
    )
    return text[: len(text) - most].rstrip()

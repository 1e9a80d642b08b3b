"""An OpenAI-compatible server without a model, which misbehaves as it is told."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

MODEL = "fake"
SOON = {"retry-after-ms": "1"}


@dataclass
class Reply:
    """What is sent back: bytes, or JSON; `length` claims more or less than there is."""

    content: Any = None
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    kind: str = "application/json"
    length: int | None = None
    drop: bool = False
    wait: threading.Event | None = None


def completion(text: Any = "A dog.", **about: Any) -> dict[str, Any]:
    """The body of an answer; `about` replaces parts of it."""
    message = {"role": "assistant", "content": text, "refusal": about.pop("refusal", None)}
    choice = {"index": 0, "message": message, "finish_reason": about.pop("reason", "stop")}
    choice["logprobs"] = about.pop("logprobs", None)
    usage = {"prompt_tokens": about.pop("prompt", 70), "completion_tokens": 3, "total_tokens": 73}
    return {
        "id": "x",
        "object": "chat.completion",
        "created": 0,
        "model": MODEL,
        "choices": [choice],
        "usage": usage,
        **about,
    }


def logprobs(yes: float, no: float) -> dict[str, Any]:
    """Log-probabilities of a first token that is Yes or No."""
    import math

    listed = [{"token": "Yes", "logprob": math.log(yes), "bytes": None}]
    listed.append({"token": "No", "logprob": math.log(no), "bytes": None})
    return {"content": [{**listed[0], "top_logprobs": listed}]}


@dataclass
class Fake:
    """A running server: where it is, and what it was asked."""

    url: str = ""
    asked: list[dict[str, Any]] = field(default_factory=list)
    keys: list[str | None] = field(default_factory=list)
    most: int = 0  # requests under way at the same time


Answer = Callable[[dict[str, Any], int], Reply | dict[str, Any]]


@contextmanager
def fake_server(answer: Answer, *, models: Reply | None = None) -> Iterator[Fake]:
    """Serve on a free port; `answer` gets the body and number of each request after the probe.

    The probe asks for one token about no image or a gradient, and is answered well unless `answer`
    has an attribute `probed`.
    """
    fake, lock = Fake(), threading.Lock()
    under_way = 0

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *args: Any) -> None:
            pass

        def do_GET(self) -> None:
            listed = {"object": "list", "data": [{"id": MODEL, "object": "model", "created": 0}]}
            self.send(models or Reply(listed))

        def do_POST(self) -> None:
            nonlocal under_way
            body = json.loads(self.rfile.read(int(self.headers["content-length"])))
            with lock:
                fake.keys.append(self.headers.get("authorization"))
                limit = body.get("max_tokens") or body.get("max_completion_tokens")
                probing = limit == 1 and "Describe" in json.dumps(body)
                probing = probing and "prompt_logprobs" not in body
                if not probing:
                    fake.asked.append(body)
                number = len(fake.asked)
                under_way += 1
                fake.most = max(fake.most, under_way)
            probed = getattr(answer, "probed", None)
            if probing:
                shown = "image_url" in json.dumps(body)
                plain = completion(prompt=70 if shown else 10, logprobs=logprobs(0.6, 0.3))
                found = probed(body, shown) if probed else plain
            else:
                found = answer(body, number)
            try:
                self.send(found if isinstance(found, Reply) else Reply(found))
            finally:
                with lock:
                    under_way -= 1

        def send(self, reply: Reply) -> None:
            if reply.wait is not None:
                reply.wait.wait(10)
            if reply.drop:
                self.close_connection = True
                self.connection.close()
                return
            content = reply.content
            if not isinstance(content, bytes):
                content = json.dumps(content).encode()
            self.send_response(reply.status)
            self.send_header("content-type", reply.kind)
            self.send_header("content-length", str(reply.length or len(content)))
            for name, value in reply.headers.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(content)
            if reply.length:
                self.close_connection = True

        def handle(self) -> None:
            with suppress(OSError):  # the client hung up, or the reply was to drop it
                super().handle()

        def finish(self) -> None:
            with suppress(OSError, ValueError):
                super().finish()

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    fake.url = f"http://127.0.0.1:{server.server_address[1]}/v1"
    try:
        yield fake
    finally:
        server.shutdown()
        server.server_close()
        thread.join()

from __future__ import annotations

import asyncio
import json

import pytest
from vlmheads_demo.middleware import (
    MAX_BODY,
    UNEXPECTED,
    UPLOADS,
    SecurityMiddleware,
    error_message,
    without_paths,
)

INSIDE = "/var/vlmheads-demo-x1y2"


def send_request(path: str, body: bytes, *, kind: str, answer: list[bytes]):
    """Send a request through the middleware; return what the server and what the client got."""
    seen: dict[str, object] = {}
    sent: list[dict[str, object]] = []
    halves = [body[: len(body) // 2], body[len(body) // 2 :]]

    async def app(scope, receive, send):
        seen["path"] = scope["path"]
        seen["body"] = (await receive())["body"]
        length = str(sum(map(len, answer))).encode()
        headers = [(b"content-type", kind.encode()), (b"content-length", length)]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        for number, part in enumerate(answer, 1):
            more = number < len(answer)
            await send({"type": "http.response.body", "body": part, "more_body": more})

    async def receive():
        return {"type": "http.request", "body": halves.pop(0), "more_body": bool(halves)}

    async def send(message):
        sent.append(message)

    scope = {"type": "http", "path": path, "raw_path": path.encode(), "headers": []}
    asyncio.run(SecurityMiddleware(app, INSIDE)(scope, receive, send))
    return seen, sent


def test_upload_paths_are_translated_both_ways():
    outer = f'{{"path": "{UPLOADS}/ab/x.png"}}'.encode()
    inner = f'["{INSIDE}/ab/x.png"]'.encode()
    seen, sent = send_request(
        f"/gradio_api/file={UPLOADS}/ab/x.png",
        outer,
        kind="application/json",
        answer=[inner[:9], inner[9:]],
    )
    assert f"/gradio_api/file={INSIDE}/ab/x.png" == seen["path"]
    assert {"path": f"{INSIDE}/ab/x.png"} == json.loads(seen["body"])
    body = b"".join(message.get("body", b"") for message in sent)
    assert f'["{UPLOADS}/ab/x.png"]'.encode() == body
    assert str(len(body)).encode() == dict(sent[0]["headers"])[b"content-length"]


def test_events_of_a_stream_are_translated_as_they_come():
    _, sent = send_request(
        "/queue/data",
        b"",
        kind="text/event-stream; charset=utf-8",
        answer=[f"data: {INSIDE}/a\n\n".encode(), b"data: b\n\n"],
    )
    assert [b"", f"data: {UPLOADS}/a\n\n".encode(), b"data: b\n\n"] == [
        message.get("body", b"") for message in sent
    ]


def test_pictures_pass_unchanged_and_every_response_has_the_headers():
    _, sent = send_request("/x.png", b"", kind="image/png", answer=[INSIDE.encode()])
    headers = dict(sent[0]["headers"])
    assert INSIDE.encode() == sent[1]["body"]
    assert headers[b"x-content-type-options"] == b"nosniff"
    assert b"default-src 'self'" in headers[b"content-security-policy"]


@pytest.mark.parametrize("path", ["/gradio_api/file=http://x/y", "/gradio_api/file=FILE:///etc"])
def test_web_addresses_are_not_fetched_for_a_client(path):
    seen, sent = send_request(path, b"", kind="text/plain", answer=[b"x"])
    assert not seen
    assert sent[0]["status"] == 403


@pytest.mark.parametrize(("extra", "status"), [(0, 200), (1, 413)])
def test_a_request_over_the_size_limit_never_reaches_the_server(extra, status):
    body = bytes(MAX_BODY + extra)
    seen, sent = send_request("/upload", body, kind="text/plain", answer=[b"x"])
    assert sent[0]["status"] == status
    assert bool(seen) == (status == 200)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("/home/ann/models/llava/config.json is broken", "config.json is broken"),
        ("no model '/srv/x'; expected one", "no model 'x'; expected one"),
        (r"C:\Users\ann\x.png cannot be read", "x.png cannot be read"),
        ("~/secret/x.png", "x.png"),
        ("see https://example.org/a/b", "see https://example.org/a/b"),
        ("llava-hf/llava-1.5-7b-hf and/or 3/4", "llava-hf/llava-1.5-7b-hf and/or 3/4"),
    ],
)
def test_messages_contain_no_path_of_the_machine(text, expected):
    assert expected == without_paths(text)


def test_an_unexpected_error_is_logged_and_not_shown(caplog):
    assert error_message(RuntimeError("secret of /srv/x")) == UNEXPECTED
    assert "secret" in caplog.text

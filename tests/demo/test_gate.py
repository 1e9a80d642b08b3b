from __future__ import annotations

import asyncio
import json
import socket
from pathlib import Path

import pytest
from click.testing import CliRunner
from PIL import Image
from vlmheads_demo.desk import Desk
from vlmheads_demo.messages import UNEXPECTED, told, without_paths
from vlmheads_demo.middleware import MOST_BODY, UPLOADS, Gate
from vlmheads_demo.services.generation import Decoding
from vlmheads_demo.state import Shelf
from vlmheads_demo.stopping import Runs
from vlmheads_demo.uploads import MOST_BYTES, read_upload
from vlmheads_demo.views.describe import Handlers

from vlmheads import VlmHeadsError
from vlmheads.cli import main

INSIDE = "/var/vlmheads-demo-x1y2"


def through_the_gate(path: str, body: bytes, *, kind: str, answer: list[bytes]):
    """Send one request through the gate; return what the server saw and what the client got."""
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
    asyncio.run(Gate(app, INSIDE)(scope, receive, send))
    return seen, sent


def test_paths_of_uploads_are_translated_both_ways():
    told_of = f'{{"path": "{UPLOADS}/ab/x.png"}}'.encode()
    inner = f'["{INSIDE}/ab/x.png"]'.encode()
    seen, sent = through_the_gate(
        f"/gradio_api/file={UPLOADS}/ab/x.png",
        told_of,
        kind="application/json",
        answer=[inner[:9], inner[9:]],
    )
    assert f"/gradio_api/file={INSIDE}/ab/x.png" == seen["path"]
    assert {"path": f"{INSIDE}/ab/x.png"} == json.loads(seen["body"])
    body = b"".join(message.get("body", b"") for message in sent)
    assert f'["{UPLOADS}/ab/x.png"]'.encode() == body
    assert str(len(body)).encode() == dict(sent[0]["headers"])[b"content-length"]


def test_events_of_a_stream_are_translated_as_they_come():
    _, sent = through_the_gate(
        "/queue/data",
        b"",
        kind="text/event-stream; charset=utf-8",
        answer=[f"data: {INSIDE}/a\n\n".encode(), b"data: b\n\n"],
    )
    assert [b"", f"data: {UPLOADS}/a\n\n".encode(), b"data: b\n\n"] == [
        message.get("body", b"") for message in sent
    ]


def test_pictures_pass_untouched_and_everything_has_the_headers():
    _, sent = through_the_gate("/x.png", b"", kind="image/png", answer=[INSIDE.encode()])
    headers = dict(sent[0]["headers"])
    assert INSIDE.encode() == sent[1]["body"]
    assert headers[b"x-content-type-options"] == b"nosniff"
    assert b"default-src 'self'" in headers[b"content-security-policy"]


@pytest.mark.parametrize("path", ["/gradio_api/file=http://x/y", "/gradio_api/file=FILE:///etc"])
def test_the_server_runs_no_errands_to_other_addresses(path):
    seen, sent = through_the_gate(path, b"", kind="text/plain", answer=[b"x"])
    assert not seen
    assert sent[0]["status"] == 403


@pytest.mark.parametrize(("extra", "status"), [(0, 200), (1, 413)])
def test_a_request_larger_than_an_upload_may_be_never_reaches_the_server(extra, status):
    body = bytes(MOST_BODY + extra)
    seen, sent = through_the_gate("/upload", body, kind="text/plain", answer=[b"x"])
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
def test_messages_hold_no_path_of_the_machine(text, expected):
    assert expected == without_paths(text)


def test_what_was_not_expected_is_told_without_its_reason(caplog):
    assert told(RuntimeError("secret of /srv/x")) == UNEXPECTED
    assert "secret" in caplog.text


@pytest.fixture
def desk(shelf: Shelf, tmp_path: Path) -> Desk:
    uploads = tmp_path / "uploads"
    uploads.mkdir()
    Image.new("RGB", (60, 60), "red").save(tmp_path / "outside.png")
    Image.new("RGB", (60, 60), "red").save(uploads / "inside.png")
    (uploads / "link.png").symlink_to(tmp_path / "outside.png")
    return Desk(shelf, uploads)


@pytest.mark.parametrize(
    "path", ["../outside.png", "link.png", "nothing.png", ".", "x/../../outside.png"]
)
def test_nothing_outside_of_the_uploads_is_read(desk, path):
    with pytest.raises(VlmHeadsError, match="not uploaded here"):
        desk.uploaded(f"{desk.uploads}/{path}")
    with pytest.raises(VlmHeadsError, match="not uploaded here"):
        desk.uploaded(str(desk.uploads.parent / "outside.png"))
    assert desk.uploaded(str(desk.uploads / "inside.png")) is not None


def test_the_handler_tells_of_a_file_that_is_none(desk):
    bad = desk.uploads / "broken.png"
    bad.write_bytes(b"\x89PNG\r\n\x1a\n not a picture")
    image, scene, card = Handlers(desk).receive({"path": str(bad)})
    assert (image, scene) == (None, "")
    assert "broken.png" in card
    assert str(desk.uploads) not in card


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "I;16", "F"])
def test_pictures_of_every_mode_are_read(tmp_path, mode):
    suffix = ".tiff" if mode in ("CMYK", "F", "I;16") else ".png"
    path = tmp_path / f"x{suffix}"
    Image.new(mode, (30, 20)).save(path)
    assert (read_upload(path).mode, read_upload(path).size) == ("RGB", (30, 20))


@pytest.mark.parametrize("suffix", [".jpg", ".webp", ".gif", ".bmp", ".ppm", ".ico", ".jp2"])
def test_pictures_of_every_format_are_read(tmp_path, suffix):
    path = tmp_path / f"x{suffix}"
    Image.new("RGB", (32, 32), "green").save(path)
    assert read_upload(path).size == (32, 32)


def test_a_picture_with_too_many_pixels_is_refused_before_it_is_unpacked(tmp_path):
    path = tmp_path / "huge.png"
    Image.new("1", (10_000, 5_000)).save(path)
    with pytest.raises(VlmHeadsError, match=r"huge\.png has 10000 x 5000 pixels") as error:
        read_upload(path)
    assert str(tmp_path) not in str(error.value)


def test_a_file_that_is_too_large_is_refused(tmp_path):
    path = tmp_path / "large.bmp"
    path.write_bytes(b"BM" + bytes(MOST_BYTES))
    with pytest.raises(VlmHeadsError, match=r"large\.bmp has 20\.0 MB"):
        read_upload(path)


@pytest.mark.parametrize("content", [b"", b"no picture", b"\x89PNG\r\n\x1a\n", b"GIF89a"])
def test_a_file_that_is_no_picture_is_refused_by_its_name(tmp_path, content):
    path = tmp_path / "x.png"
    path.write_bytes(content)
    with pytest.raises(VlmHeadsError, match=r"^x\.png") as error:
        read_upload(path)
    assert str(tmp_path) not in str(error.value)


def test_models_are_loaded_for_visitors_only_where_the_owner_allows_it(tmp_path):
    for name in ("llava-hf/llava-1.5-7b-hf", str(tmp_path), "../x", "", "x" * 300):
        with pytest.raises(VlmHeadsError):
            Shelf(("embedded",)).get(name)
    with pytest.raises(VlmHeadsError, match="config.json"):
        Shelf(("embedded",), allow=True).get(str(tmp_path))


def test_a_folder_is_served_under_its_last_name_alone(tmp_path):
    folder = tmp_path / "my-model"
    folder.mkdir()
    shelf = Shelf((str(folder), "embedded"))
    assert shelf.names[:2] == ["my-model", "embedded"]
    assert not [name for name in shelf.names if "/" in name]
    with pytest.raises(VlmHeadsError, match="config.json"):
        shelf.get("my-model")


def test_a_packaged_model_that_is_still_to_be_fetched_is_not_offered(monkeypatch):
    packaged = ["embedded", "to-be-fetched"]
    monkeypatch.setattr("vlmheads_demo.state.packaged_models", lambda: packaged)
    assert Shelf(("embedded",)).names == ["embedded"]


def test_guests_models_make_room_for_each_other(shelf, monkeypatch):
    guests = Shelf(("embedded",), allow=True, room=1)
    loaded = shelf.get("embedded")
    monkeypatch.setattr(guests, "_load", lambda name: loaded)
    for name in ("embedded", "a", "b"):
        guests.get(name)
    assert {"embedded", "b"} <= set(guests.names)
    assert "a" not in guests.names


def test_a_port_that_is_taken_is_refused_in_one_line():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        said = CliRunner().invoke(main, ["demo", "--port", str(port)])
    assert said.exit_code == 2
    assert said.output.startswith(f"error: 127.0.0.1:{port} cannot be listened on")


def test_a_visitor_stops_nobody_else():
    runs = Runs()
    with runs.run("ann") as first, runs.run("bob") as second:
        assert runs.stop("ann") == 1
        assert first.is_set()
        assert not second.is_set()
    assert runs.stop("ann") == 0


@pytest.mark.parametrize(
    "given",
    [
        {"scene": "train:1"},
        {"scene": "test:-1"},
        {"scene": "../test:1"},
        {"prompt": " "},
        {"prompt": "x" * 2000},
        {"decoding": {"num_beams": 2}},
        {"tau": 0},
        {"tau": "high"},
        {"methods": "vhr"},
        {"methods": [[{"name": "vhr"}]] * 3},
        {"model": "other/model"},
    ],
)
def test_a_wish_that_cannot_be_granted_is_refused(desk, given):
    wish = {
        "image": None,
        "scene": "test:1",
        "model": "",
        "prompt": "Describe the image.",
        "methods": [],
        "decoding": {},
    }
    assert Decoding() == desk.wish(**wish).decoding
    with pytest.raises(VlmHeadsError):
        desk.wish(**wish | given)


def test_a_model_is_loaded_where_the_owner_allows_it(desk, shelf, tmp_path):
    guests = Desk(Shelf(("embedded",), allow=True, device="cpu"), desk.uploads)
    folder = str(shelf.get("embedded").captioner.model.name_or_path)
    here, study, note = Handlers(guests).load(folder, lambda share, desc: None)
    assert here["value"] == folder
    assert folder in study["choices"]
    assert "8 layers of 8 heads" in note
    *_, refused = Handlers(guests).load(str(tmp_path), lambda share, desc: None)
    assert "config.json" in refused
    assert str(tmp_path.parent) not in refused

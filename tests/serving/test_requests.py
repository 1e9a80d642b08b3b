"""What our server accepts of a request, and what it refuses by name."""

import base64
import io

import pytest
from PIL import Image

from vlmheads.serving.requests import IGNORED, RequestError, read_request


def png(size=(16, 16)) -> str:
    file = io.BytesIO()
    Image.new("RGB", size, "red").save(file, "PNG")
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()


def body(**about):
    content = [
        {"type": "image_url", "image_url": {"url": png()}},
        {"type": "text", "text": "What?"},
    ]
    return {"model": "m", "messages": [{"role": "user", "content": content}], **about}


def test_a_request_without_further_fields_is_greedy():
    found = read_request(body(), "m", 100)
    assert found.generate == {"max_new_tokens": 100, "do_sample": False}
    assert [part["type"] for part in found.messages[0]["content"]] == ["image", "text"]
    assert (found.stop, found.seed, found.stream, found.top) == ((), None, False, None)


def test_fields_become_arguments_of_generate():
    asked = body(max_tokens=7, temperature=0.5, top_p=0.9, repetition_penalty=1.2, seed=3, stop="x")
    found = read_request(asked, "m", 100)
    assert found.generate == {
        "max_new_tokens": 7,
        "do_sample": True,
        "temperature": 0.5,
        "top_p": 0.9,
        "top_k": 0,
        "repetition_penalty": 1.2,
    }
    assert (found.seed, found.stop) == (3, ("x",))


@pytest.mark.parametrize("name", sorted(IGNORED))
def test_what_is_about_the_client_alone_is_ignored(name):
    assert (
        read_request(body(**{name: "x"}), "m", 9).generate == read_request(body(), "m", 9).generate
    )


def test_null_counts_as_left_out():
    assert read_request(body(temperature=None, stop=None, foo=None), "m", 9).stop == ()


def message(*parts, role="user", **about):
    return {"messages": [{"role": role, "content": list(parts), **about}]}


def image(url):
    return {"type": "image_url", "image_url": {"url": url}}


TEXT = {"type": "text", "text": "What?"}
REFUSED = {
    "another model": ({"model": "x"}, "no model 'x'"),
    "no model": ({"model": 3}, "model is not"),
    "unknown": ({"foo": 1}, "unknown field 'foo'"),
    "several": ({"n": 2}, "n is not supported"),
    "true for one": ({"n": True}, "n is not supported"),
    "tools": ({"tools": [{"type": "function"}]}, "tools is not supported"),
    "json": ({"response_format": {"type": "json_object"}}, "response_format is not supported"),
    "penalty": ({"presence_penalty": 1}, "presence_penalty is not supported"),
    "no tokens": ({"max_tokens": 0}, "max_tokens is not a whole number from 1 to 100"),
    "many tokens": ({"max_tokens": 101}, "max_tokens is not"),
    "half a token": ({"max_tokens": 1.5}, "max_tokens is not"),
    "hot": ({"temperature": 3}, "temperature is not a number from 0 to 2"),
    "not a number": ({"temperature": float("nan")}, "temperature is not"),
    "text for a number": ({"temperature": "1"}, "temperature is not"),
    "top_p": ({"temperature": 1, "top_p": 0}, "top_p is not"),
    "stop": ({"stop": [""]}, "stop is not"),
    "stream": ({"stream": 1}, "stream is not true or false"),
    "stream options": ({"stream_options": {"x": 1}}, "stream_options is not"),
    "top alone": ({"top_logprobs": 3}, "top_logprobs without logprobs"),
    "many logprobs": ({"logprobs": True, "top_logprobs": 21}, "top_logprobs is not"),
    "logprobs in a stream": ({"logprobs": True, "stream": True}, "not supported in a stream"),
    "huge seed": ({"seed": 2**70}, "seed is not"),
    "no messages": ({"messages": []}, "messages is not a list"),
    "text for messages": ({"messages": "x"}, "messages is not a list"),
    "a role": (message(TEXT, role="tool"), "role is not one of"),
    "no content": ({"messages": [{"role": "user"}]}, "content is neither"),
    "a field of a message": (message(TEXT, tool_calls=[]), "unknown field 'tool_calls'"),
    "the assistant last": (message(TEXT, role="assistant"), "nothing to answer"),
    "a part": (message({"type": "input_audio"}), "neither a text nor an image_url"),
    "an address": (message(image("https://example.com/x.png")), "nothing is fetched"),
    "a file": (message(image("file:///etc/passwd")), "nothing is fetched"),
    "a path": (message(image("/etc/passwd")), "nothing is fetched"),
    "no url": (message({"type": "image_url"}), "nothing is fetched"),
    "not base64": (message(image("data:image/png;base64,###")), "is not base64"),
    "no image": (message(image("data:image/png;base64,AAAA")), "is not an image"),
    "thin": (message(image(png((2, 40)))), "at least 4 pixels"),
    "nine images": (message(*[image(png())] * 9), "more than 8 images"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_a_request_is_refused_with_the_field_that_is_wrong(name):
    about, said = REFUSED[name]
    with pytest.raises(RequestError) as caught:
        read_request(body() | about, "m", 100)
    assert said in caught.value.message
    assert caught.value.to_dict()["error"]["message"] == caught.value.message
    assert "\n" not in caught.value.message


def test_an_image_of_too_many_pixels_is_refused_before_it_is_decoded():
    import struct
    import zlib

    def chunk(kind, data):
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    header = struct.pack(">IIBBBBB", 9000, 9000, 8, 2, 0, 0, 0)
    bomb = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IEND", b"")
    url = "data:image/png;base64," + base64.b64encode(bomb).decode()
    with pytest.raises(RequestError, match="more than 40 million pixels") as caught:
        read_request(body() | message(image(url)), "m", 100)
    assert caught.value.status == 413

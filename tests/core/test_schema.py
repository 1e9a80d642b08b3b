"""What comes from outside is checked in one place, and refused in one line that says where."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import msgspec
import pytest

from vlmheads import VlmHeadsError
from vlmheads.schema import convert, decode, environment, read, read_text, yaml_text


class Item(msgspec.Struct, forbid_unknown_fields=True):
    name: str
    number: Annotated[int, msgspec.Meta(ge=1)] = 1
    key: int | str | None = None


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'{"name": 3}', "f.json: name is a whole number; expected text; an item"),
        (b'{"name": "a", "number": 0}', "f.json: number; expected a whole number >= 1; an item"),
        (b'{"name": "a", "number": true}', "number is true or false; expected a whole number"),
        (b'{"name": "a", "key": 1.5}', "key is a number; expected a whole number or text or null"),
        (b'{"name": "a", "x": 1}', "f.json: unknown key 'x'; expected an item"),
        (b"{}", "f.json: no key 'name'; expected an item"),
        (b"[]", "f.json is a list; expected an object; an item"),
        (b'{"name": "\\ud800"}', "f.json: not JSON"),
        (b'{"name": "a"}\n{', "f.json:2: not JSON"),
        (b'{"name":\n"\xff"}', "f.json:2: bytes that are not UTF-8"),
        (b'{"name": "a", "number": NaN}', "f.json: not JSON"),
        (b'{"name": "a", "number": 1e999}', "number out of range"),
        (b'{"name": "a", "number": ' + b"9" * 5000 + b"}", "value out of range"),
        (b'{"name": "a", "x": ' + b"[" * 100_000, "f.json: unknown key 'x'"),
    ],
)
def test_json_of_another_form_is_refused_where_it_differs(content: bytes, message: str) -> None:
    with pytest.raises(VlmHeadsError) as refused:
        decode(content, Item, "f.json", "an item")
    assert message in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("bomb", [b"[" * 10**6, b'{"a":' * 10**6], ids=["lists", "objects"])
def test_nesting_without_end_is_refused(bomb: bytes) -> None:
    with pytest.raises(VlmHeadsError, match="nested too deeply"):
        decode(bomb, dict if bomb.startswith(b"{") else list, "f.json")


def test_a_byte_order_mark_is_left_out(tmp_path: Path) -> None:
    path = tmp_path / "f.json"
    path.write_bytes(b'\xef\xbb\xbf{"name": "a"}')
    assert read(path, Item) == Item("a")
    assert read_text(path) == '{"name": "a"}'


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(VlmHeadsError, match=r"none cannot be read \(No such file"):
        read(tmp_path / "none", Item)


def test_yaml_keeps_what_is_written() -> None:
    assert yaml_text("name: no\nnumber: 3\nkey: 2024-01-01", Item, "f") == Item(
        "no", 3, "2024-01-01"
    )


def test_plain_values_are_held_to_the_same_forms() -> None:
    assert convert({"name": "a"}, Item, "f") == Item("a")
    with pytest.raises(VlmHeadsError, match="surrogates not allowed"):
        convert({"name": "\ud800"}, Item, "f")


@pytest.mark.parametrize("text", ["abc", "-1", "1.5", "", "9" * 400, "٣", "0"])
def test_a_variable_that_is_no_number_is_named(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", text)
    with pytest.raises(VlmHeadsError, match="WORLD_SIZE=.*expected a whole number from 1"):
        environment("WORLD_SIZE", 1, low=1)
    monkeypatch.setenv("WORLD_SIZE", " 4 ")
    assert environment("WORLD_SIZE", 1, low=1) == 4

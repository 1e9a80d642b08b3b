"""Text from outside is printed as it is, and steers nothing."""

from __future__ import annotations

import json

import pytest

from vlmheads.printable import in_short, json_text, one_line, plain, printable

HOSTILE = "a\x1b[31mb\x07c\x9bd\u202ee\udcfff\rg\x00h\u2028i"


def test_what_steers_a_terminal_is_written_out() -> None:
    assert printable("\x1b[2J\x07") == r"\x1b[2J\x07"
    assert printable("Zoë, 猫\n\t🐈") == "Zoë, 猫\n\t🐈"
    text = printable(HOSTILE)
    text.encode()
    assert not any(sign in text for sign in "\x1b\x07\x9b\u202e\r\x00\u2028")


def test_one_line_is_one_line() -> None:
    assert one_line(" a\n\n b\x1b ") == r"a b\x1b"


def test_a_message_in_short_has_no_colours_and_an_end() -> None:
    assert in_short("\x1b[31mred\x1b[0m\n" + "x" * 300) == "red " + "x" * 196 + "..."
    assert in_short("\x07 a") == r"\x07 a"
    assert in_short(ValueError()) == "ValueError"


@pytest.mark.parametrize("text", [HOSTILE, "[bold]x[/bold]", "\x85"])
def test_json_says_the_same_and_is_safe(text: str) -> None:
    written = json_text({"image": text}, indent=1)
    assert json.loads(written) == {"image": text}
    assert written == printable(written)


def test_rich_reads_no_markup() -> None:
    assert plain("[bold]a[/bold]").plain == "[bold]a[/bold]"

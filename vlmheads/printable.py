"""Text from outside made safe to print: a file name or a caption must not steer the terminal."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.text import Text

# Control characters but for tab and new line, half surrogate pairs, and marks that turn the
# direction of writing, by which a line can show something else than it says.
_STEERING = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]"
)
_LONGEST = 200
_COLOURS = re.compile("\x1b\\[[0-9;]*m")


def printable(text: object) -> str:
    r"""Return text with what would steer a terminal written out, such as \x1b for an escape."""
    return _STEERING.sub(_written_out, str(text))


def one_line(text: object) -> str:
    """Return `printable` text in one line."""
    return printable(" ".join(str(text).split()))


def in_short(text: object) -> str:
    """Return `one_line` without colours, cut off at 200 characters; its type where it is empty."""
    line = one_line(_COLOURS.sub("", str(text))) or type(text).__name__
    return line[:_LONGEST] + "..." * (len(line) > _LONGEST)


def plain(text: object) -> Text:
    """Return `printable` text for Rich, which reads no markup in it."""
    from rich.text import Text

    return Text(printable(text))


def json_text(value: Any, indent: int | None = None) -> str:
    """Return JSON that is safe to print and to write: readable letters, all else escaped."""
    text = json.dumps(value, indent=indent, ensure_ascii=False)
    return _STEERING.sub(lambda match: f"\\u{ord(match[0]):04x}", text)


def _written_out(match: re.Match[str]) -> str:
    number = ord(match[0])
    return f"\\x{number:02x}" if number < 256 else f"\\u{number:04x}"

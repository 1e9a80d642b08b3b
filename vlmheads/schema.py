"""Files and variables from outside, checked against the form that they should have.

A form is a type that msgspec understands: a Struct, a TypedDict, a dataclass, a dict of lists or
the like. What does not fit is refused in one line that names the place, whatever is in it: nesting
without end, numbers that fit nowhere, half a surrogate pair, bytes that are not UTF-8.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from vlmheads.errors import VlmHeadsError

T = TypeVar("T")

BOM = b"\xef\xbb\xbf"
# How msgspec calls what JSON has, and how people do.
_CALLED = {
    "str": "text",
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "array": "a list",
    "object": "an object",
    "null": "null",
}
_EXPECTED = re.compile(r"Expected `(?P<form>[^`]*)`(?P<bound>.*?)(?:, got (?P<seen>.*))?")


def read(path: Path, form: type[T] | Any, expected: str = "") -> T:
    """Return the JSON in a file in the form given.

    Args:
        path: the file; a byte order mark at its start is left out.
        form: what msgspec decodes into.
        expected: what the file should be, for errors.

    Raises:
        VlmHeadsError: a file that cannot be read, or holds something else.
    """
    found: T = decode(read_bytes(path, expected), form, str(path), expected)
    return found


def read_bytes(path: Path, expected: str = "") -> bytes:
    """Return the bytes of a file without a byte order mark.

    Raises:
        VlmHeadsError: it cannot be read.
    """
    try:
        return path.read_bytes().removeprefix(BOM)
    except OSError as error:
        raise VlmHeadsError(f"{path} cannot be read ({error.strerror})", expected) from error


def read_text(path: Path, expected: str = "") -> str:
    """Return the text of a file without a byte order mark.

    Raises:
        VlmHeadsError: it cannot be read, or is not UTF-8.
    """
    content = read_bytes(path, expected)
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise _not_utf8(str(path), content, error.start) from error


def decode(content: bytes, form: type[T] | Any, place: str, expected: str = "") -> T:
    """Return JSON in the form given; see `read`.

    Args:
        content: UTF-8.
        form: what msgspec decodes into.
        place: where it comes from, for errors: a file, or a file and a line.
        expected: what it should be, for errors.
    """
    try:
        found: T = msgspec.json.decode(content, type=form)
    except msgspec.ValidationError as error:
        raise _misfit(place, error, expected) from error
    except RecursionError as error:
        raise VlmHeadsError(f"{place}: nested too deeply", expected) from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        try:
            content.decode("utf-8")
        except UnicodeDecodeError as whole:
            raise _not_utf8(place, content, whole.start) from error
        at = re.search(r" \(byte (\d+)\)", str(error))
        line = content.count(b"\n", 0, int(at[1])) + 1 if at else content.count(b"\n") + 1
        where = f"{place}:{line}" if b"\n" in content.strip() else place
        reason = str(error).removeprefix("JSON is malformed: ")
        raise VlmHeadsError(f"{where}: not JSON ({reason})", expected or "JSON") from error
    return found


def convert(value: Any, form: type[T] | Any, place: str, expected: str = "") -> T:
    """Return plain values in the form given; see `decode`."""
    try:
        msgspec.json.encode(value)  # Refuses what no JSON can hold, such as half a surrogate pair.
        found: T = msgspec.convert(value, form)
    except msgspec.ValidationError as error:
        raise _misfit(place, error, expected) from error
    except (TypeError, ValueError, RecursionError) as error:
        raise VlmHeadsError(f"{place}: {_first_line(error)}", expected) from error
    return found


def yaml_text(text: str, form: type[T] | Any, place: str, expected: str = "") -> T:
    """Return YAML in the form given; see `decode`.

    Every value is read as text and becomes what the form asks for, so that a run called `no` or
    `2024-01-01` keeps its name. Aliases are refused, since a few can stand for gigabytes.

    Raises:
        VlmHeadsError: not YAML, too long or nested too deeply, an alias, or another form.
    """
    import yaml

    if len(text) > LONGEST_YAML:
        raise VlmHeadsError(f"{place}: {len(text):,} characters", f"at most {LONGEST_YAML:,}")
    depth = 0
    try:
        for event in yaml.parse(text, yaml.BaseLoader):
            if isinstance(event, yaml.AliasEvent):
                raise VlmHeadsError(f"{place}: an alias (*name)", "YAML without aliases")
            depth += isinstance(event, yaml.CollectionStartEvent)
            depth -= isinstance(event, yaml.CollectionEndEvent)
            if depth > DEEPEST_YAML:
                raise VlmHeadsError(f"{place}: nested too deeply", f"at most {DEEPEST_YAML} levels")
        value = yaml.load(text, yaml.BaseLoader)
        msgspec.json.encode(value)
        found: T = msgspec.convert(value, form, strict=False)
    except msgspec.ValidationError as error:
        raise _misfit(place, error, expected) from error
    except yaml.YAMLError as error:
        raise VlmHeadsError(f"{place}: not YAML ({_first_line(error)})", expected) from error
    except (UnicodeEncodeError, TypeError) as error:
        raise VlmHeadsError(f"{place}: {_first_line(error)}", expected) from error
    return found


LONGEST_YAML, DEEPEST_YAML = 1 << 16, 32


def environment(name: str, default: int, low: int = 0) -> int:
    """Return an environment variable that holds a whole number.

    Raises:
        VlmHeadsError: it holds something else, or a number below `low`.
    """
    text = os.environ.get(name, str(default)).strip()
    if not (text.isascii() and text.isdecimal() and len(text) < 10 and int(text) >= low):
        raise VlmHeadsError(
            f"the environment variable {name}={text!r}", f"a whole number from {low}", "unset it"
        )
    return int(text)


def _misfit(place: str, error: msgspec.ValidationError, expected: str) -> VlmHeadsError:
    """Turn "Expected `int`, got `str` - at `$.images[3].id`" into our own words."""
    text, at, path = str(error).rpartition(" - at `")
    text, path = (text, path.removesuffix("`")) if at else (path, "")
    where = path.removeprefix("$").lstrip(".")
    subject = f"{place}: {where}" if where else place
    match = _EXPECTED.fullmatch(text)
    if match is None:
        reason = text.replace("Object contains unknown field", "unknown key")
        reason = reason.replace("Object missing required field", "no key").replace("`", "'")
        reason = reason[:1].lower() + reason[1:]
        return VlmHeadsError(f"{subject}: {reason}", expected)
    seen = _called(match["seen"] or "")
    wanted = _called(match["form"]) + match["bound"]
    return VlmHeadsError(f"{subject} is {seen}" if seen else subject, wanted, expected)


def _called(form: str) -> str:
    parts = [part.strip(" `") for part in form.split("|")]
    return " or ".join(dict.fromkeys(_CALLED.get(part, part) for part in parts))


def _not_utf8(place: str, content: bytes, start: int) -> VlmHeadsError:
    line = content.count(b"\n", 0, start) + 1
    where = f"{place}:{line}" if b"\n" in content.strip() else place
    return VlmHeadsError(f"{where}: bytes that are not UTF-8", "UTF-8")


def _first_line(error: Exception) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__

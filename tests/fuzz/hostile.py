"""Documents and values as an attacker or a bad disk would write them, drawn by Hypothesis."""

from __future__ import annotations

import copy
import json
from typing import Any

from hypothesis import strategies as st

# What JSON text may say that no Python value dumps to; put in by name after dumping.
RAW = {
    "@nest-list": "[" * 30_000,
    "@nest-object": '{"a":' * 30_000,
    "@balanced": "[" * 2000 + "]" * 2000,
    "@huge": "9" * 5000,
    "@exponent": "1e999",
    "@nan": "NaN",
    "@infinity": "-Infinity",
    "@surrogate": '"\\ud800"',
    "@low-surrogate": '"a\\udc00b"',
}
VALUES: list[Any] = [
    *RAW, None, True, False, 0, -1, 2**63, -(2**63) - 1, 1.5, 1e300, "", "a", "no", "../../x",
    "/etc", "\x1b[31mred", "\x00", "=1+1", "[bold]x", "\u202eabc", "\\", "x" * 5000, [], [[]],
    [None], {}, {"": {}}, {"a": [1]}, "Yes", "9" * 400,
]  # fmt: skip
BYTES = [b"\xff", b"\xef\xbb\xbf", b"\x00", b"\n", b"[", b"{", b'"', b"\xed\xa0\x80", b"," * 3]


@st.composite
def documents(draw: Any, valid: Any, *, lines: bool = False) -> bytes:
    """A file of JSON with one or two faults, or of JSON Lines where `valid` is a list."""
    value = copy.deepcopy(valid)
    for _ in range(draw(st.integers(1, 2))):
        value = _broken(draw, value)
    listed = value if lines and isinstance(value, list) else [value]
    content = b"\n".join(_dumped(one) for one in listed)
    if draw(st.integers(0, 3)) == 0:
        at = draw(st.integers(0, len(content)))
        kind = draw(st.sampled_from(["cut", "insert", "double"]))
        if kind == "cut":
            content = content[:at]
        elif kind == "insert":
            content = content[:at] + draw(st.sampled_from(BYTES)) + content[at:]
        else:
            content = content + b"\n" + content
    return content


def _broken(draw: Any, value: Any) -> Any:
    """Replace, remove or repeat one part somewhere in a value."""
    if isinstance(value, dict) and value and draw(st.integers(0, 4)):
        key = draw(st.sampled_from(sorted(value)))
        action = draw(st.sampled_from(["inside", "inside", "inside", "remove", "rename"]))
        if action == "inside":
            value[key] = _broken(draw, value[key])
        else:
            old = value.pop(key)
            if action == "rename":
                value[draw(st.sampled_from(["", "x", "\x1b]0;x", key + " "]))] = old
        return value
    if isinstance(value, list) and value and draw(st.integers(0, 4)):
        at = draw(st.integers(0, len(value) - 1))
        if draw(st.integers(0, 3)):
            value[at] = _broken(draw, value[at])
        else:
            value.append(copy.deepcopy(value[at]))
        return value
    return copy.deepcopy(draw(st.sampled_from(VALUES)))


def _dumped(value: Any) -> bytes:
    text = json.dumps(value)
    for name, raw in RAW.items():
        text = text.replace(f'"{name}"', raw)
    return text.encode()

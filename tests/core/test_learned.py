"""Files of what a method has learned: written, read, and refused where they do not fit."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from vlmheads import VlmHeadsError
from vlmheads.learned import KEY, Learned
from vlmheads.model.geometry import Geometry

GEOMETRY = Geometry("llava", 2, 3)


def made() -> Learned:
    values = {"b": torch.arange(6.0).view(2, 3), "a": torch.ones(2, 5, dtype=torch.float16)}
    return Learned("adaiat", values, GEOMETRY, {"model": "m", "words": {"real": 3}})


def test_a_file_holds_all_that_was_learned(tmp_path: Path) -> None:
    path = tmp_path / "learned.safetensors"
    made().save(path)
    found = Learned.load(path)
    assert (found.method, found.geometry) == ("adaiat", GEOMETRY)
    assert found.provenance == {"model": "m", "words": {"real": 3}}
    assert found.digest == made().digest
    assert list(found.values) == ["a", "b"]
    assert torch.equal(found.values["b"], made().values["b"])
    assert found.values["a"].dtype == torch.float32


def test_the_digest_is_that_of_names_shapes_and_values() -> None:
    b = made().values["b"]
    others = [{"b": b + 1}, {"c": b}, {"b": b.view(3, 2)}, {"b": b, "c": b}]
    digests = {Learned("adaiat", values, GEOMETRY).digest for values in ({"b": b}, *others)}
    assert len(digests) == 5


def test_nothing_is_refused() -> None:
    with pytest.raises(VlmHeadsError, match="nothing learned"):
        Learned("adaiat", {}, GEOMETRY)


@pytest.mark.parametrize(
    ("method", "tensors", "match"),
    [
        ("vti", {"a": "LN", "b": "LH"}, "learned for 'adaiat'; expected one for 'vti'"),
        ("adaiat", {"b": "LH"}, "tensors a, b; expected b"),
        ("adaiat", {"a": "LN", "b": "LH", "c": "L"}, "expected a, b, c"),
        ("adaiat", {"a": "LH", "b": "LH"}, r"a of shape \[2, 5\]; expected \[2, 3\]"),
        ("adaiat", {"a": "LN", "b": "LN"}, r"b of shape \[2, 3\]; expected \[2, 5\]"),
        ("adaiat", {"a": "LNN", "b": "LH"}, r"a of shape \[2, 5\]"),
        ("adaiat", {"a": "L", "b": "LH"}, r"a of shape \[2, 5\]; expected \[2\]"),
    ],
)
def test_what_another_method_or_model_takes_is_refused(
    method: str, tensors: dict[str, str], match: str
) -> None:
    made().require("adaiat", {"a": "LN", "b": "LH"})
    with pytest.raises(VlmHeadsError, match=match):
        made().require(method, tensors)


@pytest.mark.parametrize("content", [None, b"", b"no tensors", b"\x08" + b"\0" * 7 + b"{}      "])
def test_what_is_no_such_file_is_refused(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "learned.safetensors"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(VlmHeadsError, match="no file|holds nothing learned"):
        Learned.load(path)


def rewritten(path: Path, change: tuple[str, str], values: dict[str, torch.Tensor]) -> Path:
    """The file with a text of its metadata replaced, and other values."""
    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:
        about = file.metadata()[KEY]
    save_file(load_file(path) | values, path, metadata={KEY: about.replace(*change)})
    return path


def test_a_later_schema_and_changed_values_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "learned.safetensors"
    made().save(path)
    with pytest.raises(VlmHeadsError, match="schema 2"):
        Learned.load(rewritten(path, ('"schema": 1', '"schema": 2'), {}))
    made().save(path)
    with pytest.raises(VlmHeadsError, match="those that were saved"):
        Learned.load(rewritten(path, ("", ""), {"b": torch.zeros(2, 3)}))
    made().save(path)
    with pytest.raises(VlmHeadsError, match="no key 'method'; expected a file that"):
        Learned.load(rewritten(path, ('"method"', '"other"'), {}))


def test_a_head_map_is_not_something_learned(tmp_path: Path) -> None:
    from vlmheads import HeadMap

    path = tmp_path / "map.safetensors"
    HeadMap(torch.ones(1, 2, 3), GEOMETRY, "vhd").save(path)
    with pytest.raises(VlmHeadsError, match="holds nothing learned"):
        Learned.load(path)

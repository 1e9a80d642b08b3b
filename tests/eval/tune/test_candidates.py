"""Candidates from what plugins declare, and their controls."""

import importlib.metadata
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest
import torch
from vlmheads_eval.tune.candidates import Candidate, file_of, find_candidates
from vlmheads_eval.tune.controls import control_of
from vlmheads_plugins.icd import PREFIX

from vlmheads.errors import VlmHeadsError
from vlmheads.headmap import HeadMap
from vlmheads.learned import Learned
from vlmheads.model.geometry import Geometry
from vlmheads.plugin import Plugin, option
from vlmheads.registry import list_plugins, resolve

GEOMETRY = Geometry("llava", 8, 8)


def words(text: str, *, add_special_tokens: bool) -> Any:
    """A tokenizer that numbers words by their length."""
    assert not add_special_tokens
    return SimpleNamespace(input_ids=[len(word) for word in text.split()])


def by_name(*methods: str) -> Mapping[str, Candidate]:
    return {one.name: one for one in find_candidates(methods, GEOMETRY, words)[0]}


def test_every_declared_setting_is_a_candidate() -> None:
    assert [one.plugins for one in by_name("vhr").values()] == [
        ({"name": "vhr", "options": {"alpha": alpha}},) for alpha in (1.25, 1.5, 2.0)
    ]


def test_a_composition_is_a_candidate_under_both_names() -> None:
    found = by_name("vaf")["vaf enhance=1.08 + devils:alpha=0.28"]
    assert [one["name"] for one in found.plugins] == ["vaf", "devils"]
    assert found.plugins[1]["options"] == {"alpha": 0.28}
    assert [one.name for one in found.make(Path())] == ["vaf", "devils"]


@pytest.mark.parametrize(
    ("method", "key", "need"),
    [
        ("adhh", "head_map", "attribution"),
        ("gains", "head_map", "gains"),
        ("adaiat", "tables", "adaiat"),
        ("cicd", "pool", "cicd"),
        ("vti", "directions", "vti"),
        ("vti-visual", "directions", "vti-visual"),
        ("offsets", "learned", "offsets"),
    ],
)
def test_what_a_method_is_refused_without_is_named_by_its_file(
    method: str, key: str, need: str
) -> None:
    for one in by_name(method).values():
        assert one.needs == (need,)
        assert one.plugins[0]["options"][key] == file_of(need)


def test_a_text_that_a_method_is_refused_without_is_given_in_tokens() -> None:
    found = by_name("icd")
    assert set(found) == {"icd alpha=0.25", "icd alpha=0.5", "icd alpha=1"}
    for one in found.values():
        assert one.needs == ()
        (plugin,) = one.make(Path())
        assert list(plugin.to_dict()["prefix"]) == [len(word) for word in PREFIX.split()]


def test_a_method_that_counts_heads_is_tried_with_several_numbers() -> None:
    counts = {one.plugins[0]["options"]["count"] for one in by_name("adhh").values()}
    assert counts == {1, 3}


def test_published_heads_are_kept_on_the_model_that_they_are_of() -> None:
    found, _ = find_candidates(["adhh"], Geometry("llava", 32, 32), words)
    assert all(not one.needs for one in found)


def test_all_takes_every_plugin_and_names_what_is_left_out() -> None:
    found, left_out = find_candidates(["all"], GEOMETRY, words)
    names = {name.partition(" ")[0] for name in (*(one.name for one in found), *left_out)}
    assert names == set(list_plugins())
    assert all(left_out.values())


def test_an_unknown_method_is_refused_by_name() -> None:
    with pytest.raises(VlmHeadsError, match="gryphon"):
        find_candidates(["gryphon"], GEOMETRY, words)


def test_a_plugin_of_another_package_takes_part(monkeypatch: pytest.MonkeyPatch) -> None:
    entries = importlib.metadata.entry_points()
    real = importlib.metadata.entry_points
    entry = importlib.metadata.EntryPoint("third", f"{__name__}:Third", "vlmheads.plugins")

    def patched(**given: Any) -> Any:
        found = real(**given)
        if given.get("group") == "vlmheads.plugins":
            return importlib.metadata.EntryPoints((*found, entry))
        return found

    assert entries
    for module in ("vlmheads.registry", "vlmheads.entries"):
        monkeypatch.setattr(f"{module}.entry_points", patched, raising=False)
    assert [one.name for one in by_name("third").values()] == ["third gain=0.5", "third gain=2"]


@dataclass(frozen=True)
class Third(Plugin):
    """Scale all heads."""

    name: ClassVar[str] = "third"
    search: ClassVar = ({"gain": 0.5}, {"gain": 2.0})
    gain: float = option(1.0, "factor", low=0.0, high=10.0)


@dataclass(frozen=True)
class Silent(Plugin):
    """Declares no search."""

    name: ClassVar[str] = "silent"


def test_a_plugin_that_declares_nothing_is_refused_where_it_is_named(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("vlmheads_eval.tune.candidates.get_plugin", lambda name: Silent)
    with pytest.raises(VlmHeadsError, match="declares nothing"):
        find_candidates(["silent"], GEOMETRY, words)


def test_a_control_has_as_many_heads_elsewhere_with_the_same_values() -> None:
    values = torch.arange(64.0).reshape(1, 8, 8)
    head_map = HeadMap(values, GEOMETRY, "attribution")
    chosen = get("adhh", head_map=head_map, count=3)
    (drawn,), (other,) = (control_of((chosen,), GEOMETRY, seed) or () for seed in (0, 1))
    assert isinstance(drawn.head_map, HeadMap)
    assert drawn.head_map.values.flatten().sort().values.tolist() == list(range(64))
    assert len(drawn.listed(GEOMETRY)) == 3
    assert drawn.listed(GEOMETRY) != chosen.listed(GEOMETRY)
    assert drawn.listed(GEOMETRY) != other.listed(GEOMETRY)


def test_listed_heads_of_two_kinds_stay_apart_in_a_control() -> None:
    chosen = get("allpath", suppressed=[(0, 1), (2, 3)], boosted=[(4, 5)])
    (drawn,) = control_of((chosen,), GEOMETRY, 0) or ()
    assert (len(drawn.suppressed), len(drawn.boosted)) == (2, 1)
    assert not set(drawn.suppressed) & set(drawn.boosted)


def test_directions_become_random_ones_of_the_same_length() -> None:
    values = {"directions": torch.randn(8, 16, generator=torch.Generator().manual_seed(3))}
    chosen = get("vti", directions=Learned("vti", values, GEOMETRY))
    (drawn,) = control_of((chosen,), GEOMETRY, 0) or ()
    found = drawn.directions.values["directions"]
    assert torch.allclose(found.norm(dim=1), values["directions"].norm(dim=1))
    cosine = torch.nn.functional.cosine_similarity(found, values["directions"])
    assert cosine.abs().max() < 0.95


def test_a_basis_becomes_a_random_one_that_is_orthogonal_too() -> None:
    draws = torch.Generator().manual_seed(3)
    basis = torch.linalg.qr(torch.randn(8, 16, 4, generator=draws)).Q
    chosen = get("nullu", basis=Learned("nullu", {"basis": basis}, GEOMETRY))
    (drawn,) = control_of((chosen,), GEOMETRY, 0) or ()
    found = drawn.basis.values["basis"]
    assert torch.allclose(found.mT @ found, torch.eye(4).expand(8, 4, 4), atol=1e-5)
    assert not torch.allclose(found, basis, atol=0.1)


@pytest.mark.parametrize("text", ["vcd", "pai", "zerotuning"])
def test_a_method_that_selects_neither_has_no_control(text: str) -> None:
    assert control_of(resolve(text), GEOMETRY, 0) is None


def test_a_method_that_maps_heads_itself_is_given_a_random_map() -> None:
    (drawn, other) = control_of(resolve(["vhr", "vcd"]), GEOMETRY, 0) or ()
    assert drawn.head_map.measure == "random"
    assert other == resolve("vcd")[0]


def get(name: str, **options: Any) -> Any:
    """A plugin with objects among its options."""
    from vlmheads.registry import get_plugin

    return get_plugin(name).from_dict(options)

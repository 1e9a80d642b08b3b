from __future__ import annotations

from dataclasses import dataclass

import pytest
from vlmheads_demo.state import ModelRegistry, ResultStore, RunningJobs

from vlmheads import VlmHeadsError


def test_visitors_load_models_only_if_the_owner_allows_it(tmp_path):
    for name in ("llava-hf/llava-1.5-7b-hf", str(tmp_path), "../x", "", "x" * 300):
        with pytest.raises(VlmHeadsError):
            ModelRegistry(("embedded",)).get(name)
    with pytest.raises(VlmHeadsError, match="config.json"):
        ModelRegistry(("embedded",), allow_others=True).get(str(tmp_path))


def test_a_folder_is_served_under_its_last_name(tmp_path):
    folder = tmp_path / "my-model"
    folder.mkdir()
    models = ModelRegistry((str(folder), "embedded"))
    assert models.names[:2] == ["my-model", "embedded"]
    assert not [name for name in models.names if "/" in name]
    with pytest.raises(VlmHeadsError, match="config.json"):
        models.get("my-model")


def test_a_packaged_model_that_is_not_downloaded_is_not_offered(monkeypatch):
    packaged = ["embedded", "not-downloaded"]
    monkeypatch.setattr("vlmheads_demo.state.packaged_models", lambda: packaged)
    models = ModelRegistry(("embedded",))
    assert models.names == ["embedded"]
    assert "vlmheads testbed get not-downloaded" in models.absent["not-downloaded"]


def test_the_least_recently_used_guest_model_is_dropped(models, monkeypatch):
    guests = ModelRegistry(("embedded",), allow_others=True, max_guests=1)
    loaded = models.get("embedded")
    monkeypatch.setattr(guests, "_load", lambda name: loaded)
    for name in ("embedded", "a", "b"):
        guests.get(name)
    assert {"embedded", "b"} <= set(guests.names)
    assert "a" not in guests.names


def test_a_visitor_stops_only_their_own_jobs():
    jobs = RunningJobs()
    with jobs.start("ann") as first, jobs.start("bob") as second:
        assert jobs.stop("ann") == 1
        assert first.is_set()
        assert not second.is_set()
    assert jobs.stop("ann") == 0


@dataclass
class Kept:
    key: str


def test_the_oldest_results_are_dropped():
    store = ResultStore(capacity=1)
    first, second = Kept("first"), Kept("second")
    store.add(first)
    assert store.get("first") is first
    store.add(second)
    with pytest.raises(VlmHeadsError, match="no longer kept"):
        store.get("first")
    with pytest.raises(VlmHeadsError, match="no longer kept"):
        store.get(None)


def test_a_shared_result_outlives_newer_ones_up_to_a_bound():
    store = ResultStore(capacity=1, shared=1)
    first, second, third = Kept("first"), Kept("second"), Kept("third")
    store.add(first)
    assert store.share("first") is first
    store.add(second)
    assert store.get("first") is first
    assert store.share("first") is first
    with pytest.raises(VlmHeadsError, match="at most 1; save it as a page"):
        store.share("second")
    store.keep(third)
    store.add(Kept("fourth"))
    assert store.share("third") is third
    with pytest.raises(VlmHeadsError, match="no longer kept"):
        store.share("second")


def test_a_test_bench_is_known_by_its_folder_too(models):
    folder = str(models.get("embedded").captioner.model.name_or_path)
    named = ModelRegistry((folder,), device="cpu")
    assert named.get(named.default).bench == "embedded"
    assert models.get("embedded").bench == "embedded"

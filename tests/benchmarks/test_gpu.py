"""The run that is prepared for a GPU, rehearsed on a CPU; what it measures is not asserted."""

from __future__ import annotations

import json
from pathlib import Path

import gpu
import gpu_contract
import gpu_speed
import overhead
import pytest
import tiny
import torch
from gpu_part import Part


def test_a_part_writes_what_it_found_and_the_next_is_run_after_one_that_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(gpu.PARTS, "b", ("gpu_speed", "no such part", 1.0))
    ended = gpu.run(["b", "c"], tmp_path, tiny=True, minutes=1)
    assert ended["b"].startswith("AttributeError")
    assert ended["c"].startswith("finished")
    told = json.loads((tmp_path / "c.json").read_text())
    assert told["state"] == "finished"
    assert told["machine"]["versions"]["torch"] == torch.__version__
    assert len(told["found"]) == 4
    for values in told["found"].values():
        assert values["seconds an image"] > 0


def test_where_the_time_is_up_a_part_says_what_it_left_out() -> None:
    kept = []
    found = gpu_contract.contract(Part("cpu", few=True, until=0.0, keep=kept.append))
    assert found["cut"] > 0
    assert found["plugins"] == {}
    assert kept


def test_a_plugin_is_checked_in_half_precision() -> None:
    case = gpu_contract.subject("llava", "cpu", torch.bfloat16)
    found = gpu_contract.checked(case, "vhr", "llava")
    promises = {name: value for name, value in found.items() if isinstance(value, bool)}
    assert promises == dict.fromkeys(promises, True)
    assert len(promises) == 4
    assert case.model.dtype == torch.bfloat16
    assert tiny.build("llava").dtype == torch.float32


def test_every_kind_of_plugin_is_timed_on_the_second_model_too() -> None:
    kinds = {
        kind
        for kind, names in overhead.KINDS.items()
        for name in gpu_speed.SOME
        if name in names.split()
    }
    assert kinds == set(overhead.KINDS)


def test_this_machine_lacks_nothing_and_says_what_another_would(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert gpu.missing() == []
    monkeypatch.setitem(gpu.THERE, "torch", "99.1")
    monkeypatch.setattr(gpu, "CARRIED", ("no-such-package",))
    torch_, other = gpu.missing()
    assert torch_.endswith("99.1 or later is needed")
    assert other == "no-such-package is not installed"

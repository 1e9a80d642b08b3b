"""A recommended setting as a preset: installed, found for its model, and for no other."""

from pathlib import Path

import pytest
import torch
from vlmheads_eval.tune.candidates import Candidate, file_of
from vlmheads_eval.tune.preset import write_preset

from vlmheads.errors import VlmHeadsError
from vlmheads.headmap import HeadMap
from vlmheads.model.geometry import Geometry
from vlmheads.model.loading import locate
from vlmheads.recommended import recommended
from vlmheads.registry import install_preset, read_preset

GEOMETRY = Geometry("llava", 8, 8)
CANDIDATE = Candidate(
    "adhh count=3",
    ({"name": "adhh", "options": {"head_map": file_of("attribution"), "count": 3}},),
    ("attribution",),
)


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "home"))


def write(out: Path, *, good: bool) -> Path:
    """A preset of heads that were learned, in the folder of its search."""
    path = out / file_of("attribution")
    path.parent.mkdir()
    values = torch.arange(64.0).reshape(1, 8, 8)
    HeadMap(values, GEOMETRY, "attribution").save(path)
    write_preset(
        out / "preset.json",
        CANDIDATE,
        model="embedded",
        geometry=GEOMETRY,
        recommended=good,
        evidence={"verdict": "recommended: adhh count=3", "effect": "+1.0 [+0.5, +1.5]"},
        note="command: vlmheads tune",
        versions={"vlmheads": "0"},
    )
    return out / "preset.json"


def test_a_recommended_preset_is_found_for_its_model_with_its_evidence(tmp_path: Path) -> None:
    path = write(tmp_path, good=True)
    name = install_preset(path, "tuned")
    found = recommended(locate("embedded"), GEOMETRY)
    assert found.preset == name
    assert "+1.0 [+0.5, +1.5]" in found.reason
    (tmp_path / file_of("attribution")).unlink()  # What is installed keeps its own copy.
    (plugin,) = read_preset(name).plugins
    assert len(plugin.listed(GEOMETRY)) == 3


def test_a_preset_that_is_not_recommended_cannot_become_that_of_a_model(tmp_path: Path) -> None:
    path = write(tmp_path, good=False)
    assert read_preset(path).plugins
    with pytest.raises(VlmHeadsError, match="names no model"):
        install_preset(path, "tuned")

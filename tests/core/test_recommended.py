import hashlib
import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from vlmheads_testbed import embedded_model
from vlmheads_testbed.coco import write_dataset

from vlmheads.cli import main
from vlmheads.model.geometry import Geometry
from vlmheads.recommended import recommended
from vlmheads.registry import list_presets, load_preset, read_preset

MEASURED = [name for name in list_presets() if read_preset(name).weights]


def run(*arguments: str) -> Result:
    return CliRunner().invoke(main, list(arguments))


def test_the_embedded_model_has_the_preset_that_was_measured_on_its_weights() -> None:
    found = recommended(embedded_model())
    assert found.preset == "vcd-embedded.json"
    for plugin in load_preset(found.preset):
        plugin.fit(Geometry("llava", 8, 8))


@pytest.mark.parametrize("name", MEASURED)
def test_a_preset_for_one_model_says_what_was_measured_with_intervals_and_a_control(
    name: str,
) -> None:
    evidence = read_preset(name).evidence
    assert {"data", "test", "counterfactual", "control"} <= set(evidence)
    assert "95 %" in evidence["test"]


def test_other_weights_of_the_same_size_are_another_model(tmp_path: Path) -> None:
    assert recommended(tmp_path).preset is None
    weights = bytearray((embedded_model() / "model.safetensors").read_bytes())
    (tmp_path / "model.safetensors").write_bytes(weights)
    assert recommended(tmp_path).preset == "vcd-embedded.json"
    weights[-1] ^= 1
    (tmp_path / "model.safetensors").write_bytes(weights)
    assert recommended(tmp_path).preset is None
    assert hashlib.sha256(weights).hexdigest() != read_preset(MEASURED[0]).weights["sha256"]


def test_a_hub_id_has_no_recommendation() -> None:
    done = run("presets", "--for", "llava-hf/llava-1.5-7b-hf")
    assert done.exit_code == 0
    assert done.stdout.startswith("none: no shipped preset was measured on these weights")


def test_presets_explains_the_choice() -> None:
    done = run("presets", "--for", "embedded")
    assert done.stdout.startswith("vcd-embedded.json: measured on these weights; data: 500 test")


def test_for_and_markdown_exclude_each_other() -> None:
    assert run("presets", "--for", "embedded", "--markdown").exit_code == 2


@pytest.fixture
def scene(tmp_path: Path) -> str:
    write_dataset(tmp_path / "scenes", "test", 1, seed=0)
    return str(tmp_path / "scenes" / "images")


def test_captions_are_made_under_the_recommended_preset(scene: str) -> None:
    record = json.loads(run("caption", scene, "--json").stdout)
    assert [(one["name"], one["options"]["alpha"]) for one in record["plugins"]] == [("vcd", 0.25)]


def test_captions_are_plain_where_nothing_is_recommended_and_a_line_says_so(
    scene: str, tmp_path: Path
) -> None:
    import shutil

    folder = tmp_path / "other"
    shutil.copytree(embedded_model(), folder)
    weights = bytearray((folder / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (folder / "model.safetensors").write_bytes(weights)
    done = run("caption", scene, "--json", "--model", str(folder))
    assert json.loads(done.stdout)["plugins"] == []
    assert "note: no shipped preset was measured on these weights" in done.stderr


def test_auto_beside_other_plugins_is_refused(scene: str) -> None:
    done = run("caption", scene, "--plugin", "auto", "--plugin", "vhr")
    assert done.exit_code == 2
    assert "--plugin auto beside others" in done.stderr

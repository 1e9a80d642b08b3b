"""Which preset is recommended for a model, and who follows the recommendation."""

from __future__ import annotations

import json
import logging
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import tiny
from click.testing import CliRunner, Result
from vlmheads_testbed import embedded_model
from vlmheads_testbed.coco import write_dataset

import vlmheads
from vlmheads import Captioner, VlmHeadsError
from vlmheads.cli import main
from vlmheads.model.anatomy import examine
from vlmheads.recommended import recommended, recommended_for
from vlmheads.registry import install_preset, read_preset, shipped_presets
from vlmheads.user_presets import user_presets

MEASURED = [name for name in shipped_presets() if read_preset(name).weights]
NONE = "no preset was measured on this model"


@pytest.fixture(autouse=True)
def data_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder for the user's data."""
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    return tmp_path / "data"


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def other_weights(folder: Path) -> Path:
    """Another model of the same size."""
    shutil.copytree(embedded_model(), folder)
    weights = bytearray((folder / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (folder / "model.safetensors").write_bytes(weights)
    return folder


def preset(folder: Path, **keys: Any) -> Path:
    """A preset's file as someone measured it."""
    about = {
        "schema": 1,
        "plugins": [{"name": "pai", "options": {"alpha": 0.3}}],
        "family": "any",
        "versions": {},
        "source": "measured here",
        "evidence": {"data": "500 images"},
    }
    path = folder / "mine.json"
    path.write_text(json.dumps(about | keys))
    return path


def test_the_embedded_model_has_the_preset_that_was_measured_on_its_weights() -> None:
    found = recommended(embedded_model())
    assert found.preset == "vcd-embedded.json"
    model = Captioner.from_pretrained("embedded", ()).model
    assert recommended_for(model) == found
    assert read_preset(found.preset).geometry == examine(model).geometry


@pytest.mark.parametrize("name", MEASURED)
def test_a_preset_for_one_model_says_what_was_measured_with_intervals_and_a_control(
    name: str,
) -> None:
    evidence = read_preset(name).evidence
    assert {"data", "test", "counterfactual", "control"} <= set(evidence)
    assert "95 %" in evidence["test"]


def test_other_weights_of_the_same_size_are_another_model(tmp_path: Path) -> None:
    assert recommended(tmp_path).preset is None
    shutil.copytree(embedded_model(), tmp_path / "same")
    assert recommended(tmp_path / "same").preset == "vcd-embedded.json"
    found = recommended(other_weights(tmp_path / "other"))
    assert found.preset is None
    assert found.reason.startswith(NONE)


def test_a_preset_of_another_model_of_the_geometry_is_named_and_not_taken(tmp_path: Path) -> None:
    model = Captioner.from_pretrained(str(other_weights(tmp_path / "other")), ()).model
    found = recommended_for(model)
    assert found.preset is None
    assert "(vcd-embedded.json: for another model of its geometry)" in found.reason


@pytest.mark.parametrize(
    "source",
    [
        "someone/some-vlm-7b",
        "/cache/hub/models--someone--some-vlm-7b/snapshots/0123abc",
    ],
)
def test_a_preset_for_a_hub_id_is_found_by_id_and_by_its_cached_folder(
    tmp_path: Path, source: str
) -> None:
    install_preset(preset(tmp_path, models=["someone/some-vlm-7b"]))
    assert recommended(source).preset == "mine.json"
    assert recommended("someone/some-vlm-13b").preset is None


def test_a_preset_of_the_user_comes_before_a_shipped_one_and_a_newer_before_an_older(
    tmp_path: Path,
) -> None:
    weights = list(read_preset("vcd-embedded.json").weights)
    install_preset(preset(tmp_path, weights=weights), "first")
    assert recommended(embedded_model()).preset == "first.json"
    install_preset(preset(tmp_path, weights=weights), "second")
    os.utime(user_presets()["first.json"], (1, 1))
    assert list(user_presets()) == ["second.json", "first.json"]
    assert recommended(embedded_model()).preset == "second.json"
    for name in ("first", "second.json"):
        assert run("presets", "remove", name).exit_code == 0
    assert recommended(embedded_model()).preset == "vcd-embedded.json"


def test_a_preset_for_another_geometry_is_passed_over(tmp_path: Path) -> None:
    weights = list(read_preset("vcd-embedded.json").weights)
    geometry = {"model_type": "llava", "layers": 99, "heads": 8}
    install_preset(preset(tmp_path, weights=weights, geometry=geometry))
    model = Captioner.from_pretrained("embedded", ()).model
    assert recommended_for(model).preset == "vcd-embedded.json"


def test_the_files_of_a_preset_are_kept_with_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    from vlmheads import HeadMap

    captioner = Captioner.from_pretrained("embedded", ())
    geometry = examine(captioner.model).geometry
    HeadMap(torch.full((1, 8, 8), 0.5), geometry, "gain").save(tmp_path / "gains.safetensors")
    plugins = [{"name": "gains", "options": {"head_map": "gains.safetensors"}}]
    weights = list(read_preset("vcd-embedded.json").weights)
    file = preset(tmp_path, weights=weights, plugins=plugins)
    done = run("presets", "install", file, "--name", "halved")
    assert done.exit_code == 0, done.output
    (tmp_path / "gains.safetensors").unlink()
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    found = Captioner(captioner.model, captioner.processor)
    assert [plugin.name for plugin in found.plugins] == ["gains"]
    assert float(found.plugins[0].head_map.mean().max()) == 0.5  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("keys", "name", "message"),
    [
        ({}, "", "names no model that it was measured on"),
        ({"models": ["a/b"]}, "vcd-embedded", "a shipped preset is called vcd-embedded.json"),
        ({"models": ["a/b"]}, "../up", "a preset called '../up.json'"),
        ({"models": ["a/b"], "plugins": [{"name": "nothing"}]}, "", "no plugin is called"),
        ({"models": "a/b"}, "", "a list"),
    ],
)
def test_what_cannot_be_installed_is_refused(
    tmp_path: Path, data_folder: Path, keys: dict[str, Any], name: str, message: str
) -> None:
    arguments = ["--name", name] if name else []
    done = run("presets", "install", preset(tmp_path, **keys), *arguments)
    assert done.exit_code == 2
    assert message in done.stderr
    assert not list(data_folder.glob("**/*.json"))


def test_a_name_is_taken_once_and_removed_once(tmp_path: Path) -> None:
    file = preset(tmp_path, models=["a/b"])
    assert run("presets", "install", file).exit_code == 0
    assert "mine.json" in run("presets").stdout
    assert "mine.json" not in run("presets", "--markdown").stdout
    assert "a preset called mine.json is installed" in run("presets", "install", file).stderr
    assert run("presets", "remove", "mine").exit_code == 0
    assert "no installed preset is called 'mine'" in run("presets", "remove", "mine").stderr


def test_presets_explains_the_choice() -> None:
    done = run("presets", "--for", "embedded")
    assert done.stdout.startswith("vcd-embedded.json: measured on these weights; data: 500 test")
    done = run("presets", "--for", "llava-hf/llava-1.5-7b-hf")
    assert done.exit_code == 0
    assert done.stdout.startswith("none: ")


def test_what_has_to_be_learned_first_is_named_and_not_taken(tmp_path: Path) -> None:
    import torch

    from vlmheads.learned import Learned
    from vlmheads.model.geometry import Geometry

    model = "llava-hf/llava-1.5-7b-hf"
    found = recommended(model)
    assert found.preset is None
    assert "vlmheads learn adaiat --model llava-hf/llava-1.5-7b-hf" in found.reason
    done = run("presets", "install", "adaiat-llava15.json")
    assert done.exit_code == 2
    assert "without a learned file; expected one; learn it with" in done.stderr
    tables = {name: torch.full((32, 32), 0.1) for name in ("real", "hallucinated")}
    learned = Learned("adaiat", tables, Geometry("llava", 32, 32))
    learned.save(tmp_path / "tables.safetensors")
    Learned("vti", {"directions": torch.ones(32, 4)}, Geometry("llava", 32, 32)).save(
        tmp_path / "other.safetensors"
    )
    given = ("presets", "install", "adaiat-llava15.json", "--learned")
    assert "learned for 'vti'" in run(*given, tmp_path / "other.safetensors").stderr
    assert run(*given, tmp_path / "tables.safetensors").exit_code == 0
    (tmp_path / "tables.safetensors").unlink()
    assert recommended(model).preset == "adaiat-llava15-learned.json"
    (plugin,) = read_preset("adaiat-llava15-learned.json").plugins
    assert plugin.tables.digest == learned.digest  # type: ignore[attr-defined]
    needless = preset(tmp_path, models=["a/b"])
    learned.save(tmp_path / "tables.safetensors")
    done = run("presets", "install", needless, "--learned", tmp_path / "tables.safetensors")
    assert "expected none: it needs nothing learned" in done.stderr


def test_for_and_markdown_exclude_each_other() -> None:
    assert run("presets", "--for", "embedded", "--markdown").exit_code == 2


@pytest.fixture
def scene(tmp_path: Path) -> str:
    write_dataset(tmp_path / "scenes", "test", 1, seed=0)
    return str(next((tmp_path / "scenes" / "images").iterdir()))


def test_captions_are_made_under_the_recommended_preset(scene: str) -> None:
    record = json.loads(run("caption", scene, "--json").stdout)
    assert [(one["name"], one["options"]["alpha"]) for one in record["plugins"]] == [("vcd", 0.25)]


def test_captions_are_plain_where_nothing_is_recommended_and_a_line_says_so(
    scene: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    done = run("caption", scene, "--json", "--model", other_weights(tmp_path / "other"))
    assert json.loads(done.stdout)["plugins"] == []
    assert caplog.text.count(NONE) == 1


def test_a_captioner_follows_the_recommendation_unless_told_otherwise(scene: str) -> None:
    recommended_one = Captioner.from_pretrained("embedded")
    assert [plugin.name for plugin in recommended_one.plugins] == ["vcd"]
    plain = Captioner(recommended_one.model, recommended_one.processor, ())
    assert plain.plugins == ()
    named = Captioner.from_pretrained("embedded", "vcd-embedded.json")
    assert recommended_one(scene) == named(scene) == plain(scene, plugins="auto")
    assert plain(scene) == recommended_one(scene, plugins=())


def test_attach_takes_auto_and_says_where_there_is_nothing(
    caplog: pytest.LogCaptureFixture,
) -> None:
    model = Captioner.from_pretrained("embedded", ()).model
    with vlmheads.attach(model, "auto") as attachment:
        assert [plugin.name for plugin in attachment.plugins] == ["vcd"]
    other = tiny.build("llava")
    with caplog.at_level(logging.WARNING, "vlmheads"), vlmheads.attach(other, "auto") as nothing:
        assert nothing.plugins == ()
    assert "so captions are plain" in caplog.text


def test_a_model_with_an_adapter_is_another_model() -> None:
    import copy
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import peft

        model = copy.deepcopy(Captioner.from_pretrained("embedded", ()).model)
        adapted = peft.get_peft_model(model, peft.LoraConfig(target_modules=["q_proj"]))
    found = recommended_for(adapted)
    assert found.preset is None
    assert "adapter" in found.reason


def test_auto_together_with_other_plugins_is_refused(scene: str) -> None:
    done = run("caption", scene, "--plugin", "auto", "--plugin", "vhr")
    assert done.exit_code == 2
    assert "auto together with others" in done.stderr
    model = Captioner.from_pretrained("embedded", ()).model
    with pytest.raises(VlmHeadsError, match="auto together with others"):
        vlmheads.attach(model, ["vhr", "auto"])

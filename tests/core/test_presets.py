import json

import pytest

import vlmheads
from vlmheads import VlmHeadsError
from vlmheads.model.geometry import Geometry
from vlmheads.registry import list_presets, read_preset, resolve

GOOD = {
    "schema": 1,
    "plugins": [{"name": "vhr", "options": {"alpha": 1.5}}],
    "family": "any",
    "versions": {"vlmheads": "0.1.0"},
    "source": "a test",
}


def write(folder, about):
    path = folder / "preset.json"
    path.write_text(about if isinstance(about, str) else json.dumps(about))
    return path


def test_a_preset_file_gives_its_plugins_with_their_options(tmp_path):
    assert vlmheads.load_preset(write(tmp_path, GOOD)) == [vlmheads.get_plugin("vhr")(alpha=1.5)]


def test_the_published_setting_of_vhr_is_shipped():
    (plugin,) = vlmheads.load_preset("vhr-llava15.json")
    assert (plugin.name, plugin.alpha, plugin.layers) == ("vhr", 2.0, (1, *range(18, 32)))


def test_a_shipped_preset_is_found_without_its_suffix():
    assert vlmheads.load_preset("vhr-llava15") == vlmheads.load_preset("vhr-llava15.json")


def test_there_are_shipped_presets():
    assert "vhr-llava15.json" in list_presets()


@pytest.mark.parametrize("name", list_presets())
def test_every_shipped_preset_says_where_it_comes_from(name):
    preset = read_preset(name)
    assert preset.source
    assert preset.family in [*vlmheads.list_families(), "any"]
    assert "vlmheads" in preset.versions


@pytest.mark.parametrize(
    "name", [name for name in list_presets() if "llava15" in name and "13b" not in name]
)
def test_every_shipped_preset_for_llava_15_fits_its_7b_model(name):
    if read_preset(name).learn:
        with pytest.raises(VlmHeadsError, match="vlmheads learn"):
            vlmheads.load_preset(name)[0].fit(Geometry("llava", 32, 32))
        return
    for plugin in vlmheads.load_preset(name):
        plugin.fit(Geometry("llava", 32, 32))


@pytest.mark.parametrize(
    ("name", "geometry", "count"),
    [
        ("adhh-llava15-13b", Geometry("llava", 40, 40), 35),
        ("adhh-llava-next-34b", Geometry("llava_next", 60, 56), 10),
    ],
)
def test_lists_of_larger_models_fit_them_and_not_the_7b_one(name, geometry, count):
    (plugin,) = vlmheads.load_preset(name)
    plugin.fit(geometry)
    assert len(plugin.heads) == count
    with pytest.raises(vlmheads.VlmHeadsError):
        plugin.fit(Geometry("llava", 32, 32))


def test_published_heads_of_allpath_are_as_many_as_its_authors_use():
    for name, counts in {"allpath-llava15": (40, 89), "allpath-llava15-pope": (20, 30)}.items():
        (plugin,) = vlmheads.load_preset(name)
        assert (len(plugin.suppressed), len(plugin.boosted)) == counts


def test_the_preset_for_the_second_bench_fits_it():
    for plugin in vlmheads.load_preset("adhh-smol.json"):
        plugin.fit(Geometry("llava", 30, 9))


def test_attach_takes_the_name_of_a_preset_among_other_plugins(tmp_path):
    path = str(write(tmp_path, GOOD))
    vhr = vlmheads.get_plugin("vhr")
    assert resolve(["vhr", path]) == (vhr(), vhr(alpha=1.5))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"extra": 1}, "unknown key 'extra'"),
        ({"schema": 2}, "has schema 2"),
        ({"family": 3}, "family is a whole number; expected text"),
        ({"versions": ["0.1"]}, "versions is a list; expected an object"),
        ({"evidence": {"n": 500}}, "evidence.* is a whole number; expected text"),
        ({"weights": [{"file": "model.safetensors"}]}, r"weights\[0\]: no key 'bytes'"),
        ({"plugins": []}, "plugins; expected a list of length >= 1"),
        ({"plugins": [{"name": "vhr", "option": {}}]}, r"plugins\[0\]: unknown key 'option'"),
        ({"plugins": [{"options": {}}]}, r"plugins\[0\]: no key 'name'"),
        ({"plugins": [{"name": 3}]}, r"plugins\[0\].name is a whole number"),
        ({"plugins": ["vhr"]}, r"plugins\[0\] is text; expected an object"),
        ({"plugins": [{"name": "nothing"}]}, "no plugin is called 'nothing'"),
        ({"plugins": [{"name": "vhr", "options": {"beta": 1}}]}, "unknown option beta"),
        ({"plugins": [{"name": "vhr", "options": {"alpha": -1}}]}, "alpha=-1"),
        ({"plugins": [{"name": "vhr", "options": [1]}]}, r"plugins\[0\].options is a list"),
    ],
)
def test_a_wrong_preset_is_refused_by_name(tmp_path, change, message):
    with pytest.raises(vlmheads.VlmHeadsError, match=message):
        vlmheads.load_preset(write(tmp_path, GOOD | change))


def test_a_missing_key_is_refused_by_name(tmp_path):
    about = {key: value for key, value in GOOD.items() if key != "source"}
    with pytest.raises(vlmheads.VlmHeadsError, match="no key 'source'"):
        vlmheads.load_preset(write(tmp_path, about))


def test_a_file_that_is_not_json_is_refused(tmp_path):
    with pytest.raises(vlmheads.VlmHeadsError, match="not JSON"):
        vlmheads.load_preset(write(tmp_path, "alpha: 2"))


def test_a_name_that_is_not_shipped_is_refused_with_those_that_are():
    with pytest.raises(vlmheads.VlmHeadsError, match=r"vhr-llava15\.json"):
        vlmheads.load_preset("vhr-llava16.json")

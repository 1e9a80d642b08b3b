"""Plugins are found through entry points, whoever brings them."""

from __future__ import annotations

import logging
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

import vlmheads
from vlmheads import VlmHeadsError, get_plugin, list_plugins
from vlmheads.registry import parse_plugin, resolve

GOOD = """
    from dataclasses import dataclass
    from typing import ClassVar
    from vlmheads import Plugin

    @dataclass(frozen=True)
    class Loud(Plugin):
        '''Make every head louder.'''
        name: ClassVar[str] = "loud"
        gain: float = 1.5

        def on_heads(self, request, layer, heads):
            return heads * self.gain
"""


def install(folder: Path, name: str, target: str, source: str) -> Path:
    """Put a package into a folder as pip would: the module, and what its metadata declares."""
    (folder / f"{name}.py").write_text(textwrap.dedent(source))
    info = folder / f"{name}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[vlmheads.plugins]\n{name} = {target}\n")
    return folder


@pytest.fixture
def third_party(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    install(tmp_path, "loud", "loud:Loud", GOOD)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield tmp_path
    sys.modules.pop("loud", None)


def test_a_package_installed_with_pip_from_a_folder_can_be_used(tmp_path: Path) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    source.mkdir()
    (source / "loud.py").write_text(textwrap.dedent(GOOD))
    (source / "pyproject.toml").write_text(
        textwrap.dedent("""
            [build-system]
            requires = ["hatchling"]
            build-backend = "hatchling.build"
            [project]
            name = "loud"
            version = "1.0"
            [project.entry-points."vlmheads.plugins"]
            loud = "loud:Loud"
        """)
    )
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(target)]
    subprocess.run([*pip, str(source)], check=True, capture_output=True)
    script = (
        "import tiny, vlmheads\n"
        "model, inputs = tiny.build('llava'), tiny.inputs('llava')\n"
        "plain = model(**inputs).logits\n"
        "with vlmheads.attach(model, 'loud'):\n"
        "    print(bool((model(**inputs).logits != plain).any()))\n"
    )
    support = Path(__file__).parents[1] / "support"
    path = {"PYTHONPATH": f"{target}:{support}", "OMP_NUM_THREADS": "1", "PATH": ""}
    done = subprocess.run(
        [sys.executable, "-c", script], env=path, check=True, capture_output=True, text=True
    )
    assert done.stdout.split() == ["True"]


def test_a_third_party_plugin_is_listed_beside_the_built_in_ones(third_party: Path) -> None:
    assert {"loud", "vhr"} <= set(list_plugins())
    assert get_plugin("loud").__name__ == "Loud"


def test_a_broken_plugin_is_reported_by_name_and_takes_nothing_down(
    third_party: Path, caplog: pytest.LogCaptureFixture
) -> None:
    install(third_party, "broken", "broken:Missing", "raise RuntimeError('no such luck')")
    with caplog.at_level(logging.WARNING, "vlmheads"):
        names = list_plugins()
    assert "broken" not in names
    assert "vhr" in names
    assert "'broken'" in caplog.text
    assert "no such luck" in caplog.text
    with pytest.raises(VlmHeadsError, match="no such luck"):
        get_plugin("broken")


def test_something_that_is_no_plugin_is_refused(third_party: Path) -> None:
    install(third_party, "text", "text:VALUE", "VALUE = 'hello'")
    with pytest.raises(VlmHeadsError, match="a subclass of vlmheads.Plugin"):
        get_plugin("text")


def test_the_environment_limits_what_is_loaded(
    third_party: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VLMHEADS_PLUGINS", "loud")
    assert list_plugins() == ["loud"]
    with pytest.raises(VlmHeadsError, match="VLMHEADS_PLUGINS"):
        get_plugin("vhr")
    monkeypatch.setenv("VLMHEADS_PLUGINS", "")
    assert list_plugins() == []


def test_an_unknown_plugin_is_refused_with_the_known_ones() -> None:
    with pytest.raises(VlmHeadsError, match="no plugin is called 'vrh'; expected one of .*vhr"):
        get_plugin("vrh")


def test_options_are_read_from_text() -> None:
    plugin = parse_plugin("vhr:alpha=1.5,layers=[0,2],filter=release")
    assert (plugin.alpha, plugin.layers, plugin.filter) == (1.5, (0, 2), "release")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("vhr:beta=1", "unknown option beta"),
        ("vhr:alpha", "key=value"),
        ("vhr:alpha=-1", "from 0 to 10"),
        ("vhr:alpha=loud", "a number"),
        ("vhr:alpha=NaN", "a number"),
        ("vhr:alpha=true", "a number"),
        ("vhr:filter=maybe", "one of True, False"),
        ("vhr:layers=[]", "a list of layer indices"),
        ("vhr:layers=[-1]", "indices from 0 on"),
        ("vhr:head_map=nowhere.safetensors", "no file nowhere.safetensors"),
    ],
)
def test_an_option_that_does_not_fit_is_refused(text: str, message: str) -> None:
    with pytest.raises(VlmHeadsError, match=message):
        parse_plugin(text)


def test_only_names_and_plugins_are_taken() -> None:
    with pytest.raises(VlmHeadsError, match="a name or a Plugin object"):
        resolve([3])  # type: ignore[list-item]


def test_options_round_trip() -> None:
    plugin = parse_plugin("vhr:alpha=1.5,layers=[0,2]")
    assert type(plugin).from_dict(plugin.to_dict()) == plugin


def test_there_are_at_most_seventeen_public_names() -> None:
    assert len(vlmheads.__all__) <= 17
    for name in vlmheads.__all__:
        assert getattr(vlmheads, name).__name__.rpartition(".")[2] == name
    with pytest.raises(AttributeError, match="no attribute 'attache'"):
        _ = vlmheads.attache


def test_importing_the_library_and_asking_for_help_load_no_torch() -> None:
    for code in (
        "import vlmheads",
        "from vlmheads.cli import main; main(['--help'], standalone_mode=False)",
    ):
        script = f"{code}\nimport sys\nassert 'torch' not in sys.modules\n"
        subprocess.run([sys.executable, "-c", script], check=True, capture_output=True)

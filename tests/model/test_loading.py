"""What `load_model` refuses about a folder from anywhere: no code, no question, one line."""

from __future__ import annotations

import ast
import json
import pickle
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import folders
import pytest
import tiny
import torch
from click.testing import CliRunner
from PIL import Image
from safetensors.torch import load_file, save_file

from vlmheads import Captioner, HeadMap, VlmHeadsError
from vlmheads.cli import main
from vlmheads.model import template as templates
from vlmheads.model.anatomy import examine
from vlmheads.model.fingerprint import model_fingerprint
from vlmheads.model.loading import load_model, saved_dtype

ROOT = Path(__file__).parents[2]
CANARY = """
from pathlib import Path
Path(__file__).with_name("sung").touch()
Path({marker!r}).touch()
class Canary: pass
"""


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return folders.save("llava", tmp_path_factory.mktemp("models") / "llava")


@pytest.fixture
def folder(original: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(original, tmp_path / "model"))


@pytest.fixture
def image(tmp_path: Path) -> Path:
    (tmp_path / "images").mkdir()
    path = tmp_path / "images" / "image.png"
    Image.new("RGB", (20, 20), "green").save(path)
    return path


def refused(folder: Path, match: str) -> None:
    """Loading is refused, in one line of bounded length, in bounded time."""
    start = time.monotonic()
    with pytest.raises(VlmHeadsError, match=match) as refusal:
        load_model(str(folder))
    assert time.monotonic() - start < 30
    assert "\n" not in str(refusal.value)
    assert len(str(refusal.value)) < 600 + 2 * len(str(folder))


def edit(folder: Path, file: str, change: Callable[[dict[str, Any]], None]) -> None:
    path = folder / file
    found = json.loads(path.read_text()) if path.exists() else {}
    change(found)
    path.write_text(json.dumps(found))


def weights(folder: Path, change: Callable[[dict[str, torch.Tensor]], Any]) -> None:
    path = folder / "model.safetensors"
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path, metadata={"format": "pt"})


# --- code ---------------------------------------------------------------------------------------

MAPS = {
    "config.json": {"AutoConfig": "canary.Canary", "AutoModelForImageTextToText": "canary.Canary"},
    "processor_config.json": {"AutoProcessor": "canary.Canary"},
    "tokenizer_config.json": {"AutoTokenizer": ["canary.Canary", "canary.Canary"]},
    "preprocessor_config.json": {"AutoImageProcessor": "canary.Canary"},
    "video_preprocessor_config.json": {"AutoVideoProcessor": "canary.Canary"},
}


@pytest.fixture
def silent(monkeypatch: pytest.MonkeyPatch) -> None:
    """Answer yes to any question, and fail for it: whoever asks would be told yes."""

    def answer(prompt: str = "") -> str:
        asked.append(prompt)
        return "y"

    asked: list[str] = []
    monkeypatch.setattr("builtins.input", answer)
    yield
    assert asked == []


def plant(folder: Path, files: dict[str, dict[str, Any]], marker: Path) -> None:
    (folder / "canary.py").write_text(CANARY.format(marker=str(marker)))
    for file, names in files.items():
        edit(folder, file, lambda found, names=names: found.update(auto_map=names))


def unknown(folder: Path) -> None:
    edit(folder, "config.json", lambda found: found.update(model_type="canary"))


def loaders(folder: Path, image: Path, tmp_path: Path) -> dict[str, Callable[[], object]]:
    """Everything that loads a model by a name that the user gives."""
    maps = tmp_path / "gains.safetensors"
    geometry = examine(tiny.build("llava")).geometry
    HeadMap(torch.ones(1, geometry.layers, geometry.heads), geometry, "gain").save(maps)

    def command(*arguments: object) -> Callable[[], object]:
        def call() -> object:
            done = CliRunner().invoke(main, [str(item) for item in arguments], input="y\ny\ny\n")
            assert done.exit_code == 2, done.output
            assert len(done.stderr.splitlines()) == 1, done.stderr
            raise VlmHeadsError(done.stderr)

        return call

    return {
        "load_model": lambda: load_model(str(folder)),
        "Captioner": lambda: Captioner.from_pretrained(str(folder)),
        "caption": command("caption", image, "--model", folder),
        "detect": command("detect", image, "--model", folder),
        "bake": command("bake", folder, maps, tmp_path / "out"),
        "predict": command(
            "eval", "predict", "--num", 1, "--model", folder, "--out", tmp_path / "p"
        ),
        "calibrate": command("calibrate", "--num", 2, "--model", folder, "--out", tmp_path / "c"),
    }


LOADERS = ("load_model", "Captioner", "caption", "detect", "bake", "predict", "calibrate")


@pytest.mark.usefixtures("silent")
@pytest.mark.parametrize("loader", LOADERS)
def test_no_loader_runs_code_of_a_folder(
    folder: Path, image: Path, tmp_path: Path, loader: str
) -> None:
    plant(folder, MAPS, tmp_path / "sung")
    unknown(folder)
    with pytest.raises(VlmHeadsError, match="needs code of its own"):
        loaders(folder, image, tmp_path)[loader]()
    assert not (tmp_path / "sung").exists()


@pytest.mark.usefixtures("silent")
def test_what_reads_no_weights_runs_no_code_either(folder: Path, tmp_path: Path) -> None:
    plant(folder, MAPS, tmp_path / "sung")
    unknown(folder)
    assert saved_dtype(str(folder)) == torch.float32
    model_fingerprint(str(folder))
    assert not (tmp_path / "sung").exists()


@pytest.mark.usefixtures("silent")
@pytest.mark.parametrize("file", MAPS)
def test_code_that_is_not_needed_is_left_alone(folder: Path, tmp_path: Path, file: str) -> None:
    plant(folder, {file: MAPS[file]}, tmp_path / "sung")
    load_model(str(folder))
    assert not (tmp_path / "sung").exists()


@pytest.mark.usefixtures("silent")
def test_code_of_a_tokenizer_is_refused_where_no_processor_is_named(
    folder: Path, tmp_path: Path
) -> None:
    """transformers would ask then, whatever it was told."""
    plant(folder, {"tokenizer_config.json": MAPS["tokenizer_config.json"]}, tmp_path / "sung")
    for file in ("processor_config.json", "tokenizer_config.json"):
        edit(folder, file, lambda found: found.pop("processor_class", None))
    edit(folder, "tokenizer_config.json", lambda found: found.update(tokenizer_class="Canary"))
    refused(folder, "names code of its own")
    assert not (tmp_path / "sung").exists()


@pytest.mark.parametrize(
    ("file", "change", "match"),
    [
        ("config.json", {"attn_implementation": "someone/attention"}, "attention code from"),
        ("processor_config.json", {"audio_tokenizer": {"a": "b"}}, "names a second model"),
    ],
)
def test_what_another_place_holds_is_refused(
    folder: Path, file: str, change: dict[str, Any], match: str
) -> None:
    edit(folder, file, lambda found: found.update(change))
    refused(folder, match)


def test_every_call_that_loads_says_that_no_code_is_trusted() -> None:
    """One that says nothing asks on standard input, and `yes |` answers."""
    silent, seen = [], 0
    for package in ("vlmheads", "plugins", "eval", "demo", "testbed", "benchmarks"):
        for path in (ROOT / package).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text())):
                if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
                    continue
                receiver = ast.unparse(node.func.value)
                loads = node.func.attr in ("from_pretrained", "from_config")
                if not loads or receiver.endswith("Captioner"):
                    continue
                seen += 1
                told = {word.arg: ast.unparse(word.value) for word in node.keywords}
                if told.get("trust_remote_code") != "False":
                    silent.append(f"{path.relative_to(ROOT)}:{node.lineno}")
    assert seen >= 8
    assert silent == []


# --- weights ------------------------------------------------------------------------------------


class Bomb:
    """Leaves a file behind when it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self.marker,))


@pytest.mark.parametrize("shard", ["part.bin", "../part.safetensors", "/part.safetensors", 7])
def test_an_index_that_names_other_than_safetensors_is_refused(
    folder: Path, tmp_path: Path, shard: Any
) -> None:
    (folder / "part.bin").write_bytes(pickle.dumps(Bomb(tmp_path / "sung")))
    names = list(load_file(folder / "model.safetensors"))
    (folder / "model.safetensors").rename(folder / "first.safetensors")
    shards = dict.fromkeys(names, "first.safetensors") | {names[-1]: shard}
    edit(
        folder,
        "model.safetensors.index.json",
        lambda found: found.update(metadata={}, weight_map=shards),
    )
    refused(folder, "as a file of weights; expected safetensors")
    assert not (tmp_path / "sung").exists()


def test_an_index_is_followed_and_its_missing_shards_are_named(folder: Path) -> None:
    names = list(load_file(folder / "model.safetensors"))
    (folder / "model.safetensors").rename(folder / "first.safetensors")
    shards = dict.fromkeys(names, "first.safetensors")
    edit(
        folder,
        "model.safetensors.index.json",
        lambda found: found.update(metadata={}, weight_map=shards),
    )
    load_model(str(folder))
    shards[names[0]] = "second.safetensors"
    edit(
        folder,
        "model.safetensors.index.json",
        lambda found: found.update(metadata={}, weight_map=shards),
    )
    refused(folder, "names second.safetensors, which is not there")
    edit(folder, "model.safetensors.index.json", lambda found: found.update(weight_map=[]))
    refused(folder, "no weight_map")


def test_weights_of_another_format_are_refused(folder: Path, tmp_path: Path) -> None:
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps(Bomb(tmp_path / "sung")))
    refused(folder, "expected safetensors weights")
    assert not (tmp_path / "sung").exists()


def test_half_of_the_weights_are_not_made_up(
    folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    def halve(tensors: dict[str, torch.Tensor]) -> None:
        for name in sorted(tensors)[::2]:
            del tensors[name]

    weights(folder, halve)
    refused(folder, r"lack \d+ of its parameters, such as")
    assert "MISSING" not in capfd.readouterr().err, "the refusal is the one line"


def test_weights_that_a_tie_explains_may_be_missing(folder: Path) -> None:
    def untie(tensors: dict[str, torch.Tensor]) -> None:
        (name,) = [name for name in tensors if "lm_head" in name]
        del tensors[name]

    weights(folder, untie)
    refused(folder, r"lack 1 of its parameters, such as lm_head")

    def tie(config: dict[str, Any]) -> None:
        config["tie_word_embeddings"] = config["text_config"]["tie_word_embeddings"] = True

    edit(folder, "config.json", tie)
    model, _ = load_model(str(folder))
    assert model.lm_head.weight is model.get_input_embeddings().weight


@pytest.mark.parametrize("keep", [0, 5, 100, -1])
def test_weights_that_are_cut_short_are_refused(folder: Path, keep: int) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:keep])
    refused(folder, "model.safetensors of .* cannot be read")


def test_weights_of_another_size_are_refused(folder: Path) -> None:
    def shorten(tensors: dict[str, torch.Tensor]) -> None:
        name = next(name for name in tensors if "q_proj" in name and "language" in name)
        tensors[name] = tensors[name][:-1].clone()

    weights(folder, shorten)
    refused(folder, "cannot be loaded")


# --- settings -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("part", "name", "value", "match"),
    [
        ("text_config", "hidden_size", 10**9, "parameters, and its weights|cannot be"),
        ("text_config", "vocab_size", 10**12, "parameters, and its weights|cannot be"),
        ("text_config", "intermediate_size", 10**15, "parameters, and its weights|cannot be"),
        ("text_config", "num_hidden_layers", 10**6, "num_hidden_layers=1000000"),
        ("text_config", "num_hidden_layers", 10**12, "num_hidden_layers"),
        ("text_config", "num_hidden_layers", "many", "cannot be"),
        ("text_config", "num_attention_heads", 10**9, "num_attention_heads"),
        ("text_config", "num_attention_heads", 0, "cannot be"),
        ("vision_config", "num_hidden_layers", 10**6, "vision_config.num_hidden_layers"),
        ("vision_config", "image_size", 10**9, "parameters, and its weights|cannot be"),
        ("vision_config", "hidden_size", -5, "cannot be"),
    ],
)
def test_absurd_sizes_are_refused(
    folder: Path, part: str, name: str, value: Any, match: str
) -> None:
    edit(folder, "config.json", lambda found: found[part].update({name: value}))
    refused(folder, match)


@pytest.mark.parametrize("text", ["", "{", "[]", '"text"', "[" * 100000, '{"a": NaN', "\x00"])
@pytest.mark.parametrize("file", ["config.json", "tokenizer_config.json", "processor_config.json"])
def test_settings_that_are_no_object_are_refused(folder: Path, file: str, text: str) -> None:
    (folder / file).write_text(text)
    refused(folder, f"{file} of .* (cannot be read|holds a)")


def test_settings_that_are_gigabytes_large_are_not_read(folder: Path) -> None:
    for file, size in (("chat_template.jinja", 3), ("config.json", 5000)):
        kept = (folder / file).read_bytes() if (folder / file).exists() else None
        with (folder / file).open("wb") as opened:
            opened.truncate(size * 2**20)  # a file with a hole takes no room
        refused(folder, f"{file} of .* has .* MB")
        (folder / file).unlink()
        if kept is not None:
            (folder / file).write_bytes(kept)


LOOP = "{% for a in range(99999) %}{% for b in range(99999) %}"
END = "{% endfor %}{% endfor %}"


@pytest.mark.parametrize(
    ("template", "match"),
    [
        ("{% for message in messages %}", "TemplateSyntaxError"),
        ("{{ raise_exception('not for images') }}", "not for images"),
        ("{{ nothing.there.at_all }}", "UndefinedError"),
        pytest.param(LOOP + END, "does not end within 4 seconds", id="endless"),
        (LOOP + "words" + END, "does not end within 4 seconds|memory|early"),
        ("{{ 'a' * 10**11 }}", "memory"),
        ("{{ 'a' * 10**7 }}", "10000000 characters"),
        ("{{ ''.__class__.__mro__ }}", "SecurityError|unsafe"),
    ],
)
def test_templates_that_fail_are_refused_before_they_are_used(
    folder: Path, monkeypatch: pytest.MonkeyPatch, template: str, match: str
) -> None:
    monkeypatch.setattr(templates, "TEMPLATE_SECONDS", 4)
    (folder / "chat_template.jinja").write_text(template)
    refused(folder, f"the chat template of .* fails .*({match})")


def test_a_model_without_a_template_is_refused(folder: Path) -> None:
    (folder / "chat_template.jinja").unlink()
    refused(folder, "has no chat template")

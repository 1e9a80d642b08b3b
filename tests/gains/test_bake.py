"""A baked checkpoint: the files of another with only its projections changed, and what it says."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
import transformers
from click.testing import CliRunner, Result
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor
from vlmheads_testbed import embedded_model

import vlmheads
from vlmheads import HeadMap, VlmHeadsError
from vlmheads.cli import main
from vlmheads.gains.bake import bake
from vlmheads.gains.folds import Fold, combined
from vlmheads.model.anatomy import examine
from vlmheads.model.geometry import Geometry
from vlmheads.plugin import Plugin
from vlmheads.registry import get_plugin, installed

FAMILIES = ["llava", "llava-gqa", "llava_next", "qwen2_vl", "qwen3_vl", "gemma3", "smolvlm"]


def gains_of(model: Any, seed: int = 3) -> HeadMap:
    geometry = examine(model).geometry
    generator = torch.Generator().manual_seed(seed)
    values = 0.5 + torch.rand(2, geometry.layers, geometry.heads, generator=generator)
    values[:, 1] = 1  # a layer without gains
    return HeadMap(values, geometry, "gain")


def gains_plugin(model: Any) -> Plugin:
    return get_plugin("gains")(head_map=gains_of(model))  # type: ignore[call-arg]


def saved(folder: Path, family: str, **options: Any) -> tuple[Any, dict[str, Tensor]]:
    model = tiny.build(family)
    model.save_pretrained(folder, **options)
    return model, tiny.inputs(family, (5, 3))


def logits(model: Any, inputs: dict[str, Tensor]) -> Tensor:
    with torch.no_grad():
        found: Tensor = model(**inputs, use_cache=False).logits
    return found


def attached(model: Any, inputs: dict[str, Tensor], plugin: Plugin) -> Tensor:
    plain = logits(model, inputs)
    with vlmheads.attach(model, plugin):
        found = logits(model, inputs)
    assert float((found - plain).abs().max()) > 1e-3
    return found


def tensors(folder: Path) -> dict[str, Tensor]:
    return {
        k: v for file in sorted(folder.glob("*.safetensors")) for k, v in load_file(file).items()
    }


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


@pytest.mark.parametrize("family", FAMILIES)
def test_the_checkpoint_does_what_the_attached_plugin_does(tmp_path: Path, family: str) -> None:
    model, inputs = saved(tmp_path / "before", family)
    plugin = gains_plugin(model)
    done = bake(str(tmp_path / "before"), tmp_path / "after", [plugin])
    loaded = type(model).from_pretrained(tmp_path / "after").eval()
    wanted = attached(model, inputs, plugin)
    torch.testing.assert_close(logits(loaded, inputs), wanted, atol=1e-5, rtol=0)
    before, after = tensors(tmp_path / "before"), tensors(tmp_path / "after")
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed == set(done.changed)
    assert len(changed) == 3
    assert list(before) == list(after)


def test_shards_keep_their_tensors_and_index(tmp_path: Path) -> None:
    before, after = tmp_path / "before", tmp_path / "after"
    model, inputs = saved(before, "llava", max_shard_size="20KB")
    names = sorted(file.name for file in before.glob("*.safetensors"))
    assert len(names) > 2
    plugin = gains_plugin(model)
    done = bake(str(before), after, [plugin])
    assert sorted(file.name for file in after.glob("*.safetensors")) == names
    index = "model.safetensors.index.json"
    assert (before / index).read_bytes() == (after / index).read_bytes()
    same = [name for name in names if (before / name).read_bytes() == (after / name).read_bytes()]
    weights = json.loads((before / index).read_text())["weight_map"]
    assert set(names) - set(same) == {weights[name] for name in done.changed}
    loaded = type(model).from_pretrained(after).eval()
    torch.testing.assert_close(
        logits(loaded, inputs), attached(model, inputs, plugin), atol=1e-5, rtol=0
    )


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_data_types_metadata_and_every_other_byte_stay(tmp_path: Path, dtype: torch.dtype) -> None:
    before, after = tmp_path / "before", tmp_path / "after"
    model = tiny.build("llava")
    model.save_pretrained(before)
    file = before / "model.safetensors"
    held = {name: value.to(dtype) for name, value in load_file(file).items()}
    save_file(held, file, metadata={"format": "pt", "note": "kept"})
    plugin = gains_plugin(model)
    done = bake(str(before), after, [plugin])
    old, new = file.read_bytes(), (after / file.name).read_bytes()
    assert len(old) == len(new)
    start = 8 + int.from_bytes(old[:8], "little")
    assert old[:start] == new[:start]
    with safe_open(after / file.name, "pt") as opened:
        assert opened.metadata() == {"format": "pt", "note": "kept"}
    found = load_file(after / file.name)
    factors = plugin.head_map.mean()  # type: ignore[attr-defined]
    for name, value in held.items():
        if name not in done.changed:
            assert torch.equal(value, found[name])
            continue
        layer = int(name.split("layers.")[1].split(".")[0])
        size = value.shape[1] // factors.shape[1]
        wanted = value.double() * factors[layer].double().repeat_interleave(size)
        assert torch.equal(found[name], wanted.to(dtype))


def test_other_files_are_kept_and_stale_weights_are_not(tmp_path: Path) -> None:
    before, after = tmp_path / "before", tmp_path / "after"
    model, _ = saved(tmp_path / "blobs", "llava")
    before.mkdir()  # as a hub's cache: links to files elsewhere
    for file in (tmp_path / "blobs").iterdir():
        (before / file.name).symlink_to(file)
    (before / "README.md").write_text("---\nlicense: mit\n---\n# A model\n")
    (before / "extra").mkdir()
    (before / "extra" / "anything.xyz").write_bytes(b"\x00\x01")
    (before / "pytorch_model.bin").write_bytes(b"old")
    (before / "grounding.json").write_text("{}")
    done = bake(str(before), after, [gains_plugin(model)])
    assert (after / "extra" / "anything.xyz").read_bytes() == b"\x00\x01"
    assert not (after / "pytorch_model.bin").exists()
    assert set(done.left_out) == {"pytorch_model.bin", "grounding.json"}
    assert not any(file.is_symlink() for file in after.rglob("*"))
    card = (after / "README.md").read_text()
    assert card.startswith("---\nlicense: mit\n---\n# A model\n")
    for text in ("## Baked with vlmheads", "`gains`", str(before)):
        assert text in card
    record = json.loads((after / "vlmheads.json").read_text())
    assert record["changed"] == list(done.changed)
    assert record["baked"][0]["name"] == "gains"
    again = bake(str(after), tmp_path / "twice", [gains_plugin(model)])
    assert (again.folder / "README.md").read_text().count("## Baked with vlmheads") == 2


@pytest.mark.parametrize(
    ("first", "second"),
    [("published", "hf"), ("hf", "published")],
)
def test_layouts_rename_the_tower_and_load_the_same(
    tmp_path: Path, first: str, second: str
) -> None:
    model, inputs = saved(tmp_path / "before", "llava", max_shard_size="20KB")
    plugin = gains_plugin(model)
    wanted = attached(model, inputs, plugin)
    bake(str(tmp_path / "before"), tmp_path / first, [plugin], layout=first)
    ones = HeadMap(torch.full((1, 4, 4), 0.5), examine(model).geometry, "gain")
    twice = HeadMap(torch.full((1, 4, 4), 2.0), examine(model).geometry, "gain")
    gains = get_plugin("gains")
    bake(str(tmp_path / first), tmp_path / "half", [gains(head_map=ones)], layout=second)  # type: ignore[call-arg]
    bake(str(tmp_path / "half"), tmp_path / "whole", [gains(head_map=twice)], layout=second)  # type: ignore[call-arg]
    for name, layout in ((first, first), ("whole", second)):
        names = set(tensors(tmp_path / name))
        tower = {name for name in names if "vision_tower" in name}
        inner = {name for name in tower if "vision_tower.vision_model." in name}
        assert inner == (tower if layout == "published" else set())
        index = json.loads((tmp_path / name / "model.safetensors.index.json").read_text())
        assert set(index["weight_map"]) == names
        loaded = type(model).from_pretrained(tmp_path / name).eval()
        torch.testing.assert_close(logits(loaded, inputs), wanted, atol=1e-5, rtol=0)


def test_a_layout_of_a_tower_that_is_not_known_is_refused(tmp_path: Path) -> None:
    model, _ = saved(tmp_path / "before", "qwen2_vl")
    with pytest.raises(VlmHeadsError, match="layout 'published' for a model with the vision tower"):
        bake(str(tmp_path / "before"), tmp_path / "out", [gains_plugin(model)], layout="published")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("names", ["as saved", "5.0", "published"])
def test_weights_under_other_names_are_found(tmp_path: Path, names: str) -> None:
    """Checkpoints of several years of transformers, which it renames when it loads them."""
    before = tmp_path / "before"
    model, inputs = saved(before, "llava")
    held = load_file(before / "model.safetensors")
    held = {
        {
            "as saved": name,
            "5.0": f"model.{name}".replace("language_model.model.", "language_model.").replace(
                "model.language_model.lm_head", "lm_head"
            ),
            "published": name.replace("vision_tower.", "vision_tower.vision_model."),
        }[names]: value
        for name, value in held.items()
    }
    save_file(held, before / "model.safetensors", metadata={"format": "pt"})
    plugin = gains_plugin(model)
    bake(str(before), tmp_path / "after", [plugin])
    loaded, info = type(model).from_pretrained(tmp_path / "after", output_loading_info=True)
    assert not info["missing_keys"]
    wanted = attached(model, inputs, plugin)
    torch.testing.assert_close(logits(loaded.eval(), inputs), wanted, atol=1e-5, rtol=0)


@pytest.mark.parametrize("kind", ["int8", "packed"])
def test_quantised_projections_are_refused_before_anything_is_written(
    tmp_path: Path, kind: str
) -> None:
    before = tmp_path / "before"
    model, _ = saved(before, "llava")
    held = load_file(before / "model.safetensors")
    name = "language_model.model.layers.0.self_attn.o_proj.weight"
    weight = held.pop(name)
    if kind == "int8":
        held[name] = weight.to(torch.int8)
    else:
        held[name.replace(".weight", ".qweight")] = weight.to(torch.int32)
    save_file(held, before / "model.safetensors", metadata={"format": "pt"})
    expected = "stored as I8" if kind == "int8" else "o_proj.qweight"
    with pytest.raises(VlmHeadsError, match=expected):
        bake(str(before), tmp_path / "after", [gains_plugin(model)])
    assert sorted(file.name for file in tmp_path.iterdir()) == ["before"]


def test_a_folder_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    model, _ = saved(tmp_path / "before", "llava")
    (tmp_path / "file").write_text("")
    with pytest.raises(VlmHeadsError, match="cannot be written"):
        bake(str(tmp_path / "before"), tmp_path / "file" / "after", [gains_plugin(model)])
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "something").write_text("")
    with pytest.raises(VlmHeadsError, match="full exists"):
        bake(str(tmp_path / "before"), tmp_path / "full", [gains_plugin(model)])


def test_the_embedded_model_is_baked_and_checked_from_the_command_line(tmp_path: Path) -> None:
    model = vlmheads.Captioner.from_pretrained("embedded", ()).model
    gains = tmp_path / "gains.safetensors"
    gains_of(model).save(gains)
    done = run("bake", "embedded", gains, tmp_path / "baked", "--check")
    assert done.exit_code == 0, done.output
    assert "7 tensors changed" in done.stdout
    assert "3 of 3 captions" in done.stdout
    assert "left out: grounding.json" in done.stderr
    loaded = transformers.AutoModelForImageTextToText.from_pretrained(
        tmp_path / "baked", dtype=torch.float32
    )
    processor = transformers.AutoProcessor.from_pretrained(tmp_path / "baked", backend="pil")
    captioner = vlmheads.Captioner(loaded.eval(), processor, ())
    picture = Image.new("RGB", (112, 112), "green")
    inputs = dict(captioner.prepare([picture], "Describe the image."))
    wanted = attached(model, inputs, gains_plugin(model))
    scale = float(wanted.abs().max())
    torch.testing.assert_close(logits(loaded, inputs), wanted, atol=1e-3 * scale, rtol=0)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("out",), "nothing to bake"),
        (("out", "--plugin", "vcd"), "vcd cannot be written into weights: it contrasts"),
        (("out", "--plugin", "vhr"), "it chooses heads anew for each prompt"),
        (("out", "--plugin", "pai"), "it edits attention"),
        (("out", "--plugin", "vista"), "cannot be written into weights"),
        (("out", "--plugin", "allpath:suppressed=[[1,1]],low=1,high=1"), "gains that are all 1"),
        (("out", "--plugin", "adhh:heads=[[99,1]]"), "names (layer, head) [(99, 1)]"),
        (("out", "--plugin", "vcd", "--strength", "2"), "--strength without a HEAD_MAP"),
        (("no.safetensors", "out"), "no.safetensors"),
    ],
)
def test_what_cannot_be_baked_is_refused_by_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], expected: str
) -> None:
    monkeypatch.chdir(tmp_path)
    done = run("bake", "embedded", *arguments)
    assert (done.exit_code, done.stdout) == (2, ""), done.output
    assert expected in done.stderr
    assert not list(tmp_path.iterdir())


def test_adhh_is_folded_without_its_gate_and_says_so(tmp_path: Path) -> None:
    done = run("bake", "embedded", tmp_path / "out", "--plugin", "adhh:heads=[[3,2]]", "--check")
    assert done.exit_code == 0, done.output
    assert "folded without its gate" in done.stderr
    assert "Not quite what the plugin does" in (tmp_path / "out" / "README.md").read_text()
    name = "language_model.model.layers.3.self_attn.o_proj.weight"
    before, after = (tensors(folder)[name] for folder in (embedded_model(), tmp_path / "out"))
    size = before.shape[1] // 8
    assert not after[:, 2 * size : 3 * size].any()
    assert torch.equal(after[:, 3 * size :], before[:, 3 * size :])


def _with_map(name: str, head_map: HeadMap) -> Plugin:
    return get_plugin(name)(head_map=head_map)  # type: ignore[call-arg]


@pytest.mark.parametrize("name", ["vhr", "spin", "allpath"])
def test_heads_chosen_by_a_map_fold_to_what_is_attached(tmp_path: Path, name: str) -> None:
    model, inputs = saved(tmp_path / "before", "llava")
    geometry = examine(model).geometry
    values = torch.rand(1, 4, 4, generator=torch.Generator().manual_seed(1))
    options = {"spin": {"keep": 0.5}, "allpath": {"count": 3, "normalise": True}}.get(name, {})
    plugin = get_plugin(name)(head_map=HeadMap(values, geometry, "vhd"), **options)
    done = bake(str(tmp_path / "before"), tmp_path / "after", [plugin])
    loaded = type(model).from_pretrained(tmp_path / "after").eval()
    wanted, found = attached(model, inputs, plugin), logits(loaded, inputs)
    close = torch.allclose(found, wanted, atol=1e-5)
    assert close == (not done.note)  # spin acts from the last position of the prompt on


@pytest.mark.parametrize("name", sorted(installed()))
def test_a_plugin_folds_to_nothing_in_its_neutral_form_or_has_no_fold(name: str) -> None:
    geometry = Geometry("llava", 4, 4)
    fold = get_plugin(name).neutral().fold(geometry)
    assert fold is None or fold.gains is None or bool((fold.gains == 1).all())


def test_directions_are_projected_out_of_an_mlp(tmp_path: Path) -> None:
    class Removing(Plugin):
        name = "removing"

        def fold(self, geometry: Geometry) -> Fold:
            generator = torch.Generator().manual_seed(2)
            return Fold(removed={2: torch.linalg.qr(torch.randn(32, 3, generator=generator)).Q})

    saved(tmp_path / "before", "llava")
    done = bake(str(tmp_path / "before"), tmp_path / "after", [Removing()])
    assert done.changed == ("language_model.model.layers.2.mlp.down_proj.weight",)
    weight = tensors(tmp_path / "after")[done.changed[0]]
    before = tensors(tmp_path / "before")[done.changed[0]]
    basis = Removing().fold(Geometry("llava", 4, 4)).removed[2]
    torch.testing.assert_close(basis.T @ weight, torch.zeros(3, weight.shape[1]), atol=1e-6, rtol=0)
    torch.testing.assert_close(weight + basis @ (basis.T @ before), before, atol=1e-5, rtol=0)
    with pytest.raises(VlmHeadsError, match="two plugins that edit the MLP of layer 2"):
        combined([Removing(), Removing()], Geometry("llava", 4, 4))


def test_nullu_folds_to_what_is_attached(tmp_path: Path) -> None:
    from vlmheads.learned import Learned

    model, inputs = saved(tmp_path / "before", "llava")
    generator = torch.Generator().manual_seed(4)
    basis = torch.linalg.qr(torch.randn(4, 32, 5, generator=generator)).Q
    learned = Learned("nullu", {"basis": basis}, examine(model).geometry)
    plugin = get_plugin("nullu")(basis=learned, rank=3, layers=(1, 3))  # type: ignore[call-arg]
    done = bake(str(tmp_path / "before"), tmp_path / "after", [plugin])
    assert [name.split("layers.")[1] for name in done.changed] == [
        "1.mlp.down_proj.weight",
        "3.mlp.down_proj.weight",
    ]
    loaded = type(model).from_pretrained(tmp_path / "after").eval()
    wanted = attached(model, inputs, plugin)
    torch.testing.assert_close(logits(loaded, inputs), wanted, atol=1e-5, rtol=0)


def test_an_interrupted_bake_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, _ = saved(tmp_path / "before", "llava")

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(shutil, "copyfile", full)
    with pytest.raises(VlmHeadsError, match="No space left on device"):
        bake(str(tmp_path / "before"), tmp_path / "after", [gains_plugin(model)])
    assert sorted(file.name for file in tmp_path.iterdir()) == ["before"]

"""A checkpoint with plugins written into its weights, made from the files of another one.

Nothing is loaded as a model: files are copied, and of the weights only the projections that change
are rewritten, one tensor at a time. Names, shards, data types, tokenizer and whatever else lies in
the folder stay as they are.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import torch
from huggingface_hub import snapshot_download
from torch import Tensor
from transformers import AutoModelForImageTextToText

from vlmheads.errors import VlmHeadsError
from vlmheads.gains import card, shards
from vlmheads.gains.adapter import plain_linear, projection_factors
from vlmheads.gains.folds import Fold, combined
from vlmheads.gains.names import KEEP, renamed
from vlmheads.model.anatomy import Anatomy, examine
from vlmheads.model.loading import check_kind, load_config, locate
from vlmheads.model.saved import INDEX, check_architecture, check_weights, weight_files
from vlmheads.plugin import Plugin
from vlmheads.printable import in_short
from vlmheads.runtime.compat import parameter_names

T = TypeVar("T")
# Weights in other formats, which would still be those of the model before.
_OTHER_WEIGHTS = (".bin", ".pt", ".pth", ".ckpt", ".gguf", ".h5", ".msgpack", ".ot", ".onnx")
# A scorer of words, and which words need the picture, are those of one checkpoint.
_FITTED = ("grounding.json", "visualness.json")


@dataclass(frozen=True)
class Baked:
    """What was written.

    Args:
        folder: the new checkpoint.
        changed: names of the tensors that were changed, as they are in the new files.
        left_out: files of the old folder that are not in the new one, each with the reason.
        note: in which way the checkpoint is not what the plugins do; empty where it is the same.
    """

    folder: Path
    changed: tuple[str, ...]
    left_out: Mapping[str, str] = field(default_factory=dict)
    note: str = ""


def bake(model: str, out: str | Path, plugins: Iterable[Plugin], *, layout: str = KEEP) -> Baked:
    """Write plugins into the weights of a saved model, and save it as another one.

    What a plugin does only to prompts with an image, the new checkpoint does to all prompts. The
    memory needed is that of the largest projection.

    Args:
        model: a packaged model, a folder, or a hub id.
        out: a folder, new or empty; it appears when everything is written.
        plugins: those whose effect is a constant on each head or MLP, in the order in which they
            act; see `Plugin.fold`.
        layout: how the tensors are called: "keep", "published" or "hf"; see `vlmheads.gains.names`.

    Raises:
        VlmHeadsError: a model or plugin that cannot be used, weights that are not stored in
            floating point (quantised checkpoints), or a folder that cannot be written.
    """
    out = Path(out)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise VlmHeadsError(f"{out} exists", "a new or empty folder")
    plugins = tuple(plugins)
    source = _folder(locate(model), model)
    config, written = load_config(model, str(source))
    check_kind(config, written, model)
    check_architecture(config, model, check_weights(str(source), model, written))
    anatomy = _empty(config)
    fold = combined(plugins, anatomy.geometry)
    files = weight_files(str(source), model, written)
    headers = {name: shards.read_header(path) for name, path in files.items()}
    held = [name for header in headers.values() for name in header.entries]

    def stored(parameter: str) -> Tensor:
        """Return a parameter as it is in the files."""
        (name,) = _by_name({parameter: parameter}, held, anatomy)
        file = next(file for file, header in headers.items() if name in header.entries)
        return shards.read(files[file], name)

    edits = _by_name(_edits(fold, anatomy, stored), held, anatomy)
    tower = getattr(getattr(config, "vision_config", None), "model_type", "")
    names = renamed(held, layout, tower)
    left_out = dict(_left_out(source, files))
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{out.name}-", dir=out.parent) as temporary:
            new = Path(temporary) / "checkpoint"
            _copy_rest(source, new, {*files, INDEX, *left_out})
            for file, path in files.items():
                here = headers[file].entries
                shards.copy(
                    path,
                    new / file,
                    {name: edit for name, edit in edits.items() if name in here},
                    {old: now for old, now in names.items() if old in here},
                )
            if (source / INDEX).is_file():
                _write_index(source / INDEX, new / INDEX, names)
            changed = tuple(names.get(name, name) for name in edits)
            card.write(new, model, plugins, fold.note, changed, layout)
            if out.exists():
                out.rmdir()
            new.rename(out)
    except OSError as error:
        # What copytree raises lists every file.
        first = error.args[0][0][-1] if isinstance(error, shutil.Error) else error
        raise VlmHeadsError(
            f"{out} cannot be written ({in_short(first)})",
            "a folder on a disk with room for the checkpoint",
        ) from error
    return Baked(out, changed, left_out, fold.note)


def _folder(source: str, model: str) -> Path:
    """Return the folder of a located model, fetched where it is a hub id."""
    if Path(source).is_dir():
        return Path(source)
    try:
        return Path(snapshot_download(source))
    except Exception as error:  # the hub's client raises many kinds
        raise VlmHeadsError(
            f"{model} cannot be fetched ({in_short(error)})",
            todo="check the connection and the id, or name a folder with a saved model",
        ) from error


def empty_model(model: str) -> Anatomy:
    """Return the parts of a saved model without its weights.

    Raises:
        VlmHeadsError: it cannot be found or built.
    """
    config, written = load_config(model, locate(model))
    check_kind(config, written, model)
    return _empty(config)


def _empty(config: Any) -> Anatomy:
    """Return the parts of a model without its weights."""
    with torch.device("meta"):
        model = AutoModelForImageTextToText.from_config(config, trust_remote_code=False)
    return examine(model)


def _edits(fold: Fold, anatomy: Anatomy, stored: Callable[[str], Tensor]) -> dict[str, shards.Edit]:
    """Return what becomes of the parameters that a fold changes, by their names in the model.

    Args:
        fold: the change.
        anatomy: the parts of the model.
        stored: gives a parameter by its name, as it was before.
    """
    modules: dict[int, str] = {}
    for name, module in anatomy.model.named_modules(remove_duplicate=False):
        if modules.setdefault(id(module), name) != name:
            modules[id(module)] = ""  # in more than one place
    edits: dict[str, shards.Edit] = {}

    def add(module: Any, layer: int, parameter: str, edit: shards.Edit) -> None:
        name = modules[id(module)]
        if not name:
            raise VlmHeadsError(
                f"a projection of layer {layer} that other layers use, too", "one for each layer"
            )
        edits[f"{name}.{parameter}"] = edit

    if fold.gains is not None:
        for layer, factors in projection_factors(fold.gains, anatomy).items():
            add(anatomy.projections[layer], layer, "weight", _scaled(factors))
    for layer, offsets in fold.offsets.items():
        projection = plain_linear(anatomy.projections[layer], layer)
        if projection.bias is None:
            raise VlmHeadsError(
                f"vectors to add to heads of layer {layer}, whose output projection has no bias",
                "an architecture with one, which can hold what the projection makes of them",
                "keep the plugin attached: vlmheads.attach, or `vlmheads serve`",
            )
        add(
            projection,
            layer,
            "bias",
            _shifted(offsets, partial(stored, f"{modules[id(projection)]}.weight")),
        )
    for layer, basis in fold.removed.items():
        down = plain_linear(getattr(anatomy.mlps[layer], "down_proj", None), layer)
        add(down, layer, "weight", _without(basis))
        if down.bias is not None:
            add(down, layer, "bias", _without(basis))
    return edits


def _scaled(factors: Tensor) -> shards.Edit:
    """Multiply the columns of a weight [E, heads * D]."""
    return lambda weight: weight.double() * factors.double()


def _shifted(offsets: Tensor, weight: Callable[[], Tensor]) -> shards.Edit:
    """Add to a bias [E] what a weight [E, heads * D] makes of offsets [H, D] on the heads."""

    def edit(bias: Tensor) -> Tensor:
        matrix = weight().double()
        return bias.double() + matrix @ offsets.double().flatten()[: matrix.shape[1]]

    return edit


def _without(basis: Tensor) -> shards.Edit:
    """Project directions [E, k] out of a weight [E, M] or a bias [E]."""
    directions = basis.double()
    return lambda weight: weight.double() - directions @ (directions.T @ weight.double())


def _by_name(edits: Mapping[str, T], held: list[str], anatomy: Anatomy) -> dict[str, T]:
    """Return what belongs to parameters by the names of the tensors in the files."""
    parameters = parameter_names(anatomy.model, held)
    tensors = {parameter: name for name, parameter in parameters.items() if parameter}
    if missing := [parameter for parameter in edits if parameter not in tensors]:
        stem = missing[0].rpartition(".")[0].rpartition("layers.")[2]
        others = [name for name in held if f"layers.{stem}." in name]
        stored = f"; its tensors are {', '.join(others)}" if others else ""
        raise VlmHeadsError(
            f"{missing[0]} is not stored as a tensor of its own{stored}",
            "a checkpoint whose projections are plain weights",
            "bake the checkpoint before it is quantised, or keep the plugin attached",
        )
    return {tensors[parameter]: edit for parameter, edit in edits.items()}


def _left_out(source: Path, files: Mapping[str, Path]) -> Iterable[tuple[str, str]]:
    """Yield files that would bring the weights of before, each with the reason."""
    for path in sorted(source.rglob("*")):
        name = str(path.relative_to(source))
        if path.is_dir() or name in files:
            continue
        if name in _FITTED:
            yield name, "it was fitted on the checkpoint before"
        elif path.suffix in _OTHER_WEIGHTS or path.name.startswith("consolidated"):
            yield name, "weights without the change"


def _copy_rest(source: Path, target: Path, left_out: set[str]) -> None:
    """Copy a folder, links as what they point at, but for files that are named."""

    def ignored(folder: str, names: list[str]) -> list[str]:
        inside = Path(folder).relative_to(source)
        hidden = [name for name in names if name in (".git", ".cache")]
        return [name for name in names if str(inside / name) in left_out] + hidden

    shutil.copytree(source, target, ignore=ignored)


def _write_index(source: Path, target: Path, names: Mapping[str, str]) -> None:
    """Write the index of shards, under the new names."""
    if not names:
        shutil.copyfile(source, target)
        return
    index = json.loads(source.read_text(encoding="utf-8"))
    index["weight_map"] = {
        names.get(name, name): shard for name, shard in index["weight_map"].items()
    }
    target.write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")

"""What is checked about a saved model before any of it is built, since it may come from anywhere.

Files are checked for size, configs for code and for sizes that the weights do not bear out, weights
for their format, and the chat template is tried in a process of its own.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any

import msgspec
import torch
from safetensors import SafetensorError, safe_open
from transformers import AutoModelForImageTextToText
from transformers.utils.hub import cached_file

from vlmheads.errors import VlmHeadsError
from vlmheads.printable import in_short
from vlmheads.schema import convert

MEGABYTE = 2**20
WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
# Files that hold settings, those of them that may hold a template, and those that name a processor.
_PROCESSING = (
    "processor_config.json",
    "preprocessor_config.json",
    "video_preprocessor_config.json",
    "tokenizer_config.json",
)
_SETTINGS = ("config.json", "generation_config.json", "chat_template.json", *_PROCESSING)
_LARGEST = {".jinja": 1, ".json": 16, ".txt": 256, ".model": 256}  # megabytes, by suffix
_VOCABULARIES = ("tokenizer.json", "vocab.json")
_LARGEST_VOCABULARY = 256
# Numbers in a config that no model has, whatever its weights say.
_LAYERS, _PARTS, _TOKENS = 1024, 65536, 2**24
# A packed weight may stand for this many numbers.
_PACKED = 16
_SLACK = 2**24


def check_files(source: str, name: str) -> dict[str, Any]:
    """Check the small files of a saved model and return its config as it was written.

    Args:
        source: a folder or a hub id.
        name: what the user calls it.

    Raises:
        VlmHeadsError: a file that is too large or no JSON object, a config that asks for code from
            elsewhere, or one with absurd numbers of layers.
    """
    folder = Path(source)
    for file in (*folder.glob("*"), *folder.glob("*/*.jinja")) if folder.is_dir() else ():
        _check_size(file, name)
    found = {file: _settings(source, file, name) for file in _SETTINGS}
    config = found["config.json"]
    if config is None:
        raise VlmHeadsError(
            f"{name} cannot be loaded (no config.json)",
            todo="" if folder.is_dir() else "check the connection and the id, or name a folder",
        )
    _refuse_code(found, name)
    _check_generation(found, name)
    for path, number in _numbers(config):
        key = path.rsplit(".", 1)[-1]
        if ("layers" in key and number > _LAYERS) or (key.startswith("num_") and number > _PARTS):
            raise VlmHeadsError(f"config.json of {name} says {path}={number}", "a size of a model")
    return config


def check_weights(source: str, name: str, config: Mapping[str, Any]) -> int:
    """Check that weights are whole files in the safetensors format; only their headers are read.

    Returns:
        How many numbers they hold; 0 where a hub id names no such file.

    Raises:
        VlmHeadsError: what `weight_files` refuses, or a file that is cut short.
    """
    files = weight_files(source, name, config)
    return sum(_count(part, shard, name) for shard, part in files.items())


def weight_files(source: str, name: str, config: Mapping[str, Any]) -> dict[str, Path]:
    """Return where the files of a model's weights are, by name; none where a hub id names none.

    Args:
        source: a folder or a hub id.
        name: what the user calls it.
        config: its config as it was written, which may name the file.

    Raises:
        VlmHeadsError: no weights in a folder, an index that names other files, or a missing file.
    """
    chosen = str(config.get("transformers_weights") or WEIGHTS)
    file = _find(source, _plain(chosen, name))
    if file is None and chosen == WEIGHTS:
        chosen = INDEX
        file = _find(source, INDEX)
    if file is None:
        if Path(source).is_dir():
            raise VlmHeadsError(f"{name} holds no {WEIGHTS} and no {INDEX}", "safetensors weights")
        return {}
    if not chosen.endswith(".index.json"):
        return {chosen: file}
    shards = _json(file, name).get("weight_map")
    if not isinstance(shards, dict) or not shards:
        raise VlmHeadsError(f"{chosen} of {name} has no weight_map", "names of shards")
    parts = {
        shard: _find(source, _plain(shard, name))
        for shard in dict.fromkeys(map(str, shards.values()))
    }
    if missing := [shard for shard, part in parts.items() if part is None]:
        raise VlmHeadsError(f"{chosen} of {name} names {missing[0]}, which is not there")
    return {shard: part for shard, part in parts.items() if part is not None}


def check_architecture(config: Any, name: str, held: int) -> None:
    """Check that the model that a config describes is about as large as its weights.

    It is built on the meta device, without memory for its weights.

    Args:
        config: the config of transformers.
        name: what the user calls the model.
        held: how many numbers its weights hold.

    Raises:
        VlmHeadsError: a model of over twice the size, or one that cannot be built.
    """
    try:
        with torch.device("meta"):
            model = AutoModelForImageTextToText.from_config(config, trust_remote_code=False)
    except Exception as error:
        raise VlmHeadsError(f"{name} cannot be built ({in_short(error)})") from error
    needed = sum(parameter.numel() for parameter in model.parameters())
    factor = _PACKED if getattr(config, "quantization_config", None) else 2
    if needed > factor * held + _SLACK:
        raise VlmHeadsError(
            f"config.json of {name} describes a model of {needed:,} parameters, and its weights "
            f"hold {held:,}",
            "the config that the weights were saved with",
        )


def _refuse_code(found: Mapping[str, Mapping[str, Any] | None], name: str) -> None:
    """Refuse settings by which transformers would ask on stdin, or load what another place holds.

    What `trust_remote_code=False` already covers is left to it.
    """
    settings = {file: part for file, part in found.items() if part}
    named = any("processor_class" in part for part in settings.values())
    for file, part in settings.items():
        if "auto_map" in part and file in _PROCESSING and not named:
            raise VlmHeadsError(
                f"{file} of {name} names code of its own (auto_map), which is never run",
                "a model of a class that transformers has",
            )
        if "audio_tokenizer" in part and file in _PROCESSING:
            raise VlmHeadsError(f"{file} of {name} names a second model (audio_tokenizer)")
    for path, value in _leaves(settings.get("config.json") or {}):
        if "attn_implementation" in path and isinstance(value, str) and "/" in value:
            raise VlmHeadsError(
                f"config.json of {name} names attention code from elsewhere ({value!r}), which is "
                "never run",
                "an attention of transformers, such as sdpa",
            )


class _Generation(msgspec.Struct):
    """What is checked of the settings of generate()."""

    num_beams: Annotated[int, msgspec.Meta(ge=1, le=1024)] | None = None
    num_return_sequences: Annotated[int, msgspec.Meta(ge=1, le=1024)] | None = None


def _check_generation(found: Mapping[str, Mapping[str, Any] | None], name: str) -> None:
    """Refuse settings of generate() and token ids that no model has."""
    settings = found["generation_config.json"] or {}
    convert(settings, _Generation, f"generation_config.json of {name}")
    for file in ("config.json", "generation_config.json"):
        for path, value in _leaves(dict(found[file] or {})):
            named = path.endswith(("token_id", "token_index", "token_ids"))
            whole = isinstance(value, int) and abs(value) <= _TOKENS
            if named and value is not None and not whole:
                raise VlmHeadsError(f"{file} of {name} says {path}={value!r:.100}", "a token id")


def _settings(source: str, file: str, name: str) -> dict[str, Any] | None:
    """Return what a file of settings holds; None where there is none."""
    path = _find(source, file)
    if path is None:
        return None
    _check_size(path, name)
    return _json(path, name)


def _check_size(file: Path, name: str) -> None:
    """Refuse a file that is larger than any of its kind."""
    limit = _LARGEST_VOCABULARY if file.name in _VOCABULARIES else _LARGEST.get(file.suffix)
    if file.name.endswith(".index.json"):
        limit = _LARGEST_VOCABULARY
    if limit is not None and file.is_file() and file.stat().st_size > limit * MEGABYTE:
        size = file.stat().st_size // MEGABYTE
        raise VlmHeadsError(f"{file.name} of {name} has {size:,} MB", f"at most {limit} MB")


def _json(path: Path, name: str) -> dict[str, Any]:
    """Read a JSON object."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise VlmHeadsError(f"{path.name} of {name} cannot be read ({in_short(error)})") from error
    if not isinstance(found, dict):
        raise VlmHeadsError(f"{path.name} of {name} holds a {type(found).__name__}", "an object")
    return found


def _find(source: str, file: str) -> Path | None:
    """Return where a file of a saved model is on this machine; None where there is none."""
    if Path(source).is_dir():
        return Path(source, file) if Path(source, file).is_file() else None
    try:
        found = cached_file(source, file)
    except OSError:
        return None
    return Path(found) if found else None


def _plain(file: str, name: str) -> str:
    """Return the name of a file of weights, or refuse it."""
    fits = file.endswith((".safetensors", ".safetensors.index.json"))
    if not fits or Path(file).is_absolute() or ".." in Path(file).parts:
        raise VlmHeadsError(
            f"{name} names {file[:100]!r} as a file of weights",
            "safetensors files of its own",
            "save it with save_pretrained",
        )
    return file


def _count(file: Path, shard: str, name: str) -> int:
    """Count the numbers in a file of weights, by its header."""
    try:
        with safe_open(file, "pt") as opened:
            shapes = [opened.get_slice(key).get_shape() for key in opened.keys()]  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise VlmHeadsError(
            f"{shard} of {name} cannot be read ({in_short(error)})",
            "a whole file of weights",
            "fetch or save it again",
        ) from error
    return sum(torch.Size(shape).numel() for shape in shapes)


def _leaves(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Yield every value in nested settings, with its path."""
    if isinstance(value, dict):
        for key, part in value.items():
            yield from _leaves(part, f"{path}.{key}" if path else str(key))
    elif isinstance(value, list):
        for part in value:
            yield from _leaves(part, path)
    else:
        yield path, value


def _numbers(config: Mapping[str, Any]) -> Iterator[tuple[str, int]]:
    """Yield the whole numbers of a config, with their paths; `depth` counts layers."""
    for path, value in _leaves(dict(config)):
        if isinstance(value, int):
            yield re.sub(r"\b(depths?|n_layer)$", "layers", path), value

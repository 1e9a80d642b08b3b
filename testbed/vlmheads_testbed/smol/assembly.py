"""Base and adapter put together, once, into a folder that ``from_pretrained`` takes."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from vlmheads.errors import VlmHeadsError
from vlmheads_testbed.smol.base import Base, Say, find_base
from vlmheads_testbed.smol.cache import build_once, cache_folder

#: The adapter that belongs to this version, in the package.
PACKAGED = Path(__file__).parent / "adapter.safetensors"
#: Counts changes of what is assembled from the same adapter: 2 has the published names of weights.
_FORM = 2


def assembled_folder(adapter: Path | None = None) -> Path:
    """Return where the model of an adapter is kept, be it there or not.

    Raises:
        VlmHeadsError: there is no such adapter.
    """
    path = PACKAGED if adapter is None else adapter
    if not path.is_file():
        whose = "in this installation" if adapter is None else f"at {path}"
        raise VlmHeadsError(
            f"there is no trained adapter of smol {whose}",
            "the weights that let SmolLM2 see",
            "Train one: python -m vlmheads_testbed.smol.train OUT, then: vlmheads testbed get "
            "smol --adapter OUT/adapter.safetensors. The model named embedded needs none.",
        )
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()[:12]
    return cache_folder() / f"smol-{digest}-{_FORM}"


def get_smol(
    given: Path | None = None, adapter: Path | None = None, say: Say = lambda _: None
) -> Path:
    """Fetch the base, put the adapter on it, keep the result; return its folder.

    It can be interrupted and repeated at any time; once the folder is there, nothing is fetched.

    Args:
        given: a folder or wheel of the base; by default it is looked for.
        adapter: an adapter's file; by default the packaged one.
        say: is told in a line what is done.

    Raises:
        VlmHeadsError: no adapter, no base to be had, or one that does not fit.
    """
    target = assembled_folder(adapter)

    def build(folder: Path) -> None:
        base = find_base(given, say)
        say(f"assembling from {base.origin}")
        assemble(base, PACKAGED if adapter is None else adapter, folder)

    return build_once(target, build)


def assemble(base: Base, path: Path, folder: Path) -> None:
    """Write a plain LLaVA and its processor: the base with the adapter merged into it.

    origin.json says which base and how the adapter was trained.
    """
    import torch
    from transformers import CLIPVisionConfig, CLIPVisionModel, LlamaForCausalLM

    from vlmheads_testbed.smol.adapter import apply_adapter, load_adapter
    from vlmheads_testbed.smol.network import build_llava
    from vlmheads_testbed.smol.processing import build_processor, load_tokenizer
    from vlmheads_testbed.smol.wheel import save_half

    adapter = load_adapter(path)
    tokenizer = load_tokenizer(base.folder)
    decoder: Any = LlamaForCausalLM.from_pretrained(
        base.folder,
        local_files_only=True,
        trust_remote_code=False,
        dtype=torch.float32,
        use_safetensors=True,
    )
    tower = CLIPVisionModel(CLIPVisionConfig(**adapter.vision_config))
    model = build_llava(decoder, tower, tokenizer)
    apply_adapter(adapter, model)
    save_half(model, folder)
    _publish_names(folder / "model.safetensors", tower.config.model_type)
    build_processor(tokenizer).save_pretrained(folder)
    origin = {"base": base.origin, "adapter": adapter.notes}
    (folder / "origin.json").write_text(json.dumps(origin, indent=1) + "\n", encoding="utf-8")


def _publish_names(file: Path, tower: str) -> None:
    """Call the weights as published models of the family do, which servers expect."""
    from vlmheads.gains import shards
    from vlmheads.gains.names import PUBLISHED, renamed

    names = renamed(shards.read_header(file).entries, PUBLISHED, tower)
    new = file.with_suffix(".new")
    shards.copy(file, new, {}, names)
    new.replace(file)

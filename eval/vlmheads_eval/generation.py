"""From images and prompts to answers of a real model: plain, under plugins or a control."""

import dataclasses
import hashlib
import platform
from collections.abc import Sequence
from contextlib import nullcontext
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

import vlmheads
from vlmheads.errors import VlmHeadsError
from vlmheads.headmap import HeadMap
from vlmheads.model.anatomy import examine
from vlmheads.plugin import Plugin
from vlmheads.registry import resolve
from vlmheads_eval.predicting import Answer

CONTROLS = ("random-heads", "text-only")
PIECE = 1 << 24  # Bytes of a weights file that are hashed at both of its ends.


class Generator:
    """A loaded model that answers batches of images with a prompt each.

    Args:
        captioner: the model with its processor and plugins.
        max_new_tokens: where an answer is cut off.
        text_only: leave the images out, as a control.
    """

    def __init__(
        self, captioner: vlmheads.Captioner, max_new_tokens: int, *, text_only: bool = False
    ) -> None:
        self.captioner, self.max_new_tokens, self.text_only = captioner, max_new_tokens, text_only

    @torch.no_grad()
    def __call__(self, images: Sequence[Any], prompts: Sequence[str]) -> list[Answer]:
        """Answer a batch with greedy search."""
        model, processor = self.captioner.model, self.captioner.processor
        inputs = self._inputs(images, prompts)
        plugins = self.captioner.plugins
        with vlmheads.attach(model, plugins) if plugins else nullcontext():
            output = model.generate(**inputs, max_new_tokens=self.max_new_tokens, do_sample=False)
        new = output[:, inputs["input_ids"].shape[1] :]
        texts = processor.batch_decode(new, skip_special_tokens=True)
        lengths = self._lengths(new)
        return [
            Answer(text.strip(), min(length, new.shape[1]), length > new.shape[1])
            for text, length in zip(texts, lengths, strict=True)
        ]

    def _inputs(self, images: Sequence[Any], prompts: Sequence[str]) -> Any:
        chats = []
        for image, prompt in zip(images, prompts, strict=True):
            content: list[dict[str, Any]] = [{"type": "text", "text": prompt}]
            if not self.text_only:
                content.insert(0, {"type": "image", "image": image})
            chats.append([{"role": "user", "content": content}])
        model = self.captioner.model
        inputs = self.captioner.processor.apply_chat_template(
            chats,
            add_generation_prompt=True,
            tokenize=True,
            return_dict=True,
            return_tensors="pt",
            processor_kwargs={"padding": True},
        )
        return inputs.to(model.device, dtype=model.dtype)

    def _lengths(self, new: torch.Tensor) -> list[int]:
        """Tokens of each row before its end token; one more than there are where none came."""
        ends = self.captioner.model.generation_config.eos_token_id
        if ends is None:
            return [new.shape[1] + 1] * len(new)
        is_end = torch.isin(new, torch.tensor(ends, device=new.device))
        return [int(row.int().argmax()) if bool(row.any()) else new.shape[1] + 1 for row in is_end]


def load_generator(
    model: str,
    plugins: Sequence[str],
    max_new_tokens: int,
    *,
    control: str | None = None,
    control_seed: int = 0,
    dtype: str = "auto",
    device: str | None = None,
) -> Generator:
    """Load a model under plugins, or under a control of what they claim.

    Args:
        model: a packaged model, a folder or a hub id.
        plugins: names, with options as in "vhr:alpha=1.5".
        max_new_tokens: where an answer is cut off.
        control: "random-heads" puts heads drawn at random in place of those that the plugins
            choose, as many a layer and with the same gain; "text-only" leaves the images out.
        control_seed: of the random heads; take several.
        dtype: as for `vlmheads.Captioner.from_pretrained`.
        device: likewise.
    """
    if control not in (None, *CONTROLS):
        raise VlmHeadsError(f"control {control!r}", " or ".join(CONTROLS))
    captioner = vlmheads.Captioner.from_pretrained(model, plugins, dtype=dtype, device=device)
    if control == "random-heads":
        captioner.plugins = random_heads(captioner.model, captioner.plugins, control_seed)
    return Generator(captioner, max_new_tokens, text_only=control == "text-only")


def random_heads(model: Any, plugins: Sequence[Plugin], seed: int) -> tuple[Plugin, ...]:
    """Return the plugins with a random head map, which chooses half of each layer's heads."""
    if not plugins or not all(hasattr(plugin, "head_map") for plugin in plugins):
        names = ", ".join(plugin.name for plugin in plugins) or "no plugin"
        raise VlmHeadsError(
            f"random heads for {names}",
            "plugins that choose heads by a map (option head_map), such as vhr",
        )
    geometry = examine(model).geometry
    draws = torch.Generator().manual_seed(seed)
    values = torch.rand((1, geometry.layers, geometry.heads), generator=draws)
    head_map = HeadMap(values, geometry, "random", {"seed": seed})
    options: dict[str, Any] = {"head_map": head_map}
    return tuple(dataclasses.replace(plugin, **options) for plugin in plugins)


def describe_plugins(plugins: Sequence[str]) -> list[dict[str, Any]]:
    """Return the plugins' names and options as plain values for the config."""
    described = [plugin.describe() for plugin in resolve(plugins)]
    return [{"name": plugin["name"], **plugin["options"]} for plugin in described]


def versions() -> dict[str, str]:
    """Return the versions that bear on answers."""
    names = ("vlmheads", "torch", "transformers")
    return {"python": platform.python_version(), **{name: version(name) for name in names}}


def model_fingerprint(model: str) -> dict[str, str]:
    """Return what tells a model's files: SHA-256 of each, of both ends where it is large.

    For a hub id the commit that is in the local cache.
    """
    from transformers import AutoConfig

    from vlmheads.model.loading import locate

    folder = Path(locate(model))
    if not folder.is_dir():
        config = AutoConfig.from_pretrained(model, trust_remote_code=False)
        commit = getattr(config, "_commit_hash", None)
        return {"commit": str(commit)}
    kinds = ("*.safetensors", "*.json", "*.jinja")
    files = sorted(file for kind in kinds for file in folder.glob(kind))
    return {file.name: _ends_sha256(file) for file in files}


def _ends_sha256(path: Path) -> str:
    size = path.stat().st_size
    with path.open("rb") as file:
        digest = hashlib.sha256(file.read(PIECE))
        if size > 2 * PIECE:
            file.seek(-PIECE, 2)
            digest.update(str(size).encode())
        digest.update(file.read())
    return digest.hexdigest()

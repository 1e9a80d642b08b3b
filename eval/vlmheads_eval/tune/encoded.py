"""Inputs of the same images, prepared and encoded once for all candidates."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vlmheads.errors import VlmHeadsError
from vlmheads.images import read_image
from vlmheads.model.anatomy import examine
from vlmheads.model.vision import encode, image_inputs
from vlmheads.plugin import Plugin
from vlmheads.runtime.compat import ENCODED, takes_encoded_images

KEPT = 1 << 30  # Bytes of encoded images in memory, at most.


@dataclass(frozen=True)
class Picture:
    """An image file that can be read, and the image where it was read just now.

    Args:
        path: the file.
        image: None where a batch with it is prepared already.
    """

    path: Path
    image: Any = None


@dataclass(frozen=True)
class Prepared:
    """The model's inputs of a batch of images with their prompts.

    Args:
        inputs: what the processor made, pixels included.
        encoded: the same with the output of the vision encoder in place of its inputs; None for a
            model whose generate() does not take it.
    """

    inputs: Mapping[str, Any]
    encoded: Mapping[str, Any] | None


@dataclass(frozen=True)
class Encoder:
    """Prepares batches, and keeps them as long as they fit.

    Most methods leave the vision encoder alone, so that its output is the same for all of them. It
    is passed to generate() by its argument mm_encoder_outputs, which transformers has from 5.18 on.

    Args:
        captioner: the model, with its processor.
        room: bytes of what is kept, at most.
    """

    captioner: Any
    room: int = KEPT
    kept: dict[tuple[Path, ...], Prepared] = field(default_factory=dict)
    known: set[Path] = field(default_factory=set)
    spent: list[int] = field(default_factory=lambda: [0])

    def read(self, path: Path) -> Picture:
        """Return a picture; the file is read unless a batch with it is kept.

        Raises:
            VlmHeadsError: it cannot be read.
        """
        return Picture(path, None if path in self.known else read_image(path))

    def prepare(self, pictures: Sequence[Picture], prompts: Sequence[str]) -> Prepared:
        """Return the inputs of a batch; that of the same files has to have the same prompts."""
        key = tuple(picture.path for picture in pictures)
        if (found := self.kept.get(key)) is not None:
            return found
        images = [read_image(p.path) if p.image is None else p.image for p in pictures]
        inputs = dict(self.captioner.prepare(images, prompts))
        found = Prepared(inputs, self._encoded(inputs))
        size = sum(map(_bytes, _tensors([found.inputs, found.encoded])))
        if self.spent[0] + size <= self.room:
            self.kept[key] = found
            self.known.update(key)
            self.spent[0] += size
        return found

    def forget(self) -> None:
        """Drop everything that is kept."""
        self.kept.clear()
        self.known.clear()
        self.spent[0] = 0

    def _encoded(self, inputs: dict[str, Any]) -> dict[str, Any] | None:
        anatomy = examine(self.captioner.model)
        if not takes_encoded_images(anatomy.model):
            return None
        try:
            given = image_inputs(anatomy, inputs)
        except VlmHeadsError:
            return None  # An encoder that cannot be run alone.
        with torch.no_grad():
            features = encode(anatomy, given)
        rest = {name: value for name, value in inputs.items() if name not in given}
        return {**rest, ENCODED: {"image": features}}


def reuses(captioner: Any, prepared: Prepared, plugins: tuple[Plugin, ...], tokens: int) -> bool:
    """Whether plugins do the same with encoded images as with pixels; both are tried.

    Those that look at pixels, contrast with other images, or act inside of the encoder do not.

    Args:
        captioner: the model, with its processor.
        prepared: a batch.
        plugins: to attach.
        tokens: of the answers that are compared.

    Raises:
        VlmHeadsError: what the plugins refuse with pixels, too.
    """
    options = {"plugins": plugins, "max_new_tokens": tokens, "do_sample": False}
    by_pixels = captioner.generate(dict(prepared.inputs), **options)
    inside = any("on_vision" in plugin.hooks() for plugin in plugins)
    if prepared.encoded is None or inside:
        return False
    try:
        by_features = captioner.generate(copied(prepared.encoded), **options)
    except VlmHeadsError:
        return False
    return [one.ids for one in by_pixels] == [one.ids for one in by_features]


def copied(inputs: Mapping[str, Any]) -> dict[str, Any]:
    """Return arguments for one generate(), which may write into the dictionaries that it gets."""
    return {name: dict(v) if isinstance(v, dict) else v for name, v in inputs.items()}


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping):
        for part in value.values():
            yield from _tensors(part)
    elif isinstance(value, list | tuple):
        for part in value:
            yield from _tensors(part)


def _bytes(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()

"""Captioner: images in, captions out, plain or under plugins."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, Self

import torch
from PIL import Image

from vlmheads.errors import VlmHeadsError
from vlmheads.grounding.measure import Grounding, grounding
from vlmheads.grounding.scores import Scorer
from vlmheads.grounding.words import Word, ground_words, token_spans
from vlmheads.images import as_rgb, read_image
from vlmheads.model.anatomy import examine
from vlmheads.model.loading import EMBEDDED, load_model
from vlmheads.plugin import Plugin
from vlmheads.registry import resolve
from vlmheads.runtime.attachment import attach, refuse_attached

PROMPT = "Describe the image."
MAX_NEW_TOKENS = 128

Plugins = str | Plugin | Iterable[str | Plugin]


@dataclass(frozen=True)
class Caption:
    """What a model said about one image.

    Args:
        text: the caption.
        tokens: generated tokens, the end token not counted.
        at_limit: whether the limit on new tokens cut it off.
        ids: the generated tokens, without the end token and what comes after it.
        words: what the image gives each word, where asked for.
    """

    text: str
    tokens: int
    at_limit: bool
    ids: tuple[int, ...] = ()
    words: tuple[Word, ...] = ()


class Captioner:
    """A model, its processor and the plugins under which it describes images.

    >>> captioner = Captioner.from_pretrained("embedded", plugins="vhr")
    >>> print(captioner(["scene.png"])[0].text)

    Args:
        model: a transformers model for image-text-to-text generation.
        processor: its processor, with a chat template.
        plugins: what to attach while generating; see `attach`.
    """

    def __init__(self, model: Any, processor: Any, plugins: Plugins = ()) -> None:
        self.model, self.processor = model, processor
        self.plugins = resolve(plugins)

    @classmethod
    def from_pretrained(
        cls,
        model: str = EMBEDDED,
        plugins: Plugins = (),
        *,
        dtype: str = "auto",
        device: str | None = None,
    ) -> Self:
        """Load a model by name, folder or hub id; see `vlmheads.models.load_model`."""
        found = resolve(plugins)  # a mistyped plugin is known before the weights are read
        return cls(*load_model(model, dtype=dtype, device=device), found)

    def __call__(
        self,
        images: Iterable[str | Path | Image.Image],
        prompt: str = PROMPT,
        *,
        max_new_tokens: int = MAX_NEW_TOKENS,
        batch_size: int = 8,
        plugins: Plugins | None = None,
        words: bool | Scorer = False,
        **generate: Any,
    ) -> list[Caption]:
        """Describe images, in order.

        Args:
            images: files or Pillow images.
            prompt: what the model is asked about each.
            max_new_tokens: where a caption is cut off.
            batch_size: images in one generation.
            plugins: in place of the captioner's own; () for none.
            words: whether to measure how far the image supports each word, on the plain model and
                in two more passes; a Scorer in place of `Scorer.of(model)`.
            generate: further arguments of `model.generate`; greedy search unless they say else.

        Raises:
            VlmHeadsError: an image that cannot be read, what `attach` refuses, or, with words, a
                scorer of another model or several captions an image.
        """
        options = generate | {"max_new_tokens": max_new_tokens}
        return list(
            self.stream(
                images, prompt, batch_size=batch_size, plugins=plugins, words=words, **options
            )
        )

    def stream(
        self,
        images: Iterable[str | Path | Image.Image],
        prompt: str = PROMPT,
        *,
        batch_size: int = 8,
        plugins: Plugins | None = None,
        words: bool | Scorer = False,
        **generate: Any,
    ) -> Iterator[Caption]:
        """Yield captions in order, batch by batch, reading images as they are needed."""
        if batch_size < 1:
            raise VlmHeadsError(f"batch_size={batch_size}", "at least 1")
        acting = self.plugins if plugins is None else resolve(plugins)
        scorer = self._scorer(words, generate) if words else None
        source = iter(images)
        while batch := tuple(islice(source, batch_size)):
            yield from self._describe(batch, prompt, acting, scorer, generate)

    @torch.no_grad()
    def _describe(
        self,
        batch: Iterable[str | Path | Image.Image],
        prompt: str,
        plugins: tuple[Plugin, ...],
        scorer: Scorer | None,
        generate: dict[str, Any],
    ) -> list[Caption]:
        """Describe the images of one batch."""
        limit = generate.get("max_new_tokens", MAX_NEW_TOKENS)
        options = {"max_new_tokens": limit, "do_sample": False} | generate
        inputs = self.prepare(batch, prompt)
        with attach(self.model, plugins) if plugins else nullcontext():
            output = self.model.generate(**inputs, **options)
        new = output[:, inputs["input_ids"].shape[1] :]
        texts = self.processor.batch_decode(new, skip_special_tokens=True)
        captions = []
        for text, row, length in zip(texts, new, self._lengths(new), strict=True):
            count, at_limit = min(length, new.shape[1]), length > new.shape[1] == limit
            captions.append(Caption(text.strip(), count, at_limit, tuple(row[:count].tolist())))
        return captions if scorer is None else self._grounded(captions, inputs, scorer)[0]

    def ground(
        self,
        images: Sequence[str | Path | Image.Image],
        captions: Sequence[Caption],
        prompt: str = PROMPT,
        *,
        scorer: Scorer | None = None,
    ) -> tuple[list[Caption], Grounding]:
        """Measure how far images support the words of captions that this model made of them.

        It is what `words=True` does for a batch, for captions that are there already.

        Args:
            images: files or Pillow images, one a caption.
            captions: with their tokens.
            prompt: what the model was asked.
            scorer: in place of `Scorer.of(model)`.

        Returns:
            The captions with their words, and what was measured at their tokens [N, T].

        Raises:
            VlmHeadsError: tokens that are not those of the text, or what `grounding` refuses.
        """
        chosen = self._scorer(scorer or True, {})
        return self._grounded(captions, self.prepare(images, prompt), chosen)

    def _scorer(self, words: bool | Scorer, generate: dict[str, Any]) -> Scorer:
        """Return what scores words, or refuse to before anything is generated."""
        scorer = Scorer.of(self.model) if isinstance(words, bool) else words
        anatomy = examine(self.model)
        scorer.heads(anatomy.geometry)
        refuse_attached(anatomy)
        several = generate.get("num_return_sequences", 1)
        if several > 1:
            raise VlmHeadsError(
                f"num_return_sequences={several} with words", "one caption an image"
            )
        return scorer

    def _grounded(
        self, captions: Sequence[Caption], inputs: Any, scorer: Scorer
    ) -> tuple[list[Caption], Grounding]:
        """Measure the words of a batch of captions."""
        ends = self.model.generation_config.eos_token_id
        end = ends[0] if isinstance(ends, list) else ends or 0
        longest = max(1, *(len(caption.ids) for caption in captions))
        targets = torch.tensor(
            [[*caption.ids, *[end] * (longest - len(caption.ids))] for caption in captions]
        )
        found = grounding(self.model, inputs, targets)
        k = scorer.heads(examine(self.model).geometry)
        special = frozenset(self.processor.tokenizer.all_special_ids)
        decode = partial(self.processor.batch_decode, skip_special_tokens=True)
        spans = [token_spans(caption.ids, caption.text, decode, special) for caption in captions]
        words = [
            ground_words(caption.text, spans[row], found, row, scorer, k)
            for row, caption in enumerate(captions)
        ]
        grounded = [
            replace(caption, words=part) for caption, part in zip(captions, words, strict=True)
        ]
        return grounded, found

    def prepare(self, batch: Iterable[str | Path | Image.Image], prompt: str) -> Any:
        """Make model inputs of images and a prompt, left padded, on the model's device."""
        images = [
            as_rgb(item) if isinstance(item, Image.Image) else read_image(item) for item in batch
        ]
        text = {"type": "text", "text": prompt}
        chats = [
            [{"role": "user", "content": [{"type": "image", "image": image}, text]}]
            for image in images
        ]
        inputs = self.processor.apply_chat_template(
            chats,
            add_generation_prompt=True,
            tokenize=True,
            return_dict=True,
            return_tensors="pt",
            processor_kwargs={"padding": True},
        )
        return inputs.to(self.model.device, dtype=self.model.dtype)

    def _lengths(self, new: torch.Tensor) -> list[int]:
        """Tokens of each row before its end token; one more than there are where none came."""
        ends = self.model.generation_config.eos_token_id
        if ends is None:
            return [new.shape[1] + 1] * len(new)
        is_end = torch.isin(new, torch.tensor(ends, device=new.device))
        return [int(row.int().argmax()) if bool(row.any()) else new.shape[1] + 1 for row in is_end]

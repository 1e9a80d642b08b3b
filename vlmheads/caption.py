"""Captioner: images in, captions out, plain or under plugins."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from PIL import Image

from vlmheads.decoding import Decoding
from vlmheads.errors import VlmHeadsError
from vlmheads.grounding.catalogue import ASKED, ask_about
from vlmheads.grounding.measure import Grounding, grounding
from vlmheads.grounding.scores import Scorer
from vlmheads.grounding.words import Finder, Word, find_objects, ground_words, token_spans
from vlmheads.headmap import HeadMap
from vlmheads.images import ImageLike, load_image
from vlmheads.model.anatomy import examine, generator_of
from vlmheads.model.inputs import model_inputs
from vlmheads.model.loading import EMBEDDED, load_model
from vlmheads.notebook import caption_html
from vlmheads.plugin import Plugin
from vlmheads.recommended import AUTO, resolve_for
from vlmheads.registry import resolve
from vlmheads.runtime.attachment import attach, refuse_attached

PROMPT = "Describe the image."

Plugins = str | Plugin | Iterable[str | Plugin]


@dataclass(frozen=True)
class Caption:
    """What a model said about one image.

    Args:
        text: the caption.
        tokens: generated tokens, the end token not counted.
        at_limit: whether the limit on new tokens ended it, rather than an end token, a stop string,
            a time limit or another criterion.
        ids: the generated tokens, without the end token and what comes after it.
        words: what the image gives each word, where asked for.
        threshold: words of a lower score are weakly supported, where they were measured.
        heads: VHD of the plain model's heads, the mean over the caption's tokens, likewise.
    """

    text: str
    tokens: int
    at_limit: bool
    ids: tuple[int, ...] = ()
    words: tuple[Word, ...] = ()
    threshold: float | None = None
    heads: HeadMap | None = field(default=None, repr=False, compare=False)

    def _repr_html_(self) -> str:
        return caption_html(self)


def padded_ids(model: Any, captions: Sequence[Caption]) -> torch.Tensor:
    """Return the tokens of captions [N, T], padded on the right with the model's end token."""
    ends = generator_of(model).generation_config.eos_token_id
    end = ends[0] if isinstance(ends, list) else ends or 0
    longest = max(1, *(len(caption.ids) for caption in captions))
    return torch.tensor(
        [[*caption.ids, *[end] * (longest - len(caption.ids))] for caption in captions]
    )


class Captioner:
    """A model, its processor and the plugins under which it describes images.

    >>> captioner = Captioner.from_pretrained("embedded")
    >>> print(captioner(["scene.png"])[0].text)

    Args:
        model: a transformers model for image-text-to-text generation.
        processor: its processor, with a chat template.
        plugins: what to attach while generating; see `attach`. By default the preset that was
            measured on this very model, if there is one (`vlmheads presets --for MODEL`); () for
            plain captions.
        objects: finds the objects of a caption whose words are measured; see `object_finder`.
    """

    def __init__(
        self, model: Any, processor: Any, plugins: Plugins = AUTO, objects: Finder = find_objects
    ) -> None:
        self.model, self.processor, self.objects = model, processor, objects
        self.plugins = resolve_for(model, plugins)

    @classmethod
    def from_pretrained(
        cls,
        model: str = EMBEDDED,
        plugins: Plugins = AUTO,
        *,
        dtype: str = "auto",
        device: str | None = None,
        **loading: Any,
    ) -> Self:
        """Load a model by name, folder or hub id; `load_model` says what `loading` may hold."""
        # A mistyped plugin is known before the weights are read.
        given = (plugins,) if isinstance(plugins, (str, Plugin)) else tuple(plugins)
        found = given if AUTO in given else resolve(given)
        return cls(*load_model(model, dtype=dtype, device=device, **loading), found)

    def __call__(
        self,
        images: ImageLike | Iterable[ImageLike],
        prompt: str = PROMPT,
        *,
        max_new_tokens: int | None = None,
        batch_size: int = 8,
        plugins: Plugins | None = None,
        words: bool | Scorer = False,
        **generate: Any,
    ) -> list[Caption]:
        """Describe images, in order.

        Args:
            images: one image or several; each a file name, a Pillow image or a NumPy array.
            prompt: what the model is asked about each.
            max_new_tokens: where a caption is cut off; by default 128, or what a
                `generation_config` among the arguments says.
            batch_size: images per generation.
            plugins: in place of the captioner's own; () for none.
            words: whether to measure how far the image supports each word, on the plain model and
                in two more passes; a Scorer in place of `Scorer.of(model)`.
            generate: further arguments of `model.generate`; see `generate`.

        Returns:
            A caption per image; with `num_return_sequences=N`, N in a row per image.

        Raises:
            VlmHeadsError: an image that cannot be read, what `prepare`, `generate` and `attach`
                refuse, or, with words, a scorer of another model or several captions per image.
        """
        options = generate | {"max_new_tokens": max_new_tokens}
        return list(
            self.stream(
                images, prompt, batch_size=batch_size, plugins=plugins, words=words, **options
            )
        )

    def stream(
        self,
        images: ImageLike | Iterable[ImageLike],
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
        acting = self.plugins if plugins is None else resolve_for(self.model, plugins)
        scorer = self._scorer(words, generate) if words else None
        source = iter(_several(images))
        while batch := tuple(islice(source, batch_size)):
            pictures = [load_image(item) for item in batch]
            inputs = model_inputs(self.model, self.processor, pictures, prompt)
            captions = self.generate(inputs, plugins=acting, **generate)
            yield from (
                captions
                if scorer is None
                else self._grounded(captions, inputs, scorer, pictures)[0]
            )

    @torch.no_grad()
    def generate(
        self, inputs: Any, *, plugins: Plugins | None = None, **generate: Any
    ) -> list[Caption]:
        """Run `model.generate` under the plugins and decode what it adds to each prompt.

        Args:
            inputs: what `prepare` returned, a row per prompt.
            plugins: in place of the captioner's own; () for none.
            generate: further arguments of `model.generate`. Without a `generation_config` among
                them it is greedy search of at most 128 tokens where they do not say otherwise.

        Returns:
            A caption per row; with `num_return_sequences=N`, N in a row per prompt.

        Raises:
            VlmHeadsError: what `attach` refuses, `max_length`, a cache that is already filled, or
                an assistant model with plugins attached to it.
        """
        acting = self.plugins if plugins is None else resolve_for(self.model, plugins)
        decoding = Decoding.of(self.model, self.processor.tokenizer, generate)
        with attach(self.model, acting) if acting else nullcontext():
            output = self.model.generate(**inputs, **decoding.arguments)
        sequences = output if isinstance(output, torch.Tensor) else output.sequences
        new = sequences[:, inputs["input_ids"].shape[1] :].tolist()
        rows = [decoding.read(row) for row in new]
        texts = self.processor.batch_decode([ids for ids, _ in rows], skip_special_tokens=True)
        return [
            Caption(text.strip(), len(ids), at_limit, ids)
            for text, (ids, at_limit) in zip(texts, rows, strict=True)
        ]

    def ground(
        self,
        images: ImageLike | Iterable[ImageLike],
        captions: Sequence[Caption],
        prompt: str | Sequence[str] = PROMPT,
        *,
        scorer: Scorer | None = None,
        scores: Sequence[str] = (),
    ) -> tuple[list[Caption], Grounding]:
        """Measure how far images support the words of captions that this model made of them.

        It is what `words=True` does for a batch, for captions that are there already.

        Args:
            images: files or Pillow images, one a caption.
            captions: with their tokens.
            prompt: what the model was asked, one for all or one per image.
            scorer: in place of `Scorer.of(model)`.
            scores: further scores of the words, by name, beside those that the scorer weighs.

        Returns:
            The captions with their words, and what was measured at their tokens [N, T].

        Raises:
            VlmHeadsError: tokens that are not those of the text, or what `grounding` refuses.
        """
        chosen = self._scorer(scorer or True, {})
        pictures = [load_image(item) for item in _several(images)]
        return self._grounded(captions, self.prepare(pictures, prompt), chosen, pictures, scores)

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
        self,
        captions: Sequence[Caption],
        inputs: Any,
        scorer: Scorer,
        pictures: Sequence[Image.Image],
        scores: Sequence[str] = (),
    ) -> tuple[list[Caption], Grounding]:
        """Measure the words of a batch of captions."""
        targets = padded_ids(self.model, captions)
        wanted = dict.fromkeys((*scorer.further, *scorer.asked, *scores))
        in_passes = [name for name in wanted if name not in ASKED]
        found = grounding(self.model, inputs, targets, scores=in_passes)
        texts = [caption.text for caption in captions]
        asked = ask_about(self.model, self.processor, pictures, texts, wanted, self.objects)
        k = scorer.heads(examine(self.model).geometry)
        special = frozenset(self.processor.tokenizer.all_special_ids)
        decode = partial(self.processor.batch_decode, skip_special_tokens=True)
        spans = [token_spans(caption.ids, caption.text, decode, special) for caption in captions]
        words = [
            ground_words(caption.text, spans[row], found, row, scorer, k, asked[row], self.objects)
            for row, caption in enumerate(captions)
        ]
        grounded = [
            replace(
                caption,
                words=part,
                threshold=scorer.threshold,
                heads=self._heads(found, row, caption.tokens),
            )
            for row, (caption, part) in enumerate(zip(captions, words, strict=True))
        ]
        return grounded, found

    def _heads(self, found: Grounding, row: int, tokens: int) -> HeadMap | None:
        """Return the mean VHD over the tokens of a caption; None where it has none."""
        if not tokens:
            return None
        values = found.divergence[row, :tokens].mean(dim=0, keepdim=True)
        return HeadMap(values, examine(self.model).geometry, "vhd", {"tokens": tokens})

    def prepare(
        self, images: ImageLike | Iterable[ImageLike | None], prompt: str | Sequence[str] = PROMPT
    ) -> Any:
        """Make model inputs of images and prompts: left padded, and where the model takes them.

        Args:
            images: one image or several; None stands for a prompt without an image.
            prompt: one for all images, or one per image.

        Raises:
            VlmHeadsError: an image that cannot be read, a prompt that holds the model's own image
                token, another number of prompts than of images, or a processor that cannot pad.
        """
        pictures = [None if item is None else load_image(item) for item in _several(images)]
        return model_inputs(self.model, self.processor, pictures, prompt)


def _several(images: Any) -> Iterable[Any]:
    """Take one image for a list of one; an array of four dimensions holds several."""
    one = isinstance(images, str | Path | Image.Image)
    one |= isinstance(images, np.ndarray) and images.ndim < 4
    if one:
        return [images]
    return images if isinstance(images, Iterable) else [images]  # which is refused by name

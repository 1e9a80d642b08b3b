"""What is computed when a visitor asks for it: gradient x attention of a word, and a patch's lens.

Both run the plain model on the picture of a result again. The newest answers are kept.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from vlmheads.errors import VlmHeadsError
from vlmheads.grounding.patch_lens import patch_lens
from vlmheads.grounding.relevancy import patch_relevancy
from vlmheads_demo.services.measurement import vision_aware_heads
from vlmheads_demo.services.result import MAX_KEPT_PIXELS, Result, Selection
from vlmheads_demo.services.tokens import token_text
from vlmheads_demo.state import AppState, Model

MAX_ANSWERS = 200
WORDS_SHOWN = 5


@dataclass(frozen=True)
class PatchReading:
    """What the model reads at one image token, and which words look at it.

    Args:
        levels: the likeliest words of each level by the vocabulary head, with their probabilities;
            level 0 is before the first layer.
        words: words of the selected caption with their attention on the token, the largest first;
            the mean over each word's vision-aware heads.
    """

    levels: tuple[tuple[tuple[str, float], ...], ...]
    words: tuple[tuple[str, float], ...]


@dataclass(eq=False)
class Inspector:
    """Computes and remembers.

    Args:
        state: what all requests share.
    """

    state: AppState
    _answers: OrderedDict[Hashable, Any] = field(default_factory=OrderedDict)

    def relevancy(self, result: Result, selection: Selection) -> Tensor:
        """Return gradient x attention of the selected word on the image tokens, [P].

        Raises:
            VlmHeadsError: no word is selected, the picture was not kept, or what `patch_relevancy`
                refuses.
        """
        one = result.captions[selection.caption]
        if selection.word is None:
            raise VlmHeadsError("no word", "a word of a caption")
        word = one.measured.words[selection.word]

        def compute() -> Tensor:
            model, inputs = self._inputs(result)
            ids = torch.tensor([one.caption.ids])
            return patch_relevancy(model.captioner.model, inputs, ids, word.first, word.last)

        found: Tensor = self._once((result.key, selection.caption, selection.word), compute)
        return found

    def reading(self, result: Result, selection: Selection) -> PatchReading:
        """Return what the model reads at the selected image token, and which words look at it.

        Raises:
            VlmHeadsError: no image token is selected, the picture was not kept, or what
                `patch_lens` refuses.
        """
        patch = selection.patch
        if patch is None:
            raise VlmHeadsError("no place of the picture", "one that was selected")

        def compute() -> tuple[tuple[tuple[str, float], ...], ...]:
            model, inputs = self._inputs(result)
            tokenizer = model.captioner.processor.tokenizer
            found = patch_lens(model.captioner.model, inputs, patch)
            return tuple(
                tuple(
                    (token_text(tokenizer, token), probability)
                    for token, probability in zip(ids, chances, strict=True)
                )
                for ids, chances in zip(
                    found.ids[0].tolist(), found.probability[0].tolist(), strict=True
                )
            )

        levels = self._once((result.key, patch), compute)
        return PatchReading(levels, _words_on(result, selection.caption, patch))

    def _inputs(self, result: Result) -> tuple[Model, Any]:
        """Return the model of a result, and what its processor makes of the picture."""
        if result.image is None:
            raise VlmHeadsError(
                "a picture that was too large to be kept",
                f"at most {MAX_KEPT_PIXELS / 10**6:g} million pixels",
                "make it smaller",
            )
        model = self.state.models.get(result.model)
        return model, model.captioner.prepare([result.image], result.prompt)

    def _once(self, key: Hashable, compute: Callable[[], Any]) -> Any:
        """Compute an answer while no other request uses the model, and remember it."""
        if (known := self._answers.get(key)) is not None:
            return known
        with self.state.models.run_lock:
            if key not in self._answers:  # whoever held the lock may have computed the same
                self._answers[key] = compute()
                while len(self._answers) > MAX_ANSWERS:
                    self._answers.popitem(last=False)
            return self._answers[key]


def _words_on(result: Result, caption: int, patch: int) -> tuple[tuple[str, float], ...]:
    measured = result.captions[caption].measured
    if measured.patches is None:
        return ()
    found = [
        (word.text, float(measured.patches[index][vision_aware_heads(heads)][:, patch].mean()))
        for index, (word, heads) in enumerate(zip(measured.words, measured.heads, strict=True))
    ]
    return tuple(sorted(found, key=lambda one: -one[1])[:WORDS_SHOWN])

"""What one run gives: captions with what they mention, what was measured, and what to look at."""

from __future__ import annotations

import secrets
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

from PIL import Image
from vlmheads_eval.chair.measures import repeated_share, score_mentions
from vlmheads_eval.chair.spans import mention_spans
from vlmheads_eval.chair.variants import get_variant

from vlmheads.errors import VlmHeadsError
from vlmheads.model.geometry import Geometry
from vlmheads_demo.services.generation import CaptionEvent
from vlmheads_demo.services.measurement import CaptionMeasurement, PromptMeasurement

VARIANT = "pattern"
# Larger pictures are not kept with their results, of which there are many.
MAX_KEPT_PIXELS = 4_000_000


@dataclass(frozen=True)
class Mention:
    """An object that a caption mentions.

    Args:
        start: its first character in the text.
        end: the character after its last.
        object: the category that it names.
        correct: whether that is in the picture; None where the objects are not known.
    """

    start: int
    end: int
    object: str
    correct: bool | None


@dataclass(frozen=True)
class CaptionObjects:
    """The objects of a caption, as CHAIR finds them.

    Args:
        mentions: mentions that were located in the text, in order.
        named: the distinct categories that it mentions.
        hallucinated: those that are not in the picture; None where its objects are not known.
        missed: categories in the picture that it does not mention; None likewise.
        words: length of the caption.
        repetition: share of its 4-grams that occur earlier in it.
    """

    mentions: tuple[Mention, ...]
    named: tuple[str, ...]
    hallucinated: tuple[str, ...] | None
    missed: tuple[str, ...] | None
    words: int
    repetition: float


def caption_objects(text: str, truth: Collection[str] | None) -> CaptionObjects:
    """Find the objects of a caption as CHAIR's variant "pattern" does.

    Args:
        text: the caption.
        truth: names of the COCO categories in the picture; None where they are not known.
    """
    reader = get_variant(VARIANT)
    known = None if truth is None else frozenset(reader.vocabulary.nodes[name] for name in truth)
    score = score_mentions(0, reader.read(text), known)
    mentions = [
        Mention(start, end, mention.node, None if known is None else mention.node in known)
        for mention in score.mentions
        for start, end in mention_spans(text, [mention])
    ]
    named = tuple(dict.fromkeys(mention.node for mention in score.mentions))
    return CaptionObjects(
        tuple(mentions),
        named,
        None if known is None else tuple(name for name in named if name not in known),
        None if known is None else tuple(sorted(known - score.named)),
        score.words,
        repeated_share(text),
    )


@dataclass(frozen=True, eq=False)
class CaptionResult:
    """One caption of a run.

    Args:
        name: the method as the command line accepts it, or "plain".
        plugins: plugins with their options, as plain values.
        caption: the caption with its time.
        objects: the objects that it mentions.
        measured: what was measured at its words.
    """

    name: str
    plugins: tuple[Mapping[str, Any], ...]
    caption: CaptionEvent
    objects: CaptionObjects
    measured: CaptionMeasurement

    def is_correct(self, word: int) -> bool | None:
        """Return whether a word's object is in the picture; None where that is not known."""
        found = self.measured.words[word]
        for mention in self.objects.mentions:
            if mention.start < found.end and mention.end > found.start:
                return mention.correct
        return None


@dataclass(frozen=True, eq=False)
class Result:
    """A whole run: one picture, described plain and under methods.

    Args:
        model: the model's name.
        geometry: its layers and heads.
        prompt: the question.
        decoding: how tokens were chosen, as plain values.
        scene: the name of the test-bench scene; "" for an upload.
        objects: the objects in the picture; None where they are not known.
        prompt_measured: what was measured at the prompt.
        captions: the captions, plain first.
        image: the picture as it was sent; None where it is too large to be kept.
        key: identifies the run, and only the visitor who started it knows it.
    """

    model: str
    geometry: Geometry
    prompt: str
    decoding: Mapping[str, Any]
    scene: str
    objects: tuple[str, ...] | None
    prompt_measured: PromptMeasurement
    captions: tuple[CaptionResult, ...]
    image: Image.Image | None = None
    key: str = field(default_factory=lambda: secrets.token_urlsafe(16))

    @property
    def patches(self) -> int:
        """How many image tokens form a grid over the picture; 0 without a grid."""
        grid = self.prompt_measured.view.grid
        return 0 if grid is None else grid[0] * grid[1]

    def in_common(self, one: int, other: int) -> int:
        """Return how many tokens two captions begin with in common."""
        pairs = zip(self.captions[one].caption.ids, self.captions[other].caption.ids, strict=False)
        return next(
            (place for place, (a, b) in enumerate(pairs) if a != b),
            min(len(self.captions[number].caption.ids) for number in (one, other)),
        )


def comparison_rows(result: Result) -> list[dict[str, Any]]:
    """Return figures for each caption; None for what is not known."""
    return [_comparison_row(one) for one in result.captions]


def _comparison_row(one: CaptionResult) -> dict[str, Any]:
    objects, caption = one.objects, one.caption
    scores = [word.score for word in one.measured.words if word.object is not None]
    return {
        "caption": one.name,
        "objects": list(objects.named),
        "hallucinated": None if objects.hallucinated is None else list(objects.hallucinated),
        "missed": None if objects.missed is None else list(objects.missed),
        "weakly_supported": sum(score < one.measured.threshold for score in scores),
        "object_words": len(scores),
        "words": objects.words,
        "tokens": len(caption.ids),
        "repetition": objects.repetition,
        "seconds": caption.seconds,
        "tokens_per_second": caption.tokens_per_second,
    }


@dataclass(frozen=True)
class Selection:
    """A word of a caption, what of it is shown over the picture, and a place in the picture.

    Args:
        caption: index of the caption.
        word: index of the word; None where no word names an object.
        layer: layer of the head; None for the mean of the word's vision-aware heads.
        head: the head; None likewise.
        token: index of the token that is inspected; None for the word's first.
        gradient: whether gradient x attention is shown in place of attention.
        patch: index of an image token, in reading order; None where none was chosen.
    """

    caption: int = 0
    word: int | None = None
    layer: int | None = None
    head: int | None = None
    token: int | None = None
    gradient: bool = False
    patch: int | None = None

    @property
    def one_head(self) -> tuple[int, int] | None:
        """Layer and head; None for the mean."""
        return None if self.layer is None or self.head is None else (self.layer, self.head)

    @classmethod
    def parse(cls, result: Result, given: Mapping[str, Any]) -> Selection:
        """Read a selection that the page or a client sent.

        Raises:
            VlmHeadsError: a caption, word, head, token or place that the run does not have, or
                gradient x attention of one head or of no word.
        """
        caption = _index(given.get("caption", 0), len(result.captions), "caption")
        measured = result.captions[caption].measured
        word, layer, head = given.get("word"), given.get("layer"), given.get("head")
        token, patch, gradient = given.get("token"), given.get("patch"), given.get("gradient")
        if gradient not in (None, True, False):
            raise VlmHeadsError(f"gradient {str(gradient)[:20]!r}", "true or false")
        if gradient and (layer is not None or word is None):
            raise VlmHeadsError("gradient x attention of one head", "of a word, over all heads")
        if (layer is None) != (head is None):
            raise VlmHeadsError(f"layer {layer!r} and head {head!r}", "both, or neither")
        return cls(
            caption,
            None if word is None else _index(word, len(measured.words), "word"),
            None if layer is None else _index(layer, result.geometry.layers, "layer"),
            None if head is None else _index(head, result.geometry.heads, "head"),
            None
            if token is None
            else _index(token, len(measured.tokens.ids) if measured.tokens else 0, "token"),
            bool(gradient),
            None if patch is None else _index(patch, result.patches, "patch"),
        )

    def shown_token(self, result: Result) -> int | None:
        """Return the token that is inspected; None where the caption has none."""
        measured = result.captions[self.caption].measured
        if measured.tokens is None or self.token is not None:
            return self.token
        return 0 if self.word is None else measured.words[self.word].first

    @classmethod
    def initial(cls, result: Result) -> Selection:
        """Return the least supported object word of the first caption that names an object."""
        for caption, one in enumerate(result.captions):
            objects = [
                (word.score, number)
                for number, word in enumerate(one.measured.words)
                if word.object is not None
            ]
            if objects:
                return cls(caption, min(objects)[1])
        return cls()


def _index(value: Any, count: int, what: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < count:
        raise VlmHeadsError(f"{what} {str(value)[:20]!r}", _places(count))
    return value


def _places(count: int) -> str:
    return f"a number from 0 to {count - 1}" if count else "nothing: there is none"

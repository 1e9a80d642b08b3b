"""Pairs of a truthful and a hallucinated caption of an image, made of a model's own captions."""

import random
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from vlmheads_eval.calibrate.learn import Source
from vlmheads_eval.chair.spans import mention_spans
from vlmheads_eval.chair.variants import Variant
from vlmheads_eval.data import Sample

if TYPE_CHECKING:
    from torch import Tensor


class Pair(NamedTuple):
    """Two captions of one image, one of which names something that is not there.

    Args:
        sample: the image and the prompt.
        truthful: without what is not there.
        hallucinated: with it.
        inserted: whether the hallucinated caption is the made one; else the truthful one is.
        swapped: the truthful caption with another object in the place of one; empty where it names
            none, or every object is there.
    """

    sample: Sample
    truthful: str
    hallucinated: str
    inserted: bool
    swapped: str = ""


def make_pairs(
    captions: Iterable[tuple[Sample, str]], truth: Mapping[str, frozenset[str]], variant: Variant
) -> list[Pair]:
    """Return a pair for each caption that gives one.

    A caption that names an object that is not in the image is the hallucinated one; the truthful
    one is left of it when the clauses with such objects go (`vlmheads.grounding.rewrite`). It gives
    no pair where no true clause is left. To a caption that names objects and none of them wrongly,
    the sentence "There is also a ..." is added, about the absent object that is `likeliest`. The
    swapped caption has an object of the truthful one and any absent one drawn by the image's key.
    """
    from vlmheads.grounding.rewrite import drop_clauses

    found = []
    for sample, text in captions:
        present = truth[sample.key]
        words = _object_words(text, present, variant)
        if not words:
            continue
        if all(word.score for word in words):
            other = likeliest(present, truth)
            if other is not None:
                article = "an" if other[0] in "aeiou" else "a"
                added = f"{text.rstrip()} There is also {article} {other}."
                swapped = _swapped(text, sample.key, truth, variant)
                found.append(Pair(sample, text, added, inserted=True, swapped=swapped))
            continue
        rest = drop_clauses(text, words, 0.5)
        left = variant.read(rest.text).mentions
        if not rest.unsupported and rest.text and all(one.node in present for one in left):
            swapped = _swapped(rest.text, sample.key, truth, variant)
            found.append(Pair(sample, rest.text, text, inserted=False, swapped=swapped))
    return found


def _swapped(text: str, key: str, truth: Mapping[str, frozenset[str]], variant: Variant) -> str:
    """Return a caption with an absent object in the place of one that it names, or nothing."""
    words = _object_words(text, truth[key], variant)
    absent = sorted(frozenset().union(*truth.values()) - truth[key])
    if not words or not absent:
        return ""
    draws = random.Random(key)
    word, other = draws.choice(words), draws.choice(absent)
    return f"{text[: word.start]}{other}{text[word.end :]}"


def likeliest(present: frozenset[str], truth: Mapping[str, frozenset[str]]) -> str | None:
    """Return the absent object that is most often beside the present ones in the other images.

    Each image in `truth` counts for each object of `present` that it has; among equals, the first
    by name. None where every object is present.
    """
    counts: Counter[str] = Counter()
    for objects in truth.values():
        for name in objects - present:
            counts[name] += len(objects & present)
    return min(counts, key=lambda name: (-counts[name], name), default=None)


def _object_words(text: str, present: frozenset[str], variant: Variant) -> list[Any]:
    """Return the words that name objects, scored 1 where the object is there and 0 elsewhere."""
    from vlmheads.grounding.words import Word

    return [
        Word(text[start:end], start, end, 0, 0, one.node, 0, 0, 0, 0, float(one.node in present))
        for one in variant.read(text).mentions
        for start, end in mention_spans(text, (one,))
    ]


def inputs_of(captioner: Any, sample: Sample, text: str, *, image: bool = True) -> Any:
    """Return what the model is given for a prompt with an answer after it, one row."""
    import torch

    from vlmheads.detect.replay import teacher_forced
    from vlmheads.images import read_image
    from vlmheads.model.anatomy import examine

    pictures = [read_image(sample.image) if image else None]
    inputs = captioner.prepare(pictures, [sample.prompt])
    tokens = captioner.processor.tokenizer(text, add_special_tokens=False)["input_ids"]
    return teacher_forced(examine(captioner.model), inputs, torch.tensor([tokens]))


def vti_directions(captioner: Any, pairs: Sequence[Pair], source: Source) -> "dict[str, Tensor]":
    """VTI's "directions" [L, E] from the truthful captions and what is made of them by a swap.

    Captions that end at another place would differ at their last token in whether the model is
    about to go on. See `vlmheads.detect.directions.measure_directions`.
    """
    from vlmheads.detect.directions import measure_directions

    def both() -> Iterator[tuple[Any, Any]]:
        for pair in pairs:
            if pair.swapped:
                yield (
                    inputs_of(captioner, pair.sample, pair.truthful),
                    inputs_of(captioner, pair.sample, pair.swapped),
                )

    return dict(measure_directions(captioner.model, both()).values)


def nullu_basis(captioner: Any, pairs: Sequence[Pair], source: Source) -> "dict[str, Tensor]":
    """Nullu's "basis" [L, E, 8] of half the differences of layer outputs, means over the tokens.

    As released, prompt and image count among the tokens.
    """
    import torch

    from vlmheads.detect.directions import layer_outputs, null_basis

    differences = []
    for pair in pairs:
        one, two = (
            layer_outputs(captioner.model, inputs_of(captioner, pair.sample, text), mean=True)[0]
            for text in (pair.truthful, pair.hallucinated)
        )
        differences.append((one - two) / 2)
    return {"basis": null_basis(torch.stack(differences), 8)}

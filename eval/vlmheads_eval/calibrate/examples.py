"""Lessons for calibration: what answers should rather have said where they name objects."""

import random
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from vlmheads_eval.chair.mentions import Vocabulary
from vlmheads_eval.chair.spans import mention_spans
from vlmheads_eval.chair.variants import Variant
from vlmheads_eval.chair.words import plurals

if TYPE_CHECKING:
    from vlmheads.gains.learn import Example


SENTENCE_ENDS = (".", "!", "?")


class Weights(NamedTuple):
    """How much each kind of choice counts.

    Args:
        named: which object a word names: one that is there and was not named yet, or an absent one.
        again: the same, or one that was named before.
        going_on: to go on at the end of a sentence while objects are left to name.
        stopping: to stop there once all are named.
        wording: to keep to the words of the answer everywhere else.
    """

    named: float = 1.0
    again: float = 0.8
    going_on: float = 0.3
    stopping: float = 0.1
    wording: float = 0.3


class Choice(NamedTuple):
    """One choice in one answer: the target token it is made at, and the tokens to tell apart."""

    place: int
    better: frozenset[int]
    worse: frozenset[int] | None  # None: all others.
    weight: float
    swapped: bool = False  # `better` and `worse` the other way round.


def object_tokens(tokenizer: Any, vocabulary: Vocabulary) -> dict[int, frozenset[str]]:
    """Return token -> categories of the words that begin with it, in singular and plural.

    Of a word of several tokens it is the first that decides what is named. Words that the
    tokenizer does not know are left out.
    """
    (start,) = tokenizer(["a"], add_special_tokens=False)["input_ids"]
    found: dict[int, set[str]] = {}
    for word, category in vocabulary.nodes.items():
        for form in (word, *plurals(word)):
            ids = tokenizer(f"a {form}", add_special_tokens=False)["input_ids"][len(start) :]
            if ids and ids[0] != tokenizer.unk_token_id:
                found.setdefault(ids[0], set()).add(category)
    return {token: frozenset(categories) for token, categories in found.items()}


class Answer(NamedTuple):
    """A caption as tokens, with what it names where, and what is there to name.

    Args:
        tokens: without the end token.
        spans: characters [start, end) of each token.
        text: the caption.
        named: start of each mention -> category.
        truth: the categories in the image.
    """

    tokens: Sequence[int]
    spans: Sequence[tuple[int, int]]
    text: str
    named: Mapping[int, str]
    truth: frozenset[str]


def read_answer(tokenizer: Any, text: str, truth: frozenset[str], variant: Variant) -> Answer:
    """Return a caption as tokens with its mentions, as CHAIR reads them."""
    coded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    named = {}
    for mention in variant.read(text).mentions:
        for start, _ in mention_spans(text, (mention,)):
            named[start] = mention.node
    return Answer(coded["input_ids"], coded["offset_mapping"], text, named, truth)


def choices(
    answer: Answer, objects: Mapping[int, frozenset[str]], end: int, weights: Weights
) -> Iterator[Choice]:
    """Yield the choices of an answer that is followed by the token `end`.

    Where it names an object while some that are there are left to name, all words for these are
    better: than all words for absent objects, and than all words for those that were named before.
    """
    left, said = set(answer.truth), set[str]()
    for place in range(len(answer.tokens) + 1):
        whole = place == len(answer.tokens)
        start, stop = (len(answer.text),) * 2 if whole else answer.spans[place]
        mentions = [name for at, name in answer.named.items() if start <= at < stop]
        if place and answer.text[:start].rstrip().endswith(SENTENCE_ENDS):
            ending = frozenset({end})
            if left:
                yield Choice(place, ending, None, weights.going_on, swapped=True)
            else:
                yield Choice(place, ending, None, weights.stopping)
        elif mentions and not whole:
            better = frozenset(token for token, names in objects.items() if names & left)
            again = frozenset(t for t, names in objects.items() if names & said) - better
            for worse, weight in (
                (frozenset(objects) - better - again, weights.named),
                (again, weights.again),
            ):
                if better and worse:
                    yield Choice(place, better, worse, weight)
        elif not whole:
            yield Choice(place, frozenset({answer.tokens[place]}), None, weights.wording)
        left -= set(mentions)
        said |= set(mentions)


def make_example(
    captioner: Any,
    images: Sequence[Any],
    prompt: str,
    answers: Sequence[Answer],
    objects: Mapping[int, frozenset[str]],
    weights: Weights,
) -> "Example":
    """Return the choices of a batch of answers, at least one, with the inputs of their prompts.

    The last target of each answer is the end token, in place of which going on is weighed.
    """
    import torch

    from vlmheads.gains.learn import Example

    tokenizer, model = captioner.processor.tokenizer, captioner.model
    end = end_token(model)
    size: int = model.get_output_embeddings().weight.shape[0]
    longest = 1 + max(len(answer.tokens) for answer in answers)
    targets = torch.full((len(answers), longest), tokenizer.pad_token_id or 0)
    rows: list[int] = []
    found: list[Choice] = []
    for row, answer in enumerate(answers):
        targets[row, : len(answer.tokens) + 1] = torch.tensor([*answer.tokens, end])
        for choice in choices(answer, objects, end, weights):
            if choice.weight:
                rows.append(row)
                found.append(choice)
    sides = torch.zeros(2, len(found), size, dtype=torch.bool)
    for at, choice in enumerate(found):
        better, worse = (1, 0) if choice.swapped else (0, 1)
        sides[better, at, list(choice.better)] = True
        if choice.worse is None:
            sides[worse, at] = ~sides[better, at]
        else:
            sides[worse, at, list(choice.worse)] = True
    return Example(
        captioner.prepare(images, prompt),
        targets,
        torch.tensor(rows),
        torch.tensor([choice.place for choice in found]),
        sides[0],
        sides[1],
        torch.tensor([choice.weight for choice in found]),
    )


def end_token(model: Any) -> int:
    """Return the token that ends an answer of a model, the first of several."""
    ends = model.generation_config.eos_token_id
    return int(ends[0] if isinstance(ends, (list, tuple)) else ends)


def split_images(keys: Sequence[str], held_out: float, seed: int) -> tuple[list[str], list[str]]:
    """Return the images to learn from, and the share of them that is held out, at least one."""
    shuffled = list(keys)
    random.Random(seed).shuffle(shuffled)
    count = max(1, round(held_out * len(shuffled)))
    return shuffled[count:], shuffled[:count]

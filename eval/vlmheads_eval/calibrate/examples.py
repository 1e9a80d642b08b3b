"""Examples for calibration: which tokens are better at each choice in a model's own answers."""

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
    """Weights of the kinds of choices.

    Args:
        named: to name an object that is present and not named yet, rather than an absent one.
        again: to name such an object rather than one that was named before.
        going_on: to continue after a sentence while objects remain to be named.
        stopping: to stop after a sentence once all are named.
        wording: to keep the words of the answer everywhere else.
    """

    named: float = 1.0
    again: float = 0.8
    going_on: float = 0.3
    stopping: float = 0.1
    wording: float = 0.3


class Choice(NamedTuple):
    """One choice in one answer: its target position, and the better and worse tokens."""

    place: int
    better: frozenset[int]
    worse: frozenset[int] | None  # None: all others.
    weight: float
    swapped: bool = False  # `better` and `worse` are swapped.


def object_tokens(tokenizer: Any, vocabulary: Vocabulary) -> dict[int, frozenset[str]]:
    """Return token -> categories of the words that begin with it, in singular and plural.

    The first token of a word decides what is named. Words unknown to the tokenizer are omitted.
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
    """A caption as tokens, with its mentions and the objects in the image.

    Args:
        tokens: without the end token.
        spans: characters [start, end) of each token.
        text: the caption.
        named: start of each mention in the text -> category.
        truth: the categories in the image.
    """

    tokens: Sequence[int]
    spans: Sequence[tuple[int, int]]
    text: str
    named: Mapping[int, str]
    truth: frozenset[str]


def read_answer(tokenizer: Any, text: str, truth: frozenset[str], variant: Variant) -> Answer:
    """Return a caption as tokens with its mentions, as CHAIR finds them."""
    coded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    named = {}
    for mention in variant.read(text).mentions:
        for start, _ in mention_spans(text, (mention,)):
            named[start] = mention.node
    return Answer(coded["input_ids"], coded["offset_mapping"], text, named, truth)


def choices(
    answer: Answer, objects: Mapping[int, frozenset[str]], end: int, weights: Weights
) -> Iterator[Choice]:
    """Yield the choices in an answer that is followed by the token `end`.

    At a mention, while present objects remain to be named, all words for these are better than all
    words for absent objects and than all words for objects named before.
    """
    left, named = set(answer.truth), set[str]()
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
            again = frozenset(t for t, names in objects.items() if names & named) - better
            for worse, weight in (
                (frozenset(objects) - better - again, weights.named),
                (again, weights.again),
            ):
                if better and worse:
                    yield Choice(place, better, worse, weight)
        elif not whole:
            yield Choice(place, frozenset({answer.tokens[place]}), None, weights.wording)
        left -= set(mentions)
        named |= set(mentions)


def make_example(
    captioner: Any,
    images: Sequence[Any],
    prompt: str,
    answers: Sequence[Answer],
    objects: Mapping[int, frozenset[str]],
    weights: Weights,
) -> "Example":
    """Return the choices in a batch of at least one answer, with the inputs of their prompts.

    The last target of each answer is the end token, which is weighed against continuing.
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
    """Return a model's end token, the first one if it has several."""
    ends = model.generation_config.eos_token_id
    return int(ends[0] if isinstance(ends, (list, tuple)) else ends)


def split_images(keys: Sequence[str], held_out: float, seed: int) -> tuple[list[str], list[str]]:
    """Return the images to learn from, and the held-out ones, at least one."""
    shuffled = list(keys)
    random.Random(seed).shuffle(shuffled)
    count = max(1, round(held_out * len(shuffled)))
    return shuffled[count:], shuffled[:count]

"""P(yes): what the model answers when it is asked whether the object is there."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from vlmheads.errors import VlmHeadsError
from vlmheads.grounding.asking import Row, last_logits
from vlmheads.precision import at_least_float32

ENDING = "Answer yes or no."
# Signs in front of a piece of a word in the vocabularies of byte-pair and sentencepiece tokenizers,
# and what people put around an answer.
_AROUND = "\N{LATIN CAPITAL LETTER G WITH DOT ABOVE}\N{LOWER ONE EIGHTH BLOCK}\"'*`"
# Words that begin with the sound of a vowel: by letter, a silent h, or a spelt-out capital.
_VOWEL = re.compile(r"[aeiouAEIOU]|[Hh](?:our|onest|eir|onou?r)|[FHLMNRSX](?=[A-Z\d]|\b)")
_CONSONANT = re.compile(r"(?i:uni(?!n|m)|us[ae]|uk|eu|one\b|once|ewe|uten)|U[A-Z]")
# Nouns that end in s and are one thing.
_SINGULAR = re.compile(
    r"(?:ss|us|(?<!sk)(?<!tax)is|gas|lens|canvas|pancreas|atlas|christmas)$", re.I
)


@dataclass(frozen=True)
class Answered:
    """The first token of an answer to a yes/no question.

    Args:
        p_yes: yes / (yes + no); None where neither has any probability.
        yes: probability of all spellings of "yes".
        no: of all spellings of "no".
        rest: probability that is not accounted for: of tokens that were not listed.
        low: the least that p_yes can be, if all of the rest were no.
        high: the most, if all of it were yes.
    """

    p_yes: float | None
    yes: float
    no: float
    rest: float
    low: float
    high: float


def read_answer(listed: Mapping[str, float]) -> Answered:
    """Return P(yes) from the log-probabilities of tokens at the first position of an answer.

    Signs of the vocabulary, white space, quotes, stars and case are left out of account; after that
    a token has to be "yes" or "no": "None", "Not" and "Eyes" do not count.

    Args:
        listed: text of each token -> its log-probability; -9999 or less is what servers fill with.
    """
    chances = {text: math.exp(log) for text, log in listed.items()}
    yes = sum(chance for text, chance in chances.items() if _said(text) == "yes")
    no = sum(chance for text, chance in chances.items() if _said(text) == "no")
    rest = max(0.0, 1 - sum(chances.values()))
    total = yes + no
    whole = total + rest
    low, high = (yes / whole, (yes + rest) / whole) if whole else (0.0, 1.0)
    return Answered(yes / total if total else None, yes, no, rest, low, high)


def read_served_answer(entry: Mapping[str, Any]) -> Answered:
    """Return P(yes) from one entry of `choices[0].logprobs.content` of an OpenAI-like server.

    The sampled token counts, too, where it is not among the `top_logprobs`; each text counts once.

    Raises:
        VlmHeadsError: an entry without tokens and their log-probabilities.
    """
    try:
        listed = {entry["token"]: float(entry["logprob"])}
        for one in entry.get("top_logprobs") or ():
            listed.setdefault(one["token"], float(one["logprob"]))
    except (KeyError, TypeError, ValueError) as error:
        raise VlmHeadsError(
            f"a log-probability entry that cannot be read ({error!r})",
            '{"token", "logprob", "top_logprobs": [{"token", "logprob"}]}',
            "ask the server with logprobs=true and top_logprobs=20",
        ) from error
    return read_answer(listed)


def question_about(name: str, ending: str = ENDING) -> str:
    """Return "Is there a dog in the image? ..." with the article and number that the name takes.

    Args:
        name: the object.
        ending: what follows the question.
    """
    if name.endswith("s") and not _SINGULAR.search(name):
        return f"Are there any {name} in the image? {ending}".strip()
    vowel = _VOWEL.match(name) and not _CONSONANT.match(name)
    return f"Is there {'an' if vowel else 'a'} {name} in the image? {ending}".strip()


def p_yes(
    model: Any, processor: Any, images: Sequence[Any], names: Sequence[Iterable[str]], *,
    ending: str = ENDING,
    batch_size: int = 16,
) -> list[dict[str, float]]:  # fmt: skip
    """Ask a model about objects, one question for each, and return P(yes) of each.

    P(yes) is Σ p(yes) / (Σ p(yes) + Σ p(no)) of all spellings, at the first position of the
    answer. Source: our own rule. The model that named an absent object may well confirm it, and
    rates of yes differ by model: compare values of one model alone.

    Args:
        model: a transformers model for image-text-to-text generation, without plugins attached.
        processor: its processor, with a chat template.
        images: N Pillow images.
        names: for each of them the objects to ask about.
        ending: what follows each question.
        batch_size: questions a forward pass.

    Returns:
        For each image, object -> P(yes); NaN where neither yes nor no has any probability.

    Raises:
        VlmHeadsError: plugins attached, or a vocabulary without a single token for yes or for no.
    """
    yes, no = _spellings(processor.tokenizer, "yes"), _spellings(processor.tokenizer, "no")
    rows = [
        Row(at, name, question_about(name, ending))
        for at, several in enumerate(names)
        for name in dict.fromkeys(several)
    ]
    found: list[dict[str, float]] = [{} for _ in images]
    for batch, logits in last_logits(model, processor, images, rows, 1, batch_size):
        log = at_least_float32(logits[:, -1]).log_softmax(dim=-1)
        said = torch.stack([log[:, ids].logsumexp(dim=-1) for ids in (yes, no)])
        for row, chance in zip(batch, said.softmax(dim=0)[0].tolist(), strict=True):
            found[row.image][row.name] = chance
    return found


def _said(text: str) -> str:
    """Return what a token says, without signs around it and in lower case."""
    return text.strip().strip(_AROUND).strip().casefold()


def _spellings(tokenizer: Any, answer: str) -> Tensor:
    """Return the ids of all tokens that say an answer.

    Raises:
        VlmHeadsError: none does.
    """
    ids = [at for piece, at in tokenizer.get_vocab().items() if _said(piece) == answer]
    if not ids:
        raise VlmHeadsError(
            f'a tokenizer without a token that says "{answer}"',
            'answers of one token, such as "Yes" and "No"',
            "leave the score p_yes out",
        )
    return torch.tensor(sorted(ids))

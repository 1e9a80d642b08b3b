"""How likely a caption is to a served model, token by token, with its image and without."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from vlmheads.endpoint.answers import Answer
from vlmheads.errors import VlmHeadsError

# The caption is the beginning of the answer that is to be continued, and so part of the prompt.
FIELDS: Mapping[str, Any] = {
    "add_generation_prompt": False,
    "continue_final_message": True,
    "prompt_logprobs": 0,
}
# Signs that vocabularies put in place of a space.
_SPACES = "\N{LATIN CAPITAL LETTER G WITH DOT ABOVE}\N{LOWER ONE EIGHTH BLOCK}"

Placed = tuple[int, int, float]  # first character, the one after the last, log-probability


def place_tokens(answer: Answer, text: str) -> list[Placed]:
    """Return the log-probabilities of a caption's tokens, with the characters they stand for.

    The prompt has an entry for each of hundreds of image tokens, so that the caption is found from
    the end. White space is left out of account, which vocabularies write in many ways.

    Args:
        answer: to a request with FIELDS, whose conversation ends with the caption.
        text: the caption.

    Raises:
        VlmHeadsError: no log-probabilities of the prompt, or tokens that are not those of the text.
    """
    if not answer.prompt:
        raise VlmHeadsError("an answer without log-probabilities of the prompt", "prompt_logprobs")
    letters = [place for place, sign in enumerate(text) if not sign.isspace()]
    found: list[Placed] = []
    left = len(letters)
    for entry in reversed(answer.prompt):
        if not left:
            break
        token, log = _entry(entry)
        start = left - len(token)
        here = "".join(text[place] for place in letters[max(start, 0) : left])
        if start < 0 or here != token:
            raise VlmHeadsError(
                f"prompt_logprobs with the token {token!r}, where the caption has {here!r}",
                "the tokens of the caption at the end",
            )
        if token:
            found.append((letters[start], letters[left - 1] + 1, log))
        left = start
    if left:
        raise VlmHeadsError("prompt_logprobs that do not hold the whole caption")
    return found[::-1]


def of_span(tokens: Sequence[Placed], start: int, end: int) -> float:
    """Return the log-probability of some characters: of all tokens that hold any of them."""
    return sum(log for first, after, log in tokens if first < end and after > start)


def _entry(entry: Any) -> tuple[str, float]:
    """Return the text of the token of an entry, without spaces, and its log-probability."""
    try:
        # The token itself comes first; further ones are those that were likelier.
        about = next(iter(entry.values()))
        token = "".join(about["decoded_token"].strip(_SPACES).split())
        return token, float(about["logprob"])
    except (AttributeError, StopIteration, KeyError, TypeError, ValueError) as error:
        raise VlmHeadsError(
            "prompt_logprobs that cannot be read", '{id: {"logprob", "decoded_token"}} a token'
        ) from error

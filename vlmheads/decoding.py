"""What `model.generate` is asked for, and what is read from the tokens that it returns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import torch
from transformers import StopStringCriteria

from vlmheads.errors import VlmHeadsError
from vlmheads.model.anatomy import generator_of, unwrap
from vlmheads.runtime.attachment import ATTACHED
from vlmheads.runtime.cache import NAMES as CACHES

MAX_NEW_TOKENS = 128


@dataclass(frozen=True)
class Decoding:
    """The arguments of one `model.generate`, and where its rows end.

    Args:
        arguments: for `model.generate`, beside the inputs.
        limit: new tokens per row at most.
        ends: tokens that end a row.
        stop_strings: texts that end a row.
        pad: the token that fills up a row which ended without an end token; None where each row
            without an end token is as long as the generation.
        tokenizer: the model's.
    """

    arguments: dict[str, Any]
    limit: int
    ends: frozenset[int]
    stop_strings: tuple[str, ...]
    pad: int | None
    tokenizer: Any

    @classmethod
    def of(cls, model: Any, tokenizer: Any, generate: Mapping[str, Any]) -> Self:
        """Complete the arguments of a `generate`: greedy search of 128 tokens by default.

        Raises:
            VlmHeadsError: `max_length`, another limit than a number from 1 up, stop strings that
                the tokenizer cannot spell, a cache that is already filled, or an assistant model
                with plugins attached to it.
        """
        _refuse_used(generate)
        config, plain = generate.get("generation_config"), generator_of(model)

        def setting(name: str, *, saved: bool = True) -> Any:
            places = (config, plain.generation_config) if saved else (config,)
            found = [generate.get(name), *(getattr(place, name, None) for place in places)]
            return next((value for value in found if value is not None), None)

        if setting("max_length", saved=False) is not None:
            raise VlmHeadsError(
                f"max_length={setting('max_length')}",
                "a limit that does not count the prompt and its image",
                "pass max_new_tokens",
            )
        limit = setting("max_new_tokens", saved=False)
        limit = MAX_NEW_TOKENS if limit is None else limit
        if not isinstance(limit, int) or limit < 1:
            raise VlmHeadsError(f"max_new_tokens={limit!r}", "a whole number from 1")
        arguments = dict(generate) | {"max_new_tokens": limit}
        if config is None:
            arguments.setdefault("do_sample", False)
        stop = setting("stop_strings") or ()
        stop = (stop,) if isinstance(stop, str) else tuple(stop)
        if stop:  # generate() needs it for these, and for nothing else
            arguments.setdefault("tokenizer", tokenizer)
            _refuse_unspelled(tokenizer, stop)
        ends = _numbers(setting("eos_token_id"))
        pad = _numbers(setting("pad_token_id")) or ends
        fills = bool(ends and pad and (stop or generate.get("stopping_criteria")))
        return cls(arguments, limit, frozenset(ends), stop, pad[0] if fills else None, tokenizer)

    def read(self, row: Sequence[int]) -> tuple[tuple[int, ...], bool]:
        """Return the tokens of one row before its end, and whether the limit ended it.

        A time limit, a stop string or a criterion of the caller's is not the limit.

        Args:
            row: new tokens, the prompt not among them, as `generate` returned them.
        """
        length = next((place for place, token in enumerate(row) if token in self.ends), None)
        if length is not None:
            return tuple(row[:length]), False
        length = len(row)
        while length and row[length - 1] == self.pad:
            length -= 1
        ids = tuple(row[:length])
        if length < self.limit:
            return ids, False
        text = self.tokenizer.decode(ids) if self.stop_strings else ""
        return ids, not any(stop in text for stop in self.stop_strings)


def _refuse_unspelled(tokenizer: Any, stop: tuple[str, ...]) -> None:
    """Refuse stop strings where transformers cannot tell which tokens spell them."""
    try:
        StopStringCriteria(tokenizer, list(stop))  # which keeps its tables for generate()
    except Exception as error:
        raise VlmHeadsError(
            f"stop_strings={list(stop)} with a {type(tokenizer).__name__} that cannot spell them",
            "a tokenizer of letters, bytes or parts of words",
            "pass eos_token_id, or a stopping criterion",
        ) from error


def _refuse_used(generate: Mapping[str, Any]) -> None:
    """Refuse a cache that was filled before, and an assistant model with plugins on it.

    What does not go with plugins on the model itself is refused where they act.
    """
    for name in CACHES:
        cache = generate.get(name)
        if cache is not None and int(cache.get_seq_length()):
            raise VlmHeadsError(
                f"{name}, a cache that already holds {int(cache.get_seq_length())} tokens",
                "an empty cache, since the prompt is processed from its start",
                "leave it out",
            )
    assistant = generate.get("assistant_model")
    if assistant is not None and ATTACHED in vars(unwrap(assistant)):
        raise VlmHeadsError(
            f"an assistant model ({type(assistant).__name__}) with plugins attached to it",
            "a plain assistant: it only drafts what the model then checks",
            "detach its plugins",
        )


def _numbers(value: Any) -> list[int]:
    """Return one token id, a list or a tensor of them, or None, as a list."""
    if isinstance(value, torch.Tensor):
        value = value.tolist()
    if value is None:
        return []
    return [value] if isinstance(value, int) else list(value)

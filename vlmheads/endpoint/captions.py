"""Captions of images by a served model, with what it answers to questions about their objects."""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Iterable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from vlmheads.endpoint.answers import Answer, Failure
from vlmheads.endpoint.client import Client, Question
from vlmheads.endpoint.words import (
    QUESTION_FIELDS,
    WordsAsked,
    names_in,
    question,
    read_chance,
)
from vlmheads.errors import VlmHeadsError
from vlmheads.grounding.questions import Answered

K = TypeVar("K")


@dataclass(frozen=True)
class Asking:
    """What images are asked.

    Args:
        prompt: for the caption.
        max_new_tokens: of the caption.
        words: how its objects are scored; None for not at all.
    """

    prompt: str
    max_new_tokens: int
    words: WordsAsked | None = None


@dataclass
class _Part(Generic[K]):
    """An image on its way: its caption once that is there, and what is known of its objects."""

    key: K
    image: str | VlmHeadsError
    said: Answer | None = None
    chances: dict[str, Answered] = field(default_factory=dict)
    waiting: int = 0
    error: VlmHeadsError | None = None


def captions(
    client: Client, images: Iterable[tuple[K, str | VlmHeadsError]], asking: Asking
) -> Generator[tuple[K, Mapping[str, Any] | VlmHeadsError]]:
    """Yield the record of each image, or what is wrong, in the order in which they are finished.

    Questions about the objects of a caption are asked as soon as it is there, before further
    images, while the server still keeps what it read of the image.

    Args:
        client: the connection.
        images: keys with data URLs, or with what is wrong with an image.
        asking: what they are asked.

    Raises:
        VlmHeadsError: a server that no image is answered by any more.
    """
    questions = _Questions(images, asking)
    with closing(client.ask(questions)) as asked:
        for one, found in asked:
            part, name = one.key
            if isinstance(found, Failure):
                part.error = part.error or found.error
            elif name is None:
                part.said = found
                questions.follow(part)
            else:
                try:
                    part.chances[name] = read_chance(found)
                except VlmHeadsError as error:
                    part.error = part.error or error
            part.waiting -= name is not None
            if not part.waiting:
                yield part.key, part.error or _record(client, part, asking)


class _Questions(Generic[K]):
    """An iterator of questions that goes on when an answer brings further ones."""

    def __init__(self, images: Iterable[tuple[K, str | VlmHeadsError]], asking: Asking) -> None:
        self.images, self.asking = iter(images), asking
        self.further: deque[Question[tuple[_Part[K], str | None]]] = deque()

    def __iter__(self) -> Iterator[Question[tuple[_Part[K], str | None]]]:
        return self

    def __next__(self) -> Question[tuple[_Part[K], str | None]]:
        if self.further:
            return self.further.popleft()
        key, image = next(self.images)
        part = _Part(key, image)
        return Question((part, None), self.asking.prompt, image, self.asking.max_new_tokens)

    def follow(self, part: _Part[K]) -> None:
        """Ask about the objects of a caption."""
        if self.asking.words is None or part.said is None:
            return
        names = names_in(part.said.text)
        part.waiting = len(names)
        self.further.extend(
            Question((part, name), question(name), part.image, 1, QUESTION_FIELDS) for name in names
        )


def _record(client: Client, part: _Part[K], asking: Asking) -> dict[str, Any]:
    said = part.said
    assert said is not None
    record: dict[str, Any] = {
        "text": said.text,
        "tokens": said.tokens,
        "at_limit": said.at_limit,
        "model": client.endpoint.model,
        "plugins": [],
    }
    if asking.words is not None:
        record |= asking.words.record(said.text, asking.words.words(said.text, part.chances))
    return record

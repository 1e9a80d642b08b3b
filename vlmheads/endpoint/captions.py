"""Captions of images by a served model, with what it answers to questions about their objects."""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Iterable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from vlmheads.endpoint.answers import Answer, Failure
from vlmheads.endpoint.client import Client, Question
from vlmheads.endpoint.words import WordsAsked
from vlmheads.errors import VlmHeadsError

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
    answers: dict[str, Answer] = field(default_factory=dict)
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
            part, label = one.key
            if isinstance(found, Failure):
                part.error = part.error or found.error
            elif label is None:
                part.said = found
                questions.follow(part)
            else:
                part.answers[label] = found
            part.waiting -= label is not None
            if not part.waiting:
                yield part.key, part.error or _record(client, part, asking)


class _Questions(Generic[K]):
    """An iterator of questions that goes on when an answer brings further ones."""

    def __init__(self, images: Iterable[tuple[K, str | VlmHeadsError]], asking: Asking) -> None:
        self.images, self.asking = iter(images), asking
        self.further: deque[Question[tuple[_Part[K], Any]]] = deque()

    def __iter__(self) -> Iterator[Question[tuple[_Part[K], Any]]]:
        return self

    def __next__(self) -> Question[tuple[_Part[K], Any]]:
        if self.further:
            return self.further.popleft()
        key, image = next(self.images)
        part = _Part(key, image)
        return Question((part, None), self.asking.prompt, image, self.asking.max_new_tokens)

    def follow(self, part: _Part[K]) -> None:
        """Ask about the objects of a caption."""
        if self.asking.words is None or part.said is None:
            return
        words, asking = self.asking.words, self.asking
        further = words.follow_up(part, part.image, asking.prompt, part.said.text)
        part.waiting = len(further)
        self.further.extend(further)


def _record(client: Client, part: _Part[K], asking: Asking) -> dict[str, Any] | VlmHeadsError:
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
        try:
            words = asking.words.words(said.text, part.answers)
        except VlmHeadsError as error:
            return error
        record |= asking.words.record(said.text, words)
    return record

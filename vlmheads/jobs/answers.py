"""What a model says of images: of a batch at a time, or of each as the answers come."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

from PIL import Image

from vlmheads.errors import VlmHeadsError
from vlmheads.jobs.batches import Decode, Picture, in_halves
from vlmheads.printable import in_short

# After so many failures of the model in a row it is not the images that are at fault.
HOPELESS = 10
KEPT = "what is finished is kept: run the same command again to go on"

Describe = Callable[[Sequence[Image.Image]], Sequence[Mapping[str, Any]]]
Answered = tuple[Picture, Mapping[str, Any] | VlmHeadsError]


@dataclass(frozen=True)
class Stream:
    """What answers images one by one, several at a time, such as a server.

    Args:
        ask: from pictures, those that cannot be read among them, to pictures with their record or
            what is wrong, in any order. It raises VlmHeadsError where it is no use to go on.
        decode: from the bytes of a file, and its name, to what `ask` finds as `Picture.image`.
    """

    ask: Callable[[Iterable[Picture]], Generator[Answered]]
    decode: Decode


def answers(
    describe: Describe | Stream, batches: Iterable[Sequence[Picture]]
) -> Generator[Sequence[Answered]]:
    """Yield pictures with their record, or with the error that stands in its place.

    Raises:
        VlmHeadsError: the model has failed at too many in a row.
    """
    if isinstance(describe, Stream):
        for one in describe.ask(chain.from_iterable(batches)):
            yield [one]
        return
    model = _Model(describe)
    for batch in batches:
        readable = [picture for picture in batch if picture.image is not None]
        found = model.describe([picture.image for picture in readable])
        results = {picture.item.key: one for picture, one in zip(readable, found, strict=True)}
        yield [(picture, picture.error or results[picture.item.key]) for picture in batch]


@dataclass
class _Model:
    """A model, and how often in a row it has failed."""

    run: Describe
    in_a_row: int = 0

    def describe(
        self, images: Sequence[Image.Image]
    ) -> Sequence[Mapping[str, Any] | VlmHeadsError]:
        """Describe images; where the model fails at several, each for itself."""
        if not images:
            return []
        try:
            found = in_halves(self.run, images)
        except (ValueError, RuntimeError, MemoryError) as error:
            if len(images) > 1:
                half = len(images) // 2
                return [*self.describe(images[:half]), *self.describe(images[half:])]
            self.in_a_row += 1
            failure = VlmHeadsError(f"the model fails at this image ({in_short(error)})")
            if self.in_a_row >= HOPELESS:
                raise VlmHeadsError(
                    f"the model failed at {HOPELESS} images in a row, lastly with: "
                    f"{in_short(error)}",
                    todo=f"{KEPT}, with --retry-failed",
                ) from error
            return [failure]
        self.in_a_row = 0
        return found

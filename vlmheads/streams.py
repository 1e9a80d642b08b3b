"""Extra streams: other views of the prompt that run in one batch with the main one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import Cache, DynamicCache, PreTrainedConfig

from vlmheads.anatomy import Anatomy
from vlmheads.prompt import Prompt
from vlmheads.vision import PIXELS


@dataclass(frozen=True)
class Stream:
    """Another view of the prompt, to contrast the main stream with.

    Args:
        name: the key of its logits in `request.streams`.
        view: makes the stream's prompt from the main one, row for row.
        pixels: makes the stream's pixels from the main stream's, where its prompt has images.
        images: makes the stream's arguments of the vision encoder from the main stream's, for
            what depends on where an image ends among the pixels.
        look: makes the stream's prompt, in place of `view`, where it depends on the images: from
            the parts of the model, the main prompt and the arguments of the vision encoder.
    """

    name: str
    view: Callable[[Prompt], Prompt]
    pixels: Callable[[Tensor], Tensor] | None = None
    images: Callable[[dict[str, Any]], dict[str, Any]] | None = None
    look: Callable[[Anatomy, Prompt, dict[str, Any]], Prompt] | None = None

    def change(self, given: dict[str, Any]) -> dict[str, Any] | None:
        """Return the stream's own arguments of the vision encoder; None for the main stream's."""
        if self.images is not None:
            return self.images(given)
        return None if self.pixels is None else given | {PIXELS: self.pixels(given[PIXELS])}


TEXT_ONLY = Stream("text-only", Prompt.without_images)


class StreamCache(DynamicCache):
    """A cache whose rows are the main stream's and, after them, those of each extra stream.

    Beam search reorders the rows of the main stream; the others have to follow in step.

    Args:
        config: the model's config, for layers that keep a sliding window.
        copies: how many streams the rows hold, the main one included.
        rows: rows of one stream.
        given: the empty cache in whose place it stands; one that will be cropped, for prompt
            lookup, has been told to record what a window would drop.
    """

    def __init__(
        self, config: PreTrainedConfig, copies: int, rows: int, given: Cache | None
    ) -> None:
        super().__init__(config=config)
        self.copies, self.rows = copies, rows
        if given is not None and any(map(given.is_recording_past, range(len(given.layers)))):
            self.activate_past_recording()  # type: ignore[no-untyped-call]

    def reorder_cache(self, beam_idx: Tensor) -> None:
        """Reorder every stream as the main one."""
        every = [beam_idx + copy * self.rows for copy in range(self.copies)]
        super().reorder_cache(torch.cat(every))  # type: ignore[arg-type]

"""Extra streams: other views of the prompt that run in one batch with the main one.

The batch is widened to all streams before a forward pass, and narrowed to the main one after it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from transformers import DynamicCache

from vlmheads.errors import VlmHeadsError
from vlmheads.model.anatomy import Anatomy
from vlmheads.model.vision import Media, encode, image_inputs, join, pixel_names
from vlmheads.runtime import apart
from vlmheads.runtime.cache import StreamCache, filled_cache, given_cache, with_cache
from vlmheads.runtime.compat import ENCODED, chain, takes_encoded_images
from vlmheads.runtime.embeds import embed_streams, with_features
from vlmheads.runtime.prompt import TOKEN_TYPES, Prompt
from vlmheads.runtime.refusals import refuse_sparse

if TYPE_CHECKING:
    from vlmheads.runtime.attention import Rows
    from vlmheads.runtime.request import Request


@dataclass(frozen=True)
class Stream:
    """Another view of the prompt, to contrast the main stream with.

    Args:
        name: the key of its logits in `request.streams`.
        view: makes the stream's prompt from the main one, row for row; None where it is the same.
        pixels: makes the stream's pixels from the main stream's, where its prompt has images, each
            tensor that holds some on its own.
        images: makes the stream's arguments of the vision encoder from the main stream's, for
            what depends on where an image ends among the pixels.
        look: makes the stream's prompt, in place of `view`, where it depends on the images: from
            the parts of the model, the main prompt and the arguments of the vision encoder.
        hide: marks the keys [B, K] that no row of the stream sees in a layer, from the request,
            the layer and K; None where it sees all. It is asked in every layer of every forward
            pass, after the main stream's rows of the layers before, so that what `on_attention`
            saw there, kept in `request.scratch`, can decide.
        attend: makes head outputs [B, Q, H, Dv] of the stream's own attention, in place of those of
            the model, from the request, the layer and the stream's last rows: text after the image,
            then one row a decoded token. None where they stay. It is asked in every layer of every
            forward pass, after the main stream's `on_attention`. The stream's prompt has to be the
            main one's.
    """

    name: str
    view: Callable[[Prompt], Prompt] | None = None
    pixels: Callable[[Tensor], Tensor] | None = None
    images: Callable[[dict[str, Any]], dict[str, Any]] | None = None
    look: Callable[[Anatomy, Prompt, dict[str, Any]], Prompt] | None = None
    hide: Callable[[Request, int, int], Tensor | None] | None = None
    attend: Callable[[Request, int, Rows], Tensor | None] | None = None

    @property
    def in_layers(self) -> bool:
        """Whether the stream does something of its own inside of attention layers."""
        return self.hide is not None or self.attend is not None

    def change(self, given: dict[str, Any]) -> dict[str, Any] | None:
        """Return the stream's own arguments of the vision encoder; None for the main stream's."""
        if self.images is not None:
            return self.images(given)
        if self.pixels is None:
            return None
        return given | {name: self.pixels(given[name]) for name in pixel_names(given)}


TEXT_ONLY = Stream("text-only", Prompt.without_images)


class Batch:
    """The main stream and the extra ones as rows of one batch.

    Rows come stream after stream: first the main one's B rows, then B of each extra stream, all
    left padded to one length. In the prefill they may run one after the other, each at its own
    length, and join afterwards; see `prefill_apart`.

    Args:
        anatomy: the parts of the model.
        prompt: the main stream's prompt.
        streams: the extra streams, in order.
        inputs: what the forward pass of the prefill was given.
        media: the same and, under generate(), what that call was given, pixels included.

    Raises:
        VlmHeadsError: a cache that cannot hold more rows than the prompt has; sparse attention that
            padding moves; on a model with three-dimensional positions, a prefill without position
            ids or a stream whose image stands elsewhere than the main one's.
    """

    def __init__(
        self,
        anatomy: Anatomy,
        prompt: Prompt,
        streams: tuple[Stream, ...],
        inputs: dict[str, Any],
        media: dict[str, Any],
    ) -> None:
        cache = given_cache(inputs)
        if cache is not None and type(cache) is not DynamicCache:
            raise VlmHeadsError(
                f"a {type(cache).__name__} for a plugin that contrasts {len(streams) + 1} streams",
                "a DynamicCache, which grows to the rows of all streams",
                "leave cache_implementation unset",
            )
        prompts = [prompt]
        for stream in streams:
            if stream.look is not None:
                prompts.append(stream.look(anatomy, prompt, image_inputs(anatomy, media)))
            else:
                prompts.append(prompt if stream.view is None else stream.view(prompt))
        length = max(part.ids.shape[1] for part in prompts)
        self.anatomy = anatomy
        self.own = prompts
        self.unpadded = prompt.ids.shape[1]
        self.prompts = [part.padded(length) for part in prompts]
        self.mask = torch.cat([part.mask for part in self.prompts])
        self.padded = not bool(self.mask.all())
        self.rows = prompt.ids.shape[0]
        refuse_sparse(anatomy, [part.mask for part in self.prompts])
        self.same = [_equal(part, self.main) for part in self.prompts]
        for stream, same in zip(streams, self.same[1:], strict=True):
            if stream.attend is not None and not same:
                raise VlmHeadsError(
                    f"stream {stream.name!r}, which attends in its own way to another prompt",
                    "the main stream's prompt, whose rows and image it is told of",
                )
        if _rotates_in_space(anatomy):
            for stream, part, same in zip(streams, self.prompts[1:], self.same[1:], strict=True):
                if not same and bool(part.visual.any()):
                    raise VlmHeadsError(
                        f"stream {stream.name!r}, whose prompt differs but holds an image",
                        f"on {anatomy.family.name} the same prompt, or one without images",
                        "its image has no positions that could be counted",
                    )
        self.streams = streams
        self.media: Media | None = None
        self.embeds: Tensor | None = None
        # What the prefill of each extra stream gave, until the main one's is over.
        self.apart: list[apart.Apart] = []

    @property
    def main(self) -> Prompt:
        """The main stream's prompt, padded to the length of all."""
        return self.prompts[0]

    def paddings(self) -> tuple[int, ...]:
        """Columns in front of each stream's prompt that are padding in every row."""
        return tuple(int(part.mask.any(dim=0).int().argmax()) for part in self.prompts)

    def look(self, inputs: dict[str, Any], media: dict[str, Any], seen: Any) -> None:
        """Encode the images of all streams.

        Args:
            inputs: what the forward pass of the prefill was given.
            media: see the class.
            seen: the main stream's images as plugins edited them; None where they did not. The
                other streams see them unedited.
        """
        if self.anatomy.family.inner:
            embeds = inputs["inputs_embeds"]
            self.embeds = embed_streams(self.anatomy, self.streams, self.prompts, embeds, media)
            if seen is not None:
                main = self.embeds[: self.rows]
                self.embeds[: self.rows] = with_features(main, self.main.visual, seen)
        else:
            self.media = _encode(self.anatomy, self.streams, self.prompts[1:], inputs, media, seen)

    def prefill_apart(self, inputs: dict[str, Any]) -> bool:
        """Prefill the extra streams before the main one, if that does what one batch would do.

        It does where all of them are shorter than the main one, hold no image and attend as the
        model does, and where each layer of the cache keeps tokens column by column.

        Args:
            inputs: what the forward pass of the prefill was given.

        Returns:
            Whether it was done; the main stream is then prefilled alone.
        """
        shorter = all(
            part.ids.shape[1] < self.unpadded and not bool(part.visual.any())
            for part in self.own[1:]
        )
        busy = any(stream.in_layers for stream in self.streams)
        if not shorter or busy or not apart.can_join(self.anatomy, inputs):
            return False
        self._refuse_unplaced(inputs)
        self.apart = [apart.prefill(self.anatomy, part, inputs) for part in self.own[1:]]
        return True

    def widen(self, inputs: dict[str, Any], cached: int) -> dict[str, Any]:
        """Return the arguments of the same forward pass for all streams that run in it."""
        if self.apart:
            return with_cache(self.anatomy.generator, inputs, self._cache(inputs))
        copies = len(self.prompts)
        ids = inputs["input_ids"]
        new = ids if cached else ids[:, self.unpadded :]
        new = new.repeat(copies, 1)
        length = self.mask.shape[1]
        grown = cached + new.shape[1] - length if cached else new.shape[1]
        mask = torch.cat([self.mask, self.mask.new_ones(len(self.mask), grown)], dim=1)
        wide = dict(inputs)
        # Without padding causality is enough, as generate() itself finds; finding it out asks the
        # device, once per token.
        bare = not self.padded and inputs.get("use_cache") is not False
        wide["attention_mask"] = None if bare else mask.long()
        if cached:
            wide["input_ids"] = new
        else:
            prompts = torch.cat([part.ids for part in self.prompts])
            wide["input_ids"] = torch.cat([prompts, new], dim=1)
            if self.embeds is not None:
                wide["inputs_embeds"] = self.embeds
            if self.media is not None:
                wide = {key: value for key, value in wide.items() if key not in self.media.inputs}
                wide |= self.media.arguments
            if inputs.get("use_cache") is not False:
                wide = with_cache(self.anatomy.generator, wide, self._cache(inputs))
        wide["position_ids"] = self._positions(inputs, mask, wide["input_ids"].shape[1])
        for name in TOKEN_TYPES:
            if (types := inputs.get(name)) is not None:
                wide[name] = self._types(name, types, cached)
        return wide

    def _cache(self, inputs: dict[str, Any]) -> StreamCache:
        """Return an empty cache for the rows of all streams."""
        config: Any = self.anatomy.generator.config
        return StreamCache(config, len(self.prompts), self.rows, given_cache(inputs))

    def _refuse_unplaced(self, inputs: dict[str, Any]) -> None:
        """Refuse a forward pass without positions where ours could not be counted."""
        if inputs.get("position_ids") is None and _rotates_in_space(self.anatomy):
            raise VlmHeadsError(
                f"a forward pass of {self.anatomy.family.name} without position ids",
                "those that generate() makes, since extra streams need their own",
                "call model.generate, or pass position_ids",
            )

    def _positions(self, inputs: dict[str, Any], mask: Tensor, length: int) -> Tensor:
        """Position ids of all streams, in the shape that the main stream's have."""
        self._refuse_unplaced(inputs)
        first = self.anatomy.family.first_position
        counted = (mask.long().cumsum(dim=1) - 1).clamp(min=0)[:, -length:] + first
        main = inputs.get("position_ids")
        if main is None:
            return counted
        main = main.expand(*main.shape[:-2], self.rows, -1)
        short = length - main.shape[-1]
        if short > 0:
            main = torch.cat([main[..., :1].expand(*main.shape[:-1], short), main], dim=-1)
        counts = counted.chunk(len(self.prompts))
        parts = [
            main if same else count.to(main.dtype).expand(*main.shape[:-2], self.rows, length)
            for same, count in zip(self.same, counts, strict=True)
        ]
        return torch.cat(parts, dim=-2)

    def _types(self, name: str, types: Tensor, cached: int) -> Tensor:
        """Token types of all streams."""
        copies = len(self.prompts)
        if cached:
            return types.repeat(copies, 1)
        prompts = torch.cat([part.token_types[name] for part in self.prompts])
        return torch.cat([prompts, types[:, self.unpadded :].repeat(copies, 1)], dim=1)

    def narrow(self, output: Any) -> tuple[Tensor, ...]:
        """Leave the main stream's rows in a model's output; return the other streams' logits.

        After a prefill of the main stream alone the others join its cache.
        """
        logits: Tensor = output.logits
        if self.apart:
            parts, self.apart = self.apart, []
            filled_cache(output).join([(part.cache, part.rows) for part in parts])
            return tuple(part.logits for part in parts)
        output.logits = logits[: self.rows]
        for name in ("hidden_states", "attentions"):
            if (values := output.get(name)) is not None:
                output[name] = tuple(value[: self.rows] for value in values)
        return logits[self.rows :].chunk(len(self.prompts) - 1)


def _equal(one: Prompt, other: Prompt) -> bool:
    """Tell whether two prompts of a batch are the same, row for row."""
    return torch.equal(one.ids, other.ids) and torch.equal(one.mask, other.mask)


def _encode(
    anatomy: Anatomy,
    streams: tuple[Stream, ...],
    prompts: list[Prompt],
    inputs: dict[str, Any],
    media: dict[str, Any],
    seen: Any,
) -> Media | None:
    """Encode the images of all streams, where an extra stream has any.

    `seen` is what the main stream sees, where that is not what its images are encoded to.
    """
    seeing = [
        stream for stream, prompt in zip(streams, prompts, strict=True) if bool(prompt.visual.any())
    ]
    if not seeing:
        return None
    given = image_inputs(anatomy, media)
    changed = [stream.change(given) for stream in seeing]
    if not takes_encoded_images(anatomy.model):
        return Media(given, chain([given, *(part or given for part in changed)]))
    same = seen is None or any(part is None for part in changed)
    # generate() has encoded the main stream's images already; a forward pass by hand has not.
    plain = (inputs.get(ENCODED) or {}).get("image")
    if plain is None and same:
        plain = encode(anatomy, given)
    images = [plain if part is None else encode(anatomy, part) for part in changed]
    main = plain if seen is None else seen
    return Media(given, {ENCODED: {"image": join(anatomy, inputs, [main, *images])}})


def _rotates_in_space(anatomy: Anatomy) -> bool:
    """Whether the model makes three-dimensional positions (M-RoPE) and keeps their offset."""
    return any(
        hasattr(module, "rope_deltas") and hasattr(module, "get_rope_index")
        for module in anatomy.model.modules()
    )

"""One batch for all streams: widen what generate() passes in, and narrow what comes out."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache

from vlmheads.anatomy import Anatomy
from vlmheads.caches import given_cache, with_cache
from vlmheads.errors import VlmHeadsError
from vlmheads.prompt import Prompt
from vlmheads.streams import Stream, StreamCache
from vlmheads.vision import Media, encode, image_inputs, join

_TOKEN_TYPES = ("token_type_ids", "mm_token_type_ids", "moe_mm_token_type_ids")


def read_prompt(anatomy: Anatomy, inputs: dict[str, Any]) -> Prompt:
    """Read the prompt of a batch from the keyword arguments of the model's forward.

    Raises:
        VlmHeadsError: no token ids, or rows that are padded on the right.
    """
    ids = inputs.get("input_ids")
    if ids is None:
        raise VlmHeadsError(
            "a prompt of embeddings (inputs_embeds)",
            "input_ids, which tell where the image is",
            "pass input_ids and the images themselves",
        )
    mask = _padding(inputs.get("attention_mask"), ids)
    if not bool(mask[:, -1].all()):
        raise VlmHeadsError(
            "prompts that are padded on the right",
            "padding on the left, so that every row ends in its last token",
            "set processor.tokenizer.padding_side = 'left'",
        )
    types = {
        name: value
        for name in _TOKEN_TYPES
        if (value := inputs.get(name)) is not None and value.shape == ids.shape
    }
    return Prompt(ids, mask, anatomy.is_visual(ids), types)


def without_last(inputs: dict[str, Any], count: int) -> dict[str, Any]:
    """Return the arguments of a forward pass without its last `count` columns."""
    if not count:
        return inputs
    cut = ("input_ids", "attention_mask", "position_ids", *_TOKEN_TYPES)
    return inputs | {
        name: inputs[name][..., :-count] for name in cut if inputs.get(name) is not None
    }


def _padding(mask: Any, ids: Tensor) -> Tensor:
    """[B, S] True on real tokens, from a mask of any of the kinds that generate() makes."""
    if isinstance(mask, dict):  # one mask a kind of layer, under a static cache
        mask = mask.get("full_attention", next(iter(mask.values())))
    if mask is None:
        return torch.ones_like(ids, dtype=torch.bool)
    if mask.ndim == 4:  # the last row sees every real token
        row: Tensor = mask[:, 0, -1, : ids.shape[1]]
        return (row if row.dtype == torch.bool else row == 0).expand(ids.shape[0], -1)
    real: Tensor = mask[:, -ids.shape[1] :].bool()
    return real


class Batch:
    """The main stream and the extra ones as rows of one batch.

    Rows come stream after stream: first the main one's B rows, then B of each extra stream, all
    left padded to one length.

    Args:
        anatomy: the parts of the model.
        prompt: the main stream's prompt.
        streams: the extra streams, in order.
        inputs: what the forward pass of the prefill was given.

    Raises:
        VlmHeadsError: a cache that cannot hold more rows than the prompt has; on a model with
            three-dimensional positions, a prefill without position ids or a stream whose image
            stands elsewhere than the main one's.
    """

    def __init__(
        self,
        anatomy: Anatomy,
        prompt: Prompt,
        streams: tuple[Stream, ...],
        inputs: dict[str, Any],
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
            if stream.look is None:
                prompts.append(stream.view(prompt))
            else:
                prompts.append(stream.look(anatomy, prompt, image_inputs(anatomy, inputs)))
        length = max(part.ids.shape[1] for part in prompts)
        self.anatomy = anatomy
        self.unpadded = prompt.ids.shape[1]
        self.prompts = [part.padded(length) for part in prompts]
        self.rows = prompt.ids.shape[0]
        self.same = [_equal(part, self.main) for part in self.prompts]
        if _rotates_in_space(anatomy):
            for stream, part, same in zip(streams, self.prompts[1:], self.same[1:], strict=True):
                if not same and bool(part.visual.any()):
                    raise VlmHeadsError(
                        f"stream {stream.name!r}, whose prompt differs but holds an image",
                        f"on {anatomy.family.name} the same prompt, or one without images",
                        "its image has no positions that could be counted",
                    )
        self.media = _encode(anatomy, streams, self.prompts[1:], inputs)

    @property
    def main(self) -> Prompt:
        """The main stream's prompt, padded to the length of all."""
        return self.prompts[0]

    def widen(self, inputs: dict[str, Any], cached: int) -> dict[str, Any]:
        """Return the arguments of the same forward pass for all streams."""
        copies = len(self.prompts)
        ids = inputs["input_ids"]
        new = ids if cached else ids[:, self.unpadded :]
        new = new.repeat(copies, 1)
        mask = torch.cat([part.mask for part in self.prompts])
        length = mask.shape[1]
        grown = cached + new.shape[1] - length if cached else new.shape[1]
        mask = torch.cat([mask, mask.new_ones(len(mask), grown)], dim=1)
        wide = dict(inputs)
        wide["attention_mask"] = mask.long()
        if cached:
            wide["input_ids"] = new
        else:
            prompts = torch.cat([part.ids for part in self.prompts])
            wide["input_ids"] = torch.cat([prompts, new], dim=1)
            if self.media is not None:
                wide = {key: value for key, value in wide.items() if key not in self.media.inputs}
                wide["mm_encoder_outputs"] = {"image": self.media.features}
            if inputs.get("use_cache") is not False:
                config: Any = self.anatomy.model.config
                cache = StreamCache(config, copies, self.rows, given_cache(inputs))
                wide = with_cache(self.anatomy.model, wide, cache)
        wide["position_ids"] = self._positions(inputs, mask, wide["input_ids"].shape[1])
        for name in _TOKEN_TYPES:
            if (types := inputs.get(name)) is not None:
                wide[name] = self._types(name, types, cached)
        return wide

    def _positions(self, inputs: dict[str, Any], mask: Tensor, length: int) -> Tensor:
        """Position ids of all streams, in the shape that the main stream's have."""
        first = self.anatomy.family.first_position
        counted = (mask.long().cumsum(dim=1) - 1).clamp(min=0)[:, -length:] + first
        main = inputs.get("position_ids")
        if main is None:
            if _rotates_in_space(self.anatomy):
                raise VlmHeadsError(
                    f"a forward pass of {self.anatomy.family.name} without position ids",
                    "those that generate() makes, since extra streams need their own",
                    "call model.generate, or pass position_ids",
                )
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
        """Leave the main stream's rows in a model's output; return the other streams' logits."""
        logits: Tensor = output.logits
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
) -> Media | None:
    """Encode the images of all streams, where an extra stream has any."""
    seeing = [
        stream for stream, prompt in zip(streams, prompts, strict=True) if bool(prompt.visual.any())
    ]
    if not seeing:
        return None
    given = image_inputs(anatomy, inputs)
    main = encode(anatomy, given)
    changed = [stream.change(given) for stream in seeing]
    images = [main if part is None else encode(anatomy, part) for part in changed]
    return Media(given, join(anatomy, inputs, [main, *images]))


def _rotates_in_space(anatomy: Anatomy) -> bool:
    """Whether the model keeps three-dimensional positions (M-RoPE)."""
    return any(hasattr(module, "rope_deltas") for module in anatomy.model.modules())

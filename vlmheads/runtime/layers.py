"""What plugins do inside one forward pass: in each layer, and with the logits at its end."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from vlmheads.errors import VlmHeadsError
from vlmheads.plugin import Plugin
from vlmheads.runtime.attention import KeysValues, Rows
from vlmheads.runtime.cache import keep_edited
from vlmheads.runtime.request import Request
from vlmheads.runtime.streams import Stream

Acting = Mapping[str, tuple[Plugin, ...]]


def edit_rows(
    acting: Acting,
    streams: tuple[Stream, ...],
    request: Request,
    layer: int,
    length: int,
    cached: KeysValues,
    rows: Callable[..., Rows],
    plain: Callable[..., Tensor],
) -> Tensor:
    """Let plugins edit a layer's cache, and then its last attention rows, [B, S, H, D].

    Of the `length` rows only the last one sees an edited cache. Where every row of a stream is made
    here, as in decoding, its `plain` attention is not computed.

    Args:
        acting: hook -> plugins.
        streams: the extra streams, where one of them attends in its own way.
        request: the open Request.
        layer: index of the layer.
        length: S, rows of this forward pass.
        cached: keys and values of the layer, this forward pass included.
        rows: gives Q last rows of a stream.
        plain: gives the output of all rows of the batch, or of some of them, without their first
            keys.
    """
    edited = _edit_cache(acting["on_cache"], request, layer, length, cached)
    after = _edit_attention(acting["on_attention"], request, layer, length, cached, rows, edited)
    made = _attend_streams(streams, request, layer, length, cached, rows)
    if after is None and edited is not None:
        after = rows(*_described(request, cached, request.has_image[:, None]), edited)
    if after is not None:
        made[0] = after.editable, after.outputs()
    if not made:
        return plain()
    if not _replaced(request, length, [editable for editable, _ in made.values()]):
        parts = list(torch.split(plain(), request.rows))
        for index, (editable, outputs) in made.items():
            parts[index] = _changed(parts[index], editable, outputs)
        return torch.cat(parts) if len(parts) > 1 else parts[0]
    parts = []
    for index in range(request.copies):
        if index in made:
            parts.append(made[index][1].to(cached[1].dtype))
        else:
            batch = slice(index * request.rows, (index + 1) * request.rows)
            parts.append(plain(batch, request.padding(index, cached[0].shape[2])))
    return torch.cat(parts) if len(parts) > 1 else parts[0].contiguous()


def _replaced(request: Request, length: int, editable: list[Tensor]) -> bool:
    """Tell whether edited rows [B, Q] are all there are, as in decoding, or in whole maps."""
    if request.cached:
        return request.all_see
    return all(part.shape[1] == length and bool(part.all()) for part in editable)


def _changed(output: Tensor, editable: Tensor, made: Tensor) -> Tensor:
    """Put head outputs `made` [B, Q, H, D] in the place of the last rows that may be edited."""
    start = output.shape[1] - editable.shape[1]
    kept = output[:, start:]
    changed = torch.where(editable[:, :, None, None], made.to(output.dtype), kept)
    return torch.cat([output[:, :start], changed], dim=1) if start else changed


def _attend_streams(
    streams: tuple[Stream, ...],
    request: Request,
    layer: int,
    length: int,
    cached: KeysValues,
    rows: Callable[..., Rows],
) -> dict[int, tuple[Tensor, Tensor]]:
    """Return, by place of a stream, the rows [B, Q] and head outputs that it makes itself."""
    found: dict[int, tuple[Tensor, Tensor]] = {}
    editable = request.editable_rows(length)
    if not editable.shape[1]:
        return found
    for index, stream in enumerate(streams, start=1):
        if stream.attend is None:
            continue
        given = rows(*_described(request, cached, editable), None, index * request.rows)
        made = stream.attend(request, layer, given)
        if made is not None:
            found[index] = (editable, made)
    return found


def _described(request: Request, cached: KeysValues, editable: Tensor) -> tuple[Any, ...]:
    """Return what `rows` is told of the Q last rows, of which `editable` [B, Q] are edited."""
    request.handed_out = editable.shape[1]
    keys = cached[0].shape[2]
    generated = request.once(
        ("generated", keys), lambda: request.generated_keys(keys).expand(request.rows, -1)
    )
    return request.image_keys(keys), generated, editable


def _edit_attention(
    plugins: tuple[Plugin, ...],
    request: Request,
    layer: int,
    length: int,
    cached: KeysValues,
    rows: Callable[..., Rows],
    edited: KeysValues | None,
) -> Rows | None:
    """Return the last rows where plugins edited them or what they see; None where they did not."""
    if not plugins:
        return None
    text = request.editable_rows(length)
    whole = any(plugin.whole_map for plugin in plugins)
    editable = request.real_rows(length) if whole else text
    if editable.shape[1] == 0:
        return None
    before = after = rows(*_described(request, cached, editable), edited)
    for plugin in plugins:
        if whole and not plugin.whole_map:
            after = _edit_text(plugin, request, layer, after, text)
        else:
            after = plugin.on_attention(request, layer, after)
    seen = edited is not None and length == 1
    return None if after is before and not seen else after


def _edit_text(plugin: Plugin, request: Request, layer: int, rows: Rows, text: Tensor) -> Rows:
    """Let a plugin edit the rows `text` [B, Q or less] of a whole map, and no others."""
    text = F.pad(text, (rows.editable.shape[1] - text.shape[1], 0))
    given = replace(rows, compute=rows.scored, editable=text)
    edited = plugin.on_attention(request, layer, given)
    return rows if edited is given else rows.only(text, edited)


def _edit_cache(
    plugins: tuple[Plugin, ...], request: Request, layer: int, length: int, cached: KeysValues
) -> KeysValues | None:
    """Return the keys and values of all streams as plugins left them in the cache, or None."""
    if not plugins:
        return None
    given = keys, values = cached[0][: request.rows], cached[1][: request.rows]
    for plugin in plugins:
        keys, values = plugin.on_cache(request, layer, keys, values, length)
    if keys is given[0] and values is given[1]:
        return None
    if keys.shape != given[0].shape or values.shape != given[1].shape:
        raise VlmHeadsError(
            f"on_cache returned keys {list(keys.shape)} and values {list(values.shape)}",
            f"{list(given[0].shape)} and {list(given[1].shape)}, as they were given",
        )
    if request.predicting > 1:
        raise VlmHeadsError(
            f"{request.predicting} new tokens in one forward pass under a plugin that edits the "
            "cache, of which only the last would see the edit",
            "one token per step",
            "leave prompt_lookup_num_tokens unset",
        )
    sees = request.has_image[:, None, None, None]
    found = []
    for part, own, every in zip((keys, values), given, cached, strict=True):
        part = part if request.all_see else torch.where(sees, part, own)
        found.append(torch.cat([part, every[request.rows :]]) if request.copies > 1 else part)
    edited = found[0], found[1]
    keep_edited(request.cache, layer, cached, edited)
    return edited


def edit_heads(
    plugins: tuple[Plugin, ...], request: Request, layer: int, args: tuple[Any, ...]
) -> tuple[Any, ...] | None:
    """Return the arguments of an output projection with edited heads; None where they are not."""
    heads = request.anatomy.split_heads(layer, args[0])
    main = heads[: request.rows] if request.copies > 1 else heads
    if request.copies > 1:
        others = heads[request.rows :].chunk(request.copies - 1)
        request.stream_heads = dict(zip(request.stream_names, others, strict=True))
    edited = main
    for plugin in plugins:
        edited = plugin.on_heads(request, layer, edited)
    if edited is main:
        return None
    if request.copies > 1:
        edited = torch.cat([edited, heads[request.rows :]])
    return (edited.flatten(2), *args[1:])


def edit_hidden(
    plugins: tuple[Plugin, ...], request: Request, layer: int, site: str, output: Any
) -> Any:
    """Return the output of a module with edited states; None where they are not."""
    states = request.anatomy.flat_states(output)
    main = states[: request.rows] if request.copies > 1 else states
    edited = main
    for plugin in plugins:
        edited = plugin.on_hidden(request, layer, edited, site)
    if edited is main:
        return None
    if request.copies > 1:
        edited = torch.cat([edited, states[request.rows :]])
    return request.anatomy.with_states(output, edited)


def edit_logits(
    plugins: tuple[Plugin, ...], request: Request, logits: Tensor, others: tuple[Tensor, ...]
) -> Tensor:
    """Edit the logits [B, N, V] of the positions that predict new tokens.

    Args:
        plugins: those with on_logits, in order.
        request: the open Request.
        logits: those of the main stream.
        others: likewise of each extra stream; of a prompt's earlier positions it may have none.
    """
    count = logits.shape[1]
    columns = range(count - min(request.predicting, count), count)
    edited = []
    for column in columns:
        request.column = column - count
        request.generated = request.seen - request.prompt_length - (count - 1 - column)
        request.streams = {
            name: other[:, request.column]
            for name, other in zip(request.stream_names, others, strict=True)
        }
        part = logits[:, column]
        for plugin in plugins:
            part = plugin.on_logits(request, part)
        edited.append(part)
    request.streams = {}
    return torch.cat([logits[:, : columns.start], torch.stack(edited, dim=1)], dim=1)

"""The hooks on a model while plugins are attached, and one forward pass through them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from vlmheads.errors import VlmHeadsError
from vlmheads.model.anatomy import Anatomy
from vlmheads.model.vision import image_inputs
from vlmheads.plugin import HOOKS, Plugin
from vlmheads.runtime.attention import EAGER, EDITOR, SDPA, Rows, name_for
from vlmheads.runtime.cache import cache_argument, filled_cache, given_cache
from vlmheads.runtime.compat import (
    COMPILED,
    attention_implementation,
    current_thread,
    generate_settings,
    generations,
)
from vlmheads.runtime.embeds import given_media, named_inputs, without_ids
from vlmheads.runtime.passes import Reference, reference_pass
from vlmheads.runtime.prompt import read_prompt, without_last
from vlmheads.runtime.refusals import (
    refuse_named,
    refuse_pieces,
    refuse_replaced,
    refuse_second,
    refuse_settings,
    refuse_sliced,
    unknown_cache,
)
from vlmheads.runtime.request import Request
from vlmheads.runtime.streams import Batch


def _uncompiled(hook: Callable[..., Any]) -> Callable[..., Any]:
    """Keep a hook out of a compiled graph: it runs once per forward pass, in plain Python."""
    return torch.compiler.disable(hook)  # type: ignore[no-any-return, no-untyped-call]


class Installation:
    """The hooks of a list of plugins on one model, and the Request of the running generation.

    Only what the plugins override is installed. `remove` takes everything away again.

    Args:
        anatomy: the parts of the model.
        plugins: in the order in which they act.
    """

    def __init__(self, anatomy: Anatomy, plugins: tuple[Plugin, ...]) -> None:
        self.anatomy = anatomy
        self.request: Request | None = None
        self._batch: Batch | None = None
        # The thread that runs a pass of our own, in which plugins do not act.
        self._quiet: int | None = None
        # Who opened the Request: a thread, and how many generate() calls it was inside of.
        self._owner = (0, 0)
        self._handles: list[RemovableHandle] = []
        self._attention: str | None = None
        self._streams = tuple({s.name: s for plugin in plugins for s in plugin.streams}.values())
        self._acting = {
            hook: tuple(plugin for plugin in plugins if hook in plugin.hooks()) for hook in HOOKS
        }

    def install(self) -> None:
        """Put the hooks on the model."""
        parts, add = self.anatomy, self._handles.append
        cache_argument(parts.generator)  # refused here rather than never seen to grow
        add(parts.generator.register_forward_pre_hook(self._before, with_kwargs=True))
        add(parts.generator.register_forward_hook(self._after))
        for index, layer in enumerate(parts.layers):
            projection, mlp = parts.projections[index], parts.mlps[index]
            if self._acting["on_heads"] and projection is not None:
                add(projection.register_forward_pre_hook(partial(self._heads, index)))
            if self._acting["on_hidden"]:
                # First of all hooks: output_hidden_states then shows the edited states, whether
                # transformers put its recording hooks there before or after these.
                for site, part in (("residual", layer), ("mlp", mlp)):
                    if part is not None:
                        hook = partial(self._hidden, index, site)
                        add(part.register_forward_hook(hook, prepend=True))
        if self._acting["on_attention"]:
            self._name_attention()

    def remove(self) -> None:
        """Leave the model as it was."""
        decoder: Any = self.anatomy.decoder
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        for attention in self.anatomy.attentions:
            if attention is not None:
                attention.__dict__.pop(EDITOR, None)
        # Where the user chose another implementation meanwhile, that choice stays.
        if self._attention is not None and attention_implementation(decoder) in (SDPA, EAGER):
            decoder.set_attn_implementation(self._attention)
        self._attention = None
        # A graph that generate() compiled meanwhile has the hooks in it.
        for name in COMPILED:
            self.anatomy.generator.__dict__.pop(name, None)
        self.request = self._batch = None

    def _name_attention(self) -> None:
        """Send the text decoder through the named attention function."""
        decoder: Any = self.anatomy.decoder
        before = attention_implementation(decoder)
        refuse_named(self.anatomy)
        self._attention = before
        decoder.set_attn_implementation(name_for(decoder, before))
        for attention in self.anatomy.attentions:
            if attention is not None:
                setattr(attention, EDITOR, self)

    def _follow_attention(self) -> None:
        """Go on acting where the user chose another attention implementation while attached."""
        if self._attention is None:
            return
        now = attention_implementation(self.anatomy.decoder)
        if now not in (SDPA, EAGER):
            self._name_attention()

    # One forward pass: before, in each layer (rows, heads, hidden), after.

    @_uncompiled
    def _before(
        self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        """Open a Request at a prefill, follow it afterwards, and add the rows of extra streams."""
        if self._quiet == current_thread():
            return None
        kwargs = named_inputs(self.anatomy, args, kwargs)
        cache, ids = given_cache(kwargs), kwargs.get("input_ids")
        cached = 0 if cache is None else int(cache.get_seq_length())
        if cached == 0 and not self._goes_on(kwargs):
            self._open(kwargs)
        request = self.request
        if request is None or (cached and not request.follows(cache)):
            raise unknown_cache(self.anatomy.generator, cached)
        self._follow_attention()
        if cached and ids is not None and ids.shape[1] > 1:
            refuse_pieces(self.anatomy, request, ids, kwargs)
        if request.active and ids is not None:
            request.ids = ids
            request.advance(cached, ids.shape[1])
            kwargs = kwargs if self._batch is None else self._batch.widen(kwargs, cached)
        return (), without_ids(self.anatomy, kwargs)

    def _goes_on(self, kwargs: dict[str, Any]) -> bool:
        """Whether a pass without a cache is the next step of the open generation."""
        request, ids = self.request, kwargs.get("input_ids")
        if request is None or ids is None or kwargs.get("use_cache") is not False:
            return False
        prompt = request.given
        return (
            ids.shape[0] == request.rows
            and ids.shape[1] > prompt.shape[1]
            and not request.is_prefill
            and bool((ids[:, : prompt.shape[1]] == prompt).all())
        )

    def _open(self, kwargs: dict[str, Any]) -> None:
        """Begin the Request of a new generation."""
        refuse_second(self.anatomy.generator, *self._owner)
        refuse_replaced(self.anatomy)
        depth = generations(self.anatomy.generator, current_thread())
        if depth:
            refuse_settings(generate_settings(self.anatomy.generator))
        self._owner = (current_thread(), depth)
        self.request = self._batch = None
        drafted = self._drafted(kwargs)
        if self._attention is not None:
            refuse_sliced(self.anatomy, drafted, given_cache(kwargs))
        kwargs = without_last(kwargs, drafted)
        given = prompt = read_prompt(self.anatomy, kwargs)
        media = given_media(self.anatomy)
        media |= {name: value for name, value in kwargs.items() if value is not None}
        if self._streams and bool(prompt.visual.any()):
            self._batch = Batch(self.anatomy, prompt, self._streams, kwargs, media)
            prompt = self._batch.main
        names = tuple(stream.name for stream in self._streams)
        request = Request(self.anatomy, prompt, given.ids, names if self._batch else ())
        if request.active:
            run = partial(self._pass, given, kwargs)
            with request.before_prefill(run, partial(image_inputs, self.anatomy, media)):
                for plugin in self._acting["on_prompt"]:
                    plugin.on_prompt(request)
        self.request = request

    def _drafted(self, kwargs: dict[str, Any]) -> int:
        """Count the tokens that prompt lookup drafted after the prompt, in its first pass."""
        logits = kwargs.get("logits_to_keep")
        return logits - 1 if self._owner[1] and isinstance(logits, int) and logits > 1 else 0

    def _pass(
        self,
        prompt: Any,
        kwargs: dict[str, Any],
        images: bool,
        heads: frozenset[int],
        hidden: frozenset[int],
    ) -> Reference:
        """Run a pass of our own, in which no plugin acts."""
        self._quiet = current_thread()
        try:
            return reference_pass(self.anatomy, prompt, kwargs, images, heads, hidden)
        finally:
            self._quiet = None

    def _live(self) -> Request | None:
        """Return the Request that plugins act on in this forward pass."""
        request = self.request
        return request if request is not None and request.active else None

    def edit_rows(
        self,
        layer: int,
        length: int,
        keys: int,
        rows: Callable[..., Rows],
        plain: Callable[[], Tensor],
    ) -> Tensor:
        """Let plugins edit the last of `length` attention rows of a layer, [B, S, H, D].

        Where they edit every row, as in decoding, `plain` attention is not computed.
        """
        request = self._live()
        if request is None:
            return plain()
        text = request.editable_rows(length)
        whole = any(plugin.whole_map for plugin in self._acting["on_attention"])
        editable = request.real_rows(length) if whole else text
        last = editable.shape[1]
        if last == 0:
            return plain()
        request.handed_out = last
        before = after = rows(request.rows, last, request.image_keys(keys), editable)
        for plugin in self._acting["on_attention"]:
            if whole and not plugin.whole_map:
                after = _edit_text(plugin, request, layer, after, text)
            else:
                after = plugin.on_attention(request, layer, after)
        if after is before:
            return plain()
        if request.cached and request.all_see and request.copies == 1:
            return after.outputs().contiguous()
        output, start = plain(), length - last
        kept = output[: request.rows, start:]
        edited = torch.where(editable[:, :, None, None], after.outputs().to(output.dtype), kept)
        main = torch.cat([output[: request.rows, :start], edited], dim=1) if start else edited
        return torch.cat([main, output[request.rows :]]) if request.copies > 1 else main

    def _heads(self, layer: int, module: nn.Module, args: tuple[Any, ...]) -> Any:
        """Let plugins edit the head outputs of a layer."""
        request = self._live()
        if request is None:
            return None
        heads = self.anatomy.split_heads(layer, args[0])
        main = heads[: request.rows] if request.copies > 1 else heads
        if request.copies > 1:
            others = heads[request.rows :].chunk(request.copies - 1)
            request.stream_heads = dict(zip(request.stream_names, others, strict=True))
        edited = main
        for plugin in self._acting["on_heads"]:
            edited = plugin.on_heads(request, layer, edited)
        if edited is main:
            return None
        if request.copies > 1:
            edited = torch.cat([edited, heads[request.rows :]])
        return (edited.flatten(2), *args[1:])

    def _hidden(
        self, layer: int, site: str, module: nn.Module, args: tuple[Any, ...], output: Any
    ) -> Any:
        """Let plugins edit the residual stream or the output of an MLP."""
        request = self._live()
        if request is None:
            return None
        states = self.anatomy.flat_states(output)
        main = states[: request.rows] if request.copies > 1 else states
        request.entering = self.anatomy.flat_states(args[0])[: request.rows]
        edited = main
        for plugin in self._acting["on_hidden"]:
            edited = plugin.on_hidden(request, layer, edited, site)
        if edited is main:
            return None
        if request.copies > 1:
            edited = torch.cat([edited, states[request.rows :]])
        return self.anatomy.with_states(output, edited)

    @_uncompiled
    def _after(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
        """Let plugins edit the logits, and count the step."""
        request = self.request
        if self._quiet == current_thread() or request is None:
            return None
        if isinstance(output, tuple):
            raise VlmHeadsError(
                "a forward pass with return_dict=False",
                "a model output with names",
                "leave it unset",
            )
        request.fills(filled_cache(output))
        others: tuple[Tensor, ...] = ()
        if request.active and self._batch is not None:
            others = self._batch.narrow(output)
        if request.active and self._acting["on_logits"]:
            output.logits = self._edit_logits(request, output.logits, others)
        request.step += 1
        request.stream_heads = {}
        return output

    def _edit_logits(self, request: Request, logits: Tensor, others: tuple[Tensor, ...]) -> Tensor:
        """Edit the logits [B, N, V] of the positions that predict new tokens."""
        count = logits.shape[1]
        columns = range(count - min(request.predicting, count), count)
        edited = []
        for column in columns:
            request.column = column - count
            request.generated = request.seen - request.prompt_length - (count - 1 - column)
            request.streams = {
                name: other[:, column]
                for name, other in zip(request.stream_names, others, strict=True)
            }
            part = logits[:, column]
            for plugin in self._acting["on_logits"]:
                part = plugin.on_logits(request, part)
            edited.append(part)
        request.streams = {}
        return torch.cat([logits[:, : columns.start], torch.stack(edited, dim=1)], dim=1)


def _edit_text(plugin: Plugin, request: Request, layer: int, rows: Rows, text: Tensor) -> Rows:
    """Let a plugin edit the rows `text` [B, Q or less] of a whole map, and no others."""
    text = F.pad(text, (rows.editable.shape[1] - text.shape[1], 0))
    given = replace(rows, compute=lambda part: rows.scores[:, :, part], editable=text)
    edited = plugin.on_attention(request, layer, given)
    return rows if edited is given else rows.only(text, edited)

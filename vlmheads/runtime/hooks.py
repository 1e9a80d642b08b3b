"""The hooks on a model while plugins are attached, and one forward pass through them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from vlmheads.errors import VlmHeadsError
from vlmheads.model.anatomy import Anatomy
from vlmheads.model.tower import vision_blocks
from vlmheads.model.vision import image_inputs
from vlmheads.plugin import HOOKS, Plugin
from vlmheads.runtime import layers
from vlmheads.runtime.attention import KeysValues, Rows
from vlmheads.runtime.cache import cache_argument, filled_cache, given_cache
from vlmheads.runtime.compat import (
    COMPILED,
    current_thread,
    generate_settings,
    generations,
)
from vlmheads.runtime.embeds import given_media, named_inputs, without_ids
from vlmheads.runtime.masks import hide_keys
from vlmheads.runtime.naming import NamedAttention
from vlmheads.runtime.passes import Probe, Reference, generate_ahead, reference_pass
from vlmheads.runtime.prompt import Prompt, read_prompt, without_last
from vlmheads.runtime.refusals import (
    refuse_pieces,
    refuse_replaced,
    refuse_second,
    refuse_settings,
    refuse_shared,
    refuse_sliced,
    unknown_cache,
)
from vlmheads.runtime.request import Request
from vlmheads.runtime.sight import see, with_seen
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
        # Puts the images as plugins saw them into a pass over the whole prompt.
        self._reseen: Callable[[dict[str, Any]], dict[str, Any]] | None = None
        # The thread that runs a pass of our own, in which plugins do not act.
        self._quiet: int | None = None
        # Who opened the Request: a thread, and how many generate() calls it was inside of.
        self._owner = (0, 0)
        self._handles: list[RemovableHandle] = []
        self._attention = NamedAttention(anatomy, self)
        self._streams = tuple({s.name: s for plugin in plugins for s in plugin.streams}.values())
        self._acting = {
            hook: tuple(plugin for plugin in plugins if hook in plugin.hooks()) for hook in HOOKS
        }
        self._apart = any(stream.in_layers for stream in self._streams)

    def install(self) -> None:
        """Put the hooks on the model."""
        parts, add = self.anatomy, self._handles.append
        cache_argument(parts.generator)  # refused here rather than never seen to grow
        if self._acting["on_vision"]:
            vision_blocks(parts)
        if self._acting["on_cache"]:
            refuse_shared(parts)
        add(parts.generator.register_forward_pre_hook(self._before, with_kwargs=True))
        add(parts.generator.register_forward_hook(self._after))
        for index, layer in enumerate(parts.layers):
            projection, mlp = parts.projections[index], parts.mlps[index]
            if self._acting["on_heads"] and projection is not None:
                add(projection.register_forward_pre_hook(partial(self._heads, index)))
            if self._acting["on_hidden"]:
                # First of all hooks: output_hidden_states then shows the edited states, whether
                # transformers put its recording hooks there before or after these.
                sites = {"attention": projection, "mlp": mlp, "residual": layer}
                for site, part in sites.items():
                    if part is not None:
                        hook = partial(self._hidden, index, site)
                        add(part.register_forward_hook(hook, prepend=True))
                if (attention := parts.attentions[index]) is not None:
                    before = self._entering
                    add(attention.register_forward_pre_hook(before, with_kwargs=True))
        if self._acting["on_attention"] or self._acting["on_cache"] or self._apart:
            self._attention.name()

    def remove(self) -> None:
        """Leave the model as it was."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        self._attention.restore()
        # A graph that generate() compiled meanwhile has the hooks in it.
        for name in COMPILED:
            self.anatomy.generator.__dict__.pop(name, None)
        self.request = self._batch = self._reseen = None

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
        if not cached and (self.request is None or not self.request.continues(kwargs)):
            self._open(kwargs)
        if not cached and self._reseen is not None:
            kwargs = self._reseen(kwargs)
        request = self.request
        if request is None or (cached and not request.follows(cache)):
            raise unknown_cache(self.anatomy.generator, cached)
        self._attention.follow()
        if cached and ids is not None and ids.shape[1] > 1:
            refuse_pieces(self.anatomy, request, ids, kwargs)
        if request.active and ids is not None:
            request.ids = ids
            request.advance(cached, ids.shape[1])
            kwargs = kwargs if self._batch is None else self._batch.widen(kwargs, cached)
            request.begins(given_cache(kwargs))
        return (), without_ids(self.anatomy, kwargs)

    def _open(self, kwargs: dict[str, Any]) -> None:
        """Begin the Request of a new generation."""
        refuse_second(self.anatomy.generator, *self._owner)
        refuse_replaced(self.anatomy)
        depth = generations(self.anatomy.generator, current_thread())
        if depth:
            refuse_settings(generate_settings(self.anatomy.generator))
        self._owner = (current_thread(), depth)
        self.request = self._batch = self._reseen = None
        drafted = self._drafted(kwargs)
        if self._attention.active:
            refuse_sliced(self.anatomy, drafted, given_cache(kwargs))
        inputs = without_last(kwargs, drafted)
        given = prompt = read_prompt(self.anatomy, inputs)
        media = given_media(self.anatomy)
        media |= {name: value for name, value in inputs.items() if value is not None}
        batch: Batch | None = None
        if self._streams and bool(prompt.visual.any()):
            batch = Batch(self.anatomy, prompt, self._streams, inputs, media)
            prompt = batch.main
        names = tuple(stream.name for stream in self._streams)
        request = Request(self.anatomy, prompt, given.ids, names if batch else ())
        if batch is not None:
            request.paddings = batch.paddings()
        if request.active:
            run, ahead = partial(self._pass, given, inputs), partial(self._ahead, given, inputs)
            images = partial(image_inputs, self.anatomy, media)
            with request.before_prefill(run, images, ahead):
                for plugin in self._acting["on_prompt"]:
                    plugin.on_prompt(request)
            seen = see(self._acting["on_vision"], request, media)
            if batch is not None and not self._streams_apart(batch, request, inputs, drafted):
                batch.look(inputs, media, seen)
            if seen is not None and (batch is None or batch.media is None):
                self._reseen = partial(with_seen, self.anatomy, given, media, seen)
        self.request, self._batch = request, batch

    def _streams_apart(
        self, batch: Batch, request: Request, inputs: dict[str, Any], drafted: int
    ) -> bool:
        """Prefill extra streams on their own where nobody is to see them beside the main one."""
        if not drafted and not any(plugin.streams for plugin in self._acting["on_heads"]):
            with self._silent():
                request.alone = batch.prefill_apart(inputs)
        return request.alone

    def _drafted(self, kwargs: dict[str, Any]) -> int:
        """Count the tokens that prompt lookup drafted after the prompt, in its first pass."""
        logits = kwargs.get("logits_to_keep")
        return logits - 1 if self._owner[1] and isinstance(logits, int) and logits > 1 else 0

    @contextmanager
    def _silent(self) -> Iterator[None]:
        """Let no plugin act in this thread inside of the `with`."""
        self._quiet = current_thread()
        try:
            yield
        finally:
            self._quiet = None

    def _pass(
        self,
        prompt: Prompt,
        kwargs: dict[str, Any],
        images: bool,
        heads: frozenset[int],
        hidden: frozenset[int],
    ) -> Reference:
        """Run a pass of our own, in which no plugin acts."""
        with self._silent():
            return reference_pass(self.anatomy, prompt, kwargs, images, heads, hidden)

    def _ahead(
        self, prompt: Prompt, kwargs: dict[str, Any], tokens: int, recorder: Plugin | None
    ) -> Probe:
        """Generate tokens that are thrown away, in which no plugin acts but `recorder`."""
        if tokens < 1:
            raise VlmHeadsError(f"a probe of {tokens} tokens", "at least one")
        watchers = () if recorder is None else (recorder,)
        for plugin in watchers:
            plugin.fit(self.anatomy.geometry)
        inside = Installation(self.anatomy, watchers)
        with self._silent():
            try:
                inside.install()
                return generate_ahead(self.anatomy, prompt, kwargs, tokens)
            finally:
                inside.remove()

    def _live(self) -> Request | None:
        """Return the Request that plugins act on in this forward pass."""
        request = self.request
        return request if request is not None and request.active else None

    def edit_rows(
        self,
        layer: int,
        length: int,
        cached: KeysValues,
        rows: Callable[..., Rows],
        plain: Callable[..., Tensor],
    ) -> Tensor:
        """Let plugins edit the last of `length` attention rows of a layer, [B, S, H, D]."""
        request = self._live()
        if request is None:
            return plain()
        streams = self._streams if self._apart and request.copies > 1 else ()
        return layers.edit_rows(self._acting, streams, request, layer, length, cached, rows, plain)

    def hide_keys(
        self,
        layer: int,
        mask: Tensor | None,
        query: Tensor,
        keys: int,
        causal: bool,
        boolean: bool,
    ) -> Tensor | None:
        """Hide keys of a layer from the rows of extra streams that ask for it."""
        request = self._live()
        if request is None or not self._apart or request.copies == 1:
            return mask
        return hide_keys(self._streams, request, layer, mask, query, keys, causal, boolean)

    def _heads(self, layer: int, module: nn.Module, args: tuple[Any, ...]) -> Any:
        """Let plugins edit the head outputs of a layer."""
        request = self._live()
        if request is None:
            return None
        return layers.edit_heads(self._acting["on_heads"], request, layer, args)

    def _entering(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Keep what an attention module is given, for the site of its output."""
        request = self._live()
        given = kwargs.get("hidden_states", args[0] if args else None)
        if request is not None and given is not None:
            request.entering = self.anatomy.flat_states(given)[: request.rows]

    def _hidden(
        self, layer: int, site: str, module: nn.Module, args: tuple[Any, ...], output: Any
    ) -> Any:
        """Let plugins edit the residual stream, or what attention or an MLP adds to it."""
        request = self._live()
        if request is None:
            return None
        if site != "attention":
            request.entering = self.anatomy.flat_states(args[0])[: request.rows]
        return layers.edit_hidden(self._acting["on_hidden"], request, layer, site, output)

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
            plugins = self._acting["on_logits"]
            output.logits = layers.edit_logits(plugins, request, output.logits, others)
        request.step += 1
        request.stream_heads = {}
        return output

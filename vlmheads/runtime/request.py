"""Everything that belongs to one generation, row for row."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from vlmheads.model.anatomy import Anatomy
from vlmheads.model.geometry import Geometry
from vlmheads.runtime.passes import Probe, Reference
from vlmheads.runtime.prompt import Prompt

if TYPE_CHECKING:
    from vlmheads.model.tower import Patches
    from vlmheads.plugin import Plugin

# A pass over a prompt without plugins: (with the image, layers for heads, layers for hidden).
Pass = Callable[[bool, frozenset[int], frozenset[int]], Reference]
# A few tokens that are thrown away: (how many, a plugin that looks on).
Ahead = Callable[[int, "Plugin | None"], Probe]


@dataclass(eq=False)
class Request:
    """State of one generation, opened at the prefill; plugins read it and keep theirs in it.

    Rows are those of the running batch: with beams each sample's prompt stands in it several
    times, and reordering moves rows only among those, so what is computed per row from the prompt
    stays right.

    Args:
        anatomy: the parts of the model.
        prompt: the prompt of every row, padded to the length of the longest stream.
        given: the prompt's token ids as generate() passed them.
        stream_names: names of the extra streams that run beside the main one.
    """

    anatomy: Anatomy
    prompt: Prompt
    given: Tensor
    stream_names: tuple[str, ...] = ()
    # By stream, the main one first: columns in front of its prompt that are padding in every row.
    paddings: tuple[int, ...] = (0,)
    # Forward passes done before this one: 0 in the prefill.
    step: int = 0
    # Columns of the main stream, padding included, that are known after this forward pass.
    seen: int = 0
    # Columns that a cache already held before this forward pass.
    cached: int = 0
    # Whether the main stream runs alone in this forward pass, which is a prefill then.
    alone: bool = False
    # Token ids [B, S] of this forward pass, without the columns that only pad a stream.
    ids: Tensor = field(init=False)
    # What the layer, its attention or its MLP was given [B, S, E], inside of on_hidden.
    entering: Tensor = field(init=False)
    # Where the positions of a vision tower's states lie, inside of on_vision.
    patches: Patches = field(init=False)
    # What the MLP of a vision block gave [N, P, Ev], inside of on_vision; None where it is unknown.
    vision_mlp: Tensor | None = None
    # Logits [B, V] of the extra streams, inside of on_logits.
    streams: dict[str, Tensor] = field(default_factory=dict)
    # Head outputs [B, S, H, D] of the extra streams, inside of on_heads.
    stream_heads: dict[str, Tensor] = field(default_factory=dict)
    # Tokens generated before the one whose logits are looked at, inside of on_logits, and the
    # column of this forward pass that they come from, counted from its end: -1 is the last.
    generated: int = 0
    column: int = -1
    _scratch: dict[int, dict[str, Any]] = field(default_factory=dict)
    _pass: Pass | None = None
    _ahead: Ahead | None = None
    _images: Callable[[], dict[str, Any]] | None = None
    _cache: Callable[[], object] | None = None
    # Likewise, from the beginning of a forward pass on.
    _filling: Callable[[], object] | None = None
    # Q, the attention rows of the layer at hand, inside of on_attention.
    handed_out: int = 0
    # Both hold for one forward pass, and are shared by its layers.
    _shared: dict[Hashable, Tensor] = field(default_factory=dict)
    _editable: dict[int, Tensor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        visual = self.prompt.visual
        self.rows: int = visual.shape[0]
        self.has_image: Tensor = self.prompt.has_image
        self.active: bool = bool(self.has_image.any())
        self.all_see: bool = bool(self.has_image.all())
        # Column after the last image token of each row; rows without one are never edited.
        last = visual.shape[1] - visual.int().flip(1).argmax(dim=1)
        self.text_start: Tensor = torch.where(self.has_image, last, torch.iinfo(last.dtype).max)
        # A prompt may end on an image token; its last row predicts all the same.
        self._rows_start = self.text_start.clamp(max=visual.shape[1] - 1)
        self._rows_start = torch.where(self.has_image, self._rows_start, self.text_start)
        self._first_row: int = int(self._rows_start.min())

    @property
    def geometry(self) -> Geometry:
        """Layers and heads of the model."""
        return self.anatomy.geometry

    @property
    def is_prefill(self) -> bool:
        """Whether this forward pass is the one over the prompt."""
        return self.step == 0

    @property
    def last(self) -> int:
        """Column of the last prompt token in a prefill, counted from the end of its columns.

        It is -1, but where prompt lookup has drafted tokens behind the prompt.
        """
        return self.prompt_length - self.seen - 1

    @property
    def predicting(self) -> int:
        """How many of the last columns of this forward pass predict new tokens.

        In a prefill, or without a cache, earlier columns predict what is known already.
        """
        if self.cached:
            return self.seen - self.cached
        return self.seen - self.prompt_length + 1 if self.is_prefill else 1

    @property
    def prompt_length(self) -> int:
        """Columns of the prompt, padding included."""
        return self.prompt.ids.shape[1]

    @property
    def image_mask(self) -> Tensor:
        """[B, S] True where the prompt holds an image token."""
        return self.prompt.visual

    @property
    def copies(self) -> int:
        """How many streams run in this forward pass, the main one included."""
        return 1 if self.alone else 1 + len(self.stream_names)

    def padding(self, stream: int, keys: int) -> int:
        """How many of the `keys` that a layer holds are padding in front of a stream's prompt.

        In the prefill it is 0: rows of padding attend to those keys, so as not to attend to none.
        """
        dropped = max(0, self.seen - keys)
        return max(0, self.paddings[stream] - dropped) if self.cached else 0

    def scratch(self, plugin: object) -> dict[str, Any]:
        """Return the dictionary in which a plugin keeps what belongs to this generation."""
        return self._scratch.setdefault(id(plugin), {})

    @contextmanager
    def before_prefill(
        self, run: Pass, images: Callable[[], dict[str, Any]], ahead: Ahead
    ) -> Iterator[None]:
        """Let plugins run passes over the prompt and ask for its images, inside of the `with`.

        Args:
            run: runs the prompt without plugins.
            images: gives the arguments of the vision encoder.
            ahead: generates tokens that are thrown away.
        """
        self._pass, self._images, self._ahead = run, images, ahead
        try:
            yield
        finally:
            self._pass = self._images = self._ahead = None

    def text_only_forward(
        self, *, heads: Iterable[int] = (), hidden: Iterable[int] = ()
    ) -> Reference:
        """Run the prompt once with its images deleted, without plugins; only from on_prompt.

        Args:
            heads: layers whose head outputs are wanted.
            hidden: layers whose output is wanted.
        """
        return self._run(False, heads, hidden)

    def image_forward(self, *, heads: Iterable[int] = (), hidden: Iterable[int] = ()) -> Reference:
        """Run the prompt once as it is, without plugins; only from on_prompt."""
        return self._run(True, heads, hidden)

    def probe(self, tokens: int, recorder: Plugin | None = None) -> Probe:
        """Generate a few tokens greedily, throw them away, and return what they were.

        Only from on_prompt. The attached plugins do not act; `recorder` alone does, under a request
        of its own whose rows are those of this one, and keeps what its hooks see. Its on_attention
        is given the row of the last prompt token, among others, and then one row per token. The
        generation that follows is the same, bit for bit, as without a probe.

        Each row is probed, so that with beams the cost is that of all of them.

        Args:
            tokens: how many per row, at least 1.
            recorder: a plugin that looks on.

        Raises:
            VlmHeadsError: fewer than 1 token, or a recorder that does not fit the model.
        """
        if self._ahead is None:
            raise RuntimeError("tokens can only be generated ahead from on_prompt")
        return self._ahead(tokens, recorder)

    def image_inputs(self) -> dict[str, Any]:
        """Return the arguments of the vision encoder, pixels included; only from on_prompt.

        They are those of the samples: with beams, each stands for several rows.

        Raises:
            VlmHeadsError: the prompt came with encoded images in place of pixels.
        """
        if self._images is None:
            raise RuntimeError("the images can only be asked for from on_prompt")
        return self._images()

    def _run(self, images: bool, heads: Iterable[int], hidden: Iterable[int]) -> Reference:
        if self._pass is None:
            raise RuntimeError("a pass over the prompt can only be run from on_prompt")
        return self._pass(images, frozenset(heads), frozenset(hidden))

    def image_keys(self, keys: int) -> Tensor:
        """[B, K] True where one of the `keys` that a layer holds is an image token."""
        return self.once(("image", keys), lambda: self.prompt_keys(self.prompt.visual, keys))

    def once(self, key: Hashable, make: Callable[[], Tensor]) -> Tensor:
        """Return what `make` gives, made once for a forward pass and shared by its layers.

        Layers that hand out another number of attention rows than others share among themselves.

        Args:
            key: names the value; a plugin's own begin with the plugin's id.
            make: gives the value.
        """
        key = (key, self.handed_out)
        if key not in self._shared:
            self._shared[key] = make()
        return self._shared[key]

    def prompt_keys(self, columns: Tensor, keys: int) -> Tensor:
        """[B, K] what a mask [B, S] of the prompt's columns says of the `keys` that a layer holds.

        A layer with a sliding window has dropped the oldest keys; a static cache has room beyond
        the newest. Keys of generated tokens are False.
        """
        dropped = max(0, self.seen - keys)
        part = columns[:, dropped : dropped + keys]
        return F.pad(part, (0, keys - part.shape[1]))

    def generated_keys(self, keys: int) -> Tensor:
        """[K] True where one of the `keys` that a layer holds is a generated token."""
        column = torch.arange(keys, device=self.text_start.device) + max(0, self.seen - keys)
        return (column >= self.prompt_length) & (column < self.seen)

    def predicting_rows(self, last: int) -> Tensor:
        """[Q] True where one of the `last` rows predicts a new token.

        In the prefill that is the row of the last token alone, afterwards every row.
        """
        column = torch.arange(self.seen - last, self.seen, device=self.text_start.device)
        return column >= self.prompt_length - 1

    def editable_rows(self, length: int) -> Tensor:
        """[B, Q] True for rows of text after the image, among the last Q of a layer's `length`.

        Layers of a forward pass may differ: some run on the last token of a prompt alone. Q is
        the longest such text of the batch, at most `length`.
        """
        if length not in self._editable:
            start = self.seen - length
            first = min(max(self._first_row - start, 0), length)
            index = torch.arange(start + first, self.seen, device=self.text_start.device)
            self._editable[length] = index >= self._rows_start[:, None]
        return self._editable[length]

    def real_rows(self, length: int) -> Tensor:
        """[B, Q] True for every row of a forward of `length` that is no padding, Q = `length`.

        Rows of the batch without an image are False.
        """
        start = self.seen - length
        prompt = self.prompt.mask[:, start:]
        real = F.pad(prompt, (0, length - prompt.shape[1]), value=True)
        return real & self.has_image[:, None]

    def continues(self, inputs: Mapping[str, Any]) -> bool:
        """Whether a forward pass without a cache is the next step of this generation."""
        ids = inputs.get("input_ids")
        if ids is None or inputs.get("use_cache") is not False or self.is_prefill:
            return False
        length = self.given.shape[1]
        return (
            ids.shape[0] == self.rows
            and ids.shape[1] > length
            and bool((ids[:, :length] == self.given).all())
        )

    def advance(self, cached: int, length: int) -> None:
        """Begin a forward pass over `length` tokens, on top of what the cache holds."""
        if not cached:
            length += self.prompt_length - self.given.shape[1]
        self.cached, self.seen = cached, cached + length
        self.alone = self.alone and not cached
        self._shared, self._editable = {}, {}

    @property
    def cache(self) -> Any:
        """The cache of this forward pass, or None."""
        return None if self._filling is None else self._filling()

    def begins(self, cache: object) -> None:
        """Remember which cache this forward pass fills, without keeping it alive."""
        self._filling = None if cache is None else weakref.ref(cache)

    def follows(self, cache: object) -> bool:
        """Whether `cache` is the one that this generation fills."""
        return self._cache is not None and cache is not None and self._cache() is cache

    def fills(self, cache: object) -> None:
        """Remember which cache this generation fills, without keeping it alive."""
        self._cache = None if cache is None else weakref.ref(cache)

"""What is measured on the plain model: a prompt, the words of a caption, a method's heads."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, ClassVar

import torch
from PIL import Image
from torch import Tensor

from vlmheads.detect import divergence, text_dominance, visual_sinks
from vlmheads.grounding import grounding
from vlmheads.grounding.candidates import KEPT, Candidates
from vlmheads.grounding.catalogue import ask_about
from vlmheads.grounding.scores import Scorer
from vlmheads.grounding.words import Word, ground_words, token_spans
from vlmheads.model.anatomy import generator_of
from vlmheads.plugin import Plugin
from vlmheads.runtime.attachment import attach
from vlmheads.runtime.attention import Rows
from vlmheads.runtime.request import Request
from vlmheads_demo.services.images import ModelView, model_view
from vlmheads_demo.services.tokens import Tokens, read_tokens
from vlmheads_demo.state import Model

TAU = 20.0
# Text dominance is measured over the first tokens of a plain generation, at most this many.
DOMINANCE_TOKENS = 32
# The attention of every token, head and patch is in memory while a caption is measured. Above this
# many values overlays are left out, so that a long caption over many tiles does not exhaust it.
MAX_WEIGHTS = 2**28


@dataclass(frozen=True, eq=False)
class PromptMeasurement:
    """What was measured at the prompt.

    Args:
        view: the picture under its image tokens.
        divergence: [L, H] VHD at the last prompt token.
        sinks: [L, P] True where an image token is a sink of a layer.
        tau: the minimum φ of a sink.
        width: E of the hidden states; φ is at most √E.
        dominance: [L] MDI: mean attention on a text token over that on an image token.
    """

    view: ModelView
    divergence: Tensor
    sinks: Tensor
    tau: float
    width: int
    dominance: Tensor


@dataclass(frozen=True, eq=False)
class CaptionMeasurement:
    """What was measured at the words of one caption.

    Args:
        words: all words, as `vlmheads.Captioner` grounds them.
        threshold: words with a lower score are flagged.
        heads: [W, L, H] VHD, the mean over each word's tokens.
        patches: [W, L, H, P] attention on the image tokens, also the mean over each word's tokens.
            None without a grid, or above `MAX_WEIGHTS`.
        edited: [L, H] True where the caption's method edits a head.
        tokens: what was measured at its tokens; None where it has none.
    """

    words: tuple[Word, ...]
    threshold: float
    heads: Tensor
    patches: Tensor | None
    edited: Tensor
    tokens: Tokens | None = None

    def attention(self, word: int, head: tuple[int, int] | None = None) -> Tensor | None:
        """Return the attention of a word on the image tokens [P]; None where it was not kept.

        Args:
            word: its index.
            head: layer and head; by default the mean of the word's vision-aware heads.
        """
        if self.patches is None:
            return None
        if head is not None:
            return self.patches[word][head].float()
        return self.patches[word][vision_aware_heads(self.heads[word])].float().mean(dim=0)


def measure_prompt(
    model: Model, image: Image.Image, prompt: str, tau: float = TAU, tokens: int = DOMINANCE_TOKENS
) -> PromptMeasurement:
    """Measure the heads and visual sinks of a prompt and, over some tokens, its text dominance.

    Raises:
        VlmHeadsError: a prompt that the detectors refuse.
    """
    network, captioner = model.captioner.model, model.captioner
    inputs = captioner.prepare([image], prompt)
    sinks = visual_sinks(network, inputs, tau=tau)
    visual = sinks.visual[0]
    dominance = text_dominance(network, inputs, max_new_tokens=tokens, do_sample=False)
    counts = dominance.counts[0].double()
    on_text, on_image = (
        part.values[0].double().mean(dim=-1) / count
        for part, count in zip((dominance.text, dominance.image), counts, strict=True)
    )
    return PromptMeasurement(
        model_view(captioner.processor, inputs, image, int(visual.sum())),
        divergence(network, inputs).mean(),
        sinks.visual_sinks[0][:, visual],
        tau,
        sinks.massive.shape[1],
        (on_text / on_image).float(),
    )


@torch.no_grad()
def measure_caption(
    model: Model,
    image: Image.Image,
    prompt: str,
    ids: tuple[int, ...],
    text: str,
    plugins: tuple[Plugin, ...],
    view: ModelView,
    applied: Candidates | None = None,
    ended: bool = False,
) -> CaptionMeasurement:
    """Measure the words of a caption, and find the heads that its method edits.

    Args:
        model: the model that wrote it.
        image: the picture.
        prompt: the question.
        ids: token ids of the caption.
        text: its text.
        plugins: the plugins under which it was written.
        view: the picture under its image tokens.
        applied: the tokens that each was chosen from when it was written.
        ended: whether an end token ended it, which is then measured as well.
    """
    captioner = model.captioner
    network, processor = captioner.model, captioner.processor
    inputs = captioner.prepare([image], prompt)
    layers, heads = model.geometry.layers, model.geometry.heads
    edited = (
        edited_heads(network, inputs, plugins)
        if plugins
        else torch.zeros(layers, heads, dtype=torch.bool)
    )
    scorer = Scorer.of(network)
    if not ids:
        return CaptionMeasurement((), scorer.threshold, torch.zeros(0, layers, heads), None, edited)
    said = (*ids, *end_token(network)) if ended else ids
    weights = 0 if view.grid is None else len(said) * layers * heads * view.grid[0] * view.grid[1]
    found = grounding(
        network,
        inputs,
        torch.tensor([said]),
        patches=0 < weights <= MAX_WEIGHTS,
        scores=scorer.further,
        candidates=KEPT,
    )
    (asked,) = ask_about(network, processor, [image], [text], scorer.asked)
    decode = partial(processor.batch_decode, skip_special_tokens=True)
    special = frozenset(processor.tokenizer.all_special_ids)
    spans = token_spans(ids, text, decode, special)
    words = ground_words(text, spans, found, 0, scorer, scorer.heads(model.geometry), asked)
    divergences = [found.divergence[0, word.first : word.last].mean(dim=0) for word in words]
    patches = None
    if found.patches is not None:
        size = found.patches.shape[-1]
        patches = torch.zeros(len(words), layers, heads, size, dtype=torch.float16)
        for index, word in enumerate(words):
            patches[index] = found.patches[0, word.first : word.last].mean(dim=0)
    tokens = read_tokens(processor, said, text, found, applied)
    stacked = torch.stack(divergences) if words else torch.zeros(0, layers, heads)
    return CaptionMeasurement(words, scorer.threshold, stacked, patches, edited, tokens)


def end_token(network: Any) -> tuple[int, ...]:
    """Return the token that ends a caption, if the model has one."""
    ends = generator_of(network).generation_config.eos_token_id
    return tuple(ends[:1] if isinstance(ends, list) else [] if ends is None else [ends])


def vision_aware_heads(heads: Tensor) -> Tensor:
    """Mark the vision-aware heads [L, H]: the eighth of all heads with the largest VHD."""
    count = max(1, heads.numel() // 8)
    marks = torch.zeros(heads.numel(), dtype=torch.bool)
    marks[heads.flatten().topk(count).indices] = True
    return marks.view(heads.shape)


def top_heads(heads: Tensor, count: int = 5) -> list[tuple[int, int, float]]:
    """Return layer, head and VHD of the heads with the largest VHD, largest first."""
    best = heads.flatten().topk(min(count, heads.numel()))
    return [
        (index // heads.shape[1], index % heads.shape[1], value)
        for index, value in zip(best.indices.tolist(), best.values.tolist(), strict=True)
    ]


@torch.no_grad()
def edited_heads(model: Any, inputs: Mapping[str, Any], plugins: tuple[Plugin, ...]) -> Tensor:
    """Mark the heads [L, H] whose output or attention plugins change at the last prompt token.

    The prompt is run once, recorded before and after the plugins act. A method that edits logits or
    whole hidden states edits no head in particular.

    Args:
        model: a transformers model for image-text-to-text generation, without plugins attached.
        inputs: what a processor made of one image and text.
        plugins: the method.

    Raises:
        VlmHeadsError: what `attach` refuses.
    """
    hooks = {hook for plugin in plugins for hook in plugin.hooks()}
    found: list[tuple[int, Tensor]] = []
    first: list[Plugin] = []
    last: list[Plugin] = []
    if "on_heads" in hooks:
        first.append(_HeadRecorder())
        last.append(_HeadRecorder(first[-1], found))
    if "on_attention" in hooks:
        first.append(_AttentionRecorder())
        last.append(_AttentionRecorder(first[-1], found))
    with attach(model, (*first, *plugins, *last)) as attachment:
        geometry = attachment.anatomy.geometry
        if first:
            attachment.model(**inputs, use_cache=True)
    marks = torch.zeros(geometry.layers, geometry.heads, dtype=torch.bool)
    for layer, changed in found:
        marks[layer, : len(changed)] |= changed.cpu()
    return marks


@dataclass(frozen=True, eq=False)
class _Recorder(Plugin):
    """Records values; given an earlier recorder, finds the heads in which the two differ."""

    earlier: Plugin | None = None
    found: list[tuple[int, Tensor]] = field(default_factory=list)

    def record(self, request: Request, layer: int, values: Tensor) -> None:
        """Record the values of the last prompt token's heads, [H, ...]."""
        request.scratch(self)[str(layer)] = values
        if self.earlier is not None:
            before = request.scratch(self.earlier).pop(str(layer))
            self.found.append((layer, (before != values).flatten(1).any(dim=1)))


@dataclass(frozen=True, eq=False)
class _HeadRecorder(_Recorder):
    name: ClassVar[str] = "record-heads"

    def on_heads(self, request: Request, layer: int, heads: Tensor) -> Tensor:
        self.record(request, layer, heads[0, -1].clone())
        return heads


@dataclass(frozen=True, eq=False)
class _AttentionRecorder(_Recorder):
    name: ClassVar[str] = "record-attention"

    @property
    def whole_map(self) -> bool:
        return True  # both recorders then get the same rows, whatever the method asks for

    def on_attention(self, request: Request, layer: int, rows: Rows) -> Rows:
        last = rows.editable.shape[1] - 1
        self.record(request, layer, rows.part(slice(last, last + 1))[0, :, 0].clone())
        return rows

"""What the page shows of a picture and its captions, measured on the plain model."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import torch
from PIL import Image
from torch import Tensor

from vlmheads.detect import divergence, text_dominance, visual_sinks
from vlmheads.grounding import grounding
from vlmheads.grounding.scores import Scorer
from vlmheads.grounding.words import Word, ground_words, token_spans
from vlmheads.plugin import Plugin
from vlmheads_demo.services.images import Seen, seen_by
from vlmheads_demo.state import Model
from vlmheads_demo.touched import touched_heads

TAU = 20.0
# Text dominance is measured on a generation of its own, this long at most.
DOMINANCE_TOKENS = 32
# Attention of each token, head and patch is kept while an answer is measured; above this many
# values there is no overlay, so that a long answer about tiles does not fill the memory.
MOST_WEIGHTS = 2**28


@dataclass(frozen=True, eq=False)
class Picture:
    """What was measured at the prompt.

    Args:
        seen: the picture under its image tokens.
        divergence: [L, H] VHD at the last prompt token.
        sinks: [L, P] True where an image token is a sink of a layer.
        tau: the least φ of a sink.
        width: E of the states; φ is at most √E.
        dominance: [L] MDI of each layer: attention a text token gets over that an image token gets.
    """

    seen: Seen
    divergence: Tensor
    sinks: Tensor
    tau: float
    width: int
    dominance: Tensor


@dataclass(frozen=True, eq=False)
class Support:
    """What was measured at the words of one caption.

    Args:
        words: all of them, as `vlmheads.Captioner` grounds them.
        threshold: a word whose score is below is flagged.
        heads: [W, L, H] VHD, mean of each word's tokens.
        patches: [W, L, H, P] attention on the image tokens, likewise; of words that name no object
            0, to save memory. None where there is too much of it, or no grid to draw it on.
        touched: [L, H] True where the caption's method acts on a head.
    """

    words: tuple[Word, ...]
    threshold: float
    heads: Tensor
    patches: Tensor | None
    touched: Tensor


def measure_picture(
    model: Model, image: Image.Image, prompt: str, tau: float = TAU, tokens: int = DOMINANCE_TOKENS
) -> Picture:
    """Measure the heads of a prompt, its visual sinks and, over some tokens, its text dominance.

    Raises:
        VlmHeadsError: a prompt that the detectors refuse.
    """
    network, captioner = model.captioner.model, model.captioner
    inputs = captioner.prepare([image], prompt)
    sinks = visual_sinks(network, inputs, tau=tau)
    visual = sinks.visual[0]
    dominance = text_dominance(network, inputs, max_new_tokens=tokens, do_sample=False)
    counts = dominance.counts[0].double()
    text, on_image = (
        part.values[0].double().mean(dim=-1) / count
        for part, count in zip((dominance.text, dominance.image), counts, strict=True)
    )
    return Picture(
        seen_by(captioner.processor, inputs, image, int(visual.sum())),
        divergence(network, inputs).mean(),
        sinks.visual_sinks[0][:, visual],
        tau,
        sinks.massive.shape[1],
        (text / on_image).float(),
    )


@torch.no_grad()
def measure_caption(
    model: Model,
    image: Image.Image,
    prompt: str,
    said: tuple[tuple[int, ...], str],
    plugins: tuple[Plugin, ...],
    seen: Seen,
) -> Support:
    """Measure the words of a caption, and which heads its method acts on.

    Args:
        model: which described the picture.
        image: the picture.
        prompt: what was asked.
        said: token ids of the caption, and its text.
        plugins: under which it was written.
        seen: the picture under its image tokens.
    """
    captioner = model.captioner
    network, processor = captioner.model, captioner.processor
    inputs = captioner.prepare([image], prompt)
    layers, heads = model.geometry.layers, model.geometry.heads
    touched = (
        touched_heads(network, inputs, plugins)
        if plugins
        else torch.zeros(layers, heads, dtype=torch.bool)
    )
    ids, text = said
    scorer = Scorer.of(network)
    if not ids:
        return Support((), scorer.threshold, torch.zeros(0, layers, heads), None, touched)
    weights = 0 if seen.grid is None else len(ids) * layers * heads * seen.grid[0] * seen.grid[1]
    found = grounding(network, inputs, torch.tensor([ids]), patches=0 < weights <= MOST_WEIGHTS)
    decode = partial(processor.batch_decode, skip_special_tokens=True)
    special = frozenset(processor.tokenizer.all_special_ids)
    spans = token_spans(ids, text, decode, special)
    words = ground_words(text, spans, found, 0, scorer, scorer.heads(model.geometry))
    divergences = [found.divergence[0, word.first : word.last].mean(dim=0) for word in words]
    patches = None
    if found.patches is not None:
        size = found.patches.shape[-1]
        patches = torch.zeros(len(words), layers, heads, size, dtype=torch.float16)
        for index, word in enumerate(words):
            if word.object is not None:
                patches[index] = found.patches[0, word.first : word.last].mean(dim=0)
    stacked = torch.stack(divergences) if words else torch.zeros(0, layers, heads)
    return Support(words, scorer.threshold, stacked, patches, touched)


def aware_heads(heads: Tensor) -> Tensor:
    """Mark the vision-aware heads [L, H]: the eighth of all whose output the image changes most."""
    count = max(1, heads.numel() // 8)
    marks = torch.zeros(heads.numel(), dtype=torch.bool)
    marks[heads.flatten().topk(count).indices] = True
    return marks.view(heads.shape)


def top_heads(heads: Tensor, count: int = 5) -> list[tuple[int, int, float]]:
    """Return layer, head and VHD of the heads that the image changes most, largest first."""
    best = heads.flatten().topk(min(count, heads.numel()))
    return [
        (index // heads.shape[1], index % heads.shape[1], value)
        for index, value in zip(best.indices.tolist(), best.values.tolist(), strict=True)
    ]


def attention_of(support: Support, word: int, head: tuple[int, int] | None = None) -> Tensor | None:
    """Return a word's attention on the image tokens [P]: of one head, or of its vision-aware heads.

    None where it was not kept.
    """
    if support.patches is None:
        return None
    if head is not None:
        return support.patches[word][head].float()
    return support.patches[word][aware_heads(support.heads[word])].float().mean(dim=0)

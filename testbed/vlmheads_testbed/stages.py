from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from vlmheads_testbed.batches import (
    PREFIX_LENGTH,
    Questions,
    patch_batch,
    text_batch,
    word_batch,
)
from vlmheads_testbed.categories import looks

#: Background fills most patches; it counts this much in the patch loss.
_BACKGROUND_WEIGHT = 0.2
#: Step of the joint training from which questions come more often and count more.
_QUESTIONS_FROM = 600
_MORE_QUESTIONS = Questions(share=0.35, weight=8.0)


@dataclass(frozen=True)
class Stage:
    """One stage of training: its name, number of steps, batch size and peak learning rate.

    A stage goes on with the pictures and the rate of the one before it from step ``before``. Its
    rate follows a schedule for as many steps as ``horizons`` says, (until step, horizon) each, and
    for its own steps where that is empty.
    """

    name: str
    steps: int
    batch: int
    rate: float
    before: int = 0
    horizons: tuple[tuple[int, int], ...] = ()

    def rate_at(self, step: int) -> float:
        """Return the learning rate of a step of this stage, counted from 0."""
        now = self.before + step
        horizon = next((h for until, h in self.horizons if now < until), self.before + self.steps)
        return self.rate * schedule(now, horizon)


def schedule(step: int, steps: int) -> float:
    """Share of the peak rate: a linear rise over 5 % of the steps, then a cosine to 2 %."""
    rise = max(1, steps // 20)
    if step < rise:
        return (step + 1) / rise
    return 0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * (step - rise) / max(1, steps - rise)))


@dataclass(frozen=True)
class Recipe:
    """The stages in their order, the joint one in two halves: few heads first, then the whole.

    ``visual_heads`` heads of each layer are trained in the first half.
    """

    vision: Stage = Stage("vision", 2400, 48, 1.5e-3)
    language: Stage = Stage("language", 700, 32, 1e-3)
    projector: Stage = Stage("projector", 500, 48, 2e-3)
    heads: Stage = Stage("heads", 800, 32, 1e-3, horizons=((800, 1500),))
    whole: Stage = Stage("whole", 1200, 32, 1e-3, before=800, horizons=((1100, 1500),))
    visual_heads: int = 2

    @property
    def stages(self) -> tuple[Stage, ...]:
        """The stages in the order they run in."""
        return self.vision, self.language, self.projector, self.heads, self.whole


class Learner(nn.Module):
    """The model under training, its patch classifier and the loss of each stage."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model
        self.classifier = nn.Linear(model.config.vision_config.hidden_size, 1 + len(looks()))
        weights = torch.ones(1 + len(looks()))
        weights[0] = _BACKGROUND_WEIGHT
        self.class_weights = nn.Buffer(weights, persistent=False)

    def patches(self, pixels: torch.Tensor) -> torch.Tensor:
        """Features of the patches ``[B, 64, E]``, as LLaVA's "default" selection takes them."""
        hidden: torch.Tensor = self.model.model.vision_tower(pixels).last_hidden_state
        return hidden[:, 1:]

    def vision_loss(self, pixels: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Cross-entropy of the look that covers each patch."""
        logits = self.classifier(self.patches(pixels)).flatten(0, 1)
        return functional.cross_entropy(logits, labels.flatten(), self.class_weights)

    def word_loss(
        self, pixels: torch.Tensor, words: torch.Tensor, shown: torch.Tensor
    ) -> torch.Tensor:
        """Cross-entropy of the word for each patch, read off the projector as off a last layer.

        The output embeddings are the input embeddings, so that the projector learns to write
        patches as the words that the language model already reads.
        """
        with torch.no_grad():
            features = self.patches(pixels)
        hidden = self.model.model.language_model.norm(
            self.model.model.multi_modal_projector(features)
        )
        losses = functional.cross_entropy(
            self.model.lm_head(hidden).flatten(0, 1).float(), words.flatten(), reduction="none"
        )
        weights = torch.where(shown, 1.0, _BACKGROUND_WEIGHT).flatten()
        return (losses * weights).sum() / weights.sum()

    def text_loss(self, ids: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
        """Cross-entropy of the answers without any image tokens."""
        return self._loss(self.model.get_input_embeddings()(ids), ids, weights, 0)

    def image_loss(
        self, pixels: torch.Tensor, ids: torch.Tensor, weights: torch.Tensor
    ) -> torch.Tensor:
        """Cross-entropy of the answers after the picture; the vision tower stays as it is."""
        with torch.no_grad():
            features = self.patches(pixels)
        image = self.model.model.multi_modal_projector(features)
        words = self.model.get_input_embeddings()(ids)
        parts = words[:, :PREFIX_LENGTH], image.to(words.dtype), words[:, PREFIX_LENGTH:]
        return self._loss(torch.cat(parts, 1), ids, weights, image.shape[1])

    def _loss(
        self, embeddings: torch.Tensor, ids: torch.Tensor, weights: torch.Tensor, shift: int
    ) -> torch.Tensor:
        # Padding is at the end, where causal attention hides it; no mask is needed.
        hidden = self.model.model.language_model(
            inputs_embeds=embeddings, use_cache=False
        ).last_hidden_state
        logits = self.model.lm_head(hidden[:, shift + PREFIX_LENGTH - 1 : -1])
        targets, weights = ids[:, PREFIX_LENGTH:], weights[:, PREFIX_LENGTH:]
        losses = functional.cross_entropy(
            logits.flatten(0, 1).float(), targets.flatten(), reduction="none"
        )
        return (losses * weights.flatten()).sum() / weights.sum()


# Each stage has ten million pictures of its own, but the whole stage goes on with the heads'.
_PICTURES = {"vision": 0, "language": 1, "projector": 2, "heads": 3, "whole": 3}
_JOINT = ("heads", "whole")

Loss = Callable[[int], torch.Tensor]


def stage_losses(learner: Learner, tokenizer: Any, stage: Stage, seed: int, compiled: bool) -> Loss:
    """Build the loss of a stage as a function of the step; equal steps get equal batches."""

    def fast(function: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
        return torch.compile(function, dynamic=False) if compiled else function

    first = _PICTURES[stage.name] * 10_000_000
    vision, text = fast(learner.vision_loss), fast(learner.text_loss)
    image, word = fast(learner.image_loss), fast(learner.word_loss)

    def loss(step: int) -> torch.Tensor:
        start = first + (stage.before + step) * stage.batch
        if stage.name == "vision":
            return vision(*patch_batch(seed, start, stage.batch))
        if stage.name == "projector":
            return word(*word_batch(tokenizer, seed, start, stage.batch))
        late = stage.name in _JOINT and stage.before + step >= _QUESTIONS_FROM
        questions = _MORE_QUESTIONS if late else Questions()
        batch = text_batch(tokenizer, seed, start, stage.batch, questions)
        if stage.name in _JOINT:
            return image(batch.pixels, batch.ids, batch.weights)
        if step % 2 == 0:
            return text(batch.ids, batch.weights)
        # The picture of another text: the heads learn that most of language needs no looking.
        return image(batch.pixels.roll(1, 0), batch.ids, batch.weights)

    return loss


@dataclass(frozen=True)
class Trained:
    """A parameter that a stage trains and, where only some heads of it are, their 0/1 mask."""

    parameter: nn.Parameter
    mask: torch.Tensor | None = None


def trained(learner: Learner, stage: Stage, visual_heads: int, seed: int) -> list[Trained]:
    """List what a stage trains.

    vision: the tower and its classifier. language: the language model. projector: the projector.
    heads: the projector, the MLPs of the language model and ``visual_heads`` heads of each layer;
    the other heads keep what they learned from text, so that vision enters through a few.
    whole: the projector and all of the language model.
    """
    model = learner.model.model
    if stage.name == "vision":
        parts = (model.vision_tower, learner.classifier)
        return [Trained(p) for part in parts for p in part.parameters()]
    if stage.name == "language":
        return [Trained(p) for p in model.language_model.parameters()]
    projector = [Trained(p) for p in model.multi_modal_projector.parameters()]
    if stage.name == "projector":
        return projector
    if stage.name == "whole":
        return projector + [Trained(p) for p in model.language_model.parameters()]
    return projector + list(_few_heads(model.language_model, visual_heads, seed))


def free_heads(learner: Learner, visual_heads: int, seed: int) -> None:
    """Make the heads new that the heads stage trains.

    From the language stage they know to pass pictures over, and heads that never look never learn
    to. They start by looking at everything alike and copying what they see, each in a random
    subspace of its own: the output projection undoes the value projection.
    """
    language = learner.model.model.language_model
    random = torch.Generator().manual_seed(seed + 1)
    for layer, chosen in zip(language.layers, _visual(language, visual_heads, seed), strict=True):
        attention = layer.self_attn
        size = attention.head_dim
        for head in chosen.nonzero().flatten().tolist():
            rows = slice(head * size, (head + 1) * size)
            width = attention.v_proj.weight.shape[1]
            basis = torch.linalg.qr(torch.randn(width, size, generator=random)).Q
            with torch.no_grad():
                for name in ("q_proj", "k_proj"):
                    small = 0.02 * torch.randn(size, width, generator=random)
                    getattr(attention, name).weight[rows] = small
                attention.v_proj.weight[rows] = basis.T
                attention.o_proj.weight[:, rows] = basis


def _visual(language: Any, visual_heads: int, seed: int) -> Iterator[torch.Tensor]:
    """Mark the heads of each layer that the heads stage trains: ``[H]`` of 0 and 1 a layer."""
    random = torch.Generator().manual_seed(seed)
    for _ in language.layers:
        chosen = torch.zeros(language.config.num_attention_heads)
        chosen[torch.randperm(len(chosen), generator=random)[:visual_heads]] = 1.0
        yield chosen


def _few_heads(language: Any, visual_heads: int, seed: int) -> Iterator[Trained]:
    for layer, chosen in zip(language.layers, _visual(language, visual_heads, seed), strict=True):
        yield from (Trained(p) for p in layer.mlp.parameters())
        rows = chosen.repeat_interleave(layer.self_attn.head_dim)
        for name in ("q_proj", "k_proj", "v_proj"):
            yield Trained(getattr(layer.self_attn, name).weight, rows[:, None])
        yield Trained(layer.self_attn.o_proj.weight, rows[None, :])

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from vlmheads_testbed.batches import PREFIX_LENGTH, patch_batch, text_batch
from vlmheads_testbed.categories import looks

#: Background fills most patches; it counts this much in the patch loss.
_BACKGROUND_WEIGHT = 0.2


@dataclass(frozen=True)
class Stage:
    """One stage of training: its name, number of steps, batch size and peak learning rate."""

    name: str
    steps: int
    batch: int
    rate: float


@dataclass(frozen=True)
class Recipe:
    """The four stages in their order and how many heads of a layer the joint stage trains."""

    vision: Stage = Stage("vision", 2400, 48, 1.5e-3)
    language: Stage = Stage("language", 700, 32, 1e-3)
    projector: Stage = Stage("projector", 150, 32, 1e-3)
    joint: Stage = Stage("joint", 1500, 32, 1e-3)
    visual_heads: int = 2

    @property
    def stages(self) -> tuple[Stage, ...]:
        """The stages in the order they run in."""
        return self.vision, self.language, self.projector, self.joint


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


Loss = Callable[[int], torch.Tensor]


def stage_losses(learner: Learner, tokenizer: Any, stage: Stage, seed: int, compiled: bool) -> Loss:
    """Build the loss of a stage as a function of the step; equal steps get equal batches."""

    def fast(function: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
        return torch.compile(function, dynamic=False) if compiled else function

    # Each stage has ten million pictures of its own.
    first = ("vision", "language", "projector", "joint").index(stage.name) * 10_000_000
    vision, text = fast(learner.vision_loss), fast(learner.text_loss)
    image = fast(learner.image_loss)

    def loss(step: int) -> torch.Tensor:
        start = first + step * stage.batch
        if stage.name == "vision":
            return vision(*patch_batch(seed, start, stage.batch))
        batch = text_batch(tokenizer, seed, start, stage.batch)
        if stage.name != "language":
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
    joint: the projector, the MLPs of the language model and ``visual_heads`` heads of each layer;
    the other heads keep what they learned from text, so that vision enters through a few.
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
    return projector + list(_joint(model.language_model, visual_heads, seed))


def _joint(language: Any, visual_heads: int, seed: int) -> Iterator[Trained]:
    random = torch.Generator().manual_seed(seed)
    heads = language.config.num_attention_heads
    for layer in language.layers:
        yield from (Trained(p) for p in layer.mlp.parameters())
        chosen = torch.zeros(heads)
        chosen[torch.randperm(heads, generator=random)[:visual_heads]] = 1.0
        rows = chosen.repeat_interleave(layer.self_attn.head_dim)
        for name in ("q_proj", "k_proj", "v_proj"):
            yield Trained(getattr(layer.self_attn, name).weight, rows[:, None])
        yield Trained(layer.self_attn.o_proj.weight, rows[None, :])

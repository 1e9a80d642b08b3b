from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn import functional
from torch.utils.data import DataLoader, Dataset, Sampler

from vlmheads_testbed.batches import (
    ONLY_CHECKS,
    PREFIX_LENGTH,
    Mix,
    patch_batch,
    scaled,
    text_batch,
    word_batch,
)
from vlmheads_testbed.categories import looks

#: Background fills most patches; it counts this much in the patch losses.
_BACKGROUND_WEIGHT = 0.2

Tensors = tuple[torch.Tensor, ...]


@dataclass(frozen=True)
class Stage:
    """One stage of training: its name, pictures in a batch and peak learning rate.

    It takes ``steps``, or where that is None as many as fit into its ``share`` of the time. Its
    rate rises for ``rise`` steps and falls along a cosine where ``falls`` is true.
    """

    name: str
    batch: int
    rate: float
    share: float
    steps: int | None = None
    rise: int = 200
    falls: bool = True

    def rate_at(self, step: int, steps: int) -> float:
        """Return the learning rate of a step, counted from 0, of a stage of ``steps`` steps."""
        if step < self.rise:
            return self.rate * (step + 1) / self.rise
        if not self.falls:
            return self.rate
        done = (step - self.rise) / max(1, steps - self.rise)
        return self.rate * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * min(1.0, done))))


def recipe(batch: int) -> tuple[Stage, ...]:
    """Return the stages in their order, with ``batch`` pictures in a batch of texts.

    vision: the tower alone, by classifying what covers each patch. projector: alone, each patch is
    read as the word for what it shows. checks: projector and language model, dense questions.
    captions: the same, captions and questions of all kinds.
    """
    return (
        Stage("vision", 2 * batch, 1.5e-3, 0.22),
        Stage("projector", 2 * batch, 2e-3, 0.06),
        Stage("checks", batch, 1e-3, 0.16, falls=False),
        Stage("captions", batch, 1e-3, 0.56),
    )


class Learner(nn.Module):
    """The model under training, its patch classifier and the loss of each stage."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model
        self.classifier = nn.Linear(model.config.vision_config.hidden_size, 1 + len(looks()))
        weights = torch.ones(1 + len(looks()))
        weights[0] = _BACKGROUND_WEIGHT
        self.class_weights = nn.Buffer(weights, persistent=False)

    def loss(self, stage: str, batch: Tensors) -> torch.Tensor:
        """Return the loss of a stage on one of its batches."""
        if stage == "vision":
            return self.vision_loss(*batch[:2])
        return self.word_loss(*batch) if stage == "projector" else self.text_loss(*batch)

    def patches(self, pixels: torch.Tensor) -> torch.Tensor:
        """Features of the patches ``[B, 64, E]``, as LLaVA's "default" selection takes them."""
        hidden: torch.Tensor = self.model.model.vision_tower(scaled(pixels)).last_hidden_state
        return hidden[:, 1:]

    def vision_loss(self, pixels: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Cross-entropy of the look that covers each patch."""
        logits = self.classifier(self.patches(pixels)).flatten(0, 1)
        return functional.cross_entropy(logits.float(), labels.flatten(), self.class_weights)

    def word_loss(
        self, pixels: torch.Tensor, words: torch.Tensor, shown: torch.Tensor
    ) -> torch.Tensor:
        """Cross-entropy of the word for each patch, read off the projector as off a last layer.

        The output embeddings are the input embeddings, so that the projector learns to write
        patches as the words that the language model reads.
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

    def text_loss(
        self, pixels: torch.Tensor, ids: torch.Tensor, weights: torch.Tensor
    ) -> torch.Tensor:
        """Cross-entropy of what the model says after the picture; the tower stays as it is.

        There are as many texts of each picture, one after another.
        """
        with torch.no_grad():
            features = self.patches(pixels)
        image = self.model.model.multi_modal_projector(features)
        image = image.repeat_interleave(len(ids) // len(image), 0)
        words = self.model.get_input_embeddings()(ids)
        parts = words[:, :PREFIX_LENGTH], image.to(words.dtype), words[:, PREFIX_LENGTH:]
        # Padding is at the end, where causal attention hides it; no mask is needed.
        hidden = self.model.model.language_model(
            inputs_embeds=torch.cat(parts, 1), use_cache=False
        ).last_hidden_state
        logits = self.model.lm_head(hidden[:, image.shape[1] + PREFIX_LENGTH - 1 : -1])
        targets, weights = ids[:, PREFIX_LENGTH:], weights[:, PREFIX_LENGTH:]
        losses = functional.cross_entropy(
            logits.flatten(0, 1).float(), targets.flatten(), reduction="none"
        )
        return (losses * weights.flatten()).sum() / weights.sum()


def trained(learner: Learner, stage: str) -> list[nn.Parameter]:
    """List what a stage trains, see `recipe`."""
    model = learner.model.model
    projector = [*model.multi_modal_projector.parameters()]
    if stage == "vision":
        return [*model.vision_tower.parameters(), *learner.classifier.parameters()]
    if stage == "projector":
        return projector
    return [*projector, *model.language_model.parameters()]


# Each stage has pictures of its own.
_PICTURES = {"vision": 0, "projector": 100_000_000, "checks": 200_000_000, "captions": 300_000_000}


class StageData(Dataset[Tensors]):
    """The batches of a stage by step; equal seeds and steps give equal batches."""

    def __init__(self, tokenizer: Any, stage: Stage, seed: int) -> None:
        self.tokenizer = tokenizer
        self.stage = stage
        self.seed = seed

    def __getitem__(self, step: int) -> Tensors:
        first = _PICTURES[self.stage.name] + step * self.stage.batch
        if self.stage.name == "vision":
            patches = patch_batch(self.seed, first, self.stage.batch)
            return patches.pixels, patches.labels, patches.shown
        if self.stage.name == "projector":
            words = word_batch(self.tokenizer, self.seed, first, self.stage.batch)
            return words.pixels, words.labels, words.shown
        mix = ONLY_CHECKS if self.stage.name == "checks" else Mix()
        texts = text_batch(self.tokenizer, self.seed, first, self.stage.batch, mix)
        return texts.pixels, texts.ids, texts.weights


class _From(Sampler[int]):
    """All steps from one on."""

    def __init__(self, first: int) -> None:
        self.first = first

    def __iter__(self) -> Iterator[int]:
        step = self.first
        while True:
            yield step
            step += 1


def batches(data: StageData, first: int, workers: int, device: str) -> Iterator[Tensors]:
    """Yield the batches from step ``first`` on, drawn ahead by ``workers`` processes if any."""
    loader = DataLoader(
        data,
        batch_size=None,
        sampler=_From(first),
        num_workers=workers,
        prefetch_factor=2 if workers else None,
        pin_memory=device == "cuda",
        multiprocessing_context="fork" if workers else None,
    )
    for batch in loader:
        yield tuple(tensor.to(device, non_blocking=True) for tensor in batch)

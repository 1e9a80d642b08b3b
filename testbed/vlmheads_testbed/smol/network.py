"""The LLaVA whose language side is a pretrained decoder: assembled, adapted, and its losses."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from vlmheads_testbed.scenes import PATCH, SIZE
from vlmheads_testbed.smol.batches import Batch, WordBatch, layout, prefix_tokens

AnswerLoss = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]
IMAGE_TOKENS = (SIZE // PATCH) ** 2


def build_llava(decoder: Any, vision_tower: Any, tokenizer: Any) -> Any:
    """Put a decoder (``LlamaForCausalLM``) behind a vision tower, with a new projector.

    The decoder's vocabulary grows by the image token, whose embedding is zero.
    The weights of both are those of the arguments, not copies, save for the embeddings.
    """
    from transformers import GenerationConfig, LlavaConfig, LlavaForConditionalGeneration

    image = tokenizer.convert_tokens_to_ids("<image>")
    decoder.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    with torch.no_grad():
        decoder.get_input_embeddings().weight[image] = 0.0
    ids = {
        "pad_token_id": tokenizer.pad_token_id,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
    }
    text = decoder.config
    text.update(ids)
    config = LlavaConfig(
        vision_config=vision_tower.config,
        text_config=text,
        image_token_index=image,
        vision_feature_layer=-1,
        vision_feature_select_strategy="default",
        image_seq_length=IMAGE_TOKENS,
        tie_word_embeddings=True,
    )
    with torch.device("meta"):
        model = LlavaForConditionalGeneration(config)
    projector = model.model.multi_modal_projector.to_empty(device="cpu")
    for linear in (projector.linear_1, projector.linear_2):
        nn.init.xavier_uniform_(linear.weight)
        nn.init.zeros_(linear.bias)
    model.model.language_model = decoder.model
    model.model.vision_tower = vision_tower
    model.lm_head = decoder.lm_head
    model.generation_config = GenerationConfig(**ids, max_new_tokens=128, do_sample=False)
    return model.eval()


class Learner(nn.Module):
    """The model under training with its low-rank updates, and the losses of the two stages."""

    def __init__(self, model: Any, tokenizer: Any) -> None:
        super().__init__()
        self.model = model
        before, after = prefix_tokens(tokenizer)
        self.before = nn.Buffer(torch.tensor(before), persistent=False)
        self.after = nn.Buffer(torch.tensor(after), persistent=False)

    @property
    def prefix_length(self) -> int:
        """Tokens before the first turn, those of the image included."""
        return len(self.before) + IMAGE_TOKENS + len(self.after)

    def patches(self, pixels: torch.Tensor) -> torch.Tensor:
        """Features of the patches ``[B, 64, E]``, as LLaVA's "default" selection takes them."""
        with torch.no_grad():
            hidden: torch.Tensor = self.model.model.vision_tower(pixels).last_hidden_state
        return hidden[:, 1:]

    def word_loss(self, words: WordBatch) -> torch.Tensor:
        """How far patches are projected from the embeddings of their words, 1 for the mean word."""
        found = self.model.model.multi_modal_projector(self.patches(words.pixels))
        spread = (words.targets - words.targets.mean((0, 1))).square().mean(-1)
        far = (found - words.targets).square().mean(-1)
        share: torch.Tensor = (far * words.weights).sum() / (spread * words.weights).sum()
        return share

    def loss(self, batch: Batch, answer_loss: AnswerLoss | None = None) -> torch.Tensor:
        """Cross-entropy of the answers, weighted; equal to that of each turn after the picture.

        ``answer_loss`` is a compiled `answer_loss`, by default the plain one.
        """
        features = self.patches(batch.pixels)
        image = self.model.model.multi_modal_projector(features)
        embed = self.model.get_input_embeddings()
        rows = len(image)
        ends = (embed(ids).expand(rows, -1, -1) for ids in (self.before, self.after))
        before, after = ends
        words = embed(batch.ids)
        embeddings = torch.cat([before, image.to(words.dtype), after, words], 1)
        allowed, positions = layout(batch.turns, self.prefix_length)
        lowest = torch.finfo(words.dtype).min
        mask = torch.zeros_like(allowed, dtype=words.dtype).masked_fill(~allowed, lowest)
        hidden = self.model.model.language_model(
            inputs_embeds=embeddings,
            attention_mask=mask,
            position_ids=positions,
            use_cache=False,
        ).last_hidden_state
        # Each token predicts the next of its turn; the first one of a turn is never a target.
        states, targets = hidden[:, self.prefix_length : -1], batch.ids[:, 1:]
        weights = batch.weights[:, 1:]
        chosen = weights > 0
        logits = self.model.lm_head(states[chosen])
        return (answer_loss or self.answer_loss)(logits, targets[chosen], weights[chosen])

    @staticmethod
    def answer_loss(
        logits: torch.Tensor, targets: torch.Tensor, weights: torch.Tensor
    ) -> torch.Tensor:
        """Weighted mean cross-entropy of tokens: logits ``[N, V]``, targets and weights ``[N]``."""
        losses = functional.cross_entropy(logits.float(), targets, reduction="none")
        mean: torch.Tensor = (losses * weights).sum() / weights.sum()
        return mean

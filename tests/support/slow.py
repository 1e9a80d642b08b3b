"""A slow decoder for the tiny LLaVA models: float64, one row, full attention maps, by hand.

It shares no code with vlmheads or transformers; only the image features are taken from the model.
Tests of methods edit what they need at the named points and compare the logits.
"""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

Edit = Callable[[int, Tensor], Tensor]


def _as_it_is(_: int, value: Tensor) -> Tensor:
    return value


def keep_in(found: dict[int, Tensor]) -> Edit:
    """Return an edit that keeps what it is given by layer, and leaves it as it is."""

    def keep(layer: int, value: Tensor) -> Tensor:
        found[layer] = value
        return value

    return keep


@dataclass(frozen=True)
class Edits:
    """What happens at each point; all but `logits` are given the layer, and `logits` the step.

    In the prompt Q is its length, afterwards Q is 1. K is all columns up to now.
    """

    scores: Edit = _as_it_is  # [H, Q, K], scaled; minus infinity above the diagonal
    weights: Edit = _as_it_is  # [H, Q, K]
    heads: Edit = _as_it_is  # [Q, H, D], before the output projection
    attention: Edit = _as_it_is  # [Q, E], the output of the projection
    mlp: Edit = _as_it_is  # [Q, E], the output of the MLP
    residual: Edit = _as_it_is  # [Q, E], the output of the layer
    logits: Edit = _as_it_is  # [V] of the next token; step 0 is the prompt


@dataclass
class Slow:
    """One stream of one row: weights, edits, and the keys and values of each layer so far."""

    model: Any
    edits: Edits = field(default_factory=Edits)

    def __post_init__(self) -> None:
        self.config = self.model.config.text_config
        tensors = self.model.state_dict().items()
        self.weights = {name.split("language_model.")[-1]: w.double() for name, w in tensors}
        self.keys: list[list[Tensor]] = [[] for _ in range(self.config.num_hidden_layers)]
        self.values: list[list[Tensor]] = [[] for _ in range(self.config.num_hidden_layers)]
        self.columns = self.step = 0

    def prompt(self, row: dict[str, Tensor], *, images: bool = True) -> Tensor:
        """Logits [V] after a prompt without padding; its image embeddings can be deleted."""
        ids = row["input_ids"][0]
        visual = image_columns(self.model, row)
        hidden = self.weights["embed_tokens.weight"][ids]
        hidden[visual] = image_features(self.model, row)
        return self.forward(hidden if images else hidden[~visual])

    def token(self, token: int) -> Tensor:
        """Logits [V] after one more token."""
        return self.forward(self.weights["embed_tokens.weight"][token][None])

    def forward(self, hidden: Tensor) -> Tensor:
        for layer in range(self.config.num_hidden_layers):
            hidden = self._layer(layer, hidden)
        self.columns += len(hidden)
        logits = (self.norm("norm", hidden[-1:]) @ self.weights["lm_head.weight"].T)[0]
        self.step += 1
        return self.edits.logits(self.step - 1, logits)

    def _layer(self, layer: int, hidden: Tensor) -> Tensor:
        name = f"layers.{layer}."
        hidden = hidden + self._attention(layer, self.norm(name + "input_layernorm", hidden))
        inner = self.norm(name + "post_attention_layernorm", hidden)
        gate, up = (
            self._linear(name + "mlp.gate_proj", inner),
            self._linear(name + "mlp.up_proj", inner),
        )
        out = self._linear(name + "mlp.down_proj", gate / (1 + torch.exp(-gate)) * up)
        return self.edits.residual(layer, hidden + self.edits.mlp(layer, out))

    def _attention(self, layer: int, hidden: Tensor) -> Tensor:
        name, count, size = f"layers.{layer}.self_attn.", len(hidden), self.config.head_dim
        query, key, value = (
            self._linear(f"{name}{part}_proj", hidden).reshape(count, -1, size) for part in "qkv"
        )
        query, key = self._rotate(query), self._rotate(key)
        self.keys[layer].extend(key)
        self.values[layer].extend(value)
        # Query heads share keys and values in groups of neighbours.
        group = query.shape[1] // key.shape[1]
        keys = torch.stack(self.keys[layer]).repeat_interleave(group, dim=1)
        values = torch.stack(self.values[layer]).repeat_interleave(group, dim=1)
        scores = torch.einsum("qhd,khd->hqk", query, keys) / size**0.5
        for index in range(count):
            scores[:, index, self.columns + index + 1 :] = -torch.inf
        weights = self.edits.scores(layer, scores).softmax(dim=-1)
        weights = self.edits.weights(layer, weights)
        heads = self.edits.heads(layer, torch.einsum("hqk,khd->qhd", weights, values))
        output = self._linear(name + "o_proj", heads.reshape(count, -1))
        return self.edits.attention(layer, output)

    def _rotate(self, vectors: Tensor) -> Tensor:
        """Rotary embedding of [Q, heads, D]: dimension i turns with i + D/2."""
        half = vectors.shape[-1] // 2
        base = self.config.rope_parameters["rope_theta"]
        speed = base ** (-torch.arange(half, dtype=torch.float64) / half)
        positions = torch.arange(self.columns, self.columns + len(vectors))
        angle = (positions[:, None] * speed)[:, None]
        one, two = vectors[..., :half], vectors[..., half:]
        turned = [one * angle.cos() - two * angle.sin(), two * angle.cos() + one * angle.sin()]
        return torch.cat(turned, dim=-1)

    def norm(self, name: str, hidden: Tensor) -> Tensor:
        scale = (hidden.square().mean(dim=-1, keepdim=True) + self.config.rms_norm_eps).sqrt()
        return hidden / scale * self.weights[name + ".weight"]

    def _linear(self, name: str, hidden: Tensor) -> Tensor:
        return hidden @ self.weights[name + ".weight"].T


def settled(edited: Tensor, plain: Tensor) -> Tensor:
    """Logits [V] as processors are to get them: at the level of the plain ones, all finite.

    Tokens at minus infinity are left out: they keep the order of the plain logits, and the best of
    them is 1000 below the worst of the others, or of itself where that is lower.
    """
    edited = edited.double() + (plain.exp().sum().log() - edited.double().exp().sum().log())
    kept = [i for i, value in enumerate(edited.tolist()) if value > -torch.inf]
    left_out = [i for i in range(len(plain)) if i not in kept]
    if left_out:
        worst = min(float(edited[i]) for i in kept)
        best = max(float(plain[i]) for i in left_out)
        for i in left_out:
            edited[i] = plain[i] - max(best - worst, 0) - 1000
    return edited


def image_columns(model: Any, row: dict[str, Tensor]) -> Tensor:
    """[S] True where the prompt of one row holds an image token."""
    return row["input_ids"][0] == model.config.image_token_id


def image_features(model: Any, row: dict[str, Tensor]) -> Tensor:
    """[image tokens, E] the image embeddings, from the model's own encoder in float64."""
    encoder = deepcopy(model.model).double()
    with torch.no_grad():
        return encoder.get_image_features(row["pixel_values"].double()).pooler_output[0]


def decode(
    model: Any, row: dict[str, Tensor], edits: Edits | None = None, *, tokens: int | list[int] = 8
) -> tuple[list[int], Tensor]:
    """Decode greedily, or along given tokens; return the tokens and the logits [tokens, V]."""
    slow = Slow(model, edits or Edits())
    logits, given = [slow.prompt(row)], None if isinstance(tokens, int) else tokens
    count = tokens if isinstance(tokens, int) else len(tokens)
    chosen: list[int] = []
    while True:
        chosen.append(int(logits[-1].argmax()) if given is None else given[len(chosen)])
        if len(chosen) == count:
            return chosen, torch.stack(logits)
        logits.append(slow.token(chosen[-1]))

"""Path patching and contextual decomposition against their formulas, position by position."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import slow
import tiny
import torch
from torch import Tensor

from vlmheads.detect import Answers, select

TARGETS = torch.tensor([[7, 8, 9], [11, 12, 13]])
GROUNDED = torch.tensor([[1, 0, 0], [0, 1, 0]]).bool()
HALLUCINATED = torch.tensor([[0, 0, 1], [1, 0, 1]]).bool()
LENGTHS = (4, 2)
FAMILY = "llava-gqa"


@dataclass
class Layer:
    """What one layer of the whole model holds: weights, values, scales, head outputs, MLP input."""

    weights: Tensor  # [H, S, S]
    entering: Tensor
    heads: Tensor  # [S, H, D]
    middle: Tensor  # after attention
    mlp: Tensor


class ByHand:
    """One prompt with its answer, read at once in float64."""

    def __init__(self, index: int, grey: bool = False) -> None:
        self.model = tiny.build(FAMILY)
        self.decoder = slow.Slow(self.model)
        row = tiny.row(FAMILY, LENGTHS, index)
        if grey:
            row["pixel_values"] = torch.full_like(row["pixel_values"], 1e-4)
        ids = torch.cat([row["input_ids"][0], TARGETS[index]])
        hidden = self.decoder.weights["embed_tokens.weight"][ids].clone()
        hidden[ids == tiny.IMAGE] = slow.image_features(self.model, row)
        self.index, self.start = index, hidden
        self.layers: list[Layer] = []
        for layer in range(4):
            kept = self._whole(layer, hidden)
            self.layers.append(kept)
            hidden = kept.middle + kept.mlp
        self.last = hidden

    def rms(self, states: Tensor) -> Tensor:
        return (states.square().mean(dim=-1, keepdim=True) + 1e-6).sqrt()

    def normed(self, name: str, part: Tensor, whole: Tensor) -> Tensor:
        """A part of a state under the scale of the whole."""
        return part / self.rms(whole) * self.decoder.weights[name + ".weight"]

    def values(self, layer: int, inner: Tensor) -> Tensor:
        made = inner @ self.decoder.weights[f"layers.{layer}.self_attn.v_proj.weight"].T
        return made.reshape(len(inner), 2, 8).repeat_interleave(2, dim=1)

    def out(self, layer: int, heads: Tensor) -> Tensor:
        return heads.flatten(1) @ self.decoder.weights[f"layers.{layer}.self_attn.o_proj.weight"].T

    def f(self, layer: int, inner: Tensor) -> Tensor:
        name, weights = f"layers.{layer}.mlp.", self.decoder.weights
        gate, up = (inner @ weights[f"{name}{part}_proj.weight"].T for part in ("gate", "up"))
        return (gate * torch.sigmoid(gate) * up) @ weights[name + "down_proj.weight"].T

    def _whole(self, layer: int, hidden: Tensor) -> Layer:
        name, weights = f"layers.{layer}.", self.decoder.weights
        inner = self.normed(name + "input_layernorm", hidden, hidden)
        query, key = (
            (inner @ weights[f"{name}self_attn.{part}_proj.weight"].T).reshape(len(inner), -1, 8)
            for part in "qk"
        )
        query, key = self.decoder._rotate(query), self.decoder._rotate(key)
        scores = torch.einsum("qhd,khd->hqk", query, key.repeat_interleave(2, dim=1)) / 8**0.5
        mask = torch.ones(scores.shape[1:]).tril().bool()
        attention = scores.masked_fill(~mask, -torch.inf).softmax(dim=-1)
        heads = torch.einsum("hqk,khd->qhd", attention, self.values(layer, inner))
        middle = hidden + self.out(layer, heads)
        mlp = self.f(layer, self.normed(name + "post_attention_layernorm", middle, middle))
        return Layer(attention, hidden, heads, middle, mlp)

    def contrast(self, states: Tensor, whole: Tensor) -> float:
        logits = self.normed("norm", states, whole) @ self.decoder.weights["lm_head.weight"].T
        logs = logits.log_softmax(-1)[-4:-1].gather(1, TARGETS[self.index][:, None])[:, 0]
        right, wrong = GROUNDED[self.index], HALLUCINATED[self.index]
        return float(logs[right].mean() - logs[wrong].mean())

    def patched(self, at: int, head: int, other: Tensor) -> float:
        """The contrast with one head's output of another run, all others as they were."""
        hidden = self.start
        for layer, kept in enumerate(self.layers):
            heads = kept.heads.clone()
            if layer == at:
                heads[:, head] = other[:, head]
            hidden = hidden + self.out(layer, heads)
            name = f"layers.{layer}.post_attention_layernorm"
            hidden = hidden + self.f(layer, self.normed(name, hidden, hidden))
        return self.contrast(hidden, hidden) - self.contrast(self.last, self.last)

    def decomposed(self, at: int, head: int, mean: Tensor) -> float:
        """The contrast without a head's own part β, carried through all layers."""
        beta = torch.zeros_like(self.start)
        for layer, kept in enumerate(self.layers):
            name = f"layers.{layer}."
            inner = self.normed(name + "input_layernorm", beta, kept.entering)
            made = torch.einsum("hqk,khd->qhd", kept.weights, self.values(layer, inner))
            if layer == at:
                made[:, head] = kept.heads[:, head] - mean
            beta = beta + self.out(layer, made)
            name += "post_attention_layernorm"
            whole = self.normed(name, kept.middle, kept.middle)
            part = self.normed(name, beta, kept.middle)
            zero = self.f(layer, torch.zeros_like(part))
            first = self.f(layer, part) - zero
            beta = beta + (first + kept.mlp - self.f(layer, whole - part)) / 2
        return self.contrast(self.last - beta, self.last) - self.contrast(self.last, self.last)


def measured(method: str) -> Tensor:
    answers = Answers(tiny.inputs(FAMILY, LENGTHS), TARGETS, GROUNDED, HALLUCINATED)
    found = select(tiny.build(FAMILY), answers, method=method, rows=7)  # type: ignore[arg-type]
    return found.scores.values


def test_path_patching_is_a_head_of_the_other_run_with_all_others_kept() -> None:
    found = measured("path-patching")
    for index in range(2):
        clean, grey = ByHand(index), ByHand(index, grey=True)
        for layer in range(4):
            for head in range(4):
                expected = clean.patched(layer, head, grey.layers[layer].heads)
                assert float(found[index, layer, head]) == pytest.approx(expected, abs=2e-5)


def test_a_heads_part_is_carried_through_frozen_attention_norms_and_split_mlps() -> None:
    found = measured("cd-t")
    both = [ByHand(index) for index in range(2)]
    for layer in range(4):
        mean = torch.cat([one.layers[layer].heads for one in both]).mean(dim=0)
        for head in range(4):
            for index, one in enumerate(both):
                expected = one.decomposed(layer, head, mean[head])
                assert float(found[index, layer, head]) == pytest.approx(expected, abs=2e-5)

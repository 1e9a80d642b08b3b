"""Attention rows by hand against the attention functions that transformers' models call."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from vlmheads import VlmHeadsError
from vlmheads.runtime.attention import (
    EDITOR,
    Rows,
    attend_eager,
    attend_sdpa,
    refuse_unknown,
)

BATCH, HEADS, GROUPS, LENGTH, KEYS, SIZE = 4, 4, 2, 3, 7, 8


@dataclass
class Editor:
    """Hands out the last rows of the first batch rows, and keeps their outputs."""

    count: int
    last: int
    rows: list[Rows] = field(default_factory=list)

    def edit_rows(
        self,
        layer: int,
        length: int,
        cached: tuple[Tensor, Tensor],
        rows: Callable[..., Rows],
        plain: Callable[[], Tensor],
    ) -> Tensor:
        editable = torch.ones(self.count, self.last, dtype=torch.bool)
        none = torch.zeros(self.count, cached[0].shape[2]) > 0
        self.rows.append(rows(none, none, editable, None))
        return plain()

    def hide_keys(self, layer: int, mask: Tensor | None, *_: Any) -> Tensor | None:
        return mask


def module(family: str) -> Any:
    """An attention module of a model's file, without weights."""
    name = f"transformers.models.{family}.modeling_{family}"
    importlib.import_module(name)
    made: Any = type("Attention", (nn.Module,), {"__module__": name})().eval()
    made.layer_idx, made.num_key_value_groups, made.is_causal = 0, HEADS // GROUPS, True
    made.head_dim, made.scaling = SIZE, SIZE**-0.5
    return made


def tensors(value_size: int = SIZE) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)

    def draw(heads: int, length: int, size: int) -> Tensor:
        return torch.randn(BATCH, heads, length, size, generator=generator)

    key = draw(GROUPS, KEYS, SIZE)
    return draw(HEADS, LENGTH, SIZE), key, draw(GROUPS, KEYS, value_size)


def causal() -> Tensor:
    """A mask as transformers makes it for eager attention, with one key of padding."""
    hidden = torch.ones(LENGTH, KEYS).triu(KEYS - LENGTH + 1).bool()
    hidden[:, 0] = True
    low = torch.finfo(torch.float32).min
    return torch.zeros(BATCH, 1, LENGTH, KEYS).masked_fill(hidden, low)


def noise(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1))


def options(kind: str) -> dict[str, Any]:
    """What a model passes on of each kind."""
    return {
        "plain": {},
        "softcap": {"softcap": 0.7},
        "bias": {"position_bias": noise(BATCH, HEADS, LENGTH, KEYS)},
        "shared bias": {"position_bias": noise(1, HEADS, LENGTH, KEYS)},
        "sinks": {"s_aux": noise(HEADS)},
        "sinks of rows": {
            "sinks": noise(BATCH, HEADS, LENGTH, 1),
            "position_bias": noise(BATCH, HEADS, LENGTH, KEYS),
        },
        "window": {"sliding_window": 4},
    }[kind]


CASES = [
    ("llama", "plain", attend_eager),
    ("gemma2", "softcap", attend_eager),
    ("inkling", "bias", attend_eager),
    ("inkling", "bias", attend_sdpa),
    ("inkling", "shared bias", attend_sdpa),
    ("gpt_oss", "sinks", attend_eager),
    ("gpt_oss", "sinks", attend_sdpa),  # which leaves them out
    ("inkling2", "sinks of rows", attend_eager),
    ("gemma3", "window", attend_sdpa),
]


@pytest.mark.parametrize("value_size", [SIZE, 6])
@pytest.mark.parametrize(("count", "last"), [(BATCH, LENGTH), (2, 2), (BATCH, 1)])
@pytest.mark.parametrize(("family", "kind", "attend"), CASES)
def test_rows_are_those_of_the_models_own_function(
    family: str, kind: str, attend: Any, count: int, last: int, value_size: int
) -> None:
    try:
        attention = module(family)
    except ImportError:
        pytest.skip(f"this transformers has no {family}")
    passed = options(kind)
    if "s_aux" in passed:
        attention.sinks = passed["s_aux"]
    editor = Editor(count, last)
    setattr(attention, EDITOR, editor)
    query, key, value = tensors(value_size)
    output, weights = attend(
        attention, query, key, value, causal(), dropout=0.0, scaling=attention.scaling, **passed
    )
    (rows,) = editor.rows
    torch.testing.assert_close(rows.outputs(), output[:count, -last:], atol=2e-6, rtol=1e-5)
    parts = torch.cat([part for _, part in rows.stream()], dim=2)
    torch.testing.assert_close(parts, rows.weights)
    if weights is not None:
        torch.testing.assert_close(rows.weights, weights[:count, :, -last:], atol=2e-6, rtol=1e-5)


def test_a_bias_leaves_a_sink_its_score() -> None:
    scores, sinks = noise(1, 2, 1, 4), noise(2)[None, :, None, None]
    rows = Rows(
        lambda part: scores[:, :, part],
        torch.ones(1, 4) > 0,
        torch.zeros(1, 4) > 0,
        torch.ones(1, 1) > 0,
        noise(1, 2, 4, 8),
        sinks=sinks,
    )
    weights = rows.with_bias(torch.full((1, 1, 1, 4), 2.0)).weights
    both = torch.cat([scores + 2.0, sinks.expand(1, 2, 1, 1)], dim=-1).softmax(dim=-1)
    torch.testing.assert_close(weights, both[..., :-1])
    assert bool((weights.sum(dim=-1) < 1).all())


def test_a_keyword_that_matters_and_is_not_known_is_refused() -> None:
    def wobbly(
        module: Any, query: Any, key: Any, value: Any, attention_mask: Any, **kwargs: Any
    ) -> Any:
        return kwargs["wobble"] * query

    refuse_unknown(wobbly, frozenset({"scaling", "image_sizes"}))
    with pytest.raises(VlmHeadsError, match="attends by wobble"):
        refuse_unknown(wobbly, frozenset({"scaling", "wobble"}))


LONG = 70  # Rows; they are gone through 32 at a time.


@pytest.fixture
def long() -> Rows:
    """Rows of a prompt, each with a score of its own for a key without a value."""
    scores = noise(BATCH, HEADS, LONG, LONG).masked_fill(
        torch.ones(LONG, LONG).triu(1).bool(), -torch.inf
    )
    none = torch.zeros(BATCH, LONG) > 0
    editable = torch.ones(BATCH, LONG, dtype=torch.bool)
    return Rows(
        lambda rows: scores[:, :, rows],
        none,
        none,
        editable,
        noise(BATCH, GROUPS, LONG, SIZE),
        sinks=noise(1, HEADS, LONG, 1),
    )


def whole(weights: Tensor, rows: Rows) -> Tensor:
    """Head outputs [B, Q, H, D] of whole maps."""
    values = rows.values.repeat_interleave(HEADS // GROUPS, dim=1)
    return (weights @ values).transpose(1, 2)


def test_rows_that_are_edited_a_few_at_a_time_are_those_of_the_whole_map(long: Rows) -> None:
    assert long.sinks is not None
    bias, factor = noise(BATCH, 1, LONG, 1) * noise(LONG), noise(BATCH, HEADS, LONG, LONG).abs()
    sinks = long.sinks.expand(BATCH, -1, -1, -1)

    def softmax(scores: Tensor) -> Tensor:
        return torch.cat([scores, sinks], dim=-1).softmax(dim=-1)[..., :-1]

    plain, raised = softmax(long.scores), softmax(long.scores + bias)
    scaled = plain * factor * bias.exp()
    total = (plain * factor).sum(dim=-1, keepdim=True) / scaled.sum(dim=-1, keepdim=True)
    chosen = noise(BATCH, LONG) > 0
    changed = long.with_change(lambda rows, weights: weights * factor[:, :, rows])
    for rows, weights in (
        (long, plain),
        (long.with_bias(bias), raised),
        (changed, plain * factor),
        (long.with_weights(plain * factor), plain * factor),
        (changed.with_bias(bias), scaled * total),
        (
            long.only(chosen, long.with_bias(bias)),
            torch.where(chosen[:, None, :, None], raised, plain),
        ),
        (
            long.only(chosen, changed),
            torch.where(chosen[:, None, :, None], plain * factor, plain),
        ),
    ):
        torch.testing.assert_close(rows.weights, weights)
        torch.testing.assert_close(torch.cat([part for _, part in rows.stream()], dim=2), weights)
        torch.testing.assert_close(rows.outputs(), whole(weights, long))

"""Compare what a plugin makes native generate() do with what slow.py makes of its formulas."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar

import pytest
import slow
import tiny
import torch
from torch import Tensor

import vlmheads
from vlmheads.plugin import Plugin
from vlmheads.runtime.attention import Rows
from vlmheads.runtime.request import Request


def generate(
    model: Any, inputs: dict[str, Tensor], plugin: str | Plugin | list[Plugin], count: int = 8
) -> tuple[list[int], Tensor]:
    """Greedy tokens [count] and logits [count, V] of one row with plugins attached."""
    with vlmheads.attach(model, plugin):
        output = model.generate(
            **inputs,
            max_new_tokens=count,
            do_sample=False,
            output_logits=True,
            return_dict_in_generate=True,
        )
    return output.sequences[0, -count:].tolist(), torch.cat(output.logits)


def assert_same(
    expected: tuple[list[int], Tensor], found: tuple[list[int], Tensor], atol: float = 1e-5
) -> None:
    """Tokens are equal and logits close; those left out are so low that float32 is coarse."""
    assert expected[0] == found[0]
    torch.testing.assert_close(found[1].double(), expected[1].double(), atol=atol, rtol=1e-7)


def assert_plugin_is(
    plugin: Plugin, edits: slow.Edits, family: str, row: dict[str, Tensor] | None = None
) -> None:
    """A plugin gives what the edits give to the slow decoder, and not what the model gives alone.

    Edits that need their own state per decoding are to be passed fresh.
    """
    model, row = tiny.build(family), tiny.inputs(family) if row is None else row
    plain = slow.decode(model, row)
    expected = slow.decode(model, row, edits)
    assert float((plain[1] - expected[1]).nan_to_num().abs().max()) > 1e-3
    assert_same(expected, generate(model, row, plugin))


def assert_state_follows_beams(plugin: Plugin) -> None:
    """With as many returned as there are beams, each is what greedy search along it gives."""
    model, row = tiny.build("llava-gqa"), tiny.inputs("llava-gqa")
    length = row["input_ids"].shape[1]
    with vlmheads.attach(model, plugin):
        beams = model.generate(
            **row,
            max_new_tokens=8,
            num_beams=4,
            num_return_sequences=4,
            do_sample=False,
            output_scores=True,
            return_dict_in_generate=True,
        )
    assert any(len(set(one.tolist())) > 1 for one in beams.beam_indices[:, :8])
    for sequence, score in zip(beams.sequences, beams.sequences_scores, strict=True):
        path = sequence[length:].tolist()
        forced = lambda _, ids, path=path: [path[len(ids) - length]]  # noqa: E731
        with vlmheads.attach(model, plugin):
            alone = model.generate(
                **row,
                max_new_tokens=len(path),
                do_sample=False,
                prefix_allowed_tokens_fn=forced,
                output_logits=True,
                return_dict_in_generate=True,
            )
        logs = torch.cat(alone.logits).log_softmax(dim=-1)
        total = sum(float(logs[step, token]) for step, token in enumerate(path))
        assert total / len(path) == pytest.approx(float(score), abs=1e-4)


@dataclass(frozen=True, eq=False)
class Spy(Plugin):
    """Keep the attention rows of every layer and step as they come by."""

    name: ClassVar[str] = "spy"

    seen: dict[tuple[int, int], Rows] = field(default_factory=dict)

    def on_attention(self, request: Request, layer: int, rows: Rows) -> Rows:
        self.seen[request.step, layer] = rows
        return rows


def rows_around(
    plugin: Plugin, family: str = "llava-gqa", count: int = 3, lengths: tuple[int, ...] = (5,)
) -> dict[tuple[int, int], tuple[Rows, Rows]]:
    """(step, layer) -> attention rows before a plugin and after it, of `lengths` of words."""
    before, after = Spy(), Spy()
    model = tiny.build(family)
    with vlmheads.attach(model, [before, plugin, after]):
        model.generate(**tiny.inputs(family, lengths), max_new_tokens=count, do_sample=False)
    return {key: (rows, after.seen[key]) for key, rows in before.seen.items()}

"""Methods that edit logits under the logits processors of generate(), which run after them."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass, field
from functools import cache
from typing import Any, ClassVar

import pytest
import slow
import streams
import tiny
import torch
from active import make
from torch import Tensor
from vlmheads_plugins.cfg import CFG
from vlmheads_plugins.cmac import CMAC
from vlmheads_plugins.pai import PAI
from vlmheads_plugins.paint import PAINT

import vlmheads
from vlmheads.plugin import Plugin
from vlmheads.runtime.request import Request

FAMILY = "llava-gqa"
NAMES = (
    *("cfg", "cmac", "daid", "damro", "deco", "dola", "hulluedit", "icd", "m3id", "pai", "paint"),
    *("sid", "vcd", "vista"),
)
MODES: dict[str, dict[str, Any]] = {
    "greedy": {"do_sample": False},
    "sampling": {"do_sample": True, "temperature": 2.0},
    "beams": {"do_sample": False, "num_beams": 3},
}


def plugin_of(name: str) -> Plugin:
    guided = {"pai": PAI(gamma=1.4), "paint": PAINT(gamma=1.4), "cmac": CMAC()}
    return guided.get(name) or make(name, FAMILY)


@cache
def model_in(dtype: torch.dtype) -> Any:
    return deepcopy(tiny.build(FAMILY)).to(dtype)


@dataclass(frozen=True, eq=False)
class Spy(Plugin):
    """Keep the logits that the next plugin is given."""

    name: ClassVar[str] = "spy"

    seen: list[Tensor] = field(default_factory=list)

    def on_logits(self, request: Request, logits: Tensor) -> Tensor:
        self.seen.append(logits.double())
        return logits


def run(
    name: str, dtype: torch.dtype = torch.float32, count: int = 3, **options: Any
) -> tuple[Any, Tensor]:
    """What generate() returns, and the plain logits [count, V] of the first row at each step."""
    torch.manual_seed(3)
    inputs = tiny.inputs(FAMILY)
    inputs["pixel_values"] = inputs["pixel_values"].to(dtype)
    spy = Spy()
    with vlmheads.attach(model_in(dtype), [spy, plugin_of(name)]):
        output = model_in(dtype).generate(
            **inputs,
            max_new_tokens=count,
            output_logits=True,
            output_scores=True,
            return_dict_in_generate=True,
            **({"do_sample": False} | options),
        )
    return output, torch.stack([logits[0] for logits in spy.seen])


@cache
def first_step(name: str) -> tuple[list[int], list[int]]:
    """Tokens that a method keeps at the first step, and those it leaves out, best plain first.

    Of a method that leaves none out, the three likeliest and the others.
    """
    output, plain = run(name, count=1)
    edited = output.logits[0][0]
    kept = edited > edited.max() - 500
    if bool(kept.all()):
        kept = torch.zeros_like(kept).scatter(0, edited.topk(3).indices, True)
        plain = edited[None].double()
    order = plain[0].argsort(descending=True, stable=True).tolist()
    return [t for t in order if kept[t]], [t for t in order if not kept[t]]


def first_new(output: Any) -> int:
    return int(output.sequences[0, tiny.inputs(FAMILY)["input_ids"].shape[1]])


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", NAMES)
def test_where_all_that_is_kept_is_banned_the_next_best_token_is_said(name: str, mode: str) -> None:
    kept, others = first_step(name)
    bans = (
        {"eos_token_id": kept, "min_new_tokens": 2},
        {"bad_words_ids": [[token] for token in kept]},
        {"suppress_tokens": kept},
    )
    for ban in bans:
        output, _ = run(name, **MODES[mode], **ban)
        token = first_new(output)
        assert token not in kept
        if mode == "greedy":
            assert token == others[0]
        elif mode == "beams":
            assert token in others[:6]  # the best of twice as many continuations as beams


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", NAMES)
def test_a_choice_of_tokens_that_are_left_out_goes_to_the_better_one(name: str, mode: str) -> None:
    _, others = first_step(name)
    # The better one has the higher id, so that a tie would go to the worse.
    better = max(others[:-1], key=lambda token: (token > others[-1], -others.index(token)))
    worse = others[-1]
    assert better > worse

    def allowed(_: int, ids: Tensor) -> list[int]:
        return [better, worse] if len(ids) == tiny.inputs(FAMILY)["input_ids"].shape[1] else [7, 8]

    # Beams compare whole answers; of one token it is the better one.
    count = 1 if mode == "beams" else 3
    output, _ = run(name, count=count, **MODES[mode], prefix_allowed_tokens_fn=allowed)
    assert first_new(output) in ([better, worse] if mode == "sampling" else [better])
    assert count == 1 or set(output.sequences[0, -2:].tolist()) <= {7, 8}


@pytest.mark.parametrize("name", [name for name in NAMES if name not in ("hulluedit", "vista")])
def test_what_is_left_out_is_never_sampled_while_anything_else_is_allowed(name: str) -> None:
    kept, others = first_step(name)
    output, _ = run(name, count=1, do_sample=True, temperature=5.0, suppress_tokens=kept[:-1])
    probabilities = output.scores[0][0].softmax(dim=-1)
    assert float(probabilities[kept[-1]]) == 1
    assert not bool(probabilities[others].any())
    assert first_new(output) == kept[-1]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", NAMES)
def test_edited_logits_keep_the_level_of_the_plain_ones(name: str, dtype: torch.dtype) -> None:
    output, plain = run(name, dtype)
    edited = torch.cat(output.logits).double()
    assert bool(edited.isfinite().all())
    assert not torch.equal(edited, plain)
    torch.testing.assert_close(edited.logsumexp(-1), plain.logsumexp(-1), atol=1e-5, rtol=0)
    # Level and order of what was left out, in any precision of the model.
    left_out = edited < edited.amax(dim=-1, keepdim=True) - 500
    for row, before, out in zip(edited, plain, left_out, strict=True):
        order = before[out].argsort(descending=True, stable=True)
        assert bool((row[out][order].diff() <= 0).all())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", NAMES)
def test_a_repetition_penalty_does_what_it_does_to_plain_logits(
    name: str, dtype: torch.dtype
) -> None:
    penalty, ids = 1.5, tiny.inputs(FAMILY)["input_ids"][0].unique()
    output, _ = run(name, dtype, count=1, repetition_penalty=penalty)
    edited, found = output.logits[0][0].double(), output.scores[0][0].double()
    expected = edited.clone()
    for token in ids.tolist():
        expected[token] *= 1 / penalty if edited[token] > 0 else penalty
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-6)
    moved = found.log_softmax(-1)[ids] - edited.log_softmax(-1)[ids]
    assert float(moved.abs().max()) > 0.05


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_a_penalised_guidance_is_that_of_the_formulas_in_double_precision(
    dtype: torch.dtype,
) -> None:
    def guide(_: int, seeing: Tensor, blind: Tensor) -> Tensor:
        seeing, blind = seeing.softmax(-1).log(), blind.softmax(-1).log()
        return streams.cut(1.1 * seeing - 0.1 * blind, seeing, 0.1)

    model, row = tiny.build(FAMILY), tiny.inputs(FAMILY)
    one = slow.Slow(model).prompt(row)
    expected = slow.settled(guide(0, one, slow.Slow(model).prompt(row, images=False)), one)
    for token in row["input_ids"][0].unique().tolist():
        expected[token] *= 1 / 1.5 if expected[token] > 0 else 1.5
    assert CFG() == plugin_of("cfg")
    output, _ = run("cfg", dtype, count=1, repetition_penalty=1.5)
    close = 1e-4 if dtype == torch.float32 else 0.15
    kept = expected > expected.max() - 500
    torch.testing.assert_close(
        output.scores[0][0].double()[kept], expected[kept], atol=close, rtol=0
    )

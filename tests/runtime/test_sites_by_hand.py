"""Each site against its definition by hand: attention outputs, cache, tokens ahead, keys."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, ClassVar

import pytest
import tiny
import torch
from sites import FAMILIES, LENGTHS, TOKENS, close, run, same
from torch import Tensor
from transformers import DynamicCache

from vlmheads import Plugin, Request
from vlmheads.runtime.attention import Rows
from vlmheads.runtime.cache import with_cache
from vlmheads.runtime.streams import Stream
from vlmheads.verify.probes import AheadProbe, CacheProbe, HeadProbe, RowProbe, StreamProbe

# Attention outputs.


@dataclass(frozen=True, eq=False)
class Sites(Plugin):
    """Keeps what each site of a layer sees, and what its part was given."""

    name: ClassVar[str] = "sites"
    seen: list[tuple[int, str, Tensor, Tensor]] = field(default_factory=list)

    def on_hidden(self, request: Request, layer: int, hidden: Tensor, site: str) -> Tensor:
        self.seen.append((layer, site, hidden.clone(), request.entering.clone()))
        return hidden


def test_the_attention_site_is_what_is_added_to_the_residual_stream() -> None:
    model, probe = tiny.build("llava-gqa"), Sites()
    norms: list[Tensor] = []
    norm = model.model.language_model.layers[0].input_layernorm
    hook = norm.register_forward_hook(lambda _, args, output: norms.append(output.clone()))
    run(model, tiny.row("llava-gqa", LENGTHS, 0), probe)
    hook.remove()
    steps = [part for part in probe.seen if part[0] == 0]
    assert [site for _, site, *_ in steps[:3]] == ["attention", "mlp", "residual"]
    (_, _, attention, entering), (_, _, mlp, _), (_, _, residual, given) = steps[:3]
    close(given + attention + mlp, residual)
    assert torch.equal(entering, norms[0])


# The cache.


def prefill(model: Any, row: dict[str, Tensor]) -> dict[str, Any]:
    """What generate() gives the forward pass of the prefill."""
    kept: list[dict[str, Any]] = []
    hook = model.register_forward_pre_hook(
        lambda _, args, kwargs: kept.append(dict(kwargs)), with_kwargs=True
    )
    run(model, row)
    hook.remove()
    return kept[0]


@torch.no_grad()
def by_hand(
    model: Any, row: dict[str, Tensor], said: Tensor, edit: Callable[[DynamicCache, int], None]
) -> Tensor:
    """Logits [N, V] of a generation whose cache is edited between forward passes.

    All but the last token of the prompt first, then one token a pass: `edit` is called before each,
    with the cache and the number of the token.
    """
    given = prefill(model, row)
    ids, positions = given["input_ids"], given["position_ids"]
    cache = DynamicCache(config=model.config)
    types = {name: given[name] for name in ("token_type_ids", "mm_token_type_ids") if name in given}
    first = {name: value[:, :-1] for name, value in types.items()}
    model(
        input_ids=ids[:, :-1],
        position_ids=positions[..., :-1],
        mm_encoder_outputs=given["mm_encoder_outputs"],
        use_cache=True,
        **with_cache(model, first, cache),
    )
    logits = []
    for step in range(TOKENS):
        edit(cache, step)
        token = ids[:, -1:] if step == 0 else said[:, step - 1 : step]
        last = {name: torch.zeros_like(token) for name in types}
        output = model(
            input_ids=token,
            position_ids=positions[..., -1:] + step,
            use_cache=True,
            **with_cache(model, last, cache),
        )
        logits.append(output.logits[0, -1])
    return torch.stack(logits)


@dataclass(frozen=True, eq=False)
class Earlier(Plugin):
    """Scales keys and values of all but the newest position: once, or the last one before each."""

    name: ClassVar[str] = "earlier"
    every: bool = False

    def on_cache(
        self, request: Request, layer: int, keys: Tensor, values: Tensor, new: int
    ) -> tuple[Tensor, Tensor]:
        assert request.is_prefill == (new > 1)
        if request.is_prefill == self.every:
            return keys, values
        keys, values = keys.clone(), values.clone()
        part = slice(-2, -1) if self.every else slice(0, -1)
        keys[:, :, part] *= 0.7
        values[:, :, part] *= -0.5
        return keys, values


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("every", [False, True], ids=["prompt", "each step"])
def test_the_last_row_alone_sees_an_edited_cache_and_later_ones_do(
    every: bool, family: str
) -> None:
    model, row = tiny.build(family), tiny.row(family, LENGTHS, 1)
    said, logits = run(model, row, Earlier(every=every))

    def edit(cache: DynamicCache, step: int) -> None:
        if (step > 0) != every:
            return
        for layer in cache.layers:
            part = slice(-1, None) if every else slice(None)
            layer.keys[:, :, part] *= 0.7
            layer.values[:, :, part] *= -0.5

    close(logits[:, 0], by_hand(model, row, said, edit))
    assert not torch.equal(logits, run(model, row)[1])


def test_rows_that_plugins_edit_see_the_edited_cache_where_the_last_one_does() -> None:
    model, row = tiny.build("gemma3"), tiny.row("gemma3", LENGTHS, 1)
    alone = run(model, row, CacheProbe(strength=0.5))[1]
    close(run(model, row, CacheProbe(strength=0.5), RowProbe(by_hand=True))[1], alone)
    both = run(model, row, CacheProbe(strength=0.5), RowProbe(strength=2.0))[1]
    assert float((both - alone).abs().max()) > 1e-3
    close(run(model, row, CacheProbe(strength=0.5), StreamProbe())[1], alone, 1e-4)


def test_a_batch_row_without_an_image_keeps_its_cache() -> None:
    model = tiny.build("llava-gqa")
    row = tiny.row("llava-gqa", LENGTHS, 0)
    text = torch.full_like(row["input_ids"], 7)
    ids = torch.cat([row["input_ids"], text])
    inputs = row | {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    before, after = run(model, inputs), run(model, inputs, CacheProbe(strength=0.5))
    close(after[1][:, 1], before[1][:, 1])
    close(after[1][:, 0], run(model, row, CacheProbe(strength=0.5))[1][:, 0], 1e-4)


# Tokens ahead.


@pytest.mark.parametrize(("family", "beams"), [*zip(FAMILIES, (1, 2, 2), strict=True)])
def test_a_probe_says_what_the_plain_model_says_and_leaves_no_trace(
    family: str, beams: int
) -> None:
    model, inputs = tiny.build(family), tiny.inputs(family, LENGTHS)
    greedy = run(model, inputs)
    before = run(model, inputs, num_beams=beams)
    probe = AheadProbe(tokens=TOKENS, recorder=RowProbe(by_hand=True))
    assert same(run(model, inputs, probe, num_beams=beams), before)
    (found,) = probe.found
    assert found.tokens[::beams].tolist() == greedy[0].tolist()
    close(found.logits[::beams].transpose(0, 1), greedy[1], 1e-4)
    assert bool(found.alive.all())


@dataclass(frozen=True, eq=False)
class Watch(Plugin):
    """Keeps, for layer 0, how many rows and generated keys each forward pass has."""

    name: ClassVar[str] = "watch"
    seen: list[tuple[int, list[int]]] = field(default_factory=list)

    def on_attention(self, request: Request, layer: int, rows: Rows) -> Rows:
        if layer == 0:
            assert rows.generated_keys.shape == rows.image_keys.shape
            self.seen.append((request.step, rows.generated_keys.sum(dim=1).tolist()))
        return rows


def test_a_recorder_acts_in_the_probe_alone_and_other_plugins_outside_of_it() -> None:
    model, inputs = tiny.build("llava-gqa"), tiny.inputs("llava-gqa", LENGTHS)
    recorder, others = Watch(), (RowProbe(strength=2.0), HeadProbe(strength=0.5))
    alone = run(model, inputs, *others)
    attached = run(model, inputs, *others, AheadProbe(tokens=3, recorder=recorder))
    assert same(attached, alone)
    assert recorder.seen == [(0, [0, 0]), (1, [1, 1]), (2, [2, 2])]
    assert not [m for m in model.modules() if "_vlmheads" in m.__dict__]


def test_a_probe_stops_where_rows_end() -> None:
    model, inputs = tiny.build("llava-gqa"), tiny.inputs("llava-gqa", LENGTHS)
    said = run(model, inputs)[0]
    end, probe = int(said[0, 1]), AheadProbe(tokens=TOKENS)
    run(model, inputs, probe, eos_token_id=end, pad_token_id=0)
    alive = probe.found[0].alive[0].tolist()
    first = said[0].tolist().index(end)
    assert alive == [column <= first for column in range(len(alive))]


# Rows that know what was generated, and keys that streams do not see.


def test_rows_know_which_keys_were_generated() -> None:
    for family in FAMILIES:
        watch = Watch()
        run(tiny.build(family), tiny.inputs(family, LENGTHS), watch)
        assert watch.seen == [(step, [step] * 2) for step in range(TOKENS)]


@dataclass(frozen=True, eq=False)
class Blind(Plugin):
    """Hides image keys from every row by hand, from a layer on."""

    name: ClassVar[str] = "blind"
    first: int = 2

    @property
    def whole_map(self) -> bool:
        return True

    def on_attention(self, request: Request, layer: int, rows: Rows) -> Rows:
        if layer < self.first:
            return rows
        hide = rows.image_keys[:, None, None, :]
        return rows.with_bias(torch.zeros_like(hide, dtype=torch.float).masked_fill(hide, -1e9))


@dataclass(frozen=True, eq=False)
class Introspective(Plugin):
    """Hides from a stream the image keys that the main stream's layer 1 attends to most."""

    name: ClassVar[str] = "introspective"
    kept: int = 0
    seen: list[Tensor] = field(default_factory=list)

    @property
    def streams(self) -> tuple[Stream, ...]:
        return (Stream("introspective", hide=self.hide),)

    def on_attention(self, request: Request, layer: int, rows: Rows) -> Rows:
        if layer == 1:
            last = rows.weights[:, :, -1].mean(dim=1).masked_fill(~rows.image_keys, torch.inf)
            order = last.argsort(dim=1).argsort(dim=1)
            request.scratch(self)["hidden"] = rows.image_keys & (order >= self.kept)
        return rows

    def hide(self, request: Request, layer: int, keys: int) -> Tensor | None:
        return request.scratch(self)["hidden"] if layer > 1 else None

    def on_logits(self, request: Request, logits: Tensor) -> Tensor:
        self.seen.append(request.streams["introspective"].clone())
        return logits


@pytest.mark.parametrize("backend", ["sdpa", "eager"])
@pytest.mark.parametrize("family", ["llava-gqa", "qwen2_5_vl"])
def test_hidden_keys_are_keys_that_every_row_of_the_stream_is_without(
    family: str, backend: str
) -> None:
    model, inputs = tiny.build(family, backend), tiny.inputs(family, LENGTHS)
    probe = Introspective()
    main = run(model, inputs, probe)
    blind = run(model, inputs, Blind())
    close(probe.seen[0], blind[1][0], 1e-4)
    assert float((blind[1][0] - main[1][0]).abs().max()) > 1e-3
    close(main[1], run(model, inputs)[1], 1e-4)
    everything = Introspective(kept=100)
    run(model, inputs, everything)
    close(torch.stack(everything.seen), main[1], 1e-4)

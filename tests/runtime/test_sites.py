"""Sites that are checked by hand: attention outputs, cache, vision tower, tokens ahead, keys."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import pytest
import tiny
import torch
from torch import Tensor
from transformers import DynamicCache

from vlmheads import Plugin, Request, VlmHeadsError, attach
from vlmheads.model.anatomy import examine
from vlmheads.model.tower import Patches, vision_blocks
from vlmheads.runtime.attention import Rows
from vlmheads.runtime.cache import keep_edited, with_cache
from vlmheads.runtime.streams import Stream
from vlmheads.verify.probes import (
    KINDS,
    AheadProbe,
    CacheProbe,
    HeadProbe,
    HiddenProbe,
    HidingProbe,
    RowProbe,
    StreamProbe,
    VisionProbe,
    shift,
)

LENGTHS = (3, 7)
TOKENS = 4
FAMILIES = ("llava-gqa", "qwen2_5_vl", "gemma3")
UNSAID = [tiny.IMAGE, tiny.VIDEO, 57, 58, 59]
NEW = {
    "attention outputs": lambda: HiddenProbe(strength=0.5, site="attention"),
    "cache": lambda: CacheProbe(strength=0.5),
    "vision tower": lambda: VisionProbe(strength=0.5),
    "hidden keys": lambda: HidingProbe(strength=0.5),
    "tokens ahead": lambda: AheadProbe(recorder=RowProbe(by_hand=True)),
}

Result = tuple[Tensor, Tensor]


def run(model: Any, inputs: dict[str, Tensor], *plugins: Plugin, **options: Any) -> Result:
    """New tokens [B, N] and the logits [N, B, V] that they came from."""
    torch.manual_seed(5)
    attachment = attach(model, list(plugins)) if plugins else None
    try:
        output = model.generate(
            **inputs,
            **({"do_sample": False} | options),
            max_new_tokens=TOKENS,
            suppress_tokens=UNSAID,
            output_logits=True,
            return_dict_in_generate=True,
        )
    finally:
        if attachment is not None:
            attachment.detach()
    return output.sequences[:, inputs["input_ids"].shape[1] :], torch.stack(output.logits)


def same(one: Result, other: Result) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def close(one: Tensor, other: Tensor, atol: float = 1e-5) -> None:
    torch.testing.assert_close(one, other, atol=atol, rtol=1e-6)


# Invariants of all of them.


@pytest.mark.parametrize(("kind", "family"), [*zip(NEW, FAMILIES * 2, strict=False)])
def test_a_padded_batch_gives_each_row_what_it_gets_alone(kind: str, family: str) -> None:
    model = tiny.build(family)
    together = run(model, tiny.inputs(family, LENGTHS), NEW[kind]())
    beams = run(model, tiny.inputs(family, LENGTHS), NEW[kind](), num_beams=3)[0]
    for index in range(len(LENGTHS)):
        row = tiny.row(family, LENGTHS, index)
        alone = run(model, row, NEW[kind]())
        close(together[1][:, index], alone[1][:, 0], 1e-4)
        assert together[0][index].tolist() == alone[0][0].tolist()
        if index:
            continue
        assert beams[index].tolist() == run(model, row, NEW[kind](), num_beams=3)[0][0].tolist()


@pytest.mark.parametrize("kind", ["attention outputs", "cache", "vision tower", "hidden keys"])
def test_sdpa_and_eager_agree_and_it_acts(kind: str) -> None:
    made = []
    for backend in ("sdpa", "eager"):
        model = tiny.build("llava-gqa", backend)
        row = tiny.row("llava-gqa", LENGTHS, 0)
        before = run(model, row)
        made.append(run(model, row, NEW[kind]()))
        assert not torch.equal(made[-1][1], before[1])
        assert same(run(model, row), before)
    close(made[0][1], made[1][1], 1e-4)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"num_beams": 3},
        {"do_sample": True},
        {"prompt_lookup_num_tokens": 3},
        {"cache_implementation": "static"},
        {"use_cache": False},
    ],
    ids=["greedy", "beams", "sampling", "lookup", "static", "no cache"],
)
@pytest.mark.parametrize("kind", ["cache", "vision tower"])
def test_neutral_changes_no_bit(kind: str, options: dict[str, Any]) -> None:
    model = tiny.build("llava-gqa")
    row = tiny.row("llava-gqa", LENGTHS, 0)
    assert same(run(model, row, KINDS[kind](0.0), **options), run(model, row, **options))


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


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"cache_implementation": "static"}, "StaticCache"),
        ({"use_cache": False}, "without a cache"),
        ({"prompt_lookup_num_tokens": 3}, "new tokens in one forward pass"),
    ],
)
def test_an_edit_that_could_not_be_kept_is_refused(options: dict[str, Any], word: str) -> None:
    model, row = tiny.build("llava-gqa"), tiny.row("llava-gqa", LENGTHS, 1)
    before = run(model, row)
    repeated = torch.cat([row["input_ids"], row["input_ids"][:, -3:], row["input_ids"][:, -3:]], 1)
    longer = row | {"input_ids": repeated, "attention_mask": torch.ones_like(repeated)}
    with pytest.raises(VlmHeadsError, match=word):
        run(model, longer, CacheProbe(strength=0.5), **options)
    assert same(run(model, row), before)


def test_caches_that_hold_something_else_are_refused_by_name() -> None:
    states = torch.ones(1, 2, 3, 4), torch.ones(1, 2, 3, 4)
    cache = DynamicCache()
    held = cache.update(*states, 0)
    keep_edited(cache, 0, held, (held[0] * 2, held[1] * 3))
    assert (float(cache.layers[0].keys.max()), float(cache.layers[0].values.max())) == (2, 3)
    with pytest.raises(VlmHeadsError, match="layer 0 keeps a DynamicLayer of other tensors"):
        keep_edited(cache, 0, states, states)
    cache.offloading = True
    with pytest.raises(VlmHeadsError, match="an offloaded DynamicCache"):
        keep_edited(cache, 0, held, held)


def test_edits_of_another_shape_are_refused() -> None:
    class Longer(Earlier):
        def on_cache(
            self, request: Request, layer: int, keys: Tensor, values: Tensor, new: int
        ) -> tuple[Tensor, Tensor]:
            return keys[:, :, 1:], values

    with pytest.raises(VlmHeadsError, match="on_cache returned keys"):
        run(tiny.build("llava-gqa"), tiny.row("llava-gqa", LENGTHS, 0), Longer())


# The vision tower.


@dataclass(frozen=True, eq=False)
class Layout(Plugin):
    """Keeps where patches lie."""

    name: ClassVar[str] = "layout"
    seen: list[tuple[int, tuple[int, ...], Patches]] = field(default_factory=list)

    def on_vision(self, request: Request, block: int, hidden: Tensor) -> Tensor:
        self.seen.append((block, tuple(hidden.shape), request.patches))
        return hidden


@pytest.mark.parametrize(
    ("family", "shape", "patches"),
    [
        ("llava-gqa", (2, 5, 16), Patches(((2, 2), (2, 2)), prefix=1)),
        ("internvl", (2, 17, 16), Patches(((4, 4), (4, 4)), prefix=1)),
        ("gemma3", (2, 4, 16), Patches(((2, 2), (2, 2)))),
        ("qwen2_vl", (1, 32, 16), Patches(((4, 4), (4, 4)), merge=2)),
        ("qwen2_5_vl", (1, 32, 16), Patches()),
    ],
)
def test_each_picture_is_seen_once_and_its_patches_are_placed(
    family: str, shape: tuple[int, ...], patches: Patches
) -> None:
    probe = Layout()
    run(tiny.build(family), tiny.inputs(family, LENGTHS), probe, num_beams=2)
    assert probe.seen == [(block, shape, patches) for block in range(2)]


@pytest.mark.parametrize(
    ("family", "beams"), [*zip(FAMILIES, (1, 3, 3), strict=True), ("llava_next", 3)]
)
def test_editing_the_tower_is_a_model_with_that_tower(family: str, beams: int) -> None:
    model, inputs = tiny.build(family), tiny.inputs(family, LENGTHS)
    ours = run(model, inputs, VisionProbe(strength=0.5), num_beams=beams)

    def shifted(module: Any, args: Any, output: Any) -> Any:
        states = output[0] if isinstance(output, tuple) else output
        states = states + shift(states, 0.5)
        return (states, *output[1:]) if isinstance(output, tuple) else states

    hooks = [
        block.register_forward_hook(shifted, prepend=True)
        for block in vision_blocks(examine(model))
    ]
    theirs = run(model, inputs, num_beams=beams)
    for hook in hooks:
        hook.remove()
    assert ours[0].tolist() == theirs[0].tolist()
    close(ours[1], theirs[1])
    # transformers keeps one of its own on some.
    assert all(len(block._forward_hooks) < 2 for block in vision_blocks(examine(model)))


@dataclass(frozen=True, eq=False)
class Same(Plugin):
    """A stream of the same prompt and pictures, and one of negatives, kept a step."""

    name: ClassVar[str] = "same"
    seen: list[tuple[Tensor, Tensor]] = field(default_factory=list)

    @property
    def streams(self) -> tuple[Stream, ...]:
        return (
            Stream("same", lambda prompt: prompt),
            Stream("negative", lambda prompt: prompt, pixels=torch.neg),
        )

    def on_logits(self, request: Request, logits: Tensor) -> Tensor:
        self.seen.append((request.streams["same"].clone(), request.streams["negative"].clone()))
        return logits


@pytest.mark.parametrize("family", FAMILIES)
def test_streams_see_the_pictures_unedited(family: str) -> None:
    model, row = tiny.build(family), tiny.row(family, LENGTHS, 0)
    plain, edited = Same(), Same()
    before = run(model, row, plain)
    alone = run(model, row, VisionProbe(strength=0.5))
    both = run(model, row, VisionProbe(strength=0.5), edited)
    close(both[1], alone[1], 1e-4)
    close(edited.seen[0][0], before[1][0], 1e-4)
    close(edited.seen[0][1], plain.seen[0][1], 1e-4)


def test_a_model_without_one_tower_of_blocks_is_refused() -> None:
    anatomy = examine(tiny.build("llava-gqa"))
    with pytest.raises(VlmHeadsError, match="no transformer blocks"):
        vision_blocks(replace(anatomy, model=anatomy.decoder))
    both = torch.nn.ModuleList([anatomy.model, tiny.build("internvl")])
    with pytest.raises(VlmHeadsError, match="several towers"):
        vision_blocks(replace(anatomy, model=both))


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


def test_a_probe_of_nothing_is_refused() -> None:
    with pytest.raises(VlmHeadsError, match="a probe of 0 tokens"):
        run(tiny.build("llava-gqa"), tiny.row("llava-gqa", LENGTHS, 0), AheadProbe(tokens=0))


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
        return (Stream("introspective", lambda prompt: prompt, hide=self.hide),)

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

"""Each kind of hook against the slow decoder, and what a plugin is told about the request."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import pytest
import tiny
import torch
from examples import HeadScaler, HiddenAdder, LogitsShifter, RowReweighter, TextContrast
from slow import Edits, Slow, decode, image_columns
from torch import Tensor

from vlmheads import Plugin, Request, VlmHeadsError, attach
from vlmheads.runtime.attention import Rows
from vlmheads.runtime.streams import Stream

TOKENS = 8


def found(family: str, row: dict[str, Tensor], plugin: Plugin) -> tuple[list[int], Tensor]:
    model = tiny.build(family)
    with attach(model, plugin):
        output = model.generate(
            **row,
            max_new_tokens=TOKENS,
            do_sample=False,
            output_logits=True,
            return_dict_in_generate=True,
        )
    return output.sequences[0, -TOKENS:].tolist(), torch.stack(output.logits)[:, 0].double()


def scale_head(layer: int, heads: Tensor) -> Tensor:
    gain = torch.ones(heads.shape[1], dtype=heads.dtype)
    gain[0] = 1.5
    return heads * gain[:, None]


def add_constant(layer: int, hidden: Tensor) -> Tensor:
    shift = torch.zeros_like(hidden)
    shift[:, 3] = 0.5
    return hidden + shift


def shift_logits(step: int, logits: Tensor) -> Tensor:
    shift = torch.zeros_like(logits)
    shift[5] = 0.5 * step
    return logits + shift


def reweight(model: Any, row: dict[str, Tensor]) -> Any:
    visual = image_columns(model, row)
    start = int(visual.nonzero()[-1]) + 1

    def edit(layer: int, weights: Tensor) -> Tensor:
        first = start if weights.shape[1] > 1 else 0
        edited = weights.clone()
        edited[:, first:, : len(visual)][..., visual] *= 3.0
        return edited / edited.sum(dim=-1, keepdim=True)

    return edit


@pytest.mark.parametrize("family", ["llava", "llava-gqa"])
@pytest.mark.parametrize("kind", ["heads", "attention", "hidden", "logits"])
def test_a_hook_edits_what_its_name_says(family: str, kind: str) -> None:
    model, row = tiny.build(family), tiny.inputs(family)
    plugin, edits = {
        "heads": (HeadScaler(), Edits(heads=scale_head)),
        "attention": (RowReweighter(), Edits(weights=reweight(model, row))),
        "hidden": (HiddenAdder(), Edits(residual=add_constant)),
        "logits": (LogitsShifter(), Edits(logits=shift_logits)),
    }[kind]
    tokens, logits = found(family, row, plugin)
    expected_tokens, expected = decode(model, row, edits, tokens=TOKENS)
    assert tokens == expected_tokens
    torch.testing.assert_close(logits, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("family", ["llava", "llava-gqa"])
def test_all_kinds_together_do_what_they_do_in_sequence(family: str) -> None:
    model, row = tiny.build(family), tiny.inputs(family)
    with (
        attach(model, [LogitsShifter(), HiddenAdder()]),
        attach(model, [RowReweighter(), HeadScaler()]),
    ):
        output = model.generate(
            **row,
            max_new_tokens=TOKENS,
            do_sample=False,
            output_logits=True,
            return_dict_in_generate=True,
        )
    edits = Edits(
        heads=scale_head,
        weights=reweight(model, row),
        residual=add_constant,
        logits=shift_logits,
    )
    tokens, expected = decode(model, row, edits, tokens=TOKENS)
    assert output.sequences[0, -TOKENS:].tolist() == tokens
    found = torch.stack(output.logits)[:, 0].double()
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("family", ["llava", "llava-gqa"])
def test_a_stream_is_the_same_model_without_the_image(family: str) -> None:
    model, row = tiny.build(family), tiny.inputs(family)
    tokens, logits = found(family, row, TextContrast(strength=0.5))
    main, other = Slow(model), Slow(model)
    pairs = [(main.prompt(row), other.prompt(row, images=False))]
    pairs += [(main.token(token), other.token(token)) for token in tokens[:-1]]
    expected = torch.stack([one + 0.5 * (one - two) for one, two in pairs])
    torch.testing.assert_close(logits, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_beams_search_as_over_logits_that_were_contrasted_by_hand(family: str) -> None:
    """The stream's cache has to follow the beams: every chosen sequence is scored anew."""
    model, row = tiny.build(family), tiny.inputs(family)
    length, strength = row["input_ids"].shape[1], 0.5
    with attach(model, TextContrast(strength=strength)):
        output = model.generate(
            **row,
            max_new_tokens=5,
            num_beams=4,
            num_return_sequences=4,
            length_penalty=0.0,
            do_sample=False,
            suppress_tokens=[tiny.IMAGE, tiny.VIDEO, 57, 58, 59],
            output_scores=True,
            return_dict_in_generate=True,
        )
    for sequence, score in zip(output.sequences, output.sequences_scores, strict=True):
        new, total = sequence[length:], 0.0
        for step in range(len(new)):
            ids = sequence[None, : length + step]
            images = {key: value for key, value in row.items() if key not in _ALIGNED}
            types = tiny.SPECS[family].types
            aligned = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
            if types:
                more = ids.shape[1] - length
                fill = 1 if family == "paligemma" else 0
                aligned[types] = torch.nn.functional.pad(row[types], (0, more), value=fill)
            options: dict[str, Any] = {"output_logits": True, "return_dict_in_generate": True}
            main = model.generate(**aligned, **images, max_new_tokens=1, **options).logits[0]
            keep = ids[0] != tiny.IMAGE
            text = {name: value[:, keep] for name, value in aligned.items()}
            other = model.generate(**text, max_new_tokens=1, **options).logits[0]
            contrast = main + strength * (main - other)
            total += float(contrast.log_softmax(-1)[0, new[step]])
        assert abs(total - float(score)) < 1e-3


_ALIGNED = ("input_ids", "attention_mask", "token_type_ids", "mm_token_type_ids")


@dataclass(frozen=True)
class Watcher(Plugin):
    """Write down what each hook is told."""

    name: ClassVar[str] = "watcher"
    log: tuple[list[Any]] = ([],)

    def on_attention(self, request: Request, layer: int, rows: Rows) -> Rows:
        image = rows.weights.masked_fill(~rows.image_keys[:, None, None], 0).sum(-1)
        entry = (layer, rows.editable, rows.image_keys, rows.weights.sum(-1), image)
        self.log[0].append((request.step, *entry))
        return rows

    def on_logits(self, request: Request, logits: Tensor) -> Tensor:
        self.log[0].append((request.step, request.generated, request.column, request.is_prefill))
        return logits


def watch(family: str, inputs: dict[str, Tensor], **options: Any) -> list[Any]:
    model, log = tiny.build(family), list[Any]()
    with attach(model, Watcher((log,))):
        model.generate(**inputs, do_sample=False, **options)
    return log


def test_rows_of_text_after_the_image_are_editable_and_sum_to_one() -> None:
    log = watch("llava", tiny.inputs("llava", (5, 3, 7)), max_new_tokens=2)
    rows = [entry for entry in log if len(entry) == 6]
    prefill = [entry for entry in rows if entry[0] == 0][1]
    assert prefill[2].tolist() == [[False] * (7 - length) + [True] * length for length in (5, 3, 7)]
    assert prefill[3].sum(1).tolist() == [4, 4, 4]
    torch.testing.assert_close(prefill[4], torch.ones_like(prefill[4]))
    decode_step = [entry for entry in rows if entry[0] == 1][1]
    assert decode_step[2].tolist() == [[True]] * 3
    assert decode_step[3].shape[1] == prefill[3].shape[1] + 1


def test_a_sliding_window_forgets_image_keys_and_full_layers_keep_them() -> None:
    log = watch("gemma3", tiny.inputs("gemma3", (9,)), max_new_tokens=4)
    kept = {
        (step, layer): int(image_keys.sum())
        for step, layer, _, image_keys, *_ in (entry for entry in log if len(entry) == 6)
    }
    # A window of 12 over 17 prompt tokens; the image stands in columns 3 to 6.
    assert [kept[step, 1] for step in range(4)] == [4, 4, 4, 4]
    assert kept[0, 0] == 4
    assert kept[3, 0] < 4


def test_logits_are_told_how_many_tokens_came_before_also_under_prompt_lookup() -> None:
    inputs = tiny.inputs("llava")
    plain = watch("llava", inputs, max_new_tokens=4)
    steps = [entry for entry in plain if len(entry) == 4]
    assert steps == [(0, 0, -1, True), (1, 1, -1, False), (2, 2, -1, False), (3, 3, -1, False)]
    lookup = watch("llava", inputs, max_new_tokens=4, prompt_lookup_num_tokens=3)
    several = [entry for entry in lookup if len(entry) == 4 and entry[0] > 0]
    for step, generated, column, _ in several:
        same_step = [entry for entry in several if entry[0] == step]
        assert column == same_step.index((step, generated, column, False)) - len(same_step)


def test_a_bias_and_weights_that_were_set_before_compose() -> None:
    scores = torch.randn(1, 2, 1, 5, generator=torch.Generator().manual_seed(0))
    values = torch.ones(1, 2, 5, 3)
    keys, row = torch.ones(1, 5) > 0, torch.ones(1, 1) > 0
    rows = Rows(lambda part: scores[:, :, part], keys, ~keys, row, values)
    halved = rows.with_weights(rows.weights * 0.5)
    bias = torch.tensor([1.0, 0, 0, 0, 0])
    edited = halved.with_bias(bias)
    torch.testing.assert_close(edited.weights, 0.5 * (scores + bias).softmax(-1))
    torch.testing.assert_close(edited.outputs(), torch.full((1, 1, 2, 3), 0.5))


def test_a_stream_longer_than_the_prompt_pads_the_main_one() -> None:
    from vlmheads.runtime.prompt import Prompt

    def repeat(prompt: Prompt) -> Prompt:
        text = prompt.without_images()
        ids, mask = (torch.cat([part] * 3, dim=1) for part in (text.ids, text.mask))
        return Prompt(ids, mask, torch.zeros_like(mask), {})

    @dataclass(frozen=True)
    class Longer(Plugin):
        name: ClassVar[str] = "longer"
        seen: tuple[list[Tensor]] = ([],)

        @property
        def streams(self) -> tuple[Stream, ...]:
            return (Stream("longer", repeat),)

        def on_logits(self, request: Request, logits: Tensor) -> Tensor:
            self.seen[0].append(request.streams["longer"])
            return logits

    model, row = tiny.build("llava"), tiny.inputs("llava")
    plain = model.generate(**row, max_new_tokens=3, do_sample=False)
    seen: list[Tensor] = []
    with attach(model, Longer((seen,))):
        during = model.generate(**row, max_new_tokens=3, do_sample=False)
    assert during.tolist() == plain.tolist()
    text = row["input_ids"][row["input_ids"] != tiny.IMAGE][None].repeat(1, 3)
    text = torch.cat([text, plain[:, -3:-1]], dim=1)
    expected = model(input_ids=text).logits[:, -3:]
    torch.testing.assert_close(torch.stack(seen, dim=1), expected, atol=1e-5, rtol=0)


def test_extra_streams_refuse_what_they_cannot_follow() -> None:
    model, row = tiny.build("qwen2_vl"), tiny.inputs("qwen2_vl")
    with attach(model, TextContrast()), pytest.raises(VlmHeadsError, match="position ids"):
        model(**row)
    with attach(model, TextContrast()), pytest.raises(VlmHeadsError, match="StaticCache"):
        model.generate(**row, max_new_tokens=2, cache_implementation="static")


def test_what_a_generation_returns_holds_the_main_stream_only() -> None:
    model, row = tiny.build("llava"), tiny.inputs("llava", (5, 3))
    with attach(model, TextContrast()):
        output = model(**row, output_hidden_states=True)
    assert output.logits.shape[0] == 2
    assert {len(hidden) for hidden in output.hidden_states} == {2}


def test_tokens_that_prompt_lookup_drafts_are_not_taken_for_the_prompt() -> None:
    row = tiny.inputs("llava", (7,))
    row["input_ids"][0, -1] = row["input_ids"][0, -4]  # what came after it is drafted at once
    length = row["input_ids"].shape[1]
    log: list[Any] = []

    @dataclass(frozen=True)
    class Drafted(Plugin):
        name: ClassVar[str] = "drafted"

        def on_logits(self, request: Request, logits: Tensor) -> Tensor:
            log.append((request.prompt_length, request.step, request.generated, request.last))
            return logits

    model = tiny.build("llava")
    with attach(model, Drafted()):
        model.generate(**row, max_new_tokens=4, prompt_lookup_num_tokens=3, do_sample=False)
    first = [entry for entry in log if entry[1] == 0]
    assert first == [(length, 0, generated, -4) for generated in range(4)]
    assert {entry[0] for entry in log} == {length}
    with attach(model, "vhr"):
        options: dict[str, Any] = {"max_new_tokens": 6, "do_sample": False}
        greedy = model.generate(**row, **options)
        assert model.generate(**row, **options, prompt_lookup_num_tokens=3).equal(greedy)
    with attach(model, TextContrast()):
        greedy = model.generate(**row, **options)
        assert model.generate(**row, **options, prompt_lookup_num_tokens=3).equal(greedy)

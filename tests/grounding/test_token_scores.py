"""Scores of tokens: published values, slow forms in float64, one batch against single rows."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import slow
import tiny
import torch
import transformers as t
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from vlmheads import VlmHeadsError
from vlmheads.grounding import lens as lens_module
from vlmheads.grounding.attending import PAS, SVAR
from vlmheads.grounding.catalogue import SCORES, of_word, token_scores
from vlmheads.grounding.divergence import Divergence
from vlmheads.grounding.glsim import GLSim, global_similarity, local_similarity
from vlmheads.grounding.inslen import InsLen, calibrated_local, context_consistency
from vlmheads.grounding.lens import Lens, lens_best, lens_columns
from vlmheads.grounding.readings import Reading
from vlmheads.model.geometry import Geometry

LENGTHS = (5, 3)
TARGETS = torch.tensor([[7, 8, 9, 10], [11, 12, 13, 14]])
GOLDEN: dict[str, Any] = json.loads(
    (Path(__file__).parent / "golden" / "word_scores.json").read_text("utf-8")
)
NAMES = ("vq", "ans", "W", "att", "row")
VQ, ANSWER, HEAD, ATTENTION, ROW = (torch.tensor(GOLDEN[name]) for name in NAMES)
# Places in the golden file, ends included.
IMAGE, INSTRUCTION = slice(2, 7), slice(7, 10)
GIVEN = GOLDEN["arguments"]
BEFORE = ANSWER[GIVEN["k"] - 1]  # [L + 1, D] states at the position that predicts the token
TOKEN = torch.tensor([GIVEN["token"]])
LENS = Lens(lambda states: states @ HEAD.T, len(HEAD))


def golden(name: str) -> Any:
    return pytest.approx(GOLDEN["expected"][name], abs=1e-6)


def test_glsim_is_that_of_the_published_code() -> None:
    image, text, count = 4, 3, GIVEN["context_num"]
    whole = global_similarity(VQ[text, -1], BEFORE[image][None])
    columns = lens_columns(LENS, VQ[image, IMAGE], TOKEN)
    part = local_similarity(BEFORE[text][None], VQ[image, IMAGE], columns, count)
    assert float(whole) == golden("glsim_global")
    assert float(part) == golden("glsim_local")
    reading = Reading(
        torch.zeros(1),
        torch.zeros(1),
        states={
            (image, "image"): VQ[image, IMAGE],
            (text, "last"): VQ[text, -1],
            (text, "token"): BEFORE[text][None],
            (image, "token"): BEFORE[image][None],
        },
        columns={(image, "image", 1.0): columns},
    )
    score = GLSim(count=count, image_level=image, text_level=text)
    found = score.of_tokens(reading, Geometry("llava", 4, 3))
    assert float(found) == golden("glsim_w0.6")


def test_inslen_is_that_of_the_published_code() -> None:
    image, text, context, scale = 3, 4, 2, GIVEN["scale"]
    said = lens_columns(LENS, VQ[context, INSTRUCTION], TOKEN, scale)
    columns = lens_columns(LENS, VQ[image, IMAGE], TOKEN, scale)
    tokens, count = BEFORE[text][None], GIVEN["context_num"]
    local = calibrated_local(said, tokens, VQ[image, IMAGE], columns, count)
    near = context_consistency(said, VQ[context, INSTRUCTION], tokens, count, GIVEN["bias"])
    assert float(local) == golden("calibrated_local")
    assert float(near) == golden("context_consistency")
    reading = Reading(
        torch.zeros(1),
        torch.zeros(1),
        states={
            (image, "image"): VQ[image, IMAGE],
            (text, "token"): tokens,
            (context, "instruction"): VQ[context, INSTRUCTION],
        },
        columns={(image, "image", scale): columns, (context, "instruction", scale): said},
    )
    score = InsLen(
        count=count, context=count, instruction_level=context, image_level=image, text_level=text
    )
    assert float(score.of_tokens(reading, Geometry("llava", 4, 3))) == golden("inslen")


@pytest.mark.parametrize(
    ("keep", "name"), [(50, "internal_confidence"), (3, "internal_confidence_top3")]
)
def test_internal_confidence_is_that_of_the_published_code(keep: int, name: str) -> None:
    ids = torch.tensor([9, 5])  # "kettle" and "tea"
    found = lens_best(LENS, VQ[:, IMAGE].flatten(0, 1), ids, keep)
    expected = GOLDEN[name]
    assert float(found[0]) == pytest.approx(expected["kettle"], abs=1e-6)
    assert of_word("internal_confidence", found) == pytest.approx(expected["tea kettle"], abs=1e-6)


def test_attention_scores_are_those_of_the_published_code() -> None:
    geometry = Geometry("llava", 4, 3)
    rows = ATTENTION[GIVEN["k"] - 1]  # [L, H, keys]
    share = rows[..., IMAGE].sum(dim=-1)[None]
    reading = Reading(torch.zeros(1), torch.zeros(1), image_share=share)
    found = SVAR(layers=(1, 2)).of_tokens(reading, geometry)
    plain = GOLDEN["plain_formulas"]["svar_mean_over_heads_all_image_tokens"]
    assert float(found) == pytest.approx(plain, abs=1e-6)
    # The other release sums heads and loses the last image token.
    lost = rows[1:3, :, 2:6].sum()
    assert float(lost) == golden("svar_sum_over_heads_end_exclusive")
    answer = ROW[..., 10:14].sum(dim=-1)[None]
    reading = replace(reading, answer_share=answer)
    found = PAS().of_tokens(reading, geometry)
    assert float(found) == pytest.approx(GOLDEN["pas_layer0_of_row_keys_10_13"], abs=1e-6)


def slow_scores(model: Any, row: dict[str, Tensor], targets: list[int]) -> dict[str, list[float]]:
    """Every lens and attention score of a tiny LLaVA, by loops over a slow float64 decoder."""
    depth = model.config.text_config.num_hidden_layers
    states: list[Tensor] = []
    maps: list[Tensor] = []

    def residual(_: int, value: Tensor) -> Tensor:
        states.append(value)
        return value

    def weights(_: int, value: Tensor) -> Tensor:
        maps.append(value)
        return value

    decoder = slow.Slow(model, slow.Edits(residual=residual, weights=weights))
    ids = row["input_ids"][0]
    hidden = decoder.weights["embed_tokens.weight"][torch.cat([ids, torch.tensor(targets)])]
    visual = slow.image_columns(model, row)
    hidden[: len(ids)][visual] = slow.image_features(model, row)
    decoder.forward(hidden.clone())
    levels = [hidden, *states[:-1], decoder.norm("norm", states[-1])]
    head = decoder.weights["lm_head.weight"]
    image = visual.nonzero()[:, 0].tolist()
    last = len(ids) - 1
    behind = list(range(image[-1] + 1, last + 1))

    def cos(a: Tensor, b: Tensor) -> float:
        return float(a @ b / (a.norm() * b.norm()))

    def chance(level: int, at: int, token: int, scale: float = 1.0) -> float:
        return float((scale * (head @ levels[level][at])).softmax(-1)[token])

    def scaled(level: int) -> int:
        return round(level * depth / 32)

    found: dict[str, list[float]] = {name: [] for name in SCORES}
    for step, token in enumerate(targets):
        at = last + step
        logits = head @ levels[-1][at]
        p = logits.softmax(-1)
        found["log_probability"].append(float(p[token].log()))
        found["entropy"].append(float(-(p * p.log()).sum()))
        shares = [float(maps[layer][:, at, image].sum(-1).mean()) for layer in range(depth)]
        found["attention"].append(sum(shares) / depth)
        found["svar"].append(sum(shares[layer] for layer in range(*map(scaled, (5, 19)))))
        found["pas"].append(float(maps[0][:, at, len(ids) : at + 1].sum(-1).mean()))
        best = 0.0
        for level in range(depth + 1):
            for place in image:
                logit = head @ levels[level][place]
                top = logit.sort().values[-50:]
                if logit[token] >= top[0]:
                    best = max(best, float(logit[token].exp() / top.exp().sum()))
        found["internal_confidence"].append(best)
        c, a = scaled(32), scaled(31)
        near = sorted(image, key=lambda place: -chance(c, place, token))[:32]
        local = sum(cos(levels[a][at], levels[c][place]) for place in near) / len(near)
        found["glsim"].append(0.6 * cos(levels[a][last], levels[c][at]) + 0.4 * local)
        i, c = scaled(22), scaled(24)
        q = {place: chance(i, place, token, 0.1) for place in behind}
        near = sorted(image, key=lambda place: -chance(c, place, token, 0.1))[:32]
        local = sum(cos(levels[-1][at], levels[c][place]) for place in near) / len(near)
        few = sorted(behind, key=lambda place: -q[place])[:4]
        center = sum(levels[i][place] for place in few) / len(few)  # type: ignore[arg-type]
        h = levels[-1][at]
        mean = sum(q[place] for place in few) / len(few)
        consistent = (2 - float((h - center).norm() / h.norm())) * mean
        found["inslen"].append(0.6 * max(q.values()) * local + 0.4 * consistent)
    return {name: values for name, values in found.items() if values}


@pytest.mark.parametrize("family", ["llava", "llava-gqa"])
def test_scores_are_those_of_loops_over_a_slow_decoder(family: str) -> None:
    model = tiny.build(family)
    found = token_scores(model, tiny.inputs(family, LENGTHS), TARGETS, SCORES)
    for index in range(2):
        expected = slow_scores(model, tiny.row(family, LENGTHS, index), TARGETS[index].tolist())
        for name, values in expected.items():
            torch.testing.assert_close(
                found[name][index].double(), torch.tensor(values).double(), atol=2e-5, rtol=1e-4
            )


@pytest.mark.parametrize("family", ["llava", "gemma3", "qwen2_vl", "paligemma"])
def test_a_padded_batch_is_scored_as_each_row_alone(family: str) -> None:
    model = tiny.build(family)
    together = token_scores(model, tiny.inputs(family, LENGTHS), TARGETS, SCORES)
    for index in range(2):
        row = tiny.row(family, LENGTHS, index)
        alone = token_scores(model, row, TARGETS[index : index + 1], SCORES)
        for name, values in alone.items():
            torch.testing.assert_close(together[name][index], values[0], atol=1e-5, rtol=1e-4)


def passes(model: Any, run: Callable[[], Any]) -> int:
    """How often the decoder runs."""
    count = 0

    def hear(*_: Any) -> None:
        nonlocal count
        count += 1

    with model.model.language_model.register_forward_hook(hear):
        run()
    return count


@pytest.mark.parametrize(
    ("scores", "expected"),
    [
        (("log_probability", "entropy", "svar", "pas", "internal_confidence", "glsim"), 1),
        (("image_gain",), 2),
        (tuple(SCORES), 2),
    ],
)
def test_any_set_of_scores_takes_one_pass_or_two(scores: tuple[str, ...], expected: int) -> None:
    model, inputs = tiny.build("llava"), tiny.inputs("llava", LENGTHS)
    assert passes(model, lambda: token_scores(model, inputs, TARGETS, scores)) == expected


def test_nothing_is_scored_after_the_end_or_without_an_image() -> None:
    model, batch = tiny.build("llava"), tiny.inputs("llava", (5, 5))
    batch["input_ids"][1][batch["input_ids"][1] == tiny.IMAGE] = 7
    batch["pixel_values"] = batch["pixel_values"][:1]
    model.generation_config.eos_token_id = 8
    try:
        found = token_scores(model, batch, torch.tensor([[7, 8, 8, 8], [9, 9, 9, 9]]), SCORES)
    finally:
        model.generation_config.eos_token_id = None
    for name, values in found.items():
        assert not bool(values[0, :2].isnan().any())
        assert bool(values[0, 2:].isnan().all())
        of_text = name in ("log_probability", "log_probability_mean", "entropy")
        assert bool(values[1].isnan().any()) != of_text


def test_scores_with_options_and_refusals() -> None:
    model, inputs = tiny.build("llava"), tiny.inputs("llava", LENGTHS)
    for form, level in (("release", 4), ("paper", 3)):
        score = GLSim(form=form, image_level=4, text_level=3)  # type: ignore[arg-type]
        assert score.levels(Geometry("llava", 4, 4)) == (4, 3, level)
    one, other = (
        token_scores(model, inputs, TARGETS, [GLSim(form=form, text_level=3)])["glsim"]
        for form in ("release", "paper")  # type: ignore[arg-type]
    )
    assert not torch.equal(one, other)
    geometry = Geometry("llava", 32, 32)
    assert SVAR().at(geometry) == list(range(5, 19))
    assert (GLSim().levels(geometry), InsLen().levels(geometry)) == ((32, 31, 32), (22, 24, 32))
    assert SVAR().at(Geometry("llava", 8, 8)) == [1, 2, 3, 4]
    for wrong, message in (
        ((), "no word score"),
        (("luck",), "word score 'luck'"),
        (("svar", SVAR()), "svar twice"),
        ((SVAR(layers=(9,)),), r"SVAR names layers \[9\]"),
        ((PAS(layer=7),), r"PAS names layers \[7\]"),
        ((GLSim(image_level=5),), "image_level=5"),
        ((Divergence(k=9),), "k=9"),
    ):
        with pytest.raises(VlmHeadsError, match=message):
            token_scores(model, inputs, TARGETS, wrong)
    for make in (lambda: GLSim(weight=2), lambda: InsLen(scale=0), lambda: GLSim(count=0)):
        with pytest.raises(VlmHeadsError, match="a weight from 0 to 1"):
            make()


def test_every_score_names_its_source_and_the_direction_of_truth() -> None:
    for name, score in SCORES.items():
        assert score.name == name
        assert isinstance(score.higher_is_true, bool)
        assert len(score.source) > 20
        assert score.__doc__


def peak(run: Callable[[], Any]) -> int:
    """The most bytes that tensors made during a call hold at once."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as seen:
        run()
    held = most = 0
    events = seen.profiler.kineto_results.events()
    for event in sorted(events, key=lambda event: event.start_ns()):
        if event.name() == "[memory]":
            held += event.nbytes()
            most = max(most, held)
    return most


def test_the_lens_never_holds_all_layers_and_positions(monkeypatch: pytest.MonkeyPatch) -> None:
    vocabulary, layers, side = 4096, 4, 16
    text = tiny.TEXT | {"num_hidden_layers": layers, "vocab_size": vocabulary}
    vision = tiny.VISION | {"image_size": 4 * side, "patch_size": 4}
    config = t.LlavaConfig(
        vision_config=t.CLIPVisionConfig(**vision),
        text_config=t.LlamaConfig(**text),
        image_token_id=tiny.IMAGE,
    )
    model = t.LlavaForConditionalGeneration(config).eval().requires_grad_(False)
    ids = torch.full((1, side * side + 8), 5)
    ids[0, 2 : 2 + side * side] = tiny.IMAGE
    pixels = torch.zeros(1, 3, 4 * side, 4 * side)
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "pixel_values": pixels}
    targets = torch.full((1, 4), 7)
    monkeypatch.setattr(lens_module, "LOGITS", 1 << 16)
    lenses = ("internal_confidence", "glsim", "inslen")
    plain = peak(lambda: token_scores(model, inputs, targets, ["log_probability"]))
    every = peak(lambda: token_scores(model, inputs, targets, lenses))
    one_layer = side * side * vocabulary * 4
    # Beyond the pass itself: a few times a chunk of logits, less than those of a single layer.
    assert every - plain < 12 * 4 * (1 << 16) < one_layer

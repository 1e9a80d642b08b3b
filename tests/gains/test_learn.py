"""Calibration on tiny random models: exact slopes, early stopping, the same gains each time."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import tiny
import torch

import vlmheads
from vlmheads import HeadMap, VlmHeadsError
from vlmheads.detect.replay import Replay, teacher_forced
from vlmheads.gains.learn import Checkpoint, Example, calibrate, loss_and_slope

FAMILY = "llava-gqa"


def lesson(seed: int = 0, family: str = FAMILY) -> Example:
    """Two prompts with answers of four tokens, and a choice at three places."""
    generator = torch.Generator().manual_seed(seed)
    targets = torch.randint(2, 50, (2, 4), generator=generator)
    order = torch.rand(3, tiny.VOCABULARY, generator=generator)
    return Example(
        tiny.inputs(family, (5, 3), seed),
        targets,
        torch.tensor([0, 1, 1]),
        torch.tensor([0, 2, 3]),
        order < 0.2,
        order > 0.4,
        torch.tensor([1.0, 0.5, 2.0]),
    )


def cost(model: Any, one: Example, gains: torch.Tensor) -> float:
    from vlmheads.model.anatomy import examine

    replay = Replay.of(model, teacher_forced(examine(model), one.inputs, one.targets))
    return loss_and_slope(replay, one, gains)[0]


@pytest.mark.parametrize("family", ["llava", "llava-gqa", "qwen2_5_vl", "gemma3", "mistral3"])
def test_the_slope_is_that_of_finite_differences(family: str) -> None:
    from vlmheads.model.anatomy import examine

    model = tiny.build(family)
    one = lesson(family=family)
    replay = Replay.of(model, teacher_forced(examine(model), one.inputs, one.targets))
    gains = 1 + 0.3 * torch.rand(4, 4, generator=torch.Generator().manual_seed(1))
    _, slope = loss_and_slope(replay, one, gains)
    for layer, head in ((0, 0), (1, 3), (3, 2)):
        move = torch.zeros(4, 4)
        move[layer, head] = 2e-2
        up, _ = loss_and_slope(replay, one, gains + move)
        down, _ = loss_and_slope(replay, one, gains - move)
        assert slope[layer, head].item() == pytest.approx((up - down) / 4e-2, rel=0.05, abs=3e-5)


def test_the_cost_is_that_of_the_plugin_gains() -> None:
    model = tiny.build(FAMILY)
    one = lesson()
    gains = 1 + 0.5 * torch.rand(4, 4, generator=torch.Generator().manual_seed(1))
    from vlmheads.model.anatomy import examine

    anatomy = examine(model)
    head_map = HeadMap(gains[None], anatomy.geometry, "gain")
    plugin = vlmheads.get_plugin("gains")(head_map=head_map)  # type: ignore[call-arg]
    with torch.no_grad(), vlmheads.attach(model, plugin):
        logits = model(**teacher_forced(anatomy, one.inputs, one.targets)).logits
    chosen = logits[one.rows, one.places - one.targets.shape[1] - 1].softmax(dim=-1)
    better, worse = ((chosen * mask).sum(dim=-1) for mask in (one.better, one.worse))
    expected = (-(better / (better + worse)).log() * one.weights).sum() / one.weights.sum()
    assert expected.item() == pytest.approx(cost(model, one, gains), abs=1e-5)


def test_gains_that_are_learned_lower_the_cost_on_what_was_held_out() -> None:
    model = tiny.build(FAMILY)
    found = calibrate(model, [lesson()], [lesson()], rounds=20, rate=0.1)
    assert found.best > 0
    expected = min(look.held_out for look in found.checkpoints)
    assert expected == pytest.approx(cost(model, lesson(), found.gains.mean()), abs=1e-5)
    assert expected < found.checkpoints[0].held_out - 0.01


def test_the_same_seed_gives_the_same_gains() -> None:
    model = tiny.build(FAMILY)
    lessons = [lesson(0), lesson(1)]
    one, two = (calibrate(model, lessons, [lesson(2)], rounds=3) for _ in range(2))
    assert torch.equal(one.gains.values, two.gains.values)
    assert one.checkpoints == two.checkpoints


def test_gains_stay_1_where_learning_does_not_help_what_is_held_out() -> None:
    model = tiny.build(FAMILY)
    turned = replace(lesson(), better=lesson().worse, worse=lesson().better)
    found = calibrate(model, [lesson()], [turned], rounds=40, patience=3)
    assert found.best == 0
    assert torch.equal(torch.ones(1, 4, 4), found.gains.values)
    assert len(found.checkpoints) == 4  # the plain model, and three looks in vain


def test_gains_keep_to_their_range() -> None:
    model = tiny.build(FAMILY)
    found = calibrate(model, [lesson()], [lesson()], rounds=10, rate=0.5, low=0.8, high=1.1)
    values = found.gains.values
    assert values.min().item() == pytest.approx(0.8)
    assert values.max().item() == pytest.approx(1.1)


def test_a_strong_penalty_holds_gains_at_1() -> None:
    model = tiny.build(FAMILY)
    free, held = (
        calibrate(model, [lesson()], [lesson()], rounds=20, penalty=penalty).gains.values
        for penalty in (0.0, 100.0)
    )
    assert (held - 1).abs().mean() < (free - 1).abs().mean() / 3


def test_learning_ends_when_it_is_told_to() -> None:
    told: list[Checkpoint] = []

    def stop(look: Checkpoint) -> bool:
        told.append(look)
        return len(told) < 2

    found = calibrate(tiny.build(FAMILY), [lesson()], [lesson()], rounds=50, progress=stop)
    assert [look.round for look in told] == [0, 1]
    assert list(found.checkpoints) == told


def test_the_model_is_left_as_it_was() -> None:
    model = tiny.build(FAMILY)
    inputs = tiny.inputs(FAMILY)
    before = model(**inputs).logits
    calibrate(model, [lesson()], [lesson()], rounds=2)
    assert torch.equal(model(**inputs).logits, before)
    assert all(parameter.grad is None for parameter in model.parameters())


def test_where_gains_come_from_is_saved_with_them(tmp_path: Any) -> None:
    found = calibrate(
        tiny.build(FAMILY), [lesson()], [lesson()], rounds=2, provenance={"data": "scenes"}
    )
    found.gains.save(tmp_path / "gains.safetensors")
    about = HeadMap.load(tmp_path / "gains.safetensors").provenance
    assert about["data"] == "scenes"
    assert about["method"] == "calibrate"
    assert about["held-out cost of the plain model"] == found.checkpoints[0].held_out


def test_lessons_can_be_made_anew_from_the_gains_of_each_round() -> None:
    made: list[tuple[int, HeadMap]] = []

    def make(number: int, gains: HeadMap) -> list[Example]:
        made.append((number, gains))
        return [lesson(number)]

    found = calibrate(tiny.build(FAMILY), make, [lesson()], rounds=2)
    assert [number for number, _ in made] == [1, 2]
    assert torch.equal(torch.ones(1, 4, 4), made[0][1].values)
    assert not torch.equal(made[0][1].values, made[1][1].values)
    assert found.checkpoints[-1].steps == 2


def test_what_is_held_out_can_be_judged_by_anything() -> None:
    costs = iter([3.0, 2.0, 5.0, 1.0])
    found = calibrate(tiny.build(FAMILY), [lesson()], lambda gains: next(costs), rounds=3)
    assert [look.held_out for look in found.checkpoints] == [3.0, 2.0, 5.0, 1.0]
    assert found.best == 3


def test_lessons_without_an_image_are_refused() -> None:
    inputs = tiny.inputs(FAMILY, (5, 3))
    ids = inputs["input_ids"].masked_fill(inputs["input_ids"] == tiny.IMAGE, 5)
    blind = replace(lesson(), inputs={"input_ids": ids, "attention_mask": inputs["attention_mask"]})
    with pytest.raises(VlmHeadsError, match="without any image"):
        calibrate(tiny.build(FAMILY), [blind], [lesson()])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rows": torch.tensor([0, 1])}, "one of each"),
        ({"places": torch.tensor([0, 2, 4])}, "places in them"),
        ({"rows": torch.tensor([0, 1, 2])}, "places in them"),
        ({"better": torch.zeros(3, tiny.VOCABULARY).bool()}, "at least one of both"),
    ],
)
def test_lessons_that_do_not_fit_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(VlmHeadsError, match=message):
        replace(lesson(), **changes)


@pytest.mark.parametrize(
    ("lessons", "held_out", "low", "message"),
    [(0, 1, 0.0, "no examples"), (1, 0, 0.0, "no examples"),
     (1, 1, 1.5, "holds 1"), (1, 1, -1.0, "holds 1")],
)  # fmt: skip
def test_calibration_without_anything_to_learn_is_refused(
    lessons: int, held_out: int, low: float, message: str
) -> None:
    with pytest.raises(VlmHeadsError, match=message):
        calibrate(tiny.build(FAMILY), [lesson()] * lessons, [lesson()] * held_out, low=low)


def test_a_model_with_plugins_attached_is_refused() -> None:
    model = tiny.build(FAMILY)
    with vlmheads.attach(model, "vhr"), pytest.raises(VlmHeadsError, match="attached"):
        calibrate(model, [lesson()], [lesson()])

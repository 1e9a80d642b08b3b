from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from vlmheads_testbed.measure import messages
from vlmheads_testbed.scenes import scene, stream
from vlmheads_testbed.smol import precision
from vlmheads_testbed.smol import train as training
from vlmheads_testbed.smol.batches import (
    DECISION_WEIGHT,
    OBJECT_WEIGHT,
    TEXT_LENGTH,
    batch,
    conversations,
    encode,
    layout,
    word_batch,
    word_embeddings,
)
from vlmheads_testbed.smol.descriptions import Turn
from vlmheads_testbed.smol.lora import PROJECTIONS, Rank, add_low_rank
from vlmheads_testbed.smol.network import IMAGE_TOKENS, Learner, build_llava
from vlmheads_testbed.smol.probe import probe
from vlmheads_testbed.smol.processing import build_processor
from vlmheads_testbed.smol.schedule import Schedule
from vlmheads_testbed.smol.train import Run, train

Make = Callable[[], Any]


@pytest.fixture
def learn(chat_tokenizer: Any, tiny_decoder: Make, tiny_tower: Make) -> Callable[[Run], Any]:
    """Train a tiny model as a run says; returns what was trained."""

    def run_it(run: Run) -> dict[str, torch.Tensor]:
        return train(run, tiny_decoder(), tiny_tower(), build_processor(chat_tokenizer))

    return run_it


def tiny_run(out: Path, steps: int = 6, cooldown: int = 2) -> Run:
    return Run(out, 1, Schedule(steps, 1e-2, 2, cooldown), size=2, rank=Rank(2), word_steps=2,
               word_size=2, compiled=False, save_every=1, log_every=2, scenes=0)  # fmt: skip


def die_after(saves: int, monkeypatch: pytest.MonkeyPatch) -> None:
    save, count = training.save_state, iter(range(99))

    def save_then_die(*args: Any) -> None:
        save(*args)
        if next(count) == saves:
            raise KeyboardInterrupt

    monkeypatch.setattr(training, "save_state", save_then_die)


@pytest.mark.parametrize("saves", [0, 2, 5])  # after the words, in the trunk, in the fall
def test_a_killed_and_resumed_run_ends_with_the_values_of_an_uninterrupted_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, learn: Callable[[Run], Any], saves: int
) -> None:
    whole = learn(tiny_run(tmp_path / "whole"))
    with monkeypatch.context() as patch:
        die_after(saves, patch)
        with pytest.raises(KeyboardInterrupt):
            learn(tiny_run(tmp_path / "killed"))
    resumed = learn(tiny_run(tmp_path / "killed"))
    assert resumed.keys() == whole.keys()
    assert all(torch.equal(resumed[name], value) for name, value in whole.items())


def test_a_run_that_ended_early_goes_on_as_if_it_had_not(
    tmp_path: Path, learn: Callable[[Run], Any]
) -> None:
    whole = learn(tiny_run(tmp_path / "whole", steps=8))
    early = learn(tiny_run(tmp_path / "early", steps=5))
    longer = learn(tiny_run(tmp_path / "early", steps=8))
    assert all(torch.equal(longer[name], value) for name, value in whole.items())
    assert not all(torch.equal(longer[name], value) for name, value in early.items())


def test_a_broken_off_save_leaves_the_state_before_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, learn: Callable[[Run], Any]
) -> None:
    learn(tiny_run(tmp_path))
    before = (tmp_path / "fall.pt").read_bytes()

    def half(_: Any, path: Path) -> None:
        path.write_bytes(b"half")
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(torch, "save", half)
        with pytest.raises(KeyboardInterrupt):
            learn(tiny_run(tmp_path, steps=7))
    assert (tmp_path / "fall.pt").read_bytes() == before
    assert (tmp_path / "trunk.pt").stat().st_size > 100


def test_training_changes_the_projector_and_the_updates_and_nothing_else(
    tmp_path: Path, chat_tokenizer: Any, tiny_decoder: Make, tiny_tower: Make
) -> None:
    decoder, tower = tiny_decoder(), tiny_tower()
    frozen = {name: value.clone() for name, value in decoder.model.layers.state_dict().items()}
    seen = {name: value.clone() for name, value in tower.state_dict().items()}
    values = train(tiny_run(tmp_path), decoder, tower, build_processor(chat_tokenizer))
    assert {name.rsplit(".", 1)[-1] for name in values} == {"up", "down", "weight", "bias"}
    after = {n.replace(".linear", ""): v for n, v in decoder.model.layers.state_dict().items()}
    assert all(torch.equal(after[name], value) for name, value in frozen.items())
    assert all(torch.equal(tower.state_dict()[name], value) for name, value in seen.items())
    assert any(value.abs().sum() > 0 for name, value in values.items() if name.endswith(".up"))


def test_a_run_may_start_from_what_another_learned(
    tmp_path: Path, learn: Callable[[Run], Any]
) -> None:
    first = learn(tiny_run(tmp_path / "first"))
    still = replace(tiny_run(tmp_path / "still"), schedule=Schedule(1, 0.0), start=first, skip=6)
    assert all(torch.equal(value, first[name]) for name, value in learn(still).items())
    further = learn(replace(tiny_run(tmp_path / "further"), start=first, skip=6))
    assert not all(torch.equal(value, first[name]) for name, value in further.items())
    log = (tmp_path / "further" / "log.jsonl").read_text()
    assert '"words"' not in log


def test_mixed_precision_keeps_what_is_trained_in_full(
    tmp_path: Path, learn: Callable[[Run], Any]
) -> None:
    values = learn(replace(tiny_run(tmp_path), mixed=True))
    assert {value.dtype for value in values.values()} == {torch.float32}
    assert all(value.isfinite().all() for value in values.values())


@pytest.mark.parametrize(("half", "full", "pays"), [(1.0, 2.0, True), (7.0, 1.0, False)])
def test_half_precision_is_taken_where_it_is_faster(
    monkeypatch: pytest.MonkeyPatch, half: float, full: float, pays: bool
) -> None:
    seconds = {torch.bfloat16: half, torch.float32: full}
    monkeypatch.setattr(precision, "_seconds", seconds.__getitem__)
    assert precision.bfloat16_pays("cpu") is pays
    assert precision.bfloat16_pays("cuda") is True


def test_the_log_holds_the_loss_and_the_rate(tmp_path: Path, learn: Callable[[Run], Any]) -> None:
    import json

    learn(tiny_run(tmp_path))
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    joint = [line for line in lines if line["stage"] == "joint"]
    assert [line["step"] for line in joint] == [2, 4, 6]
    assert all(line["loss"] > 0 and line["rate"] > 0 for line in joint)


def test_the_rate_rises_stays_and_falls() -> None:
    schedule = Schedule(100, 2.0, warmup=4, cooldown=10)
    rates = [schedule.rate_at(step) for step in range(100)]
    assert rates[:4] == [0.5, 1.0, 1.5, 2.0]
    assert set(rates[4:91]) == {2.0}
    assert rates[-1] == pytest.approx(0.2)
    assert schedule.fall == 90


def test_where_training_ends_does_not_change_the_rate_before_the_fall() -> None:
    short, long = Schedule(60, 1.0, cooldown=10), Schedule(500, 1.0, cooldown=10)
    assert [short.rate_at(i) for i in range(50)] == [long.rate_at(i) for i in range(50)]


def test_a_packed_row_has_the_loss_of_its_turns_alone(
    chat_tokenizer: Any, tiny_decoder: Make, tiny_tower: Make
) -> None:
    processor = build_processor(chat_tokenizer)
    model = build_llava(tiny_decoder(), tiny_tower(), chat_tokenizer)
    learner = Learner(model, chat_tokenizer)
    one, drawn = scene("train", 0, 4), batch(chat_tokenizer, 0, 4, 1)
    packed = [drawn.ids[drawn.turns == n].tolist() for n in range(1, int(drawn.turns.max()) + 1)]
    total = weight = 0.0
    for turn in conversations(one, stream("train", 0, 4, 1)):
        ids, weights = encode(chat_tokenizer, turn)
        if ids not in packed:
            continue  # it did not fit
        said = [*messages(turn.prompt), {"role": "assistant", "content": turn.answer}]
        text = processor.apply_chat_template(said)
        inputs = processor(images=one.image, text=text, return_tensors="pt")
        at = learner.prefix_length
        assert inputs["input_ids"][0, at : at + len(ids)].tolist() == ids
        with torch.no_grad():
            logits = model(**inputs).logits[0, at - 1 : at - 1 + len(ids)]
        losses = torch.nn.functional.cross_entropy(logits, torch.tensor(ids), reduction="none")
        total += float((losses * torch.tensor(weights)).sum())
        weight += sum(weights)
    with torch.no_grad():
        assert float(learner.loss(drawn)) == pytest.approx(total / weight, abs=1e-4)


def test_every_second_picture_is_described_twice_and_nothing_is_asked_twice() -> None:
    described = []
    for index in range(200):
        turns = conversations(scene("train", 5, index), stream("train", 5, index, 1))
        assert len({turn.prompt for turn in turns}) == len(turns)
        described.append(sum(turn.kind in ("long", "usual", "short") for turn in turns))
    assert set(described) == {1, 2}
    assert 1.3 < sum(described) / len(described) < 1.6  # of two with one prompt, one is left


def test_a_turn_sees_the_picture_and_itself_only() -> None:
    allowed, positions = layout(torch.tensor([[1, 1, 2, 2, 0]]), prefix=2)
    assert allowed[0, 0].int().tolist() == [
        [1, 0, 0, 0, 0, 0, 0],
        [1, 1, 0, 0, 0, 0, 0],
        [1, 1, 1, 0, 0, 0, 0],
        [1, 1, 1, 1, 0, 0, 0],
        [1, 1, 0, 0, 1, 0, 0],
        [1, 1, 0, 0, 1, 1, 0],
        [1, 1, 0, 0, 0, 0, 1],
    ]
    assert positions.tolist() == [[0, 1, 2, 3, 2, 3, 2]]


def test_answers_are_targets_and_what_decides_a_question_counts_most(chat_tokenizer: Any) -> None:
    drawn = batch(chat_tokenizer, 0, 0, 4)
    assert drawn.ids.shape == (4, TEXT_LENGTH)
    assert ((drawn.weights > 0) <= (drawn.turns > 0)).all()
    deciding = drawn.ids[drawn.weights == DECISION_WEIGHT]
    words = {chat_tokenizer.decode(token).strip()[:1] for token in deciding}
    assert words == {"Y", "N"}
    ends = drawn.ids == chat_tokenizer.eos_token_id
    answers = {int(row.max()) for row in drawn.turns}
    assert all(number >= 2 for number in answers)
    assert int((ends & (drawn.weights > 0)).sum()) == sum(int(row.max()) for row in drawn.turns)


def test_words_for_objects_count_more_in_descriptions_and_in_nothing_else(
    chat_tokenizer: Any,
) -> None:
    said = Turn(
        "Describe the image.", "A dining table with two puppies. It is a sunny day.", "usual"
    )
    ids, weights = encode(chat_tokenizer, said)
    heavy = [token for token, weight in zip(ids, weights, strict=True) if weight == OBJECT_WEIGHT]
    assert chat_tokenizer.decode(heavy).split() == ["dining", "table", "puppies"]
    asked = Turn("Is there a dog?", "Yes, there is a dog.", "exists", truth=True)
    assert OBJECT_WEIGHT not in encode(chat_tokenizer, asked)[1]


def test_equal_numbers_give_equal_batches_and_others_give_others(chat_tokenizer: Any) -> None:
    one, same = (batch(chat_tokenizer, 0, 8, 2) for _ in range(2))
    other = batch(chat_tokenizer, 1, 8, 2)
    assert torch.equal(one.ids, same.ids)
    assert torch.equal(one.pixels, same.pixels)
    assert not torch.equal(one.pixels, other.pixels)


def test_a_patch_is_to_be_read_as_the_word_of_its_object_or_place(
    chat_tokenizer: Any, tiny_decoder: Make
) -> None:
    embedding = tiny_decoder().get_input_embeddings().weight.detach()
    words = word_embeddings(chat_tokenizer, embedding)
    drawn, one = word_batch(words, 0, 3, 1), scene("train", 0, 3)

    def mean(word: str) -> torch.Tensor:
        ids = chat_tokenizer(f" {word}", add_special_tokens=False).input_ids
        return embedding[ids].mean(0)

    background, shown = drawn.targets[drawn.weights < 1], drawn.targets[drawn.weights == 1]
    assert torch.allclose(background, mean(one.place.name).expand_as(background))
    expected = [mean(group.look.words[0][0]) for group in one.groups]
    assert all(any(torch.allclose(row, word) for word in expected) for row in shown)


def test_updates_start_at_zero_and_sit_on_every_projection(tiny_decoder: Make) -> None:
    decoder = tiny_decoder()
    ids = torch.arange(9)[None]
    before = decoder(ids).logits
    found = add_low_rank(decoder.model, Rank(2), 0)
    assert torch.equal(decoder(ids).logits, before)
    assert len(found) == 2 * len(PROJECTIONS)


def test_the_assembled_model_has_the_image_token_and_grouped_heads(
    chat_tokenizer: Any, tiny_decoder: Make, tiny_tower: Make
) -> None:
    model = build_llava(tiny_decoder(), tiny_tower(), chat_tokenizer)
    assert model.config.image_token_index == chat_tokenizer.convert_tokens_to_ids("<image>")
    assert model.config.image_seq_length == IMAGE_TOKENS == 64
    assert model.config.text_config.num_key_value_heads == 2
    assert model.lm_head.weight is model.get_input_embeddings().weight
    assert not any(p.is_meta for p in model.parameters())


def test_the_probe_measures_captions_questions_and_heads(
    chat_tokenizer: Any, tiny_decoder: Make, tiny_tower: Make
) -> None:
    model = build_llava(tiny_decoder(), tiny_tower(), chat_tokenizer)
    model.generation_config.max_new_tokens = 4
    found = probe(model, build_processor(chat_tokenizer), 2).to_dict()
    assert found["recall"] == 0.0
    assert found["yes_no"] == 0.0  # neither Yes nor No is right in no case
    assert found["specialisation"] >= 1.0

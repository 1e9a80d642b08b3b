import itertools
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from vlmheads_testbed import train as training
from vlmheads_testbed.batches import (
    ONLY_CHECKS,
    PREFIX_LENGTH,
    TEXTS,
    Mix,
    patch_labels,
    pixels,
    scaled,
    text_batch,
    word_batch,
)
from vlmheads_testbed.categories import looks
from vlmheads_testbed.geometry import Geometry, build_model
from vlmheads_testbed.scenes import PATCH, SIZE, scene
from vlmheads_testbed.stages import Learner, Stage, StageData, batches, recipe, trained
from vlmheads_testbed.train import Run, train

from vlmheads.errors import VlmHeadsError

TINY = Geometry(16, 1, 2, 16, 16, 2, 4, 16)
SHORT = tuple(
    replace(stage, batch=2, steps=steps, rise=2)
    for stage, steps in zip(recipe(2), (4, 2, 3, 3), strict=True)
)


def tiny_run(out: Path, **changes: Any) -> Run:
    fixed = {"seed": 1, "geometry": TINY, "compiled": False, "halved": False, "scenes": 0}
    return Run(out, **{"stages": SHORT, "minutes": 1.0, "save_seconds": 0.0, **fixed, **changes})


def test_a_killed_and_resumed_run_ends_with_the_weights_of_an_uninterrupted_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = train(tiny_run(tmp_path / "whole")) / "model.safetensors"
    save, saves = training._save, iter(range(99))

    def save_then_die(*args: Any) -> None:
        save(*args)
        if next(saves) in (2, 9):  # inside the vision stage and inside the captions one
            raise KeyboardInterrupt

    monkeypatch.setattr(training, "_save", save_then_die)
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            train(tiny_run(tmp_path / "killed"))
    resumed = train(tiny_run(tmp_path / "killed")) / "model.safetensors"
    assert resumed.read_bytes() == whole.read_bytes()


def test_the_steps_follow_from_the_pace_and_fill_the_time(tmp_path: Path) -> None:
    import json

    stages = tuple(replace(stage, steps=None, rise=4) for stage in SHORT)
    train(tiny_run(tmp_path, stages=stages, minutes=(4 + 12) / 60, save_seconds=60.0))
    log = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    chosen = {entry["stage"]: entry["steps"] for entry in log if "steps" in entry}
    assert list(chosen) == ["vision", "projector", "checks", "captions"]
    assert all(steps > 4 for steps in chosen.values())
    assert chosen["captions"] > 10
    ends = [entry["seconds"] for entry in log if entry.get("done")]
    assert 2.0 < ends[-1] < 12.0  # of 4; the machine may be busy


def test_the_model_is_written_in_half_precision_and_asks_for_single(tmp_path: Path) -> None:
    from safetensors.torch import load_file
    from transformers import AutoModelForImageTextToText

    folder = train(tiny_run(tmp_path))
    tensors = load_file(folder / "model.safetensors")
    assert {tensor.dtype for tensor in tensors.values()} == {torch.float16}
    assert not any("lm_head" in name for name in tensors)
    model, told = AutoModelForImageTextToText.from_pretrained(folder, output_loading_info=True)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    assert not any(told.values())
    saved = tensors["vision_tower.vision_model.pre_layrnorm.weight"]
    assert torch.equal(model.model.vision_tower.pre_layrnorm.weight, saved.float())


def test_each_stage_trains_its_parts(processor: Any) -> None:
    learner = Learner(build_model(TINY, processor.tokenizer))
    names = {id(parameter): name for name, parameter in learner.named_parameters()}

    def parts(stage: str) -> set[str]:
        found = [names[id(parameter)] for parameter in trained(learner, stage)]
        return {".".join(name.removeprefix("model.model.").split(".")[:1]) for name in found}

    assert parts("vision") == {"vision_tower", "classifier"}
    assert parts("projector") == {"multi_modal_projector"}
    assert parts("checks") == parts("captions") == {"multi_modal_projector", "language_model"}
    trained_here = {id(parameter) for parameter in trained(learner, "captions")}
    assert id(learner.model.lm_head.weight) in trained_here  # tied to the embeddings


def test_the_training_loss_is_the_loss_of_the_model_that_is_saved(processor: Any) -> None:
    torch.manual_seed(0)
    model = build_model(TINY, processor.tokenizer).eval()
    batch = text_batch(processor.tokenizer, 0, 0, 3)
    head, tail = batch.ids[:, :PREFIX_LENGTH], batch.ids[:, PREFIX_LENGTH:]
    image = torch.full((3 * TEXTS, 64), model.config.image_token_id)
    labels = batch.ids.masked_fill(batch.weights == 0, -100)[:, PREFIX_LENGTH:]
    with torch.no_grad():
        found = Learner(model).text_loss(batch.pixels, batch.ids, batch.weights.sign())
        expected = model(
            input_ids=torch.cat([head, image, tail], 1),
            pixel_values=scaled(batch.pixels).repeat_interleave(TEXTS, 0),
            labels=torch.cat([torch.full((3 * TEXTS, PREFIX_LENGTH + 64), -100), labels], 1),
        ).loss
    assert float(found) == pytest.approx(float(expected), abs=1e-5)


def test_training_pictures_are_what_the_processor_gives_the_model(processor: Any) -> None:
    scenes = [scene("train", 0, index) for index in range(2)]
    found = processor.image_processor([one.image for one in scenes], return_tensors="pt")
    assert torch.allclose(found["pixel_values"], pixels(scenes), atol=1e-6)


def test_training_tokens_are_those_of_the_chat_template(processor: Any) -> None:
    """The template's text with the image tokens taken out is what training texts begin with."""
    from vlmheads_testbed.batches import conversation
    from vlmheads_testbed.captions import caption_sample
    from vlmheads_testbed.measure import messages
    from vlmheads_testbed.scenes import stream

    sample = caption_sample(scene("train", 0, 3), stream("train", 0, 3, 1))
    turns = [*messages(sample.prompt), {"role": "assistant", "content": sample.answer}]
    text = processor.apply_chat_template(turns)
    ids = processor(images=scene("train", 0, 3).image, text=text)["input_ids"][0]
    assert ids[PREFIX_LENGTH : PREFIX_LENGTH + 64] == [processor.image_token_id] * 64
    bare = [token for token in ids if token != processor.image_token_id]
    assert bare == processor.tokenizer(conversation([sample])).input_ids


def weighed(processor: Any, mix: Mix, rows: int) -> list[list[tuple[str, float]]]:
    batch = text_batch(processor.tokenizer, 4, 0, rows, mix)
    return [
        list(zip(processor.tokenizer.convert_ids_to_tokens(ids.tolist()), weights, strict=True))
        for ids, weights in zip(batch.ids, batch.weights.tolist(), strict=True)
    ]


def test_the_answers_of_checks_count_and_nothing_else(processor: Any) -> None:
    for row in weighed(processor, ONLY_CHECKS, 4):
        assert {weight for token, weight in row if token == "▁Yes"} == {5.0}
        assert {weight for token, weight in row if token == "▁No"} == {1.0}
        assert {weight for token, weight in row if token not in ("▁Yes", "▁No")} == {0.0}
        assert sum(weight > 0 for _, weight in row) == 16


def test_all_that_the_model_says_counts_and_nothing_that_the_user_says(processor: Any) -> None:
    from vlmheads_testbed.processing import noun_tokens

    nouns = set(processor.tokenizer.convert_ids_to_tokens(noun_tokens(processor.tokenizer)))
    for row in weighed(processor, Mix(checks=0.0, questions=0.5), 24):
        said = False
        for at, (token, weight) in enumerate(row):
            if not said:
                assert weight == 0.0
            elif token in nouns:
                assert weight == 3.5
            else:
                assert weight == (3.0 if token in ("▁Yes", "▁No") else 1.0)
            said = [*(name for name, _ in row[max(0, at - 1) : at + 1])] == ["▁ASSISTANT", ":"] or (
                said and token != "</s>"
            )


def test_texts_are_mixed_in_their_shares(processor: Any) -> None:
    batch = text_batch(processor.tokenizer, 5, 0, 300)
    assistant, yes, no = processor.tokenizer.convert_tokens_to_ids(["▁ASSISTANT", "▁Yes", "▁No"])
    checks = ~(batch.ids == assistant).any(1)
    questions = ~checks & ((batch.ids == yes) | (batch.ids == no)).any(1)
    assert 0.18 < float(checks.float().mean()) < 0.32
    assert 0.14 < float(questions.float().mean()) < 0.27
    twice = ~(checks | questions).view(-1, 2).any(1, keepdim=False)
    captions = (~checks & ~questions).view(-1, 2).all(1)
    assert 0.4 < float(captions.float().mean()) < 0.65
    assert bool(twice.any())


def test_a_patch_is_labelled_by_the_look_that_covers_most_of_it() -> None:
    one = scene("train", 0, 1)
    labels = patch_labels(one).reshape(SIZE // PATCH, SIZE // PATCH)
    numbers = [looks().index(group.look) + 1 for group in one.groups]
    assert set(labels.unique().tolist()) <= {0, *numbers}
    row, column = (int(i) for i in torch.nonzero(labels)[0])
    square = one.cover[row * PATCH : (row + 1) * PATCH, column * PATCH : (column + 1) * PATCH]
    counts = [int((square == group).sum()) for group in range(len(one.groups))]
    assert labels[row, column] == numbers[counts.index(max(counts))]


def test_the_word_of_a_patch_is_the_token_of_its_thing(processor: Any) -> None:
    one = scene("train", 0, 0)
    words = word_batch(processor.tokenizer, 0, 0, 1)
    tokens = set(processor.tokenizer.convert_ids_to_tokens(words.labels[words.shown].tolist()))
    assert tokens
    assert tokens <= {"▁" + group.look.words[0][0].replace(" ", "▁") for group in one.groups}


def test_equal_numbers_give_equal_batches_and_others_give_others(processor: Any) -> None:
    one, same = (text_batch(processor.tokenizer, 0, 8, 2) for _ in range(2))
    other = text_batch(processor.tokenizer, 1, 8, 2)
    assert torch.equal(one.ids, same.ids)
    assert torch.equal(one.pixels, same.pixels)
    assert not torch.equal(one.pixels, other.pixels)


def test_batches_that_processes_draw_ahead_are_those_of_one_process(processor: Any) -> None:
    data = StageData(processor.tokenizer, SHORT[3], 0)
    ahead, alone = (batches(data, 3, workers, "cpu") for workers in (2, 0))
    for found, expected in itertools.islice(zip(ahead, alone, strict=False), 3):
        assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


def test_the_rate_rises_and_then_falls_to_a_hundredth() -> None:
    stage = Stage("captions", 2, 1e-3, 1.0, rise=5)
    rates = [stage.rate_at(step, 100) for step in range(100)]
    assert max(rates) == rates[4] == rates[5] == 1e-3
    assert rates[0] == pytest.approx(2e-4)
    assert rates[-1] == pytest.approx(1e-5, rel=0.1)
    assert replace(stage, falls=False).rate_at(99, 100) == 1e-3


def test_steps_that_are_no_numbers_are_refused(tmp_path: Path) -> None:
    result = CliRunner().invoke(training.main, [str(tmp_path), "--steps", "4,2"])
    assert isinstance(result.exception, VlmHeadsError)
    assert "--steps 4,2" in str(result.exception)


def test_fixed_steps_give_the_rates_of_a_run_that_counted_as_many(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs: list[Run] = []
    monkeypatch.setattr(training, "train", lambda run: runs.append(run) or run.out)
    steps = (332, 201, 342, 1783)
    arguments = [str(tmp_path), "--device", "cpu", "--batch", "256"]
    for more in (["--steps", ",".join(map(str, steps))], []):
        assert CliRunner().invoke(training.main, [*arguments, *more]).exit_code == 0
    fixed, counted = (run.stages for run in runs)
    for ours, theirs, number in zip(fixed, counted, steps, strict=True):
        assert (ours.steps, theirs.steps) == (number, None)
        assert ours.batch == theirs.batch
        assert [ours.rate_at(step, number) for step in range(number)] == [
            theirs.rate_at(step, number) for step in range(number)
        ]

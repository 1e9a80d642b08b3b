from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from vlmheads_testbed import train as training
from vlmheads_testbed.batches import PREFIX_LENGTH, patch_labels, text_batch
from vlmheads_testbed.categories import looks
from vlmheads_testbed.geometry import Geometry, build_model
from vlmheads_testbed.scenes import PATCH, SIZE, scene
from vlmheads_testbed.stages import Learner, Recipe, Stage, schedule, trained
from vlmheads_testbed.train import Run, train

TINY = Geometry(16, 1, 2, 16, 16, 2, 4, 16)
SHORT = Recipe(
    Stage("vision", 4, 2, 1e-2),
    Stage("language", 3, 2, 1e-2),
    Stage("projector", 2, 2, 1e-2),
    Stage("heads", 3, 2, 1e-2),
    Stage("whole", 2, 2, 1e-2),
)


def tiny_run(out: Path) -> Run:
    return Run(out, 1, TINY, SHORT, compiled=False, save_every=1, measure_every=99, scenes=0)


def test_a_killed_and_resumed_run_ends_with_the_weights_of_an_uninterrupted_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = train(tiny_run(tmp_path / "whole")) / "model.safetensors"
    save, saves = training._save, iter(range(99))

    def save_then_die(*args: Any) -> None:
        save(*args)
        if next(saves) in (2, 9):  # inside the vision stage and inside the heads one
            raise KeyboardInterrupt

    monkeypatch.setattr(training, "_save", save_then_die)
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            train(tiny_run(tmp_path / "killed"))
    resumed = train(tiny_run(tmp_path / "killed")) / "model.safetensors"
    assert resumed.read_bytes() == whole.read_bytes()


def test_the_model_is_written_in_half_precision_and_asks_for_single(tmp_path: Path) -> None:
    from safetensors.torch import load_file
    from transformers import AutoModelForImageTextToText

    folder = train(tiny_run(tmp_path))
    tensors = load_file(folder / "model.safetensors")
    assert {tensor.dtype for tensor in tensors.values()} == {torch.float16}
    model = AutoModelForImageTextToText.from_pretrained(folder)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}


def test_the_heads_stage_trains_the_chosen_heads_and_keeps_the_others(processor: Any) -> None:
    learner = Learner(build_model(TINY, processor.tokenizer))
    chosen = trained(learner, SHORT.heads, visual_heads=1, seed=0)
    masks = {id(one.parameter): one.mask for one in chosen}
    for layer in learner.model.model.language_model.layers:
        rows = masks[id(layer.self_attn.q_proj.weight)]
        assert rows is not None
        assert rows.flatten().unflatten(0, (4, -1)).sum(1).tolist().count(4.0) == 1
        assert masks[id(layer.mlp.up_proj.weight)] is None
        assert id(layer.input_layernorm.weight) not in masks
    assert id(learner.model.get_input_embeddings().weight) not in masks


def test_the_training_loss_is_the_loss_of_the_model_that_is_saved(processor: Any) -> None:
    torch.manual_seed(0)
    model = build_model(TINY, processor.tokenizer).eval()
    batch = text_batch(processor.tokenizer, 0, 0, 3)
    head, tail = batch.ids[:, :PREFIX_LENGTH], batch.ids[:, PREFIX_LENGTH:]
    image = torch.full((3, 64), model.config.image_token_id)
    labels = batch.ids.masked_fill(batch.weights == 0, -100)[:, PREFIX_LENGTH:]
    with torch.no_grad():
        found = Learner(model).image_loss(batch.pixels, batch.ids, batch.weights.sign())
        expected = model(
            input_ids=torch.cat([head, image, tail], 1),
            pixel_values=batch.pixels,
            labels=torch.cat([torch.full((3, PREFIX_LENGTH + 64), -100), labels], 1),
        ).loss
    assert float(found) == pytest.approx(float(expected), abs=1e-5)


def test_training_pictures_are_what_the_processor_gives_the_model(processor: Any) -> None:
    batch = text_batch(processor.tokenizer, 0, 0, 2)
    images = [scene("train", 0, index).image for index in range(2)]
    found = processor.image_processor(images, return_tensors="pt")["pixel_values"]
    assert torch.allclose(found, batch.pixels, atol=1e-6)


def test_a_patch_is_labelled_by_the_look_that_covers_most_of_it() -> None:
    one = scene("train", 0, 1)
    labels = patch_labels(one).reshape(SIZE // PATCH, SIZE // PATCH)
    numbers = [looks().index(group.look) + 1 for group in one.groups]
    assert set(labels.unique().tolist()) <= {0, *numbers}
    row, column = (int(i) for i in torch.nonzero(labels)[0])
    square = one.cover[row * PATCH : (row + 1) * PATCH, column * PATCH : (column + 1) * PATCH]
    counts = [int((square == group).sum()) for group in range(len(one.groups))]
    assert labels[row, column] == numbers[counts.index(max(counts))]


def test_equal_numbers_give_equal_batches_and_others_give_others(processor: Any) -> None:
    one, same = (text_batch(processor.tokenizer, 0, 8, 2) for _ in range(2))
    other = text_batch(processor.tokenizer, 1, 8, 2)
    assert torch.equal(one.ids, same.ids)
    assert torch.equal(one.pixels, same.pixels)
    assert not torch.equal(one.pixels, other.pixels)


def test_the_rate_rises_and_then_falls_to_a_fiftieth() -> None:
    rates = [schedule(step, 100) for step in range(100)]
    assert max(rates) == rates[5] == 1.0
    assert rates[:5] == [0.2, 0.4, 0.6, 0.8, 1.0]
    assert rates[-1] == pytest.approx(0.02, abs=1e-3)


def test_the_recipe_has_its_stages_in_their_order() -> None:
    names = [stage.name for stage in replace(SHORT).stages]
    assert names == ["vision", "language", "projector", "heads", "whole"]


def test_the_whole_stage_goes_on_with_the_rate_of_the_heads_stage() -> None:
    recipe = Recipe()
    assert recipe.heads.rate_at(799) == pytest.approx(1e-3 * schedule(799, 1500))
    assert recipe.whole.rate_at(0) == pytest.approx(1e-3 * schedule(800, 1500))
    assert recipe.whole.rate_at(299) == pytest.approx(1e-3 * schedule(1099, 1500))
    assert recipe.whole.rate_at(300) == pytest.approx(1e-3 * schedule(1100, 2000))
    assert recipe.whole.rate_at(1199) == pytest.approx(2e-5, rel=0.01)

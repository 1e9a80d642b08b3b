from __future__ import annotations

import dataclasses
import json
import threading
import zipfile
from io import BytesIO

import pytest
import torch
from PIL import Image
from vlmheads_demo.answers import answer
from vlmheads_demo.comparison import compared, comparison_table
from vlmheads_demo.heads import head_table
from vlmheads_demo.scenes import example
from vlmheads_demo.selection import Selection
from vlmheads_demo.services.captioning import Wish, describe
from vlmheads_demo.services.export import archive, as_json, as_pictures
from vlmheads_demo.services.generation import Decoding
from vlmheads_demo.services.measurement import attention_of, aware_heads
from vlmheads_demo.services.result import Results
from vlmheads_demo.touched import touched_heads
from vlmheads_demo.truth import read_caption
from vlmheads_demo.views import captions
from vlmheads_demo.views.word_view import picture

from vlmheads import VlmHeadsError, attach
from vlmheads.detect import divergence
from vlmheads.registry import resolve
from vlmheads.runtime.attachment import ATTACHED

PROMPT = "Describe the image."
SCENE = "counterfactual:9"  # A farm with a cat and a plant, of which the model says also a horse.


@pytest.fixture(scope="module")
def result(model):
    drawn = example(SCENE)
    wish = Wish(
        model,
        drawn.image,
        PROMPT,
        (resolve("vhr"), resolve("cfg")),
        Decoding(max_new_tokens=40),
        2.5,  # a narrow model has no sinks at the usual 20
        SCENE,
        drawn.objects,
    )
    *_, found = describe(wish, running=threading.Lock(), stop=threading.Event())
    return found


def test_heads_are_those_that_the_method_acts_on(model):
    inputs = model.captioner.prepare([example(SCENE).image], PROMPT)
    network = model.captioner.model
    all_heads = torch.ones(8, 8, dtype=torch.bool)
    first = torch.zeros(8, 8, dtype=torch.bool)
    first[2, 3] = first[5, 1] = True
    listed = resolve("allpath:suppressed=[[2,3],[5,1]]")
    assert torch.equal(touched_heads(network, inputs, listed), first)
    assert torch.equal(touched_heads(network, inputs, resolve("pai")), all_heads)
    assert not touched_heads(network, inputs, resolve("cfg")).any()
    assert not touched_heads(network, inputs, resolve("vhr:alpha=1.0")).any()
    assert not hasattr(network, ATTACHED)


def test_vhr_acts_on_heads_above_the_median_of_its_layers(model, result):
    touched = result.captions[1].support.touched
    (vhr,) = resolve("vhr")
    layers = vhr.chosen_layers(model.geometry)
    assert set(touched.any(dim=1).nonzero()[:, 0].tolist()) == set(layers)
    assert all(1 <= int(touched[layer].sum()) <= 4 for layer in layers)


def test_the_prompt_map_is_that_of_the_detector(model, result):
    inputs = model.captioner.prepare([example(SCENE).image], PROMPT)
    expected = divergence(model.captioner.model, inputs).mean()
    assert torch.equal(expected, result.picture.divergence)


def test_an_overlay_is_the_attention_of_the_row_before_the_word(model, result):
    said = result.captions[0]
    number = next(n for n, word in enumerate(said.support.words) if word.object)
    word = said.support.words[number]
    inputs = dict(model.captioner.prepare([example(SCENE).image], PROMPT))
    ids = torch.tensor([said.spoken.ids])
    inputs["input_ids"] = torch.cat([inputs["input_ids"], ids], dim=1)
    inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
    network = model.captioner.model
    network.set_attn_implementation("eager")
    with torch.no_grad():
        maps = network(**inputs, output_attentions=True, use_cache=False).attentions
    network.set_attn_implementation("sdpa")
    image = (inputs["input_ids"][0] == network.config.image_token_id).nonzero()[:, 0]
    rows = slice(-len(said.spoken.ids) - 1 + word.first, -len(said.spoken.ids) - 1 + word.last)
    expected = maps[3][0, 5, rows][:, image].mean(dim=0)
    found = attention_of(said.support, number, (3, 5))
    assert torch.allclose(expected, found, atol=1e-3)


def test_the_mean_overlay_is_of_an_eighth_of_the_heads(result):
    said = result.captions[0]
    number = next(n for n, word in enumerate(said.support.words) if word.object)
    chosen = aware_heads(said.support.heads[number])
    assert int(chosen.sum()) == 8
    expected = said.support.patches[number][chosen].float().mean(dim=0)
    assert torch.equal(expected, attention_of(said.support, number))


def test_the_picture_is_the_one_the_model_sees(result):
    seen = result.picture.seen
    assert seen.grid == (8, 8)
    assert seen.exact
    difference = torch.tensor(list(seen.image.tobytes())) - torch.tensor(
        list(example(SCENE).image.tobytes())
    )
    assert int(difference.abs().max()) <= 1


def test_a_cropped_picture_is_shown_cropped(model):
    wide = Image.new("RGB", (300, 100), "white")
    wish = Wish(model, wide, PROMPT, (), Decoding(max_new_tokens=4))
    *_, found = describe(wish, running=threading.Lock(), stop=threading.Event())
    assert found.picture.seen.image.size == (112, 112)


def test_words_are_marked_right_and_invented_as_chair_reads_them():
    reading = read_caption("There is a kitten and a horse near two kittens.", {"cat", "dog"})
    assert [(mention.object, mention.right) for mention in reading.mentions] == [
        ("cat", True),
        ("horse", False),
        ("cat", True),
    ]
    assert reading.invented == ("horse",)
    assert reading.missed == ("dog",)
    assert read_caption("There is a kitten.", None).invented is None


def test_the_page_marks_an_invented_word_and_shows_its_score(result):
    page = captions.finished(result, Selection.first(result))
    number = next(n for n, w in enumerate(result.captions[0].support.words) if w.text == "horse")
    score = result.captions[0].support.words[number].score
    assert f'aria-label="horse: grounding score {score:.2f}' in page
    assert "not in the picture" in page
    assert "In this scene: cat, potted plant." in page


def test_a_caption_is_escaped_wherever_it_is_shown(model):
    spoken = captions.growing(("<b>x</b>",), (), "<i>")
    assert "<b>x</b>" not in spoken
    assert "<i>" not in spoken
    assert "&lt;script&gt;" in captions.refused("<script>")


def test_the_map_outlines_what_the_method_acts_on_and_shows_every_layer(result):
    page = head_table(result, Selection(1))
    assert int(result.captions[1].support.touched.sum()) == page.count("vh-acted")
    assert page.count('<th scope="row">') == 8
    assert page.count('role="gridcell"') == 64
    assert page.count('role="gridcell" tabindex="0"') == 1
    assert "acts on no head in particular" in head_table(result, Selection(2))


def test_sinks_are_drawn_where_the_detector_finds_them(result):
    page = picture(result, Selection.first(result))
    tokens = int(result.picture.sinks.any(dim=0).sum())
    assert tokens > 0
    assert tokens == page.count("<rect")


def test_the_table_compares_what_is_named_and_invented(result):
    rows = compared(result)
    assert rows[0]["invented"] == ["horse"]
    assert "horse" in comparison_table(result)
    assert [row["caption"] for row in rows] == ["plain", "vhr", "cfg"]


@pytest.mark.parametrize(
    "given",
    [
        {"caption": 3},
        {"caption": -1},
        {"caption": "0"},
        {"word": 10_000},
        {"word": 0, "layer": 1},
        {"word": 0, "layer": 8, "head": 0},
        {"word": 0, "layer": 0, "head": 8},
        {"word": True},
    ],
)
def test_a_selection_that_the_run_does_not_have_is_refused(result, given):
    with pytest.raises(VlmHeadsError):
        Selection.of(result, given)


def test_an_export_holds_everything_on_the_page(result):
    exported = json.loads(as_json(result))
    assert json.loads(json.dumps(answer(result))) == exported
    words = [word for word in exported["captions"][0]["words"] if word["object"]]
    assert all(len(word["overlay"]) == 64 for word in words)
    files = as_pictures(result)
    assert len(files) == 2 + 3 + sum(
        word.object is not None for said in result.captions for word in said.support.words
    )
    for data in files.values():
        with Image.open(BytesIO(data)) as image:
            image.verify()
    with zipfile.ZipFile(BytesIO(archive(files))) as packed:
        assert list(files) == packed.namelist()


def test_old_runs_make_room(result):
    kept = Results(kept=1)
    kept.add(result)
    assert kept.get(result.key) is result
    kept.add(dataclasses.replace(result, key="next"))
    with pytest.raises(VlmHeadsError, match="not kept any more"):
        kept.get(result.key)
    with pytest.raises(VlmHeadsError):
        kept.get(None)  # type: ignore[arg-type]


def test_measuring_leaves_nothing_attached(model, result):
    assert not hasattr(model.captioner.model, ATTACHED)
    with attach(model.captioner.model, "vhr"):
        pass

"""From tokens to characters to words, and what a captioner says of them."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import cache, partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from vlmheads import Captioner, VlmHeadsError, attach
from vlmheads.grounding import grounding
from vlmheads.grounding.scores import Scorer
from vlmheads.grounding.words import find_objects, token_masks, token_spans, word_spans
from vlmheads.model.geometry import Geometry

ANY_TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\ufffd"))
GEOMETRY = Geometry("llava", 8, 8)


@cache
def embedded() -> Captioner:
    return Captioner.from_pretrained("embedded", ())


@cache
def byte_level() -> Tokenizer:
    """One token a byte, and a few of more; one of these ends in the middle of a character."""
    letters = [chr(code) for code in bytes_to_letters().values()]
    more = ["Ġa", "Ã©", "âĤ", "in", "Ġin"]
    vocabulary = {piece: at for at, piece in enumerate([*letters, *more])}
    merges = [("Ġ", "a"), ("Ã", "©"), ("â", "Ĥ"), ("i", "n"), ("Ġ", "in")]
    tokenizer = Tokenizer(models.BPE(vocabulary, merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def bytes_to_letters() -> dict[int, int]:
    """The letter that byte-level vocabularies write for each byte."""
    shown = [*range(33, 127), *range(161, 173), *range(174, 256)]
    hidden = [code for code in range(256) if code not in shown]
    return {code: code for code in shown} | {code: 256 + at for at, code in enumerate(hidden)}


def byte_fallback() -> Tokenizer:
    """Words with a mark for the space before them, and bytes for all that is no word."""
    pieces = ["<unk>", "▁", "▁a", "▁dog", "s", *(f"<0x{code:02X}>" for code in range(256))]
    vocabulary = {piece: at for at, piece in enumerate(pieces)}
    tokenizer = Tokenizer(models.BPE(vocabulary, [], unk_token="<unk>", byte_fallback=True))
    tokenizer.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    return tokenizer


def decode(tokenizer: Tokenizer) -> Callable[[list[list[int]]], list[str]]:
    return tokenizer.decode_batch


@settings(deadline=None)
@given(ANY_TEXT)
def test_byte_level_tokens_stand_for_every_character_that_they_hold_a_byte_of(text: str) -> None:
    text = text.strip()
    tokenizer = byte_level()
    ids = tokenizer.encode(text).ids
    spans = token_spans(ids, text, decode(tokenizer))
    place = 0  # in bytes
    owner = [at for at, letter in enumerate(text) for _ in letter.encode()]
    for token, (start, end) in zip(ids, spans, strict=True):
        size = len(tokenizer.id_to_token(token))  # a letter a byte
        expected = owner[place], owner[place + size - 1] + 1
        assert start <= expected[0] < end
        if size == 1:
            assert (start, end) == expected
        place += size


@settings(deadline=None)
@given(st.lists(st.integers(0, 277), max_size=30))
def test_any_tokens_of_the_embedded_model_cover_their_text_in_order(ids: list[int]) -> None:
    tokenizer = embedded().processor.tokenizer
    texts = partial(embedded().processor.batch_decode, skip_special_tokens=True)
    text = texts([ids])[0].strip() if ids else ""
    spans = token_spans(ids, text, texts, frozenset(tokenizer.all_special_ids))
    assert len(spans) == len(ids)
    assert [start for start, _ in spans] == sorted(start for start, _ in spans)
    covered = {at for start, end in spans for at in range(start, end)}
    assert covered == set(range(len(text)))


@settings(deadline=None)
@given(st.lists(st.sampled_from([*"a dog dogs kitchen with There pizza,".split(), "wine glass."])))
def test_tokens_of_the_embedded_model_are_where_its_tokenizer_puts_them(words: list[str]) -> None:
    tokenizer = embedded().processor.tokenizer
    text = " ".join(words)
    coded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    texts = partial(embedded().processor.batch_decode, skip_special_tokens=True)
    for (start, end), (first, last) in zip(
        token_spans(coded["input_ids"], text, texts), coded["offset_mapping"], strict=True
    ):
        assert text[start:end].strip() == text[first:last].strip()


def test_bytes_that_only_together_make_a_letter_all_stand_for_it() -> None:
    tokenizer = byte_fallback()
    letters = [tokenizer.token_to_id(f"<0x{code:02X}>") for code in "🐶é".encode()]
    ids = [2, *letters[:4], 3, *letters[4:], 4]
    text = "a🐶 dogés"
    assert tokenizer.decode(ids) == text
    assert token_spans(ids, text, decode(tokenizer)) == [
        (0, 1), (1, 2), (1, 2), (1, 2), (1, 2), (2, 6), (6, 7), (6, 7), (7, 8)
    ]  # fmt: skip


def test_special_tokens_and_space_around_the_text_stand_for_nothing() -> None:
    ids = [9, 5, 6, 9, 7]
    pieces = {5: " ", 6: "a", 7: "b", 9: ""}
    texts = [" ", "a", "b"]
    assert "".join(texts).strip() == "ab"

    def spell(rows: list[list[int]]) -> list[str]:
        return ["".join(pieces[token] for token in row) for row in rows]

    assert token_spans(ids, "ab", spell, {9}) == [(0, 0), (0, 0), (0, 1), (1, 1), (1, 2)]
    assert token_spans([], "", spell) == []
    with pytest.raises(VlmHeadsError, match="tokens that decode to ' ab'"):
        token_spans(ids, "abc", spell, {9})


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("A dog's bowl, 3.5 kg.", "A|dog's|bowl|3.5|kg"),
        ("the teddy-bear — it's there", "the|teddy-bear|it's|there"),
        ("“a hot dog”", "a|hot dog"),
        ("कुत्ता और एक बिल्ली", "कुत्ता|और|एक|बिल्ली"),
        ("e\u0301te\u0301, 猫と犬。", "e\u0301te\u0301|猫と犬"),
        ("...", ""),
        ("", ""),
    ],
)
def test_words_are_runs_of_letters_and_an_objects_name_is_one(text: str, expected: str) -> None:
    objects = [(start, start + 7, "hot dog") for start in [text.find("hot dog")] if start >= 0]
    found = word_spans(text, objects)
    assert "|".join(text[start:end] for start, end, _ in found) == expected
    assert [name for *_, name in found if name] == [name for *_, name in objects]


@settings(deadline=None)
@given(ANY_TEXT)
def test_words_never_overlap_and_hold_every_letter(text: str) -> None:
    spans = [span[:2] for span in word_spans(text, [])]
    assert all(one[1] <= other[0] for one, other in pairwise(spans))
    held = {at for start, end in spans for at in range(start, end)}
    assert {at for at, letter in enumerate(text) if letter.isalnum()} <= held


def test_an_object_takes_the_word_that_it_is_part_of_and_two_share_none() -> None:
    text = "a dog's cat-dog"
    objects = [(2, 5, "dog"), (8, 11, "cat"), (12, 15, "dog")]
    assert word_spans(text, objects)[1:] == [(2, 7, "dog"), (8, 11, "cat"), (12, 15, "dog")]


def test_objects_are_found_by_name_number_and_sense() -> None:
    text = "A man with a bow tie and two Wine Glasses; there isn't a dog."
    found = [(text[start:end], name) for start, end, name in find_objects(text)]
    assert found == [("man", "person"), ("bow tie", "tie"), ("Wine Glasses", "wine glass")]


def test_masks_hold_the_tokens_that_overlap_a_span_of_their_kind() -> None:
    tokenizer = embedded().processor.tokenizer
    texts = ["There is a dog and a bird.", "A bird."]
    dogs: list[list[tuple[int, int]]] = [[(11, 14)], []]
    birds = [[(21, 25)], [(2, 6)]]
    ids, dog, bird = token_masks(tokenizer, texts, dogs, birds)
    assert ids.shape == dog.shape == bird.shape
    assert tokenizer.decode(ids[dog]).split() == ["dog"]
    assert tokenizer.decode(ids[bird]).split() == ["bird", "bird"]


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    from vlmheads_testbed.coco import write_dataset

    folder = tmp_path_factory.mktemp("scenes")
    write_dataset(folder, "val", 3, 7)
    return sorted((folder / "images").iterdir())


@pytest.fixture(scope="module")
def captions(scenes: list[Path]) -> Any:
    return embedded()(scenes, words=True, plugins="vhr")


def test_a_caption_carries_its_words_where_asked_for(captions: Any, scenes: list[Path]) -> None:
    plain = embedded()(scenes, plugins="vhr")
    assert [caption.text for caption in plain] == [caption.text for caption in captions]
    assert all(caption.words == () and len(caption.ids) == caption.tokens for caption in plain)
    for caption in captions:
        assert caption.words
        for word in caption.words:
            assert caption.text[word.start : word.end] == word.text
            said = embedded().processor.tokenizer.decode(caption.ids[word.first : word.last])
            assert word.text in said
            assert 0 <= word.score <= 1
        assert {word.object for word in caption.words} - {None}


def test_words_carry_what_their_tokens_measure_alone(captions: Any, scenes: list[Path]) -> None:
    captioner, caption = embedded(), captions[1]
    inputs = captioner.prepare([scenes[1]], "Describe the image.")
    found = grounding(captioner.model, inputs, torch.tensor([caption.ids]))
    scorer = Scorer.of(captioner.model)
    k = scorer.heads(GEOMETRY)
    for word in caption.words:
        part = slice(word.first, word.last)
        assert word.log_probability == pytest.approx(
            float(found.log_probability[0, part].sum()), abs=1e-4
        )
        assert word.log_probability_without == pytest.approx(
            float(found.log_probability_without[0, part].sum()), abs=1e-4
        )
        assert word.attention == pytest.approx(float(found.attention[0, part].mean()), abs=1e-5)
        assert word.divergence == pytest.approx(
            float(found.token_divergence(k)[0, part].mean()), rel=1e-4
        )
        assert word.image_gain == word.log_probability - word.log_probability_without
        assert word.score == scorer(word.measures)
        assert set(word.scores) == set(scorer.further)
        assert word.place == word.first
        before = [other.object for other in caption.words if other.start < word.start]
        assert word.repeat == (word.object is not None and word.object in before)


def test_words_are_refused_where_plugins_act_that_the_captioner_cannot_take_away() -> None:
    with attach(embedded().model, "vhr"), pytest.raises(VlmHeadsError, match="plugins attached"):
        embedded()(["nowhere.png"], words=True)


def test_words_of_several_captions_an_image_are_refused_before_any_is_made() -> None:
    with pytest.raises(VlmHeadsError, match="num_return_sequences=2"):
        embedded()(["nowhere.png"], words=True, num_return_sequences=2)


def test_a_scorer_of_another_model_is_refused_before_anything_is_made() -> None:
    scorer = Scorer({"attention": 1.0}, geometry=Geometry("llava", 32, 32))
    with pytest.raises(VlmHeadsError, match="made for llava with 32 layers of 32 heads"):
        embedded()(["nowhere.png"], words=scorer)


def test_the_plain_score_is_the_images_share_of_the_words_probability() -> None:
    scorer = Scorer.plain()
    values = {"log_probability": -0.5, "log_probability_without": -2.0}
    expected = 1 / (1 + 2.718281828459045**-1.5)
    assert scorer(values) == pytest.approx(expected)
    assert scorer({"log_probability": -1e4, "log_probability_without": 0.0}) == 0
    assert scorer({"log_probability": 0.0, "log_probability_without": -1e4}) == 1
    assert (scorer.threshold, scorer.heads(Geometry("x", 2, 32))) == (0.5, 4)


def test_a_scorer_survives_saving(tmp_path: Path) -> None:
    scorer = Scorer(
        {"divergence": 2.0},
        0.5,
        {"divergence": 3.0},
        {"divergence": 4.0},
        0.25,
        1,
        GEOMETRY,
        {"a": 1},
    )
    scorer.save(tmp_path / "scorer.json")
    assert Scorer.load(tmp_path / "scorer.json") == scorer
    values = {"divergence": 7.0, "log_probability": -1.0, "log_probability_without": -2.0}
    assert scorer(values) == pytest.approx(1 / (1 + 2.718281828459045**-2.5))


def test_a_scorer_may_weigh_the_images_share_of_the_probability() -> None:
    values = {"log_probability": -1.0, "log_probability_without": -2.0}
    share = Scorer.plain()(values)
    scorer = Scorer({"image_share": 3.0}, 0.1, {"image_share": 0.5}, {"image_share": 0.2})
    assert scorer(values) == pytest.approx(
        1 / (1 + 2.718281828459045 ** -(0.1 + 15 * (share - 0.5)))
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"schema": 2}, "has schema 2"),
        ({"weights": {}}, "a scorer of nothing"),
        ({"weights": {"luck": 1.0}}, "a scorer of luck"),
        ({"scale": {"attention": 0.0}}, "numbers that make no score"),
        ({"threshold": 1.5}, "threshold 1.5"),
        ({"geometry": {"layers": 1}}, "geometry: no key 'model_type'"),
        ({"other": 1}, "unknown key 'other'"),
    ],
)
def test_what_is_no_scorer_is_refused(change: Any, message: str, tmp_path: Path) -> None:
    path = tmp_path / "scorer.json"
    with pytest.raises(VlmHeadsError, match="no file"):
        Scorer.load(path)
    Scorer({"attention": 1.0}).save(path)
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(VlmHeadsError, match=message):
        Scorer.load(path)


def test_the_embedded_model_brings_the_scorer_that_was_fitted_on_it() -> None:
    scorer = Scorer.of(embedded().model)
    assert (scorer.name, scorer.geometry) == ("fitted on embedded", GEOMETRY)
    assert {"place", "repeat"} < set(scorer.weights)
    assert scorer.provenance["data"] == "testbed:val"
    assert scorer.caveat == ""  # it beats place alone within bins, on other images


def test_a_model_from_elsewhere_is_scored_by_the_plain_scorer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Scorer({"attention": 1.0}).save(tmp_path / "grounding.json")
    monkeypatch.chdir(tmp_path)  # a model that was built in code has no folder, not this one
    assert Scorer.of(tiny.build("llava")) == Scorer.plain()

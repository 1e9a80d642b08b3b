import json

import pytest
from vlmheads_eval.records import image_key, read_captions

from vlmheads.errors import VlmHeadsError

GOOD = b'{"image_id": 1, "caption": "A dog."}\n'


@pytest.fixture
def read(tmp_path):
    def captions(content, name="captions.jsonl", **options):
        path = tmp_path / name
        path.write_bytes(content)
        return list(read_captions(path, **options))

    return captions


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b'{"image_id": 2, "caption": "\xff"}', "not UTF-8"),
        (b'{"image_id": 2, "capt', "not JSON ("),
        (b'{"image_id": 2, "caption": "\\ud800"}', "not JSON"),
        (b'{"image_id": 2, "caption": NaN}', "not JSON"),
        (b'{"image_id": ' * 100_000, "image_id"),
        (b'{"image_id": 2, "caption": "A dog.", "x": ' + b"[" * 100_000, "nested too deeply"),
        (b"[1, 2]", "is a list; expected an object"),
        (b'{"caption": "A dog."}', "no image_id"),
        (b'{"image_id": true, "caption": "A dog."}', "image_id is true or false"),
        (b'{"image_id": 2}', "no caption"),
        (b'{"image_id": 2, "caption": ["A dog."]}', "caption is a list; expected text"),
        (b'{"image_id": 1, "caption": "Again."}', "again, first at"),
        (b'{"image_id": "0001", "caption": "Again."}', "again"),
        (b'{"image_id": 2, "caption": "A dog.", "at_limit": 3}', "at_limit is a whole number"),
        (b"[" * 100_000, "is a list"),
        (b'{"image_id": ' + b"9" * 5000 + b', "caption": "A dog."}', "out of range"),
    ],
    ids=range(16),
)
def test_a_bad_line_is_one_error_that_names_file_and_line(read, line, message):
    with pytest.raises(VlmHeadsError) as error:
        read(GOOD + b"\n" + line + b"\n")
    text = str(error.value)
    assert "captions.jsonl:3" in text
    assert message in text
    assert "\n" not in text
    assert len(text) < 400


def test_good_lines_before_a_bad_one_are_read(tmp_path):
    path = tmp_path / "captions.jsonl"
    path.write_bytes(GOOD + b"{")
    captions = read_captions(path)
    assert next(captions).text == "A dog."


def test_a_caption_of_ten_megabytes_is_read(read):
    text = "A dog and a cat. " * 600_000
    [caption] = read(json.dumps({"image_id": 1, "caption": text}).encode())
    assert len(caption.text) == len(text)


def test_several_captions_an_image_come_in_a_json_list(read):
    content = json.dumps([{"image_id": 1, "caption": text} for text in ("A dog.", "A cat.")])
    assert [caption.text for caption in read(content.encode())] == ["A dog.", "A cat."]


def test_several_captions_an_image_in_json_lines_are_read_on_request(read):
    assert len(read(GOOD + GOOD, repeats=True)) == 2


def test_a_bad_json_list_names_its_line(read):
    with pytest.raises(VlmHeadsError, match=r"captions\.json:3: "):
        read(b'[\n{"image_id": 1, "caption": "A dog."},\n{"image_id"]', "captions.json")


def test_a_bad_record_of_a_json_list_is_numbered(read):
    with pytest.raises(VlmHeadsError, match=r"record 2: no caption"):
        read(b'[{"image_id": 1, "caption": "A dog."}, {"image_id": 2}]', "captions.json")


@pytest.mark.parametrize("content", [b"", b"\n", b"[]", b'{"image_id": 1, "error": "no file"}'])
def test_a_file_without_a_caption_is_refused(read, content):
    with pytest.raises(VlmHeadsError, match="holds no caption.*; expected at least one caption"):
        read(content)


@pytest.mark.parametrize("content", [GOOD, b"[" + GOOD + b"]"], ids=["lines", "list"])
def test_a_byte_order_mark_is_left_out(read, content):
    assert read(b"\xef\xbb\xbf" + content) == read(content)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(VlmHeadsError, match=r"none\.jsonl cannot be read"):
        list(read_captions(tmp_path / "none.jsonl"))


def test_spellings_of_one_image_id_are_one_key():
    assert {image_key(42), image_key("42"), image_key("000000000042")} == {"42"}

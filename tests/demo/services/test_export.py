from __future__ import annotations

import json
import zipfile
from io import BytesIO

from PIL import Image
from vlmheads_demo.services.export import (
    archive,
    result_json,
    result_pictures,
    result_to_dict,
)


def test_an_export_contains_everything_on_the_page(result):
    exported = json.loads(result_json(result))
    assert json.loads(json.dumps(result_to_dict(result))) == exported
    words = [word for word in exported["captions"][0]["words"] if word["object"]]
    assert all(len(word["overlay"]) == 64 for word in words)
    for one in exported["captions"]:
        ended = not one["at_limit"]
        assert len(one["token_texts"]) == len(one["image_gains"]) == one["tokens"] + ended
    files = result_pictures(result)
    assert len(files) == 2 + 3 + sum(
        word.object is not None for one in result.captions for word in one.measured.words
    )
    for data in files.values():
        with Image.open(BytesIO(data)) as image:
            image.verify()
    with zipfile.ZipFile(BytesIO(archive(files))) as packed:
        assert list(files) == packed.namelist()

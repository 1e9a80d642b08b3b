"""Captions of an image column, by `Dataset.map`.

tests/jobs/test_formats.py reads what a captioning job wrote as an ImageFolder.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import datasets
from PIL import Image

from vlmheads import Captioner

PLUGIN = "vhr:alpha=4"


def test_a_column_of_captions_is_mapped_in_batches_and_comes_from_the_cache_again(
    captioner: Captioner, pictures: list[Image.Image], tmp_path: Path
) -> None:
    (tmp_path / "photos").mkdir()
    for number, picture in enumerate(pictures):
        picture.save(tmp_path / "photos" / f"{number}.png")
    table = datasets.load_dataset(
        "imagefolder",
        data_dir=str(tmp_path / "photos"),
        split="train",
        cache_dir=str(tmp_path / "cache"),
    )
    sizes = []

    def describe(batch: dict[str, Any]) -> dict[str, Any]:
        sizes.append(len(batch["image"]))
        found = captioner(batch["image"], plugins=PLUGIN, max_new_tokens=16)
        return {"caption": [caption.text for caption in found]}

    options: dict[str, Any] = {"batched": True, "batch_size": 2, "new_fingerprint": "described"}
    expected = captioner(pictures, plugins=PLUGIN, max_new_tokens=16)
    for _ in range(2):
        found = table.map(describe, **options)
        assert found["caption"][:] == [caption.text for caption in expected]
        assert found[0]["image"].size == pictures[0].size
    assert sizes == [2, 1]

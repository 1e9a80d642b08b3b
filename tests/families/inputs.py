"""Prompts for the tiny models: left-padded batches, each row with one image."""

from __future__ import annotations

import inspect
from typing import Any

import torch
from build import IMAGE, PAD
from row import Row
from table import ROWS
from torch import Tensor

_ALONG_TOKENS = ("input_ids", "attention_mask", "token_type_ids", "mm_token_type_ids")


def row_of(model_type: str) -> Row:
    """The row of an entry; one that needs nothing has none."""
    return ROWS.get(model_type, Row())


@torch.no_grad()
def feature_count(model: Any, row: Row) -> int:
    """How many tokens the vision side makes of one image."""
    if row.count:
        return row.count
    features = model.base_model.get_image_features(**row.images(model.config, [0]))
    pooled = features.pooler_output
    if pooled is None:  # what enters the first of the layers that images enter
        pooled = features.deepstack_features[0][1]
    if isinstance(pooled, Tensor):
        return pooled.shape[:-1].numel()
    return sum(part.shape[:-1].numel() for part in pooled)


def inputs(
    model: Any,
    model_type: str,
    lengths: tuple[int, ...] = (5,),
    seed: int = 0,
    image_seed: int | None = None,
) -> dict[str, Any]:
    """A left-padded batch: two words, one image, then `lengths[row]` words."""
    row = row_of(model_type)
    generator = torch.Generator().manual_seed(seed)
    count = feature_count(model, row)
    image = [token for mark in row.frame for token in ([IMAGE] * count if mark == -1 else [mark])]
    rows = []
    for length in lengths:
        words = torch.randint(2, 50, (2 + length,), generator=generator).tolist()
        rows.append([*words[:2], *image, *words[2:]])
    longest = max(len(ids) for ids in rows)
    ids = torch.tensor([[PAD] * (longest - len(part)) + part for part in rows])
    mask = torch.tensor([[0] * (longest - len(part)) + [1] * len(part) for part in rows])
    batch: dict[str, Any] = {"input_ids": ids, "attention_mask": mask}
    if row.types and row.types in inspect.signature(model.forward).parameters:
        batch[row.types] = (ids == IMAGE).long()
    seeds = [1000 * (seed if image_seed is None else image_seed) + n for n in range(len(lengths))]
    return batch | row.images(model.config, seeds)


def alone(
    model: Any, model_type: str, lengths: tuple[int, ...], index: int, seed: int = 0
) -> dict[str, Any]:
    """Row `index` of `inputs(model, model_type, lengths, seed)`, without padding."""
    batch = inputs(model, model_type, lengths, seed)
    keep = batch["attention_mask"][index].bool()
    one = {
        name: value[index : index + 1][:, keep]
        for name, value in batch.items()
        if name in _ALONG_TOKENS
    }
    return one | row_of(model_type).images(model.config, [1000 * seed + index])

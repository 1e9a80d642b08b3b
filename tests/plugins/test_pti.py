"""PTI against its formulas: all but the last prompt token, the cache edited, then the rest."""

from __future__ import annotations

from typing import Any

import agree
import pytest
import slow
import tiny
import torch
from torch import Tensor
from vlmheads_plugins.pti import PTI, from_release

import vlmheads
from vlmheads.detect.directions import cache_direction, layer_cache
from vlmheads.learned import Learned
from vlmheads.model.anatomy import examine
from vlmheads.model.geometry import Geometry

NAMES = ("image_keys", "image_values", "text_keys", "text_values")


def directions(heads: int, size: int = 8) -> Learned:
    generator = torch.Generator().manual_seed(10)
    values = {name: torch.randn(4, heads, size, generator=generator) for name in NAMES}
    return Learned("pti", values, Geometry("llava", 4, 4))


def moved(x: Tensor, s: Tensor, strength: float, form: str) -> Tensor:
    if form == "paper":
        return x + strength * s
    away = max(0.0, -float(x @ s) / float(x.norm() * s.norm()))
    u = x / x.norm() + strength * (1 + away) * s / s.norm()
    return x.norm() * u / u.norm()


@pytest.mark.parametrize(("family", "heads"), [("llava", 4), ("llava-gqa", 2)])
@pytest.mark.parametrize(
    ("form", "strengths"),
    [("paper", (0.3, 0.6)), ("release", (0.1, 0.6)), ("release", (2.0, 0.0))],
)
def test_the_cache_is_moved_before_the_last_prompt_token(
    family: str, heads: int, form: str, strengths: tuple[float, float]
) -> None:
    model, row, made = tiny.build(family), tiny.inputs(family), directions(heads)
    ids, visual = row["input_ids"][0], slow.image_columns(model, row)
    decoder = slow.Slow(model)
    hidden = decoder.weights["embed_tokens.weight"][ids]
    hidden[visual] = slow.image_features(model, row)
    decoder.forward(hidden[:-1])
    for layer in range(4):
        sides = (("keys", decoder.keys, strengths[0]), ("values", decoder.values, strengths[1]))
        for name, cached, strength in sides:
            places = [("image", j) for j in visual.nonzero()[:, 0].tolist()]
            for kind, j in [*places, ("text", len(ids) - 2)]:
                s = made.values[f"{kind}_{name}"][layer].double()
                parts = [moved(x, s[h], strength, form) for h, x in enumerate(cached[layer][j])]
                cached[layer][j] = torch.stack(parts)
    logits, chosen = [decoder.token(int(ids[-1]))], list[int]()
    while True:
        chosen.append(int(logits[-1].argmax()))
        if len(chosen) == 8:
            break
        logits.append(decoder.token(chosen[-1]))
    plain = slow.decode(model, row, tokens=chosen)
    assert float((plain[1][0] - logits[0]).abs().max()) > 1e-3
    plugin = PTI(directions=made, form=form, key_strength=strengths[0], value_strength=strengths[1])
    agree.assert_same((chosen, torch.stack(logits)), agree.generate(model, row, plugin))


def test_what_a_layer_caches_is_read_at_some_positions() -> None:
    model, row = tiny.build("llava-gqa"), tiny.inputs("llava-gqa")
    decoder = slow.Slow(model)
    decoder.prompt(row)
    place = slow.image_columns(model, row)
    keys, values = layer_cache(model, row, place)
    for found, cached in ((keys, decoder.keys), (values, decoder.values)):
        for layer in range(4):
            mean = torch.stack([cached[layer][j] for j in place.nonzero()[:, 0]]).mean(dim=0)
            torch.testing.assert_close(found[layer].double(), mean, atol=1e-5, rtol=0)


def test_a_direction_is_the_mean_and_the_component_of_all_heads_together() -> None:
    data = torch.randn(7, 2, 2, 3, generator=torch.Generator().manual_seed(2)) + 0.5
    found = cache_direction(data)
    for layer in range(2):
        flat = data[:, layer].reshape(7, 6).double()
        mean = flat.mean(dim=0)
        component = torch.linalg.eigh((flat - mean).T @ (flat - mean)).eigenvectors[:, -1]
        expected = mean + component * (component @ mean).sign()
        torch.testing.assert_close(found[layer].flatten().double(), expected, atol=1e-5, rtol=0)


def test_the_authors_files_are_taken() -> None:
    made = directions(2)
    image, text = (
        {part: [one[None] for one in made.values[f"{kind}_{part}"]] for part in ("keys", "values")}
        for kind in ("image", "text")
    )
    geometry = examine(tiny.build("llava-gqa")).geometry
    found = from_release(image, text, geometry)
    assert all(torch.equal(found.values[name], made.values[name]) for name in NAMES)
    with pytest.raises(vlmheads.VlmHeadsError, match="keys and values of 4 layers"):
        from_release({"keys": image["keys"][:3], "values": image["values"]}, text, geometry)


def test_no_directions_are_refused_and_so_are_those_of_other_heads() -> None:
    with pytest.raises(vlmheads.VlmHeadsError, match="without directions,"):
        vlmheads.attach(tiny.build("llava"), "pti")
    model: Any = tiny.build("llava-gqa")
    with (
        vlmheads.attach(model, PTI(directions=directions(4))),
        pytest.raises(vlmheads.VlmHeadsError, match=r"directions of keys \[4, 8\]"),
    ):
        model.generate(**tiny.inputs("llava-gqa"), max_new_tokens=1)

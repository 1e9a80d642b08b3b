"""Revis against its formulas, by hand on the slow decoder."""

from __future__ import annotations

from typing import Any

import agree
import pytest
import slow
import tiny
import torch
from torch import Tensor
from vlmheads_plugins.revis import Revis

import vlmheads
from vlmheads.detect.directions import steering_vectors
from vlmheads.learned import Learned
from vlmheads.model.geometry import Geometry

GEOMETRY = Geometry("llava", 4, 4)


def learned(width: int = 32, forms: int = 2, layer: float = 2.0) -> Learned:
    generator = torch.Generator().manual_seed(9)
    values = {
        "vectors": torch.randn(forms, 4, width, generator=generator),
        "thresholds": torch.tensor([[-1.0, 0.3, 0.02, 0.1]] * forms) + torch.arange(forms)[:, None],
        "layers": torch.full((forms,), layer),
    }
    return Learned("revis", values, GEOMETRY)


@pytest.mark.parametrize(
    ("options", "form", "at", "tau"),
    [
        ({}, 0, 2, 0.02),
        ({"layer": 1, "tau": -0.01}, 0, 1, -0.01),
        ({"form": "release", "tau": 0.0}, 1, 2, 0.0),
    ],
)
def test_tokens_at_risk_are_steered(
    options: dict[str, Any], form: int, at: int, tau: float
) -> None:
    made, acted = learned(), list[bool]()
    v = made.values["vectors"][form, at].double()

    def steer(layer: int, states: Tensor) -> Tensor:
        if layer != at:
            return states
        rows = []
        for h in states:
            risk = -float(h @ v) / float(h.norm() * v.norm())
            acted.append(risk > tau)
            rows.append(h + 0.5 * v if risk > tau else h)
        return torch.stack(rows)

    plugin = Revis(learned=made, alpha=0.5, **options)
    agree.assert_plugin_is(plugin, slow.Edits(residual=steer), "llava-gqa")
    assert set(acted) == {True, False}


def test_a_threshold_of_one_never_steers_and_one_of_minus_two_always() -> None:
    model, row = tiny.build("llava"), tiny.inputs("llava")
    plain = agree.generate(model, row, Revis.neutral())
    never = agree.generate(model, row, Revis(learned=learned(), tau=1.0))
    assert torch.equal(plain[1], never[1])
    v = learned().values["vectors"][0, 2].double()
    always = slow.Edits(residual=lambda layer, h: h + 2.5 * v if layer == 2 else h)
    agree.assert_plugin_is(Revis(learned=learned(), tau=-2.0), always, "llava")


def test_vectors_are_what_truth_has_beside_the_prior() -> None:
    generator = torch.Generator().manual_seed(1)
    prior = torch.randn(8, 2, 5, generator=generator) + 1
    truth = torch.randn(8, 2, 5, generator=generator) + torch.tensor([4.0, 0, 0, 0, 0])
    for form in ("paper", "release"):
        found = steering_vectors(prior, truth, form).double()
        for layer in range(2):
            p, t = prior[:, layer].double(), truth[:, layer].double()
            away = p.mean(dim=0) if form == "paper" else _component(p)
            away = away / away.norm()
            rest = torch.stack([one - (one @ away) * away for one in t])
            expected = rest.mean(dim=0)
            if form == "release":
                mean = expected
                expected = _component(rest) * sum(float(one.norm()) for one in rest) / len(rest)
                expected = expected * (expected @ mean).sign()
            torch.testing.assert_close(found[layer], expected, atol=1e-5, rtol=0)
            assert abs(float(found[layer] @ away)) < 1e-4


def _component(samples: Tensor) -> Tensor:
    centred = samples - samples.mean(dim=0)
    return torch.linalg.eigh(centred.T @ centred).eigenvectors[:, -1]


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({}, "without learned,"),
        ({"learned": learned(forms=1)}, "vectors of 1 forms"),
        ({"learned": learned(), "layer": 4}, "layer=4 names layers"),
        ({"learned": learned(layer=7.0)}, "layer=7 names layers"),
    ],
)
def test_what_cannot_steer_is_refused(options: dict[str, Any], match: str) -> None:
    with pytest.raises(vlmheads.VlmHeadsError, match=match):
        vlmheads.attach(tiny.build("llava"), Revis(**options))


def test_vectors_of_another_width_are_refused() -> None:
    model = tiny.build("llava")
    with (
        vlmheads.attach(model, Revis(learned=learned(width=31))),
        pytest.raises(vlmheads.VlmHeadsError, match="width 32"),
    ):
        model.generate(**tiny.inputs("llava"), max_new_tokens=1)

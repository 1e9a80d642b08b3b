"""One entry under test: its model, its inputs, and what the untouched model makes of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from build import build
from inputs import alone, inputs, row_of
from probes import ByHand, Scaled, Sharper, Shifted
from torch import Tensor

from vlmheads import VlmHeadsError, attach
from vlmheads.model.anatomy import Anatomy, examine
from vlmheads.plugin import Plugin
from vlmheads.verify.probes import CacheProbe, VisionProbe

LENGTHS = (5, 3)
TOKENS = 4
# A random model says markers and image tokens too, which no trained one does.
UNSAID = list(range(55, 64))


class BrokenError(AssertionError):
    """A promise that is not kept, in one line."""


@dataclass(eq=False)
class Case:
    """One entry: its model, its inputs, and what the untouched model makes of them."""

    model_type: str
    attention: str = "sdpa"
    plain: dict[str, tuple[Tensor, Tensor]] = field(default_factory=dict)
    own_hooks: int = 0

    @cached_property
    def model(self) -> Any:
        return build(self.model_type, row_of(self.model_type).changes, self.attention)

    @cached_property
    def anatomy(self) -> Anatomy:
        return examine(self.model)

    @cached_property
    def padded(self) -> bool:
        """Whether the untouched model gives a left-padded row what it gets alone."""
        ids, logits = self.before("batch")
        for index in range(len(LENGTHS)):
            own_ids, own = self.before(f"row {index}")
            if ids[index].tolist() != own_ids[0].tolist() or far(logits[:, index], own[:, 0]):
                return False
        return True

    @cached_property
    def edits(self) -> dict[str, Callable[[Case], Plugin]]:
        """The edits that this model is not refused for."""
        found = dict(EDITS)
        if not any(self.anatomy.mlps):
            del found["mlp"]
        for name in ("rows", "cache", "vision"):
            try:
                self.run("row 0", found[name](self))
            except VlmHeadsError:
                del found[name]
        return found

    def given(self, name: str) -> dict[str, Any]:
        """The inputs "batch", or "row 0" and so on, alone."""
        if name == "batch":
            return inputs(self.model, self.model_type, LENGTHS)
        return alone(self.model, self.model_type, LENGTHS, int(name.split()[1]))

    def run(self, name: str, *plugins: Plugin) -> tuple[Tensor, Tensor]:
        """New tokens [B, N] and the logits [N, B, V] that they came from."""
        given = self.given(name)
        if not plugins:
            return self._generate(given)
        with attach(self.model, list(plugins)):
            return self._generate(given)

    def before(self, name: str) -> tuple[Tensor, Tensor]:
        """What the untouched model gave before anything was attached."""
        if name not in self.plain:
            self.plain[name] = self.run(name)
            self.own_hooks = self.hooks()  # transformers puts some of its own at the first pass
        return self.plain[name]

    def hooks(self) -> int:
        """How many forward hooks there are on the model."""
        return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in self.model.modules())

    def _generate(self, given: dict[str, Any]) -> tuple[Tensor, Tensor]:
        output = self.model.generate(
            **given,
            max_new_tokens=TOKENS,
            do_sample=False,
            suppress_tokens=UNSAID,
            output_logits=True,
            return_dict_in_generate=True,
        )
        return output.sequences[:, -TOKENS:], torch.stack(output.logits)


def far(one: Tensor, other: Tensor, atol: float = 2e-4) -> bool:
    """Whether logits differ, those that the model rules out aside."""
    return difference(one, other) > atol


def difference(one: Tensor, other: Tensor) -> float:
    """The largest difference of logits, those that the model rules out aside."""
    low = torch.finfo(one.dtype).min / 2
    both = (one > low) & (other > low)
    if bool(((one > low) != (other > low)).any()):
        return torch.inf
    gap = (one - other)[both].abs()
    return torch.inf if bool(gap.isnan().any()) else float(gap.max())


def need(kept: bool, otherwise: str) -> None:
    if not kept:
        raise BrokenError(otherwise)


def same(one: tuple[Tensor, Tensor], other: tuple[Tensor, Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def some_gains(case: Case) -> Tensor:
    """A factor from 0 to 2 for each head [L, H]; one for all would vanish in a norm behind."""
    shape = case.anatomy.geometry
    generator = torch.Generator().manual_seed(1)
    return 2 * torch.rand(shape.layers, shape.heads, generator=generator)


EDITS: dict[str, Callable[[Case], Plugin]] = {
    "heads": lambda case: Scaled(gains=some_gains(case)),
    "rows": lambda case: ByHand(bias=-2.0),
    "cache": lambda case: CacheProbe(strength=0.5),
    "vision": lambda case: VisionProbe(strength=0.5),
    "attention": lambda case: Shifted(site="attention"),
    "residual": lambda case: Shifted(site="residual"),
    "mlp": lambda case: Shifted(site="mlp"),
    "logits": lambda case: Sharper(),
}

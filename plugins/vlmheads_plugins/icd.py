"""ICD: contrast with the answer to a disturbed instruction."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Self

import torch
from torch import Tensor

from vlmheads.errors import VlmHeadsError
from vlmheads.model.geometry import Geometry
from vlmheads.plugin import Plugin, option
from vlmheads.runtime.prompt import Prompt
from vlmheads.runtime.request import Request
from vlmheads.runtime.streams import Stream
from vlmheads_plugins._contrast import contrast

DISTURBED = "disturbed"
# The disturbance of the released runs, for the reader to tokenize.
PREFIX = (
    "You are a confused objects detector to provide a fuzzy overview or impression of the image."
)


@dataclass(frozen=True)
class ICD(Plugin):
    """Contrast the logits with those after a disturbing instruction.

        l' = (1 + α) l − α l_disturbed

    where l_disturbed answers the same question about the same image after a disturbing instruction;
    tokens with a probability below `cutoff` times the largest are left out.

    Needs: the plugin has no tokenizer, so the instruction is given as token ids, without special
    tokens: `ICD(prefix=processor.tokenizer(PREFIX, add_special_tokens=False).input_ids)`. It is put
    after the first `skip` tokens of the prompt, in place of the `replaced` tokens that follow.
    On the command line they are `icd:prefix=[ID,ID,ID]`.

    Source: instruction contrastive decoding, Wang et al., ACL Findings 2024, arXiv 2403.18715, and
    p1k0pan/ICD, whose LLaVA script puts the instruction in place of the system prompt (α 1, cut-off
    0.1).

    Deviations: none under sampling; also works under greedy search and beams.

    Pitfalls: for InstructBLIP the release disturbs the Q-Former's instruction too; that family is
    not supported here. Models with three-dimensional positions (Qwen2-VL, Qwen2.5-VL, Qwen3-VL) are
    refused.

    Cost: a second stream of about the same length in the same batch.

    Evidence: on LLaVA-1.5-7B CHAIR 56.2/16.3 in MemVR's comparison and 51.4/14.7 in AllPath's, no
    better than plain decoding; under sampling 54.6 to 57.0 (SEVI's authors).
    """

    name: ClassVar[str] = "icd"
    paper: ClassVar[str] = "Wang et al., ACL Findings 2024, arXiv 2403.18715"
    cost: ClassVar[str] = "a stream with a longer prompt in the same batch"
    search: ClassVar = ({"alpha": 0.25}, {"alpha": 0.5}, {"alpha": 1.0})

    alpha: float = option(1.0, "strength of the contrast; 0 is none", low=0.0, high=10.0)
    cutoff: float = option(
        0.1, "least probability of a token as a share of the largest", low=0.0, high=1.0
    )
    prefix: tuple[int, ...] = option(
        (), "token ids of the disturbing instruction", kind="tokens", text=PREFIX
    )
    skip: int = option(1, "first tokens of the prompt that stay in front of it", low=0, high=10**6)
    replaced: int = option(0, "tokens of the prompt that it stands in for", low=0, high=10**6)

    @classmethod
    def neutral(cls) -> Self:
        """Return no contrast and no cut-off."""
        return cls(alpha=0.0, cutoff=0.0)

    @property
    def streams(self) -> tuple[Stream, ...]:
        """The prompt after the disturbing instruction, where there is a contrast."""
        return (Stream(DISTURBED, self._disturbed),) if self.alpha else ()

    def on_attach(self, geometry: Geometry) -> None:
        """Refuse a contrast without an instruction."""
        if self.alpha and not self.prefix:
            raise VlmHeadsError(
                f"{self.name} without a disturbing instruction",
                "prefix, its token ids",
                "such as processor.tokenizer(vlmheads_plugins.icd.PREFIX, "
                "add_special_tokens=False).input_ids",
            )

    def _disturbed(self, prompt: Prompt) -> Prompt:
        """Put the instruction into every row."""
        length = prompt.ids.shape[1]
        first = prompt.mask.int().argmax(dim=1) + self.skip
        last = first + self.replaced
        column = torch.arange(length, device=first.device)
        taken = (column >= first[:, None]) & (column < last[:, None])
        if bool((last >= length).any()) or bool((taken & prompt.visual).any()):
            raise VlmHeadsError(
                f"{self.name}: skip={self.skip}, replaced={self.replaced} in a prompt of "
                f"{int(prompt.mask.sum(dim=1).min())} tokens",
                "tokens in front of the image",
            )
        # Columns of the prompt in their new order; those beyond it stand for the instruction.
        added = torch.arange(length, length + len(self.prefix), device=first.device)
        order = torch.stack(
            [
                torch.cat([column[:start], added, column[end:]])
                for start, end in zip(first.tolist(), last.tolist(), strict=True)
            ]
        )

        def arrange(values: Tensor, more: list[int]) -> Tensor:
            extra = values.new_tensor(more).expand(len(values), -1)
            return torch.cat([values, extra], dim=1).gather(1, order)

        count = len(self.prefix)
        types = {name: arrange(value, [0] * count) for name, value in prompt.token_types.items()}
        return Prompt(
            arrange(prompt.ids, list(self.prefix)),
            arrange(prompt.mask, [1] * count),
            arrange(prompt.visual, [0] * count),
            types,
        )

    def on_logits(self, request: Request, logits: Tensor) -> Tensor:
        """Contrast the next token."""
        if not self.alpha and not self.cutoff:
            return logits
        return contrast(request, logits, DISTURBED, self.alpha, self.cutoff)

"""Logits of hidden states, made by the model's own forward in place of a copy of its last lines.

A model scales, caps and bans logits each in its own way after its head. Its forward is run on a
stand-in for everything in front of the head, which returns the hidden states that were given.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from vlmheads.errors import VlmHeadsError
from vlmheads.runtime.compat import with_child

if TYPE_CHECKING:
    from vlmheads.model.anatomy import Anatomy

# Children of a decoder that do nothing between its last layer and its head.
_BEFORE = ("embed_", "embeddings", "layers", "rotary", "vqmodel", "project_in", "per_layer_")


class _Given(nn.Module):
    """Stands for everything in front of a head: its output is what it was made with."""

    def __init__(self, body: nn.Module, decoder: nn.Module, hidden: Tensor) -> None:
        super().__init__()
        # Not a child of it, which would be searched for parameters and moved about with it.
        self.__dict__["body"], self.__dict__["decoder_inside"] = body, decoder
        self.output = _Output(hidden)

    def __getattr__(self, name: str) -> Any:
        found = getattr(self.__dict__["body"], name)
        decoder = self.__dict__["decoder_inside"]
        # Some models run the decoder inside of their body, not the body.
        return _Given(found, decoder, self.output.last_hidden_state) if found is decoder else found

    def forward(self, *args: Any, **kwargs: Any) -> _Output:
        return self.output


class _Output:
    """The output of a model's body, with its last hidden states alone; all else is None."""

    def __init__(self, hidden: Tensor) -> None:
        self.last_hidden_state = hidden

    def __getitem__(self, index: Any) -> Tensor | None:
        return self.last_hidden_state if index in (0, "last_hidden_state") else None

    def __getattr__(self, name: str) -> None:
        if name.startswith("__"):
            raise AttributeError(name)


def normed(anatomy: Anatomy, hidden: Tensor) -> Tensor:
    """Return outputs of a layer [..., E] after the decoder's last norm.

    Raises:
        VlmHeadsError: the decoder does more than that after its last layer, or has several norms.
    """
    after = {
        name: part
        for name, part in anatomy.decoder.named_children()
        if not name.startswith(_BEFORE)
    }
    if len(after) > 1 or any("norm" not in name for name in after):
        raise VlmHeadsError(
            f"{anatomy.family.name}, which does more than a norm after its last layer: "
            f"{', '.join(after)}",
            "a decoder whose layers' outputs can be read through its vocabulary head",
            "use a plugin that does not read layers through the head",
        )
    for part in after.values():
        hidden = part(hidden)
    return hidden


def logits(anatomy: Anatomy, hidden: Tensor) -> Tensor:
    """Return the logits [..., V] that the model makes of hidden states [..., E] before its head.

    Raises:
        VlmHeadsError: the model has no head of its own, or its body is not found.
    """
    owner, body, width = _owner(anatomy)
    if hidden.shape[-1] != width:
        raise VlmHeadsError(
            f"hidden states of width {hidden.shape[-1]} for a head of width {width}: "
            f"{anatomy.family.name} keeps several residual streams",
            "a decoder whose layers' outputs can be read through its vocabulary head",
            "use a plugin that does not read layers through the head",
        )
    rows = hidden.reshape(1, -1, hidden.shape[-1])
    shell = with_child(owner, body, _Given(getattr(owner, body), anatomy.decoder, rows))
    # The class's own forward: hooks are for passes of the whole model.
    made: Tensor = type(owner).forward(shell, inputs_embeds=rows, return_dict=True).logits
    return made.reshape(*hidden.shape[:-1], -1)


def _owner(anatomy: Anatomy) -> tuple[nn.Module, str, int]:
    """Return the module that runs the head, its child in front of it, and the head's width.

    It is asked for every token, so that no more of the model is walked than has to be.
    """
    for module in anatomy.model.modules():
        own: Any = getattr(module, "get_output_embeddings", None)
        head = own() if own is not None else None
        children = dict(module.named_children())
        if head is None or not any(child is head for child in children.values()):
            continue
        # Level by level: a decoder lies near the top, in front of hundreds of parts.
        parts = deque(children.items())
        while parts:
            name, part = parts.popleft()
            if part is anatomy.decoder:
                return module, name, int(head.in_features)
            parts.extend((name, inner) for inner in part.children())
    raise VlmHeadsError(
        f"{type(anatomy.model).__name__}, whose vocabulary head was not found",
        "a language model with a head of its own",
    )

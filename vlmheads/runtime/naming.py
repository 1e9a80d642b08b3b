"""The text decoder's attention, sent through the named attention function and back."""

from __future__ import annotations

from typing import Any

from vlmheads.model.anatomy import Anatomy
from vlmheads.runtime.attention import EAGER, EDITOR, SDPA, name_for
from vlmheads.runtime.compat import attention_implementation
from vlmheads.runtime.refusals import refuse_named


class NamedAttention:
    """Hands the attention of a text decoder to an editor, until it is restored.

    Args:
        anatomy: the parts of the model.
        editor: what the named attention function asks, with `edit_rows` and `hide_keys`.
    """

    def __init__(self, anatomy: Anatomy, editor: object) -> None:
        self._anatomy, self._editor = anatomy, editor
        # The implementation that the user chose; None while attention is the model's own.
        self._before: str | None = None
        # The editor whose place this one takes, for a probe.
        self._displaced: object | None = None

    @property
    def active(self) -> bool:
        """Whether attention is sent to the editor."""
        return self._before is not None

    def name(self) -> None:
        """Send the decoder through the named attention function.

        Raises:
            VlmHeadsError: a decoder whose attention cannot be served by one.
        """
        decoder: Any = self._anatomy.decoder
        before = attention_implementation(decoder)
        refuse_named(self._anatomy)
        self._before = before
        decoder.set_attn_implementation(name_for(decoder, before))
        for attention in self._anatomy.attentions:
            if attention is not None:
                found = attention.__dict__.get(EDITOR)
                self._displaced = self._displaced if found is self._editor else found
                setattr(attention, EDITOR, self._editor)

    def follow(self) -> None:
        """Go on where the user chose another attention implementation meanwhile."""
        if self.active and attention_implementation(self._anatomy.decoder) not in (SDPA, EAGER):
            self.name()

    def restore(self) -> None:
        """Leave attention as it was."""
        decoder: Any = self._anatomy.decoder
        for attention in self._anatomy.attentions:
            if attention is not None and attention.__dict__.get(EDITOR) is self._editor:
                delattr(attention, EDITOR)
                if self._displaced is not None:
                    setattr(attention, EDITOR, self._displaced)
        self._displaced = None
        # Where the user chose another implementation meanwhile, that choice stays.
        if self._before is not None and attention_implementation(decoder) in (SDPA, EAGER):
            decoder.set_attn_implementation(self._before)
        self._before = None

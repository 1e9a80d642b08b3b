from dataclasses import dataclass
from typing import ClassVar

from vlmheads import Plugin
from vlmheads.plugin import option


@dataclass(frozen=True)
class Quiet(Plugin):
    """Multiply the head outputs of the last layer by a factor."""

    name: ClassVar[str] = "quiet"
    factor: float = option(0.5, "what head outputs are multiplied by", low=0.0, high=1.0)

    @classmethod
    def neutral(cls):
        """Return the settings under which the method changes no bit."""
        return cls(factor=1.0)

    def on_heads(self, request, layer, heads):
        """Quieten heads [B, S, H, D] of the last layer."""
        if layer != request.geometry.layers - 1 or not request.has_image.any():
            return heads
        return heads * self.factor

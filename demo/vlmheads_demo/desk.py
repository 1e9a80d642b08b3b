"""What all requests share, and how what a visitor sent becomes a wish that can be granted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from PIL import Image

from vlmheads.errors import VlmHeadsError
from vlmheads_demo.scenes import example
from vlmheads_demo.services.captioning import Wish
from vlmheads_demo.services.generation import LIMITS, Decoding
from vlmheads_demo.services.measurement import TAU
from vlmheads_demo.services.methods import plugins_of
from vlmheads_demo.services.result import Results
from vlmheads_demo.state import Shelf
from vlmheads_demo.stopping import Runs
from vlmheads_demo.uploads import read_upload


@dataclass(frozen=True, eq=False)
class Desk:
    """What all requests share.

    Args:
        shelf: the models.
        uploads: the folder in which uploads arrive; nothing outside of it is read for a visitor.
        results: the latest runs.
        runs: what is going on, by visitor.
    """

    shelf: Shelf
    uploads: Path
    results: Results = field(default_factory=Results)
    runs: Runs = field(default_factory=Runs)

    def wish(
        self,
        *,
        image: str | None,
        scene: str,
        model: str,
        prompt: str,
        methods: Sequence[Sequence[Mapping[str, Any]]],
        decoding: Mapping[str, Any],
        tau: float = TAU,
    ) -> Wish:
        """Read what a visitor sent.

        Args:
            image: the path of an upload.
            scene: the name of a test-bench scene, taken in place of an upload; "" for none.
            model: its name.
            prompt: what is asked.
            methods: of each caption besides the plain one, its plugins.
            decoding: some of the fields of `Decoding`.
            tau: the least φ of a visual sink.

        Raises:
            VlmHeadsError: whatever of it cannot be granted.
        """
        unknown = [name for name in decoding if name not in LIMITS]
        if unknown:
            raise VlmHeadsError(f"decoding option {unknown[0]!r}", f"some of {', '.join(LIMITS)}")
        if not isinstance(methods, Sequence) or isinstance(methods, str):
            raise VlmHeadsError("methods that are no list", 'such as [[{"name": "vhr"}]]')
        picture, objects = self._picture(image, scene)
        return Wish(
            self.shelf.get(model or self.shelf.default),
            picture,
            prompt,
            tuple(plugins_of(method) for method in methods),
            Decoding(**decoding),
            tau,
            scene,
            objects,
        )

    def _picture(self, image: str | None, scene: str) -> tuple[Image.Image, frozenset[str] | None]:
        if scene:
            drawn = example(scene)
            return drawn.image, drawn.objects
        return read_upload(self.uploaded(image)), None

    def uploaded(self, path: str | None) -> Path | None:
        """Return the path of an upload, or refuse one that is none.

        Raises:
            VlmHeadsError: a path outside of the folder of uploads, by whatever route.
        """
        if not path:
            return None
        found = Path(path).resolve()
        if self.uploads.resolve() not in found.parents or not found.is_file():
            raise VlmHeadsError("a file that was not uploaded here", "a picture that was uploaded")
        return found

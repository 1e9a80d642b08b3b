"""The models that the server has at hand, and the one lock under which they run."""

from __future__ import annotations

import threading
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path

from vlmheads.caption import Captioner
from vlmheads.errors import VlmHeadsError
from vlmheads.model.anatomy import examine
from vlmheads.model.geometry import Geometry
from vlmheads.model.loading import locate, packaged_models

LONGEST_NAME = 200


@dataclass(frozen=True, eq=False)
class Model:
    """A loaded model.

    Args:
        name: as visitors know it.
        captioner: the model with its processor, without plugins of its own.
        geometry: its layers and heads.
    """

    name: str
    captioner: Captioner
    geometry: Geometry


class Shelf:
    """Models by name; those of visitors make room for each other, those of the owner stay.

    `running` is held while a model generates or is measured. It is one lock for all models: they
    share one device, and sampling draws from one random state.

    Args:
        own: names, folders or hub ids that the owner serves; the first is the default.
        allow: whether visitors may have others loaded.
        room: how many models of visitors are kept.
        dtype: as for `Captioner.from_pretrained`.
        device: likewise.
    """

    def __init__(
        self,
        own: tuple[str, ...],
        *,
        allow: bool = False,
        room: int = 1,
        dtype: str = "auto",
        device: str | None = None,
    ) -> None:
        sources = dict.fromkeys((*own, *filter(_at_hand, packaged_models())))
        # A folder is served under its last name, so that nobody learns where it lies.
        self._sources = {_label(source): source for source in sources}
        self.allow, self.room = allow, room
        self.running = threading.Lock()
        self._dtype, self._device = dtype, device
        self._models: OrderedDict[str, Model] = OrderedDict()
        self._loading = threading.Lock()

    @property
    def names(self) -> list[str]:
        """Names that can be asked for without leave, and those of visitors that are loaded."""
        return list(dict.fromkeys((*self._sources, *self._models)))

    @property
    def default(self) -> str:
        """The name of the model that the page begins with."""
        return next(iter(self._sources))

    def get(self, name: str) -> Model:
        """Return a model, loaded if it is not.

        Raises:
            VlmHeadsError: a name that is not served here, or what `load_model` refuses.
        """
        if not isinstance(name, str) or not name.strip() or len(name) > LONGEST_NAME:
            raise VlmHeadsError("no model's name", f"one of {', '.join(self.names)}")
        name = name.strip()
        if name not in self._sources and not self.allow:
            raise VlmHeadsError(
                f"model {name!r} is not served here",
                f"one of {', '.join(self.names)}",
                "whoever runs the demo can start it with --model or --allow-models",
            )
        with self._loading:
            if name not in self._models:
                self._models[name] = self._load(name)
                self._make_room()
            self._models.move_to_end(name)
            return self._models[name]

    def _load(self, name: str) -> Model:
        source = self._sources.get(name, name)
        captioner = Captioner.from_pretrained(source, dtype=self._dtype, device=self._device)
        return Model(name, captioner, examine(captioner.model).geometry)

    def _make_room(self) -> None:
        """Drop the models of visitors that were not used for longest."""
        guests = [name for name in self._models if name not in self._sources]
        for name in guests[: max(0, len(guests) - self.room)]:
            del self._models[name]


def _label(source: str) -> str:
    return Path(source).resolve().name if Path(source).is_dir() else source


def _at_hand(name: str) -> bool:
    """Whether a packaged model can be loaded as it is; one may still have to be fetched."""
    try:
        locate(name)
    except VlmHeadsError:
        return False
    return True

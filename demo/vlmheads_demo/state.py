"""What all requests share: loaded models, uploads, recent results, and jobs that can be stopped."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from vlmheads.caption import Captioner
from vlmheads.errors import VlmHeadsError
from vlmheads.model.anatomy import examine
from vlmheads.model.geometry import Geometry
from vlmheads.model.loading import locate, packaged_models

MAX_NAME_LENGTH = 200
MAX_RESULTS = 24
MAX_SHARED = 64


@dataclass(frozen=True, eq=False)
class Model:
    """A loaded model.

    Args:
        name: the name that visitors see.
        captioner: the model and its processor, with no plugins of its own.
        geometry: its layers and heads.
        bench: the name of the test-bench model that it is, which knows drawn scenes and nothing
            else; "" for any other.
    """

    name: str
    captioner: Captioner
    geometry: Geometry
    bench: str = ""

    @property
    def packaged(self) -> bool:
        """Whether it is a test-bench model."""
        return bool(self.bench)


class ModelRegistry:
    """Models by name; those that visitors load are dropped again, those of the owner are kept.

    `run_lock` is held while a model generates or is measured. There is one lock for all models,
    because they share one device and sampling draws from one random state.

    Args:
        served: names, folders or hub ids that the owner serves; the first is the default.
        allow_others: whether visitors may load other models.
        max_guests: how many models loaded by visitors are kept.
        dtype: as for `Captioner.from_pretrained`.
        device: as for `Captioner.from_pretrained`.
    """

    def __init__(
        self,
        served: tuple[str, ...],
        *,
        allow_others: bool = False,
        max_guests: int = 1,
        dtype: str = "auto",
        device: str | None = None,
    ) -> None:
        sources = dict.fromkeys((*served, *filter(_is_available, packaged_models())))
        # A folder is served under its last name, which does not reveal where it is.
        self._sources = {_display_name(source): source for source in sources}
        self.allow_others, self.max_guests = allow_others, max_guests
        self.run_lock = threading.Lock()
        self._dtype, self._device = dtype, device
        self._models: OrderedDict[str, Model] = OrderedDict()
        self._loading = threading.Lock()

    @property
    def names(self) -> list[str]:
        """Names of the served models, then of the loaded models of visitors."""
        return list(dict.fromkeys((*self._sources, *self._models)))

    @property
    def absent(self) -> dict[str, str]:
        """Packaged models that are not on this machine, and how to get each."""
        names = (name for name in packaged_models() if name not in self._sources)
        return {name: f"vlmheads testbed get {name} downloads it" for name in names}

    @property
    def default(self) -> str:
        """The name of the model that is selected at first."""
        return next(iter(self._sources))

    def get(self, name: str) -> Model:
        """Return a model, loading it if necessary.

        Raises:
            VlmHeadsError: a name that is not served here, or what `load_model` refuses.
        """
        if not isinstance(name, str) or not name.strip() or len(name) > MAX_NAME_LENGTH:
            raise VlmHeadsError("not a model name", f"one of {', '.join(self.names)}")
        name = name.strip()
        if name not in self._sources and not self.allow_others:
            raise VlmHeadsError(
                f"model {name!r} is not served here",
                f"one of {', '.join(self.names)}",
                "whoever runs the demo can start it with --model or --allow-models",
            )
        with self._loading:
            if name not in self._models:
                self._models[name] = self._load(name)
                self._drop_guests()
            self._models.move_to_end(name)
            return self._models[name]

    def _load(self, name: str) -> Model:
        source = self._sources.get(name, name)
        captioner = Captioner.from_pretrained(source, (), dtype=self._dtype, device=self._device)
        geometry = examine(captioner.model).geometry
        return Model(name, captioner, geometry, _bench(source))

    def _drop_guests(self) -> None:
        """Drop the least recently used of the models that visitors loaded."""
        guests = [name for name in self._models if name not in self._sources]
        for name in guests[: max(0, len(guests) - self.max_guests)]:
            del self._models[name]


def _display_name(source: str) -> str:
    return Path(source).resolve().name if Path(source).is_dir() else source


def _bench(source: str) -> str:
    """Return the packaged model that a name or folder is; "" for any other model."""
    if source in packaged_models():
        return source
    folder = Path(source).resolve()
    known = (name for name in packaged_models() if _is_available(name))
    return next((name for name in known if Path(locate(name)).resolve() == folder), "")


def _is_available(name: str) -> bool:
    """Whether a packaged model is on this machine; some have to be downloaded first."""
    try:
        locate(name)
    except VlmHeadsError:
        return False
    return True


class RunningJobs:
    """Stop flags of the running jobs, by visitor, so that visitors stop only their own."""

    def __init__(self) -> None:
        self._flags: dict[str, list[threading.Event]] = {}
        self._lock = threading.Lock()

    @contextmanager
    def start(self, visitor: str) -> Iterator[threading.Event]:
        """Register a job for as long as the context lasts; its flag is set to stop it."""
        flag = threading.Event()
        with self._lock:
            self._flags.setdefault(visitor, []).append(flag)
        try:
            yield flag
        finally:
            with self._lock:
                self._flags[visitor].remove(flag)
                if not self._flags[visitor]:
                    del self._flags[visitor]

    def stop(self, visitor: str) -> int:
        """Set the flags of all jobs of a visitor, and return how many there are."""
        with self._lock:
            flags = list(self._flags.get(visitor, ()))
        for flag in flags:
            flag.set()
        return len(flags)


class Keyed(Protocol):
    """Anything with a key that only the visitor who made it knows."""

    @property
    def key(self) -> str:
        """The key."""
        ...


class ResultStore:
    """The most recent results of all visitors by key; the oldest are dropped.

    A result that a visitor shares is kept for as long as the server runs.

    Args:
        capacity: how many are kept.
        shared: how many can be shared.
    """

    def __init__(self, capacity: int = MAX_RESULTS, shared: int = MAX_SHARED) -> None:
        self._capacity, self._most_shared = capacity, shared
        self._results: OrderedDict[str, Any] = OrderedDict()
        self._kept: dict[str, Any] = {}
        self._shared: dict[str, Any] = {}
        self._lock = threading.Lock()

    def keep(self, result: Keyed) -> None:
        """Keep a result of the server's own for good."""
        with self._lock:
            self._kept[result.key] = result

    def share(self, key: object) -> Any:
        """Keep a result for as long as the server runs, and return it.

        Raises:
            VlmHeadsError: it has been dropped, or too many are shared already.
        """
        found = self.get(key)
        with self._lock:
            if found.key not in self._kept | self._shared:
                if len(self._shared) >= self._most_shared:
                    raise VlmHeadsError(
                        f"{len(self._shared)} runs are shared here already",
                        f"at most {self._most_shared}",
                        "save it as a page instead",
                    )
                self._shared[found.key] = found
        return found

    def add(self, result: Keyed) -> None:
        """Keep a result."""
        with self._lock:
            self._results[result.key] = result
            while len(self._results) > self._capacity:
                self._results.popitem(last=False)

    def get(self, key: object) -> Any:
        """Return the result with a key.

        Raises:
            VlmHeadsError: there is none, or it has been dropped.
        """
        with self._lock:
            found = None
            if isinstance(key, str):
                places = (self._results, self._kept, self._shared)
                found = next((place[key] for place in places if key in place), None)
        if found is None:
            raise VlmHeadsError("a run that is no longer kept", todo="describe the picture again")
        return found


@dataclass(frozen=True, eq=False)
class AppState:
    """What all requests share.

    Args:
        models: the models.
        uploads: the folder that receives uploads; no file outside it is read for a visitor.
        results: recent results.
        jobs: what is running, by visitor.
    """

    models: ModelRegistry
    uploads: Path
    results: ResultStore = field(default_factory=ResultStore)
    jobs: RunningJobs = field(default_factory=RunningJobs)

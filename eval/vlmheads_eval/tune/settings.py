"""What a search is asked for: model, data, methods, budget and objective."""

import math
import re
from dataclasses import dataclass
from pathlib import Path

from vlmheads.errors import VlmHeadsError

ALL = "all"
IMAGES = 600  # By default; half of them confirm.
_BUDGET = re.compile(r"(\d+(?:\.\d+)?)(s|m|h|img)")
_SECONDS = {"s": 1, "m": 60, "h": 3600}


@dataclass(frozen=True)
class Objective:
    """What counts as better, at equal recall.

    Args:
        measure: the measure that decides.
        sign: 1 if more of it is better, -1 if less is.
        guard: the measure that must not get worse.
        guard_sign: the same for it.
    """

    measure: str
    sign: int
    guard: str
    guard_sign: int


OBJECTIVES = {
    "f1": Objective("object_f1", 1, "CHAIRs", -1),
    "chair": Objective("CHAIRs", -1, "unique_hallucination", -1),
}


@dataclass(frozen=True)
class Budget:
    """How much a search may cost.

    Args:
        captions: how many captions it may make; None for no such limit.
        seconds: how long it may take by the estimate; None for no such limit.
    """

    captions: int | None = None
    seconds: float | None = None

    @classmethod
    def parse(cls, text: str | None) -> "Budget":
        """Read text such as "30m", "2h" or "2000img" (captions); None is no limit.

        Raises:
            VlmHeadsError: other text, or nothing at all to spend.
        """
        if text is None:
            return cls()
        found = _BUDGET.fullmatch(text.strip())
        if found is None or not float(found[1]) or (found[2] == "img" and "." in found[1]):
            raise VlmHeadsError(
                f"budget {text!r}", "a time such as 30m or 2h, or captions such as 2000img"
            )
        if found[2] == "img":
            return cls(captions=int(found[1]))
        return cls(seconds=float(found[1]) * _SECONDS[found[2]])

    def limit(self, seconds: float) -> float:
        """Return how many captions it buys at a number of seconds per caption."""
        if self.seconds is not None:
            return self.seconds / seconds
        return math.inf if self.captions is None else self.captions


@dataclass(frozen=True)
class Settings:
    """Settings of a search.

    Args:
        model: a packaged model, a folder or a hub id.
        data: a COCO folder, a split such as "testbed:val", or a JSON Lines file of records
            {"image": "a.png", "objects": ["dog"]}.
        out: a folder, which a second call resumes.
        images: the folder of the images, if the data do not say where they are.
        methods: names of plugins; "all" stands for every one that is installed.
        budget: such as "30m" or "2000img"; see `Budget`.
        num: how many images, drawn with the seed; by default up to 600.
        seed: for the draw of images and their parts, for scenes and for controls.
        objective: one of `OBJECTIVES`.
        name: of the preset's file, without ".json".
        force: write the best setting as a preset even if it is not recommended.
        prompt: what captions are asked for with.
        max_new_tokens: token limit of captions.
        batch_size: captions per generation.
        variant: the variant of CHAIR that finds objects.
        dtype: see `vlmheads.Captioner.from_pretrained`.
        device: see there.
        command: remembered with what is found.
    """

    model: str
    data: str
    out: Path
    images: Path | None = None
    methods: tuple[str, ...] = (ALL,)
    budget: str | None = None
    num: int | None = None
    seed: int = 0
    objective: str = "f1"
    name: str = "preset"
    force: bool = False
    prompt: str | None = None
    max_new_tokens: int = 256
    batch_size: int = 8
    variant: str = "pattern"
    dtype: str = "auto"
    device: str | None = None
    command: str = ""

    def __post_init__(self) -> None:
        Budget.parse(self.budget)
        if self.objective not in OBJECTIVES:
            raise VlmHeadsError(f"objective {self.objective!r}", " or ".join(OBJECTIVES))
        if not self.methods:
            raise VlmHeadsError("no method", f"{ALL!r}, or names of plugins")
        if ALL in self.methods and len(self.methods) > 1:
            raise VlmHeadsError(f"methods {', '.join(self.methods)}", f"{ALL!r} alone, or names")
        if re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}", self.name) is None:
            raise VlmHeadsError(f"a preset called {self.name!r}", "letters, digits, dots, dashes")

    @property
    def aim(self) -> Objective:
        """The objective."""
        return OBJECTIVES[self.objective]

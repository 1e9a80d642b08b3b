"""What heads are chosen for: answers with marked words, and one number for each of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from vlmheads.detect.replay import Replay, Towards, marks, require_images, teacher_forced
from vlmheads.errors import VlmHeadsError
from vlmheads.model.anatomy import examine

# (log-probabilities [..., N, T], grounded [N, T], hallucinated [N, T]) -> [..., N], what is to
# rise; not a number where an image does not have the words. It has to be differentiable.
Objective = Callable[[Tensor, Tensor, Tensor], Tensor]


@dataclass(frozen=True, eq=False)
class Answers:
    """A batch of N prompts with answers whose object words are marked.

    Args:
        inputs: what a processor made of images and text.
        targets: [N, T] token ids of the answers, padded on the right with any token.
        grounded: [N, T] True on the tokens of objects that are in the image.
        hallucinated: [N, T] True on the tokens of objects that are not.
    """

    inputs: Mapping[str, Any]
    targets: Tensor
    grounded: Tensor
    hallucinated: Tensor


def _mean(found: Tensor, chosen: Tensor) -> Tensor:
    """Mean [..., N] over the chosen tokens; not a number where there is none."""
    count = chosen.sum(dim=-1)
    total = (found * chosen.to(found)).sum(dim=-1) / count.clamp(min=1)
    return total.masked_fill(count == 0, torch.nan)


def grounded(found: Tensor, right: Tensor, wrong: Tensor) -> Tensor:
    """Mean log-probability of the grounded tokens."""
    return _mean(found, right)


def hallucinated(found: Tensor, right: Tensor, wrong: Tensor) -> Tensor:
    """Mean log-probability of the hallucinated tokens, with its sign turned."""
    return -_mean(found, wrong)


def contrast(found: Tensor, right: Tensor, wrong: Tensor) -> Tensor:
    """Mean log-probability of the grounded tokens less that of the hallucinated ones."""
    return _mean(found, right) - _mean(found, wrong)


OBJECTIVES: Mapping[str, Objective] = {
    "contrast": contrast,
    "grounded": grounded,
    "hallucinated": hallucinated,
}


def objective_called(name: str | Objective) -> Objective:
    """Return an objective by its name; a function is one already.

    Raises:
        VlmHeadsError: a name that there is not.
    """
    if callable(name):
        return name
    if name not in OBJECTIVES:
        raise VlmHeadsError(f"objective {name!r}", f"{', '.join(OBJECTIVES)}, or a function")
    return OBJECTIVES[name]


@dataclass(frozen=True, eq=False)
class Trial:
    """One batch of answers, ready to be read again under changes of its heads.

    Args:
        given: prompts with their answers, as the model takes them.
        replay: what its decoder was given.
        targets: [N, T] the answers.
        grounded: [N, T] their grounded tokens.
        hallucinated: [N, T] their hallucinated tokens.
        objective: what is to rise.
    """

    given: Mapping[str, Any]
    replay: Replay
    targets: Tensor
    grounded: Tensor
    hallucinated: Tensor
    objective: Objective

    @classmethod
    def of(cls, model: Any, answers: Answers, objective: Objective) -> Trial:
        """Run the model over a batch of answers once.

        Raises:
            VlmHeadsError: shapes that do not fit, no image in any prompt, or a model with plugins
                attached.
        """
        given = teacher_forced(examine(model), answers.inputs, answers.targets)
        shape = (answers.targets.shape[0], answers.targets.shape[1])
        place = given["input_ids"].device
        right = marks("grounded", answers.grounded, shape).to(place)
        wrong = marks("hallucinated", answers.hallucinated, shape).to(place)
        replay = Replay.of(model, given)
        require_images(replay.anatomy, given)
        targets = answers.targets.to(given["input_ids"])
        return cls(given, replay, targets, right, wrong, objective)

    def judge(self, found: Tensor) -> Tensor:
        """Objective [K, N] of log-probabilities [K, N, T].

        Raises:
            VlmHeadsError: an objective that does not give one number per answer.
        """
        values = self.objective(found, self.grounded, self.hallucinated)
        if values.shape != found.shape[:-1]:
            raise VlmHeadsError(
                f"an objective that gives {list(values.shape)}",
                f"one number per answer, {list(found.shape[:-1])}",
            )
        return values

    def under(self, sets: Tensor, rows: int, towards: Towards) -> Tensor:
        """Objective [K, N] under K sets of gains [K, L, H]; see `Replay.swept`."""
        return self.judge(self.replay.swept(self.targets, sets, rows, towards))

    def plain(self) -> Tensor:
        """Objective [N] of the plain model."""
        return self.judge(self.replay.read(self.replay.run(), self.targets)[None])[0]


def trials(model: Any, data: Answers | Iterable[Answers], objective: Objective) -> list[Trial]:
    """Make a trial of each batch.

    Raises:
        VlmHeadsError: what `Trial.of` refuses, or answers of which none has the words that the
            objective asks for.
    """
    batches = [data] if isinstance(data, Answers) else list(data)
    if not batches:
        raise VlmHeadsError("no answers", "at least one batch of them")
    with torch.no_grad():
        made = [Trial.of(model, answers, objective) for answers in batches]
        if not any(bool(trial.plain().isfinite().any()) for trial in made):
            raise VlmHeadsError(
                "answers without the words that the objective asks for",
                "at least one image that has them",
            )
    return made

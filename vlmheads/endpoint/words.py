"""Words of a caption scored over an endpoint, by asking whether each object is there."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from vlmheads.endpoint.answers import Answer
from vlmheads.endpoint.probe import LOGPROBS, Server
from vlmheads.errors import VlmHeadsError
from vlmheads.grounding.questions import Answered, question_about, read_served_answer
from vlmheads.grounding.rewrite import drop_clauses
from vlmheads.grounding.scores import Scorer
from vlmheads.grounding.words import Word, find_objects

THRESHOLD = 0.5
NAME = "P(yes)"
# What a scorer may weigh here: a server gives nothing else.
GIVEN = ("p_yes", "repeat")
QUESTION_FIELDS: Mapping[str, Any] = LOGPROBS
UNCALIBRATED = (
    "the score is P(yes), the model's own answer to whether the object is there; the threshold of "
    "{threshold:g} is not calibrated on this model, which may confirm what it made up"
)


@dataclass(frozen=True)
class WordsAsked:
    """How the objects of captions are scored.

    Args:
        flag: add the words with their scores.
        drop: add the caption without unsupported clauses.
        threshold: objects with a lower score are flagged.
        scorer: makes a score of P(yes); None for P(yes) itself.
    """

    flag: bool
    drop: bool
    threshold: float = THRESHOLD
    scorer: Scorer | None = None

    def __post_init__(self) -> None:
        extra = [name for name in (self.scorer.weights if self.scorer else ()) if name not in GIVEN]
        if extra:
            raise VlmHeadsError(
                f"a scorer that weighs {', '.join(extra)}, which no server returns",
                f"one that weighs {' or '.join(GIVEN)} alone",
                "fit one with `vlmheads tune --words`, or load the model here",
            )

    @property
    def name(self) -> str:
        """What the score is."""
        return NAME if self.scorer is None else self.scorer.name

    def settings(self) -> dict[str, Any]:
        """Return what determines the words of a record."""
        scorer = None if self.scorer is None else self.scorer.to_dict()
        return {"signal": "p_yes", "threshold": self.threshold, "scorer": scorer}

    def words(self, text: str, chances: Mapping[str, Answered]) -> list[Word]:
        """Return the words of a caption that name objects, by what the server answered to each."""
        found, seen = [], set[str]()
        for start, end, name in find_objects(text):
            chance = chances[name].p_yes
            p_yes = math.nan if chance is None else chance
            repeat = name in seen
            seen.add(name)
            score = p_yes
            if self.scorer is not None:
                gain = {"log_probability": 0.0, "log_probability_without": 0.0}
                score = self.scorer({**gain, "p_yes": p_yes, "repeat": float(repeat)})
            measured = (math.nan,) * 4
            scores = {"p_yes": p_yes, "low": chances[name].low, "high": chances[name].high}
            found.append(
                Word(text[start:end], start, end, 0, 0, name, *measured, score, repeat, scores)
            )
        return found

    def record(self, text: str, words: Sequence[Word]) -> dict[str, Any]:
        """Return the columns that a caption's words add to its record."""
        about: dict[str, Any] = {}
        if self.flag:
            about["words"] = [
                {
                    "text": word.text,
                    "object": word.object,
                    "start": word.start,
                    "end": word.end,
                    "score": None if math.isnan(word.score) else word.score,
                    "flagged": word.score < self.threshold,
                }
                for word in words
            ]
        if self.drop:
            rewrite = drop_clauses(text, words, self.threshold)
            about |= {"text_safer": rewrite.text, "removed": list(rewrite.removed)}
        return about


def names_in(text: str) -> list[str]:
    """Return the objects that a caption names, each once, in order."""
    return list(dict.fromkeys(name for _, _, name in find_objects(text)))


def question(name: str) -> str:
    """Return what a server is asked about an object."""
    return question_about(name)


def read_chance(answer: Answer) -> Answered:
    """Return P(yes) of an answer.

    Raises:
        VlmHeadsError: it came without log-probabilities.
    """
    if answer.first is None:
        raise VlmHeadsError("an answer without log-probabilities", "top_logprobs")
    return read_served_answer(answer.first)


def require_logprobs(server: Server) -> None:
    """Refuse to score words where the server does not say how likely tokens are.

    Raises:
        VlmHeadsError: it names what is missing, and how servers are told to return it.
    """
    if not server.logprobs:
        raise VlmHeadsError(
            f"{server.url} returns no log-probabilities (top_logprobs) of {server.model}, which "
            "--flag and --drop read P(yes) from",
            "a server that does: vLLM, SGLang, LMDeploy with --logprobs-mode raw_logprobs, "
            "`vlmheads serve`; `transformers serve` has none",
        )

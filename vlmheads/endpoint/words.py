"""Words of a caption scored over an endpoint: by P(yes), or by what the image adds to them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeVar

from vlmheads.endpoint import gain
from vlmheads.endpoint.answers import Answer, Failure
from vlmheads.endpoint.client import Client, Question
from vlmheads.endpoint.probe import LOGPROBS, Server
from vlmheads.errors import VlmHeadsError
from vlmheads.grounding.questions import Answered, question_about, read_served_answer
from vlmheads.grounding.rewrite import drop_clauses
from vlmheads.grounding.scores import Scorer
from vlmheads.grounding.words import Finder, Word, object_finder
from vlmheads.printable import in_short

K = TypeVar("K")
THRESHOLD = 0.5
P_YES, GAIN = SIGNALS = ("p-yes", "gain")
WITH, WITHOUT = "with the image", "without the image"
# What a scorer may weigh of each signal: a server gives nothing else.
GIVEN = {
    P_YES: ("p_yes", "repeat"),
    GAIN: ("log_probability", "log_probability_without", "image_gain", "image_share", "repeat"),
}
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
        scorer: makes a score of what the signal gives; None for P(yes) itself, or p/(p+p0).
        signal: one of SIGNALS: what the server is asked for.
        vocabulary: what counts as an object; see `object_finder`.
    """

    flag: bool
    drop: bool
    threshold: float = THRESHOLD
    scorer: Scorer | None = None
    signal: str = P_YES
    vocabulary: str | None = None

    def __post_init__(self) -> None:
        given = GIVEN[self.signal]
        extra = [name for name in (self.scorer.weights if self.scorer else ()) if name not in given]
        if extra:
            raise VlmHeadsError(
                f"a scorer that weighs {', '.join(extra)}, which {self.signal} does not give",
                f"one that weighs {' or '.join(given)} alone",
                "fit one with `vlmheads tune --words`, or load the model here",
            )

    @property
    def name(self) -> str:
        """What the score is."""
        if self.scorer is not None:
            return self.scorer.name
        return "P(yes)" if self.signal == P_YES else "p/(p+p0)"

    @property
    def caveat(self) -> str:
        """One line where the score is not calibrated; else empty."""
        if self.scorer is not None:
            return self.scorer.caveat
        if self.signal == GAIN:
            return Scorer.plain().caveat
        return UNCALIBRATED.format(threshold=self.threshold)

    def settings(self) -> dict[str, Any]:
        """Return what determines the words of a record."""
        scorer = None if self.scorer is None else self.scorer.to_dict()
        about = {"signal": self.signal, "threshold": self.threshold, "scorer": scorer}
        return about | {"vocabulary": self.vocabulary}

    @cached_property
    def objects(self) -> Finder:
        """Finds the objects of a caption."""
        return object_finder(self.vocabulary)

    def follow_up(
        self, key: K, image: str | VlmHeadsError, prompt: str, text: str
    ) -> list[Question[tuple[K, str]]]:
        """Return what is asked once a caption is there, each with a label of its own.

        Args:
            key: of the image.
            image: as the caption was asked for.
            prompt: that the caption answers.
            text: the caption.
        """
        names = list(dict.fromkeys(name for _, _, name in self.objects(text)))
        if self.signal == P_YES:
            return [
                Question((key, name), question_about(name), image, 1, LOGPROBS) for name in names
            ]
        shown = ((WITH, image), (WITHOUT, None)) if names else ()
        return [
            Question((key, label), prompt, given, 1, gain.FIELDS, continued=text)
            for label, given in shown
        ]

    def words(self, text: str, answers: Mapping[str, Answer]) -> list[Word]:
        """Return the words of a caption that name objects.

        Args:
            text: the caption.
            answers: to what `follow_up` asked, by label.

        Raises:
            VlmHeadsError: answers without log-probabilities, or with those of something else.
        """
        seen = set[str]()
        placed = {
            label: gain.place_tokens(answer, text)
            for label, answer in answers.items()
            if self.signal == GAIN
        }
        found = []
        for start, end, name in self.objects(text):
            log = log_without = p_yes = math.nan
            if self.signal == GAIN:
                log, log_without = (
                    gain.of_span(placed[label], start, end) for label in (WITH, WITHOUT)
                )
                scores = {}
            else:
                chance = read_chance(answers[name])
                p_yes = math.nan if chance.p_yes is None else chance.p_yes
                scores = {"p_yes": p_yes, "low": chance.low, "high": chance.high}
            score = self._score(log, log_without, p_yes, name in seen)
            about = (math.nan, math.nan, log, log_without, score, name in seen, scores)
            found.append(Word(text[start:end], start, end, 0, 0, name, *about))
            seen.add(name)
        return found

    def _score(self, log: float, log_without: float, p_yes: float, repeat: bool) -> float:
        scorer = self.scorer
        if scorer is None:
            if self.signal == P_YES:
                return p_yes
            scorer = Scorer.plain()
        if self.signal == P_YES:
            log = log_without = 0.0  # which it does not weigh
        return scorer(
            {
                "log_probability": log,
                "log_probability_without": log_without,
                "p_yes": p_yes,
                "repeat": float(repeat),
            }
        )

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


def read_chance(answer: Answer) -> Answered:
    """Return P(yes) of an answer.

    Raises:
        VlmHeadsError: it came without log-probabilities.
    """
    if answer.first is None:
        raise VlmHeadsError("an answer without log-probabilities", "top_logprobs")
    return read_served_answer(answer.first)


def require_signal(client: Client, server: Server, signal: str) -> None:
    """Refuse to score words where the server does not return what that takes.

    Raises:
        VlmHeadsError: it names what is missing, and which servers return it.
    """
    if signal == P_YES and not server.logprobs:
        raise VlmHeadsError(
            f"{server.url} returns no log-probabilities (top_logprobs) of {server.model}, which "
            "--flag and --drop read P(yes) from",
            "a server that does: vLLM, SGLang, LMDeploy with --logprobs-mode raw_logprobs, "
            "`vlmheads serve`; `transformers serve` has none",
        )
    if signal == GAIN:
        found = client.one(Question(None, "Hello.", None, 1, gain.FIELDS, continued="Hello"))
        if isinstance(found, Failure) or not found.prompt:
            why = f" ({in_short(found.error.seen)})" if isinstance(found, Failure) else ""
            raise VlmHeadsError(
                f"{server.url} returns no log-probabilities of the prompt (prompt_logprobs), which "
                f"--signal gain reads{why}",
                "vLLM, the one server known to return them for chats",
                f"choose --signal {P_YES}",
            )

"""What `vlmheads caption --flag` and `--drop` add to a caption."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from vlmheads.caption import Caption, Captioner
from vlmheads.errors import VlmHeadsError
from vlmheads.grounding.rewrite import drop_clauses
from vlmheads.grounding.scores import Scorer, check_threshold
from vlmheads.grounding.words import object_finder


@dataclass(frozen=True)
class WordOptions:
    """Which of the two are wanted, and what scores the words.

    Args:
        flag: add the words with their scores.
        drop: add the caption without unsupported clauses.
        scorer: scores them; objects below its threshold are flagged.
    """

    flag: bool
    drop: bool
    scorer: Scorer

    @classmethod
    def of(
        cls,
        captioner: Captioner,
        *,
        flag: bool,
        drop: bool,
        threshold: float | None,
        scorer: Path | None,
        vocabulary: str | None = None,
    ) -> WordOptions | None:
        """Read the options; None where neither is wanted. The vocabulary is set on the captioner.

        A scorer that is not shown to tell more than the place of a word is noted on stderr.

        Raises:
            VlmHeadsError: a threshold, scorer or vocabulary for nothing, or one that cannot be.
        """
        if not (flag or drop):
            given = {"threshold": threshold, "scorer": scorer, "vocabulary": vocabulary}
            for name, value in given.items():
                if value is not None:
                    raise VlmHeadsError(f"--{name} alone", "--flag or --drop with it")
            return None
        captioner.objects = object_finder(vocabulary)
        found = Scorer.of(captioner.model) if scorer is None else Scorer.load(scorer)
        if threshold is not None:
            check_threshold(threshold)
            found = found.at(threshold)
        if found.caveat:
            click.echo(f"note: {found.caveat}", err=True)
        return cls(flag, drop, found)

    def record(self, caption: Caption) -> dict[str, Any]:
        """Return what there is to say of a caption, as plain values."""
        limit = self.scorer.threshold
        about: dict[str, Any] = {"threshold": limit, "scorer": self.scorer.name}
        if self.scorer.caveat:
            about["caveat"] = self.scorer.caveat
        if self.flag:
            about["words"] = [
                word.to_dict() | {"flagged": bool(word.object) and word.score < limit}
                for word in caption.words
            ]
        if self.drop:
            rewrite = drop_clauses(caption.text, caption.words, limit)
            about |= {
                "rewrite": rewrite.text,
                "removed": list(rewrite.removed),
                "unsupported": rewrite.unsupported,
            }
        return about

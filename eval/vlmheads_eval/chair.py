"""CHAIR: how much of what captions mention is not there (Rohrbach et al., 2018)."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from vlmheads.errors import VlmHeadsError
from vlmheads_eval.captions import Caption, ImageId, image_key
from vlmheads_eval.ground_truth import GroundTruth
from vlmheads_eval.lineages import Lineage
from vlmheads_eval.reading import Mention, Reading


@dataclass(frozen=True)
class CaptionScore:
    """The result of one caption.

    Args:
        image_id: as the captions file has it.
        mentions: every object mention in order, repeats included.
        truth: the categories that are in the image.
        words: length of the caption in words, joined pairs as one, punctuation included.
        known: whether the ground truth has the image; if not, `truth` is empty.
    """

    image_id: ImageId
    mentions: tuple[Mention, ...]
    truth: frozenset[str]
    words: int
    known: bool = True

    @property
    def hallucinated(self) -> tuple[Mention, ...]:
        """The mentions of what is not in the image."""
        return tuple(mention for mention in self.mentions if mention.node not in self.truth)

    @property
    def named(self) -> frozenset[str]:
        """The distinct categories that the caption mentions."""
        return frozenset(mention.node for mention in self.mentions)

    def to_dict(self) -> dict[str, Any]:
        """Return the caption's entry of `vlmheads eval score chair --json`."""
        wrong = self.hallucinated
        return {
            "image_id": self.image_id,
            "generated": [mention.node for mention in self.mentions],
            "hallucinated": [[mention.word, mention.node] for mention in wrong],
            "indices": [mention.place for mention in wrong],
            "CHAIRs": int(bool(wrong)),
            "CHAIRi": len(wrong) / len(self.mentions) if self.mentions else 0.0,
            "recall": len(self.named & self.truth) / len(self.truth) if self.truth else 0.0,
            "words": self.words,
        }


def score_captions(
    captions: Iterable[Caption], truth: GroundTruth, lineage: Lineage
) -> Iterator[tuple[Caption, list[str], CaptionScore]]:
    """Yield every caption with its words and its score, one at a time and in the order given.

    An image that the ground truth does not know counts as an empty one, as in the reference, and
    its score says so (`known`).
    """
    for caption in captions:
        objects = truth.objects.get(image_key(caption.image_id))
        try:
            words = lineage.words(caption.text)
        except VlmHeadsError as error:
            raise VlmHeadsError(f"{caption.place}: {error}") from error
        yield caption, words, score_reading(caption.image_id, lineage.find(words), objects)


def score_reading(
    image_id: ImageId, reading: Reading, truth: frozenset[str] | None
) -> CaptionScore:
    """Return the score of what a caption says against its image's categories, None if unknown."""
    return CaptionScore(
        image_id, tuple(reading.mentions), truth or frozenset(), reading.length, truth is not None
    )

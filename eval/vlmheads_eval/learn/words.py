"""The object words of captions, each with its token and whether the image has the object."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from vlmheads_eval.calibrate.examples import end_token, read_answer
from vlmheads_eval.chair.variants import Variant
from vlmheads_eval.data import Sample

if TYPE_CHECKING:
    from torch import Tensor

    from vlmheads.detect.mass import WordMass


class LabelledCaption(NamedTuple):
    """A caption as tokens, and its object words as CHAIR finds them.

    Args:
        sample: the image and the prompt.
        tokens: without the end token.
        words: place of a word's first token, which decides what is named -> whether the object is
            in the image.
    """

    sample: Sample
    tokens: Sequence[int]
    words: Mapping[int, bool]


def label(
    tokenizer: Any,
    captions: Iterable[tuple[Sample, str]],
    truth: Mapping[str, frozenset[str]],
    variant: Variant,
) -> list[LabelledCaption]:
    """Return the captions that name an object, with their object words."""
    found = []
    for sample, text in captions:
        answer = read_answer(tokenizer, text, truth[sample.key], variant)
        words = {
            place: node in answer.truth
            for at, node in sorted(answer.named.items())
            for place, (start, stop) in enumerate(answer.spans)
            if start <= at < stop
        }
        if words:
            found.append(LabelledCaption(sample, answer.tokens, words))
    return found


class Batch(NamedTuple):
    """Captions that are read in one pass.

    Args:
        inputs: what the processor made of images and prompts.
        targets: [N, T] the captions' tokens.
        marked: [N, T] True where an object word begins.
        labels: whether each object is in its image, in order of row and token.
    """

    inputs: Any
    targets: "Tensor"
    marked: "Tensor"
    labels: Sequence[bool]


def batches(
    captioner: Any, captions: Sequence[LabelledCaption], batch_size: int
) -> Iterator[Batch]:
    """Yield captions of like length together, so that little of a batch is padding."""
    import torch

    from vlmheads.images import read_image

    end = end_token(captioner.model)
    ordered = sorted(captions, key=lambda caption: len(caption.tokens))
    for some in (ordered[at : at + batch_size] for at in range(0, len(ordered), batch_size)):
        longest = len(some[-1].tokens)
        targets = torch.full((len(some), longest), end)
        marked = torch.zeros(len(some), longest, dtype=torch.bool)
        for row, caption in enumerate(some):
            targets[row, : len(caption.tokens)] = torch.tensor(caption.tokens)
            marked[row, list(caption.words)] = True
        labels = [one.words[place] for one in some for place in sorted(one.words)]
        images = [read_image(caption.sample.image) for caption in some]
        inputs = captioner.prepare(images, [caption.sample.prompt for caption in some])
        yield Batch(inputs, targets, marked, labels)


def record(
    captioner: Any,
    captions: Sequence[LabelledCaption],
    batch_size: int,
    apart: "Sequence[Tensor] | None" = None,
) -> "tuple[WordMass, Tensor]":
    """Record where the heads look when the model says these words.

    Args:
        captioner: the model, without plugins.
        captions: labelled ones, at least one.
        batch_size: captions per pass.
        apart: for each batch, columns of its prompts whose mass is also recorded by itself.

    Returns:
        The masses of all words, and [W] whether each word's object is in its image.
    """
    import torch

    from vlmheads.detect.mass import WordMass, word_mass

    masses: list[WordMass] = []
    labels: list[bool] = []
    for at, batch in enumerate(batches(captioner, captions, batch_size)):
        own = None if apart is None else apart[at]
        masses.append(word_mass(captioner.model, batch.inputs, batch.targets, batch.marked, own))
        labels += batch.labels
    return WordMass.concatenate(masses), torch.tensor(labels)

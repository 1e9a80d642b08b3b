"""Inert image tokens: those that read as one and the same word, which many others read as."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from vlmheads_eval.learn.words import LabelledCaption, batches

if TYPE_CHECKING:
    from torch import Tensor

    from vlmheads.detect.mass import WordMass
    from vlmheads.detect.traces import Traces

Say = Callable[[str], None]
RULED = 0.5  # The least share of the layers in which an inert token reads as one word.
OUTLIER = 1.5  # Ranges between the quartiles that an anchor's score is above the upper one.


def head_ratios(masses: "WordMass", real: "Tensor") -> "dict[str, Tensor]":
    """HAVAE's "nhar" [L, H]: mean attention on the image less that on its inert tokens.

    The mean is over the words of objects that are there; it is 0 in layers without heads.
    """
    import torch

    own = torch.zeros_like(masses.image) if masses.apart is None else masses.apart
    return {"nhar": (masses.image - own)[real].mean(dim=0).nan_to_num()}


def inert_columns(
    captioner: Any, captions: Sequence[LabelledCaption], batch_size: int, say: Say
) -> "list[Tensor]":
    """Mark the inert image tokens of every batch of `batches`, [N, S] in its prompts' columns.

    Args:
        captioner: the model, without plugins.
        captions: labelled ones, at least one.
        batch_size: captions per pass.
        say: is told how many anchors and inert tokens there are.
    """
    import torch

    from vlmheads.detect.traces import token_traces
    from vlmheads.model.anatomy import examine

    anatomy, model = examine(captioner.model), captioner.model
    traces, places = [], []
    for batch in batches(captioner, captions, batch_size):
        traces += token_traces(model, batch.inputs, batch.targets, batch.marked)
        places.append(anatomy.is_visual(batch.inputs["input_ids"]).cpu())
    anchors, marks = inert_tokens(traces)
    found = []
    for place in places:
        own, marks = marks[: len(place)], marks[len(place) :]
        found.append(torch.zeros_like(place).masked_scatter(place, torch.cat(own)))
    inert, tokens = sum(int(one.sum()) for one in found), sum(int(one.sum()) for one in places)
    said = [captioner.processor.tokenizer.decode([anchor]) for anchor in anchors.tolist()]
    named = ", ".join(map(repr, said[:10])) or "none"
    say(f"{inert} of {tokens} image tokens inert; words that rule them: {named}")
    return found


def inert_tokens(traces: "Sequence[Traces]") -> "tuple[Tensor, list[Tensor]]":
    """Return the anchors, token ids, and for each prompt which of its image tokens are inert.

    An image token's word is the one that it reads as in most layers, of equals the first id, and
    its dominance D the share of those layers. Of the most attended quarter of each image's tokens,
    all prompts together, a share F(w) has the word w. A token scores D · F(w) · attention,
    a word the mean of its tokens; anchors are words whose score is above the upper quartile of all
    scores above 0 by more than OUTLIER times the range between the quartiles. A token is inert
    where its word is an anchor and D is at least RULED.
    """
    import torch

    read = torch.cat([one.words for one in traces])
    attention = torch.cat([one.attention for one in traces])
    words = read.mode(dim=1).values
    dominance = (read == words[:, None]).float().mean(dim=1)
    kinds, index = torch.unique(words, return_inverse=True)
    looked_at = torch.cat([one.attention > one.attention.quantile(0.75) for one in traces])
    share = torch.zeros(len(kinds)).index_add(0, index, looked_at.float())
    share = share / looked_at.sum().clamp(min=1)
    score = dominance * share[index] * attention
    mean = torch.zeros(len(kinds)).index_add(0, index, score) / index.bincount()
    above = mean[mean > 0]
    if not len(above):
        return kinds[:0], [torch.zeros(len(one.words), dtype=torch.bool) for one in traces]
    low, high = above.quantile(0.25), above.quantile(0.75)
    outlying = mean > high + OUTLIER * (high - low)
    inert = outlying[index] & (dominance >= RULED)
    order = mean[outlying].argsort(descending=True)
    return kinds[outlying][order], list(inert.split([len(one.words) for one in traces]))

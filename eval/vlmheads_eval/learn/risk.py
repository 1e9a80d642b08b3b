"""What Revis learns: vectors from pairs of captions; from questions, where and when to steer."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

from vlmheads_eval.calibrate.learn import Source
from vlmheads_eval.data import Sample
from vlmheads_eval.learn.pairs import Pair, inputs_of, likeliest

if TYPE_CHECKING:
    from torch import Tensor

UNKNOWN = "I don't know."
QUESTIONS = 300  # At most.
# The percentile of the risk of right answers that is the threshold, in the paper and the script.
SHARES = {"paper": 0.80, "release": 0.85}
LOWEST = 10 / 32  # The lowest layer to steer at, as a share of the depth.


class Question(NamedTuple):
    """One question on an object: its image, its text, and whether the object is there."""

    sample: Sample
    present: bool


def steering(captioner: Any, pairs: Sequence[Pair], source: Source) -> "dict[str, Tensor]":
    """Revis's "vectors" [2, L, E], "thresholds" [2, L] and "layers" [2], paper's form first.

    Raises VlmHeadsError where no question is wrongly answered with yes, or none rightly at all.
    """
    import torch
    import torch.nn.functional as F  # noqa: N812

    from vlmheads.detect.directions import steering_vectors

    prior, truthful = [], []
    for pair in pairs:
        seen = _states(captioner, pair.sample, pair.truthful, image=True)
        blind, invented, unknown = (
            _states(captioner, pair.sample, text, image=False)
            for text in (pair.truthful, pair.hallucinated, UNKNOWN)
        )
        prior.append(invented - unknown)
        truthful.append(seen - blind)
    samples = torch.stack(prior), torch.stack(truthful)
    vectors = torch.stack([steering_vectors(*samples, form) for form in SHARES])
    states, wrong, right = answered(captioner, questions(pairs, source.truth.objects))
    risks = -F.cosine_similarity(states[:, None], vectors[None], dim=-1)  # [Q, 2, L]
    layers = [best_layer(risks[:, form], wrong) for form in range(len(SHARES))]
    thresholds = torch.stack(
        [risks[right, form].quantile(share, dim=0) for form, share in enumerate(SHARES.values())]
    )
    return {"vectors": vectors, "thresholds": thresholds, "layers": torch.tensor(layers)}


def best_layer(risks: "Tensor", wrong: "Tensor") -> int:
    """Return the layer to steer at, of risks [Q, L] and [Q] which questions went wrong.

    From the last layer down to the lowest, the first where wrong answers have a higher mean risk
    than others; where there is none, the one where they are nearest to it.
    """
    excess = risks[wrong].mean(dim=0) - risks[~wrong].mean(dim=0)
    candidates = range(len(excess) - 1, round(LOWEST * len(excess)) - 1, -1)
    found = next((layer for layer in candidates if excess[layer] > 0), None)
    return max(candidates, key=lambda layer: float(excess[layer])) if found is None else found


def questions(pairs: Sequence[Pair], truth: Mapping[str, frozenset[str]]) -> list[Question]:
    """Ask of each pair's image for its first object by name, and for the likeliest absent one."""
    found = []
    for pair in pairs:
        present = truth[pair.sample.key]
        for name in (min(present, default=None), likeliest(present, truth)):
            if name is not None:
                article = "an" if name[0] in "aeiou" else "a"
                prompt = f"Is there {article} {name} in the image?"
                found.append(Question(replace(pair.sample, prompt=prompt), name in present))
    return found[:QUESTIONS]


def answered(captioner: Any, asked: Sequence[Question]) -> "tuple[Tensor, Tensor, Tensor]":
    """Ask questions; return states [Q, L, E] at the prompt's last token, and which went how.

    The answer is yes where the likeliest of the tokens that begin "Yes" and "yes" is likelier than
    those of "No" and "no".

    Returns:
        The states, [Q] wrongly answered with yes, [Q] rightly answered.
    """
    import torch

    from vlmheads.detect.directions import layer_outputs
    from vlmheads.errors import VlmHeadsError
    from vlmheads.images import read_image

    tokenizer = captioner.processor.tokenizer
    yes, no = (_beginnings(tokenizer, words) for words in (("Yes", "yes"), ("No", "no")))
    states, said = [], []
    for question in asked:
        image = read_image(question.sample.image)
        inputs = captioner.prepare([image], [question.sample.prompt])
        outputs, logits = layer_outputs(captioner.model, inputs)
        states.append(outputs)
        said.append(bool(logits[yes].max() > logits[no].max()))
    reply, present = torch.tensor(said), torch.tensor([one.present for one in asked])
    wrong, right = reply & ~present, reply == present
    if not bool(wrong.any()) or not bool(right.any()):
        raise VlmHeadsError(
            f"{len(asked)} questions on objects, {int(wrong.sum())} wrongly answered with yes and "
            f"{int(right.sum())} rightly answered",
            "at least one of each, to choose a layer and a threshold by",
            "use more images with --num",
        )
    return torch.stack(states), wrong, right


def _beginnings(tokenizer: Any, words: tuple[str, ...]) -> list[int]:
    """Return the first tokens of words, those that the tokenizer does not know left out."""
    from vlmheads.errors import VlmHeadsError

    ids = [tokenizer(word, add_special_tokens=False)["input_ids"][0] for word in words]
    found = [token for token in ids if token != tokenizer.unk_token_id]
    if not found:
        raise VlmHeadsError(
            f"a tokenizer that knows none of {', '.join(words)}", "a model that answers questions"
        )
    return found


def _states(captioner: Any, sample: Sample, text: str, *, image: bool) -> "Tensor":
    """Return layer outputs [L, E] at the last token of a prompt with an answer."""
    from vlmheads.detect.directions import layer_outputs

    return layer_outputs(captioner.model, inputs_of(captioner, sample, text, image=image))[0]

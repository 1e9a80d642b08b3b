"""What `offsets` learns: a vector for every head, by ITI, LoFiT or AFTER."""

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from vlmheads_eval.calibrate.learn import Source
from vlmheads_eval.learn.pairs import Pair, inputs_of
from vlmheads_eval.learn.risk import questions

if TYPE_CHECKING:
    from torch import Tensor

    from vlmheads.gains.offsets import Preference

# Strengths as published, and how many heads of LLaMA-7B's 1,024; LoFiT trains a share of 3 %.
ITI, AFTER = 15.0, 7.0
ITI_HEADS, AFTER_HEADS, LOFIT_HEADS = 48 / 1024, 64 / 1024, 0.03


def iti(captioner: Any, pairs: Sequence[Pair], source: Source) -> "dict[str, Tensor]":
    """ITI with the direction between the means.

    Raises VlmHeadsError for fewer than two pairs with an object swapped.
    """
    from vlmheads.gains.offsets import mass_mean

    return _fitted(captioner, pairs, mass_mean)


def iti_probe(captioner: Any, pairs: Sequence[Pair], source: Source) -> "dict[str, Tensor]":
    """ITI with the direction of the probe; refused as `iti` is."""
    from vlmheads.gains.offsets import probe_direction

    return _fitted(captioner, pairs, probe_direction)


def _fitted(
    captioner: Any, pairs: Sequence[Pair], direction: "Callable[[Tensor, Tensor], Tensor]"
) -> "dict[str, Tensor]":
    import torch

    from vlmheads.gains.offsets import head_states, probe_accuracy

    swapped = _swapped(pairs)

    def states(texts: list[str]) -> "Tensor":
        given = zip(swapped, texts, strict=True)
        inputs = (inputs_of(captioner, one.sample, text) for one, text in given)
        return torch.stack([head_states(captioner.model, one) for one in inputs])

    truthful = states([one.truthful for one in swapped])
    hallucinated = states([one.swapped for one in swapped])
    scores = probe_accuracy(truthful, hallucinated)
    return _kept(ITI * direction(truthful, hallucinated), scores, ITI_HEADS, everywhere=False)


def lofit(captioner: Any, pairs: Sequence[Pair], source: Source) -> "dict[str, Tensor]":
    """LoFiT, trained to prefer truthful captions to those with an object swapped.

    Raises VlmHeadsError for fewer than two pairs with one.
    """
    from vlmheads.gains.offsets import train_offsets
    from vlmheads.model.anatomy import examine

    geometry = examine(captioner.model).geometry
    preferences = [_preference(captioner, one) for one in _swapped(pairs)]
    count = max(1, round(LOFIT_HEADS * geometry.heads * len(geometry.attention_layers)))
    found = train_offsets(captioner.model, preferences, count)
    return _kept(found.offsets, found.sizes, LOFIT_HEADS, everywhere=True)


def _preference(captioner: Any, pair: Pair) -> "Preference":
    import torch

    from vlmheads.gains.offsets import Preference
    from vlmheads.images import read_image

    image = read_image(pair.sample.image)
    tokens = [
        captioner.processor.tokenizer(text, add_special_tokens=False)["input_ids"]
        for text in (pair.truthful, pair.swapped)
    ]
    targets = torch.zeros(2, max(map(len, tokens)), dtype=torch.long)
    for row, one in enumerate(tokens):
        targets[row, : len(one)] = torch.tensor(one)
    inputs = captioner.prepare([image, image], [pair.sample.prompt] * 2)
    return Preference(inputs, targets, torch.tensor([len(one) for one in tokens]))


def after(captioner: Any, pairs: Sequence[Pair], source: Source) -> "dict[str, Tensor]":
    """AFTER's mean offset: from questions on the image to the same on its objects in words."""
    import torch

    from vlmheads.gains.offsets import head_states
    from vlmheads.images import read_image

    differences = []
    for one in questions(pairs, source.truth.objects):
        facts = told(source.truth.objects[one.sample.key])
        image, question = read_image(one.sample.image), one.sample.prompt
        said = captioner.prepare([None], [f"{facts} {question}"])
        seen = captioner.prepare([image], [question])
        differences.append(head_states(captioner.model, said) - head_states(captioner.model, seen))
    direction = torch.stack(differences).mean(dim=0)
    return _kept(AFTER * direction, direction.norm(dim=-1), AFTER_HEADS, everywhere=False)


def told(objects: frozenset[str]) -> str:
    """Return the objects of an image in words."""
    names = [f"{'an' if name[0] in 'aeiou' else 'a'} {name}" for name in sorted(objects)]
    if not names:
        return "There is nothing in the image."
    listed = " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)
    return f"There is {listed} in the image."


def _swapped(pairs: Sequence[Pair]) -> list[Pair]:
    """Return the pairs that have a caption with an object swapped.

    Raises VlmHeadsError where there are fewer than two.
    """
    from vlmheads.errors import VlmHeadsError

    found = [one for one in pairs if one.swapped]
    if len(found) < 2:
        raise VlmHeadsError(
            f"{len(found)} of {len(pairs)} captions with an object to swap",
            "two or more",
            "use more images with --num",
        )
    return found


def _kept(
    offsets: "Tensor", scores: "Tensor", share: float, *, everywhere: bool
) -> "dict[str, Tensor]":
    """Return what the plugin takes: vectors [L, H, D], scores [L, H] and how to use them."""
    import torch

    heads = int(offsets.any(dim=-1).sum())
    count = torch.tensor([max(1, min(heads, round(share * scores.numel())))])
    return {
        "offsets": offsets,
        "scores": scores,
        "count": count,
        "everywhere": torch.tensor([everywhere]),
    }


FORMS: Mapping[str, "Callable[[Any, Sequence[Pair], Source], dict[str, Tensor]]"] = {
    "iti": iti,
    "iti-probe": iti_probe,
    "lofit": lofit,
    "after": after,
}

"""LPFV: how likely the object's name is as the whole answer to a question about any element."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from vlmheads.grounding.asking import Row, last_logits
from vlmheads.precision import at_least_float32

PROMPT = "Describe any element of the image with only one word or phrase."


def lpfv(
    model: Any, processor: Any, images: Sequence[Any], names: Sequence[Iterable[str]], *,
    mean: bool = False, batch_size: int = 16,
) -> list[dict[str, float]]:  # fmt: skip
    """Return the probability of each object's capitalised name as the answer to a fixed prompt.

    Source: LPFV, arXiv 2601.22451, and its released code: the product over the name's sub-tokens,
    after "Describe any element of the image with only one word or phrase." Objects at or below .01
    are dropped there. It is no yes/no question.

    Deviations: with `mean` the geometric mean of the sub-tokens, so that long names are not
    punished.

    Args:
        model: a transformers model for image-text-to-text generation, without plugins attached.
        processor: its processor, with a chat template.
        images: N Pillow images.
        names: for each of them the objects.
        mean: see above.
        batch_size: names a forward pass.

    Returns:
        For each image, object -> probability; NaN where the tokenizer does not know the name.

    Raises:
        VlmHeadsError: plugins attached.
    """
    tokenizer = processor.tokenizer
    found = [{name: float("nan") for name in several} for several in names]
    rows = [
        Row(at, name, PROMPT, ids)
        for at, several in enumerate(found)
        for name in several
        if tokenizer.unk_token_id not in (ids := name_tokens(processor, name))
    ]
    rows.sort(key=lambda row: len(row.answer))  # so that a batch is padded little
    longest = max((len(row.answer) for row in rows), default=0)
    for batch, logits in last_logits(model, processor, images, rows, longest + 1, batch_size):
        width = max(len(row.answer) for row in batch)
        log = at_least_float32(logits[:, -width - 1 : -1]).log_softmax(dim=-1)
        for at, row in enumerate(batch):
            said = log[at, range(len(row.answer)), row.answer]
            found[row.image][row.name] = float((said.mean() if mean else said.sum()).exp())
    return found


def name_tokens(processor: Any, name: str) -> tuple[int, ...]:
    """Return the tokens of a capitalised name at the beginning of an answer.

    They are those that the tokenizer adds to the end of the prompt, so that spaces between the two
    are as they are where the model speaks.
    """
    chat = [{"role": "user", "content": [{"type": "text", "text": "."}]}]
    text: str = processor.apply_chat_template(chat, add_generation_prompt=True, tokenize=False)
    tail = text.rsplit("\n", 1)[-1] if text[-1:].strip() else ""
    said = name[:1].upper() + name[1:]
    plain: list[int] = processor.tokenizer(tail, add_special_tokens=False)["input_ids"]
    joined = f"{tail} {said}" if tail else said
    whole: list[int] = processor.tokenizer(joined, add_special_tokens=False)["input_ids"]
    return tuple(whole[len(plain) :])

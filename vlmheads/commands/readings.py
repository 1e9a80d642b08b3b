"""What `vlmheads detect` reads of the words of captions: what the picture gives, what layers do."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import torch

from vlmheads.caption import Caption, Captioner, padded_ids
from vlmheads.commands.measurement import Grid, Measurement, Options, mean_and_error
from vlmheads.commands.word_measures import marked
from vlmheads.detect.overconfidence import SHARES, Overconfidence, overconfidence
from vlmheads.errors import VlmHeadsError
from vlmheads.grounding.visualness import Visualness, gains_of_words, token_gains
from vlmheads.grounding.words import require_finders, token_spans

TOP = 12
_AGAINST = {"other": "the next image of those given", "nothing": "the image deleted"}


def captions(captioner: Captioner, paths: list[Path], options: Options) -> Measurement:
    """Caption images."""
    require_finders()
    limit = options.max_new_tokens or 128
    said = captioner(paths, options.prompt, max_new_tokens=limit, batch_size=len(paths))
    return Measurement({}, data=list(zip(paths, said, strict=True)))


def _gains(
    captioner: Captioner, said: list[tuple[Path, Caption]], options: Options
) -> list[tuple[str, float, bool]]:
    """Return every word of captions with what the picture gives it."""
    processor, model = captioner.processor, captioner.model
    decode = partial(processor.batch_decode, skip_special_tokens=True)
    special = frozenset(processor.tokenizer.all_special_ids)
    following = said[1:] + said[:1]
    found = []
    for start in range(0, len(said), options.batch_size):
        some = said[start : start + options.batch_size]
        targets = padded_ids(model, [caption for _, caption in some])
        inputs = captioner.prepare([path for path, _ in some], options.prompt)
        other = None
        if options.against == "other":
            paths = [path for path, _ in following[start : start + options.batch_size]]
            other = captioner.prepare(paths, options.prompt)
        gains = token_gains(model, inputs, targets, other)
        for row, (_, caption) in enumerate(some):
            spans = token_spans(caption.ids, caption.text, decode, special)
            part = gains[row, : len(caption.ids)].tolist()
            found += gains_of_words(caption.text, spans, part, captioner.objects)
    return found


def visualness(captioner: Captioner, part: Measurement, options: Options) -> Measurement:
    """Sum up what the pictures give the words of all captions."""
    if options.against == "other" and len(part.data) < 2:
        raise VlmHeadsError(
            "one image, with no other to compare", "two or more", "or pass --against nothing"
        )
    said = _gains(captioner, part.data, options)
    if not said:
        raise VlmHeadsError("captions without a word", "at least one")
    about = {**options.about, "captions": len(part.data), "against": options.against}
    found = Visualness.measured(said, about)
    apart, gains = found.without_picture(), found.gains
    most = sorted(
        (w for w in gains if gains[w].count >= found.fewest and found.needs_picture(w)),
        key=lambda word: -gains[word].mean,
    )[:TOP]
    columns = ("word", "said", "gain by the image, nats", "standard error", "object")

    def rows(words: Any) -> tuple[tuple[Any, ...], ...]:
        return tuple(
            (word, one.count, one.mean, one.error, "yes" if one.object else "")
            for word in words
            for one in (gains[word],)
        )

    spoken, left = len(said), sum(gains[word].count for word in apart)
    answer = (
        f"{len(apart)} of {len(gains)} words need no picture; they are {left / spoken:.0%} of all "
        "that is said. Save them with --out as visualness.json next to the model's weights, and "
        "`detect --measure words` leaves them out of its tables."
    )
    return Measurement(
        {},
        notes={
            "captions": len(part.data),
            "against": _AGAINST[options.against],
            "threshold": f"{found.threshold:g} nats",
        },
        tables={
            "words that need no picture": Grid(columns, rows(apart[:TOP])),
            "words that need it most": Grid(columns, rows(most)),
        },
        answer=answer if apart else f"Each of {len(gains)} words may need the picture.",
        saved=found.save,
    )


def sureness(captioner: Captioner, paths: list[Path], options: Options) -> Measurement:
    """Read what each layer gives grounded and hallucinated words."""
    words = marked(captioner, paths, options)
    if words is None:
        return Measurement({})
    inputs = captioner.prepare(paths, options.prompt)
    return Measurement({}, data=[overconfidence(captioner.model, inputs, *words)])


def suppressed(_: Captioner, part: Measurement, __: Options) -> Measurement:
    """Tell whether the last layer takes back grounded words, and whether undoing it would help."""
    if not part.data:
        raise VlmHeadsError("captions without a grounded or hallucinated word", "at least one")
    found = Overconfidence.concatenate(part.data)
    counts = {kind: len(found.of(kind, found.kind)) for kind in ("grounded", "hallucinated")}
    if not all(counts.values()):
        raise VlmHeadsError(
            f"{counts['grounded']} grounded and {counts['hallucinated']} hallucinated tokens",
            "some of each, to compare",
        )

    def row(title: str, values: torch.Tensor) -> tuple[Any, ...]:
        means = [mean_and_error(found.of(kind, values).tolist()) for kind in counts]
        return (title, *(number for pair in means for number in pair))

    columns = ("log-probability, nats", "grounded", "error", "hallucinated", "error ")
    layers = [
        row(f"output of layer {layer}", found.by_layer[:, layer])
        for layer in range(found.by_layer.shape[1])
    ]
    undone = [
        row(f"{share:.0%} of the last layer undone", found.undone[:, index])
        for index, share in enumerate(SHARES)
    ]
    taken = [
        row("the surest earlier layer, above the last", found.suppression),
        row("what the last layer adds", found.last_step),
    ]
    return Measurement(
        {},
        notes={"tokens": f"{counts['grounded']} grounded, {counts['hallucinated']} hallucinated"},
        tables={
            "what each layer gives": Grid(columns, tuple(layers)),
            "what the last layer takes back": Grid(columns, tuple(taken + undone)),
        },
        answer=_undo(found),
    )


def _undo(found: Overconfidence) -> str:
    """Return what undoing a share of the last layer does to the difference between the kinds."""
    right, wrong = (found.of(kind, found.undone) for kind in ("grounded", "hallucinated"))
    change = [part - part[:, :1] for part in (right, wrong)]
    gain = change[0].mean(dim=0) - change[1].mean(dim=0)
    error = torch.stack([part.var(dim=0) / len(part) for part in change]).sum(dim=0).sqrt()
    best = int(gain.nan_to_num().argmax())
    if best == 0 or not float(gain[best]) > 2 * float(error[best]):
        return (
            "Undoing the last layer is not shown to favour grounded words over hallucinated ones: "
            "leave it as it is."
        )
    before = found.by_layer.shape[1] - 2
    return (
        f"Undoing {SHARES[best]:.0%} of the last layer favours grounded words by "
        f"{float(gain[best]):.2f} nats (standard error {float(error[best]):.2f}): try "
        f"--plugin 'deco:layers=[{before}]', which adds what the layer before says, on others."
    )

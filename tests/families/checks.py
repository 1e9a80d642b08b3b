"""What every family is held to, one function a promise."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from build import IMAGE
from case import EDITS, LENGTHS, TOKENS, Case, difference, far, need, same, some_gains
from inputs import row_of
from probes import ByHand, Idle, IdleCache, IdleRows, IdleVision, Negative, Scaled, at_interface
from torch import Tensor, nn

from vlmheads.model.layout import picks_keys
from vlmheads.model.tower import vision_blocks
from vlmheads.verify.probes import AheadProbe, HidingProbe, StreamProbe, UnembedProbe, shift


def attaches(case: Case) -> None:
    """An idle plugin attaches and generation runs; anything but VlmHeadsError is a failure."""
    case.run("row 0", Idle())


def neutral(case: Case) -> None:
    """Hooks that return what they were given change no bit, with an extra stream but little."""
    for name in ("row 0", "batch"):
        after = case.run(name, Idle())
        gap = difference(after[1], case.before(name)[1])
        need(same(after, case.before(name)), f"idle hooks move logits of {name} by {gap:.2g}")


def neutral_rows(case: Case) -> None:
    """Handing out attention rows changes no bit."""
    for name in ("row 0", "batch"):
        after = case.run(name, IdleRows())
        gap = difference(after[1], case.before(name)[1])
        need(same(after, case.before(name)), f"idle rows move logits of {name} by {gap:.2g}")


def neutral_cache(case: Case) -> None:
    """Handing out the cache changes no bit."""
    for name in ("row 0", "batch"):
        need(same(case.run(name, IdleCache()), case.before(name)), f"idle cache moves {name}")


def neutral_vision(case: Case) -> None:
    """Handing out the states of the vision tower changes no bit; each block is seen, in order."""
    probe = IdleVision()
    need(same(case.run("row 0", probe), case.before("row 0")), "idle vision moves logits")
    count = len(vision_blocks(case.anatomy))
    runs = max(1, len(probe.blocks) // count)
    need(probe.blocks == [*range(count)] * runs, f"blocks seen: {probe.blocks}")


def vision(case: Case) -> None:
    """Editing blocks of the vision tower is the model with the same edit made at its modules."""

    def shifted(module: nn.Module, args: Any, output: Any) -> Any:
        states = output[0] if isinstance(output, tuple) else output
        states = states + shift(states, 0.5)
        return (states, *output[1:]) if isinstance(output, tuple) else states

    ours = case.run("row 0", case.edits["vision"](case)) if "vision" in case.edits else None
    if ours is None:
        case.run("row 0", IdleVision())  # says why it is refused
        return
    blocks = vision_blocks(case.anatomy)
    hooks = [block.register_forward_hook(shifted, prepend=True) for block in blocks]
    try:
        theirs = case.run("row 0")
    finally:
        for hook in hooks:
            hook.remove()
    gap = difference(ours[1], theirs[1])
    need(gap < 2e-4, f"an edited vision tower is off by {gap:.2g}")


def ahead(case: Case) -> None:
    """Tokens generated ahead are the plain model's, and leave no trace."""
    for name in ("row 0", "batch"):
        probe = AheadProbe(tokens=TOKENS, recorder=Idle())
        need(same(case.run(name, probe), case.before(name)), f"a probe moves {name}")
        (found,) = probe.found
        ids, logits = case.before(name)
        need(torch.equal(found.tokens, ids), f"tokens ahead {found.tokens.tolist()}, plain {ids}")
        gap = difference(found.logits.transpose(0, 1), logits)
        need(gap < 2e-4, f"logits ahead are off by {gap:.2g}")


def hiding(case: Case) -> None:
    """A stream of the same prompt is the main one, and another one without its image keys."""
    nothing, everything = HidingProbe(), HidingProbe(strength=0.5)
    main = case.run("row 0", nothing)[1]
    gap = difference(torch.stack(nothing.steps), main)
    need(gap < 5e-4, f"a stream of the same prompt is off by {gap:.2g}")
    case.run("row 0", everything)
    need(far(everything.steps[0], main[0], 1e-4), "hiding image keys from a stream does nothing")
    need(not bool(everything.steps[0].isnan().any()), "not a number")


def neutral_stream(case: Case) -> None:
    """A stream beside the main one changes little of it."""
    after = case.run("row 0", StreamProbe())
    gap = difference(after[1], case.before("row 0")[1])
    need(gap < 2e-4, f"a text-only stream beside it moves logits by {gap:.2g}")


def detached(case: Case) -> None:
    """Afterwards the model is what it was."""
    need(same(case.run("row 0"), case.before("row 0")), "logits differ after detach")
    left = case.hooks() - case.own_hooks
    need(left == 0, f"{left} hooks left after detach")


def _decoding(case: Case) -> dict[nn.Module, tuple[int, int]]:
    """Attention modules -> heads and head size of the outputs at the attention interface.

    Those that are called in a decoding step, in which no vision encoder runs.
    """
    found: dict[nn.Module, tuple[int, int]] = {}
    before: list[nn.Module] = []

    def look(module: nn.Module, output: Tensor) -> Tensor:
        own = hasattr(module, "layer_idx")  # not attention over a layer's own residual streams
        if own and output.shape[1] == 1 and case.model.__dict__.get("_step", 0) > 0:
            found[module] = (output.shape[2], output.shape[3])
        before.append(module)
        return output

    with at_interface(look):
        steps = case.anatomy.generator.register_forward_hook(
            lambda *_: case.model.__dict__.update(_step=case.model.__dict__.get("_step", 0) + 1)
        )
        try:
            case.run("row 0")
        finally:
            steps.remove()
            case.model.__dict__.pop("_step", None)
    return found


def heads(case: Case) -> None:
    """Head counts and sizes are those of the tensors at the attention interface."""
    truth = list(_decoding(case).values())
    need(bool(truth), "its decoder calls no attention function")
    geometry = case.anatomy.geometry
    probe = Scaled(gains=torch.ones(geometry.layers, geometry.heads))
    case.run("row 0", probe)
    seen = [probe.shapes[layer] for layer in sorted(probe.shapes)]
    need(seen == truth, f"heads {seen[:4]}, at the interface {truth[:4]}")
    need(geometry.heads == max(h for h, _ in truth), f"geometry says {geometry.heads} heads")


def scaling(case: Case) -> None:
    """Scaling heads by hooks is scaling them at the attention interface."""
    order = {module: index for index, module in enumerate(_decoding(case))}
    gains = some_gains(case)
    probe = Scaled(gains=gains)
    ours = case.run("row 0", probe)
    layers = sorted(probe.shapes)

    def look(module: nn.Module, output: Tensor) -> Tensor:
        if module not in order:
            return output
        return output * gains[layers[order[module]], : output.shape[2], None]

    with at_interface(look):
        theirs = case.run("row 0")
    gap = difference(ours[1][:1], theirs[1][:1])
    need(far(ours[1], case.before("row 0")[1], 1e-3), "scaling heads changes nothing")
    if row_of(case.model_type).normed_heads:
        moved = [difference(one[1], case.before("row 0")[1]) for one in (ours, theirs)]
        need(moved[1] < moved[0] / 2, f"a norm of each head does not undo its scale: {moved}")
        return
    need(gap < 2e-4, f"scaled by hooks and at the interface, logits differ by {gap:.2g}")


def rows(case: Case) -> None:
    """Attention rows by hand are those of the model's own function."""
    probe = ByHand()
    after = case.run("row 0", probe)
    gap = difference(after[1], case.before("row 0")[1])
    need(bool(probe.layers), "no attention rows are handed out")
    need(len(probe.layers) == len(_decoding(case)), f"rows of layers {sorted(probe.layers)} alone")
    need(gap < 2e-4, f"rows by hand move logits by {gap:.2g}")


def _without_image(case: Case, given: dict[str, Any]) -> dict[str, Any]:
    """Inputs of one row with its image tokens deleted."""
    ids = given["input_ids"]
    keep = ~torch.isin(ids[0], torch.tensor([IMAGE, *case.anatomy.marker_ids]))
    types = row_of(case.model_type).types
    text = {"input_ids": ids[:, keep]}
    if types in given:
        text[types] = torch.zeros_like(text["input_ids"])
    return text


@torch.no_grad()
def text_only(case: Case) -> None:
    """The text-only stream and text_only_forward are a plain text-only forward."""
    for index in range(len(LENGTHS)):
        probe = StreamProbe()
        said, _ = case.run(f"row {index}", probe)
        text = _without_image(case, case.given(f"row {index}"))
        answer = torch.full_like(said, row_of(case.model_type).answer_type)
        first = case.anatomy.generator(**text, use_cache=False).logits[:, -1]
        gap = difference(probe.prompt[0], first)
        need(gap < 2e-4, f"text_only_forward differs from a plain one by {gap:.2g}")
        for step in range(TOKENS):
            longer = {
                name: torch.cat(
                    [value, said[:, :step] if name == "input_ids" else answer[:, :step]], dim=1
                )
                if value.shape == text["input_ids"].shape
                else value
                for name, value in text.items()
            }
            plain = case.anatomy.generator(**longer, use_cache=False).logits[:, -1]
            gap = difference(probe.steps[step], plain)
            need(gap < 5e-4, f"the text-only stream is off by {gap:.2g} in step {step}")


def unembed(case: Case) -> None:
    """Unembedding the last layer's output gives the model's own logits."""
    probe = UnembedProbe()
    _, logits = case.run("row 0", probe)
    need(len(probe.steps) == TOKENS, "the last layer's output was not seen")
    gap = difference(torch.stack(probe.steps).reshape(logits.shape), logits)
    need(gap < 2e-4, f"unembed differs from the model's logits by {gap:.2g}")


def _edit(kind: str) -> Callable[[Case], None]:
    def acts(case: Case) -> None:
        after = case.run("row 0", EDITS[kind](case))
        need(far(after[1], case.before("row 0")[1], 1e-3), f"an edit of {kind} changes nothing")
        need(not bool(after[1].isnan().any()), "not a number")

    acts.__doc__ = f"An edit of {kind} changes the logits."
    return acts


def beside(case: Case) -> None:
    """An edit is the same with an extra stream beside it."""
    for kind, make in case.edits.items():
        one, both = case.run("row 0", make(case)), case.run("row 0", make(case), StreamProbe())
        gap = difference(one[1], both[1])
        need(gap < 5e-4, f"{kind}: a stream beside it moves logits by {gap:.2g}")


def pixels(case: Case) -> None:
    """A stream with other pixels is the model with other pixels, all of them."""
    probe = Negative()
    case.run("row 0", probe)
    given = case.given("row 0")
    negative = {
        name: -value if isinstance(value, Tensor) and value.is_floating_point() else value
        for name, value in given.items()
    }
    with torch.no_grad():
        truth = case.model(**negative, use_cache=False).logits[:, -1]
    main = case.before("row 0")[1][0]
    need(far(probe.seen[0], main, 1e-3), "a stream of other pixels is the main stream")
    gap = difference(probe.seen[0], truth)
    need(gap < 5e-4, f"the stream of negatives is off by {gap:.2g}")


def batches(case: Case) -> None:
    """A left-padded batch gives each row what it gets alone, under every edit."""
    if not case.padded or picks_keys(case.anatomy.layers):
        return
    for kind, make in [*case.edits.items(), ("stream", lambda case: StreamProbe())]:
        ids, logits = case.run("batch", make(case))
        for index in range(len(LENGTHS)):
            own_ids, own = case.run(f"row {index}", make(case))
            gap = difference(logits[:, index], own[:, 0])
            need(gap < 5e-4, f"{kind}: row {index} of a batch is off by {gap:.2g}")
            need(ids[index].tolist() == own_ids[0].tolist(), f"{kind}: other tokens in a batch")


CHECKS: dict[str, Callable[[Case], None]] = {
    "attach": attaches,
    "neutral": neutral,
    "neutral rows": neutral_rows,
    "neutral cache": neutral_cache,
    "neutral vision": neutral_vision,
    "neutral stream": neutral_stream,
    "heads": heads,
    "scaling": scaling,
    "rows": rows,
    "text only": text_only,
    "unembed": unembed,
    **{f"edit {kind}": _edit(kind) for kind in EDITS},
    "vision": vision,
    "ahead": ahead,
    "hiding": hiding,
    "beside": beside,
    "pixels": pixels,
    "batch": batches,
    "detach": detached,
}

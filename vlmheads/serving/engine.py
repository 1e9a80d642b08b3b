"""One generation at a time: from a request to what the model says, with plugins attached."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from vlmheads.caption import Captioner
from vlmheads.decoding import Decoding
from vlmheads.model.inputs import chat_inputs
from vlmheads.runtime.attachment import attach
from vlmheads.serving.requests import ChatRequest


@dataclass(frozen=True)
class Reply:
    """What the model said.

    Args:
        text: without the stop text that ended it.
        tokens: generated tokens, the end token not counted.
        prompt_tokens: of the conversation, its images among them.
        at_limit: whether the limit on new tokens ended it.
        logprobs: an entry for each generated token, the end token included, as OpenAI's
            `choices[0].logprobs.content`; None where they were not asked for.
    """

    text: str
    tokens: int
    prompt_tokens: int
    at_limit: bool
    logprobs: list[dict[str, Any]] | None = None


class Engine:
    """A model with its plugins, which answers one request after the other.

    Args:
        captioner: the model with its processor and plugins.
        stopping: ends the generation under way once it is set.
    """

    def __init__(self, captioner: Captioner, stopping: threading.Event) -> None:
        self.captioner, self.stopping = captioner, stopping

    @torch.no_grad()
    def answer(
        self, request: ChatRequest, streamer: Any = None, gone: threading.Event | None = None
    ) -> Reply:
        """Generate the answer to a request.

        Args:
            request: what is wanted.
            streamer: of transformers, which is given the tokens as they come.
            gone: is set when nobody waits for the answer any more.

        Raises:
            VlmHeadsError: what the processor, `Decoding` or `attach` refuses.
        """
        captioner = self.captioner
        model, tokenizer = captioner.model, captioner.processor.tokenizer
        inputs = chat_inputs(model, captioner.processor, [request.messages])

        def ended(ids: Tensor, scores: Any, **_: Any) -> Tensor:
            over = self.stopping.is_set() or (gone is not None and gone.is_set())
            return torch.full((len(ids),), over, device=ids.device)

        generate: dict[str, Any] = {**request.generate, "stopping_criteria": [ended]}
        if request.stop:
            generate["stop_strings"] = list(request.stop)
        if request.top is not None:
            generate |= {"output_logits": True, "return_dict_in_generate": True}
        if streamer is not None:
            generate["streamer"] = streamer
        decoding = Decoding.of(model, tokenizer, generate)
        attached = attach(model, captioner.plugins) if captioner.plugins else nullcontext()
        with attached, _seeded(request.seed):
            output = model.generate(**inputs, **decoding.arguments)
        sequences = output if isinstance(output, Tensor) else output.sequences
        start = inputs["input_ids"].shape[1]
        row = sequences[0, start:].tolist()
        ids, at_limit = decoding.read(row)
        text = captioner.processor.batch_decode([ids], skip_special_tokens=True)[0].strip()
        return Reply(
            _before(text, request.stop),
            len(ids),
            start,
            at_limit,
            None
            if request.top is None
            else [
                _entry(tokenizer, token, logits[0], request.top)
                for token, logits in zip(row[: len(ids) + 1], output.logits, strict=False)
            ],
        )


@contextmanager
def _seeded(seed: int | None) -> Iterator[None]:
    """Draw from a seed of the request's own, and leave the state of other draws alone."""
    if seed is None:
        yield
        return
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        yield


def _before(text: str, stops: Sequence[str]) -> str:
    """Return a text up to the first stop text in it."""
    places = [place for stop in stops if (place := text.find(stop)) >= 0]
    return text[: min(places)].rstrip() if places else text


def _entry(tokenizer: Any, token: int, logits: Tensor, top: int) -> dict[str, Any]:
    """Return what the model gave a token [V], and the likeliest ones, before any sampling."""
    log = logits.float().log_softmax(dim=-1)
    best = log.topk(min(top, len(log)))
    about = _one(tokenizer, token, float(log[token]))
    listed = zip(best.indices.tolist(), best.values.tolist(), strict=True)
    return about | {"top_logprobs": [_one(tokenizer, other, value) for other, value in listed]}


def _one(tokenizer: Any, token: int, value: float) -> dict[str, Any]:
    text = tokenizer.decode([token])
    # JSON knows no infinity; -9999 is what vLLM writes for a token that is ruled out.
    return {"token": text, "logprob": max(value, -9999.0), "bytes": list(text.encode("utf-8"))}

"""The model that lmms-eval asks: a Captioner under its plugins."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from typing import Any, NoReturn

from lmms_eval.api.instance import GenerationResult, TokenCounts
from lmms_eval.api.model import lmms
from tqdm import tqdm

from vlmheads.caption import Captioner
from vlmheads.errors import VlmHeadsError
from vlmheads.images import load_image
from vlmheads.jobs.processes import launched, own_device
from vlmheads.model.inputs import chat_inputs
from vlmheads.recommended import AUTO
from vlmheads_lmms.settings import chosen, generate_options


class Model(lmms):  # type: ignore[misc]  # lmms-eval takes subclasses of its own class alone
    """A vision-language model with plugins, for `lmms-eval --model vlmheads`.

    Args:
        pretrained: as `vlmheads caption --model`: a packaged model, a folder, or a hub id.
        plugins: "auto", "none" for the plain model, or as `--plugin`; several are separated by ";".
        batch_size: requests per generation.
        max_batch_size: lmms-eval passes it to every model; not used, since the size is fixed.
        device: such as "cuda:0"; by default an accelerator per process where there is one.
        loading: further options of loading, such as `dtype`; see `load_model`.

    Raises:
        VlmHeadsError: what `Captioner.from_pretrained` refuses, or a batch size below 1.
    """

    is_simple = False  # requests are conversations

    def __init__(
        self,
        pretrained: str = "embedded",
        plugins: str = AUTO,
        batch_size: int | str = 1,
        max_batch_size: int | None = None,
        device: str | None = None,
        **loading: Any,
    ) -> None:
        super().__init__()
        if not str(batch_size).isdecimal() or int(batch_size) < 1:
            raise VlmHeadsError(f"batch_size={batch_size!r}", "a whole number from 1")
        self.batch_size = int(batch_size)
        if "device_map" not in loading:
            device = device or own_device(launched())
        self.captioner = Captioner.from_pretrained(
            pretrained, chosen(plugins), device=device, **loading
        )

    def generate_until(self, requests: Sequence[Any]) -> list[GenerationResult]:
        """Answer conversations with images, in order; consecutive ones of equal settings together.

        Args:
            requests: of lmms-eval: a task's messages and `generation_kwargs`.

        Raises:
            VlmHeadsError: a video or sound, an unknown setting, or what the captioner refuses.
        """
        found: list[GenerationResult] = []
        shown = tqdm(total=len(requests), disable=self.rank != 0, desc="Answers")
        for settings, same in groupby(requests, key=lambda request: request.args[2]):
            options, stops = generate_options(settings)
            alike = list(same)
            for start in range(0, len(alike), self.batch_size):
                batch = alike[start : start + self.batch_size]
                found += self._answers([self._chat(request) for request in batch], options, stops)
                shown.update(len(batch))
        shown.close()
        return found

    def loglikelihood(self, requests: Sequence[Any]) -> NoReturn:
        """Refuse tasks that compare likelihoods."""
        raise VlmHeadsError(
            "a task of lmms-eval with likelihoods (loglikelihood)",
            "a task whose answer is generated (output_type: generate_until)",
        )

    def generate_until_multi_round(self, requests: Sequence[Any]) -> NoReturn:
        """Refuse tasks that ask again after an answer."""
        raise VlmHeadsError(
            "a task of lmms-eval in several rounds (generate_until_multi_round)",
            "a task of one answer (output_type: generate_until)",
        )

    def _chat(self, request: Any) -> list[dict[str, Any]]:
        """Return the messages of a request, with Pillow images."""
        _, messages, _, document, task, split = request.args
        said = messages(self.task_dict[task][split][document])
        return [
            {"role": one["role"], "content": [_part(part, task) for part in one["content"]]}
            for one in said
        ]

    def _answers(
        self, chats: list[list[dict[str, Any]]], options: dict[str, Any], stops: Sequence[str]
    ) -> Iterator[GenerationResult]:
        captioner = self.captioner
        inputs = chat_inputs(captioner.model, captioner.processor, chats)
        for caption in captioner.generate(inputs, **options):
            text = caption.text
            for stop in stops:
                text = text.partition(stop)[0]
            yield GenerationResult(text, TokenCounts(output_tokens=caption.tokens))


def _part(part: Mapping[str, Any], task: str) -> dict[str, Any]:
    """Return a part of a message of lmms-eval as chat templates know it."""
    if part["type"] == "text":
        return {"type": "text", "text": part["text"]}
    if part["type"] != "image":
        raise VlmHeadsError(f"{part['type']} in the task {task}", "a task of texts and images")
    return {"type": "image", "image": load_image(part["url"])}

"""Predictions of a model behind an OpenAI-compatible server."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

from vlmheads.endpoint.answers import Failure
from vlmheads.endpoint.client import Client, Question
from vlmheads.endpoint.images import read_data_url
from vlmheads.endpoint.probe import Server
from vlmheads.errors import VlmHeadsError
from vlmheads_eval.data import Sample


@dataclass(frozen=True)
class Served:
    """A served model that answers samples, several at a time.

    Args:
        client: the connection.
        max_new_tokens: the token limit of an answer.
    """

    client: Client
    max_new_tokens: int

    def answers(self, samples: Sequence[Sample]) -> Iterator[tuple[Sample, Mapping[str, Any]]]:
        """Yield samples with the fields of their records, as answers come: text, or an error.

        Raises:
            VlmHeadsError: a server that no sample is answered by any more.
        """
        questions = (
            Question(sample, sample.prompt, _image(sample), self.max_new_tokens)
            for sample in samples
        )
        with closing(self.client.ask(questions)) as asked:
            for question, found in asked:
                sample = question.key
                if isinstance(found, Failure):
                    yield sample, {"error": " ".join(str(found.error).split())}
                    continue
                about = {"tokens": found.tokens, "at_limit": found.at_limit}
                yield sample, {sample.answer_field: found.text, **about}


def about_server(server: Server, fields: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a run's config says of a served model.

    Args:
        server: what the probe found.
        fields: further fields of each request.
    """
    return {
        "model": server.model,
        "server": server.to_dict(),
        "request_fields": dict(fields),
        "versions": {name: version(name) for name in ("vlmheads", "openai", "pillow")},
    }


def _image(sample: Sample) -> str | VlmHeadsError | None:
    try:
        return read_data_url(sample.image) if sample.shown else None
    except VlmHeadsError as error:
        return error

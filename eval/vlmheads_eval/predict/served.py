"""Predictions of a model behind an OpenAI-compatible server."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from vlmheads.endpoint.answers import Failure
from vlmheads.endpoint.client import Client, Question, connected
from vlmheads.endpoint.images import read_data_url
from vlmheads.endpoint.probe import probe
from vlmheads.endpoint.settings import Endpoint
from vlmheads.errors import VlmHeadsError
from vlmheads.jobs.processes import Processes
from vlmheads.printable import one_line
from vlmheads_eval.data import Sample
from vlmheads_eval.predict.fingerprint import image_digest
from vlmheads_eval.records import read_records
from vlmheads_eval.run_folder import PREDICTIONS


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
                about: dict[str, Any] = image_digest(sample.image)
                if isinstance(found, Failure):
                    yield sample, {"error": one_line(found.error), **about}
                    continue
                about |= {"tokens": found.tokens, "at_limit": found.at_limit}
                yield sample, {sample.answer_field: found.text, **about}


@contextmanager
def only_client(endpoint: Endpoint, processes: Processes) -> Iterator[Client]:
    """Open the connection of a job of one process.

    Raises:
        VlmHeadsError: several processes, which a server has no use for.
    """
    if processes.num_processes > 1:
        raise VlmHeadsError(
            f"{processes.num_processes} processes with --endpoint", "one, with --concurrency"
        )
    with connected(endpoint) as client:
        yield client


def about_server(client: Client) -> dict[str, Any]:
    """Return what a run's config says of a served model, after asking the server.

    Raises:
        VlmHeadsError: what `probe` refuses.
    """
    return {
        "server": probe(client).to_dict(),
        "request_fields": dict(client.endpoint.fields),
        "versions": {name: version(name) for name in ("vlmheads", "openai", "pillow")},
    }


def empty_and_cut(run: Path, samples: Sequence[Sample], limit: int) -> str:
    """Say in one line how many answers of a run are empty or were cut; "" for none."""
    field = {sample.key: sample.answer_field for sample in samples}
    empty = cut = 0
    for _, record in read_records(run / PREDICTIONS):
        empty += record.get(field.get(record["sample"], "")) == ""
        cut += record.get("at_limit") is True
    parts = [f"{empty} answers are empty"] * (empty > 0)
    parts += [f"{cut} were cut at {limit} tokens"] * (cut > 0)
    return " and ".join(parts)


def _image(sample: Sample) -> str | VlmHeadsError | None:
    try:
        return read_data_url(sample.image) if sample.shown else None
    except VlmHeadsError as error:
        return error

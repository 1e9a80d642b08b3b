"""What a server is: the model that it serves, whether it takes images, and what it returns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from PIL import Image

from vlmheads.endpoint.answers import Answer, Failure
from vlmheads.endpoint.client import Client, Question
from vlmheads.endpoint.images import data_url_of
from vlmheads.errors import VlmHeadsError
from vlmheads.printable import in_short

TOP = 20  # the most that OpenAI, and vLLM unless told otherwise, list for a token
LOGPROBS: Mapping[str, Any] = {"logprobs": True, "top_logprobs": TOP}
_PROMPT = "Describe the image."
_SIDE = 224
# What a server says of a model that stays the same from one list to the next.
_LISTED = ("id", "owned_by", "root", "parent", "max_model_len")
_SHOWN = 10


@dataclass(frozen=True)
class Server:
    """What is known of a server, for a run's fingerprint.

    Args:
        url: its base URL.
        model: the name that was asked for.
        listed: what its list says of the model; None where it has no list.
        answered: what it calls the model in its answers.
        system_fingerprint: what it says of its own version, None where it says nothing.
        logprobs: whether log-probabilities of likely tokens come back.
    """

    url: str
    model: str
    listed: dict[str, Any] | None
    answered: str
    system_fingerprint: str | None
    logprobs: bool

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as plain values."""
        return asdict(self)


def probe(client: Client) -> Server:
    """Ask a server for its models, and for one token with and without an image.

    Raises:
        VlmHeadsError: it cannot be reached, has no such model, or the model takes no images.
    """
    endpoint = client.endpoint
    listed, names = _listed(client)
    image = data_url_of(Image.linear_gradient("L").resize((_SIDE, _SIDE)).convert("RGB"))
    answer = _one_token(client, image, LOGPROBS)
    if isinstance(answer, Failure) and answer.status in (400, 422):  # perhaps for the logprobs
        answer = _one_token(client, image, {})
    if isinstance(answer, Failure) and not answer.refused:
        if names and endpoint.model not in names and answer.status not in (401, 403):
            raise _not_listed(client, names)
        if answer.fatal or answer.status not in (400, 422, 500, 501):
            raise answer.error
        without = _one_token(client, None, {})
        if isinstance(without, Failure):
            raise answer.error
        raise VlmHeadsError(
            f"{endpoint.url} answers {endpoint.model} without an image, and not with one "
            f"({in_short(answer.error.seen)})",
            "a model that takes images",
        )
    if isinstance(answer, Failure):  # it declines to describe a gradient, and so it saw one
        return Server(endpoint.url, endpoint.model, listed, "", None, False)
    without = _one_token(client, None, {})
    if isinstance(without, Answer) and _ignores(answer, without):
        raise VlmHeadsError(
            f"{endpoint.url} leaves the image out: {endpoint.model} reads "
            f"{answer.prompt_tokens} tokens with it and {without.prompt_tokens} without",
            "a model that takes images",
        )
    top = (answer.first or {}).get("top_logprobs")
    return Server(
        endpoint.url,
        endpoint.model,
        listed,
        answer.model,
        answer.system_fingerprint,
        bool(top),
    )


def _one_token(client: Client, image: str | None, fields: Mapping[str, Any]) -> Answer | Failure:
    found = client.one(Question(None, _PROMPT, image, 1, fields))
    if isinstance(found, Failure) and "max_completion_tokens" in str(found.error):
        client.limit_field = "max_completion_tokens"
        found = client.one(Question(None, _PROMPT, image, 1, fields))
    return found


def _listed(client: Client) -> tuple[dict[str, Any] | None, list[str]]:
    """Return what the server's list says of the model, None for nothing, and all names in it."""
    found = client.get_models()
    if isinstance(found, Failure):
        if found.status in (404, 405, 501):
            return None, []
        raise found.error
    entries = [one.model_dump() for one in found if hasattr(one, "model_dump")]
    names = [str(entry.get("id")) for entry in entries]
    if client.endpoint.model not in names:  # some servers load what is not in their list
        return None, names
    entry = entries[names.index(client.endpoint.model)]
    return {name: entry[name] for name in _LISTED if entry.get(name) is not None}, names


def _not_listed(client: Client, names: Sequence[str]) -> VlmHeadsError:
    shown = ", ".join(in_short(name) for name in names[:_SHOWN])
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return VlmHeadsError(
        f"{client.endpoint.url} serves no model {client.endpoint.model!r}",
        f"one that it lists: {shown}{more}",
        "name it with --model",
    )


def _ignores(answer: Answer, without: Answer) -> bool:
    """Whether the prompt is no longer with an image than without."""
    if not answer.prompt_tokens or not without.prompt_tokens:
        return False
    return answer.prompt_tokens <= without.prompt_tokens

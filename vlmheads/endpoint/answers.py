"""What a server said: an answer, or in one line why there is none."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from vlmheads.errors import VlmHeadsError
from vlmheads.printable import in_short

if TYPE_CHECKING:
    from vlmheads.endpoint.settings import Endpoint

# Statuses that no other request would fare better with: the key, the right to use it, the address
# or the name of the model.
FATAL = (401, 403, 404, 405)


@dataclass(frozen=True)
class Answer:
    """What a served model answered.

    Args:
        text: the answer; "" where it said nothing.
        tokens: how many the server counts, None where it does not.
        at_limit: whether the limit on new tokens ended it.
        first: the log-probabilities of the first token, as the server gave them.
        prompt: those of the prompt's tokens, where they were asked for and the server has them.
        prompt_tokens: how many tokens the prompt had, its image among them.
        model: what the server calls the model that answered.
        system_fingerprint: what it says of its own version.
    """

    text: str
    tokens: int | None
    at_limit: bool
    first: Mapping[str, Any] | None = None
    prompt: tuple[Any, ...] | None = None
    prompt_tokens: int | None = None
    model: str = ""
    system_fingerprint: str | None = None


@dataclass(frozen=True)
class Failure:
    """Why a question has no answer.

    Args:
        error: in one line.
        refused: whether the server or model declined to answer this question, and is fine.
        fatal: whether no other question would be answered either.
        status: of the response, None where there was none.
    """

    error: VlmHeadsError
    refused: bool = False
    fatal: bool = False
    status: int | None = None


def read_completion(completion: Any, about: str) -> Answer | Failure:
    """Read a response of `chat.completions.create`.

    Args:
        completion: what the openai package made of the body; anything, where a server misbehaves.
        about: which server and model, for errors.
    """
    choices: Any = getattr(completion, "choices", None)
    choice = choices[0] if isinstance(choices, list) and choices else None
    message = getattr(choice, "message", None)
    if message is None:
        return Failure(
            VlmHeadsError(f"{about} answered without a message", "an OpenAI-compatible server")
        )
    reason = getattr(choice, "finish_reason", None)
    refusal = getattr(message, "refusal", None)
    if refusal or reason == "content_filter":
        why = f"refusal: {in_short(refusal)}" if refusal else "content_filter"
        return Failure(VlmHeadsError(f"{about} refused to answer ({why})"), refused=True)
    text = message.content
    if text is None:
        text = ""
    if not isinstance(text, str):
        return Failure(VlmHeadsError(f"{about} answered with a {type(text).__name__}", "text"))
    if not _is_utf8(text):
        return Failure(VlmHeadsError(f"{about} answered with text that is not UTF-8"), refused=True)
    usage = completion.usage
    listed = getattr(getattr(choice, "logprobs", None), "content", None)
    extra = completion.model_extra or {}
    given = extra.get("prompt_logprobs")
    return Answer(
        text.strip(),
        getattr(usage, "completion_tokens", None),
        reason == "length",
        listed[0].model_dump() if listed else None,
        tuple(given) if isinstance(given, list) else None,
        getattr(usage, "prompt_tokens", None),
        str(completion.model or ""),
        getattr(completion, "system_fingerprint", None) or None,
    )


def read_error(error: Exception, endpoint: Endpoint) -> Failure:
    """Say in one line why a request failed.

    Args:
        error: what the openai package raised, or the reading of what a server sent.
        endpoint: which one; its key is taken out of what the server says.
    """
    import openai

    def short(what: object) -> str:
        """Return it in short, without the key, of which the cut must not leave a part."""
        key = endpoint.key
        return in_short(str(what).replace(key, "***") if key and key in str(what) else what)

    about = f"{endpoint.url} ({endpoint.model})"
    status: int | None = None
    todo = ""
    if isinstance(error, openai.APITimeoutError):
        said = f"gave no answer within {endpoint.timeout:g} s"
        todo = "raise --timeout, or lower --concurrency"
    elif isinstance(error, openai.APIConnectionError):
        said = f"cannot be reached or broke off ({short(error.__cause__ or error)})"
    elif isinstance(error, openai.APIStatusError):
        status = error.status_code
        said = f"answered {status}: {short(_said_by_server(error))}"
        todo = _todo(status, endpoint)
    elif isinstance(error, UnicodeError):
        said = "answered with bytes that are not UTF-8"
    else:
        said = f"answered with something that cannot be read ({short(error)})"
    return Failure(
        VlmHeadsError(f"{about} {said}", todo=todo), fatal=status in FATAL, status=status
    )


def _todo(status: int, endpoint: Endpoint) -> str:
    variable = endpoint.key_variable or "OPENAI_API_KEY"
    if status in (401, 403):
        return f"put the key into the environment variable {variable}"
    if status in (404, 405):
        return "check the URL, which mostly ends in /v1, and the name of the model"
    return ""


def _said_by_server(error: Any) -> object:
    """Return the message in the body of an error, in whichever place servers put it."""
    body = error.body
    for name in ("error", "message", "detail"):
        while isinstance(body, Mapping) and name in body:
            body = body[name]
    if body is None:
        body = error.response.reason_phrase
    return body


def _is_utf8(text: str) -> bool:
    """Whether a text can be written down: JSON may hold half of a surrogate pair."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True

"""Requests as clients send them: read as a whole, or refused with the field that is wrong."""

from __future__ import annotations

import re
from base64 import b64decode
from binascii import Error as Base64Error
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from PIL import Image

from vlmheads.errors import VlmHeadsError
from vlmheads.images import decode_image, image_size

MAX_BYTES = 20 * 1024 * 1024  # of an image file
MAX_PIXELS = 40_000_000
MAX_IMAGES, MAX_MESSAGES, MAX_STOPS, MAX_TOP = 8, 64, 16, 20
DEFAULT_TOKENS = 512
_DATA_URL = re.compile(r"data:image/[\w.+-]+;base64,")
_ROLES = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant"}

# Fields that are about the client's own affairs, and change no answer.
IGNORED = frozenset(
    """user metadata store service_tier safety_identifier prompt_cache_key
    prompt_cache_retention parallel_tool_calls""".split()
)
# Fields that are read only where they ask for what happens anyway.
NEUTRAL: Mapping[str, tuple[Any, ...]] = {
    "n": (1,),
    "presence_penalty": (0,),
    "frequency_penalty": (0,),
    "logit_bias": ({},),
    "response_format": ({"type": "text"},),
    "tools": ([],),
    "tool_choice": ("none", "auto"),
    "modalities": (["text"],),
}


class RequestError(Exception):
    """What a client is told is wrong with its request.

    Args:
        message: in one line.
        field: the field that it is about.
        status: of the response.
        code: a word for programs.
    """

    def __init__(
        self, message: str, field: str | None = None, status: int = 400, code: str | None = None
    ) -> None:
        super().__init__(message)
        self.message, self.field, self.status, self.code = message, field, status, code

    def to_dict(self) -> dict[str, Any]:
        """Return the body of the response, as OpenAI's is."""
        kind = "invalid_request_error" if self.status < 500 else "server_error"
        about = {"message": self.message, "type": kind, "param": self.field, "code": self.code}
        return {"error": about}


@dataclass(frozen=True)
class ChatRequest:
    """What a client wants.

    Args:
        messages: the conversation, images as Pillow images.
        generate: arguments of `model.generate`.
        stop: texts that end the answer and are no part of it.
        seed: of random draws.
        stream: whether the answer is sent as it is made.
        usage: whether a stream ends with the number of tokens.
        top: how many likely tokens are listed for each token; None for no log-probabilities.
    """

    messages: list[dict[str, Any]]
    generate: dict[str, Any]
    stop: tuple[str, ...] = ()
    seed: int | None = None
    stream: bool = False
    usage: bool = False
    top: int | None = None


def read_request(body: Mapping[str, Any], model: str, limit: int) -> ChatRequest:
    """Read the body of a request.

    Args:
        body: the fields; one that is null counts as left out.
        model: the name of the model that is served.
        limit: new tokens at most.

    Raises:
        RequestError: another model, a field that is unknown or has another form, or an image that
            cannot be read.
    """
    fields = {name: value for name, value in body.items() if value is not None}
    fields = {name: value for name, value in fields.items() if name not in IGNORED}
    for name, accepted in NEUTRAL.items():
        value = fields.pop(name, accepted[0])
        if not any(value == one and not isinstance(value, bool) for one in accepted):
            raise RequestError(f"{name} is not supported", name)
    take = _Taker(fields)
    asked = take("model", str, lambda name: bool(name), "the name of the model")
    if asked != model:
        raise RequestError(
            f"no model {str(asked)[:100]!r}; it is called {model!r}",
            "model",
            404,
            "model_not_found",
        )
    messages = _messages(fields.pop("messages", None))
    whole = "a whole number"
    tokens = [
        take(name, int, lambda n: 1 <= n <= limit, f"{whole} from 1 to {limit}")
        for name in ("max_completion_tokens", "max_tokens")
    ]
    generate: dict[str, Any] = {
        "max_new_tokens": next((n for n in tokens if n is not None), min(DEFAULT_TOKENS, limit))
    }
    generate |= _sampling(take)
    penalty = take("repetition_penalty", float, lambda x: 0 < x <= 10, "a number above 0")
    generate |= {} if penalty is None else {"repetition_penalty": penalty}
    seed = take("seed", int, lambda n: -(2**63) <= n < 2**63, whole)
    stop = fields.pop("stop", [])
    stop = [stop] if isinstance(stop, str) else stop
    if not _is_list(stop, MAX_STOPS) or not all(isinstance(s, str) and s for s in stop):
        raise RequestError(f"stop is not a text or a list of up to {MAX_STOPS} texts", "stop")
    stream = bool(take("stream", bool, lambda _: True, "true or false"))
    options = fields.pop("stream_options", {})
    if not isinstance(options, Mapping) or options.keys() - {"include_usage"}:
        raise RequestError('stream_options is not {"include_usage": true}', "stream_options")
    listed = bool(take("logprobs", bool, lambda _: True, "true or false"))
    top = take("top_logprobs", int, lambda n: 0 <= n <= MAX_TOP, f"{whole} from 0 to {MAX_TOP}")
    if top is not None and not listed:
        raise RequestError("top_logprobs without logprobs", "top_logprobs")
    if listed and stream:
        raise RequestError("logprobs are not supported in a stream", "logprobs")
    if fields:
        name = min(fields)[:100]
        raise RequestError(f"unknown field {name!r}", name)
    return ChatRequest(
        messages,
        generate,
        tuple(stop),
        seed,
        stream,
        bool(options.get("include_usage")),
        (top or 0) if listed else None,
    )


@dataclass(frozen=True)
class _Taker:
    """Takes fields out of a request, and refuses those of another form."""

    fields: dict[str, Any]

    def __call__(self, name: str, kind: type, fits: Callable[[Any], bool], expected: str) -> Any:
        value = self.fields.pop(name, None)
        if value is None:
            return None
        if kind is float and isinstance(value, int) and not isinstance(value, bool):
            value = float(value) if abs(value) < 2**63 else value
        if type(value) is not kind or not fits(value):
            raise RequestError(f"{name} is not {expected}", name)
        return value


def _sampling(take: _Taker) -> dict[str, Any]:
    """Return how tokens are drawn: greedily unless a temperature above 0 is given."""
    temperature = take("temperature", float, lambda x: 0 <= x <= 2, "a number from 0 to 2")
    top_p = take("top_p", float, lambda x: 0 < x <= 1, "a number above 0, up to 1")
    top_k = take("top_k", int, lambda n: -1 <= n < 2**31, "a whole number")
    if not temperature:
        return {"do_sample": False}
    return {
        "do_sample": True,
        "temperature": temperature,
        "top_p": 1.0 if top_p is None else top_p,
        "top_k": max(top_k or 0, 0),
    }


def _messages(given: Any) -> list[dict[str, Any]]:
    if not _is_list(given, MAX_MESSAGES) or not given:
        raise RequestError(f"messages is not a list of 1 to {MAX_MESSAGES} messages", "messages")
    messages, images = [], 0
    for number, message in enumerate(given):
        place = f"messages[{number}]"
        role = _ROLES.get(str(message.get("role"))) if isinstance(message, Mapping) else None
        if role is None:
            raise RequestError(f"{place}.role is not one of {', '.join(_ROLES)}", place)
        if unknown := sorted(message.keys() - {"role", "content", "name"}):
            raise RequestError(f"{place} with the unknown field {unknown[0][:100]!r}", place)
        content = message.get("content")
        parts = [{"type": "text", "text": content}] if isinstance(content, str) else content
        if not isinstance(parts, Sequence) or not parts:
            raise RequestError(f"{place}.content is neither text nor a list of parts", place)
        read = [_part(part, f"{place}.content[{at}]") for at, part in enumerate(parts)]
        images += sum(part["type"] == "image" for part in read)
        if images > MAX_IMAGES:
            raise RequestError(f"more than {MAX_IMAGES} images", place)
        messages.append({"role": role, "content": read})
    if messages[-1]["role"] == "assistant":
        raise RequestError("the last message is the assistant's; there is nothing to answer", place)
    return messages


def _part(part: Any, place: str) -> dict[str, Any]:
    kind = part.get("type") if isinstance(part, Mapping) else None
    if kind == "text" and isinstance(part.get("text"), str):
        return {"type": "text", "text": part["text"]}
    if kind == "image_url":
        url = part.get("image_url")
        url = url.get("url") if isinstance(url, Mapping) else url
        return {"type": "image", "image": _image(url, place)}
    raise RequestError(f"{place} is neither a text nor an image_url", place)


def _image(url: Any, place: str) -> Image.Image:
    """Return the image in a data URL; no other address is opened for a client."""
    head = _DATA_URL.match(url[:100]) if isinstance(url, str) else None
    if head is None:
        raise RequestError(
            f"{place} is not a data URL (data:image/png;base64,...); nothing is fetched", place
        )
    try:
        content = b64decode(url[head.end() :], validate=True)
    except (Base64Error, ValueError) as error:
        raise RequestError(f"{place} is not base64", place) from error
    if len(content) > MAX_BYTES:
        raise RequestError(f"{place} is larger than {MAX_BYTES // 2**20} MB", place, 413)
    width, height = image_size(content)
    if width * height > MAX_PIXELS:
        millions = MAX_PIXELS // 10**6
        raise RequestError(f"{place} has more than {millions} million pixels", place, 413)
    try:
        return decode_image(content, place)
    except VlmHeadsError as error:
        raise RequestError(" ".join(str(error).split()), place) from error


def _is_list(value: Any, most: int) -> bool:
    return isinstance(value, list) and len(value) <= most

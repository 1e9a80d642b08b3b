"""Where a served model is, and the manners of asking it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from vlmheads.errors import VlmHeadsError

KEY_VARIABLE = "OPENAI_API_KEY"
LOOPBACK = ("localhost", "127.0.0.1", "::1")
# Fields of a request that are options of their own, or that decide how answers are read.
_OWN = frozenset(
    """model messages max_tokens max_completion_tokens temperature logprobs top_logprobs
    stream stream_options n""".split()
)


@dataclass(frozen=True)
class Endpoint:
    """An OpenAI-compatible server and one of its models.

    The key is read from the environment when a connection is made, and is kept nowhere else.

    Args:
        url: the base URL, such as "http://localhost:8000/v1".
        model: the name under which the server lists the model.
        key_variable: the environment variable that holds the key; None for OPENAI_API_KEY, where
            that is set.
        concurrency: requests in flight at most.
        timeout: seconds that the server may be silent.
        retries: further tries of a request that failed by no fault of its own.
        per_minute: requests started a minute at most; None for no limit.
        fields: further fields of each request, such as {"repetition_penalty": 1.1}.

    Raises:
        VlmHeadsError: a URL that is none or holds a key, a variable that is not set, or a field
            that has an option of its own.
    """

    url: str
    model: str
    key_variable: str | None = None
    concurrency: int = 8
    timeout: float = 600.0
    retries: int = 5
    per_minute: float | None = None
    fields: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        expected = "such as http://localhost:8000/v1"
        try:
            parts = urlsplit(self.url)
            valid = parts.scheme in ("http", "https") and bool(parts.hostname)
            valid &= parts.port is None or parts.port > 0
        except ValueError:
            valid = False
        if not valid or any(sign.isspace() or not sign.isprintable() for sign in self.url):
            raise VlmHeadsError(f"endpoint {self.url.rpartition('@')[2]!r} is no URL", expected)
        if parts.username or parts.password or parts.query or parts.fragment:
            raise VlmHeadsError(
                f"endpoint {parts.scheme}://{parts.hostname}... with a password, query or fragment",
                expected,
                f"put a key into the environment variable {KEY_VARIABLE}",
            )
        if taken := sorted(_OWN & self.fields.keys()):
            raise VlmHeadsError(
                f"request field {taken[0]!r}", "a field that the evaluation does not set itself"
            )
        if self.key_variable is not None and not os.environ.get(self.key_variable):
            raise VlmHeadsError(
                f"the environment variable {self.key_variable} is not set", "the key in it"
            )

    @property
    def key(self) -> str | None:
        """The key, from the environment; None where there is none, as for most local servers."""
        return os.environ.get(self.key_variable or KEY_VARIABLE) or None

    @property
    def loopback(self) -> bool:
        """Whether the server is on this machine, where no proxy leads."""
        return urlsplit(self.url).hostname in LOOPBACK

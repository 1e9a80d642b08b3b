"""Options of commands that ask a served model in place of one that is loaded here."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from vlmheads.errors import VlmHeadsError

if TYPE_CHECKING:
    from vlmheads.endpoint.settings import Endpoint

_OF_ENDPOINTS = (
    "concurrency",
    "timeout",
    "retries",
    "per_minute",
    "key_variable",
    "request_fields",
)


def endpoint_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add --endpoint and what goes with it; `endpoint_of` reads them."""
    for option in (
        click.option(
            "--request-fields",
            metavar="JSON",
            help="--endpoint: further fields of each request, such as "
            """'{"chat_template_kwargs": {"enable_thinking": false}}'.""",
        ),
        click.option(
            "--key-variable",
            metavar="NAME",
            help="--endpoint: the environment variable that holds the key. [default: "
            "OPENAI_API_KEY, where it is set]",
        ),
        click.option(
            "--per-minute",
            type=click.FloatRange(min=0, min_open=True),
            help="--endpoint: the most requests to start per minute. [default: no limit]",
        ),
        click.option(
            "--retries",
            default=5,
            show_default=True,
            type=click.IntRange(0, 100),
            help="--endpoint: how often to retry a request that failed on the server.",
        ),
        click.option(
            "--timeout",
            default=600.0,
            show_default=True,
            type=click.FloatRange(min=0, min_open=True),
            help="--endpoint: seconds to wait for an answer.",
        ),
        click.option(
            "--concurrency",
            default=8,
            show_default=True,
            type=click.IntRange(1, 1024),
            help="--endpoint: the most requests in flight.",
        ),
        click.option(
            "--endpoint",
            metavar="URL",
            help="Ask a model behind an OpenAI-compatible server, such as "
            "http://localhost:8000/v1, in place of one loaded here; --model is its name there.",
        ),
    ):
        command = option(command)
    return command


def endpoint_of(options: dict[str, Any], local: Collection[str]) -> Endpoint | None:
    """Take the options of endpoints out of a command's options; None for a local model.

    Args:
        options: of the command that runs, by parameter name.
        local: parameters that only a model loaded here has.

    Raises:
        VlmHeadsError: an option that would have no effect, or one that cannot be.
    """
    from vlmheads.endpoint.settings import Endpoint

    url = options.pop("endpoint")
    found = {name: options.pop(name) for name in _OF_ENDPOINTS}
    if url is None:
        for name in _OF_ENDPOINTS:
            if said(name):
                raise VlmHeadsError(f"{flag(name)} without --endpoint", "a served model")
        return None
    for name in local:
        if said(name):
            raise VlmHeadsError(
                f"{flag(name)} with --endpoint",
                "a model loaded here: on a served one it would have no effect",
                "leave it out, or serve the model so: docs/serving.md",
            )
    if not said("model"):
        raise VlmHeadsError("--endpoint without --model", "the name under which it is served")
    fields = _json_object(found.pop("request_fields"))
    return Endpoint(url.rstrip("/"), options["model"], fields=fields, **found)


def said(name: str) -> bool:
    """Whether the user gave a parameter of the command that runs."""
    source = click.get_current_context().get_parameter_source(name)
    return source not in (None, ParameterSource.DEFAULT, ParameterSource.DEFAULT_MAP)


def flag(name: str) -> str:
    """Return a parameter of the command that runs as it is written on the command line."""
    parameters = click.get_current_context().command.params
    return next(max(one.opts, key=len) for one in parameters if one.name == name)


def _json_object(text: str | None) -> dict[str, Any]:
    if text is None:
        return {}
    try:
        fields = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise VlmHeadsError(f"--request-fields is not JSON ({error})", "a JSON object") from error
    if not isinstance(fields, dict):
        raise VlmHeadsError(f"--request-fields is a {type(fields).__name__}", "a JSON object")
    return fields

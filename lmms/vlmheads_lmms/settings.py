"""What model arguments and a task's settings mean to a Captioner."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from vlmheads.errors import VlmHeadsError

# What a task gets that sets no limit, as with lmms-eval's own models of transformers.
MAX_NEW_TOKENS = 1024
# Settings of tasks that `model.generate` has by the same name.
_PASSED = ("max_new_tokens", "num_beams", "repetition_penalty")
_SAMPLING = ("temperature", "top_p", "top_k")
# Read here, or for the image processor of the original LLaVA, which is not used.
_READ = ("do_sample", "until", "image_aspect_ratio")


def chosen(plugins: str) -> str | list[str]:
    """Return the plugins that a model argument names, for `Captioner`."""
    names = [name.strip() for name in str(plugins).strip("\"'").split(";")]
    return [] if names == ["none"] else names


def generate_options(settings: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """Return what a task's `generation_kwargs` mean: arguments of `generate`, and stop texts.

    As with lmms-eval's own models of transformers, a temperature above 0 is what makes it sample,
    whatever `do_sample` says.

    Raises:
        VlmHeadsError: a setting that is not known here.
    """
    unknown = sorted(settings.keys() - {*_PASSED, *_SAMPLING, *_READ})
    if unknown:
        raise VlmHeadsError(
            f"{', '.join(unknown)} in the generation_kwargs of a task",
            f"of {', '.join((*_PASSED, *_SAMPLING, *_READ))}",
            "leave the task out, or override the setting with a task of your own",
        )
    sampled = (settings.get("temperature") or 0) > 0
    names = (*_PASSED, *_SAMPLING) if sampled else _PASSED
    given = {name: settings[name] for name in names if settings.get(name) is not None}
    until = settings.get("until") or []
    stops = [stop for stop in ([until] if isinstance(until, str) else until) if stop]
    return {"max_new_tokens": MAX_NEW_TOKENS, "do_sample": sampled} | given, stops

"""The chat template of a saved model, tried in another process within bounds."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

from vlmheads.errors import VlmHeadsError
from vlmheads.model.saved import MEGABYTE
from vlmheads.printable import in_short

_LONGEST = MEGABYTE  # Characters, as bytes of a file of its own.
TEMPLATE_SECONDS = 20
_TEMPLATE_MEGABYTES = 4096
# Renders a chat template with bounded memory. It imports what transformers renders templates with,
# and neither torch nor a model.
_TRIAL = """
import json, sys
from transformers.utils.chat_template_utils import render_jinja_template
task = json.load(sys.stdin)
try:
    import resource
    resource.setrlimit(resource.RLIMIT_AS, (task["bytes"], task["bytes"]))
except (ImportError, ValueError, OSError):
    pass
content = [{"type": "image"}, {"type": "text", "text": "Describe the image."}]
chats = [[{"role": "user", "content": content}]]
try:
    (text,), _ = render_jinja_template(
        chats, chat_template=task["template"], add_generation_prompt=True, **task["tokens"]
    )
    problem = "" if len(text) <= task["longest"] else f"it makes {len(text)} characters"
except MemoryError:
    problem = "it runs out of memory"
except Exception as error:
    problem = f"{type(error).__name__}: {error}"
print(json.dumps(problem))
"""


def check_template(processor: Any, name: str) -> None:
    """Try a chat template with one image and one question, within bounds of time and memory.

    Raises:
        VlmHeadsError: there is none, it fails, or it goes beyond the bounds.
    """
    template = getattr(processor, "chat_template", None)
    if isinstance(template, dict):
        template = template.get("default")
    if not template:
        raise VlmHeadsError(
            f"the processor of {name} has no chat template", "a model that follows instructions"
        )
    if len(template) > _LONGEST:
        raise VlmHeadsError(
            f"the chat template of {name} has {len(template):,} characters", f"at most {_LONGEST:,}"
        )
    tokens = {
        key: str(token)
        for key, token in processor.tokenizer.special_tokens_map.items()
        if isinstance(token, str)
    }
    task = {
        "template": template,
        "tokens": tokens,
        "longest": _LONGEST,
        "bytes": _TEMPLATE_MEGABYTES * MEGABYTE,
    }
    try:
        trial = subprocess.run(
            [sys.executable, "-P", "-c", _TRIAL],
            input=json.dumps(task),
            capture_output=True,
            text=True,
            timeout=TEMPLATE_SECONDS,
        )
    except subprocess.TimeoutExpired:
        problem = f"it does not end within {TEMPLATE_SECONDS} seconds"
    else:
        lines = trial.stdout.splitlines() or [json.dumps("its trial ended early")]
        problem = str(json.loads(lines[-1]))
    if problem:
        raise VlmHeadsError(
            f"the chat template of {name} fails ({in_short(problem)})",
            "a template that writes a message with an image and a text",
        )

"""What a judge is asked, and what it says: files of requests and ratings. Nothing is sent."""

import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vlmheads.errors import VlmHeadsError
from vlmheads.output import check_folder, save_text
from vlmheads_eval.records import read_records


@dataclass(frozen=True)
class Request:
    """One question to a judge: the id that its answer is found by, and what fills the template."""

    key: str
    fields: Mapping[str, str]


@dataclass(frozen=True)
class Ratings:
    """What a judge said, and which judge.

    Args:
        texts: request id -> what the judge said.
        judge: the model that the requests name.
        requests: SHA-256 of the file of requests, which holds their wording.
    """

    texts: Mapping[str, str]
    judge: str
    requests: str


def fill(template: str, fields: Mapping[str, str]) -> str:
    """Put fields into a template's {places}; other braces stay as they are."""
    for name in fields:
        if f"{{{name}}}" not in template:
            raise VlmHeadsError(f"a template without {{{name}}}", f"{{{'}, {'.join(fields)}}}")
    places = re.compile("|".join(re.escape(f"{{{name}}}") for name in fields))
    return places.sub(lambda found: fields[found[0][1:-1]], template)


def write_requests(path: Path, requests: Sequence[Request], judge: str, template: str) -> None:
    """Write requests as lines of an OpenAI batch file, which vLLM's run-batch reads as well.

    A file that exists is not overwritten.
    """
    if path.exists():
        raise VlmHeadsError(f"{path} exists", "a new file", "remove it, or choose another --out")
    keys = [request.key for request in requests]
    if len(set(keys)) < len(keys):
        raise VlmHeadsError("two requests of one id", "distinct ids")
    check_folder(path.parent)
    lines = []
    for request in requests:
        message = {"role": "user", "content": fill(template, request.fields)}
        body = {"model": judge, "messages": [message], "temperature": 0}
        line = {
            "custom_id": request.key,
            "method": "POST",
            "url": "/v1/chat/completions",
            "body": body,
        }
        lines.append(json.dumps(line) + "\n")
    save_text(path, "".join(lines))


def read_ratings(path: Path, requests: Path) -> Ratings:
    """Read a judge's answers to requests, in any order.

    Lines are those of an OpenAI batch's output, or {"custom_id" or "id", "rating" or "text"}.

    Raises:
        VlmHeadsError: a request without an answer, one that failed, an answer to none, or twice.
    """
    asked: dict[str, None] = {}
    judges = set()
    for place, record in read_records(requests):
        body = record.get("body")
        key = record.get("custom_id")
        if not isinstance(body, dict) or not isinstance(key, str):
            raise VlmHeadsError(f"{place}: not a request", "a file of `vlmheads eval requests`")
        asked[key] = None
        judges.add(str(body.get("model")))
    if not asked or len(judges) > 1:
        raise VlmHeadsError(
            f"{requests}: {len(asked)} requests to {len(judges)} judges", "one judge"
        )
    texts: dict[str, str] = {}
    for place, key, text in _said(path):
        if key in texts:
            raise VlmHeadsError(f"{place}: {key} again", "one answer per request")
        if key not in asked:
            raise VlmHeadsError(f"{place}: an answer to {key}", f"a request of {requests}")
        texts[key] = text
    missing = [key for key in asked if key not in texts]
    if missing:
        raise VlmHeadsError(
            f"{path}: {len(missing)} of {len(asked)} requests without an answer, as {missing[0]}",
            "one answer per request",
        )
    digest = hashlib.sha256(requests.read_bytes()).hexdigest()
    return Ratings({key: texts[key] for key in asked}, judges.pop(), digest)


def _said(path: Path) -> Iterator[tuple[str, str, str]]:
    for place, record in read_records(path):
        key = next(
            (
                str(record[name])
                for name in ("custom_id", "id")
                if isinstance(record.get(name), str | int)
            ),
            None,
        )
        if key is None:
            raise VlmHeadsError(f"{place}: no custom_id", "the id of a request")
        if record.get("error"):
            raise VlmHeadsError(f"{place}: request {key} failed", "an answer", "ask again")
        text = _text(record)
        if text is None:
            raise VlmHeadsError(f"{place}: no answer", "rating, text or a batch's response")
        yield place, key, text


def _text(record: dict[str, Any]) -> str | None:
    for name in ("rating", "text"):
        if isinstance(record.get(name), str):
            return str(record[name])
    try:
        content = record["response"]["body"]["choices"][0]["message"]["content"]
    except (KeyError, IndexError, TypeError):
        return None
    return content if isinstance(content, str) else None

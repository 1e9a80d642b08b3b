"""`vlmheads caption --endpoint`: captions of a served model, printed or as a job."""

from __future__ import annotations

import sys
from collections.abc import Generator, Iterable, Iterator, Mapping
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from vlmheads.endpoint.captions import Asking, captions
from vlmheads.endpoint.client import Client, connected
from vlmheads.endpoint.images import data_url
from vlmheads.endpoint.probe import Server, probe
from vlmheads.endpoint.settings import Endpoint
from vlmheads.endpoint.words import P_YES, THRESHOLD, WordsAsked, require_signal
from vlmheads.errors import VlmHeadsError
from vlmheads.printable import json_text, one_line, printable

if TYPE_CHECKING:
    from vlmheads.commands.job import Ask
    from vlmheads.jobs.answers import Answered
    from vlmheads.jobs.batches import Picture
    from vlmheads.jobs.inputs import Found


def words_asked(
    *,
    flag: bool,
    drop: bool,
    threshold: float | None,
    scorer: Path | None,
    signal: str | None,
    vocabulary: str | None,
) -> WordsAsked | None:
    """Return how words are scored by the options; None for not at all.

    Raises:
        VlmHeadsError: a threshold or scorer for nothing, or one that cannot be.
    """
    from vlmheads.grounding.scores import Scorer, check_threshold

    if not (flag or drop):
        said: dict[str, Any] = {"threshold": threshold, "scorer": scorer, "signal": signal}
        said |= {"vocabulary": vocabulary}
        if alone := [name for name, value in said.items() if value is not None]:
            raise VlmHeadsError(f"--{alone[0]} alone", "--flag or --drop with it")
        return None
    found = None if scorer is None else Scorer.load(scorer)
    limit = threshold
    if limit is None:
        limit = THRESHOLD if found is None else found.threshold
    check_threshold(limit)
    words = WordsAsked(flag, drop, limit, found, signal or P_YES, vocabulary)
    words.objects("")  # A vocabulary that cannot be is refused before anything is asked.
    return words


def caption_served(
    found: Found, ask: Ask, endpoint: Endpoint, words: WordsAsked | None, *, as_json: bool
) -> None:
    """Caption images over an endpoint; exits with 2 where images failed."""
    from vlmheads.commands.job import finish_job
    from vlmheads.jobs.answers import Stream
    from vlmheads.jobs.processes import OneProcess
    from vlmheads.jobs.run import Work

    with connected(endpoint) as client:
        server = probe(client)
        if words is not None:
            require_signal(client, server, words.signal)
            if words.caveat:
                click.echo(f"note: {words.caveat}", err=True)
        if notice := found.notice():
            click.echo(f"note: {printable(notice)}", err=True)
        asking = Asking(ask.prompt, ask.max_new_tokens, words)

        def answered(pictures: Iterable[Picture]) -> Generator[Answered]:
            yield from captions(client, _with_images(pictures), asking)

        if ask.out is None and ask.kind is None:
            _print(found, ask, client, asking, as_json)
            return
        ask = ask.served_by(identity(server, endpoint))
        ask.check(found)
        about = {} if words is None else {"words": words.settings(), "drop": words.drop}
        work = Work(Stream(answered, data_url), {**ask.settings(), **about})
        finish_job(found, ask, work, OneProcess(), flagged=words is not None and words.flag)


def identity(server: Server, endpoint: Endpoint) -> dict[str, Any]:
    """Return what decides the captions of a served model."""
    return {"server": server.to_dict(), "request_fields": dict(endpoint.fields)}


def _with_images(pictures: Iterable[Picture]) -> Iterator[tuple[Picture, str | VlmHeadsError]]:
    for picture in pictures:
        yield picture, picture.error or picture.image


def _print(found: Found, ask: Ask, client: Client, asking: Asking, as_json: bool) -> None:
    """Print captions in order of input."""
    from itertools import chain

    from vlmheads.commands import show
    from vlmheads.jobs.batches import batches
    from vlmheads.jobs.inputs import items

    source = batches(
        items(found, None, column=ask.plan.column),
        client.endpoint.concurrency,
        workers=ask.plan.workers,
        by_size=False,
        decode=data_url,
    )
    failed = False
    total = len(found.files) + len(found.problems)
    finished: dict[int, tuple[Picture, Mapping[str, Any] | VlmHeadsError]] = {}
    printed = 0
    with closing(source), show.progress(total) as advance:
        numbered = enumerate(chain.from_iterable(source))
        images = (((place, one), one.error or one.image) for place, one in numbered)
        with closing(captions(client, images, asking)) as said:
            for (place, picture), record in said:
                finished[place] = (picture, record)
                advance(1)
                while printed in finished:
                    picture, record = finished.pop(printed)
                    printed += 1
                    failed |= _print_one(picture.item.key, record, ask, asking, as_json)
    if failed:
        sys.exit(2)


def _print_one(
    name: str,
    found: Mapping[str, Any] | VlmHeadsError,
    ask: Ask,
    asking: Asking,
    as_json: bool,
) -> bool:
    """Print what came of an image, and whether that is a failure."""
    from vlmheads.commands import show

    if not isinstance(found, VlmHeadsError) and not found["text"]:
        found = VlmHeadsError(f"{name} got an empty caption", "words")
    if isinstance(found, VlmHeadsError):
        click.echo(f"error: {one_line(found)}", err=True)
        return True
    record: dict[str, Any] = {
        "image": name,
        "caption": found["text"],
        "tokens": found["tokens"],
        "at_limit": found["at_limit"],
    }
    if asking.words is not None:
        record |= {"threshold": asking.words.threshold, "scorer": asking.words.name}
        record |= {key: found[key] for key in ("words", "removed") if key in found}
        if "text_safer" in found:
            record |= {"rewrite": found["text_safer"], "unsupported": False}
    record |= {"prompt": ask.prompt, "plugins": [], "model": found["model"]}
    if as_json:
        click.echo(json_text(record))
    else:
        show.record(record)
    return False
